/*
 * How the receiver is to serve: the settings and the files they name, as the HTTP server takes them.
 */
#ifndef KT_WEBOPTIONS_H
#define KT_WEBOPTIONS_H

#include "buf.h"
#include "httpd.h"
#include "limits.h"
#include "shmem.h"

typedef struct KtWebOptions
{
	KtHttpdOptions httpd; /* points into what follows */
	KtBuf token_text;
	const char *tokens[KT_MAX_TOKENS];
	KtBuf cert;
	KtBuf key;
	KtHttpdNetwork proxies[KT_MAX_PROXIES];

	/* What of the settings is not in force, and why: "" when all is. Never a token, never a key. */
	char problem[KT_MAX_STATUS];
} KtWebOptions;

/* Before the first reading. */
extern void kt_weboptions_init(KtWebOptions *options);

/*
 * Reads settings and files. An unfit token file, or pair of certificate and key, leaves those in force that
 * were read before. False where there are none: then nothing must be served. Throws nothing.
 */
extern bool kt_weboptions_read(KtWebOptions *options);

#endif /* KT_WEBOPTIONS_H */
