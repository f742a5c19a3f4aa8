/*
 * Where a network address leads: into the public Internet, or back to this machine. Asked before a connection is
 * made, or taken.
 */
#ifndef KT_ADDRESS_H
#define KT_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

/*
 * True for a unicast address that IANA's registries of special-purpose addresses list as globally reachable, or do
 * not list at all. False for everything else: loopback, private, link-local, shared, multicast, documentation,
 * benchmarking, reserved; every IPv6 form that holds an IPv4 address (mapped, translated, 6to4, Teredo), whatever
 * that address is; and every family but IPv4 and IPv6.
 */
extern bool kt_address_is_public(const struct sockaddr *address);

/* Whether only this machine can be at it; an IPv4 address mapped into IPv6 is judged as the IPv4 address. */
extern bool kt_address_is_loopback(const struct sockaddr *address);

#endif /* KT_ADDRESS_H */
