/*
 * A load generator of webhooks, in one thread: what its files share.
 *
 * load.c    options, the loop, the report
 * conn.c    one connection: connecting, TLS, sending a webhook, reading its answer
 * holder.c  connections that only hold: idle ones, and ones that send little
 * body.c    the documented webhook, with a transcript
 *
 * Every answer is checked; a webhook that is not answered with 2xx is a failure and is told.
 */
#ifndef LOAD_H
#define LOAD_H

#include <gnutls/gnutls.h>
#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* An answer's status line, headers and body: an error page of the alternatives fits. */
#define ANSWER_MAX 8192

typedef struct Target
{
	struct sockaddr_storage address;
	socklen_t address_len;
	char host[256]; /* as the Host header has it, with the port */
	char path[512];
	bool tls;
	bool fresh; /* a connection of its own for each webhook */
	gnutls_certificate_credentials_t credentials;
} Target;

/* A whole request; the places of the call's ID in it are overwritten for each webhook. */
typedef struct Request
{
	char *bytes;
	size_t len;
	size_t head_len; /* where the body begins */
	size_t id_at[2];
} Request;

/* Digits of a call's ID after its prefix. */
#define ID_DIGITS 9

typedef enum ConnState
{
	CONN_CLOSED,
	CONN_CONNECTING,
	CONN_HANDSHAKE,
	CONN_FREE,      /* open, no webhook under way */
	CONN_SENDING,   /* a webhook is on its way, not whole yet */
	CONN_RECEIVING, /* sent, not answered */
} ConnState;

/* What conn_advance() came to. */
typedef enum ConnResult
{
	CONN_PENDING,
	CONN_OPENED,   /* may take a webhook now */
	CONN_ANSWERED, /* with 2xx */
	CONN_FAILED,   /* failure says why; the connection is closed */
} ConnResult;

typedef struct Conn
{
	int fd;
	ConnState state;
	gnutls_session_t tls;
	Request request;
	size_t sent;
	bool waiting_webhook; /* one is to be sent as soon as the connection is open */
	int64_t started;      /* when the webhook under way is counted from, in nanoseconds */
	int64_t freed;        /* when the connection became free */
	bool last;            /* the server has said that it closes after this answer */
	char failure[128];
	size_t received;
	char answer[ANSWER_MAX];
} Conn;

/* body.c */
extern void request_build(Request *request, const Target *target, const char *prefix, size_t size,
                          unsigned seed);
extern void request_set_id(Request *request, long number);

/* conn.c; epoll events of a connection carry its address. */
extern bool conn_open(Conn *conn, const Target *target, int epoll);
extern ConnResult conn_start(Conn *conn);
extern ConnResult conn_advance(Conn *conn);
extern void conn_check(Conn *conn);
extern void conn_close(Conn *conn);
extern int socket_to(const Target *target);

/* holder.c */
typedef enum HolderKind
{
	HOLDER_IDLES,
	HOLDER_DRIPS,
	HOLDER_LINES
} HolderKind;

extern bool holders_open(const Target *target, int n, HolderKind how);
extern int holders_fd(void);
extern void holders_step(int64_t now);
extern long holders_reopened(void);

/* load.c */
extern int64_t now_ns(void);
extern void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
extern void *must_alloc(size_t size);

#endif /* LOAD_H */
