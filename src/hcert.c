/*
 * A certificate with its key, as a TLS server shows it.
 *
 * Owns the memory of both. GnuTLS is handed pointers into it during a handshake, which may take many turns; so
 * each connection holds the pair it began with, and a pair that was replaced goes with its last connection.
 */
#include "hcert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "limits.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

static bool
fail(char *error, size_t size, const char *what, const char *why)
{
	snprintf(error, size, "%s: %s", what, why);
	return false;
}

/* The server's own certificate comes first, as every server wants it; check_match() notices otherwise. */
static bool
read_chain(KtHcert *cert, const char *pem, char *error, size_t size)
{
	const gnutls_datum_t text = {(unsigned char *) pem, (unsigned int) strlen(pem)};
	gnutls_x509_crt_t certs[KT_HCERT_MAX_CHAIN];
	unsigned int ncerts = KT_HCERT_MAX_CHAIN;
	unsigned int i;
	int result = gnutls_x509_crt_list_import(certs, &ncerts, &text, GNUTLS_X509_FMT_PEM,
	                                         GNUTLS_X509_CRT_LIST_IMPORT_FAIL_IF_EXCEED);

	if (result < 0)
		return fail(error, size, "the certificate", gnutls_strerror(result));
	cert->end = (int64_t) gnutls_x509_crt_get_expiration_time(certs[0]);
	result = ncerts > 0 ? 0 : GNUTLS_E_NO_CERTIFICATE_FOUND;
	for (i = 0; i < ncerts; i++)
	{
		if (result >= 0)
			result = gnutls_pcert_import_x509(&cert->chain[i], certs[i], 0);
		if (result >= 0)
			cert->nchain++;
		gnutls_x509_crt_deinit(certs[i]);
	}
	return result >= 0 || fail(error, size, "the certificate", gnutls_strerror(result));
}

static bool
read_key(KtHcert *cert, const char *pem, char *error, size_t size)
{
	const gnutls_datum_t text = {(unsigned char *) pem, (unsigned int) strlen(pem)};
	int result = gnutls_privkey_init(&cert->key);

	if (result >= 0)
		result = gnutls_privkey_import_x509_raw(cert->key, &text, GNUTLS_X509_FMT_PEM, NULL, 0);
	return result >= 0 || fail(error, size, "the key", gnutls_strerror(result));
}

/* Both sides' public key has the same fingerprint. */
static bool
check_match(const KtHcert *cert, char *error, size_t size)
{
	unsigned char ours[64];
	unsigned char theirs[64];
	size_t ours_len = sizeof(ours);
	size_t theirs_len = sizeof(theirs);
	gnutls_pubkey_t public_key;
	int result = gnutls_pubkey_init(&public_key);

	if (result < 0)
		return fail(error, size, "the key", gnutls_strerror(result));
	result = gnutls_pubkey_import_privkey(public_key, cert->key, 0, 0);
	if (result >= 0)
		result = gnutls_pubkey_get_key_id(public_key, GNUTLS_KEYID_USE_SHA256, ours, &ours_len);
	gnutls_pubkey_deinit(public_key);
	if (result >= 0)
		result = gnutls_pubkey_get_key_id(cert->chain[0].pubkey, GNUTLS_KEYID_USE_SHA256, theirs,
		                                  &theirs_len);
	if (result < 0)
		return fail(error, size, "the key", gnutls_strerror(result));
	return (ours_len == theirs_len && memcmp(ours, theirs, ours_len) == 0) ||
	       fail(error, size, "the key", "it is not the certificate's");
}

KtHcert *
kt_hcert_load(const char *pem_cert, const char *pem_key, char *error, size_t size)
{
	KtHcert *cert;

	if (pem_cert == NULL || pem_key == NULL)
	{
		fail(error, size, "TLS", "certificate and key are wanted, both of them");
		return NULL;
	}
	if (strlen(pem_cert) > KT_MAX_PEM || strlen(pem_key) > KT_MAX_PEM)
	{
		fail(error, size, "TLS", "the certificate or the key is too long");
		return NULL;
	}
	cert = calloc(1, sizeof(KtHcert));
	if (cert == NULL)
	{
		fail(error, size, "TLS", "out of memory");
		return NULL;
	}
	cert->references = 1;
	if (!read_chain(cert, pem_cert, error, size) || !read_key(cert, pem_key, error, size) ||
	    !check_match(cert, error, size))
	{
		kt_hcert_drop(cert);
		return NULL;
	}
	return cert;
}

KtHcert *
kt_hcert_hold(KtHcert *cert)
{
	if (cert != NULL)
		cert->references++;
	return cert;
}

void
kt_hcert_drop(KtHcert *cert)
{
	unsigned int i;

	if (cert == NULL || --cert->references > 0)
		return;
	for (i = 0; i < cert->nchain; i++)
		gnutls_pcert_deinit(&cert->chain[i]);
	if (cert->key != NULL)
		gnutls_privkey_deinit(cert->key); /* which wipes it */
	free(cert);
}
