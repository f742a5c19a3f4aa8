/*
 * How the receiver is to serve: the settings and the files they name, as the HTTP server takes them.
 *
 * A rotation must not cost a webhook, so a file that is unfit when it is read again (half written, of
 * the wrong owner, a key that is not the certificate's) does not displace what is in force. At the start
 * there is nothing in force: a receiver whose token file is unfit would take anybody's deliveries, and one
 * whose certificate is unfit would speak in the clear, so neither serves.
 *
 * Tokens and the key are read into buffers that are overwritten when they are freed. No message holds more
 * of a file than its name.
 */
#include "postgres.h"

#include "weboptions.h"

#include "keyfile.h"
#include "netaddr.h"
#include "settings.h"

/* The whole token file: its tokens, and as much around them. */
#define MAX_TOKEN_FILE (2 * KT_MAX_TOKENS * KT_MAX_TOKEN)

void
kt_weboptions_init(KtWebOptions *options)
{
	memset(options, 0, sizeof(*options));
	kt_buf_init(&options->token_text, MAX_TOKEN_FILE);
	kt_buf_init(&options->cert, KT_MAX_PEM);
	kt_buf_init(&options->key, KT_MAX_PEM);
}

/* Puts one problem behind the others. */
static void
add_problem(KtWebOptions *options, const char *words)
{
	size_t len = strlen(options->problem);

	snprintf(options->problem + len, KT_MAX_STATUS - len, "%s%s", len > 0 ? "; " : "", words);
}

static void
add_fault(KtWebOptions *options, const char *setting, KtKeyFault fault, KtKeyRule rule, int err)
{
	char words[KT_MAX_STATUS];

	snprintf(words, sizeof(words), "the file that %s names %s%s%s", setting,
	         kt_keyfile_words(fault, rule), fault == KT_KEY_UNREADABLE ? ": " : "",
	         fault == KT_KEY_UNREADABLE ? strerror(err) : "");
	add_problem(options, words);
}

/* Puts what was read in the place of what was in force. */
static void
replace(KtBuf *in_force, KtBuf *fresh)
{
	kt_buf_free(in_force);
	*in_force = *fresh;
}

/* ---- tokens ---------------------------------------------------------------------------------------------- */

static void
drop_tokens(KtWebOptions *options)
{
	kt_buf_free(&options->token_text);
	options->httpd.ntokens = 0;
}

/* False when there is no token where there is to be one. */
static bool
read_tokens(KtWebOptions *options)
{
	const char *tokens[KT_MAX_TOKENS];
	KtKeyFault fault;
	KtBuf text;
	int err = 0;
	int n = 0;

	if (kt_webhook_token_file[0] == '\0')
	{
		drop_tokens(options);
		return true;
	}
	kt_buf_init(&text, MAX_TOKEN_FILE);
	fault = kt_keyfile_read_whole(kt_webhook_token_file, KT_RULE_SECRET, &text, &err);
	if (fault == KT_KEY_OK)
		fault = kt_keyfile_split(&text, tokens, KT_MAX_TOKENS, KT_MAX_TOKEN, &n);
	if (fault != KT_KEY_OK)
	{
		kt_buf_free(&text);
		add_fault(options, "kridtech.webhook_token_file", fault, KT_RULE_SECRET, err);
		return options->httpd.ntokens > 0;
	}
	replace(&options->token_text, &text);
	memcpy(options->tokens, tokens, sizeof(tokens));
	options->httpd.tokens = options->tokens;
	options->httpd.ntokens = n;
	return true;
}

/* ---- certificate and key ----------------------------------------------------------------------------------- */

/* Reads both into fresh buffers and judges them. Fault: in words, in the options. */
static bool
read_pair(KtWebOptions *options, KtBuf *cert, KtBuf *key)
{
	KtKeyFault fault;
	char error[KT_MAX_STATUS / 2] = "";
	char words[KT_MAX_STATUS];
	int64_t end;
	int err = 0;

	fault = kt_keyfile_read_whole(kt_webhook_tls_cert_file, KT_RULE_PUBLIC, cert, &err);
	if (fault != KT_KEY_OK)
	{
		add_fault(options, "kridtech.webhook_tls_cert_file", fault, KT_RULE_PUBLIC, err);
		return false;
	}
	fault = kt_keyfile_read_whole(kt_webhook_tls_key_file, KT_RULE_TLS_KEY, key, &err);
	if (fault != KT_KEY_OK)
	{
		add_fault(options, "kridtech.webhook_tls_key_file", fault, KT_RULE_TLS_KEY, err);
		return false;
	}
	if (kt_httpd_judge_pair(cert->data, key->data, &end, error, sizeof(error)))
		return true;
	snprintf(words, sizeof(words), "the webhook's certificate and key are unfit: %s", error);
	add_problem(options, words);
	return false;
}

static void
drop_pair(KtWebOptions *options)
{
	kt_buf_free(&options->cert);
	kt_buf_free(&options->key);
	options->httpd.tls_cert = options->httpd.tls_key = NULL;
}

/* False when there is no certificate where there is to be one. */
static bool
read_tls(KtWebOptions *options)
{
	bool has_cert = kt_webhook_tls_cert_file[0] != '\0';
	bool has_key = kt_webhook_tls_key_file[0] != '\0';
	KtBuf cert;
	KtBuf key;

	if (!has_cert && !has_key)
	{
		drop_pair(options);
		return true;
	}
	kt_buf_init(&cert, KT_MAX_PEM);
	kt_buf_init(&key, KT_MAX_PEM);
	if (has_cert != has_key)
		add_problem(options, has_cert ? "kridtech.webhook_tls_key_file is not set"
		                              : "kridtech.webhook_tls_cert_file is not set");
	else if (read_pair(options, &cert, &key))
	{
		replace(&options->cert, &cert);
		replace(&options->key, &key);
		options->httpd.tls_cert = options->cert.data;
		options->httpd.tls_key = options->key.data;
		return true;
	}
	kt_buf_free(&cert);
	kt_buf_free(&key);
	return options->httpd.tls_cert != NULL;
}

/* ---- the rest ---------------------------------------------------------------------------------------------- */

static void
read_settings(KtWebOptions *options)
{
	KtHttpdOptions *httpd = &options->httpd;
	const char *list = kt_webhook_trusted_proxies;
	int n = 0;

	httpd->path = kt_webhook_path;
	httpd->max_body = (size_t) kt_webhook_max_body;
	httpd->max_connections = kt_webhook_max_connections;
	httpd->max_per_address = kt_webhook_max_per_address;
	httpd->header_us = (int64) kt_webhook_header_timeout * 1000;
	httpd->body_us = (int64) kt_webhook_body_timeout * 1000;
	httpd->idle_us = (int64) kt_webhook_idle_timeout * 1000;
	while (n < KT_MAX_PROXIES && kt_netaddr_next_network(&list, &options->proxies[n].address,
	                                                     &options->proxies[n].prefix))
		n++;
	httpd->proxies = options->proxies;
	httpd->nproxies = n;
}

bool
kt_weboptions_read(KtWebOptions *options)
{
	bool tokens;
	bool tls;

	options->problem[0] = '\0';
	read_settings(options);
	tokens = read_tokens(options);
	tls = read_tls(options);
	return tokens && tls;
}
