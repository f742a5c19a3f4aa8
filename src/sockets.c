/*
 * The sockets libcurl wants watched, in one epoll set.
 *
 * libcurl stops watching a connection when a request on it ends, and watches it again for the next: three
 * system calls a request, taken literally. So a connection's socket stays in the set while it is idle. Should
 * something come from it then (the server closes it, as a rule), it is taken out, once, and shut down. libcurl looks
 * at a kept connection before it uses it, but from 8.22 on only where it has not done so for a second: then it finds
 * that it can send nothing, which it can say for certain, and takes a new connection. A closed descriptor leaves the
 * set by itself, and its number may come back as another socket: hence only sockets whose opening and closing is told
 * here are dealt with in this way; of others (a resolver thread's) every change is told to the kernel.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "sockets.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* More than there are connections: see kt_sockets_poll(). */
#define EVENTS_AT_A_TIME 1024

bool
kt_sockets_init(KtSockets *sockets)
{
	memset(sockets, 0, sizeof(*sockets));
	sockets->epfd = epoll_create1(EPOLL_CLOEXEC);
	return sockets->epfd >= 0;
}

void
kt_sockets_free(KtSockets *sockets)
{
	if (sockets->epfd >= 0)
		close(sockets->epfd);
	free(sockets->known);
	sockets->epfd = -1;
	sockets->known = NULL;
	sockets->nknown = 0;
}

/* What is known of a connection's socket, or NULL. */
static KtSocket *
find(KtSockets *sockets, int fd)
{
	return fd < sockets->nknown && sockets->known[fd].opened ? &sockets->known[fd] : NULL;
}

/* Where memory is out, the socket is one of the others. */
void
kt_sockets_opened(KtSockets *sockets, int fd, bool pauses)
{
	if (fd < 0)
		return;
	if (fd >= sockets->nknown)
	{
		int n = fd < 64 ? 64 : fd + fd / 2;
		KtSocket *longer = realloc(sockets->known, (size_t) n * sizeof(KtSocket));

		if (longer == NULL)
			return;
		memset(longer + sockets->nknown, 0, (size_t) (n - sockets->nknown) * sizeof(KtSocket));
		sockets->known = longer;
		sockets->nknown = n;
	}
	sockets->known[fd] = (KtSocket){.opened = true, .pauses = pauses};
}

void
kt_sockets_closed(KtSockets *sockets, int fd)
{
	if (fd >= 0 && fd < sockets->nknown)
		sockets->known[fd] = (KtSocket){0};
}

/* Has the kernel watch fd for that: known says whether it does already, which may be wrong. */
static bool
set(KtSockets *sockets, int fd, uint32_t wanted, bool known)
{
	struct epoll_event event = {.events = wanted, .data.fd = fd};

	if (epoll_ctl(sockets->epfd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) == 0)
		return true;
	return (errno == ENOENT && epoll_ctl(sockets->epfd, EPOLL_CTL_ADD, fd, &event) == 0) ||
	       (errno == EEXIST && epoll_ctl(sockets->epfd, EPOLL_CTL_MOD, fd, &event) == 0);
}

static void
unset(KtSockets *sockets, int fd)
{
	epoll_ctl(sockets->epfd, EPOLL_CTL_DEL, fd, NULL);
}

bool
kt_sockets_watch(KtSockets *sockets, int fd, uint32_t wanted)
{
	KtSocket *socket = find(sockets, fd);

	if (socket == NULL)
	{
		if (wanted == 0)
			unset(sockets, fd);
		return wanted == 0 || set(sockets, fd, wanted, false);
	}
	socket->wanted = wanted;
	if (wanted == 0 || wanted == socket->set)
		return true;
	if (!set(sockets, fd, wanted, socket->set != 0))
		return false;
	socket->set = wanted;
	return true;
}

/*
 * Something has become of an idle connection. One that was last watched for sending, which it can always do, is
 * watched for what comes: true, that may be there already.
 */
static bool
look_at_idle(KtSockets *sockets, int fd, KtSocket *socket, uint32_t events)
{
	if (events == EPOLLOUT && set(sockets, fd, EPOLLIN, true))
	{
		socket->set = EPOLLIN;
		return true;
	}
	unset(sockets, fd);
	socket->set = 0;
	if (events != EPOLLOUT && !socket->pauses)
		shutdown(fd, SHUT_RDWR);
	return false;
}

/*
 * Idle ones first: for one that is ready libcurl may begin a request on one of them. One that has become idle by what was
 * done for another is looked at next time.
 */
void
kt_sockets_poll(KtSockets *sockets, void (*ready)(void *arg, int fd, uint32_t events), void *arg)
{
	struct epoll_event events[EVENTS_AT_A_TIME];
	bool again;
	int n;
	int i;

	do
	{
		again = false;
		n = epoll_wait(sockets->epfd, events, EVENTS_AT_A_TIME, 0);
		for (i = 0; i < n; i++)
		{
			KtSocket *socket = find(sockets, events[i].data.fd);

			if (socket == NULL || socket->wanted != 0)
				continue;
			again |= look_at_idle(sockets, events[i].data.fd, socket, events[i].events);
			events[i].events = 0;
		}
		for (i = 0; i < n; i++)
		{
			const KtSocket *socket = find(sockets, events[i].data.fd);

			if (events[i].events != 0 && (socket == NULL || socket->wanted != 0))
				ready(arg, events[i].data.fd, events[i].events);
		}
	} while (n == EVENTS_AT_A_TIME || again);
}
