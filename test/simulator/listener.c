/*
 * The listening sockets: made from --listen's words, handed to MHD, or kept here to fail at TLS.
 */
#include "simulator.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>

#define MAX_LISTENERS 64
#define OLD_TLS "NORMAL:-VERS-ALL:+VERS-TLS1.1:+VERS-TLS1.0:%COMPAT"
#define TLS "NORMAL"

typedef struct Listener
{
	SimWatch watch; /* only of those that fail at TLS */
	char address[64];
	int port;
	bool tls;
	char fault[16]; /* "", stall, reset or old */
	char *cert;
	char *key;
} Listener;

typedef struct Victim
{
	SimWatch watch;
	bool reset;
} Victim;

static Listener listeners[MAX_LISTENERS];
static int nlisteners;

static char *
read_file(const char *name)
{
	FILE *file = fopen(name, "re");
	SimText text = {0};
	char chunk[4096];
	size_t got;

	if (file == NULL)
		return NULL;
	while ((got = fread(chunk, 1, sizeof(chunk), file)) > 0)
		sim_text_put(&text, chunk, got);
	fclose(file);
	return text.data;
}

/* Its ClientHello has come, or it left. */
static void
victim_ready(SimWatch *watch)
{
	Victim *victim = (Victim *) watch;
	char byte;

	if (victim->reset && recv(watch->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
		sim_fault_reset(watch->fd);
	sim_loop_remove(watch);
	close(watch->fd);
	free(victim);
}

static void
accept_victim(SimWatch *watch)
{
	const Listener *listener = (const Listener *) watch;
	int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	Victim *victim;

	if (fd < 0)
		return;
	victim = sim_alloc(sizeof(*victim));
	victim->watch.fd = fd;
	victim->watch.ready = victim_ready;
	victim->reset = strcmp(listener->fault, "reset") == 0;
	sim_loop_add(&victim->watch, victim->reset ? EPOLLIN | EPOLLRDHUP : EPOLLRDHUP);
}

static int
listen_on(const char *address, const char *port)
{
	const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
	                               .ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	int on = 1;
	int fd;

	if (getaddrinfo(address, port, &hints, &found) != 0)
		return -1;
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0)
	{
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0)
		{
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(found);
	return fd;
}

static int
port_of(int fd)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);

	if (getsockname(fd, (struct sockaddr *) &address, &len) != 0)
		return 0;
	if (address.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *) &address)->sin6_port);
	return ntohs(((struct sockaddr_in *) &address)->sin_port);
}

/* "127.0.0.1:80" or "[::1]:80": the address goes to listener->address, the port is returned. */
static const char *
split_address(Listener *listener, char *spec)
{
	char *colon = strrchr(spec, ':');
	char *address = spec;

	if (colon == NULL)
		return NULL;
	*colon = '\0';
	if (spec[0] == '[' && colon[-1] == ']')
	{
		colon[-1] = '\0';
		address++;
	}
	snprintf(listener->address, sizeof(listener->address), "%s", address);
	return colon + 1;
}

static const char *
read_option(Listener *listener, const char *option)
{
	const char *value = strchr(option, '=');

	if (value++ == NULL)
		return "--listen: cert=FILE, key=FILE and tls-fault=stall|reset|old may follow the address";
	if (strncmp(option, "cert=", 5) == 0)
		listener->cert = read_file(value);
	else if (strncmp(option, "key=", 4) == 0)
		listener->key = read_file(value);
	else if (strcmp(option, "tls-fault=stall") == 0 || strcmp(option, "tls-fault=reset") == 0 ||
	         strcmp(option, "tls-fault=old") == 0)
		snprintf(listener->fault, sizeof(listener->fault), "%s", value);
	else
		return "--listen: unknown option";
	return NULL;
}

static const char *
start(Listener *listener, int fd)
{
	bool old = strcmp(listener->fault, "old") == 0;

	listener->tls = listener->cert != NULL || listener->fault[0] != '\0';
	if (listener->fault[0] != '\0' && !old)
	{
		listener->watch.fd = fd;
		listener->watch.ready = accept_victim;
		return sim_loop_add(&listener->watch, EPOLLIN) ? NULL : "--listen: epoll failed";
	}
	if ((listener->cert == NULL) != (listener->key == NULL) || (old && listener->cert == NULL))
		return "--listen: cert and key must both be readable files";
	if (sim_server_start(fd, listener->cert, listener->key, old ? OLD_TLS : TLS) == NULL)
		return "--listen: the server does not start (is it a good pair of certificate and key?)";
	return NULL;
}

const char *
sim_listener_add(const char *spec)
{
	Listener *listener = &listeners[nlisteners];
	char *words = sim_strdup(spec);
	char *rest = words;
	char *address = strsep(&rest, ",");
	const char *port = split_address(listener, address);
	const char *wrong = port == NULL ? "--listen: ADDRESS:PORT is wanted" : NULL;
	int fd = -1;

	if (nlisteners == MAX_LISTENERS)
		wrong = "--listen: too many";
	while (wrong == NULL && rest != NULL)
		wrong = read_option(listener, strsep(&rest, ","));
	if (wrong == NULL && (fd = listen_on(listener->address, port)) < 0)
		wrong = "--listen: cannot listen there";
	if (wrong == NULL)
		wrong = start(listener, fd);
	if (wrong == NULL)
	{
		listener->port = port_of(fd);
		nlisteners++;
	}
	free(words);
	return wrong;
}

void
sim_listener_dump(SimText *out)
{
	sim_text_puts(out, "[");
	for (int i = 0; i < nlisteners; i++)
	{
		const Listener *listener = &listeners[i];

		sim_text_putf(out,
		              "%s{\"address\":\"%s\",\"port\":%d,\"tls\":%s,\"fault\":", i > 0 ? "," : "",
		              listener->address, listener->port, listener->tls ? "true" : "false");
		sim_text_putf(out, listener->fault[0] != '\0' ? "\"%s\"}" : "null%s}", listener->fault);
	}
	sim_text_puts(out, "]");
}
