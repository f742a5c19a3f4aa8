/*
 * An asynchronous HTTP server on libmicrohttpd: one pollable fd, one deadline, one step.
 *
 * The owner waits until kt_httpd_fd() is readable or kt_httpd_deadline() has passed, calls
 * kt_httpd_step(), takes deliveries whose whole body is in with kt_httpd_take(), and answers each with
 * kt_httpd_answer(). Everything that needs no database is answered here: a wrong path, token, method,
 * framing or size, a client that is too slow. Nothing here blocks, throws or knows of PostgreSQL.
 *
 * The URL is compared byte for byte, so no encoding leads to it; a query after it is ignored. Whatever is refused
 * before its body is read is answered and its connection closed. The owner's process ignores SIGPIPE.
 */
#ifndef KT_HTTPD_H
#define KT_HTTPD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "buf.h"

typedef struct KtHttpd KtHttpd;

/* A block of addresses: IPv4 or IPv6 and how many of its leading bits count. */
typedef struct KtHttpdNetwork
{
	struct sockaddr_storage address;
	int prefix;
} KtHttpdNetwork;

/* How to serve. Everything is copied by kt_httpd_create() and kt_httpd_configure(). */
typedef struct KtHttpdOptions
{
	const char *path; /* such as "/webhook": begins with a slash */
	/* the URL is <path>/<token>, for any of them; none: the path alone */
	const char *const *tokens;
	int ntokens;
	size_t max_body;     /* bytes */
	size_t max_bodies;   /* of all that are not answered, in memory; 0: KT_MAX_BODIES */
	int max_connections; /* in all; those beyond wait unaccepted in the kernel */
	/* per IPv4 address or IPv6 network of 64 bits, loopback and trusted proxies excepted; 0: no limit */
	int max_per_address;
	/* from a connection's beginning, or from a later request's first line, to the end of its head */
	int64_t header_us;
	int64_t body_us;      /* from there to the body's end */
	int64_t idle_us;      /* from an answer to the next request's line; to send an answer, too */
	const char *tls_cert; /* PEM, the chain; NULL: plain HTTP */
	const char *tls_key;  /* PEM */
	const KtHttpdNetwork *proxies; /* whose X-Forwarded-For is believed */
	int nproxies;
} KtHttpdOptions;

/* A delivery whose body is in whole. Owned by the server until it is answered. */
typedef struct KtHttpdDelivery
{
	const char *body; /* never NULL; not NUL-terminated for the reader's purposes */
	size_t len;
	struct sockaddr_storage client; /* behind a trusted proxy: the address it names */
	int64_t arrived; /* when the kernel got its last byte, on kt_http_now()'s clock */
	void *owner;     /* the owner's to use */
} KtHttpdDelivery;

/* What it has done since it was created. */
typedef struct KtHttpdCounters
{
	int connections;   /* open now */
	uint64_t accepted; /* connections */
	uint64_t refused;  /* connections, over an address's share or for want of memory */
	uint64_t requests; /* whose headers came whole */
	/* answers, but those by which the library itself refuses what it cannot parse */
	uint64_t answers_2xx;
	uint64_t answers_4xx;
	uint64_t answers_5xx;
	uint64_t timeouts;       /* connections closed for being too slow */
	uint64_t cut_for_room;   /* or before, for others */
	uint64_t bytes_received; /* of bodies */
} KtHttpdCounters;

/* Microseconds on the monotonic clock: the same clock as kt_http_now(). */
extern int64_t kt_httpd_now(void);

/*
 * Serves listening, non-blocking sockets, which stay the caller's and must outlive the server. NULL, with
 * words in error, when the library refuses, or when the certificate or key is unfit.
 */
extern KtHttpd *kt_httpd_create(const KtHttpdOptions *options, const int *sockets, int nsockets,
                                char *error, size_t size);

/*
 * Serves as those options say from now on: connections that are open stay open and keep the certificate
 * they began with. False, with words in error and everything as it was, when the certificate or key is
 * unfit or TLS is to be turned on or off (which needs a new server).
 */
extern bool kt_httpd_configure(KtHttpd *httpd, const KtHttpdOptions *options, char *error,
                               size_t size);

/* When the certificate in use ends, as Unix time; -1: plain HTTP. */
extern int64_t kt_httpd_certificate_end(const KtHttpd *httpd);

/* Judges a pair without using it, and tells when it ends. */
extern bool kt_httpd_judge_pair(const char *cert, const char *key, int64_t *end, char *error,
                                size_t size);

/* An epoll fd, readable when kt_httpd_step() has work. */
extern int kt_httpd_fd(const KtHttpd *httpd);

/* When kt_httpd_step() must be called at the latest, on kt_httpd_now()'s clock; -1: no deadline. */
extern int64_t kt_httpd_deadline(const KtHttpd *httpd);

/* Moves every connection as far as it goes without blocking. */
extern void kt_httpd_step(KtHttpd *httpd);

/* The next delivery that nobody has taken, in the order in which they came in, or NULL. */
extern KtHttpdDelivery *kt_httpd_take(KtHttpd *httpd);

/*
 * Answers a delivery with that status and an empty body; it is gone then. Its client may be gone already.
 * kept, unless NULL, is a freed or never used buffer that gets the body: for what is to be stored later.
 */
extern void kt_httpd_answer(KtHttpd *httpd, KtHttpdDelivery *delivery, int status, KtBuf *kept);

/* Deliveries whose body is in and that are not answered. */
extern int kt_httpd_waiting(const KtHttpd *httpd);

/* What GET /healthz is answered: 200, or 503. 200 at first. */
extern void kt_httpd_set_healthy(KtHttpd *httpd, bool healthy);

/*
 * Accepts nothing more, for good: who connects waits for the next server on the socket. Connections that are
 * open are served on, and closed after their next answer.
 */
extern void kt_httpd_quiesce(KtHttpd *httpd);

/* Answers still on their way out to their clients: give it steps until there are none, then destroy it. */
extern int kt_httpd_leaving(const KtHttpd *httpd);

/* How many connections it holds at a time: max_connections. */
extern int kt_httpd_places(const KtHttpd *httpd);

/* Connections on which something goes on: those that are open, less those between two requests. */
extern int kt_httpd_busy(const KtHttpd *httpd);

extern void kt_httpd_counters(const KtHttpd *httpd, KtHttpdCounters *counters);

/* Closes every connection, never a socket of the caller's. Deliveries that were not answered are gone. */
extern void kt_httpd_destroy(KtHttpd *httpd);

#endif /* KT_HTTPD_H */
