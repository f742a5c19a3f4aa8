/*
 * Where a network address leads: into the public Internet, or back to this machine.
 *
 * What is public: IPv4 is judged by what is refused, since nearly all of it is in use. IPv6 is judged by what
 * is allowed: only 2000::/3 has been handed out as global unicast, and a few blocks of it are special. So
 * mapped (::ffff:0:0/96), translated (64:ff9b::/96 and 64:ff9b:1::/48), unique-local and link-local addresses,
 * and whatever is invented next, are refused without being listed.
 */
#include "address.h"

#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

#define V4(a, b, c, d) \
	((uint32_t) (a) << 24 | (uint32_t) (b) << 16 | (uint32_t) (c) << 8 | (uint32_t) (d))

typedef struct Block4
{
	uint32_t prefix;
	int bits;
} Block4;

/* IANA IPv4 Special-Purpose Address Registry, as of 2025, and three blocks more. */
static const Block4 refused4[] = {
	{V4(0, 0, 0, 0), 8},        /* this network */
	{V4(10, 0, 0, 0), 8},       /* private */
	{V4(100, 64, 0, 0), 10},    /* shared: carrier-grade NAT */
	{V4(127, 0, 0, 0), 8},      /* loopback */
	{V4(168, 63, 129, 16), 32}, /* a cloud's own services, on a public-looking address */
	{V4(169, 254, 0, 0), 16},   /* link-local, with the metadata services of clouds */
	{V4(172, 16, 0, 0), 12},    /* private */
	{V4(192, 0, 0, 0), 24},     /* IETF protocol assignments */
	{V4(192, 0, 2, 0), 24},     /* documentation */
	{V4(192, 88, 99, 0), 24},   /* 6to4 relays, given up */
	{V4(192, 168, 0, 0), 16},   /* private */
	{V4(198, 18, 0, 0), 15},    /* benchmarking */
	{V4(198, 51, 100, 0), 24},  /* documentation */
	{V4(203, 0, 113, 0), 24},   /* documentation */
	{V4(224, 0, 0, 0), 4},      /* multicast */
	{V4(240, 0, 0, 0), 4},      /* reserved, and broadcast */
};

typedef struct Block6
{
	uint8_t prefix[6];
	int bits;
} Block6;

static const Block6 global6 = {{0x20}, 3};

/* What is special within 2000::/3. */
static const Block6 refused6[] = {
	{{0x20, 0x01, 0x00}, 23}, /* IETF protocol assignments: Teredo, ORCHID, benchmarking, ... */
	{{0x20, 0x01, 0x0d, 0xb8}, 32}, /* documentation */
	{{0x20, 0x02}, 16},             /* 6to4: holds an IPv4 address */
	{{0x3f, 0xff, 0x00}, 20},       /* documentation */
};

static bool
is_within6(const uint8_t *address, const Block6 *block)
{
	int whole = block->bits / 8;
	int rest = block->bits % 8;
	uint8_t mask = (uint8_t) (0xff00 >> rest);

	return memcmp(address, block->prefix, (size_t) whole) == 0 &&
	       ((address[whole] ^ block->prefix[whole]) & mask) == 0;
}

static bool
is_public4(uint32_t address)
{
	size_t i;

	for (i = 0; i < lengthof(refused4); i++)
		if ((address ^ refused4[i].prefix) >> (32 - refused4[i].bits) == 0)
			return false;
	return true;
}

static bool
is_public6(const uint8_t *address)
{
	size_t i;

	if (!is_within6(address, &global6))
		return false;
	for (i = 0; i < lengthof(refused6); i++)
		if (is_within6(address, &refused6[i]))
			return false;
	return true;
}

bool
kt_address_is_public(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
	{
		const struct sockaddr_in *in4 = (const struct sockaddr_in *) (const void *) address;

		return is_public4(ntohl(in4->sin_addr.s_addr));
	}
	if (address->sa_family == AF_INET6)
	{
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *) (const void *) address;

		return is_public6(in6->sin6_addr.s6_addr);
	}
	return false;
}

bool
kt_address_is_loopback(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
	{
		const struct sockaddr_in *in4 = (const struct sockaddr_in *) (const void *) address;

		return ntohl(in4->sin_addr.s_addr) >> 24 == 127;
	}
	if (address->sa_family == AF_INET6)
	{
		const struct in6_addr *in6 =
			&((const struct sockaddr_in6 *) (const void *) address)->sin6_addr;

		return IN6_IS_ADDR_LOOPBACK(in6) || (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == 127);
	}
	return false;
}
