/*
 * One transfer of the HTTP client: its libcurl handle, what it sends, what has come of it.
 *
 * The callbacks run inside libcurl, so nothing here may throw or longjmp.
 *
 * Why a request leaves at most once. libcurl sends a POST a second time by itself when a re-used connection
 * dies before the first byte of an answer: on a new connection, for which it asks on_open_socket(), or on
 * another one that is kept open. Before it sends anything, on whatever connection, it asks on_request_begins()
 * (from libcurl 7.80 on). Both refuse once something has left. So a body can be given to libcurl in one piece,
 * and leaves in one segment with its head. A large body, and every one before 7.80, is handed out by
 * on_body_wanted(), strictly forward, and there is no seek callback: it could not be rewound either
 * (CURLE_SEND_FAIL_REWIND, measured with 7.88). HTTP/2 has a silent retry of its own, hence HTTP/1.1 only.
 * Redirects are never followed.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* explicit_bzero */
#endif
#include "transfer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/*
 * Bodies up to so many bytes are given to libcurl in one piece. (It sends those of up to 64 kB with the head, and
 * none before PREREQFUNCTION is there to keep it from repeating them.)
 */
#if LIBCURL_VERSION_NUM >= 0x075000
#define ONE_PIECE ((size_t) 16 * 1024)
#else
#define ONE_PIECE ((size_t) 0)
#endif

/* Idle seconds after which a kept connection is not used again: below the idle limit of any server we know. */
#define IDLE_CONNECTION_SECONDS 15L

/* A changed CA bundle is noticed after this many seconds. */
#define CA_CACHE_SECONDS 60L

/* libcurl's own time-outs are set out of the way: http.c keeps the deadlines. */
#define NEVER_MS (24L * 3600 * 1000)

/* ---- callbacks: inside libcurl, no exit but return ------------------------------------------------ */

/*
 * Bytes of the request known to have left. Up to libcurl 8.6 CURLINFO_REQUEST_SIZE counts what its first try to send
 * took, in 8.7 nothing at all, from 8.8 on everything. What it misses of a whole request, the body's count has, but
 * that is set back to 0 before libcurl sends once more, or fails to rewind the body for it.
 */
static int64_t
bytes_left(KtHttpTransfer *t)
{
	long sent = 0;
	curl_off_t body = 0;

	curl_easy_getinfo(t->easy, CURLINFO_REQUEST_SIZE, &sent);
	if (sent == 0)
		curl_easy_getinfo(t->easy, CURLINFO_SIZE_UPLOAD_T, &body);
	if (sent == 0 && body == 0 && (t->repeated || t->curl_code == CURLE_SEND_FAIL_REWIND))
		return 1;
	return sent + body;
}

/* Whether CURLINFO_REQUEST_SIZE is 0 only if nothing has left, whatever libcurl has done since. */
static bool
counts_all(void)
{
	return curl_version_info(CURLVERSION_NOW)->version_num >= 0x080800;
}

/*
 * Whether libcurl is about to send a POST a second time: something of it has left already, or may have. That it asks
 * on_open_socket() or on_request_begins() after on_request_begins() once more means that it has tried.
 */
static bool
is_repetition(KtHttpTransfer *t)
{
	if (t->body == NULL)
		return false;
	if (t->begun && !counts_all())
		t->repeated = true;
	if (bytes_left(t) == 0)
		return false;
	t->own_words = "the connection was lost before an answer came";
	return true;
}

/* The one way to a new connection; a transfer that was given up, or may not go there, gets no socket. */
static curl_socket_t
on_open_socket(void *userp, curlsocktype purpose, struct curl_sockaddr *address)
{
	KtHttpTransfer *t = userp;

	if (purpose != CURLSOCKTYPE_IPCXN || t->barred || is_repetition(t))
		return CURL_SOCKET_BAD;
	if (t->loopback_only && !kt_address_is_loopback(&address->addr))
		return CURL_SOCKET_BAD;
	if (!kt_download_may_open(&t->download, &address->addr))
		return CURL_SOCKET_BAD;
	t->last_socket = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
	kt_sockets_opened(t->sockets, t->last_socket, kt_download_is_wanted(&t->download));
	return t->last_socket;
}

/* The connection may have outlived the transfer it was opened for. */
static int
on_close_socket(void *userp, curl_socket_t fd)
{
	kt_sockets_closed(userp, fd);
	return close(fd);
}

#if LIBCURL_VERSION_NUM >= 0x075000
/* Before libcurl sends the request, each time: on a new connection, or on another idle one. */
static int
on_request_begins(void *userp, char *peer, char *local, int peer_port, int local_port)
{
	KtHttpTransfer *t = userp;

	(void) peer;
	(void) local;
	(void) peer_port;
	(void) local_port;
	if (t->barred || is_repetition(t))
		return CURL_PREREQFUNC_ABORT;
	t->begun = true;
	return CURL_PREREQFUNC_OK;
}
#endif

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

	if (kt_download_is_wanted(&t->download))
		return kt_download_body(&t->download, bytes, size * nmemb);
	if (kt_buf_append(&t->answer, bytes, size * nmemb))
		return size * nmemb;
	t->too_large = true;
	return 0;
}

/* Called with one whole header line at a time, the status lines included, not NUL-terminated. */
static size_t
on_answer_header(char *line, size_t size, size_t nmemb, void *userp)
{
	KtHttpTransfer *t = userp;
	size_t len = size * nmemb;

	if (!kt_answerhead_line(&t->head, t->easy, line, len))
	{
		t->too_large = true;
		return 0;
	}
	if (kt_download_is_wanted(&t->download))
		kt_download_header(&t->download, line, len);
	return len;
}

/* ---- the handle ---------------------------------------------------------------------------------- */

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
	SET(CURLOPT_CLOSESOCKETFUNCTION, on_close_socket);
	SET(CURLOPT_CLOSESOCKETDATA, (void *) t->sockets);
#if LIBCURL_VERSION_NUM >= 0x075000
	SET(CURLOPT_PREREQFUNCTION, on_request_begins);
	SET(CURLOPT_PREREQDATA, (void *) t);
#endif
	SET(CURLOPT_READFUNCTION, on_body_wanted);
	SET(CURLOPT_READDATA, (void *) t);
	SET(CURLOPT_WRITEFUNCTION, on_answer_body);
	SET(CURLOPT_WRITEDATA, (void *) t);
	SET(CURLOPT_HEADERFUNCTION, on_answer_header);
	SET(CURLOPT_HEADERDATA, (void *) t);
#undef SET
	return ok;
}

void
kt_transfer_free(KtHttpTransfer *t)
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

KtHttpTransfer *
kt_transfer_make(KtSockets *sockets, const char *ca_file)
{
	KtHttpTransfer *t = calloc(1, sizeof(KtHttpTransfer));

	if (t == NULL)
		return NULL;
	t->deadline = -1;
	t->sockets = sockets;
	t->easy = curl_easy_init();
	if (ca_file != NULL)
		t->ca_file = strdup(ca_file);
	if (t->easy == NULL || !set_fixed_options(t) || !same_string(t->ca_file, ca_file) ||
	    (ca_file != NULL && curl_easy_setopt(t->easy, CURLOPT_CAINFO, ca_file) != CURLE_OK))
	{
		kt_transfer_free(t);
		return NULL;
	}
	return t;
}

bool
kt_transfer_trusts(const KtHttpTransfer *t, const char *ca_file)
{
	return same_string(t->ca_file, ca_file);
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
	       curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS,
	                        t->body_len <= ONE_PIECE ? t->body : NULL) == CURLE_OK &&
	       curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) t->body_len) ==
	           CURLE_OK;
}

/*
 * A POST without a byte of body needs no rewinding: only a new connection keeps libcurl from repeating it. And a
 * download goes to no address that was not judged for it.
 */
static long
needs_fresh_connection(const KtHttpRequest *request)
{
	return (request->body != NULL && request->body_len == 0) || request->download != NULL;
}

bool
kt_transfer_prepare(KtHttpTransfer *t, const KtHttpRequest *request)
{
	kt_buf_reset(&t->answer, SIZE_MAX);
	t->answer.max = request->max_answer;
	t->body_len = t->body_taken = 0;
	kt_answerhead_reset(&t->head);
	t->too_large = t->barred = t->begun = t->repeated = false;
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
	       kt_download_prepare(&t->download, t->easy, request) && set_headers(t, request) &&
	       set_body(t, request);
}

void
kt_transfer_forget(KtHttpTransfer *t, size_t keep)
{
	forget_request(t);
	kt_buf_reset(&t->answer, keep);
}

/* ---- what has come of it: until it has begun, libcurl's figures are those of the transfer before -------- */

static bool
has_begun(const KtHttpTransfer *t)
{
	return t->added != *t->turns;
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

bool
kt_transfer_resolving(KtHttpTransfer *t)
{
	return has_begun(t) && info_off(t, CURLINFO_NAMELOOKUP_TIME_T) == 0;
}

bool
kt_transfer_connected(KtHttpTransfer *t)
{
	return info_off(t, CURLINFO_PRETRANSFER_TIME_T) > 0;
}

int64_t
kt_transfer_sent(KtHttpTransfer *t)
{
	return has_begun(t) ? bytes_left(t) : 0;
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

const char *
kt_transfer_phase(KtHttpTransfer *t)
{
	/* in this order: on a re-used connection the times before the last of these are 0 */
	if (info_long(t, CURLINFO_RESPONSE_CODE) != 0)
		return "timed out while reading the answer";
	if (kt_transfer_sent(t) != 0)
		return "timed out while waiting for the answer";
	if (info_off(t, CURLINFO_NAMELOOKUP_TIME_T) == 0)
		return "timed out while resolving the host's name";
	if (info_off(t, CURLINFO_CONNECT_TIME_T) == 0 && !has_peer(t))
		return "timed out while connecting";
	return "timed out in the TLS handshake";
}

/* Failures of a transfer that tell of the answer, not of the network. */
static bool
is_of_the_answer(int curl_code)
{
	return curl_code == CURLE_WEIRD_SERVER_REPLY || curl_code == CURLE_UNSUPPORTED_PROTOCOL ||
	       curl_code == CURLE_BAD_CONTENT_ENCODING || curl_code == CURLE_WRITE_ERROR;
}

void
kt_transfer_answer(KtHttpTransfer *t, KtHttpAnswer *answer)
{
	memset(answer, 0, sizeof(*answer));
	answer->owner = t->owner;
	answer->curl_code = t->curl_code;
	answer->error = t->own_words != NULL  ? t->own_words
	                : t->error[0] != '\0' ? t->error
	                                      : curl_easy_strerror((CURLcode) t->curl_code);
	answer->bytes_sent = kt_transfer_sent(t);
	answer->too_large = t->too_large;
	answer->unreadable = t->too_large || is_of_the_answer(t->curl_code);
	answer->status = (int) info_long(t, CURLINFO_RESPONSE_CODE);
	answer->body = t->answer.data != NULL ? t->answer.data : "";
	answer->body_len = t->answer.len;
	answer->retry_after = kt_answerhead_retry_after(&t->head);
	answer->date = t->head.date;
	answer->total_us = info_off(t, CURLINFO_TOTAL_TIME_T);
	answer->reused = info_long(t, CURLINFO_NUM_CONNECTS) == 0 && answer->status != 0;
	kt_download_answer(&t->download, answer);
}
