/*
 * Connections that take the server's room and send no webhook: idle ones send nothing, dripping ones a byte
 * of a request's head each second. One that the server closes is opened again at once, as an attacker would.
 * They are plain sockets: to a TLS server a dripping one is a handshake that does not come on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

/* All of them drip once within this many steps, which are TICK_NS apart. */
#define SLICES 20
#define TICK_NS (1000000000 / SLICES)

static const char head[] = "POST /webhook HTTP/1.1\r\nHost: localhost\r\nX-Drip: ";

typedef struct Holder
{
	int fd;
	size_t sent;
} Holder;

static const Target *holders_target;
static Holder *holders;
static int nholders;
static bool dripping;
static int epoll = -1;
static int slice;
static int64_t next_tick;
static long reopened;

static void
holder_open(Holder *holder)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = holder};

	holder->sent = 0;
	holder->fd = socket_to(holders_target);
	if (holder->fd < 0)
		die("a holding connection: %s", strerror(errno));
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, holder->fd, &event) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

/* Opens them all and waits until each is connected. */
bool
holders_open(const Target *target, int n, bool drip)
{
	int i;

	holders_target = target;
	holders = must_alloc((size_t) n * sizeof(Holder));
	nholders = n;
	dripping = drip;
	epoll = epoll_create1(EPOLL_CLOEXEC);
	for (i = 0; i < n; i++)
		holder_open(&holders[i]);
	for (i = 0; i < n; i++)
	{
		struct sockaddr_storage peer;
		socklen_t len = sizeof(peer);
		int64_t limit = now_ns() + INT64_C(10000000000);

		while (getpeername(holders[i].fd, (struct sockaddr *) &peer, &len) < 0)
		{
			if (now_ns() > limit)
				return false;
			usleep(1000);
		}
	}
	return true;
}

/* Readable when the server has ended one of them; -1: there are none. */
int
holders_fd(void)
{
	return epoll;
}

long
holders_reopened(void)
{
	return reopened;
}

static void
drip(Holder *holder)
{
	char byte = holder->sent < sizeof(head) - 1 ? head[holder->sent] : 'a';

	if (send(holder->fd, &byte, 1, MSG_NOSIGNAL) == 1)
		holder->sent++;
}

/* Re-opens what the server has ended, and drips. To be called at least every TICK_NS. */
void
holders_step(int64_t now)
{
	struct epoll_event events[64];
	int n;
	int i;

	while ((n = epoll_wait(epoll, events, 64, 0)) > 0)
	{
		for (i = 0; i < n; i++)
		{
			Holder *holder = events[i].data.ptr;
			char sink[1024];
			ssize_t got;

			do
				got = recv(holder->fd, sink, sizeof(sink), 0);
			while (got > 0);
			if (got < 0 && errno == EAGAIN)
				continue;
			close(holder->fd);
			holder_open(holder);
			reopened++;
		}
	}
	if (!dripping || now < next_tick)
		return;
	next_tick = now + TICK_NS;
	slice = (slice + 1) % SLICES;
	for (i = slice; i < nholders; i += SLICES)
		drip(&holders[i]);
}
