/*
 * An asynchronous HTTP client on libcurl's multi interface: one pollable fd, one deadline, one step.
 *
 * Owns every libcurl handle of the process. Knows nothing of PostgreSQL, of the API, or of what an
 * answer means. The callbacks below run inside libcurl, so nothing in this file may throw or longjmp.
 *
 * Why at most one copy of a body leaves:
 *	- libcurl re-sends a POST by itself when a re-used connection dies before the first byte of an
 *	  answer. It can do so only if it can rewind the body. The body goes through a read callback and
 *	  there is no seek callback, so libcurl fails with CURLE_SEND_FAIL_REWIND instead (measured with
 *	  7.88). HTTP/2 has a silent retry of its own, hence HTTP/1.1 only.
 *	- Redirects are never followed.
 *	- A transfer that was given up is either out of the multi handle, or barred from opening a socket.
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
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "buf.h"
#include "limits.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* Idle seconds after which a kept connection is not used again: below the idle limit of any server we know. */
#define IDLE_CONNECTION_SECONDS 15L

/* A changed CA bundle is noticed after this many seconds. */
#define CA_CACHE_SECONDS 60L

/* libcurl's own time-outs are set out of the way. */
#define NEVER_MS (24L * 3600 * 1000)

/* Stuck resolver threads that are borne before new transfers are refused. */
#define MAX_PARKED 256

/* Memory kept in an idle transfer's answer buffer. */
#define KEEP_ANSWER_BYTES (32 * 1024)

struct KtHttpTransfer
{
	KtHttp *http;
	CURL *easy;
	char *ca_file; /* the one easy is set to, or NULL for libcurl's default */
	struct curl_slist *headers;

	char *body;
	size_t body_len;
	size_t body_taken; /* bytes libcurl has been handed; only ever grows */

	KtBuf answer;
	size_t header_bytes;
	bool header_whole; /* the blank line after the final answer's header came */
	int64_t date;
	bool too_large;

	bool owned;    /* submitted, and neither released nor aborted */
	bool in_multi; /* libcurl holds it */
	uint64_t
		added;   /* http->turns when it was added: in that turn libcurl has not looked at it yet */
	bool barred; /* must send nothing any more */
	bool loopback_only;
	int last_socket; /* the last one opened for it; libcurl may have closed it since */
	bool connecting; /* deadline is the connect deadline, request_deadline comes after it */
	int64_t deadline;
	int64_t request_deadline;
	void *owner;

	bool ended; /* in the list of the ended, to be reaped */
	int curl_code;
	const char *own_words; /* ours, instead of libcurl's error */
	char error[CURL_ERROR_SIZE];

	KtHttpTransfer *prev; /* in the deadline list */
	KtHttpTransfer *next; /* in the deadline list, the list of the ended or the free list */
};

struct KtHttp
{
	CURLM *multi;
	int epfd;
	int64_t timer;  /* when libcurl wants to be called, -1 for never */
	uint64_t turns; /* how often kt_http_step() ran: only there libcurl begins a transfer */
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

/* ---- callbacks: inside libcurl, no exit but return ------------------------------------------------ */

static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *userp, void *socketp)
{
	KtHttp *http = userp;
	struct epoll_event event = {0};

	(void) easy;
	(void) socketp;
	if (what == CURL_POLL_REMOVE)
	{
		epoll_ctl(http->epfd, EPOLL_CTL_DEL, fd, NULL);
		return 0;
	}
	event.data.fd = fd;
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	if (epoll_ctl(http->epfd, EPOLL_CTL_MOD, fd, &event) == 0)
		return 0;
	if (errno == ENOENT && epoll_ctl(http->epfd, EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	return -1;
}

static int
on_timer(CURLM *multi, long timeout_ms, void *userp)
{
	KtHttp *http = userp;

	(void) multi;
	http->timer = timeout_ms < 0 ? -1 : kt_http_now() + (int64_t) timeout_ms * 1000;
	return 0;
}

static bool
is_loopback(const struct sockaddr *addr)
{
	if (addr->sa_family == AF_INET)
	{
		const struct sockaddr_in *in4 = (const struct sockaddr_in *) (const void *) addr;

		return ntohl(in4->sin_addr.s_addr) >> 24 == 127;
	}
	if (addr->sa_family == AF_INET6)
	{
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *) (const void *) addr;

		return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
	}
	return false;
}

/* The one way to a new connection; a transfer that was given up, or may not go there, gets no socket. */
static curl_socket_t
on_open_socket(void *userp, curlsocktype purpose, struct curl_sockaddr *address)
{
	KtHttpTransfer *t = userp;

	if (purpose != CURLSOCKTYPE_IPCXN || t->barred)
		return CURL_SOCKET_BAD;
	if (t->loopback_only && !is_loopback(&address->addr))
		return CURL_SOCKET_BAD;
	t->last_socket = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
	return t->last_socket;
}

static size_t
on_body_wanted(char *dst, size_t size, size_t nmemb, void *userp)
{
	KtHttpTransfer *t = userp;
	size_t room = size * nmemb;
	size_t left = t->body_len - t->body_taken;
	size_t n = left < room ? left : room;

	if (t->barred)
		return CURL_READFUNC_ABORT;
	if (n > 0)
		memcpy(dst, t->body + t->body_taken, n);
	t->body_taken += n;
	return n;
}

static size_t
on_answer_body(char *bytes, size_t size, size_t nmemb, void *userp)
{
	KtHttpTransfer *t = userp;

	if (kt_buf_append(&t->answer, bytes, size * nmemb))
		return size * nmemb;
	t->too_large = true;
	return 0;
}

/* Not a 1xx, which another answer follows. */
static bool
is_final_answer(KtHttpTransfer *t)
{
	long status = 0;

	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
	return status >= 200;
}

/* Called with one whole header line at a time, the status lines included, not NUL-terminated. */
static size_t
on_answer_header(char *line, size_t size, size_t nmemb, void *userp)
{
	KtHttpTransfer *t = userp;
	size_t len = size * nmemb;
	char date[64];

	t->header_bytes += len;
	if (t->header_bytes > KT_MAX_ANSWER_HEADERS)
	{
		t->too_large = true;
		return 0;
	}
	if (len >= 5 && memcmp(line, "HTTP/", 5) == 0)
		t->date = -1; /* a new answer: what a 1xx said is void */
	else if (line[0] == '\r' || line[0] == '\n')
		t->header_whole = is_final_answer(t);
	else if (len > 5 && len - 5 < sizeof(date) && strncasecmp(line, "Date:", 5) == 0)
	{
		memcpy(date, line + 5, len - 5);
		date[len - 5] = '\0';
		t->date = (int64_t) curl_getdate(date, NULL);
	}
	return len;
}

/* ---- one transfer's life --------------------------------------------------------------------------- */

/* Options that hold for every request this project ever makes. */
static bool
set_fixed_options(KtHttpTransfer *t)
{
	CURL *e = t->easy;
	bool ok = true;

#define SET(option, value) (ok = ok && curl_easy_setopt(e, option, value) == CURLE_OK)
	SET(CURLOPT_PRIVATE, (void *) t);
	SET(CURLOPT_ERRORBUFFER, t->error);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_PROXY, ""); /* the empty string: not even from the environment */
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
#if LIBCURL_VERSION_NUM >= 0x075500
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
#else
	SET(CURLOPT_PROTOCOLS, (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
	SET(CURLOPT_CA_CACHE_TIMEOUT, CA_CACHE_SECONDS);
#endif
	SET(CURLOPT_MAXAGE_CONN, IDLE_CONNECTION_SECONDS);
	SET(CURLOPT_CONNECTTIMEOUT_MS, NEVER_MS);
	SET(CURLOPT_ACCEPT_ENCODING,
	    "gzip"); /* decoded when it comes; set_headers() keeps us from asking */
	SET(CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
	SET(CURLOPT_OPENSOCKETDATA, (void *) t);
	SET(CURLOPT_READFUNCTION, on_body_wanted);
	SET(CURLOPT_READDATA, (void *) t);
	SET(CURLOPT_WRITEFUNCTION, on_answer_body);
	SET(CURLOPT_WRITEDATA, (void *) t);
	SET(CURLOPT_HEADERFUNCTION, on_answer_header);
	SET(CURLOPT_HEADERDATA, (void *) t);
#undef SET
	return ok;
}

static void
transfer_free(KtHttpTransfer *t)
{
	if (t->easy != NULL)
		curl_easy_cleanup(t->easy);
	kt_buf_free(&t->answer);
	free(t->ca_file);
	free(t);
}

static bool
same_string(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/*
 * A transfer with a handle for that CA bundle. Setting CURLOPT_CAINFO back to NULL does not bring back
 * libcurl's default, so a handle that was made for another bundle is made anew.
 */
static KtHttpTransfer *
transfer_take(KtHttp *http, const char *ca_file)
{
	KtHttpTransfer *t = http->free;

	if (t != NULL)
	{
		http->free = t->next;
		t->next = NULL;
		if (same_string(t->ca_file, ca_file))
			return t;
		transfer_free(t);
	}
	t = calloc(1, sizeof(KtHttpTransfer));
	if (t == NULL)
		return NULL;
	t->http = http;
	t->deadline = -1;
	t->easy = curl_easy_init();
	if (ca_file != NULL)
		t->ca_file = strdup(ca_file);
	if (t->easy == NULL || !set_fixed_options(t) || !same_string(t->ca_file, ca_file) ||
	    (ca_file != NULL && curl_easy_setopt(t->easy, CURLOPT_CAINFO, ca_file) != CURLE_OK))
	{
		transfer_free(t);
		return NULL;
	}
	return t;
}

/* The headers hold the key: they are overwritten before their memory is given back. */
static void
forget_request(KtHttpTransfer *t)
{
	struct curl_slist *line;

	for (line = t->headers; line != NULL; line = line->next)
		explicit_bzero(line->data, strlen(line->data));
	curl_slist_free_all(t->headers);
	t->headers = NULL;
	free(t->body);
	t->body = NULL;
}

/* Back to the free list, once neither the owner nor libcurl holds it. */
static void
transfer_recycle(KtHttp *http, KtHttpTransfer *t)
{
	if (t->owned || t->in_multi)
		return;
	forget_request(t);
	kt_buf_reset(&t->answer, KEEP_ANSWER_BYTES);
	t->next = http->free;
	http->free = t;
}

static bool
add_header(KtHttpTransfer *t, const char *line)
{
	struct curl_slist *longer = curl_slist_append(t->headers, line);

	if (longer == NULL)
		return false;
	t->headers = longer;
	return true;
}

/* "Name:" alone keeps libcurl from sending a header of its own accord. */
static bool
set_headers(KtHttpTransfer *t, const KtHttpRequest *request)
{
	bool ok =
		add_header(t, "Accept:") && add_header(t, "Expect:") && add_header(t, "Accept-Encoding:");
	size_t i;

	for (i = 0; ok && request->headers != NULL && request->headers[i] != NULL; i++)
		ok = add_header(t, request->headers[i]);
	return ok && curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers) == CURLE_OK;
}

static bool
set_body(KtHttpTransfer *t, const KtHttpRequest *request)
{
	if (request->body == NULL)
		return curl_easy_setopt(t->easy, CURLOPT_HTTPGET, 1L) == CURLE_OK;
	t->body = malloc(request->body_len + 1);
	if (t->body == NULL)
		return false;
	memcpy(t->body, request->body, request->body_len);
	t->body_len = request->body_len;
	return curl_easy_setopt(t->easy, CURLOPT_POST, 1L) == CURLE_OK &&
	       curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) t->body_len) ==
	           CURLE_OK;
}

/* A POST without a byte of body needs no rewinding: only a new connection keeps libcurl from repeating it. */
static long
needs_fresh_connection(const KtHttpRequest *request)
{
	return request->body != NULL && request->body_len == 0;
}

static bool
prepare(KtHttpTransfer *t, const KtHttpRequest *request)
{
	kt_buf_free(&t->answer);
	kt_buf_init(&t->answer, request->max_answer);
	t->body_len = t->body_taken = t->header_bytes = 0;
	t->date = -1;
	t->too_large = t->barred = t->header_whole = false;
	t->loopback_only = request->loopback_only;
	t->last_socket = -1;
	t->owner = request->owner;
	t->curl_code = CURLE_OK;
	t->own_words = NULL;
	t->error[0] = '\0';
	return curl_easy_setopt(t->easy, CURLOPT_URL, request->url) == CURLE_OK &&
	       curl_easy_setopt(t->easy, CURLOPT_USERAGENT, request->user_agent) == CURLE_OK &&
	       curl_easy_setopt(t->easy, CURLOPT_FRESH_CONNECT, needs_fresh_connection(request)) ==
	           CURLE_OK &&
	       set_headers(t, request) && set_body(t, request);
}

KtHttpTransfer *
kt_http_submit(KtHttp *http, const KtHttpRequest *request)
{
	KtHttpTransfer *t;
	int64_t now = kt_http_now();
	int64_t connect_deadline = now + (int64_t) request->connect_timeout_ms * 1000;
	sigset_t saved;
	bool ok;

	if (http->parked >= MAX_PARKED)
		return NULL;
	t = transfer_take(http, request->ca_file);
	if (t == NULL)
		return NULL;
	block_signals(&saved);
	ok = prepare(t, request) && curl_multi_add_handle(http->multi, t->easy) == CURLM_OK;
	restore_signals(&saved);
	if (!ok)
	{
		transfer_recycle(http, t);
		return NULL;
	}
	t->in_multi = t->owned = true;
	t->added = http->turns;
	http->active++;
	t->request_deadline = now + (int64_t) request->request_timeout_ms * 1000;
	t->connecting = connect_deadline < t->request_deadline;
	deadline_insert(http, t, t->connecting ? connect_deadline : t->request_deadline);
	return t;
}

/* Until libcurl has begun a transfer, its figures are those of the handle's transfer before. */
static bool
has_begun(const KtHttpTransfer *t)
{
	return t->added != t->http->turns;
}

static int64_t
info_off(KtHttpTransfer *t, CURLINFO info)
{
	curl_off_t value = 0;

	if (has_begun(t))
		curl_easy_getinfo(t->easy, info, &value);
	return value;
}

static long
info_long(KtHttpTransfer *t, CURLINFO info)
{
	long value = 0;

	if (has_begun(t))
		curl_easy_getinfo(t->easy, info, &value);
	return value;
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
	if (!has_begun(t) || info_off(t, CURLINFO_NAMELOOKUP_TIME_T) > 0)
	{
		curl_multi_remove_handle(http->multi, t->easy);
		t->in_multi = false;
		return;
	}
	t->barred = true;
	curl_easy_setopt(t->easy, CURLOPT_FRESH_CONNECT, 1L);
	http->parked++;
}

/*
 * CURLINFO_CONNECT_TIME_T tells the end of TCP's handshake only once TLS's has ended too (7.88). A number
 * that is not the socket's any more can but make the words less exact.
 */
static bool
has_peer(const KtHttpTransfer *t)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);

	return t->last_socket >= 0 && getpeername(t->last_socket, (struct sockaddr *) &peer, &len) == 0;
}

/* Where a transfer stood when its deadline passed, for the message. */
static const char *
phase_words(KtHttpTransfer *t)
{
	/* in this order: on a re-used connection the times before the last of these are 0 */
	if (info_long(t, CURLINFO_RESPONSE_CODE) != 0)
		return "timed out while reading the answer";
	if (info_long(t, CURLINFO_REQUEST_SIZE) != 0)
		return "timed out while waiting for the answer";
	if (info_off(t, CURLINFO_NAMELOOKUP_TIME_T) == 0)
		return "timed out while resolving the host's name";
	if (info_off(t, CURLINFO_CONNECT_TIME_T) == 0 && !has_peer(t))
		return "timed out while connecting";
	return "timed out in the TLS handshake";
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
			transfer_recycle(http, t);
			continue;
		}
		deadline_remove(http, t);
		if (result == CURLE_OK && !t->header_whole)
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
		if (t->connecting && info_off(t, CURLINFO_PRETRANSFER_TIME_T) > 0)
		{
			t->connecting = false;
			deadline_remove(http, t);
			deadline_insert(http, t, t->request_deadline);
			continue;
		}
		t->own_words = phase_words(t);
		withdraw(http, t);
		end(http, t, CURLE_OPERATION_TIMEDOUT);
	}
}

void
kt_http_step(KtHttp *http)
{
	struct epoll_event events[64];
	sigset_t saved;
	int running;
	int n;
	int i;

	block_signals(&saved);
	http->turns++;
	do
	{
		n = epoll_wait(http->epfd, events, 64, 0);
		for (i = 0; i < n; i++)
		{
			int mask = (events[i].events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
			           (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
			           (events[i].events & EPOLLERR ? CURL_CSELECT_ERR : 0);

			curl_multi_socket_action(http->multi, events[i].data.fd, mask, &running);
		}
	} while (n == 64);
	if (http->timer >= 0 && http->timer <= kt_http_now())
	{
		http->timer = -1;
		curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	collect(http); /* first: an answer that came before we noticed that its time is up counts */
	expire(http, kt_http_now());
	restore_signals(&saved);
}

static void
fill_answer(KtHttpTransfer *t, KtHttpAnswer *answer)
{
	curl_off_t retry_after = info_off(t, CURLINFO_RETRY_AFTER);

	memset(answer, 0, sizeof(*answer));
	answer->owner = t->owner;
	answer->curl_code = t->curl_code;
	answer->error = t->own_words != NULL  ? t->own_words
	                : t->error[0] != '\0' ? t->error
	                                      : curl_easy_strerror((CURLcode) t->curl_code);
	answer->bytes_sent = info_long(t, CURLINFO_REQUEST_SIZE);
	answer->too_large = t->too_large;
	answer->status = (int) info_long(t, CURLINFO_RESPONSE_CODE);
	answer->body = t->answer.data != NULL ? t->answer.data : "";
	answer->body_len = t->answer.len;
	answer->retry_after = retry_after > 0 ? retry_after : -1;
	answer->date = t->date;
	answer->total_us = info_off(t, CURLINFO_TOTAL_TIME_T);
	answer->reused = info_long(t, CURLINFO_NUM_CONNECTS) == 0 && answer->status != 0;
}

KtHttpTransfer *
kt_http_reap(KtHttp *http, KtHttpAnswer *answer)
{
	KtHttpTransfer *t = http->ended;

	if (t == NULL)
		return NULL;
	ended_remove(http, t);
	fill_answer(t, answer);
	return t;
}

void
kt_http_release(KtHttp *http, KtHttpTransfer *t)
{
	t->owned = false;
	http->active--;
	transfer_recycle(http, t);
}

int64_t
kt_http_abort(KtHttp *http, KtHttpTransfer *t)
{
	int64_t sent = info_long(t, CURLINFO_REQUEST_SIZE);
	sigset_t saved;

	if (t->ended)
		ended_remove(http, t);
	else if (t->in_multi)
	{
		block_signals(&saved);
		withdraw(http, t);
		restore_signals(&saved);
	}
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
	http->epfd = epoll_create1(EPOLL_CLOEXEC);
	http->multi = curl_multi_init();
	if (http->epfd < 0 || http->multi == NULL ||
	    curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_socket) != CURLM_OK ||
	    curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http) != CURLM_OK ||
	    curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_timer) != CURLM_OK ||
	    curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http) != CURLM_OK ||
	    curl_multi_setopt(http->multi, CURLMOPT_PIPELINING, (long) CURLPIPE_NOTHING) != CURLM_OK ||
	    curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long) max_connections) != CURLM_OK)
	{
		kt_http_destroy(http);
		return NULL;
	}
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
		transfer_free(t);
	}
	if (http->parked > 0)
		return; /* cleaning up would wait for a resolver thread: the process is about to end, leak */
	if (http->multi != NULL)
		curl_multi_cleanup(http->multi);
	if (http->epfd >= 0)
		close(http->epfd);
	free(http);
}

int
kt_http_fd(const KtHttp *http)
{
	return http->epfd;
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
