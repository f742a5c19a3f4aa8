/*
 * Who is let in: accepting connections for the HTTP server, and making room for them.
 *
 * Owns the listening sockets' place in the server's epoll fd; the sockets are the caller's. Connections are
 * accepted here and not by the library, so that it can neither close nor shut down a socket that the
 * postmaster and the next worker share; limits are kept before it spends memory; and running out of
 * descriptors pauses us instead of spinning. What is not accepted waits in the kernel, refused by nobody.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "hserver.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "address.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* Connections that one step accepts from one socket; the others wait for the next. */
#define ACCEPTED_AT_ONCE 64

/* How long nothing is accepted after the process or the system ran out of descriptors or memory. */
#define PAUSE_US 100000

/*
 * When all places are taken, a client that has sent no whole head for so long, or nothing after its last answer,
 * makes room for the next. Not sooner: a request that is on its way to a connection that closes is lost.
 */
#define PATIENCE_US 1000000

/*
 * Some need not be waited for so long, since a client's first message, a head or TLS's hello, travels in one flight,
 * right behind the acknowledgement that connects it. Who has sent nothing may have lost it on the way; it is sent
 * again after 200 ms. Who has sent a little has no more to say. To either comes the time for a round trip or two, and
 * it counts from when the client fell silent or connected, if that was before it was let in: so however many only
 * hold a connection, who comes behind them does not wait for one round of places after the other.
 */
#define MUTE_US 250000
#define TRICKLE_US 100000
#define TRIPS 2

/* A client that has time left is looked at again after so long at most, at whole multiples of the second. */
#define LOOK_US 100000
#define LOOK_STEP_US 10000

/* ---- one connection ------------------------------------------------------------------------------- */

static bool
is_over_its_share(const KtHttpd *httpd, const struct sockaddr_storage *peer)
{
	const KtHttpdOptions *options = &httpd->options;

	return options->max_per_address > 0 &&
	       (peer->ss_family == AF_INET || peer->ss_family == AF_INET6) &&
	       !kt_address_is_loopback((const struct sockaddr *) peer) &&
	       !kt_haddress_within(peer, options->proxies, options->nproxies) &&
	       kt_hconn_count(&httpd->conns, peer) >= options->max_per_address;
}

/* Takes an accepted socket over, or closes it. */
static void
let_in(KtHttpd *httpd, int fd, struct sockaddr_storage *peer, socklen_t len)
{
	struct sockaddr_storage plain = *peer;
	KtHconn *conn = NULL;
	int on = 1;

	/* a handshake's small writes would wait 40 ms for the client's acknowledgement of those before */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	kt_haddress_unmap(&plain);
	if (!is_over_its_share(httpd, &plain))
		conn = kt_hconn_add(&httpd->conns, fd, &plain, httpd->cert);
	if (conn == NULL)
	{
		httpd->counters.refused++;
		close(fd);
		return;
	}
	httpd->entering++;
	httpd->counters.accepted++;
	/* when it refuses it closes the socket, and forget_refused() does the rest */
	(void) MHD_add_connection(httpd->daemon, fd, (struct sockaddr *) peer, len);
}

/* ---- who makes room when all places are taken -------------------------------------------------------------- */

/* What is wrong with a client that owes us a head. */
typedef enum Debt
{
	DEBT_NOT_DUE, /* nothing yet */
	DEBT_MUTE,    /* it has said nothing at all */
	DEBT_TRICKLE, /* it has sent a little of its first message, and keeps the rest back */
	DEBT_SLOW     /* it has had the patience that everybody has */
} Debt;

/*
 * Does what it has sent of its first message speak against it? Over TLS a client that we have said something to may be
 * waiting for us; what a trusted proxy sends is what it gets. Who has sent a request before is known.
 */
static bool
is_judged_by_little(const KtHttpd *httpd, const KtHconn *conn)
{
	return !conn->met && !conn->spoken &&
	       !kt_haddress_within(&conn->peer, httpd->options.proxies, httpd->options.nproxies);
}

static int64_t
end_of_time(const KtHconn *conn, const KtHconnHeard *heard, int64_t time)
{
	int64_t from = heard->last < conn->since ? heard->last : conn->since;
	int64_t end = from + time + TRIPS * heard->trip;

	return end < conn->since + PATIENCE_US ? end : conn->since + PATIENCE_US;
}

/* *due is when it is wrong, if nothing more comes. */
static Debt
debt_of(const KtHttpd *httpd, KtHconn *conn, int64_t *due)
{
	KtHconnHeard heard;

	*due = conn->since + PATIENCE_US;
	if (conn->met || !kt_hconn_hear(conn, &heard))
	{
		conn->heard = true;
		return DEBT_SLOW;
	}
	conn->heard = !heard.nothing || heard.disturbed;
	if (heard.disturbed)
		return DEBT_SLOW;
	if (heard.nothing)
	{
		*due = end_of_time(conn, &heard, MUTE_US);
		return DEBT_MUTE;
	}
	if (!heard.trickle || !is_judged_by_little(httpd, conn))
		return DEBT_SLOW;
	*due = end_of_time(conn, &heard, TRICKLE_US);
	return DEBT_TRICKLE;
}

/* Nothing is due while the kernel holds what the library has not read: it may be all that is missing. */
static Debt
look(const KtHttpd *httpd, KtHconn *conn, int64_t now)
{
	int64_t due;
	Debt debt = debt_of(httpd, conn, &due);

	if (due <= now && kt_hconn_is_silent(conn))
	{
		conn->slow = debt == DEBT_SLOW;
		return debt;
	}
	if (due < now)
		due = now;
	else if (due > now + LOOK_US)
		due = now + LOOK_US;
	conn->look_at = (due / LOOK_STEP_US + 1) * LOOK_STEP_US;
	return DEBT_NOT_DUE;
}

/*
 * The longest connected one that owes us a head in that way, or NULL. Who was found to owe it in another way is not
 * asked again: of thousands that are due together each takes one look, not one for each that comes in.
 */
static KtHconn *
first_due(const KtHttpd *httpd, Debt debt, int64_t now)
{
	KtHconn *conn = httpd->conns.phases[KT_HCONN_HEADERS].head;

	for (; conn != NULL; conn = conn->next)
	{
		bool other = (debt == DEBT_MUTE && conn->heard) || (debt == DEBT_TRICKLE && conn->slow);

		/* without mhd the library has not begun with it */
		if (conn->mhd != NULL && conn->look_at <= now && !other && look(httpd, conn, now) == debt)
			return conn;
	}
	return NULL;
}

/* When the first of those who owe us a head is to be looked at; -1: nobody is. */
static int64_t
next_look(const KtHttpd *httpd)
{
	const KtHconn *conn = httpd->conns.phases[KT_HCONN_HEADERS].head;
	int64_t next = -1;

	for (; conn != NULL; conn = conn->next)
	{
		if (next < 0 || conn->look_at < next)
			next = conn->look_at;
	}
	return next;
}

/* When an idle one is to be looked at. */
static int64_t
idle_look(const KtHconn *conn)
{
	int64_t end = conn->since + PATIENCE_US;

	return conn->look_at > end ? conn->look_at : end;
}

int64_t
kt_haccept_patience(const KtHttpd *httpd)
{
	const KtHconn *conn = httpd->conns.phases[KT_HCONN_IDLE].head;
	int64_t next = next_look(httpd);

	for (; conn != NULL; conn = conn->next)
	{
		if (next < 0 || idle_look(conn) < next)
			next = idle_look(conn);
	}
	return next;
}

/*
 * The longest idle one whose client has sent nothing more, if it has been waited for; or NULL. Parts of a TLS record
 * or of a request line, which the library has read already, are something: it is waited for the rest.
 */
static KtHconn *
first_idle(const KtHttpd *httpd, int64_t now)
{
	KtHconn *conn = httpd->conns.phases[KT_HCONN_IDLE].head;

	for (; conn != NULL && conn->since + PATIENCE_US <= now; conn = conn->next)
	{
		int64_t due;

		if (conn->look_at > now)
			continue;
		due = kt_hconn_last_bytes(conn) + PATIENCE_US;
		if (due <= now && kt_hconn_is_silent(conn))
			return conn;
		if (due < now)
			due = now;
		conn->look_at = (due / LOOK_STEP_US + 1) * LOOK_STEP_US;
	}
	return NULL;
}

/* Who is to make room, or NULL. A connection that carries a whole head is never taken. */
static KtHconn *
least_missed(const KtHttpd *httpd, int64_t now)
{
	KtHconn *conn = httpd->conns.phases[KT_HCONN_LINGERING].head;

	if (conn == NULL)
		conn = first_due(httpd, DEBT_MUTE, now);
	if (conn == NULL)
		conn = first_due(httpd, DEBT_TRICKLE, now);
	if (conn == NULL)
		conn = first_idle(httpd, now);
	if (conn == NULL)
		conn = first_due(httpd, DEBT_SLOW, now);
	return conn;
}

/* Lets the library collect a connection that was cut. True when there is a place now. */
static bool
make_room(KtHttpd *httpd)
{
	int64_t now = kt_httpd_now();
	KtHconn *conn = least_missed(httpd, now);

	if (conn != NULL && conn->phase == KT_HCONN_LINGERING)
		kt_hconn_remove(&httpd->conns, conn);
	else if (conn != NULL)
	{
		httpd->counters.cut_for_room++;
		kt_hconn_cut(&httpd->conns, conn, now);
		kt_hdaemon_run(httpd);
	}
	return httpd->conns.count < httpd->options.max_connections;
}

/* True when one more could be served, now or maybe by someone's leaving. */
static bool
has_room(const KtHttpd *httpd, int64_t now)
{
	int64_t patience;

	if (httpd->conns.count < httpd->options.max_connections ||
	    httpd->conns.phases[KT_HCONN_LINGERING].count > 0)
		return true;
	patience = kt_haccept_patience(httpd);
	return patience >= 0 && patience <= now;
}

/* ---- accepting ------------------------------------------------------------------------------------------------ */

void
kt_haccept_listen(KtHttpd *httpd, bool listening)
{
	struct epoll_event event = {.events = EPOLLIN};
	int i;

	if (httpd->listening == listening)
		return;
	httpd->listening = listening;
	for (i = 0; i < httpd->nsockets; i++)
	{
		event.data.u64 = (uint64_t) httpd->sockets[i];
		epoll_ctl(httpd->epfd, listening ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, httpd->sockets[i],
		          &event);
	}
}

/* True when accepting goes on; what else can fail is the single connection's affair. */
static bool
accept_failed(KtHttpd *httpd, int error)
{
	switch (error)
	{
		case EAGAIN:
			return false;
		case EMFILE:
		case ENFILE:
		case ENOBUFS:
		case ENOMEM:
			make_room(httpd);
			httpd->paused_until = kt_httpd_now() + PAUSE_US;
			return false;
		default:
			return true;
	}
}

/* True when a client waits: nobody is to make room for none. */
static bool
is_wanted(int socket)
{
	struct pollfd waiting = {.fd = socket, .events = POLLIN};

	return poll(&waiting, 1, 0) > 0;
}

bool
kt_haccept_is_crowded(const KtHttpd *httpd)
{
	int i;

	if (httpd->conns.count < httpd->options.max_connections ||
	    httpd->conns.phases[KT_HCONN_HEADERS].count > 0)
		return false;
	for (i = 0; i < httpd->nsockets; i++)
		if (is_wanted(httpd->sockets[i]))
			return true;
	return false;
}

static void
accept_from(KtHttpd *httpd, int socket)
{
	int i;

	for (i = 0; i < ACCEPTED_AT_ONCE; i++)
	{
		struct sockaddr_storage peer = {0};
		socklen_t len = sizeof(peer);
		int fd;

		if (httpd->conns.count >= httpd->options.max_connections &&
		    (!is_wanted(socket) || !make_room(httpd)))
			return;
		fd = accept4(socket, (struct sockaddr *) &peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
			let_in(httpd, fd, &peer, len);
		else if (!accept_failed(httpd, errno))
			return;
	}
}

static void
drain(KtHttpd *httpd, KtHconn *conn)
{
	if (!kt_hconn_drain(conn))
		kt_hconn_remove(&httpd->conns, conn);
}

/* First those that linger: making room frees such connections, of which events may still speak. */
void
kt_haccept_look(KtHttpd *httpd)
{
	struct epoll_event events[16];
	int n = epoll_wait(httpd->epfd, events, 16, 0);
	int i;

	for (i = 0; i < n; i++)
	{
		if (events[i].data.u64 == KT_HSERVER_LIBRARY)
			continue;
		if (events[i].data.u64 > INT_MAX)
			drain(httpd, events[i].data.ptr);
	}
	for (i = 0; i < n && httpd->paused_until == 0; i++)
	{
		if (events[i].data.u64 <= INT_MAX)
			accept_from(httpd, (int) events[i].data.u64);
	}
}

void
kt_haccept_review(KtHttpd *httpd)
{
	int64_t now = kt_httpd_now();

	if (httpd->paused_until > 0 && httpd->paused_until <= now)
		httpd->paused_until = 0;
	kt_haccept_listen(httpd, !httpd->quiescing && httpd->paused_until == 0 && has_room(httpd, now));
}
