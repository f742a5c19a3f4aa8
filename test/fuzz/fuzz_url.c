/*
 * A base that was found good has, in libcurl's own reading, a scheme, a host and no more; http only to
 * loopback. An address made of it keeps scheme, host and port, and the query's value reads back whole.
 */
#include "fuzz.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <strings.h>

#include "url.h"

static char *
part(const char *url, CURLUPart which)
{
	CURLU *parsed = curl_url();
	char *value = NULL;

	MUST(curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK);
	if (curl_url_get(parsed, which, &value, 0) != CURLUE_OK)
		value = NULL;
	curl_url_cleanup(parsed);
	return value;
}

static void
same_part(const char *base, const char *url, CURLUPart which)
{
	char *a = part(base, which);
	char *b = part(url, which);

	MUST((a == NULL) == (b == NULL) && (a == NULL || strcmp(a, b) == 0));
	curl_free(a);
	curl_free(b);
}

static void
no_part(const char *url, CURLUPart which)
{
	char *value = part(url, which);

	MUST(value == NULL);
}

static void
check_host(const char *base, bool loopback_only)
{
	char *scheme = part(base, CURLUPART_SCHEME);
	char *host = part(base, CURLUPART_HOST);
	struct in_addr v4;

	MUST(strcmp(scheme, loopback_only ? "http" : "https") == 0);
	MUST(host != NULL && host[0] != '\0');
	if (loopback_only)
		MUST(strcasecmp(host, "localhost") == 0 || host[0] == '[' ||
		     (inet_pton(AF_INET, host, &v4) == 1 && strncmp(host, "127.", 4) == 0));
	curl_free(scheme);
	curl_free(host);
}

static void
check_build(const char *base)
{
	KtUrlParam params[] = {{"none", NULL}, {"v", base}};
	char *value;
	char *path;
	int len;
	KtBuf out;

	kt_buf_init(&out, 100000);
	MUST(kt_url_build(base, "/api/calls", params, 2, &out));
	same_part(base, out.data, CURLUPART_SCHEME);
	same_part(base, out.data, CURLUPART_HOST);
	same_part(base, out.data, CURLUPART_PORT);
	no_part(out.data, CURLUPART_USER);
	no_part(out.data, CURLUPART_FRAGMENT);
	path = part(out.data, CURLUPART_PATH);
	MUST(strlen(path) >= 10 && strcmp(path + strlen(path) - 10, "/api/calls") == 0);
	curl_free(path);
	value = curl_easy_unescape(NULL, strrchr(out.data, '=') + 1, 0, &len);
	MUST(strcmp(value, base) == 0);
	curl_free(value);
	kt_buf_free(&out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *base = string_of(data, size);
	bool loopback_only = true;
	KtUrlFault fault = kt_url_judge(base, &loopback_only);
	KtBuf out;

	if (fault == KT_URL_OK)
	{
		check_host(base, loopback_only);
		no_part(base, CURLUPART_USER);
		no_part(base, CURLUPART_PASSWORD);
		no_part(base, CURLUPART_QUERY);
		no_part(base, CURLUPART_FRAGMENT);
		check_build(base);
	}
	else
	{
		MUST(!loopback_only);
		kt_buf_init(&out, 1000);
		MUST(!kt_url_build(base, "/api/calls", NULL, 0, &out));
		MUST(out.len == 0);
	}
	free(base);
	return 0;
}
