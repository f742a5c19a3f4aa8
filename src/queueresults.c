/*
 * How attempts ended, into kridtech.call_attempts and kridtech.call_requests, and what NOTIFY is to say of it.
 *
 * A batch costs one statement for those that went as they should, and one for the others. A result touches only
 * the open attempt of its own epoch and a request that is 'placing': what a later run, or a human, has decided
 * meanwhile stands. Only a result whose outcome proves that nothing was applied (outcome.c) leads back to 'queued'.
 */
#include "postgres.h"

#include "queueresults.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "settings.h"
#include "statement.h"
#include "utils/builtins.h"
#include "utils/json.h"

static const char *
state_word(KtNextState state)
{
	switch (state)
	{
		case KT_NEXT_PLACED:
			return "placed";
		case KT_NEXT_FAILED:
			return "failed";
		case KT_NEXT_UNKNOWN:
			return "unknown";
		case KT_NEXT_QUEUED:
			return "queued";
	}
	return NULL;
}

/*
 * One statement for both tables. The attempt is the open one of this epoch: a result never touches another
 * one's. The request's state is a parameter so that the planner cannot prove that the index of what is placing
 * serves, and looks up each request by its id, whatever the statistics say.
 */
static KtStatement record_results = {
	"WITH v AS MATERIALIZED (SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,"
	" $14) AS u (id, live, curl_code, bytes_sent, http_status, outcome, answered_id, answer_head, detail,"
	" unused, state, call_status, error, next_attempt_at)),"
	" completed AS (UPDATE kridtech.call_attempts AS a SET finished_at = clock_timestamp(),"
	" live = v.live <> 0, outcome = v.outcome, curl_code = v.curl_code, bytes_sent = v.bytes_sent,"
	" http_status = nullif(v.http_status, 0), call_id = v.answered_id, answer_head = v.answer_head,"
	" detail = v.detail FROM v"
	" WHERE a.request_id = v.id AND a.live AND a.epoch = $15 AND a.finished_at IS NULL)"
	" UPDATE kridtech.call_requests AS r SET state = v.state,"
	" call_id = CASE WHEN v.state = 'placed' THEN coalesce(v.answered_id, r.call_id) ELSE r.call_id END,"
	" call_status = v.call_status, http_status = nullif(v.http_status, 0), error = v.error,"
	" attempts = r.attempts - v.unused, next_attempt_at = v.next_attempt_at::timestamptz,"
	" finished_at = CASE WHEN v.state <> 'queued' THEN clock_timestamp() END"
	" FROM v WHERE r.id = v.id AND r.state = $16"
	" RETURNING r.id, r.state, r.call_id, left(r.reference, 1000)",
	SPI_OK_UPDATE_RETURNING,
	{INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID,
     TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
     TEXTARRAYOID, TEXTARRAYOID, INT8OID, TEXTOID},
	NULL,
};

/* ,"name" : "value" in the way of json_build_object(). */
static void
append_member(StringInfo payload, const char *name, const char *value)
{
	appendStringInfo(payload, ", \"%s\" : ", name);
	if (value == NULL)
		appendStringInfoString(payload, "null");
	else
		escape_json(payload, value);
}

/* From what the last statement returned. */
static void
add_notices(KtNotices *notices)
{
	MemoryContext caller;
	uint64 i;

	if (!kt_notify)
		return;
	caller = MemoryContextSwitchTo(notices->context);
	for (i = 0; i < SPI_processed; i++)
	{
		const char *state = kt_statement_present(i, 2);
		StringInfoData payload;

		if (strcmp(state, "queued") == 0)
			continue;
		initStringInfo(&payload);
		appendStringInfo(&payload, "{\"id\" : " INT64_FORMAT, kt_statement_int64(i, 1));
		append_member(&payload, "state", state);
		append_member(&payload, "call_id", kt_statement_text(i, 3));
		append_member(&payload, "reference", kt_statement_text(i, 4));
		appendStringInfoChar(&payload, '}');
		notices->payloads[notices->n++] = payload.data;
	}
	MemoryContextSwitchTo(caller);
}

/* A time in the one form that timestamptz_in() reads whatever DateStyle is, palloc'd; 0 gives NULL. */
static const char *
time_text(TimestampTz time)
{
	return time != 0 ? pstrdup(timestamptz_to_str(time)) : NULL;
}

/* The next parameter: a column of the results, of text or of numbers. */
#define PUT_TEXTS(expression)                       \
	do                                              \
	{                                               \
		for (i = 0; i < n; i++)                     \
		{                                           \
			const KtResult *r = &results[i];        \
			texts[i] = (expression);                \
		}                                           \
		values[k++] = kt_statement_texts(texts, n); \
	} while (0)
#define PUT_NUMBERS(expression)                       \
	do                                                \
	{                                                 \
		for (i = 0; i < n; i++)                       \
		{                                             \
			const KtResult *r = &results[i];          \
			numbers[i] = (expression);                \
		}                                             \
		values[k++] = kt_statement_int8s(numbers, n); \
	} while (0)

static void
record_any(const KtResult *results, int n, int64 epoch)
{
	const char **texts = palloc(Max(n, 1) * sizeof(char *));
	int64 *numbers = palloc(Max(n, 1) * sizeof(int64));
	Datum values[16];
	int k = 0;
	int i;

	PUT_NUMBERS(r->id);
	PUT_NUMBERS(r->live);
	PUT_NUMBERS(r->curl_code);
	PUT_NUMBERS(r->bytes_sent);
	PUT_NUMBERS(r->http_status);
	PUT_TEXTS(r->outcome);
	PUT_TEXTS(r->call_id);
	PUT_TEXTS(r->answer_head);
	PUT_TEXTS(r->detail);
	PUT_NUMBERS(r->uses_attempt ? 0 : 1);
	PUT_TEXTS(state_word(r->state));
	PUT_TEXTS(r->call_status);
	PUT_TEXTS(r->error);
	PUT_TEXTS(r->state == KT_NEXT_QUEUED ? time_text(r->next_attempt_at) : NULL);
	values[k++] = Int64GetDatum(epoch);
	values[k++] = CStringGetTextDatum("placing");
	kt_statement_run(&record_results, values, NULL);
}

/*
 * The same for those that went as they should, which are most: what is alike in all of them is not passed for
 * each. (A row of v is copied twice by each UPDATE, should it have to look at it again: its width counts.)
 */
static KtStatement record_plain = {
	"WITH v AS MATERIALIZED (SELECT * FROM unnest($1, $2, $3, $4) AS u (id, bytes_sent, call_id,"
	" call_status)),"
	" completed AS (UPDATE kridtech.call_attempts AS a SET finished_at = clock_timestamp(),"
	" outcome = $5, curl_code = 0, bytes_sent = v.bytes_sent, http_status = $6, call_id = v.call_id"
	" FROM v WHERE a.request_id = v.id AND a.live AND a.epoch = $7 AND a.finished_at IS NULL)"
	" UPDATE kridtech.call_requests AS r SET state = 'placed', call_id = v.call_id,"
	" call_status = v.call_status, http_status = $6, error = NULL, next_attempt_at = NULL,"
	" finished_at = clock_timestamp() FROM v WHERE r.id = v.id AND r.state = $8"
	" RETURNING r.id, r.state, r.call_id, left(r.reference, 1000)",
	SPI_OK_UPDATE_RETURNING,
	{INT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, INT4OID, INT8OID, TEXTOID},
	NULL,
};

static bool
is_plain(const KtResult *r)
{
	return r->state == KT_NEXT_PLACED && r->live && r->uses_attempt && r->curl_code == 0 &&
	       r->http_status == 200 && r->call_id != NULL && r->error == NULL && r->detail == NULL &&
	       r->answer_head == NULL && strcmp(r->outcome, kt_outcome_word(KT_OUTCOME_OK)) == 0;
}

static void
record_alike(const KtResult *results, int n, int64 epoch)
{
	const char **texts = palloc(Max(n, 1) * sizeof(char *));
	int64 *numbers = palloc(Max(n, 1) * sizeof(int64));
	Datum values[8];
	int k = 0;
	int i;

	PUT_NUMBERS(r->id);
	PUT_NUMBERS(r->bytes_sent);
	PUT_TEXTS(r->call_id);
	PUT_TEXTS(r->call_status);
	values[k++] = CStringGetTextDatum(results[0].outcome);
	values[k++] = Int32GetDatum(results[0].http_status);
	values[k++] = Int64GetDatum(epoch);
	values[k++] = CStringGetTextDatum("placing");
	kt_statement_run(&record_plain, values, NULL);
}

static KtStatement find_placing = {
	"SELECT FROM unnest($1) AS v (id) JOIN kridtech.call_requests AS q ON q.id = v.id WHERE q.state = $2"
	" LIMIT 1",
	SPI_OK_SELECT,
	{INT8ARRAYOID, TEXTOID},
	NULL,
};

/*
 * The last statement touched so many rows. Fewer than there are results is right where a request is gone or was decided
 * about otherwise. One that is 'placing' all the same was kept so by somebody's trigger: its result would be lost.
 */
static void
refuse_suppressed(const KtResult *results, int n)
{
	int64 *ids;
	Datum values[2];
	int i;

	if (SPI_processed == (uint64) n)
		return;
	ids = palloc(n * sizeof(int64));
	for (i = 0; i < n; i++)
		ids[i] = results[i].id;
	values[0] = kt_statement_int8s(ids, n);
	values[1] = CStringGetTextDatum("placing");
	if (kt_statement_run(&find_placing, values, NULL) > 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		                errmsg("a trigger or rule on kridtech.call_requests suppressed the row")));
}

void
kt_queue_record(const KtResult *results, int n, int64 epoch, KtNotices *notices)
{
	KtResult *plain = palloc(Max(n, 1) * sizeof(KtResult));
	KtResult *others = palloc(Max(n, 1) * sizeof(KtResult));
	int nplain = 0;
	int nothers = 0;
	int i;

	for (i = 0; i < n; i++)
		if (is_plain(&results[i]))
			plain[nplain++] = results[i];
		else
			others[nothers++] = results[i];
	notices->payloads = MemoryContextAlloc(notices->context, Max(n, 1) * sizeof(char *));
	if (nplain > 0)
	{
		record_alike(plain, nplain, epoch);
		add_notices(notices);
		refuse_suppressed(plain, nplain);
	}
	if (nothers > 0)
	{
		record_any(others, nothers, epoch);
		add_notices(notices);
		refuse_suppressed(others, nothers);
	}
}

void
kt_queue_send_notices(const KtNotices *notices)
{
	int i;

	for (i = 0; i < notices->n; i++)
		Async_Notify("kridtech_calls", notices->payloads[i]);
}

static KtStatement find_holder = {
	"SELECT FROM kridtech.call_requests AS q WHERE q.call_id = $1 AND q.id <> $2",
	SPI_OK_SELECT,
	{TEXTOID, INT8OID},
	NULL,
};

bool
kt_queue_is_taken(const char *call_id, int64 id)
{
	Datum values[] = {CStringGetTextDatum(call_id), Int64GetDatum(id)};

	return kt_statement_run(&find_holder, values, NULL) > 0;
}
