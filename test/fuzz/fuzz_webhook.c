/*
 * No body whatever breaks kt_webhook_read(); a callId that comes out is one, all text is valid UTF-8, the
 * variables are JSON that jsonb takes, and the same bytes always read the same, whichever way strings are taken.
 */
#include "postgres_fe.h"

#include "arena.h"

#include "compat.h"
#include "limits.h"
#include "mb/pg_wchar.h"
#include "webhook.h"

/* ---- the oracles ---------------------------------------------------------------------------------------------- */

static void
check_text(const char *text)
{
	MUST(text == NULL || is_valid_utf8_without_nul(text, strlen(text)));
}

/* The digits of an exponent, or 0. */
static int
exponent_of(const char *number)
{
	const char *e = strpbrk(number, "eE");

	return e == NULL ? 0 : abs(atoi(e + 1));
}

static int depth;

static KT_JSON_ACTION
on_start(void *state)
{
	depth++;
	MUST(depth <= KT_MAX_JSON_DEPTH);
	KT_JSON_GO_ON;
}

static KT_JSON_ACTION
on_end(void *state)
{
	depth--;
	KT_JSON_GO_ON;
}

/* What numeric and text refuse, or would print as megabytes. */
static KT_JSON_ACTION
on_scalar(void *state, char *token, JsonTokenType type)
{
	if (type == JSON_TOKEN_NUMBER)
		MUST(strlen(token) <= 100 && exponent_of(token) <= 100);
	if (type == JSON_TOKEN_STRING)
		check_text(token);
	KT_JSON_GO_ON;
}

static void
check_variables(const char *text)
{
	JsonSemAction actions = {0};

	if (text == NULL)
		return;
	check_text(text);
	MUST(text[0] == '[' || text[0] == '{');
	MUST(strlen(text) <= KT_MAX_VARIABLES * 2);
	actions.object_start = on_start;
	actions.object_end = on_end;
	actions.array_start = on_start;
	actions.array_end = on_end;
	actions.scalar = on_scalar;
	depth = 0;
	MUST(pg_parse_json(kt_json_lexer(pstrdup(text), (int) strlen(text), true), &actions) ==
	     JSON_SUCCESS);
}

static void
check_webhook(const KtWebhook *webhook)
{
	MUST((webhook->fault == NULL) == (webhook->call_id != NULL));
	MUST(webhook->remote_addr == NULL);
	if (webhook->fault != NULL)
	{
		MUST(webhook->transcript == NULL && webhook->dynamic_variables == NULL);
		return;
	}
	MUST(webhook->call_id[0] != '\0' && strlen(webhook->call_id) <= KT_MAX_CALL_ID);
	check_text(webhook->call_id);
	check_text(webhook->status);
	check_text(webhook->transcript);
	check_text(webhook->recording_url);
	if (webhook->duration_ms != NULL)
		MUST(webhook->duration_ms[0] != '\0' &&
		     strspn(webhook->duration_ms, "+-.0123456789eE") == strlen(webhook->duration_ms));
	check_variables(webhook->dynamic_variables);
}

static void
same_text(const char *a, const char *b)
{
	MUST((a == NULL) == (b == NULL));
	MUST(a == NULL || strcmp(a, b) == 0);
}

static void
same_webhook(const KtWebhook *a, const KtWebhook *b)
{
	MUST(a->fault == b->fault);
	same_text(a->call_id, b->call_id);
	same_text(a->status, b->status);
	same_text(a->duration_ms, b->duration_ms);
	same_text(a->transcript, b->transcript);
	same_text(a->recording_url, b->recording_url);
	same_text(a->dynamic_variables, b->dynamic_variables);
}

/* One more field, with an escape for which the parser is asked to copy all strings, changes nothing. */
static void
check_escapes(const KtWebhook *webhook)
{
	static const char field[] = "\"\\u0078\\n\":0,";
	const char *brace = memchr(webhook->raw, '{', webhook->raw_len);
	size_t before = (size_t) (brace + 1 - webhook->raw);
	size_t len = webhook->raw_len + sizeof(field) - 1;
	char *body = palloc(len);
	KtWebhook other;

	memcpy(body, webhook->raw, before);
	memcpy(body + before, field, sizeof(field) - 1);
	memcpy(body + before + sizeof(field) - 1, brace + 1, webhook->raw_len - before);
	kt_webhook_read(body, len, &other);
	same_webhook(webhook, &other);
}

/* Depth beyond the bound costs the value that has it, and nothing else. */
static void
check_depths(void)
{
	int levels;

	for (levels = 0; levels < 3 * KT_MAX_JSON_DEPTH; levels++)
	{
		char body[1024];
		KtWebhook webhook;
		int len = snprintf(body, sizeof(body), "{\"deep\":");
		int i;

		for (i = 0; i < levels; i++)
			body[len++] = '[';
		for (i = 0; i < levels; i++)
			body[len++] = ']';
		len += snprintf(body + len, sizeof(body) - len, "%s,\"callId\":\"c\"}",
		                levels == 0 ? "[]" : "");
		kt_webhook_read(body, len, &webhook);
		MUST(webhook.fault == NULL && strcmp(webhook.call_id, "c") == 0);
		arena_empty();
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool checked = false;
	KtWebhook once;
	KtWebhook again;

	if (!checked)
		check_depths();
	checked = true;
	kt_webhook_read((const char *) data, size, &once);
	MUST(once.raw == (const char *) data && once.raw_len == size);
	check_webhook(&once);
	MUST(arena_bytes <= 65536 + size * 256);
	kt_webhook_read((const char *) data, size, &again);
	same_webhook(&once, &again);
	if (once.fault == NULL)
		check_escapes(&once);
	arena_empty();
	return 0;
}
