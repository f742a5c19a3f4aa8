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
text_of(const KtJsonField *field, KtJsonKind kind)
{
	if (field->value.kind != kind || field->contradictory)
		return NULL;
	return field->value.text;
}

static KtSuccess
success_of(const KtJsonField *field)
{
	if (field->value.kind == KT_JSON_ABSENT)
		return KT_SUCCESS_ABSENT;
	if (field->value.kind != KT_JSON_BOOL || field->contradictory)
		return KT_SUCCESS_ODD;
	return strcmp(field->value.text, "true") == 0 ? KT_SUCCESS_TRUE : KT_SUCCESS_FALSE;
}

/* Printable: no control character, no white space but the blank within. UTF-8 above ASCII may stand. */
static bool
is_printable(const char *text, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) text[i];

		if (c < 0x20 || c == 0x7f ||
		    (c == 0xc2 && i + 1 < len && (unsigned char) text[i + 1] < 0xa0))
			return false;
	}
	return true;
}

static KtCallId
call_id_of(const KtJsonField *field)
{
	const KtJsonValue *value = &field->value;

	if (field->contradictory)
		return KT_CALL_ID_CONTRADICTORY;
	if (value->kind == KT_JSON_ABSENT || value->kind == KT_JSON_NULL)
		return KT_CALL_ID_ABSENT;
	if (value->kind != KT_JSON_STRING || value->len == 0 || value->len > KT_MAX_CALL_ID ||
	    !is_printable(value->text, value->len))
		return KT_CALL_ID_ODD;
	return KT_CALL_ID_CREDIBLE;
}

/* The documentation gives no form for errors: the usual places are looked at, in this order. */
static char *
words_of(KtJsonField *message, KtJsonField *error, KtJsonField *detail)
{
	KtJsonField inner[] = {{.name = "message"}};
	char *words = text_of(message, KT_JSON_STRING);

	if (words == NULL)
		words = text_of(error, KT_JSON_STRING);
	if (words == NULL && error->value.kind == KT_JSON_OBJECT &&
	    kt_json_read_object(error->value.text, error->value.len, inner, lengthof(inner)))
		words = text_of(&inner[0], KT_JSON_STRING);
	if (words == NULL)
		words = text_of(detail, KT_JSON_STRING);
	return words;
}

static bool
read_listed_call(const KtJsonValue *element, KtListedCall *call)
{
	enum
	{
		CALL_ID,
		ACCOUNT_ID,
		DIRECTION,
		TO_NUMBER,
		CALL_STATUS,
		DURATION,
		COST,
		CREATED_AT,
		FIRST_NAME,
		NFIELDS
	};
	KtJsonField fields[NFIELDS] = {
		[CALL_ID] = {.name = "callId"},
		[ACCOUNT_ID] = {.name = "accountId"},
		[DIRECTION] = {.name = "direction"},
		[TO_NUMBER] = {.name = "toNumber"},
		[CALL_STATUS] = {.name = "callStatus"},
		[DURATION] = {.name = "duration"},
		[COST] = {.name = "cost"},
		[CREATED_AT] = {.name = "createdAt"},
		[FIRST_NAME] = {.name = "firstName"},
	};

	if (element->kind != KT_JSON_OBJECT ||
	    !kt_json_read_object(element->text, element->len, fields, NFIELDS))
		return false;
	if (call_id_of(&fields[CALL_ID]) == KT_CALL_ID_CREDIBLE)
		call->call_id = fields[CALL_ID].value.text;
	call->account_id = text_of(&fields[ACCOUNT_ID], KT_JSON_STRING);
	call->direction = text_of(&fields[DIRECTION], KT_JSON_STRING);
	call->to_number = text_of(&fields[TO_NUMBER], KT_JSON_STRING);
	call->call_status = text_of(&fields[CALL_STATUS], KT_JSON_STRING);
	call->duration = text_of(&fields[DURATION], KT_JSON_NUMBER);
	call->cost = text_of(&fields[COST], KT_JSON_NUMBER);
	call->created_at = text_of(&fields[CREATED_AT], KT_JSON_STRING);
	call->first_name = text_of(&fields[FIRST_NAME], KT_JSON_STRING);
	return true;
}

/* False when "calls" is not an array of objects. */
static bool
read_list(const KtJsonField *calls, KtApiAnswer *answer)
{
	KtJsonValue *elements;
	int i;

	if (calls->value.kind != KT_JSON_ARRAY || calls->contradictory ||
	    !kt_json_read_array(calls->value.text, calls->value.len, &elements, &answer->ncalls))
		return false;
	answer->calls = palloc0(Max(answer->ncalls, 1) * sizeof(KtListedCall));
	for (i = 0; i < answer->ncalls; i++)
		if (!read_listed_call(&elements[i], &answer->calls[i]))
			return false;
	return true;
}

static void
read_object(KtEndpoint endpoint, const char *text, size_t len, KtApiAnswer *answer)
{
	enum
	{
		SUCCESS,
		CALL_ID,
		CALL_STATUS,
		ACCESS_TOKEN,
		ACCOUNT_ID,
		SAMPLE_RATE,
		CALLS,
		TOTAL,
		MESSAGE,
		ERROR_FIELD,
		DETAIL,
		NFIELDS
	};
	KtJsonField fields[NFIELDS] = {
		[SUCCESS] = {.name = "success"},
		[CALL_ID] = {.name = "callId"},
		[CALL_STATUS] = {.name = "callStatus"},
		[ACCESS_TOKEN] = {.name = "accessToken"},
		[ACCOUNT_ID] = {.name = "accountId"},
		[SAMPLE_RATE] = {.name = "sampleRate"},
		[CALLS] = {.name = "calls"},
		[TOTAL] = {.name = "total"},
		[MESSAGE] = {.name = "message"},
		[ERROR_FIELD] = {.name = "error"},
		[DETAIL] = {.name = "detail"},
	};

	answer->is_object = kt_json_read_object(text, len, fields, NFIELDS);
	if (!answer->is_object)
		return;
	answer->success = success_of(&fields[SUCCESS]);
	answer->words = words_of(&fields[MESSAGE], &fields[ERROR_FIELD], &fields[DETAIL]);
	answer->call_id_kind = call_id_of(&fields[CALL_ID]);
	if (answer->call_id_kind == KT_CALL_ID_CREDIBLE)
		answer->call_id = fields[CALL_ID].value.text;
	answer->call_status = text_of(&fields[CALL_STATUS], KT_JSON_STRING);
	answer->access_token = text_of(&fields[ACCESS_TOKEN], KT_JSON_STRING);
	answer->account_id = text_of(&fields[ACCOUNT_ID], KT_JSON_STRING);
	answer->sample_rate = text_of(&fields[SAMPLE_RATE], KT_JSON_NUMBER);
	answer->total = text_of(&fields[TOTAL], KT_JSON_NUMBER);
	switch (endpoint)
	{
		case KT_ENDPOINT_CREATE_CALL:
			answer->has_all_fields = true;
			break;
		case KT_ENDPOINT_CREATE_WEB_CALL:
			/* without its token a web call cannot be joined */
			answer->has_all_fields =
				answer->access_token != NULL && answer->access_token[0] != '\0';
			break;
		case KT_ENDPOINT_CALLS:
			answer->has_all_fields = read_list(&fields[CALLS], answer);
			break;
	}
}

void
kt_answer_read(KtEndpoint endpoint, const char *body, size_t len, KtApiAnswer *answer)
{
	KtBuf text;
	KtRepair repair;

	memset(answer, 0, sizeof(*answer));
	/* every byte that is replaced becomes three */
	kt_buf_init(&text, len * 3 + 1);
	if (kt_repair_json(body, len, &text, &repair) && repair.depth <= KT_MAX_JSON_DEPTH &&
	    text.len > 0)
	{
		/* the parser may throw for memory: it must not find the malloc'd buffer on its way */
		char *copy = pnstrdup(text.data, text.len);
		size_t copy_len = text.len;

		kt_buf_free(&text);
		read_object(endpoint, copy, copy_len, answer);
	}
	else
		kt_buf_free(&text);
}
