/*
 * No body whatever breaks kt_answer_read(); a callId that comes out is credible, all text is valid UTF-8, an
 * answer that is no object has no fields, and the same bytes always read the same.
 *
 * Every input is read as the answer of each endpoint. The parser is PostgreSQL's own, from the static
 * libraries of its installation.
 */
#include "postgres_fe.h"

#include "fuzz.h"

#include "arena.h"

#include "answer.h"
#include "limits.h"

/* ---- the oracles ---------------------------------------------------------------------------------------------- */

static void
check_text(const char *text)
{
	MUST(text == NULL || is_valid_utf8_without_nul(text, strlen(text)));
}

/* A JSON number as it stands. */
static void
check_number(const char *text)
{
	if (text == NULL)
		return;
	MUST(text[0] != '\0' && strspn(text, "+-.0123456789eE") == strlen(text));
}

static void
check_call_id(const char *call_id)
{
	size_t len;
	size_t i;

	if (call_id == NULL)
		return;
	len = strlen(call_id);
	MUST(len >= 1 && len <= KT_MAX_CALL_ID);
	MUST(is_valid_utf8_without_nul(call_id, len));
	for (i = 0; i < len; i++)
		MUST((unsigned char) call_id[i] >= 0x20 && call_id[i] != 0x7f);
}

static void
check_list(const KtApiAnswer *answer)
{
	int i;

	MUST(answer->ncalls >= 0);
	MUST(answer->ncalls == 0 || answer->calls != NULL);
	for (i = 0; i < answer->ncalls; i++)
	{
		const KtListedCall *call = &answer->calls[i];

		check_call_id(call->call_id);
		check_text(call->account_id);
		check_text(call->direction);
		check_text(call->to_number);
		check_text(call->call_status);
		check_number(call->duration);
		check_number(call->cost);
		check_text(call->created_at);
		check_text(call->first_name);
	}
}

static void
check_answer(KtEndpoint endpoint, const KtApiAnswer *answer)
{
	check_call_id(answer->call_id);
	MUST((answer->call_id != NULL) == (answer->call_id_kind == KT_CALL_ID_CREDIBLE));
	check_text(answer->words);
	check_text(answer->call_status);
	check_text(answer->access_token);
	check_text(answer->account_id);
	check_number(answer->sample_rate);
	check_number(answer->total);
	check_list(answer);
	MUST(answer->ncalls == 0 || endpoint == KT_ENDPOINT_CALLS);
	if (answer->is_object)
		return;
	MUST(answer->success == KT_SUCCESS_ABSENT && answer->call_id_kind == KT_CALL_ID_ABSENT);
	MUST(!answer->has_all_fields && answer->words == NULL && answer->call_status == NULL);
	MUST(answer->access_token == NULL && answer->account_id == NULL && answer->total == NULL);
	MUST(answer->ncalls == 0);
}

static void
same_text(const char *a, const char *b)
{
	MUST((a == NULL) == (b == NULL));
	MUST(a == NULL || strcmp(a, b) == 0);
}

static void
same_answer(const KtApiAnswer *a, const KtApiAnswer *b)
{
	int i;

	MUST(a->is_object == b->is_object && a->success == b->success);
	MUST(a->call_id_kind == b->call_id_kind && a->has_all_fields == b->has_all_fields);
	same_text(a->words, b->words);
	same_text(a->call_id, b->call_id);
	same_text(a->call_status, b->call_status);
	same_text(a->access_token, b->access_token);
	same_text(a->account_id, b->account_id);
	same_text(a->sample_rate, b->sample_rate);
	same_text(a->total, b->total);
	MUST(a->ncalls == b->ncalls);
	for (i = 0; i < a->ncalls; i++)
	{
		same_text(a->calls[i].call_id, b->calls[i].call_id);
		same_text(a->calls[i].to_number, b->calls[i].to_number);
		same_text(a->calls[i].created_at, b->calls[i].created_at);
	}
}

/* What is read, judged as the answer to a request that was sent whole. */
static void
check_outcome(KtEndpoint endpoint, const KtApiAnswer *answer)
{
	KtEvidence evidence = {
		.places_call = endpoint != KT_ENDPOINT_CALLS,
		.bytes_sent = 1,
		.status = 200,
		.is_object = answer->is_object,
		.success = answer->success,
		.call_id = answer->call_id_kind,
		.has_all_fields = answer->has_all_fields,
	};
	KtOutcome outcome = kt_outcome_judge(&evidence);

	if (evidence.places_call && (outcome == KT_OUTCOME_OK || outcome == KT_OUTCOME_OK_FLAGGED))
		MUST(answer->call_id != NULL);
	if (evidence.places_call && kt_outcome_nothing_applied(outcome))
		MUST(answer->is_object && answer->success == KT_SUCCESS_FALSE && answer->call_id == NULL);
}

/* Answers whose meaning an oracle cannot tell from their bytes; each was read wrongly once. */
static void
check_known_answers(void)
{
	static const char *const no_list[] = {
		"{\"success\":true,\"calls\":[{}],\"calls\":null}",
		"{\"success\":true,\"calls\":[],\"calls\":12}",
		"{\"success\":true,\"calls\":[],\"calls\":[12]}",
		"{\"success\":true,\"calls\":[{},[]]}",
		"{\"success\":true,\"calls\":[[{}]]}",
	};
	KtApiAnswer answer;
	size_t i;

	for (i = 0; i < lengthof(no_list); i++)
	{
		kt_answer_read(KT_ENDPOINT_CALLS, no_list[i], strlen(no_list[i]), &answer);
		MUST(answer.is_object && !answer.has_all_fields);
	}
	arena_empty();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const KtEndpoint endpoints[] = {KT_ENDPOINT_CREATE_CALL, KT_ENDPOINT_CREATE_WEB_CALL,
	                                       KT_ENDPOINT_CALLS};
	static bool checked = false;
	size_t i;

	if (!checked)
		check_known_answers();
	checked = true;
	for (i = 0; i < lengthof(endpoints); i++)
	{
		KtApiAnswer once;
		KtApiAnswer again;

		kt_answer_read(endpoints[i], (const char *) data, size, &once);
		check_answer(endpoints[i], &once);
		check_outcome(endpoints[i], &once);
		/* linear in the input, with a generous factor: a list's rows are 72 bytes for "{}," */
		MUST(arena_bytes <= 65536 + size * 256 * (1 + KT_MAX_JSON_DEPTH / 8));
		kt_answer_read(endpoints[i], (const char *) data, size, &again);
		same_answer(&once, &again);
		arena_empty();
	}
	return 0;
}
