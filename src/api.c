/*
 * The API's three endpoints: where they are, and the exact request each one takes.
 *
 * Together with answer.c the only place that knows URLs, headers and field names. The source is the
 * vendor's API documentation; what it does not name is not sent, but for a User-Agent.
 */
#include "postgres.h"

#include "api.h"

#include "limits.h"
#include "redact.h"
#include "repair.h"
#include "settings.h"
#include "url.h"
#include "utils/json.h"
#include "utils/memutils.h"

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
 * The variables, with kridtech_ref added as the last one: the text of an object ends with its brace. Our
 * own value needs no escaping.
 */
static void
append_variables(StringInfo body, const char *variables, const char *ref)
{
	bool is_empty;

	if (variables == NULL && ref == NULL)
		return;
	if (variables == NULL)
		variables = "{}";
	appendStringInfo(body, ",\"dynamicVariables\":%s", variables);
	if (ref == NULL)
		return;
	is_empty = strcmp(variables, "{}") == 0;
	body->data[--body->len] = '\0';
	appendStringInfo(body, "%s\"kridtech_ref\":\"%s\"}", is_empty ? "" : ",", ref);
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
	append_variables(body, request->dynamic_variables, request->ref);
	appendStringInfoChar(body, '}');
	if (body->len > KT_MAX_REQUEST_BODY)
		ereport(ERROR,
		        (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		         errmsg("dynamic variables are too large"),
		         errdetail("The request to the Kridtech API would be %d bytes; the limit is %d.",
		                   body->len, KT_MAX_REQUEST_BODY)));
}

/* What depends on kridtech.base_url alone, kept until it is another one. */
typedef struct KeptUrl
{
	char *base_url;
	char *create_call;
	bool loopback_only;
} KeptUrl;

/* The endpoint's URL, palloc'd, or NULL. */
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
	return url;
}

static void
keep_url(KeptUrl *kept)
{
	static const KtApiRequest create_call = {.endpoint = KT_ENDPOINT_CREATE_CALL};
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

	if (kept->base_url != NULL)
		pfree(kept->base_url);
	if (kept->create_call != NULL)
		pfree(kept->create_call);
	kept->base_url = kept->create_call = NULL;
	kept->loopback_only = false;
	kept->create_call = build_url(&create_call);
	(void) kt_url_judge(kt_base_url, &kept->loopback_only);
	kept->base_url = pstrdup(kt_base_url);
	MemoryContextSwitchTo(caller);
}

static const char *
url_of(const KtApiRequest *request, bool *loopback_only)
{
	static KeptUrl kept;
	const char *url;

	if (kept.base_url == NULL || strcmp(kept.base_url, kt_base_url) != 0)
		keep_url(&kept);
	*loopback_only = kept.loopback_only;
	url = request->endpoint == KT_ENDPOINT_CREATE_CALL ? kept.create_call : build_url(request);
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
	http->url = url_of(request, &loopback_only);
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
	http->loopback_only = loopback_only;
}

void
kt_api_forget(KtHttpRequest *http)
{
	if (http->headers != NULL)
		explicit_bzero(unconstify(char *, http->headers[0]), strlen(http->headers[0]));
}

KtOutcome
kt_api_judge(KtEndpoint endpoint, const KtHttpAnswer *http, KtApiAnswer *answer)
{
	KtEvidence evidence = {0};

	kt_answer_read(endpoint, http->body, http->body_len, answer);
	evidence.places_call = kt_api_creates(endpoint);
	evidence.transfer_failed = http->curl_code != 0;
	evidence.unreadable = http->unreadable;
	evidence.bytes_sent = http->bytes_sent;
	evidence.status = http->status;
	evidence.is_object = answer->is_object;
	evidence.success = answer->success;
	evidence.call_id = answer->call_id_kind;
	evidence.has_all_fields = answer->has_all_fields;
	return kt_outcome_judge(&evidence);
}

char *
kt_api_presentable(const char *words, size_t len, const char *key)
{
	KtBuf text;
	KtBuf shown;
	KtRepair repair;
	char *result = NULL;

	if (words == NULL || len == 0)
		return NULL;
	len = Min(len, KT_MAX_ANSWER_SMALL);
	kt_buf_init(&text, len * 3);
	kt_buf_init(&shown, KT_MAX_WORDS);
	if (kt_repair_text(words, len, &text, &repair) && text.len > 0)
		kt_redact(text.data, text.len, key, &shown);
	kt_buf_free(&text);
	if (shown.len > 0)
		result = pnstrdup(shown.data, shown.len);
	kt_buf_free(&shown);
	return result;
}
