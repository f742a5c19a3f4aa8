/*
 * The inside of an HTTP server, shared by httpd.c, haccept.c (who is let in), hdaemon.c (the
 * library) and hrequest.c (its requests).
 */
#ifndef KT_HSERVER_H
#define KT_HSERVER_H

#include <microhttpd.h>

#include "hcert.h"
#include "hconn.h"
#include "hgate.h"
#include "httpd.h"

/* Answers that differ only in their status share a response; none of them has a body. */
typedef enum KtHserverReply
{
	KT_HSERVER_KEEP,        /* the connection stays open if its client likes */
	KT_HSERVER_CLOSE,       /* it is closed */
	KT_HSERVER_ALLOW_POST,  /* closed, with Allow */
	KT_HSERVER_ALLOW_HEALTH /* the same for /healthz */
} KtHserverReply;

#define KT_HSERVER_REPLIES (KT_HSERVER_ALLOW_HEALTH + 1)

struct KtHttpd
{
	struct MHD_Daemon *daemon;
	struct MHD_Response *replies[KT_HSERVER_REPLIES];

	/* a copy of the options; tokens and path are ours, what concerns TLS is in cert */
	KtHttpdOptions options;
	KtHgateRoute route;
	KtHcert *cert; /* what new connections show; NULL: plain HTTP */

	KtHconnSet conns;
	int entering;       /* connections given to the library that it has not begun with */
	KtHconn *untaken;   /* the first in KT_HCONN_WAITING that nobody has taken */
	size_t body_memory; /* of all bodies that were not answered */
	size_t body_peak;   /* the most of that since memory was given back */
	bool resumed;       /* connections that the library must hear of */
	uint64_t moved;     /* counts what happens in the library's turns */
	bool stalled;       /* nothing did in the last one, whatever the library says */
	int fruitless; /* turns in a row that the library wanted at once and in which nothing happened */
	int64_t turn_at; /* when it has its next turn after such ones, or after a stall */
	bool healthy;
	bool quiescing;
	bool ending;
	KtHttpdCounters counters;

	int epfd; /* holds the library's and the sockets */
	int nsockets;
	int *sockets;
	bool listening;       /* the sockets are in epfd */
	int64_t paused_until; /* out of descriptors or memory: nothing is accepted before */
};

/* The library's entry in epfd; a socket's is its number, a lingering connection's its address. */
#define KT_HSERVER_LIBRARY UINT64_MAX

/* The library: started, given its turn, stopped with all its connections. */
extern bool kt_hdaemon_start(KtHttpd *httpd);
extern void kt_hdaemon_run(KtHttpd *httpd);
extern void kt_hdaemon_stop(KtHttpd *httpd);

/* When the library is to have its next turn whatever the sockets bring; 0: at once, -1: it need not. */
extern int64_t kt_hdaemon_deadline(const KtHttpd *httpd);

/* Looks at what epfd says of the sockets and of lingering connections: accepts, reads and forgets. */
extern void kt_haccept_look(KtHttpd *httpd);

/* Puts the listening sockets into epfd, or takes them out of it. */
extern void kt_haccept_listen(KtHttpd *httpd, bool listening);

/* Does one or the other, as it can be served. */
extern void kt_haccept_review(KtHttpd *httpd);

/*
 * True when all places are taken, by clients that have shown a whole head each, and another waits for one: then
 * answers close their connections. Where a head is still waited for, that one makes room.
 */
extern bool kt_haccept_is_crowded(const KtHttpd *httpd);

/* When the first client that owes us a head, or is idle, may have been waited for long enough; -1: there is none. */
extern int64_t kt_haccept_patience(const KtHttpd *httpd);

/* The library's callbacks about requests. cls is the server. */
extern enum MHD_Result kt_hrequest_handle(void *cls, struct MHD_Connection *mhd, const char *target,
                                          const char *method, const char *version,
                                          const char *bytes, size_t *len, void **request);
extern void kt_hrequest_line(void *cls, struct MHD_Connection *mhd);
extern void kt_hrequest_completed(void *cls, struct MHD_Connection *mhd, void **request,
                                  enum MHD_RequestTerminationCode how);

/* Gives up a connection's body, in the server's total too. To kept, unless NULL. */
extern void kt_hrequest_release_body(KtHttpd *httpd, KtHconn *conn, KtBuf *kept);

/* Counts an answer. */
extern void kt_hrequest_count(KtHttpd *httpd, int status);

/* The connection that the library means; NULL while it is not ours yet. */
extern KtHconn *kt_hrequest_conn(struct MHD_Connection *mhd);

#endif /* KT_HSERVER_H */
