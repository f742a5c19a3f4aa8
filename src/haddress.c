/*
 * Client addresses: whose they are, how they are counted, and what a trusted proxy says of them.
 *
 * Owns nothing. Only the right end of X-Forwarded-For was written by someone we trust: each proxy appends
 * the address it was called from. So the list is read from the right, and only as far as proxies go.
 */
#include "haddress.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* The longest text of an address with brackets and a port. */
#define MAX_TEXT (INET6_ADDRSTRLEN + 8)

static void
set_ipv4(struct sockaddr_storage *address, const void *bytes)
{
	struct sockaddr_in in = {.sin_family = AF_INET};

	memcpy(&in.sin_addr, bytes, sizeof(in.sin_addr));
	memset(address, 0, sizeof(*address));
	memcpy(address, &in, sizeof(in));
}

void
kt_haddress_unmap(struct sockaddr_storage *address)
{
	struct sockaddr_in6 in6;

	if (address->ss_family != AF_INET6)
		return;
	memcpy(&in6, address, sizeof(in6));
	if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr))
		set_ipv4(address, &in6.sin6_addr.s6_addr[12]);
}

/* The address's bytes and how many; NULL for what is neither IPv4 nor IPv6. */
static const uint8_t *
bytes_of(const struct sockaddr_storage *address, size_t *len)
{
	switch (address->ss_family)
	{
		case AF_INET:
			*len = 4;
			return (const uint8_t *) address + offsetof(struct sockaddr_in, sin_addr);
		case AF_INET6:
			*len = 16;
			return (const uint8_t *) address + offsetof(struct sockaddr_in6, sin6_addr);
		default:
			*len = 0;
			return NULL;
	}
}

static bool
holds(const KtHttpdNetwork *network, const struct sockaddr_storage *address)
{
	size_t len;
	size_t network_len;
	const uint8_t *bytes = bytes_of(address, &len);
	const uint8_t *prefix = bytes_of(&network->address, &network_len);
	size_t whole;
	int rest;

	if (bytes == NULL || len != network_len || network->prefix < 0 ||
	    (size_t) network->prefix > len * 8)
		return false;
	whole = (size_t) network->prefix / 8;
	rest = network->prefix % 8;
	if (memcmp(bytes, prefix, whole) != 0)
		return false;
	return rest == 0 || (bytes[whole] ^ prefix[whole]) >> (8 - rest) == 0;
}

bool
kt_haddress_within(const struct sockaddr_storage *address, const KtHttpdNetwork *networks,
                   int nnetworks)
{
	int i;

	for (i = 0; i < nnetworks; i++)
	{
		if (holds(&networks[i], address))
			return true;
	}
	return false;
}

/* One host of IPv6 has 2^64 addresses of its own at hand, hence the network. */
void
kt_haddress_key(const struct sockaddr_storage *address, KtHaddressKey *key)
{
	size_t len;
	const uint8_t *bytes = bytes_of(address, &len);

	memset(key, 0, sizeof(*key));
	if (len == 4)
	{
		key->bytes[10] = key->bytes[11] = 0xff;
		memcpy(key->bytes + 12, bytes, 4);
	}
	else if (len == 16)
		memcpy(key->bytes, bytes, 8);
}

/* ---- X-Forwarded-For ---------------------------------------------------------------------------- */

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* Cuts "[2001:db8::1]:443", "[2001:db8::1]" and "192.0.2.1:443" down to the address, in place. */
static char *
strip_port(char *text)
{
	char *colon = strchr(text, ':');

	if (text[0] == '[')
	{
		char *end = strchr(text, ']');

		if (end == NULL || (end[1] != '\0' && end[1] != ':'))
			return text;
		*end = '\0';
		return text + 1;
	}
	if (colon != NULL && strchr(colon + 1, ':') == NULL)
		*colon = '\0';
	return text;
}

static bool
parse(const char *bytes, size_t len, struct sockaddr_storage *address)
{
	char text[MAX_TEXT + 1];
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	struct in_addr in;
	char *stripped;

	if (len > MAX_TEXT || memchr(bytes, '\0', len) != NULL)
		return false;
	memcpy(text, bytes, len);
	text[len] = '\0';
	stripped = strip_port(text);
	if (inet_pton(AF_INET, stripped, &in) == 1)
	{
		set_ipv4(address, &in);
		return true;
	}
	if (inet_pton(AF_INET6, stripped, &in6.sin6_addr) != 1)
		return false;
	memset(address, 0, sizeof(*address));
	memcpy(address, &in6, sizeof(in6));
	kt_haddress_unmap(address);
	return true;
}

void
kt_haddress_forwarded(struct sockaddr_storage *client, const char *list, size_t len,
                      const KtHttpdNetwork *proxies, int nproxies)
{
	size_t end = len;

	while (end > 0 && kt_haddress_within(client, proxies, nproxies))
	{
		size_t start = end;
		size_t stop = end;

		while (start > 0 && list[start - 1] != ',')
			start--;
		end = start > 0 ? start - 1 : 0;
		while (start < stop && is_blank(list[start]))
			start++;
		while (stop > start && is_blank(list[stop - 1]))
			stop--;
		if (start < stop && !parse(list + start, stop - start, client))
			return;
	}
}
