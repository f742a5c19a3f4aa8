/*
 * Addresses as the settings name them: where to listen, which networks to trust.
 */
#ifndef KT_NETADDR_H
#define KT_NETADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* A database's name and its NUL, as in NAMEDATALEN. */
#define KT_NETADDR_NAME 64

/* An address with its port as text: "[", 45 characters of IPv6, "]:", 5 digits. */
#define KT_NETADDR_TEXT 64

/* An entry of kridtech.webhook_listen: [database@]address:port. */
typedef struct KtEndpoint
{
	char database[KT_NETADDR_NAME]; /* "": none was named */
	struct sockaddr_storage address;
	socklen_t size;
	char text[KT_NETADDR_NAME + KT_NETADDR_TEXT]; /* the entry itself, maybe cut */
	const char *fault;                            /* words, or NULL */
} KtEndpoint;

/*
 * The next entry of a list separated by commas; *list moves behind it. False at the list's end. A faulty
 * entry is one with fault set; the others are not touched by it. Names are read as kridtech.databases
 * reads them: in double quotes as they stand, without them in lower case.
 */
extern bool kt_netaddr_next_endpoint(const char **list, KtEndpoint *endpoint);

/*
 * The next network of such a list: an IPv4 or IPv6 address, and behind a slash how many of its leading bits
 * count (all by default). False at the list's end; prefix is -1 for what is no network.
 */
extern bool kt_netaddr_next_network(const char **list, struct sockaddr_storage *address,
                                    int *prefix);

/* "127.0.0.1:8443", "[::1]:8443". */
extern void kt_netaddr_print(const struct sockaddr_storage *address, char *text, size_t size);

#endif /* KT_NETADDR_H */
