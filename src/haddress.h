/*
 * Client addresses: whose they are, how they are counted, and what a trusted proxy says of them.
 *
 * Pure functions. An IPv4 address that comes mapped into IPv6 is the IPv4 address everywhere.
 */
#ifndef KT_HADDRESS_H
#define KT_HADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "httpd.h"

/* What connections are counted by: an IPv4 address, or an IPv6 network of 64 bits. */
typedef struct KtHaddressKey
{
	uint8_t bytes[16];
} KtHaddressKey;

/* Makes IPv4 of IPv4 mapped into IPv6, in place. */
extern void kt_haddress_unmap(struct sockaddr_storage *address);

/* True when one of the networks holds the address. */
extern bool kt_haddress_within(const struct sockaddr_storage *address,
                               const KtHttpdNetwork *networks, int nnetworks);

extern void kt_haddress_key(const struct sockaddr_storage *address, KtHaddressKey *key);

/*
 * Whom a request comes from: client holds the peer's address, and keeps it unless the peer is one of the
 * proxies. Then it becomes the right-most address of X-Forwarded-For that is none of them. list is that
 * header's value, several joined by commas; what stands left of something that is no address is not
 * believed.
 */
extern void kt_haddress_forwarded(struct sockaddr_storage *client, const char *list, size_t len,
                                  const KtHttpdNetwork *proxies, int nproxies);

#endif /* KT_HADDRESS_H */
