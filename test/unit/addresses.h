/*
 * Network addresses for the unit tests, from their text.
 */
#ifndef KT_ADDRESSES_H
#define KT_ADDRESSES_H

#include "unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

/* As the functions that take any family want it. */
#define ANY(address) ((const struct sockaddr *) &(address))

/* Without a family where the text is no address. */
static inline struct sockaddr_storage
address_of(const char *text)
{
	struct sockaddr_storage address = {0};
	struct sockaddr_in *in = (struct sockaddr_in *) &address;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *) &address;

	if (inet_pton(AF_INET, text, &in->sin_addr) == 1)
		address.ss_family = AF_INET;
	else if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1)
		address.ss_family = AF_INET6;
	return address;
}

#endif /* KT_ADDRESSES_H */
