/*
 * An asynchronous HTTP client on libcurl's multi interface: one pollable fd, one deadline, one step.
 *
 * The owner waits until kt_http_fd() is readable or kt_http_deadline() has passed, calls
 * kt_http_step(), and takes finished transfers with kt_http_reap(). Nothing here blocks, throws or
 * knows of PostgreSQL.
 *
 * What it guarantees for a request with a body: libcurl is never let send it a second time by itself
 * (transfer.c), so at most one copy of the request reaches a server.
 */
#ifndef KT_HTTP_H
#define KT_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct KtHttpAnswer;
struct sockaddr;

typedef struct KtHttp KtHttp;
typedef struct KtHttpTransfer KtHttpTransfer;

/* What a sink did with the bytes it was given. */
typedef enum KtHttpSunk
{
	KT_HTTP_TAKEN,
	KT_HTTP_WAIT, /* nothing of them: they come again after kt_http_resume() */
	KT_HTTP_STOP  /* the transfer is to fail */
} KtHttpSunk;

/*
 * For a body that is too large to be kept, from a server that is not trusted. sink and allow_address are called
 * inside libcurl: they may neither throw nor call anything of this file. on_end is called by kt_http_reap(), which
 * does not return such a transfer but releases it after that call.
 *
 * The body reaches sink as it arrives, without decoding, and only if the status is 200 and the header says where
 * the body ends; a transfer that ends with CURLE_OK and status 200 has handed all of it on. The connection is a
 * new one, to an address that allow_address has let pass, and closed at the end.
 */
typedef struct KtHttpDownload
{
	KtHttpSunk (*sink)(void *owner, const char *bytes, size_t len);
	bool (*allow_address)(void *owner, const struct sockaddr *address);
	void (*on_end)(void *owner, const struct KtHttpAnswer *answer);
	int64_t max_bytes;
} KtHttpDownload;

/* What to send. Everything is copied at kt_http_submit(), except ca_file and user_agent, which are too. */
typedef struct KtHttpRequest
{
	const char *url;            /* absolute, https or http */
	const char *const *headers; /* "Name: value" lines, NULL-terminated list; or NULL */
	const char *body;           /* NULL makes a GET, anything else a POST */
	size_t body_len;
	size_t max_answer;       /* cap on the (decoded) answer body, in bytes */
	long connect_timeout_ms; /* DNS, TCP and TLS together */
	long request_timeout_ms; /* the whole transfer */
	const char *user_agent;
	const char *ca_file;            /* extra CA bundle, or NULL */
	bool loopback_only;             /* refuse to connect to an address that is not loopback */
	void *owner;                    /* comes back in the answer */
	const KtHttpDownload *download; /* NULL: the body comes in the answer; else body must be NULL */
} KtHttpRequest;

/* How a transfer ended. The evidence an outcome is judged by; valid until kt_http_release(). */
typedef struct KtHttpAnswer
{
	void *owner;
	int curl_code;      /* CURLE_OK (0): an answer arrived whole */
	const char *error;  /* libcurl's words when curl_code is not 0; never holds a header or body */
	int64_t bytes_sent; /* 0 is the proof that no byte of the request left this machine */
	bool too_large;     /* we cut it at max_answer or KT_MAX_ANSWER_HEADERS */
	bool
		unreadable; /* the transfer failed because of what the answer is: too large, no HTTP, no gzip */
	int status;     /* HTTP status, 0 when none arrived */
	const char *body; /* never NULL */
	size_t body_len;
	int64_t
		retry_after; /* seconds from Retry-After, 0 for a time gone by, -1 when absent or senseless */
	int64_t date;    /* the Date header as Unix time, -1 when absent */
	int64_t total_us;         /* time the whole transfer took */
	bool reused;              /* went out on a kept-alive connection */
	const char *content_type; /* of a download, as it was sent; NULL when absent */
} KtHttpAnswer;

/* Microseconds on the monotonic clock. */
extern int64_t kt_http_now(void);

/* NULL when libcurl or the kernel refuses. At most max_connections are kept open. */
extern KtHttp *kt_http_create(int max_connections);
extern void kt_http_destroy(KtHttp *http);

/* Changes how many connections are kept open: as many as there are transfers at a time, or most are closed. */
extern void kt_http_keep(KtHttp *http, int max_connections);

/* An epoll fd, readable when kt_http_step() has work. Owned by http. */
extern int kt_http_fd(const KtHttp *http);

/* When kt_http_step() must be called at the latest, on kt_http_now()'s clock; -1: no deadline. */
extern int64_t kt_http_deadline(const KtHttp *http);

/* Starts a transfer. NULL when memory is out or the url is unusable: nothing was sent. */
extern KtHttpTransfer *kt_http_submit(KtHttp *http, const KtHttpRequest *request);

/* Moves every transfer as far as it goes without blocking. */
extern void kt_http_step(KtHttp *http);

/* A finished transfer that is no download, or NULL. Its answer stays valid until kt_http_release(). */
extern KtHttpTransfer *kt_http_reap(KtHttp *http, KtHttpAnswer *answer);

/* Goes on with a download whose sink said KT_HTTP_WAIT; it may be called at once. */
extern void kt_http_resume(KtHttp *http, KtHttpTransfer *transfer);

/* Gives a reaped transfer back. */
extern void kt_http_release(KtHttp *http, KtHttpTransfer *transfer);

/*
 * Gives up a transfer that was not reaped and returns how many bytes of it had left. Returns at once
 * even while a resolver thread is stuck, and nothing of the request is sent afterwards.
 */
extern int64_t kt_http_abort(KtHttp *http, KtHttpTransfer *transfer);

/* Transfers submitted and not yet released or aborted. */
extern int kt_http_active(const KtHttp *http);

#endif /* KT_HTTP_H */
