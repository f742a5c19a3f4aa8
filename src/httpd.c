/*
 * An asynchronous HTTP server on libmicrohttpd: one pollable fd, one deadline, one step.
 *
 * Owns the options and the deadlines; connections are let in by haccept.c, live in hconn.c, and are served by the
 * library (hdaemon.c) and its callbacks (hrequest.c), which ask hgate.c.
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
#include <malloc.h>
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

/*
 * Blocks above the first are given back to the system when they are freed; of the smaller ones as much as the
 * second is kept at the heap's end. See keep_memory_low().
 */
#define LARGE_BLOCK (1024 * 1024)
#define SPARE_HEAP ((size_t) 8 * 1024 * 1024)

/* How long a client that was refused may go on sending, so that it can read why. */
#define LINGER_US 2000000

int64_t
kt_httpd_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
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
		kt_hdaemon_run(httpd);
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
	int64_t deadline = kt_hdaemon_deadline(httpd);
	int phase;

	if (deadline == 0)
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
			deadline = earlier(deadline, kt_haccept_patience(httpd));
	}
	return deadline;
}

/*
 * Bodies below LARGE_BLOCK may have filled the heap, which does not shrink past what still lies in it: when all
 * of them are gone, whole pages between go back too.
 */
static void
give_back(KtHttpd *httpd)
{
	if (httpd->body_memory > 0 || httpd->body_peak <= SPARE_HEAP)
		return;
	(void) malloc_trim(SPARE_HEAP);
	httpd->body_peak = 0;
}

void
kt_httpd_step(KtHttpd *httpd)
{
	kt_haccept_look(httpd);
	kt_hdaemon_run(httpd);
	expire(httpd);
	kt_haccept_review(httpd);
	give_back(httpd);
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
kt_httpd_places(const KtHttpd *httpd)
{
	return httpd->options.max_connections;
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
	kt_haccept_listen(httpd, false);
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

/* The library's fd into ours, and the sockets. */
static bool
make_pollable(KtHttpd *httpd, const int *sockets, int nsockets)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = KT_HSERVER_LIBRARY};
	const union MHD_DaemonInfo *info = MHD_get_daemon_info(httpd->daemon, MHD_DAEMON_INFO_EPOLL_FD);

	httpd->epfd = epoll_create1(EPOLL_CLOEXEC);
	httpd->sockets = calloc((size_t) nsockets + 1, sizeof(int));
	if (httpd->epfd < 0 || httpd->sockets == NULL || info == NULL ||
	    epoll_ctl(httpd->epfd, EPOLL_CTL_ADD, info->epoll_fd, &event) != 0)
		return false;
	memcpy(httpd->sockets, sockets, (size_t) nsockets * sizeof(int));
	httpd->nsockets = nsockets;
	kt_haccept_listen(httpd, true);
	return true;
}

/*
 * A body's memory is to go back to the system once it is answered. Left alone, malloc raises the size from which
 * on it does so, up to 32 MB, as soon as the first large body is freed. But what each batch of small webhooks
 * takes and frees must stay: to give it back and fault it in again each time cost a third of the receiver's
 * processor time.
 */
static void
keep_memory_low(void)
{
	mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK);
	mallopt(M_TRIM_THRESHOLD, (int) SPARE_HEAP);
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
	if (!kt_hdaemon_start(httpd) || !make_pollable(httpd, sockets, nsockets))
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
	kt_hdaemon_stop(httpd);
	if (httpd->epfd >= 0)
		close(httpd->epfd);
	kt_hcert_drop(httpd->cert);
	free_options(&httpd->options);
	free(httpd->sockets);
	free(httpd);
}
