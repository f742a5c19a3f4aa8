/*
 * URLs that a stranger wrote: may this one be fetched, and from which address?
 *
 * libcurl will be the one that connects, but what its parser takes has changed between 7.74 and 8.22. So a URL is
 * held to a form in which no two parsers can disagree: printable ASCII, no backslash, "https://", an authority of
 * one host and perhaps a port, written as plainly as can be, no user, no fragment. A host is either a name of
 * ordinary labels whose last one is no number, or an address in its one usual spelling; so "0x7f.1", "2130706433",
 * "127.1" and "[::ffff:127.0.0.1%25lo]" are neither. Last, libcurl is asked whether it reads the same host and port.
 * All of it can only be too strict.
 */
#include "fetchurl.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "address.h"
#include "ascii.h"
#include "limits.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

#define HTTPS_PORT 443

/* RFC 1035's bounds on names. */
#define MAX_NAME 253
#define MAX_LABEL 63

/* A host and port as it stands in a URL or a list; what it points to is not NUL-terminated. */
typedef struct HostPort
{
	const char *host; /* with its brackets, without the dot of a domain */
	size_t len;
	bool below; /* a domain: every name below it */
	int port;
	int family; /* as in KtFetchTarget */
	uint8_t address[16];
} HostPort;

/* ---- hosts ------------------------------------------------------------------------------------------------ */

static bool
is_label(const char *label, size_t len)
{
	size_t i;

	if (len == 0 || len > MAX_LABEL || label[0] == '-' || label[len - 1] == '-')
		return false;
	for (i = 0; i < len; i++)
		if (!kt_is_alnum(label[i]) && label[i] != '-' && label[i] != '_')
			return false;
	return true;
}

/*
 * A name of labels between single dots, *labels of them. Its last label does not begin with a digit: no top-level
 * domain does, and every way of writing an IPv4 address that some resolver takes has a last part that does.
 */
static bool
is_name(const char *name, size_t len, int *labels)
{
	size_t begin = 0;
	size_t i;

	*labels = 0;
	if (len == 0 || len > MAX_NAME)
		return false;
	for (i = 0; i <= len; i++)
	{
		if (i < len && name[i] != '.')
			continue;
		if (!is_label(name + begin, i - begin) || (i == len && kt_is_digit(name[begin])))
			return false;
		begin = i + 1;
		(*labels)++;
	}
	return true;
}

/* An address in the one spelling that inet_ntop() gives it, but for the case of its letters. */
static bool
read_address(HostPort *host)
{
	bool bracketed = host->len > 2 && host->host[0] == '[' && host->host[host->len - 1] == ']';
	size_t len = bracketed ? host->len - 2 : host->len;
	int family = bracketed ? AF_INET6 : AF_INET;
	char text[INET6_ADDRSTRLEN];
	char again[INET6_ADDRSTRLEN];

	if (len >= sizeof(text))
		return false;
	memcpy(text, host->host + bracketed, len);
	text[len] = '\0';
	if (inet_pton(family, text, host->address) != 1 ||
	    inet_ntop(family, host->address, again, sizeof(again)) == NULL ||
	    strcasecmp(text, again) != 0)
		return false;
	host->family = family;
	return true;
}

/* A port of 1 to 5 digits without a leading zero; -1 when it is none. */
static int
read_port(const char *text, size_t len)
{
	int port = 0;
	size_t i;

	if (len == 0 || len > 5 || text[0] == '0')
		return -1;
	for (i = 0; i < len; i++)
	{
		if (!kt_is_digit(text[i]))
			return -1;
		port = port * 10 + (text[i] - '0');
	}
	return port <= 65535 ? port : -1;
}

/* host[:port], or in a list .domain[:port]. */
static bool
read_host(const char *text, size_t len, bool in_list, HostPort *result)
{
	const char *bracket = len > 0 && text[0] == '[' ? memchr(text, ']', len) : text;
	const char *colon;
	int labels;

	memset(result, 0, sizeof(*result));
	if (bracket == NULL)
		return false;
	colon = memchr(bracket, ':', len - (size_t) (bracket - text));
	result->port = HTTPS_PORT;
	if (colon != NULL)
	{
		result->port = read_port(colon + 1, len - (size_t) (colon + 1 - text));
		len = (size_t) (colon - text);
	}
	if (result->port < 0)
		return false;
	result->below = in_list && len > 0 && text[0] == '.';
	result->host = text + result->below;
	result->len = len - result->below;
	if (is_name(result->host, result->len, &labels))
		return !result->below || labels > 1; /* not a whole top-level domain */
	return !result->below && read_address(result);
}

/* ---- the list --------------------------------------------------------------------------------------------- */

/* Cuts the next entry off a list, without the blanks around it. False at the list's end. */
static bool
next_entry(const char **rest, const char **entry, size_t *len)
{
	if (*rest == NULL)
		return false;
	*entry = *rest + strspn(*rest, " \t");
	*len = strcspn(*entry, ",");
	*rest = (*entry)[*len] == ',' ? *entry + *len + 1 : NULL;
	while (*len > 0 && ((*entry)[*len - 1] == ' ' || (*entry)[*len - 1] == '\t'))
		(*len)--;
	return true;
}

const char *
kt_fetchurl_check_hosts(const char *hosts)
{
	const char *entry;
	HostPort host;
	size_t len;

	if (hosts[strspn(hosts, " \t")] == '\0')
		return NULL;
	while (next_entry(&hosts, &entry, &len))
		if (!read_host(entry, len, true, &host))
			return "Each entry is a host name, a domain of at least two labels behind a leading dot, or an "
				   "address (IPv6 in brackets), with :port where it is not 443; entries are separated by "
				   "commas.";
	return NULL;
}

static bool
matches(const HostPort *entry, const HostPort *host)
{
	if (entry->port != host->port || entry->family != host->family)
		return false;
	if (entry->family != 0)
		return memcmp(entry->address, host->address, sizeof(host->address)) == 0;
	if (!entry->below)
		return entry->len == host->len && strncasecmp(entry->host, host->host, host->len) == 0;
	return host->len > entry->len + 1 && host->host[host->len - entry->len - 1] == '.' &&
	       strncasecmp(host->host + host->len - entry->len, entry->host, entry->len) == 0;
}

static bool
is_listed(const HostPort *host, const char *hosts)
{
	const char *text;
	HostPort entry;
	size_t len;

	while (next_entry(&hosts, &text, &len))
		if (read_host(text, len, true, &entry) && matches(&entry, host))
			return true;
	return false;
}

/* ---- URLs ------------------------------------------------------------------------------------------------- */

/* Only printable ASCII, and none of what parsers are known to differ about. */
static bool
is_plain(const char *url)
{
	size_t len = 0;

	for (; url[len] != '\0'; len++)
		if (len >= KT_MAX_RECORDING_URL || url[len] <= ' ' || url[len] > '~' ||
		    strchr("\\#\"<>^`{|}", url[len]) != NULL)
			return false;
	return true;
}

/* libcurl's own word on where it would connect to. */
static bool
libcurl_agrees(const char *url, const HostPort *host)
{
	CURLU *parsed = curl_url();
	char *name = NULL;
	char *port = NULL;
	char expected[8];
	bool agrees;

	snprintf(expected, sizeof(expected), "%d", host->port);
	agrees = parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
	         curl_url_get(parsed, CURLUPART_HOST, &name, 0) == CURLUE_OK &&
	         curl_url_get(parsed, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
	         strlen(name) == host->len && strncasecmp(name, host->host, host->len) == 0 &&
	         strcmp(port, expected) == 0;
	curl_free(name);
	curl_free(port);
	curl_url_cleanup(parsed);
	return agrees;
}

/* The text behind "scheme://"; *https says whether it is that scheme. NULL: it begins with no scheme. */
static const char *
skip_scheme(const char *url, bool *https)
{
	size_t len = 0;

	while (kt_is_alnum(url[len]) || (url[len] != '\0' && strchr("+-.", url[len]) != NULL))
		len++;
	*https = len == 5 && strncasecmp(url, "https", 5) == 0;
	return len > 0 && strncmp(url + len, "://", 3) == 0 ? url + len + 3 : NULL;
}

KtFetchFault
kt_fetchurl_judge(const char *url, const char *hosts, KtFetchTarget *target)
{
	const char *authority;
	HostPort host;
	bool https;
	size_t len;

	memset(target, 0, sizeof(*target));
	if (!is_plain(url))
		return KT_FETCH_MALFORMED;
	authority = skip_scheme(url, &https);
	if (authority == NULL)
		return KT_FETCH_MALFORMED;
	if (!https)
		return KT_FETCH_SCHEME;
	len = strcspn(authority, "/?");
	if (memchr(authority, '@', len) != NULL)
		return KT_FETCH_CREDENTIALS;
	if (!read_host(authority, len, false, &host) || !libcurl_agrees(url, &host))
		return KT_FETCH_MALFORMED;
	if (!is_listed(&host, hosts))
		return KT_FETCH_HOST;
	target->family = host.family;
	memcpy(target->address, host.address, sizeof(target->address));
	return KT_FETCH_OK;
}

bool
kt_fetchurl_allows(const KtFetchTarget *target, const struct sockaddr *address)
{
	if (target->family == 0)
		return kt_address_is_public(address);
	if (address->sa_family != target->family)
		return false;
	if (target->family == AF_INET)
		return memcmp(&((const struct sockaddr_in *) (const void *) address)->sin_addr,
		              target->address, 4) == 0;
	return memcmp(&((const struct sockaddr_in6 *) (const void *) address)->sin6_addr,
	              target->address, 16) == 0;
}
