/*
 * Connections that take the server's room and send no webhook: idle ones send nothing, dripping ones a byte
 * of a request's head each second, those that go by lines begin with 200 bytes of it and add a line each second. One
 * that the server closes is opened again at once, as an attacker would. They know no TLS: to a TLS server they
 * send a handshake's first message in that way.
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

/* What they send goes on with a line's bytes, for ever. A record and a message of 512 bytes are announced to TLS. */
static const char head[] = "POST /webhook HTTP/1.1\r\nHost: localhost\r\n";
static const char hello[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
static const char line[] = "X-Drip: aaaaaaaa\r\n";
#define BEGUN 200

/* Events that one step looks at: the webhooks beside them must not wait for a server that ends holders ever faster. */
#define LOOKS_AT 256

typedef struct Holder
{
	int fd;
	size_t sent;
} Holder;

static const Target *holders_target;
static Holder *holders;
static int nholders;
static HolderKind kind;
static int epoll = -1;
static int slice;
static int64_t next_tick;
static long reopened;

static char
byte_at(size_t at)
{
	const char *begin = holders_target->tls ? hello : head;
	size_t len = holders_target->tls ? sizeof(hello) - 1 : sizeof(head) - 1;

	return at < len ? begin[at] : line[(at - len) % (sizeof(line) - 1)];
}

static void
drip(Holder *holder)
{
	char bytes[BEGUN];
	size_t n = kind == HOLDER_DRIPS ? 1 : holder->sent == 0 ? BEGUN : sizeof(line) - 1;
	ssize_t sent;
	size_t i;

	for (i = 0; i < n; i++)
		bytes[i] = byte_at(holder->sent + i);
	sent = send(holder->fd, bytes, n, MSG_NOSIGNAL);
	if (sent > 0)
		holder->sent += (size_t) sent;
}

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
	if (kind == HOLDER_LINES)
		drip(holder); /* if it is connected already, as on loopback; else later */
}

/* Opens them all and waits until each is connected. */
bool
holders_open(const Target *target, int n, HolderKind how)
{
	int i;

	holders_target = target;
	holders = must_alloc((size_t) n * sizeof(Holder));
	nholders = n;
	kind = how;
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

/* Re-opens what the server has ended, and drips. To be called at least every TICK_NS. */
void
holders_step(int64_t now)
{
	struct epoll_event events[64];
	int seen = 0;
	int n;
	int i;

	while (seen < LOOKS_AT && (n = epoll_wait(epoll, events, 64, 0)) > 0)
	{
		seen += n;
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
	if (kind == HOLDER_IDLES || now < next_tick)
		return;
	next_tick = now + TICK_NS;
	slice = (slice + 1) % SLICES;
	for (i = slice; i < nholders; i += SLICES)
		drip(&holders[i]);
}
