/*
 * URLs: is this one fit to send a key to, and what is the address of an endpoint below it.
 *
 * Parsing is libcurl's (curl_url), which needs no global initialisation and so may run in the postmaster.
 */
#ifndef KT_URL_H
#define KT_URL_H

#include <stdbool.h>

#include "buf.h"

typedef enum KtUrlFault
{
	KT_URL_OK,
	KT_URL_MALFORMED,   /* not an absolute http(s) URL with a host */
	KT_URL_SCHEME,      /* another scheme */
	KT_URL_CREDENTIALS, /* holds a user name or password */
	KT_URL_QUERY,       /* holds a query or a fragment */
	KT_URL_PLAIN_HTTP   /* http to a host that is not loopback */
} KtUrlFault;

/* Judges a base URL. *loopback_only says, for KT_URL_OK, that it is http and so bound to loopback. */
extern KtUrlFault kt_url_judge(const char *base, bool *loopback_only);

/* One "name=value" pair of a query; the value is percent-encoded by kt_url_build(). */
typedef struct KtUrlParam
{
	const char *name;
	const char *value; /* NULL: the pair is left out */
} KtUrlParam;

/*
 * base (with or without a trailing slash or a path of its own) + path (beginning with '/') + query, into
 * out. False when the base is malformed or memory is out.
 */
extern bool kt_url_build(const char *base, const char *path, const KtUrlParam *params, int nparams,
                         KtBuf *out);

#endif /* KT_URL_H */
