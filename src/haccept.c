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
 * Who has not sent a byte makes room sooner: a client begins to speak when it has connected, and what it says
 * travels right behind its acknowledgement. A thousand sockets that are merely held open delay nobody for long.
 */
#define MUTE_US 100000

/* ---- one connection ------------------------------------------------------------------------------- */

static bool
is_over_its_share(const KtHttpd *httpd, const struct sockaddr_storage *peer)
{
	const KtHttpdOptions *options = &httpd->options;

	return options->max_per_address > 0 &&
	       (peer->ss_family == AF_INET || peer->ss_family == AF_INET6) &&
	       !kt_haddress_is_loopback(peer) &&
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

/* The longest connected one of those that have had their time to speak and have said nothing; or NULL. */
static KtHconn *
first_mute(const KtHttpd *httpd, int64_t now)
{
	KtHconn *conn = httpd->conns.phases[KT_HCONN_HEADERS].head;

	for (; conn != NULL && conn->since + MUTE_US <= now; conn = conn->next)
	{
		if (kt_hconn_is_mute(conn))
			return conn;
	}
	return NULL;
}

/* When a client that has just connected will have had its time to speak; -1: none has just connected. */
static int64_t
next_mute(const KtHttpd *httpd, int64_t now)
{
	const KtHconn *conn = httpd->conns.phases[KT_HCONN_HEADERS].head;

	for (; conn != NULL; conn = conn->next)
	{
		if (conn->since + MUTE_US > now)
			return conn->since + MUTE_US;
	}
	return -1;
}

/* When the first of those who have begun and not finished, or have said nothing more, has had its time; or -1. */
static int64_t
end_of_patience(const KtHttpd *httpd)
{
	const KtHconn *idle = httpd->conns.phases[KT_HCONN_IDLE].head;
	const KtHconn *slowest = httpd->conns.phases[KT_HCONN_HEADERS].head;
	const KtHconn *first = slowest;

	if (idle != NULL && (slowest == NULL || idle->since < slowest->since))
		first = idle;
	return first != NULL ? first->since + PATIENCE_US : -1;
}

int64_t
kt_haccept_patience(const KtHttpd *httpd)
{
	int64_t patience = end_of_patience(httpd);
	int64_t mute = next_mute(httpd, kt_httpd_now());

	return mute >= 0 && (patience < 0 || mute < patience) ? mute : patience;
}

/*
 * One that was refused, else one that has said nothing at all, else the longest idle one whose client has sent
 * nothing more, else the slowest head, each if it has been waited for too long; or NULL. A connection that carries
 * a whole head is never taken.
 */
static KtHconn *
least_missed(const KtHttpd *httpd, int64_t now)
{
	KtHconn *conn = httpd->conns.phases[KT_HCONN_LINGERING].head;

	if (conn == NULL)
		conn = first_mute(httpd, now);
	if (conn != NULL)
		return conn;
	conn = httpd->conns.phases[KT_HCONN_IDLE].head;
	for (; conn != NULL && conn->since + PATIENCE_US <= now; conn = conn->next)
	{
		if (kt_hconn_is_silent(conn))
			return conn;
	}
	conn = httpd->conns.phases[KT_HCONN_HEADERS].head;
	return conn != NULL && conn->since + PATIENCE_US <= now ? conn : NULL;
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
		kt_hconn_cut(&httpd->conns, conn, now);
		kt_hdaemon_run(httpd);
	}
	return httpd->conns.count < httpd->options.max_connections;
}

/* True when one more could be served, now or by someone's leaving. */
static bool
has_room(const KtHttpd *httpd, int64_t now)
{
	int64_t patience = end_of_patience(httpd);

	return httpd->conns.count < httpd->options.max_connections ||
	       httpd->conns.phases[KT_HCONN_LINGERING].count > 0 ||
	       (patience >= 0 && patience <= now) || first_mute(httpd, now) != NULL;
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
