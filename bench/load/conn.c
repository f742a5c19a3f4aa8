/*
 * One connection, one webhook at a time: conn_open(), then conn_start() for a webhook, and conn_advance()
 * at each event of its socket until it tells a result. Sockets are edge-triggered: it reads and writes until
 * the kernel has no more.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

/* The socket would block: neither an error nor an end. */
#define AGAIN (-2)

/* A non-blocking socket on its way to the target; -1: refused at once, see errno. */
int
socket_to(const Target *target)
{
	int fd = socket(target->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int on = 1;

	if (fd < 0)
		die("socket: %s", strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, (const struct sockaddr *) &target->address, target->address_len) < 0 &&
	    errno != EINPROGRESS)
	{
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

static ConnResult
fail_conn(Conn *conn, const char *why)
{
	snprintf(conn->failure, sizeof(conn->failure), "%.100s", why);
	conn_close(conn);
	return CONN_FAILED;
}

void
conn_close(Conn *conn)
{
	if (conn->state == CONN_CLOSED)
		return;
	if (conn->tls)
		gnutls_deinit(conn->tls);
	conn->tls = NULL;
	close(conn->fd);
	conn->waiting_webhook = false;
	conn->state = CONN_CLOSED;
}

/* Begins to connect. False: conn->failure says why not. */
bool
conn_open(Conn *conn, const Target *target, int epoll)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = conn};

	conn->fd = socket_to(target);
	if (conn->fd < 0)
	{
		snprintf(conn->failure, sizeof(conn->failure), "connect: %s", strerror(errno));
		return false;
	}
	conn->state = CONN_CONNECTING;
	conn->last = false;
	if (target->tls)
	{
		if (gnutls_init(&conn->tls, GNUTLS_CLIENT | GNUTLS_NONBLOCK) < 0 ||
		    gnutls_set_default_priority(conn->tls) < 0 ||
		    gnutls_credentials_set(conn->tls, GNUTLS_CRD_CERTIFICATE, target->credentials) < 0)
			die("GnuTLS does not start");
		gnutls_transport_set_int(conn->tls, conn->fd);
	}
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, conn->fd, &event) < 0)
		die("epoll_ctl: %s", strerror(errno));
	return true;
}

static ssize_t
conn_write(Conn *conn, const char *bytes, size_t len)
{
	ssize_t n;

	if (conn->tls)
	{
		n = gnutls_record_send(conn->tls, bytes, len);
		return n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED ? AGAIN : n < 0 ? -1 : n;
	}
	n = send(conn->fd, bytes, len, MSG_NOSIGNAL);
	return n < 0 && (errno == EAGAIN || errno == EINTR) ? AGAIN : n;
}

static ssize_t
conn_read(Conn *conn, char *bytes, size_t len)
{
	ssize_t n;

	if (conn->tls)
	{
		/* Tickets and the like that come without data are read over. */
		do
			n = gnutls_record_recv(conn->tls, bytes, len);
		while (n == GNUTLS_E_INTERRUPTED);
		return n == GNUTLS_E_AGAIN ? AGAIN : n < 0 ? -1 : n;
	}
	n = recv(conn->fd, bytes, len, 0);
	return n < 0 && (errno == EAGAIN || errno == EINTR) ? AGAIN : n;
}

/* The value of a header within the answer's head, or NULL. The head ends with a NUL. */
static const char *
header_value(const char *head, const char *name)
{
	const char *line = head;
	size_t len = strlen(name);

	while ((line = strstr(line, "\r\n")) != NULL)
	{
		line += 2;
		if (strncasecmp(line, name, len) == 0 && line[len] == ':')
			return line + len + 1 + strspn(line + len + 1, " ");
	}
	return NULL;
}

/* Judges what has been received. Pending: the answer is not whole. */
static ConnResult
judge_answer(Conn *conn)
{
	char *end;
	const char *length;
	const char *connection;
	size_t whole;

	conn->answer[conn->received] = '\0';
	end = strstr(conn->answer, "\r\n\r\n");
	if (!end)
		return conn->received == ANSWER_MAX - 1 ? fail_conn(conn, "an answer without an end")
		                                        : CONN_PENDING;
	*end = '\0';
	length = header_value(conn->answer, "Content-Length");
	connection = header_value(conn->answer, "Connection");
	whole = (size_t) (end + 4 - conn->answer) + (length ? strtoul(length, NULL, 10) : 0);
	conn->last = connection && strncasecmp(connection, "close", 5) == 0;
	if (strncmp(conn->answer, "HTTP/1.1 2", 10) != 0)
	{
		conn->answer[strcspn(conn->answer, "\r")] = '\0';
		return fail_conn(conn, conn->answer);
	}
	if (!length)
		return fail_conn(conn, "an answer without Content-Length");
	*end = '\r';
	if (conn->received < whole)
		return CONN_PENDING;
	if (conn->received > whole)
		return fail_conn(conn, "more than an answer");
	if (conn->state == CONN_SENDING)
		return fail_conn(conn, "an answer before the request's end");
	conn->state = CONN_FREE;
	return CONN_ANSWERED;
}

static ConnResult
receive(Conn *conn)
{
	for (;;)
	{
		size_t room = ANSWER_MAX - 1 - conn->received;
		ssize_t n = conn_read(conn, conn->answer + conn->received, room);
		ConnResult result;

		if (n == AGAIN)
			return CONN_PENDING;
		if (n <= 0)
			return fail_conn(conn, n == 0 ? "closed without an answer" : "the connection broke");
		conn->received += (size_t) n;
		result = judge_answer(conn);
		if (result != CONN_PENDING)
			return result;
	}
}

static ConnResult
deliver(Conn *conn)
{
	while (conn->sent < conn->request.len)
	{
		ssize_t n =
			conn_write(conn, conn->request.bytes + conn->sent, conn->request.len - conn->sent);

		if (n == AGAIN)
			return CONN_PENDING;
		if (n < 0)
			return fail_conn(conn, "broke while sending");
		conn->sent += (size_t) n;
	}
	conn->state = CONN_RECEIVING;
	return CONN_PENDING;
}

/* Sends a webhook, whose ID is set, on a free connection, as far as it can. */
ConnResult
conn_start(Conn *conn)
{
	conn->sent = 0;
	conn->received = 0;
	conn->state = CONN_SENDING;
	return deliver(conn);
}

static ConnResult
handshake(Conn *conn)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (conn->state == CONN_CONNECTING)
	{
		struct sockaddr_storage peer;
		socklen_t peer_len = sizeof(peer);

		getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len);
		if (error)
			return fail_conn(conn, strerror(error));
		if (getpeername(conn->fd, (struct sockaddr *) &peer, &peer_len) < 0)
			return CONN_PENDING;
		conn->state = CONN_HANDSHAKE;
	}
	if (conn->tls)
	{
		int result = gnutls_handshake(conn->tls);

		if (result < 0 && gnutls_error_is_fatal(result))
			return fail_conn(conn, gnutls_strerror(result));
		if (result < 0)
			return CONN_PENDING;
	}
	conn->state = CONN_FREE;
	return CONN_OPENED;
}

/* After an event of its socket: goes on as far as it can without waiting. */
ConnResult
conn_advance(Conn *conn)
{
	ConnResult result = CONN_PENDING;

	if (conn->state == CONN_CONNECTING || conn->state == CONN_HANDSHAKE)
	{
		result = handshake(conn);
		if (result != CONN_OPENED || !conn->waiting_webhook)
			return result;
		conn->waiting_webhook = false;
		return conn_start(conn);
	}
	if (conn->state == CONN_SENDING)
		result = deliver(conn);
	/* Also while sending: an early answer is a refusal, which must not wait for ever to be seen. */
	if (result == CONN_PENDING)
		result = receive(conn);
	return result;
}

/* After an event of a free connection's socket: nothing but its end is to come. */
void
conn_check(Conn *conn)
{
	char byte;

	if (conn_read(conn, &byte, 1) != AGAIN)
		conn_close(conn);
}
