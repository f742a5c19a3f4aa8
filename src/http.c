/*
 * An asynchronous HTTP client on libcurl's multi interface: one pollable fd, one deadline, one step.
 *
 * Owns every libcurl handle of the process. Knows nothing of PostgreSQL, of the API, or of what an
 * answer means. The callbacks run inside libcurl, so nothing here may throw or longjmp.
 *
 * Why at most one copy of a body leaves: transfer.c says so for a transfer that runs; one that was given up is
 * either out of the multi handle, or barred from opening a socket.
 *
 * Why kt_http_step() and kt_http_abort() never block: a threaded resolver cannot be cancelled, and libcurl
 * waits for its thread when a transfer is removed (or times out) while it resolves a name; before 7.87 there is
 * no option against that. So libcurl is given no time-outs, this file keeps them, and a transfer that
 * ends while its name is being resolved is parked in the multi handle until the resolver lets go.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* explicit_bzero */
#endif
#include "http.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "sockets.h"
#include "transfer.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/*
 * Memory kept in an idle transfer's answer buffer: a list's where there are few transfers. Each list goes through
 * whichever is idle, so of many each would come to hold one some day; they keep enough for a create-call's answer.
 */
#define FEW_CONNECTIONS 8
#define KEEP_LIST (32 * 1024)
#define KEEP_ANSWER 4096

/* Stuck resolver threads that are borne before new transfers are refused. */
#define MAX_PARKED 256

struct KtHttp
{
	CURLM *multi;
	KtSockets sockets;
	int64_t timer;  /* when libcurl wants to be called, -1 for never */
	uint64_t turns; /* how often kt_http_step() ran: only there libcurl begins a transfer */
	size_t keep;    /* bytes of an idle transfer's answer buffer */
	int active;     /* owned transfers */
	int parked;     /* in the multi handle, owned by nobody or already reported */
	KtHttpTransfer *by_deadline_head;
	KtHttpTransfer *by_deadline_tail;
	KtHttpTransfer *ended; /* to be reaped, in the order they ended */
	KtHttpTransfer **ended_tail;
	KtHttpTransfer *free;
};

int64_t
kt_http_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* ---- libcurl's global state -------------------------------------------------------------------- */

/*
 * libcurl must be initialised in the process that uses it, after the fork. SSLKEYLOGFILE would make its
 * TLS library write every session's secrets to a file, so it is out of the environment meanwhile.
 */
static bool
init_libcurl(void)
{
	static bool done = false;
	char *keylog;
	char *saved = NULL;

	if (done)
		return true;
	keylog = getenv("SSLKEYLOGFILE");
	if (keylog != NULL)
	{
		saved = strdup(keylog);
		unsetenv("SSLKEYLOGFILE");
	}
	done = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
	if (saved != NULL)
	{
		setenv("SSLKEYLOGFILE", saved, 1);
		free(saved);
	}
	return done;
}

/*
 * libcurl's resolver threads inherit the signal mask of the moment they are made. With every signal
 * blocked around libcurl no handler of the owner can ever run in one of them.
 */
static void
block_signals(sigset_t *saved)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, saved);
}

static void
restore_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

/* ---- the deadline list: ordered, nearly always appended to, so a plain list is the fastest heap --- */

static void
deadline_remove(KtHttp *http, KtHttpTransfer *t)
{
	if (t->deadline < 0)
		return;
	if (t->prev != NULL)
		t->prev->next = t->next;
	else
		http->by_deadline_head = t->next;
	if (t->next != NULL)
		t->next->prev = t->prev;
	else
		http->by_deadline_tail = t->prev;
	t->prev = t->next = NULL;
	t->deadline = -1;
}

static void
deadline_insert(KtHttp *http, KtHttpTransfer *t, int64_t deadline)
{
	KtHttpTransfer *after = http->by_deadline_tail;

	while (after != NULL && after->deadline > deadline)
		after = after->prev;
	t->deadline = deadline;
	t->prev = after;
	t->next = after != NULL ? after->next : http->by_deadline_head;
	if (t->next != NULL)
		t->next->prev = t;
	else
		http->by_deadline_tail = t;
	if (after != NULL)
		after->next = t;
	else
		http->by_deadline_head = t;
}

/* ---- libcurl's sockets and its timer ---------------------------------------------------------------- */

static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *userp, void *socketp)
{
	KtHttp *http = userp;
	uint32_t wanted = 0;

	(void) easy;
	(void) socketp;
	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		wanted |= EPOLLIN;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		wanted |= EPOLLOUT;
	return kt_sockets_watch(&http->sockets, fd, wanted) ? 0 : -1;
}

static int
on_timer(CURLM *multi, long timeout_ms, void *userp)
{
	KtHttp *http = userp;

	(void) multi;
	http->timer = timeout_ms < 0 ? -1 : kt_http_now() + (int64_t) timeout_ms * 1000;
	return 0;
}

/* ---- transfers -------------------------------------------------------------------------------------- */

/*
 * Back to the free list, once neither the owner nor libcurl holds it. The handle of a transfer that failed is
 * not used again: one whose repetition was refused remembers (7.88) that a body is to be rewound, and would
 * fail its next transfer for it.
 */
static void
recycle(KtHttp *http, KtHttpTransfer *t)
{
	if (t->owned || t->in_multi)
		return;
	kt_transfer_forget(t, http->keep);
	if (t->curl_code != CURLE_OK)
	{
		kt_transfer_free(t);
		return;
	}
	t->next = http->free;
	http->free = t;
}

static KtHttpTransfer *
take(KtHttp *http, const char *ca_file)
{
	KtHttpTransfer *t = http->free;

	if (t == NULL)
		return kt_transfer_make(&http->sockets, ca_file);
	http->free = t->next;
	t->next = NULL;
	if (kt_transfer_trusts(t, ca_file))
		return t;
	kt_transfer_free(t);
	return kt_transfer_make(&http->sockets, ca_file);
}

KtHttpTransfer *
kt_http_submit(KtHttp *http, const KtHttpRequest *request)
{
	KtHttpTransfer *t;
	int64_t now = kt_http_now();
	int64_t connect_deadline = now + (int64_t) request->connect_timeout_ms * 1000;

	if (http->parked >= MAX_PARKED)
		return NULL;
	t = take(http, request->ca_file);
	if (t == NULL)
		return NULL;
	/* no thread is made here, so no signal need be blocked: libcurl begins it in kt_http_step() */
	if (!kt_transfer_prepare(t, request) || curl_multi_add_handle(http->multi, t->easy) != CURLM_OK)
	{
		recycle(http, t);
		return NULL;
	}
	t->in_multi = t->owned = true;
	t->turns = &http->turns;
	t->added = http->turns;
	http->active++;
	t->request_deadline = now + (int64_t) request->request_timeout_ms * 1000;
	t->connecting = connect_deadline < t->request_deadline;
	deadline_insert(http, t, t->connecting ? connect_deadline : t->request_deadline);
	return t;
}

/*
 * Takes a transfer away from libcurl, or, while a resolver thread may hold it (CURLINFO_NAMELOOKUP_TIME_T
 * is 0 until the name is resolved), bars it from sending and leaves it parked. It cannot get past
 * on_open_socket() any more, and FRESH_CONNECT keeps it off kept-alive connections.
 */
static void
withdraw(KtHttp *http, KtHttpTransfer *t)
{
	deadline_remove(http, t);
	if (!kt_transfer_resolving(t))
	{
		curl_multi_remove_handle(http->multi, t->easy);
		t->in_multi = false;
		return;
	}
	t->barred = true;
	curl_easy_setopt(t->easy, CURLOPT_FRESH_CONNECT, 1L);
	http->parked++;
}

static void
end(KtHttp *http, KtHttpTransfer *t, int curl_code)
{
	t->curl_code = curl_code;
	t->ended = true;
	t->next = NULL;
	*http->ended_tail = t;
	http->ended_tail = &t->next;
}

static void
ended_remove(KtHttp *http, KtHttpTransfer *t)
{
	KtHttpTransfer **link = &http->ended;

	while (*link != t)
		link = &(*link)->next;
	*link = t->next;
	if (http->ended_tail == &t->next)
		http->ended_tail = link;
	t->next = NULL;
	t->ended = false;
}

/*
 * Takes over what libcurl has done with. libcurl (7.88) takes a connection that closes in the middle of
 * the header for the end of an answer; such an answer did not arrive whole.
 */
static void
collect(KtHttp *http)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(http->multi, &left)) != NULL)
	{
		CURLcode result = message->data.result;
		KtHttpTransfer *t;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &t);
		curl_multi_remove_handle(http->multi, t->easy); /* message is void from here on */
		t->in_multi = false;
		if (t->barred)
		{
			http->parked--;
			recycle(http, t);
			continue;
		}
		deadline_remove(http, t);
		if (result == CURLE_OK && !t->head.whole)
		{
			t->own_words = "the answer broke off in its header";
			result = CURLE_PARTIAL_FILE;
		}
		end(http, t, (int) result);
	}
}

static void
expire(KtHttp *http, int64_t now)
{
	KtHttpTransfer *t;

	while ((t = http->by_deadline_head) != NULL && t->deadline <= now)
	{
		if (t->connecting && kt_transfer_connected(t))
		{
			t->connecting = false;
			deadline_remove(http, t);
			deadline_insert(http, t, t->request_deadline);
			continue;
		}
		t->own_words = kt_transfer_phase(t);
		withdraw(http, t);
		end(http, t, CURLE_OPERATION_TIMEDOUT);
	}
}

static void
on_ready(void *arg, int fd, uint32_t events)
{
	KtHttp *http = arg;
	int mask = (events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
	           (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
	           (events & EPOLLERR ? CURL_CSELECT_ERR : 0);
	int running;

	curl_multi_socket_action(http->multi, fd, mask, &running);
}

void
kt_http_step(KtHttp *http)
{
	sigset_t saved;
	int running;

	block_signals(&saved);
	http->turns++;
	kt_sockets_poll(&http->sockets, on_ready, http);
	if (http->timer >= 0 && http->timer <= kt_http_now())
	{
		http->timer = -1;
		curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	collect(http); /* first: an answer that came before we noticed that its time is up counts */
	expire(http, kt_http_now());
	restore_signals(&saved);
}

KtHttpTransfer *
kt_http_reap(KtHttp *http, KtHttpAnswer *answer)
{
	KtHttpTransfer *t;

	while ((t = http->ended) != NULL)
	{
		ended_remove(http, t);
		kt_transfer_answer(t, answer);
		if (t->download.wants.on_end == NULL)
			return t;
		t->download.wants.on_end(t->owner, answer);
		kt_http_release(http, t);
	}
	return NULL;
}

void
kt_http_resume(KtHttp *http, KtHttpTransfer *t)
{
	sigset_t saved;

	(void) http;
	if (!t->in_multi || t->barred)
		return;
	block_signals(&saved);
	curl_easy_pause(t->easy, CURLPAUSE_CONT);
	restore_signals(&saved);
}

void
kt_http_release(KtHttp *http, KtHttpTransfer *t)
{
	t->owned = false;
	http->active--;
	recycle(http, t);
}

int64_t
kt_http_abort(KtHttp *http, KtHttpTransfer *t)
{
	int64_t sent = kt_transfer_sent(t);
	sigset_t saved;

	if (t->ended)
		ended_remove(http, t);
	else if (t->in_multi)
	{
		block_signals(&saved);
		withdraw(http, t);
		restore_signals(&saved);
	}
	t->curl_code = CURLE_ABORTED_BY_CALLBACK;
	kt_http_release(http, t);
	return sent;
}

/* ---- the whole ------------------------------------------------------------------------------------- */

KtHttp *
kt_http_create(int max_connections)
{
	KtHttp *http;

	if (!init_libcurl())
		return NULL;
	http = calloc(1, sizeof(KtHttp));
	if (http == NULL)
		return NULL;
	http->timer = -1;
	http->ended_tail = &http->ended;
	http->multi = curl_multi_init();
	if (!kt_sockets_init(&http->sockets) || http->multi == NULL ||
	    curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_socket) != CURLM_OK ||
	    curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http) != CURLM_OK ||
	    curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_timer) != CURLM_OK ||
	    curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http) != CURLM_OK ||
	    curl_multi_setopt(http->multi, CURLMOPT_PIPELINING, (long) CURLPIPE_NOTHING) != CURLM_OK)
	{
		kt_http_destroy(http);
		return NULL;
	}
	kt_http_keep(http, max_connections);
	return http;
}

void
kt_http_destroy(KtHttp *http)
{
	KtHttpTransfer *t;

	if (http == NULL)
		return;
	while ((t = http->free) != NULL)
	{
		http->free = t->next;
		kt_transfer_free(t);
	}
	if (http->parked > 0)
		return; /* cleaning up would wait for a resolver thread: the process is about to end, leak */
	if (http->multi != NULL)
		curl_multi_cleanup(http->multi);
	kt_sockets_free(&http->sockets);
	free(http);
}

void
kt_http_keep(KtHttp *http, int max_connections)
{
	http->keep = max_connections <= FEW_CONNECTIONS ? KEEP_LIST : KEEP_ANSWER;
	curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long) max_connections);
}

int
kt_http_fd(const KtHttp *http)
{
	return http->sockets.epfd;
}

int64_t
kt_http_deadline(const KtHttp *http)
{
	int64_t first = http->by_deadline_head != NULL ? http->by_deadline_head->deadline : -1;

	if (http->timer < 0)
		return first;
	return first < 0 || http->timer < first ? http->timer : first;
}

int
kt_http_active(const KtHttp *http)
{
	return http->active;
}
