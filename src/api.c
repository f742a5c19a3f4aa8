/*
 * The API's three endpoints: where they are, and the exact request each one takes.
 *
 * Together with answer.c the only place that knows URLs, headers and field names. The source is the
 * vendor's API documentation; what it does not name is not sent, but for a User-Agent.
 */
#include "postgres.h"

#include "api.h"

#include "limits.h"
#include "settings.h"
#include "url.h"
#include "utils/json.h"

#define USER_AGENT "kridtech/" KRIDTECH_VERSION

/* A URL is the base URL and at most 60 bytes of ours. */
#define MAX_URL 8192

/* The header lines of a request, the key's first so that kt_api_forget() finds it. */
#define HEADER_LINES 3

static const char *
path_of(KtEndpoint endpoint)
{
	switch (endpoint)
	{
		case KT_ENDPOINT_CREATE_CALL:
			return "/api/create-call";
		case KT_ENDPOINT_CREATE_WEB_CALL:
			return "/api/create-web-call";
		case KT_ENDPOINT_CALLS:
			return "/api/calls";
	}
	return NULL;
}

const char *
kt_api_name(KtEndpoint endpoint)
{
	switch (endpoint)
	{
		case KT_ENDPOINT_CREATE_CALL:
			return "POST /api/create-call";
		case KT_ENDPOINT_CREATE_WEB_CALL:
			return "POST /api/create-web-call";
		case KT_ENDPOINT_CALLS:
			return "GET /api/calls";
	}
	return NULL;
}

bool
kt_api_creates(KtEndpoint endpoint)
{
	return endpoint != KT_ENDPOINT_CALLS;
}

static size_t
max_answer_of(KtEndpoint endpoint)
{
	return endpoint == KT_ENDPOINT_CALLS ? KT_MAX_ANSWER_LIST : KT_MAX_ANSWER_SMALL;
}

/* Appends ,"name":"value" (or without the comma, the first time). Nothing for NULL. */
static void
append_text_field(StringInfo body, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(body, "%s\"%s\":", body->data[body->len - 1] == '{' ? "" : ",", name);
	escape_json(body, value);
}

/*
 * The body as UTF-8. escape_json() copies bytes above ASCII as they are, and no byte of a UTF-8
 * sequence looks like a quote or a backslash, so it serves here whatever the server's encoding.
 */
static void
build_body(const KtApiRequest *request, StringInfo body)
{
	initStringInfo(body);
	appendStringInfoChar(body, '{');
	append_text_field(body, "accountId", request->account_id);
	append_text_field(body, "toNumber", request->to_number);
	append_text_field(body, "firstName", request->first_name);
	if (request->dynamic_variables != NULL)
		appendStringInfo(body, ",\"dynamicVariables\":%s", request->dynamic_variables);
	appendStringInfoChar(body, '}');
	if (body->len > KT_MAX_REQUEST_BODY)
		ereport(ERROR,
		        (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		         errmsg("dynamic variables are too large"),
		         errdetail("The request to the Kridtech API would be %d bytes; the limit is %d.",
		                   body->len, KT_MAX_REQUEST_BODY)));
}

static char *
build_url(const KtApiRequest *request)
{
	char limit[16];
	KtUrlParam params[] = {{"status", request->status}, {"limit", NULL}};
	KtBuf buf;
	char *url = NULL;

	if (request->limit > 0)
	{
		snprintf(limit, sizeof(limit), "%d", request->limit);
		params[1].value = limit;
	}
	kt_buf_init(&buf, MAX_URL);
	if (kt_url_build(kt_base_url, path_of(request->endpoint), params, lengthof(params), &buf))
		url = pstrdup(buf.data);
	kt_buf_free(&buf);
	if (url == NULL || !kt_settings_usable())
		ereport(ERROR,
		        (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		         errmsg("kridtech.base_url is not usable"),
		         errhint("The value in the configuration was refused: the server's log says why. "
		                 "Correct it and reload.")));
	return url;
}

void
kt_api_build(const KtApiRequest *request, const char *key, KtHttpRequest *http)
{
	const char **headers = palloc0((HEADER_LINES + 1) * sizeof(char *));
	bool loopback_only = false;

	memset(http, 0, sizeof(*http));
	http->url = build_url(request);
	headers[0] = psprintf("x-api-key: %s", key);
	http->headers = headers;
	if (kt_api_creates(request->endpoint))
	{
		StringInfoData body;

		build_body(request, &body);
		http->body = body.data;
		http->body_len = body.len;
		headers[1] = "Content-Type: application/json";
	}
	http->max_answer = max_answer_of(request->endpoint);
	http->connect_timeout_ms = kt_connect_timeout;
	http->request_timeout_ms = kt_request_timeout;
	http->user_agent = USER_AGENT;
	http->ca_file = kt_ca_file[0] != '\0' ? kt_ca_file : NULL;
	(void) kt_url_judge(kt_base_url, &loopback_only);
	http->loopback_only = loopback_only;
}

void
kt_api_forget(KtHttpRequest *http)
{
	if (http->headers != NULL)
		explicit_bzero(unconstify(char *, http->headers[0]), strlen(http->headers[0]));
}
