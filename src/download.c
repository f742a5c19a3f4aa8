/*
 * The body of a transfer that is not kept but handed on as it arrives.
 *
 * Everything here runs inside libcurl's callbacks or between them, so nothing may throw. What makes a download
 * whole: its header declares a length or chunks, so that an early end is an error for libcurl; without either, an
 * end of the connection would look like the end of the body. It goes over a connection of its own, which is opened
 * to an address that the owner has let pass, and closed at the end: a kept one was opened for somebody else.
 */
#include "download.h"

#include <string.h>
#include <strings.h>

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

#define STATUS_OK 200

bool
kt_download_prepare(KtDownload *d, CURL *easy, const KtHttpRequest *request)
{
	long is_download = request->download != NULL;

	memset(d, 0, sizeof(*d));
	d->easy = easy;
	d->owner = request->owner;
	if (is_download)
		d->wants = *request->download;
	return curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, is_download) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_HTTP_CONTENT_DECODING, 1L - is_download) == CURLE_OK;
}

bool
kt_download_may_open(KtDownload *d, const struct sockaddr *address)
{
	if (!kt_download_is_wanted(d) || d->wants.allow_address(d->owner, address))
		return true;
	d->address_refused = true;
	return false;
}

/* Whether a header line has that name; *value is then what follows the colon, up to the line's end. */
static bool
has_name(const char *line, size_t len, const char *name, const char **value)
{
	size_t n = strlen(name);

	*value = line + n + 1;
	return len > n && strncasecmp(line, name, n) == 0 && line[n] == ':';
}

/* "Content-Encoding: identity" is none. */
static bool
is_encoding(const char *value, const char *end)
{
	while (value < end && (*value == ' ' || *value == '\t'))
		value++;
	while (end > value && strchr(" \t\r\n", end[-1]) != NULL)
		end--;
	return end > value && !(end - value == 8 && strncasecmp(value, "identity", 8) == 0);
}

void
kt_download_header(KtDownload *d, const char *line, size_t len)
{
	const char *value;

	if (len >= 5 && memcmp(line, "HTTP/", 5) == 0)
		d->delimited = d->encoded = false; /* a new answer: what a 1xx said is void */
	else if (has_name(line, len, "Content-Length", &value) ||
	         has_name(line, len, "Transfer-Encoding", &value))
		d->delimited = true;
	else if (has_name(line, len, "Content-Encoding", &value))
		d->encoded = d->encoded || is_encoding(value, line + len);
}

/* Why not even the first byte of a body is taken, or NULL. */
static const char *
fault_of_header(KtDownload *d)
{
	curl_off_t declared = -1;
	long status = 0;

	curl_easy_getinfo(d->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(d->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &declared);
	if (status != STATUS_OK)
		return "the answer's status is not 200";
	if (d->encoded)
		return "the answer has a content encoding, which was not asked for";
	if (!d->delimited)
		return "the answer does not say where it ends";
	d->too_large = declared > d->wants.max_bytes;
	return d->too_large ? "the answer declares a larger size than is allowed" : NULL;
}

size_t
kt_download_body(KtDownload *d, const char *bytes, size_t len)
{
	if (d->received == 0)
		d->fault = fault_of_header(d);
	if (d->fault != NULL)
		return 0;
	if ((int64_t) len > d->wants.max_bytes - d->received)
	{
		d->too_large = true;
		d->fault = "the answer is larger than is allowed";
		return 0;
	}
	switch (d->wants.sink(d->owner, bytes, len))
	{
		case KT_HTTP_TAKEN:
			d->received += (int64_t) len;
			return len;
		case KT_HTTP_WAIT:
			return CURL_WRITEFUNC_PAUSE;
		case KT_HTTP_STOP:
			break;
	}
	d->fault = "the download was stopped";
	return 0;
}

void
kt_download_answer(KtDownload *d, KtHttpAnswer *answer)
{
	char *content_type = NULL;

	if (!kt_download_is_wanted(d))
		return;
	if (answer->status != 0)
		curl_easy_getinfo(d->easy, CURLINFO_CONTENT_TYPE, &content_type);
	answer->content_type = content_type;
	answer->too_large = answer->too_large || d->too_large;
	if (d->fault != NULL)
		answer->error = d->fault;
	else if (d->address_refused && answer->curl_code == CURLE_COULDNT_CONNECT)
		answer->error = "the host's address is not one that may be connected to";
}
