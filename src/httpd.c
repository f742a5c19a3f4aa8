/*
 * An asynchronous HTTP server on libmicrohttpd: one pollable fd, one deadline, one step.
 *
 * Owns the library's daemon, the connections, and the decision who is let in. The library never sees a
 * listening socket: connections are accepted here and handed to it. So the sockets, which the postmaster and
 * the next worker share, can be neither closed nor shut down by it; limits are kept before the library
 * spends memory; and running out of descriptors pauses us instead of spinning.
 *
 * The library's own time-out is one of inactivity, which dripping bytes prolong for ever. So deadlines are kept
 * here, one for each phase of a connection (hconn.h), and enforced by shutting its socket down.
 *
 * Nothing here blocks, throws or starts a thread; the callbacks run inside kt_httpd_step() alone.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "httpd.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "hserver.h"
#include "limits.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* Connections that one step accepts from one socket; the others wait for the next. */
#define ACCEPTED_AT_ONCE 64

/* How long nothing is accepted after the process or the system ran out of descriptors or memory. */
#define PAUSE_US 100000

/* When all places are taken, a client that has sent no whole head for so long makes room for the next. */
#define PATIENCE_US 1000000

/* Blocks above this are given back to the system when they are freed; see kt_httpd_create(). */
#define LARGE_BLOCK (256 * 1024)

/* How long a client that was refused may go on sending, so that it can read why. */
#define LINGER_US 2000000

/* The library's entry in our epoll fd; a socket's is its number, a connection's its address. */
#define LIBRARY UINT64_MAX

#define TLS_PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE"

int64_t
kt_httpd_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* ---- the library's turn ---------------------------------------------------------------------------- */

/* Forgets the connections that the library did not begin with, for want of memory; it has closed their sockets. */
static void
forget_refused(KtHttpd *httpd)
{
	KtHconn *conn = httpd->conns.phases[KT_HCONN_HEADERS].tail;

	while (httpd->entering > 0 && conn != NULL)
	{
		KtHconn *prev = conn->prev;

		if (conn->mhd == NULL)
		{
			kt_hconn_remove(&httpd->conns, conn);
			httpd->counters.refused++;
			httpd->entering--;
		}
		conn = prev;
	}
}

/*
 * Gives the library its turn. With epoll (0.9.72 to 1.0) it wants the next turn at once for as long as a client is
 * silent in the middle of a TLS handshake: whoever stalled there would keep a processor busy. So a turn in
 * which nothing was read, written or called back, and after which nothing is left to read inside GnuTLS, is taken
 * for a stall, and the next one waits for a socket or a deadline.
 */
static void
run(KtHttpd *httpd)
{
	uint64_t before = httpd->moved;
	int phase;

	httpd->resumed = false;
	MHD_run(httpd->daemon);
	forget_refused(httpd);
	httpd->stalled = httpd->cert != NULL && httpd->moved == before;
	for (phase = 0; httpd->stalled && phase < KT_HCONN_PHASES; phase++)
	{
		const KtHconn *conn = httpd->conns.phases[phase].head;

		for (; conn != NULL && httpd->stalled; conn = conn->next)
			httpd->stalled = !kt_hconn_is_pending(conn);
	}
}

/* ---- options --------------------------------------------------------------------------------------- */

/* Frees what copy_options() made. */
static void
free_options(KtHttpdOptions *options)
{
	int i;

	for (i = 0; options->tokens != NULL && i < options->ntokens; i++)
	{
		char *token = (char *) options->tokens[i];

		if (token != NULL)
			explicit_bzero(token, strlen(token));
		free(token);
	}
	free((void *) options->tokens);
	free((void *) options->proxies);
	free((void *) options->path);
	memset(options, 0, sizeof(*options));
}

/* Copies all but the certificate and the key. False when memory is out; copy is empty then. */
static bool
copy_options(KtHttpdOptions *copy, const KtHttpdOptions *options)
{
	char **tokens = calloc((size_t) options->ntokens + 1, sizeof(char *));
	KtHttpdNetwork *proxies = calloc((size_t) options->nproxies + 1, sizeof(KtHttpdNetwork));
	char *path = strdup(options->path);
	bool whole = tokens != NULL && proxies != NULL && path != NULL;
	size_t len;
	int i;

	*copy = *options;
	copy->tls_cert = copy->tls_key = NULL;
	copy->tokens = (const char *const *) tokens;
	copy->proxies = proxies;
	copy->path = path;
	if (copy->max_bodies == 0)
		copy->max_bodies = KT_MAX_BODIES;
	for (i = 0; whole && i < options->ntokens; i++)
		whole = (tokens[i] = strdup(options->tokens[i])) != NULL;
	if (!whole)
	{
		free_options(copy);
		return false;
	}
	for (i = 0; i < options->nproxies; i++)
	{
		proxies[i] = options->proxies[i];
		kt_haddress_unmap(&proxies[i].address);
	}
	for (len = strlen(path); len > 0 && path[len - 1] == '/'; len--)
		path[len - 1] = '\0';
	return true;
}

static void
use_options(KtHttpd *httpd, KtHttpdOptions *options)
{
	httpd->options = *options;
	httpd->route.path = options->path;
	httpd->route.tokens = options->tokens;
	httpd->route.ntokens = options->ntokens;
	httpd->route.max_body = options->max_body;
}

/* ---- connections come and go ----------------------------------------------------------------------------- */

/* The connection that the library begins with. 0.9 does so inside MHD_add_connection(), 1.0 in its next turn. */
static KtHconn *
entering(KtHttpd *httpd, struct MHD_Connection *mhd)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
	KtHconn *conn = httpd->conns.phases[KT_HCONN_HEADERS].tail;

	while (conn != NULL && info != NULL && (conn->mhd != NULL || conn->fd != info->connect_fd))
		conn = conn->prev;
	return info != NULL ? conn : NULL;
}

/* A connection that the library closes now stays open until its client is done; false: it cannot. */
static bool
watch_out(KtHttpd *httpd, KtHconn *conn)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};

	return !httpd->ending && kt_hconn_linger(&httpd->conns, conn, kt_httpd_now()) &&
	       epoll_ctl(httpd->epfd, EPOLL_CTL_ADD, conn->fd, &event) == 0;
}

static void
on_connection(void *cls, struct MHD_Connection *mhd, void **context,
              enum MHD_ConnectionNotificationCode what)
{
	KtHttpd *httpd = cls;
	KtHconn *conn = what == MHD_CONNECTION_NOTIFY_STARTED ? entering(httpd, mhd) : *context;

	httpd->moved++;
	if (conn == NULL)
		return;
	if (what == MHD_CONNECTION_NOTIFY_STARTED)
	{
		const union MHD_ConnectionInfo *info =
			MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);

		conn->mhd = mhd;
		httpd->entering--;
		*context = conn;
		if (conn->cert != NULL && info != NULL && info->tls_session != NULL)
			kt_hconn_secure(conn, info->tls_session, &httpd->moved);
		return;
	}
	*context = NULL;
	kt_hrequest_release_body(httpd, conn, NULL);
	if (!conn->lingers || !watch_out(httpd, conn))
		kt_hconn_remove(&httpd->conns, conn);
}

/* GnuTLS asks during a handshake. What is handed out belongs to the pair that the connection holds. */
static int
on_certificate(gnutls_session_t session, const struct gnutls_cert_retr_st *info,
               gnutls_pcert_st **chain, unsigned int *nchain, gnutls_ocsp_data_st **ocsp,
               unsigned int *nocsp, gnutls_privkey_t *key, unsigned int *flags)
{
	struct MHD_Connection *mhd = gnutls_session_get_ptr(session);
	KtHconn *conn = mhd != NULL ? kt_hrequest_conn(mhd) : NULL;

	(void) info;
	if (conn == NULL || conn->cert == NULL)
		return -1;
	*chain = conn->cert->chain;
	*nchain = conn->cert->nchain;
	*key = conn->cert->key;
	*ocsp = NULL;
	*nocsp = 0;
	*flags = 0;
	return 0;
}

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

/* When the first client that still owes us a head has had its share of patience; -1: none does. */
static int64_t
patience_ends(const KtHttpd *httpd)
{
	const KtHconn *slowest = httpd->conns.phases[KT_HCONN_HEADERS].head;

	return slowest != NULL ? slowest->since + PATIENCE_US : -1;
}

/*
 * One that was refused long ago, else the longest idle one whose client has sent nothing, else the slowest head that has been waited for
 * too long; or NULL. A connection that carries a whole head is never taken.
 */
static KtHconn *
least_missed(const KtHttpd *httpd, int64_t now)
{
	KtHconn *conn = httpd->conns.phases[KT_HCONN_LINGERING].head;

	if (conn != NULL)
		return conn;
	for (conn = httpd->conns.phases[KT_HCONN_IDLE].head; conn != NULL; conn = conn->next)
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
		run(httpd);
	}
	return httpd->conns.count < httpd->options.max_connections;
}

/* True when one more could be served, now or by someone's leaving. */
static bool
has_room(const KtHttpd *httpd, int64_t now)
{
	int64_t patience = patience_ends(httpd);

	return httpd->conns.count < httpd->options.max_connections ||
	       httpd->conns.phases[KT_HCONN_IDLE].count > 0 ||
	       httpd->conns.phases[KT_HCONN_LINGERING].count > 0 || (patience >= 0 && patience <= now);
}

/* ---- accepting ------------------------------------------------------------------------------------------------ */

/* Puts the listening sockets into our epoll fd, or takes them out of it. */
static void
listen_or_not(KtHttpd *httpd, bool listening)
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

static void
accept_from(KtHttpd *httpd, int socket)
{
	int i;

	for (i = 0; i < ACCEPTED_AT_ONCE; i++)
	{
		struct sockaddr_storage peer = {0};
		socklen_t len = sizeof(peer);
		int fd;

		if (httpd->conns.count >= httpd->options.max_connections && !make_room(httpd))
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

/* What our epoll fd says: of the library (LIBRARY), of a listening socket (its fd), or of a lingering connection. */
static void
look_around(KtHttpd *httpd)
{
	struct epoll_event events[16];
	int n = epoll_wait(httpd->epfd, events, 16, 0);
	int i;

	for (i = 0; i < n; i++)
	{
		if (events[i].data.u64 == LIBRARY)
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

/* ---- deadlines -------------------------------------------------------------------------------------------------- */

/* How long a connection may stand in a phase; 0: as long as it takes. */
static int64_t
limit_of(const KtHttpd *httpd, KtHconnPhase phase)
{
	switch (phase)
	{
		case KT_HCONN_HEADERS:
			return httpd->options.header_us;
		case KT_HCONN_BODY:
			return httpd->options.body_us;
		case KT_HCONN_LEAVING: /* an answer waits only for a client that does not read */
		case KT_HCONN_IDLE:
			return httpd->options.idle_us;
		case KT_HCONN_LINGERING:
			return LINGER_US;
		case KT_HCONN_WAITING:
		case KT_HCONN_CUT:
			return 0;
	}
	return 0;
}

/* A client whose next request is here already, if only in part, is not idle: it gets the time for a head. */
static void
end_of_time(KtHttpd *httpd, KtHconn *conn, int64_t now)
{
	if (conn->phase == KT_HCONN_IDLE && !kt_hconn_is_silent(conn))
	{
		kt_hconn_move(&httpd->conns, conn, KT_HCONN_HEADERS, now);
		return;
	}
	if (conn->phase == KT_HCONN_LINGERING)
	{
		kt_hconn_remove(&httpd->conns, conn);
		return;
	}
	if (conn->phase != KT_HCONN_IDLE)
		httpd->counters.timeouts++;
	if (conn->phase == KT_HCONN_HEADERS || conn->phase == KT_HCONN_BODY)
	{
		kt_hconn_say(conn, 408);
		kt_hrequest_count(httpd, 408);
	}
	kt_hconn_cut(&httpd->conns, conn, now);
}

static void
expire(KtHttpd *httpd)
{
	int64_t now = kt_httpd_now();
	bool any = false;
	int phase;

	for (phase = 0; phase < KT_HCONN_PHASES; phase++)
	{
		int64_t limit = limit_of(httpd, phase);
		KtHconn *conn;

		while (limit > 0 && (conn = httpd->conns.phases[phase].head) != NULL &&
		       conn->since + limit <= now)
		{
			end_of_time(httpd, conn, now);
			any = true;
		}
	}
	if (any)
		run(httpd);
}

/* The earlier of two deadlines, of which -1 is none. */
static int64_t
earlier(int64_t a, int64_t b)
{
	if (a < 0 || b < 0)
		return a < 0 ? b : a;
	return a < b ? a : b;
}

int64_t
kt_httpd_deadline(const KtHttpd *httpd)
{
	MHD_UNSIGNED_LONG_LONG milliseconds;
	int64_t deadline = -1;
	int phase;

	if (httpd->resumed ||
	    (!httpd->stalled && MHD_get_timeout(httpd->daemon, &milliseconds) == MHD_YES &&
	     milliseconds == 0))
		return 0;
	for (phase = 0; phase < KT_HCONN_PHASES; phase++)
	{
		const KtHconn *conn = httpd->conns.phases[phase].head;
		int64_t limit = limit_of(httpd, phase);

		if (limit > 0 && conn != NULL)
			deadline = earlier(deadline, conn->since + limit);
	}
	if (!httpd->listening && !httpd->quiescing)
	{
		if (httpd->paused_until > 0)
			deadline = earlier(deadline, httpd->paused_until);
		else
			deadline = earlier(deadline, patience_ends(httpd));
	}
	return deadline;
}

void
kt_httpd_step(KtHttpd *httpd)
{
	int64_t now;

	look_around(httpd);
	run(httpd);
	expire(httpd);
	now = kt_httpd_now();
	if (httpd->paused_until > 0 && httpd->paused_until <= now)
		httpd->paused_until = 0;
	listen_or_not(httpd, !httpd->quiescing && httpd->paused_until == 0 && has_room(httpd, now));
}

/* ---- the owner's side ------------------------------------------------------------------------------------------- */

int
kt_httpd_fd(const KtHttpd *httpd)
{
	return httpd->epfd;
}

KtHttpdDelivery *
kt_httpd_take(KtHttpd *httpd)
{
	KtHconn *conn = httpd->untaken;

	if (conn == NULL)
		return NULL;
	httpd->untaken = conn->next;
	return &conn->delivery;
}

/* Many answers cost one step: the library is told of all of them there. */
void
kt_httpd_answer(KtHttpd *httpd, KtHttpdDelivery *delivery, int status, KtBuf *kept)
{
	KtHconn *conn = (KtHconn *) delivery;

	kt_hrequest_release_body(httpd, conn, kept);
	conn->status = status;
	kt_hconn_move(&httpd->conns, conn, KT_HCONN_LEAVING, kt_httpd_now());
	MHD_resume_connection(conn->mhd);
	httpd->resumed = true;
}

int
kt_httpd_waiting(const KtHttpd *httpd)
{
	return httpd->conns.phases[KT_HCONN_WAITING].count;
}

int
kt_httpd_leaving(const KtHttpd *httpd)
{
	return httpd->conns.phases[KT_HCONN_LEAVING].count;
}

void
kt_httpd_set_healthy(KtHttpd *httpd, bool healthy)
{
	httpd->healthy = healthy;
}

int
kt_httpd_busy(const KtHttpd *httpd)
{
	return httpd->conns.count - httpd->conns.phases[KT_HCONN_IDLE].count -
	       httpd->conns.phases[KT_HCONN_CUT].count;
}

void
kt_httpd_quiesce(KtHttpd *httpd)
{
	httpd->quiescing = true;
	listen_or_not(httpd, false);
}

void
kt_httpd_counters(const KtHttpd *httpd, KtHttpdCounters *counters)
{
	*counters = httpd->counters;
	counters->connections = httpd->conns.count;
}

int64_t
kt_httpd_certificate_end(const KtHttpd *httpd)
{
	return httpd->cert != NULL ? httpd->cert->end : -1;
}

bool
kt_httpd_judge_pair(const char *cert, const char *key, int64_t *end, char *error, size_t size)
{
	KtHcert *pair = kt_hcert_load(cert, key, error, size);

	if (pair == NULL)
		return false;
	*end = pair->end;
	kt_hcert_drop(pair);
	return true;
}

bool
kt_httpd_configure(KtHttpd *httpd, const KtHttpdOptions *options, char *error, size_t size)
{
	KtHttpdOptions copy;
	KtHcert *cert = NULL;

	if ((options->tls_cert != NULL) != (httpd->cert != NULL))
	{
		snprintf(error, size, "TLS cannot be turned on or off in a running server");
		return false;
	}
	if (options->tls_cert != NULL)
	{
		cert = kt_hcert_load(options->tls_cert, options->tls_key, error, size);
		if (cert == NULL)
			return false;
	}
	if (!copy_options(&copy, options))
	{
		kt_hcert_drop(cert);
		snprintf(error, size, "out of memory");
		return false;
	}
	free_options(&httpd->options);
	use_options(httpd, &copy);
	kt_hcert_drop(httpd->cert);
	httpd->cert = cert;
	return true;
}

/* ---- beginning and end -------------------------------------------------------------------------------------------- */

static void *
on_line(void *cls, const char *line, struct MHD_Connection *mhd)
{
	(void) line;
	kt_hrequest_line(cls, mhd);
	return NULL;
}

/* The target is judged as it came. */
static size_t
decode_nothing(void *cls, struct MHD_Connection *mhd, char *text)
{
	(void) cls;
	(void) mhd;
	return strlen(text);
}

/*
 * Connections are counted here, so the library's own limit is out of the way. It is started without its log,
 * and its strictest parser that serves every honest client is asked for.
 */
static bool
start_daemon(KtHttpd *httpd)
{
	unsigned int flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET;
	struct MHD_OptionItem tls[] = {
		{MHD_OPTION_HTTPS_PRIORITIES, 0, (void *) TLS_PRIORITY},
		{MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, (void *) (uintptr_t) on_certificate},
		{MHD_OPTION_END, 0, NULL}};

	if (httpd->cert != NULL)
		flags |= MHD_USE_TLS;
	else
		tls[0].option = MHD_OPTION_END;
	httpd->daemon = MHD_start_daemon(
		flags, 0, NULL, NULL, kt_hrequest_handle, httpd, MHD_OPTION_NOTIFY_CONNECTION,
		on_connection, httpd, MHD_OPTION_NOTIFY_COMPLETED, kt_hrequest_completed, httpd,
		MHD_OPTION_URI_LOG_CALLBACK, on_line, httpd, MHD_OPTION_UNESCAPE_CALLBACK, decode_nothing,
		NULL, MHD_OPTION_CONNECTION_LIMIT, (unsigned int) KT_MAX_CONNECTIONS + 1,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) KT_HTTPD_POOL, MHD_OPTION_STRICT_FOR_CLIENT, 1,
		MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
	return httpd->daemon != NULL;
}

static bool
make_replies(KtHttpd *httpd)
{
	static const char *const allow[KT_HSERVER_REPLIES] = {
		[KT_HSERVER_ALLOW_POST] = "POST", [KT_HSERVER_ALLOW_HEALTH] = "GET, HEAD"};
	int i;

	for (i = 0; i < KT_HSERVER_REPLIES; i++)
	{
		struct MHD_Response *reply =
			MHD_create_response_from_buffer(0, (void *) "", MHD_RESPMEM_PERSISTENT);

		httpd->replies[i] = reply;
		if (reply == NULL ||
		    (i != KT_HSERVER_KEEP &&
		     MHD_add_response_header(reply, "Connection", "close") != MHD_YES) ||
		    (allow[i] != NULL && MHD_add_response_header(reply, "Allow", allow[i]) != MHD_YES))
			return false;
	}
	return true;
}

/* The library's fd into ours, and the sockets. */
static bool
make_pollable(KtHttpd *httpd, const int *sockets, int nsockets)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = LIBRARY};
	const union MHD_DaemonInfo *info = MHD_get_daemon_info(httpd->daemon, MHD_DAEMON_INFO_EPOLL_FD);

	httpd->epfd = epoll_create1(EPOLL_CLOEXEC);
	httpd->sockets = calloc((size_t) nsockets + 1, sizeof(int));
	if (httpd->epfd < 0 || httpd->sockets == NULL || info == NULL ||
	    epoll_ctl(httpd->epfd, EPOLL_CTL_ADD, info->epoll_fd, &event) != 0)
		return false;
	memcpy(httpd->sockets, sockets, (size_t) nsockets * sizeof(int));
	httpd->nsockets = nsockets;
	listen_or_not(httpd, true);
	return true;
}

/*
 * A body's memory is to go back to the system once it is answered. Left alone, malloc raises the size from which
 * on it does so, up to 32 MB, as soon as the first large body is freed.
 */
static void
keep_memory_low(void)
{
	mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK);
}

KtHttpd *
kt_httpd_create(const KtHttpdOptions *options, const int *sockets, int nsockets, char *error,
                size_t size)
{
	KtHttpdOptions copy;
	KtHcert *cert = NULL;
	KtHttpd *httpd;

	if (options->tls_cert != NULL)
	{
		cert = kt_hcert_load(options->tls_cert, options->tls_key, error, size);
		if (cert == NULL)
			return NULL;
	}
	httpd = calloc(1, sizeof(KtHttpd));
	if (httpd == NULL || !copy_options(&copy, options))
	{
		kt_hcert_drop(cert);
		free(httpd);
		snprintf(error, size, "out of memory");
		return NULL;
	}
	keep_memory_low();
	use_options(httpd, &copy);
	httpd->cert = cert;
	httpd->healthy = true;
	httpd->epfd = -1;
	if (!make_replies(httpd) || !start_daemon(httpd) || !make_pollable(httpd, sockets, nsockets))
	{
		kt_httpd_destroy(httpd);
		snprintf(error, size, "libmicrohttpd %s does not start", MHD_get_version());
		return NULL;
	}
	return httpd;
}

void
kt_httpd_destroy(KtHttpd *httpd)
{
	KtHconn *conn;
	int i;

	if (httpd->resumed)
		MHD_run(httpd->daemon);
	while ((conn = httpd->conns.phases[KT_HCONN_WAITING].head) != NULL)
	{
		kt_hconn_move(&httpd->conns, conn, KT_HCONN_CUT, 0);
		MHD_resume_connection(conn->mhd);
	}
	httpd->ending = true;
	while ((conn = httpd->conns.phases[KT_HCONN_LINGERING].head) != NULL)
		kt_hconn_remove(&httpd->conns, conn);
	if (httpd->daemon != NULL)
		MHD_stop_daemon(httpd->daemon);
	for (i = 0; i < KT_HSERVER_REPLIES; i++)
	{
		if (httpd->replies[i] != NULL)
			MHD_destroy_response(httpd->replies[i]);
	}
	if (httpd->epfd >= 0)
		close(httpd->epfd);
	kt_hcert_drop(httpd->cert);
	free_options(&httpd->options);
	free(httpd->sockets);
	free(httpd);
}
