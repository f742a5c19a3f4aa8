/*
 * A URL that was found good is, in libcurl's own reading, https without user, password and fragment, and its host
 * and port are those of an entry of the list, found here by plain string comparison. The input is a list of hosts, a
 * line feed, and a URL; without a line feed the list is a fixed one.
 */
#include "fuzz.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <strings.h>

#include "address.h"
#include "fetchurl.h"

#define HOSTS \
	"storage.kridtech.com,.cdn.example.net,media.example.org:8443,127.0.0.1:9443,[::1]:9443"

static char *
part(const char *url, CURLUPart which, unsigned flags)
{
	CURLU *parsed = curl_url();
	char *value = NULL;

	MUST(curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK);
	if (curl_url_get(parsed, which, &value, flags) != CURLUE_OK)
		value = NULL;
	curl_url_cleanup(parsed);
	return value;
}

static void
no_part(const char *url, CURLUPart which)
{
	char *value = part(url, which, 0);

	MUST(value == NULL);
}

/* Whether an entry is that host and port, or the domain above it. */
static bool
is_entry(const char *entry, const char *host, const char *port)
{
	char plain[400];
	char with_port[400];
	size_t len;
	size_t i;

	snprintf(with_port, sizeof(with_port), "%s:%s", host, port);
	snprintf(plain, sizeof(plain), "%s", strcmp(port, "443") == 0 ? host : with_port);
	if (strcasecmp(entry, plain) == 0 || strcasecmp(entry, with_port) == 0)
		return true;
	len = strlen(entry);
	for (i = 1; entry[0] == '.' && host[i] != '\0'; i++)
		if (strcasecmp(entry, plain + i) == 0 || strcasecmp(entry, with_port + i) == 0)
			return len > 0;
	return false;
}

static bool
is_in(const char *hosts, const char *host, const char *port)
{
	char *copy = strdup(hosts);
	char *rest = copy;
	char *entry;
	bool found = false;

	while ((entry = strsep(&rest, ",")) != NULL)
	{
		char *end;

		entry += strspn(entry, " \t");
		for (end = entry + strlen(entry); end > entry && strchr(" \t", end[-1]) != NULL;)
			*--end = '\0';
		found = found || is_entry(entry, host, port);
	}
	free(copy);
	return found;
}

/* A name may lead to public addresses only, an address to itself only. */
static void
check_target(const KtFetchTarget *target, const char *host)
{
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	bool numeric = host[0] == '[' || inet_addr(host) != INADDR_NONE;

	MUST((target->family != 0) == numeric);
	if (strcmp(host, "127.0.0.1") != 0)
		MUST(!kt_fetchurl_allows(target, (const struct sockaddr *) &here));
}

static void
check_good(const char *url, const char *hosts, const KtFetchTarget *target)
{
	char *scheme = part(url, CURLUPART_SCHEME, 0);
	char *host = part(url, CURLUPART_HOST, 0);
	char *port = part(url, CURLUPART_PORT, CURLU_DEFAULT_PORT);

	MUST(strcmp(scheme, "https") == 0);
	MUST(is_in(hosts, host, port));
	check_target(target, host);
	no_part(url, CURLUPART_USER);
	no_part(url, CURLUPART_PASSWORD);
	no_part(url, CURLUPART_FRAGMENT);
	curl_free(scheme);
	curl_free(host);
	curl_free(port);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *feed = memchr(data, '\n', size);
	char *hosts = feed != NULL ? string_of(data, (size_t) (feed - data)) : strdup(HOSTS);
	const uint8_t *begin = feed != NULL ? feed + 1 : data;
	char *url = string_of(begin, size - (size_t) (begin - data));
	KtFetchTarget target;

	if (kt_fetchurl_check_hosts(hosts) == NULL &&
	    kt_fetchurl_judge(url, hosts, &target) == KT_FETCH_OK)
		check_good(url, hosts, &target);
	free(hosts);
	free(url);
	return 0;
}
