/*
 * The receiver's listening sockets: bound in the postmaster, inherited by every process of the server.
 */
#ifndef KT_LISTEN_H
#define KT_LISTEN_H

#include "netaddr.h"
#include "shmem.h"

/* Entries of kridtech.webhook_listen; a server has one or two. */
#define KT_MAX_LISTENERS 32

typedef struct KtListener
{
	char database[NAMEDATALEN];                   /* "": the first of kridtech.databases */
	char text[KT_NETADDR_NAME + KT_NETADDR_TEXT]; /* where it is bound, or the faulty entry */
	bool loopback;
	int fd;                      /* -1: see problem */
	char problem[KT_MAX_STATUS]; /* why it is not bound, "" when it is */
} KtListener;

/*
 * Binds what kridtech.webhook_listen names. From _PG_init() in the postmaster only. What cannot be bound
 * is a WARNING, and a fault that kridtech.health shows; the server starts all the same.
 */
extern void kt_listen_install(void);

/* The entries, in any process of the server: none where the library was not preloaded. */
extern int kt_listen_count(void);
extern const KtListener *kt_listen_get(int i);

/* Whether the entry is that database's, as kridtech.databases is now; and whether any entry is. */
extern bool kt_listen_is_for(const KtListener *listener, const char *database);
extern bool kt_listen_any_for(const char *database);

/*
 * From now on connections are accepted, or wait until they are: also over the end of this process. Words
 * in problem when that fails. No change where it is so already.
 */
extern bool kt_listen_start(const KtListener *listener, char *problem, size_t size);

/* From now on connections are refused, those that wait to be accepted reset. No change where it is so already. */
extern void kt_listen_stop(const KtListener *listener);

extern bool kt_listen_is_on(const KtListener *listener);

#endif /* KT_LISTEN_H */
