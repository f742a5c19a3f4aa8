/*
 * The receiver's listening sockets: bound in the postmaster, inherited by every process of the server.
 *
 * A webhook is sent once, so a connection must never be refused because a process has just died. The
 * socket therefore belongs to the postmaster, which outlives every crash of a worker or a backend:
 * meanwhile connections wait in the kernel, for the next receiver.
 *
 * The postmaster only binds. Whether connections come in is a property of the open socket, which all
 * processes share, not of a process: so a receiver calls listen() once it can serve, and until then (on
 * a standby, say) connections are refused, as nobody would serve them. It stays so over its end. What
 * nobody is to serve any more is shut down, by the receiver or by the launcher; on Linux shutdown() takes a
 * listening socket back to a bound one, on which listen() works again.
 *
 * The table below is made in the postmaster and never changed, so that a process inherits it as it is. A
 * backend inherits the sockets, too, and leaves them alone; programs it starts do not (close-on-exec), or
 * one of them could hold the port when the server is gone.
 */
#include "postgres.h"

#include "listen.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "settings.h"

/* Connections that may wait to be accepted. The kernel has a limit of its own, net.core.somaxconn. */
#define BACKLOG 65535

static KtListener listeners[KT_MAX_LISTENERS];
static int nlisteners = 0;

/* ---- binding --------------------------------------------------------------------------------------------- */

/* A socket bound to an address; -1 with errno when that fails. */
static int
bind_socket(const struct sockaddr_storage *address, socklen_t size)
{
	int fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int on = 1;
	int error;

	if (fd < 0)
		return -1;

	/* What an earlier server's connections left behind does not matter; [::] and 0.0.0.0 may both stand. */
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
	    (address->ss_family != AF_INET6 ||
	     setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) == 0) &&
	    bind(fd, (const struct sockaddr *) address, size) == 0)
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/*
 * Port 0 is any free port: found by binding, then bound by its number, since the kernel lets go of a port it
 * has chosen itself when the socket is shut down. Both sockets stand at the same time for a moment.
 */
static int
bind_endpoint(struct sockaddr_storage *address, socklen_t size)
{
	in_port_t port = address->ss_family == AF_INET ? ((struct sockaddr_in *) address)->sin_port
	                                               : ((struct sockaddr_in6 *) address)->sin6_port;
	int first = bind_socket(address, size);
	int second;
	int error;

	if (first < 0 || port != 0)
		return first;
	if (getsockname(first, (struct sockaddr *) address, &size) != 0)
		second = -1;
	else
		second = bind_socket(address, size);
	error = errno;
	close(first);
	errno = error;
	return second;
}

static void
add_listener(KtEndpoint *endpoint)
{
	KtListener *listener = &listeners[nlisteners++];

	strlcpy(listener->database, endpoint->database, sizeof(listener->database));
	strlcpy(listener->text, endpoint->text, sizeof(listener->text));
	listener->fd = -1;
	listener->loopback = kt_address_is_loopback((struct sockaddr *) &endpoint->address);
	if (endpoint->fault != NULL)
		strlcpy(listener->problem, endpoint->fault, sizeof(listener->problem));
	else
	{
		listener->fd = bind_endpoint(&endpoint->address, endpoint->size);
		if (listener->fd < 0)
			snprintf(listener->problem, sizeof(listener->problem), "%s", strerror(errno));
		kt_netaddr_print(&endpoint->address, listener->text, sizeof(listener->text));
	}
	if (listener->fd < 0)
		ereport(WARNING, (errmsg("kridtech.webhook_listen: cannot receive webhooks at \"%s\": %s",
		                         listener->text, listener->problem),
		                  errhint("Correct it, and restart the server.")));
	else
		ereport(LOG, (errmsg("kridtech: bound to %s", listener->text)));
}

void
kt_listen_install(void)
{
	const char *list = kt_webhook_listen;
	KtEndpoint endpoint;

	while (nlisteners < KT_MAX_LISTENERS && kt_netaddr_next_endpoint(&list, &endpoint))
		add_listener(&endpoint);
	if (kt_netaddr_next_endpoint(&list, &endpoint))
		ereport(WARNING, (errmsg("kridtech.webhook_listen: of more than %d entries only the first "
		                         "are used",
		                         KT_MAX_LISTENERS)));
}

/* ---- whose they are -------------------------------------------------------------------------------------- */

int
kt_listen_count(void)
{
	return nlisteners;
}

const KtListener *
kt_listen_get(int i)
{
	return &listeners[i];
}

bool
kt_listen_is_for(const KtListener *listener, const char *database)
{
	List *names;
	bool same;

	if (listener->database[0] != '\0')
		return strcmp(listener->database, database) == 0;
	names = kt_settings_databases();
	same = names != NIL && strcmp(linitial(names), database) == 0;
	list_free_deep(names);
	return same;
}

bool
kt_listen_any_for(const char *database)
{
	int i;

	for (i = 0; i < nlisteners; i++)
		if (kt_listen_is_for(&listeners[i], database))
			return true;
	return false;
}

/* ---- listening ------------------------------------------------------------------------------------------- */

bool
kt_listen_is_on(const KtListener *listener)
{
	int on = 0;
	socklen_t size = sizeof(on);

	return listener->fd >= 0 &&
	       getsockopt(listener->fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &size) == 0 && on != 0;
}

bool
kt_listen_start(const KtListener *listener, char *problem, size_t size)
{
	if (kt_listen_is_on(listener))
		return true;

	/* Another server may have bound the same address, too, and listen there already. */
	if (listen(listener->fd, BACKLOG) == 0)
		return true;
	snprintf(problem, size, "cannot listen on %s: %s", listener->text, strerror(errno));
	return false;
}

void
kt_listen_stop(const KtListener *listener)
{
	if (kt_listen_is_on(listener))
		(void) shutdown(listener->fd, SHUT_RD);
}
