/*
 * What an answer of the API says: bytes in, fields and evidence out.
 *
 * Every answer is taken for hostile: it is repaired to valid UTF-8 without NUL, bounded in depth, then
 * read by PostgreSQL's JSON parser. What is missing or of another type reads as absent. Nothing here
 * decides what that means: outcome.c does.
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "answer.h"

#include "json.h"
#include "limits.h"
#include "repair.h"

static char *
text_of(const KtJsonValue *value, KtJsonKind kind)
{
	return value->kind == kind && !value->contradictory ? value->text : NULL;
}

static KtSuccess
success_of(const KtJsonValue *value)
{
	if (value->kind == KT_JSON_ABSENT)
		return KT_SUCCESS_ABSENT;
	if (value->kind != KT_JSON_BOOL || value->contradictory)
		return KT_SUCCESS_ODD;
	return strcmp(value->text, "true") == 0 ? KT_SUCCESS_TRUE : KT_SUCCESS_FALSE;
}

/* Printable: no control character, C0 or C1, and nothing that had to be repaired (U+FFFD): it would match
 * no other mention of the call. The text is valid UTF-8. */
static bool
is_printable(const char *text)
{
	const unsigned char *c;

	for (c = (const unsigned char *) text; *c != '\0'; c++)
		if (*c < 0x20 || *c == 0x7f || (c[0] == 0xc2 && c[1] < 0xa0) ||
		    (c[0] == 0xef && c[1] == 0xbf && c[2] == 0xbd))
			return false;
	return true;
}

static KtCallId
call_id_of(const KtJsonValue *value)
{
	if (value->contradictory)
		return KT_CALL_ID_CONTRADICTORY;
	if (value->kind == KT_JSON_ABSENT || value->kind == KT_JSON_NULL)
		return KT_CALL_ID_ABSENT;
	if (value->kind != KT_JSON_STRING || value->text[0] == '\0' ||
	    strlen(value->text) > KT_MAX_CALL_ID || !is_printable(value->text))
		return KT_CALL_ID_ODD;
	return KT_CALL_ID_CREDIBLE;
}

/* The documentation gives no form for errors, so the usual ones are tried. */
static char *
words_of(const KtJsonValue *message, const KtJsonValue *error)
{
	static const char *const inner_names[] = {"message"};
	KtJsonValue inner[lengthof(inner_names)];
	char *words = text_of(message, KT_JSON_STRING);

	if (words == NULL)
		words = text_of(error, KT_JSON_STRING);
	if (words == NULL && error->kind == KT_JSON_OBJECT &&
	    kt_json_read(error->text, strlen(error->text), inner_names, lengthof(inner), inner, NULL))
		words = text_of(&inner[0], KT_JSON_STRING);
	return words;
}

/* ---- the list ------------------------------------------------------------------------------------ */

enum
{
	COLUMN_CALL_ID,
	COLUMN_ACCOUNT_ID,
	COLUMN_DIRECTION,
	COLUMN_TO_NUMBER,
	COLUMN_CALL_STATUS,
	COLUMN_DURATION,
	COLUMN_COST,
	COLUMN_CREATED_AT,
	COLUMN_FIRST_NAME,
	NCOLUMNS
};

static const char *const column_names[NCOLUMNS] = {
	[COLUMN_CALL_ID] = "callId",
	[COLUMN_ACCOUNT_ID] = "accountId",
	[COLUMN_DIRECTION] = "direction",
	[COLUMN_TO_NUMBER] = "toNumber",
	[COLUMN_CALL_STATUS] = "callStatus",
	[COLUMN_DURATION] = "duration",
	[COLUMN_COST] = "cost",
	[COLUMN_CREATED_AT] = "createdAt",
	[COLUMN_FIRST_NAME] = "firstName",
};

/* A string that is no longer than any that is meant. */
static char *
short_text_of(const KtJsonValue *value)
{
	char *text = text_of(value, KT_JSON_STRING);

	return text != NULL && strlen(text) <= KT_MAX_LISTED ? text : NULL;
}

static void
take_listed_call(const KtJsonValue *row, KtListedCall *call)
{
	if (call_id_of(&row[COLUMN_CALL_ID]) == KT_CALL_ID_CREDIBLE)
		call->call_id = row[COLUMN_CALL_ID].text;
	call->account_id = text_of(&row[COLUMN_ACCOUNT_ID], KT_JSON_STRING);
	call->direction = text_of(&row[COLUMN_DIRECTION], KT_JSON_STRING);
	call->to_number = short_text_of(&row[COLUMN_TO_NUMBER]);
	call->call_status = short_text_of(&row[COLUMN_CALL_STATUS]);
	call->duration = text_of(&row[COLUMN_DURATION], KT_JSON_NUMBER);
	call->cost = text_of(&row[COLUMN_COST], KT_JSON_NUMBER);
	call->created_at = text_of(&row[COLUMN_CREATED_AT], KT_JSON_STRING);
	call->first_name = text_of(&row[COLUMN_FIRST_NAME], KT_JSON_STRING);
}

static void
take_list(const KtJsonRows *rows, KtApiAnswer *answer)
{
	int i;

	answer->ncalls = Min(rows->nrows, rows->max);
	answer->calls = palloc0(Max(answer->ncalls, 1) * sizeof(KtListedCall));
	for (i = 0; i < answer->ncalls; i++)
		take_listed_call(&rows->values[(Size) i * NCOLUMNS], &answer->calls[i]);
}

/* ---- an answer ----------------------------------------------------------------------------------- */

enum
{
	FIELD_SUCCESS,
	FIELD_CALL_ID,
	FIELD_CALL_STATUS,
	FIELD_ACCESS_TOKEN,
	FIELD_ACCOUNT_ID,
	FIELD_SAMPLE_RATE,
	FIELD_TOTAL,
	FIELD_MESSAGE,
	FIELD_ERROR,
	NFIELDS
};

static const char *const field_names[NFIELDS] = {
	[FIELD_SUCCESS] = "success",
	[FIELD_CALL_ID] = "callId",
	[FIELD_CALL_STATUS] = "callStatus",
	[FIELD_ACCESS_TOKEN] = "accessToken",
	[FIELD_ACCOUNT_ID] = "accountId",
	[FIELD_SAMPLE_RATE] = "sampleRate",
	[FIELD_TOTAL] = "total",
	[FIELD_MESSAGE] = "message",
	[FIELD_ERROR] = "error",
};

/* What makes an answer usable, beyond its success and its callId. */
static bool
has_all_fields(KtEndpoint endpoint, const KtApiAnswer *answer, const KtJsonRows *rows)
{
	switch (endpoint)
	{
		case KT_ENDPOINT_CREATE_CALL:
			return true;
		case KT_ENDPOINT_CREATE_WEB_CALL:
			/* without its token a web call cannot be joined */
			return answer->access_token != NULL && answer->access_token[0] != '\0';
		case KT_ENDPOINT_CALLS:
			return rows->is_array_of_objects && rows->nrows <= rows->max;
	}
	return false;
}

static void
read_object(KtEndpoint endpoint, const char *text, size_t len, KtApiAnswer *answer)
{
	KtJsonValue fields[NFIELDS];
	KtJsonRows rows = {
		.name = "calls", .columns = column_names, .ncolumns = NCOLUMNS, .max = KT_MAX_LIST_ROWS};

	if (!kt_json_read(text, len, field_names, NFIELDS, fields,
	                  endpoint == KT_ENDPOINT_CALLS ? &rows : NULL))
		return;
	answer->is_object = true;
	answer->success = success_of(&fields[FIELD_SUCCESS]);
	answer->words = words_of(&fields[FIELD_MESSAGE], &fields[FIELD_ERROR]);
	answer->call_id_kind = call_id_of(&fields[FIELD_CALL_ID]);
	if (answer->call_id_kind == KT_CALL_ID_CREDIBLE)
		answer->call_id = fields[FIELD_CALL_ID].text;
	answer->call_status = text_of(&fields[FIELD_CALL_STATUS], KT_JSON_STRING);
	answer->access_token = text_of(&fields[FIELD_ACCESS_TOKEN], KT_JSON_STRING);
	answer->account_id = text_of(&fields[FIELD_ACCOUNT_ID], KT_JSON_STRING);
	answer->sample_rate = text_of(&fields[FIELD_SAMPLE_RATE], KT_JSON_NUMBER);
	answer->total = text_of(&fields[FIELD_TOTAL], KT_JSON_NUMBER);
	take_list(&rows, answer);
	answer->has_all_fields = has_all_fields(endpoint, answer, &rows);
}

/* The repaired text, palloc'd, or NULL for one that no answer has. */
static char *
repaired(const char *body, size_t *len)
{
	KtBuf text;
	KtRepair repair;
	char *copy = NULL;

	/* every byte that is replaced becomes three */
	kt_buf_init(&text, *len * 3 + 1);
	if (kt_repair_json(body, *len, &text, &repair) && repair.depth <= KT_MAX_JSON_DEPTH &&
	    text.len > 0)
	{
		/* the parser may throw for memory: it must not find the malloc'd buffer on its way */
		copy = pnstrdup(text.data, text.len);
		*len = text.len;
	}
	kt_buf_free(&text);
	return copy;
}

void
kt_answer_read(KtEndpoint endpoint, const char *body, size_t len, KtApiAnswer *answer)
{
	KtRepair repair;

	memset(answer, 0, sizeof(*answer));
	if (!kt_repair_json_is_needless(body, len, &repair))
		body = repaired(body, &len);
	else if (len == 0 || repair.depth > KT_MAX_JSON_DEPTH)
		body = NULL;
	if (body != NULL)
		read_object(endpoint, body, len, answer);
}
