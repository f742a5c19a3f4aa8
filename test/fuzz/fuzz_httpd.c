/*
 * Any bytes sent to the whole server: it keeps its limits, delivers nothing to who does not name the token,
 * answers 200 only what it delivered or was asked of its health, and forgets the connection when it is over. The first
 * byte says how the others are cut into segments.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "fuzz.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "httpd.h"

#define MAX_BODY 300

static KtHttpd *httpd;
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static socklen_t address_len;
static int delivered;

static void
begin(void)
{
	static const char *const tokens[] = {"secret"};
	KtHttpdOptions options = {.path = "/webhook",
	                          .tokens = tokens,
	                          .ntokens = 1,
	                          .max_body = MAX_BODY,
	                          .max_bodies = 100000,
	                          .max_connections = 10,
	                          .header_us = 10000000,
	                          .body_us = 10000000,
	                          .idle_us = 10000000};
	char error[256];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	signal(SIGPIPE, SIG_IGN);
	/* a name in the abstract namespace leaves nothing behind */
	snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "kt_fuzz_httpd.%d",
	         (int) getpid());
	address_len = (socklen_t) (sizeof(sa_family_t) + 1 + strlen(address.sun_path + 1));
	MUST(fd >= 0 && bind(fd, (struct sockaddr *) &address, address_len) == 0 && listen(fd, 5) == 0);
	httpd = kt_httpd_create(&options, &fd, 1, error, sizeof(error));
	MUST(httpd != NULL);
}

static void
step(void)
{
	KtHttpdDelivery *delivery;

	do
	{
		kt_httpd_step(httpd);
		while ((delivery = kt_httpd_take(httpd)) != NULL)
		{
			MUST(delivery->len <= MAX_BODY);
			delivered++;
			kt_httpd_answer(httpd, delivery, 200, NULL);
		}
	} while (kt_httpd_deadline(httpd) == 0);
}

/* Counts the 200s in what the server says. */
static int
listen_to(int fd)
{
	static char answers[1 << 20];
	size_t len = 0;
	ssize_t n;
	const char *at = answers;
	int count = 0;

	while (len < sizeof(answers) - 1 &&
	       (n = recv(fd, answers + len, sizeof(answers) - 1 - len, MSG_DONTWAIT)) > 0)
		len += (size_t) n;
	while ((at = memmem(at, len - (size_t) (at - answers), "HTTP/1.1 200 ", 13)) != NULL)
	{
		count++;
		at++;
	}
	return count;
}

static int
occurrences(const uint8_t *data, size_t size, const char *word)
{
	const uint8_t *at = data;
	int count = 0;

	while ((at = memmem(at, size - (size_t) (at - data), word, strlen(word))) != NULL)
	{
		count++;
		at++;
	}
	return count;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	KtHttpdCounters counters;
	size_t segment;
	size_t sent = 0;
	int successes;
	int turns;
	int fd;

	if (size < 1)
		return 0;
	if (httpd == NULL)
		begin();
	segment = data[0] == 0 ? size : data[0];
	data++;
	size--;
	delivered = 0;
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	MUST(fd >= 0 && connect(fd, (struct sockaddr *) &address, address_len) == 0);
	while (sent < size)
	{
		size_t len = size - sent < segment ? size - sent : segment;
		ssize_t n = send(fd, data + sent, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n <= 0)
			break;
		sent += (size_t) n;
		step();
	}
	step();
	successes = listen_to(fd);
	MUST(delivered <= occurrences(data, size, "/webhook/secret"));
	MUST(successes <= delivered + occurrences(data, size, "/healthz"));
	MUST(successes >= delivered);
	close(fd);
	for (turns = 0;; turns++)
	{
		step();
		kt_httpd_counters(httpd, &counters);
		if (counters.connections == 0)
			break;
		MUST(turns < 1000);
	}
	MUST(kt_httpd_waiting(httpd) == 0 && kt_httpd_leaving(httpd) == 0);
	return 0;
}
