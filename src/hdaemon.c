/*
 * The library under the HTTP server: how it is started, given its turns, and what it says of connections.
 *
 * Owns the library's daemon and the answers it sends. The library never sees a listening socket, and its
 * callbacks run inside kt_hdaemon_run() alone.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "hserver.h"

#include <string.h>
#include <sys/epoll.h>

#include "limits.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

#define TLS_PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE"

/*
 * So many turns in a row that the library wants at once, and in which nothing happens, are more than one needs to read
 * on where a full buffer made it stop; and how long it waits for the next one after these, or after a stall.
 */
#define MAX_FRUITLESS 100
#define FRUITLESS_PAUSE_US 10000

/* ---- the library's turn ---------------------------------------------------------------------------- */

/* Forgets the connections that the library did not begin with, for want of memory. It closed their sockets. */
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

/* Does the library want its next turn at once? */
static bool
is_eager(const KtHttpd *httpd)
{
	MHD_UNSIGNED_LONG_LONG milliseconds;

	return MHD_get_timeout(httpd->daemon, &milliseconds) == MHD_YES && milliseconds == 0;
}

int64_t
kt_hdaemon_deadline(const KtHttpd *httpd)
{
	if (httpd->resumed)
		return 0;
	if (!is_eager(httpd))
		return -1;
	if (!httpd->stalled && httpd->fruitless < MAX_FRUITLESS)
		return 0;
	return httpd->turn_at;
}

/*
 * Gives the library its turn. With epoll (0.9.72 to 1.0) it wants the next turn at once for as long as a
 * client is silent in the middle of a TLS handshake: whoever stalled there would keep a processor busy. So a
 * turn in which nothing was read, written or called back, and after which nothing is left to read inside
 * GnuTLS, is taken for a stall, and the next one waits for a socket or a pause. Not for the socket alone: what the
 * library reads from GnuTLS's own buffer does not show, and bytes that it left in the socket are announced by nobody.
 *
 * Before 1.0 it wants every turn as well while a line of a chunked body (a size with its extension, a trailer) does not
 * fit into its buffer, which is until the body's time is up. Without TLS we do not see what it reads: so there many turns
 * without a callback are taken for a stall.
 */
void
kt_hdaemon_run(KtHttpd *httpd)
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
	if (httpd->moved != before || !is_eager(httpd))
		httpd->fruitless = 0;
	else if (httpd->fruitless < MAX_FRUITLESS)
		httpd->fruitless++;
	if (httpd->stalled || httpd->fruitless == MAX_FRUITLESS)
		httpd->turn_at = kt_httpd_now() + FRUITLESS_PAUSE_US;
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

/* ---- beginning and end --------------------------------------------------------------------------- */

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
start_library(KtHttpd *httpd)
{
	unsigned int flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET;
	struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_PRIORITIES, 0, (void *) TLS_PRIORITY},
	                               {MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, (void *) on_certificate},
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

bool
kt_hdaemon_start(KtHttpd *httpd)
{
	return make_replies(httpd) && start_library(httpd);
}

/* The library may only stop when it holds no connection back, and would abort the process otherwise. */
void
kt_hdaemon_stop(KtHttpd *httpd)
{
	KtHconn *conn;
	int i;

	if (httpd->resumed)
		MHD_run(httpd->daemon);
	httpd->ending = true;
	while ((conn = httpd->conns.phases[KT_HCONN_LINGERING].head) != NULL)
		kt_hconn_remove(&httpd->conns, conn);
	while ((conn = httpd->conns.phases[KT_HCONN_WAITING].head) != NULL)
	{
		kt_hconn_move(&httpd->conns, conn, KT_HCONN_CUT, 0);
		MHD_resume_connection(conn->mhd);
	}
	if (httpd->daemon != NULL)
		MHD_stop_daemon(httpd->daemon);
	for (i = 0; i < KT_HSERVER_REPLIES; i++)
	{
		if (httpd->replies[i] != NULL)
			MHD_destroy_response(httpd->replies[i]);
	}
}
