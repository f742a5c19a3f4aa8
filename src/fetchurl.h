/*
 * URLs that a stranger wrote: may this one be fetched, and from which address?
 *
 * The answer is in two parts. kt_fetchurl_judge() looks at the text: https, and a host that the operator has
 * listed. kt_fetchurl_allows() looks at the address a connection is about to be made to, after the name was
 * resolved: a listed name whose owner points it at an internal address leads nowhere.
 */
#ifndef KT_FETCHURL_H
#define KT_FETCHURL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

typedef enum KtFetchFault
{
	KT_FETCH_OK,
	KT_FETCH_MALFORMED,   /* no absolute URL that every parser reads alike */
	KT_FETCH_SCHEME,      /* not https */
	KT_FETCH_CREDENTIALS, /* holds a user name or password */
	KT_FETCH_HOST         /* a host, or a port of it, that is not in the list */
} KtFetchFault;

/* Where a URL that was found good may lead. */
typedef struct KtFetchTarget
{
	int family;          /* AF_INET or AF_INET6 when the host is an address; 0: a name */
	uint8_t address[16]; /* that address, in network order */
} KtFetchTarget;

/*
 * Judges a URL by a list of hosts that kt_fetchurl_check_hosts() has found good. The list holds, separated by
 * commas: "host", that name; ".domain", every name below it but not the domain itself; either with ":port", where
 * it is not 443. An address ("192.0.2.1:8443", "[2001:db8::1]") stands for itself alone.
 */
extern KtFetchFault kt_fetchurl_judge(const char *url, const char *hosts, KtFetchTarget *target);

/*
 * May a connection be made to that address? For a name only to a public one (address.h); for a listed address
 * only to itself, public or not: it was the operator who wrote it down.
 */
extern bool kt_fetchurl_allows(const KtFetchTarget *target, const struct sockaddr *address);

/* NULL when it is such a list (an empty one is), else what is wrong with it, as a sentence. */
extern const char *kt_fetchurl_check_hosts(const char *hosts);

#endif /* KT_FETCHURL_H */
