/*
 * One connection of the HTTP server: where it stands, since when, and the request that it carries.
 *
 * For httpd.c and hrequest.c alone. Every connection stands in exactly one phase; each phase has a list in the
 * order of entering, so that the first of a list is the next whose time is up, at no cost.
 */
#ifndef KT_HCONN_H
#define KT_HCONN_H

#include <microhttpd.h>

#include "buf.h"
#include "haddress.h"
#include "hcert.h"
#include "httpd.h"

typedef enum KtHconnPhase
{
	KT_HCONN_HEADERS, /* a request is waited for, or its headers: from the connection's first moment */
	KT_HCONN_BODY,    /* headers are in */
	KT_HCONN_WAITING, /* a delivery is in and not answered; the library looks at the connection no more */
	KT_HCONN_LEAVING, /* an answer was given and is not out yet */
	KT_HCONN_IDLE,    /* between two requests */
	KT_HCONN_CUT,     /* its socket is shut down; the library has still to notice */
	KT_HCONN_LINGERING /* the library is done with it; we read and forget what its client still sends */
} KtHconnPhase;

#define KT_HCONN_PHASES (KT_HCONN_LINGERING + 1)
#define KT_HCONN_BUCKETS 1024

typedef struct KtHconn
{
	KtHttpdDelivery delivery; /* must stay first: the owner's pointer to it is a pointer to this */
	struct MHD_Connection *mhd; /* NULL: the library has not begun with it, or is done with it */
	int fd;                     /* the library's, but ours while the connection lingers */
	struct sockaddr_storage peer;
	KtHaddressKey key; /* of peer */
	KtHcert *cert;
	uint64_t *moved; /* where it counts what it moves through TLS */
	bool met;        /* the head of its first request was judged */
	bool heard;      /* its client has sent something */
	bool spoken;     /* we have, in TLS */
	bool slow;       /* it was found to owe us a head for longer than anybody may */
	int64_t look_at; /* when it may have had its time: see haccept.c */

	KtHconnPhase phase;
	int64_t since; /* in this phase */
	struct KtHconn *prev;
	struct KtHconn *next;
	struct KtHconn *bucket_prev;
	struct KtHconn *bucket_next;

	bool whole; /* the request's headers were judged */
	bool health;
	bool last;    /* the connection is closed after the answer */
	bool lingers; /* it was refused while its client may still be sending */
	int status;   /* of the answer; 0: none was given */
	KtBuf body;
	size_t counted; /* of body's memory, in the server's total */
} KtHconn;

typedef struct KtHconnList
{
	KtHconn *head;
	KtHconn *tail;
	int count;
} KtHconnList;

/* All of a server's. */
typedef struct KtHconnSet
{
	int count;
	KtHconnList phases[KT_HCONN_PHASES];
	KtHconn *buckets[KT_HCONN_BUCKETS]; /* by address */
} KtHconnSet;

/* Enters a connection in its first phase. It holds cert. NULL when memory is out. */
extern KtHconn *kt_hconn_add(KtHconnSet *set, int fd, const struct sockaddr_storage *peer,
                             KtHcert *cert);

/* Forgets it and frees it, its body too. The socket is the library's to close, unless it lingers. */
extern void kt_hconn_remove(KtHconnSet *set, KtHconn *conn);

extern void kt_hconn_move(KtHconnSet *set, KtHconn *conn, KtHconnPhase phase, int64_t now);

/*
 * Takes a TLS session's reading and writing over, so that it counts in *moved what goes through, and keeps
 * GnuTLS from writing its secrets to the file that SSLKEYLOGFILE names.
 */
extern void kt_hconn_secure(KtHconn *conn, gnutls_session_t session, uint64_t *moved);

/* True when bytes that came through TLS have not been read by the library. */
extern bool kt_hconn_is_pending(const KtHconn *conn);

/* How many connections count under that address. */
extern int kt_hconn_count(const KtHconnSet *set, const struct sockaddr_storage *peer);

/*
 * When the kernel got the last bytes from its client, on kt_httpd_now()'s clock: we may be reading them much later,
 * and the connection may have waited to be accepted. Some milliseconds coarse.
 */
extern int64_t kt_hconn_last_bytes(const KtHconn *conn);

/* What the kernel knows of what a client has sent so far, on a connection that has brought no request yet. */
typedef struct KtHconnHeard
{
	bool nothing;
	bool disturbed; /* connecting took more than one try: what it says may be late, too */
	bool
		trickle; /* it came in smaller segments than anybody sends who has more to say, and none was lost */
	int64_t last; /* when the last of it came, or, with nothing, the client had connected */
	int64_t trip; /* to the client and back, in microseconds */
} KtHconnHeard;

/* False where that cannot be known: the kernel is too old, or its socket is no TCP one. */
extern bool kt_hconn_hear(const KtHconn *conn, KtHconnHeard *heard);

/* True while the kernel holds nothing that its client has sent. */
extern bool kt_hconn_is_silent(const KtHconn *conn);

/*
 * Says a status past the library, as far as the socket takes it at once: for where the library takes no answer,
 * which is before a request is whole. Nothing may be said on the connection after it.
 */
extern void kt_hconn_say(KtHconn *conn, int status);

/*
 * Keeps the socket beyond the library's closing it: closed with bytes unread, the kernel would reset the
 * connection, and the answer with it. False when that fails. Then its fd is to be watched and drained.
 */
extern bool kt_hconn_linger(KtHconnSet *set, KtHconn *conn, int64_t now);

/* Reads and forgets what a lingering client sends. False: it has closed, or need not be waited for. */
extern bool kt_hconn_drain(KtHconn *conn);

/* Shuts the socket down, which makes the library close the connection. */
extern void kt_hconn_cut(KtHconnSet *set, KtHconn *conn, int64_t now);

#endif /* KT_HCONN_H */
