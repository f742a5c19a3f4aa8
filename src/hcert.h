/*
 * A certificate with its key, as a TLS server shows it: read and judged here, shared by the connections that
 * began with it.
 *
 * For httpd.c and its parts alone.
 */
#ifndef KT_HCERT_H
#define KT_HCERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>

/* Certificates of one chain: the server's own, and the way to a root that clients know. */
#define KT_HCERT_MAX_CHAIN 16

typedef struct KtHcert
{
	int references;
	gnutls_pcert_st chain[KT_HCERT_MAX_CHAIN];
	unsigned int nchain;
	gnutls_privkey_t key;
	int64_t end; /* of the server's own certificate, as Unix time */
} KtHcert;

/*
 * Reads a pair of PEM texts. NULL, with words in error, when one cannot be read or they do not belong
 * together. A certificate whose time is over is taken: clients see that, and end tells.
 */
extern KtHcert *kt_hcert_load(const char *cert, const char *key, char *error, size_t size);

/* One more holder, and one less; the last one's going frees it. NULL is fine. */
extern KtHcert *kt_hcert_hold(KtHcert *cert);
extern void kt_hcert_drop(KtHcert *cert);

#endif /* KT_HCERT_H */
