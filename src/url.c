/*
 * Base URLs: judged before a key is sent to them, and extended to the addresses of endpoints.
 *
 * libcurl will be the one that connects, so its parser decides what the host is. But what it accepts
 * has changed between 7.74 and 8.22 (numeric hosts, percent signs, slashes), so a URL is first held
 * to a narrow form in which no two parsers, and no two versions, can disagree: printable ASCII, no
 * backslash, "http(s)://" with exactly two slashes, an authority of host characters only. Everything
 * outside it is malformed. That makes the judgement right on hostile bytes: it can only be too strict.
 *
 * Loopback is a property of the parsed host, never of the text's beginning: "127.0.0.1.evil.com" is a
 * name. The name "localhost" is trusted here and checked again on the connected address by http.c.
 */
#include "url.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "ascii.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* Only printable ASCII: what is left cannot be dropped, folded or converted by any parser. */
static bool
is_plain(const char *url)
{
	for (; *url != '\0'; url++)
	{
		if (*url <= ' ' || *url > '~' || *url == '\\')
			return false;
	}
	return true;
}

/* The text behind "scheme://", or NULL. *http and *https tell which of the two schemes it was. */
static const char *
skip_scheme(const char *url, bool *http, bool *https)
{
	const char *colon = strstr(url, "://");
	const char *c;

	*http = *https = false;
	if (colon == NULL || colon == url)
		return NULL;
	for (c = url; c < colon; c++)
	{
		if (!kt_is_alnum(*c) && *c != '+' && *c != '-' && *c != '.')
			return NULL;
	}
	*http = colon - url == 4 && strncasecmp(url, "http", 4) == 0;
	*https = colon - url == 5 && strncasecmp(url, "https", 5) == 0;
	return colon + 3;
}

/* An authority without credentials: a name or number with an optional port, or one in brackets. */
static bool
is_authority(const char *authority, size_t len)
{
	bool bracketed = len > 0 && authority[0] == '[';
	size_t i;

	if (len == 0 || authority[0] == ':')
		return false;
	for (i = 0; i < len; i++)
	{
		char c = authority[i];

		if (!kt_is_alnum(c) && c != '.' && c != '-' && c != '_' && c != ':' &&
		    !(bracketed && (c == '[' || c == ']')))
			return false;
	}
	return true;
}

static bool
is_loopback(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;
	char bare[INET6_ADDRSTRLEN];
	size_t len = strlen(host);

	if (strcasecmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	if (len < 2 || host[0] != '[' || host[len - 1] != ']' || len - 2 >= sizeof(bare))
		return false;
	memcpy(bare, host + 1, len - 2);
	bare[len - 2] = '\0';
	return inet_pton(AF_INET6, bare, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

/* libcurl's own word on the whole URL, and whether the host it would connect to is loopback. */
static bool
parse(const char *url, bool *loopback)
{
	CURLU *parsed = curl_url();
	char *host = NULL;
	bool ok;

	*loopback = false;
	ok = parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
	     curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK && host[0] != '\0';
	if (ok)
		*loopback = is_loopback(host);
	curl_free(host);
	curl_url_cleanup(parsed);
	return ok;
}

KtUrlFault
kt_url_judge(const char *base, bool *loopback_only)
{
	const char *authority;
	size_t len;
	bool http;
	bool https;
	bool loopback;

	*loopback_only = false;
	if (!is_plain(base))
		return KT_URL_MALFORMED;
	authority = skip_scheme(base, &http, &https);
	if (authority == NULL)
		return KT_URL_MALFORMED;
	if (!http && !https)
		return KT_URL_SCHEME;
	len = strcspn(authority, "/?#");
	if (memchr(authority, '@', len) != NULL)
		return KT_URL_CREDENTIALS;
	if (!is_authority(authority, len))
		return KT_URL_MALFORMED;
	if (strpbrk(authority + len, "?#") != NULL)
		return KT_URL_QUERY;
	if (!parse(base, &loopback))
		return KT_URL_MALFORMED;
	if (http && !loopback)
		return KT_URL_PLAIN_HTTP;
	*loopback_only = http;
	return KT_URL_OK;
}

/* Percent-encodes all but RFC 3986's unreserved characters: in a query value nothing else is safe. */
static void
append_escaped(KtBuf *out, const char *value)
{
	static const char hex[] = "0123456789ABCDEF";

	for (; *value != '\0'; value++)
	{
		unsigned char c = (unsigned char) *value;

		if (kt_is_alnum(*value) || strchr("-._~", *value) != NULL)
			kt_buf_append_char(out, *value);
		else
		{
			char escape[3] = {'%', hex[c >> 4], hex[c & 15]};

			kt_buf_append(out, escape, sizeof(escape));
		}
	}
}

/* A base that kt_url_judge() finds fault with counts as malformed: no address is made of it. */
bool
kt_url_build(const char *base, const char *path, const KtUrlParam *params, int nparams, KtBuf *out)
{
	size_t base_len = strlen(base);
	bool loopback;
	char separator = '?';
	int i;

	kt_buf_reset(out, SIZE_MAX);
	if (kt_url_judge(base, &loopback) != KT_URL_OK || path[0] != '/')
		return false;
	while (base[base_len - 1] == '/')
		base_len--;
	kt_buf_append(out, base, base_len);
	kt_buf_append_str(out, path);
	for (i = 0; i < nparams; i++)
	{
		if (params[i].value == NULL)
			continue;
		kt_buf_append_char(out, separator);
		kt_buf_append_str(out, params[i].name);
		kt_buf_append_char(out, '=');
		append_escaped(out, params[i].value);
		separator = '&';
	}
	if (!out->failed)
		return true;
	kt_buf_reset(out, SIZE_MAX);
	return false;
}
