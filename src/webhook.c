/*
 * A webhook delivery: its bytes into fields.
 *
 * A body is taken for hostile: it is repaired to valid UTF-8 without NUL, pruned to a bounded depth, then read
 * by PostgreSQL's JSON parser. Why jsonb takes what comes out as dynamic_variables: the repair leaves no escape
 * that it refuses, the pruning no depth, tame_numbers() no number; and its length is bounded far below the
 * sizes at which a jsonb's parts stop fitting.
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "webhook.h"

#include "json.h"
#include "limits.h"
#include "repair.h"

enum
{
	FIELD_CALL_ID,
	FIELD_STATUS,
	FIELD_DURATION_MS,
	FIELD_TRANSCRIPT,
	FIELD_RECORDING_URL,
	FIELD_DYNAMIC_VARIABLES,
	NFIELDS
};

static const char *const field_names[NFIELDS] = {
	[FIELD_CALL_ID] = "callId",
	[FIELD_STATUS] = "status",
	[FIELD_DURATION_MS] = "durationMs",
	[FIELD_TRANSCRIPT] = "transcript",
	[FIELD_RECORDING_URL] = "recordingUrl",
	[FIELD_DYNAMIC_VARIABLES] = "dynamicVariables",
};

/* ---- text made fit to be parsed ---------------------------------------------------------------------- */

/* The end of the string that begins at p: behind its closing quote, or end. */
static const char *
skip_string(const char *p, const char *end)
{
	for (p++; p < end && *p != '"'; p++)
		if (*p == '\\' && p + 1 < end)
			p++;
	return p < end ? p + 1 : end;
}

/* The end of the array or object that begins at p, whatever it holds, or end. */
static const char *
skip_container(const char *p, const char *end)
{
	size_t depth = 0;

	while (p < end)
	{
		if (*p == '"')
		{
			p = skip_string(p, end);
			continue;
		}
		if (*p == '{' || *p == '[')
			depth++;
		else if ((*p == '}' || *p == ']') && --depth == 0)
			return p + 1;
		p++;
	}
	return end;
}

/*
 * Replaces, in place, each array and object that lies deeper than KT_MAX_JSON_DEPTH by null: the field it
 * belongs to is odd, but the others are not. ("[]" is shorter than "null", so it becomes 0 there.)
 */
static size_t
prune(char *text, size_t len)
{
	const char *p = text;
	const char *end = text + len;
	char *out = text;
	int depth = 0;

	while (p < end)
	{
		const char *next = p + 1;

		if (*p == '"')
			next = skip_string(p, end);
		else if ((*p == '{' || *p == '[') && depth == KT_MAX_JSON_DEPTH)
		{
			next = skip_container(p, end);
			if (next - p >= 4)
				memcpy(out, "null", 4);
			else
				*out = '0';
			out += next - p >= 4 ? 4 : 1;
			p = next;
			continue;
		}
		else if (*p == '{' || *p == '[')
			depth++;
		else if (*p == '}' || *p == ']')
			depth--;
		memmove(out, p, next - p);
		out += next - p;
		p = next;
	}
	*out = '\0';
	return out - text;
}

static void
out_of_memory(void)
{
#ifdef FRONTEND
	abort();
#else
	ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"),
	                errdetail("A webhook's body could not be read.")));
#endif
}

/* The body repaired, palloc'd. */
static char *
repaired(const char *body, size_t len, size_t *repaired_len)
{
	KtBuf text;
	KtRepair repair;
	char *copy = NULL;

	/* every byte that is replaced becomes three */
	kt_buf_init(&text, len * 3 + 1);
	if (kt_repair_json(body, len, &text, &repair))
	{
		/* Nothing may throw while the buffer is there, which is malloc'd. */
		copy = palloc_extended(text.len + 1, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
		if (copy != NULL && text.len > 0)
			memcpy(copy, text.data, text.len);
	}
	*repaired_len = text.len;
	kt_buf_free(&text);
	if (copy == NULL)
		out_of_memory();
	copy[*repaired_len] = '\0';
	if (repair.depth > KT_MAX_JSON_DEPTH)
		*repaired_len = prune(copy, *repaired_len);
	return copy;
}

/* ---- numbers that jsonb refuses ---------------------------------------------------------------------- */

/* More digits, or a larger exponent, than any number that means something; numeric takes far more. */
#define MAX_DIGITS 100
#define MAX_EXPONENT 100

/* The end of the number that begins at p. */
static const char *
skip_number(const char *p, const char *end)
{
	while (p < end && ((*p >= '0' && *p <= '9') || strchr("+-.eE", *p) != NULL))
		p++;
	return p;
}

static bool
is_wild(const char *p, const char *end)
{
	int exponent = 0;

	if (end - p > MAX_DIGITS)
		return true;
	for (; p < end && *p != 'e' && *p != 'E'; p++)
		;
	for (; p < end && exponent <= MAX_EXPONENT; p++)
		if (*p >= '0' && *p <= '9')
			exponent = exponent * 10 + (*p - '0');
	return exponent > MAX_EXPONENT;
}

/*
 * JSON text in which each number that is beyond numeric, or would be thousands of digits once printed, stands
 * as a string: as it was sent, and jsonb takes it. The text itself where there is none.
 */
static char *
tame_numbers(char *text)
{
	size_t len = strlen(text);
	const char *end = text + len;
	const char *p;
	char *result = NULL;
	char *out = NULL;

	for (p = text; p < end;)
	{
		const char *next = p + 1;
		bool wild = false;

		if (*p == '"')
			next = skip_string(p, end);
		else if (*p == '-' || (*p >= '0' && *p <= '9'))
		{
			next = skip_number(p, end);
			wild = is_wild(p, next);
		}
		if (wild && result == NULL)
		{
			/* a wild number has at least five characters */
			result = palloc(len + len / 2 + 3);
			memcpy(result, text, p - text);
			out = result + (p - text);
		}
		if (result != NULL)
		{
			if (wild)
				*out++ = '"';
			memcpy(out, p, next - p);
			out += next - p;
			if (wild)
				*out++ = '"';
		}
		p = next;
	}
	if (result == NULL)
		return text;
	*out = '\0';
	return result;
}

/* ---- fields ------------------------------------------------------------------------------------------ */

/* Of two fields of one name the last counts, as everywhere in JavaScript. */
static char *
string_of(const KtJsonValue *value)
{
	return value->kind == KT_JSON_STRING ? value->text : NULL;
}

/* A number; or a string that is one, as "94000". */
static char *
number_of(const KtJsonValue *value)
{
	size_t digits = value->kind == KT_JSON_STRING ? strspn(value->text, "0123456789") : 0;

	if (value->kind == KT_JSON_NUMBER || (digits > 0 && value->text[digits] == '\0'))
		return value->text;
	return NULL;
}

static char *
variables_of(const KtJsonValue *value)
{
	if ((value->kind != KT_JSON_ARRAY && value->kind != KT_JSON_OBJECT) ||
	    strlen(value->text) > KT_MAX_VARIABLES)
		return NULL;
	return tame_numbers(value->text);
}

static const char *
fault_of_call_id(const KtJsonValue *value)
{
	if (value->kind == KT_JSON_ABSENT)
		return "it has no callId";
	if (value->kind != KT_JSON_STRING)
		return "its callId is not a string";
	if (value->text[0] == '\0')
		return "its callId is empty";
	if (strlen(value->text) > KT_MAX_CALL_ID)
		return "its callId is too long";
	return NULL;
}

/* Most bodies need no repair and are read where they lie. */
static bool
read_fields(const char *body, size_t len, KtJsonValue *fields)
{
	KtRepair repair;
	char *text;
	size_t text_len;
	bool is_object;

	if (kt_repair_json_is_needless(body, len, &repair) && repair.depth <= KT_MAX_JSON_DEPTH)
		return kt_json_read(body, len, field_names, NFIELDS, fields, NULL);
	text = repaired(body, len, &text_len);
	is_object = kt_json_read(text, text_len, field_names, NFIELDS, fields, NULL);
	pfree(text);
	return is_object;
}

void
kt_webhook_read(const char *body, size_t len, KtWebhook *webhook)
{
	KtJsonValue fields[NFIELDS];

	memset(webhook, 0, sizeof(*webhook));
	webhook->raw = body;
	webhook->raw_len = len;
	if (!read_fields(body, len, fields))
		webhook->fault = "it is not a JSON object";
	else
		webhook->fault = fault_of_call_id(&fields[FIELD_CALL_ID]);
	if (webhook->fault != NULL)
		return;
	webhook->call_id = fields[FIELD_CALL_ID].text;
	webhook->status = string_of(&fields[FIELD_STATUS]);
	webhook->duration_ms = number_of(&fields[FIELD_DURATION_MS]);
	webhook->transcript = string_of(&fields[FIELD_TRANSCRIPT]);
	webhook->recording_url = string_of(&fields[FIELD_RECORDING_URL]);
	webhook->dynamic_variables = variables_of(&fields[FIELD_DYNAMIC_VARIABLES]);
}
