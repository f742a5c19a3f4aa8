/*
 * The sockets libcurl wants watched, in one epoll set.
 *
 * For http.c and transfer.c. Nothing here blocks, throws or knows of PostgreSQL.
 */
#ifndef KT_SOCKETS_H
#define KT_SOCKETS_H

#include <stdbool.h>
#include <stdint.h>

/* What is known of a file descriptor; by its number. */
typedef struct KtSocket
{
	bool opened;     /* by kt_sockets_opened() and not closed since: its number means this socket */
	bool pauses;     /* its transfer may be paused, and libcurl does not watch it then either */
	uint32_t wanted; /* EPOLLIN, EPOLLOUT: what libcurl waits for */
	uint32_t set;    /* what the kernel watches it for; 0: it is not in the epoll set */
} KtSocket;

typedef struct KtSockets
{
	int epfd;
	KtSocket *known;
	int nknown;
} KtSockets;

/* False when the kernel has no descriptor left. */
extern bool kt_sockets_init(KtSockets *sockets);
extern void kt_sockets_free(KtSockets *sockets);

/* A connection's socket was opened, or is about to be closed. Every one, or its number would mean another. */
extern void kt_sockets_opened(KtSockets *sockets, int fd, bool pauses);
extern void kt_sockets_closed(KtSockets *sockets, int fd);

/* Watches a socket for EPOLLIN, EPOLLOUT or both; 0: not any more. False when the kernel refuses. */
extern bool kt_sockets_watch(KtSockets *sockets, int fd, uint32_t wanted);

/* Calls ready for each socket that is; returns without waiting. */
extern void kt_sockets_poll(KtSockets *sockets, void (*ready)(void *arg, int fd, uint32_t events),
                            void *arg);

#endif /* KT_SOCKETS_H */
