/*
 * kridtech.call_requests and kridtech.call_attempts: the only file by which the dialer, and a
 * synchronous call, move a call request from state to state. What a human decides is operate.c's.
 *
 * The dialer's statements work on sets, so that a batch costs a handful of statements whatever its size.
 * Why at most one ring: a request is sent only after the commit of a claim, which is one statement that
 * moves it from 'queued' to 'placing' and opens an attempt; nothing but a recorded proof, or a human,
 * brings it back to 'queued'. Should a bug do so all the same, the open attempt is still 'live', and the
 * unique index on live attempts refuses the next claim.
 *
 * A synchronous call is recorded by the caller's own transaction: 'placing' before it is sent, 'placed'
 * after. Nobody else ever sees the first; should the transaction roll back, the record goes and the call
 * does not, which is what "synchronous" costs and the documentation says.
 */
#include "postgres.h"

#include "queue.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "executor/spi.h"
#include "extension.h"
#include "miscadmin.h"
#include "settings.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/plancache.h"

static const char record_begin[] =
	"INSERT INTO kridtech.call_requests"
	" (account_id, to_number, dynamic_variables, state, attempts, created_by)"
	" VALUES ($1, $2, $3, 'placing', 1, $4) RETURNING id";

static const char record_placed[] =
	"UPDATE kridtech.call_requests AS r SET state = 'placed', call_id = $2, call_status = $3,"
	" http_status = $4, error = CASE WHEN $5 THEN 'the answer did not say \"success\": true' END,"
	" finished_at = pg_catalog.clock_timestamp() WHERE r.id = $1 AND NOT EXISTS"
	" (SELECT FROM kridtech.call_requests AS other WHERE other.call_id = $2)";

int64
kt_queue_record_begin(const char *account_id, const char *to_number, Datum dynamic_variables,
                      bool has_variables)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {TEXTOID, TEXTOID, JSONBOID, NAMEOID};
	char nulls[] = {' ', ' ', has_variables ? ' ' : 'n', ' '};
	NameData caller;
	Datum values[4];
	SPIPlanPtr plan;
	KtOwner owner;
	bool isnull;
	int64 id;

	namestrcpy(&caller, GetUserNameFromId(GetUserId(), false));
	kt_owner_begin(&owner);
	values[0] = CStringGetTextDatum(account_id);
	values[1] = CStringGetTextDatum(to_number);
	values[2] = dynamic_variables;
	values[3] = NameGetDatum(&caller);
	plan = kt_owner_plan(&kept, record_begin, lengthof(types), types);
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_INSERT_RETURNING ||
	    SPI_processed != 1)
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		     errmsg("the call could not be recorded in kridtech.call_requests"),
		     errdetail("A trigger or rule on the table suppressed the row. Nothing was sent.")));
	id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	kt_owner_end(&owner);
	return id;
}

bool
kt_queue_record_placed(int64 id, Datum call_id, Datum call_status, int http_status, bool flagged)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {INT8OID, TEXTOID, TEXTOID, INT4OID, BOOLOID};
	char nulls[] = {' ', ' ', call_status == 0 ? 'n' : ' ', ' ', ' '};
	Datum values[5];
	SPIPlanPtr plan;
	KtOwner owner;
	bool recorded;

	kt_owner_begin(&owner);
	values[0] = Int64GetDatum(id);
	values[1] = call_id;
	values[2] = call_status;
	values[3] = Int32GetDatum(http_status);
	values[4] = BoolGetDatum(flagged);
	plan = kt_owner_plan(&kept, record_placed, lengthof(types), types);
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not update kridtech.call_requests");
	recorded = SPI_processed == 1;
	kt_owner_end(&owner);
	return recorded;
}

/* ---- the dialer: arrays for its statements -------------------------------------------------------- */

static Datum
int8_array(const int64 *values, int n)
{
	Datum *datums = palloc(Max(n, 1) * sizeof(Datum));
	int i;

	for (i = 0; i < n; i++)
		datums[i] = Int64GetDatum(values[i]);
	return PointerGetDatum(
		construct_array(datums, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * NULLs stay NULLs; values may be NULL as a whole. An array of nothing but NULLs is the empty one: unnest()
 * fills up what is shorter with NULLs.
 */
static Datum
text_array(const char **values, int n)
{
	Datum *datums = palloc(Max(n, 1) * sizeof(Datum));
	bool *nulls = palloc(Max(n, 1) * sizeof(bool));
	int lower = 1;
	int given = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		nulls[i] = values == NULL || values[i] == NULL;
		given += !nulls[i];
		datums[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(values[i]);
	}
	if (given == 0)
		return PointerGetDatum(construct_empty_array(TEXTOID));
	return PointerGetDatum(
		construct_md_array(datums, nulls, 1, &n, &lower, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Runs a kept plan and returns how many rows it touched. */
static uint64
run(SPIPlanPtr *kept, const char *statement, int nargs, Oid *types, Datum *values,
    const char *nulls, int expected)
{
	int result =
		SPI_execute_plan(kt_owner_plan(kept, statement, nargs, types), values, nulls, false, 0);

	if (result != expected)
		elog(ERROR, "unexpected result of a statement on the queue: %s",
		     SPI_result_code_string(result));
	return SPI_processed;
}

static char *
get_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

static int64
get_int64(uint64 row, int column)
{
	bool isnull;

	return DatumGetInt64(
		SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull));
}

/* ---- the dialer: recovery and time ----------------------------------------------------------------- */

/*
 * Sets of rows are moved in a bounded batch, which begins after offset: a row whose update fails, by a user's
 * trigger say, can be passed over.
 */
static Datum *
window_values(int offset, int limit)
{
	Datum *values = palloc(3 * sizeof(Datum));

	values[0] = Int64GetDatum(offset);
	values[1] = Int64GetDatum(limit);
	values[2] = (Datum) 0;
	return values;
}

static Oid window_types[] = {INT8OID, INT8OID, INT8OID};

/* The ids that a statement with RETURNING id gave back, palloc'd. */
static int64 *
returned_ids(void)
{
	int64 *ids = palloc(Max(SPI_processed, 1) * sizeof(int64));
	uint64 i;

	for (i = 0; i < SPI_processed; i++)
		ids[i] = get_int64(i, 1);
	return ids;
}

/* What this run has in the air has an attempt of its epoch. */
static const char recover_requests[] =
	"UPDATE kridtech.call_requests AS r SET state = 'unknown', finished_at = clock_timestamp(),"
	" error = 'the dialer ended before it knew the outcome'"
	" WHERE r.id IN (SELECT q.id FROM kridtech.call_requests AS q WHERE q.state = 'placing'"
	" AND NOT EXISTS (SELECT FROM kridtech.call_attempts AS a WHERE a.request_id = q.id AND a.live"
	" AND a.epoch >= $3) ORDER BY q.id OFFSET $1 LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING r.id";

static const char recover_attempts[] =
	"UPDATE kridtech.call_attempts AS a SET finished_at = clock_timestamp(), outcome = 'unknown',"
	" detail = 'the dialer ended before it knew the outcome' FROM unnest($1) AS v (id)"
	" WHERE a.request_id = v.id AND a.live AND a.finished_at IS NULL AND a.epoch < $2";

int
kt_queue_recover(int64 epoch, int offset, int limit)
{
	static SPIPlanPtr kept_requests = NULL;
	static SPIPlanPtr kept_attempts = NULL;
	Oid types[] = {INT8ARRAYOID, INT8OID};
	Datum *window = window_values(offset, limit);
	Datum values[2];
	int64 *ids;
	int n;

	window[2] = Int64GetDatum(epoch);
	n = (int) run(&kept_requests, recover_requests, 3, window_types, window, NULL,
	              SPI_OK_UPDATE_RETURNING);
	if (n == 0)
		return 0;
	ids = returned_ids();
	values[0] = int8_array(ids, n);
	values[1] = Int64GetDatum(epoch);
	run(&kept_attempts, recover_attempts, 2, types, values, NULL, SPI_OK_UPDATE);
	kt_queue_notify(ids, n);
	return n;
}

/* In the sweeps the clock stands in a subquery: read once, so that it can bound what is read of an index. */
static const char expire_requests[] =
	"UPDATE kridtech.call_requests AS r SET state = 'expired', finished_at = clock_timestamp(),"
	" error = 'its time (not_after) was over before it could be placed'"
	" WHERE r.id IN (SELECT q.id FROM kridtech.call_requests AS q WHERE q.state = 'queued'"
	" AND q.not_after <= (SELECT clock_timestamp()) ORDER BY q.not_after, q.id OFFSET $1 LIMIT $2"
	" FOR UPDATE SKIP LOCKED) RETURNING r.id";

int
kt_queue_expire(int offset, int limit)
{
	static SPIPlanPtr kept = NULL;
	int n = (int) run(&kept, expire_requests, 2, window_types, window_values(offset, limit), NULL,
	                  SPI_OK_UPDATE_RETURNING);

	kt_queue_notify(returned_ids(), n);
	return n;
}

static const char promote_requests[] =
	"UPDATE kridtech.call_requests AS r SET next_attempt_at = NULL"
	" WHERE r.id IN (SELECT q.id FROM kridtech.call_requests AS q WHERE q.state = 'queued'"
	" AND q.next_attempt_at <= (SELECT clock_timestamp()) ORDER BY q.next_attempt_at, q.id"
	" OFFSET $1 LIMIT $2 FOR UPDATE SKIP LOCKED)";

int
kt_queue_promote(int offset, int limit)
{
	static SPIPlanPtr kept = NULL;

	return (int) run(&kept, promote_requests, 2, window_types, window_values(offset, limit), NULL,
	                 SPI_OK_UPDATE);
}

static const char next_due[] =
	"SELECT q.next_attempt_at FROM kridtech.call_requests AS q WHERE q.state = 'queued'"
	" AND q.next_attempt_at > (SELECT clock_timestamp()) ORDER BY q.next_attempt_at LIMIT 1";

TimestampTz
kt_queue_next_due(void)
{
	static SPIPlanPtr kept = NULL;
	bool isnull;

	if (run(&kept, next_due, 0, NULL, NULL, NULL, SPI_OK_SELECT) == 0)
		return 0;
	return DatumGetTimestampTz(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

void
kt_queue_replan(void)
{
	ResetPlanCache();
}

/* ---- the dialer: correlation ----------------------------------------------------------------------- */

#define REF_ID_DIGITS 12

char *
kt_queue_make_ref(int64 id)
{
	static const char hex[] = "0123456789abcdef";
	static uint8 random[64 * (KT_REF_SIZE - 1 - REF_ID_DIGITS) / 2]; /* asking for it costs */
	static Size used = sizeof(random);
	char *ref = palloc(KT_REF_SIZE);
	int i;

	if (used == sizeof(random) && !pg_strong_random(random, sizeof(random)))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not get random bytes")));
	if (used == sizeof(random))
		used = 0;
	for (i = 0; i < REF_ID_DIGITS; i++)
		ref[i] = hex[(id >> (4 * (REF_ID_DIGITS - 1 - i))) & 0xF];
	for (; i < KT_REF_SIZE - 1; i += 2)
	{
		ref[i] = hex[random[used] >> 4];
		ref[i + 1] = hex[random[used++] & 0xF];
	}
	ref[i] = '\0';
	return ref;
}

int64
kt_queue_read_ref(const char *ref)
{
	char digits[REF_ID_DIGITS + 1];

	if (strlen(ref) != KT_REF_SIZE - 1 || strspn(ref, "0123456789abcdef") != KT_REF_SIZE - 1)
		return 0;
	strlcpy(digits, ref, sizeof(digits));
	return (int64) strtoull(digits, NULL, 16);
}

/* ---- the dialer: scan and claim -------------------------------------------------------------------- */

/*
 * No lock, and no more than the ids: a scan may look at thousands. A direct INSERT may have left a
 * not_before that lies ahead in a ready row; it is set aside here, so that the next scan is spared it.
 */
static const char scan_ready[] =
	"SELECT q.id, coalesce(q.account_id, $1), q.not_before > clock_timestamp()"
	" FROM kridtech.call_requests AS q WHERE q.state = 'queued' AND q.next_attempt_at IS NULL"
	" AND coalesce(q.account_id, $1) <> ALL ($2) AND q.created_at >= $4"
	" AND q.id <> ALL ($5)"
	" ORDER BY q.priority DESC, q.id LIMIT $3";

static const char set_aside[] =
	"UPDATE kridtech.call_requests AS r SET next_attempt_at = r.not_before WHERE r.id = ANY ($1)"
	" AND r.state = 'queued' AND r.next_attempt_at IS NULL AND r.not_before > clock_timestamp()";

static const char find_foreign[] =
	"SELECT FROM kridtech.call_requests AS q WHERE q.state = 'queued' AND q.next_attempt_at IS NULL"
	" AND q.created_at < $1 LIMIT 1";

bool
kt_queue_has_foreign(TimestampTz born)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {TIMESTAMPTZOID};
	Datum values[] = {TimestampTzGetDatum(born)};

	return !TIMESTAMP_IS_NOBEGIN(born) &&
	       run(&kept, find_foreign, 1, types, values, NULL, SPI_OK_SELECT) == 1;
}

int
kt_queue_scan(const char *default_account, const char **skip, int nskip, const int64 *aside,
              int naside, TimestampTz born, KtCandidate *candidates, int max)
{
	static SPIPlanPtr kept_scan = NULL;
	static SPIPlanPtr kept_aside = NULL;
	Oid types[] = {TEXTOID, TEXTARRAYOID, INT8OID, TIMESTAMPTZOID, INT8ARRAYOID};
	Oid aside_types[] = {INT8ARRAYOID};
	Datum values[5];
	uint64 rows;
	uint64 i;
	int64 *early;
	int nearly = 0;
	int n = 0;

	values[0] = CStringGetTextDatum(default_account);
	values[1] = text_array(skip, nskip);
	values[2] = Int64GetDatum(max);
	values[3] = TimestampTzGetDatum(born);
	values[4] = int8_array(aside, naside);
	rows = run(&kept_scan, scan_ready, 5, types, values, NULL, SPI_OK_SELECT);
	early = palloc(Max(rows, 1) * sizeof(int64));
	for (i = 0; i < rows; i++)
	{
		bool isnull;
		bool is_early =
			DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3, &isnull));

		if (!isnull && is_early)
			early[nearly++] = get_int64(i, 1);
		else
		{
			candidates[n].id = get_int64(i, 1);
			candidates[n++].account_id = get_text(i, 2);
		}
	}
	if (nearly > 0)
	{
		values[0] = int8_array(early, nearly);
		run(&kept_aside, set_aside, 1, aside_types, values, NULL, SPI_OK_UPDATE);
	}
	return n;
}

/*
 * One statement: look again and lock (skipping what another transaction holds: a kridtech_cancel_call()
 * in progress, say), move to 'placing', open the attempt, return what is to be sent. not_after is looked
 * at here, with the clock of this moment.
 */
static const char claim_requests[] =
	"WITH picked AS MATERIALIZED (SELECT r.id, c.ref, c.n"
	" FROM unnest($1, $2) WITH ORDINALITY AS c (id, ref, n) CROSS JOIN LATERAL"
	" (SELECT q.id, q.state, q.next_attempt_at, q.not_before, q.not_after, q.created_at"
	" FROM kridtech.call_requests AS q WHERE q.id = c.id LIMIT 1 FOR UPDATE SKIP LOCKED) AS r"
	" WHERE r.state = 'queued' AND r.next_attempt_at IS NULL AND r.created_at >= $5"
	" AND (r.not_before IS NULL OR r.not_before <= clock_timestamp())"
	" AND (r.not_after IS NULL OR r.not_after > clock_timestamp())),"
	" claimed AS (UPDATE kridtech.call_requests AS r SET state = 'placing', attempts = r.attempts + 1"
	" FROM picked WHERE r.id = picked.id"
	" RETURNING r.id, picked.n, r.attempts, coalesce(r.account_id, $3) AS account_id, r.to_number,"
	" r.dynamic_variables::text AS dynamic_variables,"
	" CASE WHEN jsonb_exists(r.dynamic_variables, 'kridtech_ref') THEN NULL ELSE picked.ref END AS ref),"
	" opened AS (INSERT INTO kridtech.call_attempts (request_id, epoch, ref)"
	" SELECT claimed.id, $4, claimed.ref FROM claimed)"
	" SELECT claimed.id, claimed.attempts, claimed.account_id, claimed.to_number,"
	" claimed.dynamic_variables, claimed.ref FROM claimed ORDER BY claimed.n";

int
kt_queue_claim(const int64 *ids, const char **refs, int n, const char *default_account, int64 epoch,
               TimestampTz born, KtClaim *claims)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {INT8ARRAYOID, TEXTARRAYOID, TEXTOID, INT8OID, TIMESTAMPTZOID};
	Datum values[5];
	uint64 rows;
	uint64 i;

	values[0] = int8_array(ids, n);
	values[1] = text_array(refs, n);
	values[2] = CStringGetTextDatum(default_account);
	values[3] = Int64GetDatum(epoch);
	values[4] = TimestampTzGetDatum(born);
	rows = run(&kept, claim_requests, 5, types, values, NULL, SPI_OK_SELECT);
	for (i = 0; i < rows; i++)
	{
		bool isnull;
		HeapTuple tuple = SPI_tuptable->vals[i];

		claims[i].id = get_int64(i, 1);
		claims[i].attempts = DatumGetInt32(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
		claims[i].account_id = get_text(i, 3);
		claims[i].to_number = get_text(i, 4);
		claims[i].dynamic_variables = get_text(i, 5);
		claims[i].ref = get_text(i, 6);
	}
	return (int) rows;
}

static const char recent_unknown[] =
	"SELECT FROM kridtech.call_requests AS q WHERE q.state = 'unknown'"
	" AND q.finished_at > (SELECT clock_timestamp()) - interval '1 hour' LIMIT $1";

int
kt_queue_recent_unknown(int limit)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {INT8OID};
	Datum values[] = {Int64GetDatum(limit)};

	return (int) run(&kept, recent_unknown, 1, types, values, NULL, SPI_OK_SELECT);
}

/* ---- the dialer: results --------------------------------------------------------------------------- */

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
static const char record_results[] =
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
	" RETURNING r.id, r.state, r.call_id, left(r.reference, 1000)";

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
		const char *state = get_text(i, 2);
		StringInfoData payload;

		if (strcmp(state, "queued") == 0)
			continue;
		initStringInfo(&payload);
		appendStringInfo(&payload, "{\"id\" : " INT64_FORMAT, get_int64(i, 1));
		append_member(&payload, "state", state);
		append_member(&payload, "call_id", get_text(i, 3));
		append_member(&payload, "reference", get_text(i, 4));
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
#define PUT_TEXTS(expression)                \
	do                                       \
	{                                        \
		for (i = 0; i < n; i++)              \
		{                                    \
			const KtResult *r = &results[i]; \
			texts[i] = (expression);         \
		}                                    \
		types[k] = TEXTARRAYOID;             \
		values[k++] = text_array(texts, n);  \
	} while (0)
#define PUT_NUMBERS(expression)               \
	do                                        \
	{                                         \
		for (i = 0; i < n; i++)               \
		{                                     \
			const KtResult *r = &results[i];  \
			numbers[i] = (expression);        \
		}                                     \
		types[k] = INT8ARRAYOID;              \
		values[k++] = int8_array(numbers, n); \
	} while (0)

static void
record_any(const KtResult *results, int n, int64 epoch)
{
	static SPIPlanPtr kept = NULL;
	const char **texts = palloc(Max(n, 1) * sizeof(char *));
	int64 *numbers = palloc(Max(n, 1) * sizeof(int64));
	Oid types[16];
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
	types[k] = INT8OID;
	values[k++] = Int64GetDatum(epoch);
	types[k] = TEXTOID;
	values[k++] = CStringGetTextDatum("placing");
	run(&kept, record_results, k, types, values, NULL, SPI_OK_UPDATE_RETURNING);
}

/*
 * The same for those that went as they should, which are most: what is alike in all of them is not passed for
 * each. (A row of v is copied twice by each UPDATE, should it have to look at it again: its width counts.)
 */
static const char record_plain[] =
	"WITH v AS MATERIALIZED (SELECT * FROM unnest($1, $2, $3, $4) AS u (id, bytes_sent, call_id,"
	" call_status)),"
	" completed AS (UPDATE kridtech.call_attempts AS a SET finished_at = clock_timestamp(),"
	" outcome = $5, curl_code = 0, bytes_sent = v.bytes_sent, http_status = $6, call_id = v.call_id"
	" FROM v WHERE a.request_id = v.id AND a.live AND a.epoch = $7 AND a.finished_at IS NULL)"
	" UPDATE kridtech.call_requests AS r SET state = 'placed', call_id = v.call_id,"
	" call_status = v.call_status, http_status = $6, error = NULL, next_attempt_at = NULL,"
	" finished_at = clock_timestamp() FROM v WHERE r.id = v.id AND r.state = $8"
	" RETURNING r.id, r.state, r.call_id, left(r.reference, 1000)";

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
	static SPIPlanPtr kept = NULL;
	const char **texts = palloc(Max(n, 1) * sizeof(char *));
	int64 *numbers = palloc(Max(n, 1) * sizeof(int64));
	Oid types[8];
	Datum values[8];
	int k = 0;
	int i;

	PUT_NUMBERS(r->id);
	PUT_NUMBERS(r->bytes_sent);
	PUT_TEXTS(r->call_id);
	PUT_TEXTS(r->call_status);
	types[k] = TEXTOID;
	values[k++] = CStringGetTextDatum(results[0].outcome);
	types[k] = INT4OID;
	values[k++] = Int32GetDatum(results[0].http_status);
	types[k] = INT8OID;
	values[k++] = Int64GetDatum(epoch);
	types[k] = TEXTOID;
	values[k++] = CStringGetTextDatum("placing");
	run(&kept, record_plain, k, types, values, NULL, SPI_OK_UPDATE_RETURNING);
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
	}
	if (nothers > 0)
	{
		record_any(others, nothers, epoch);
		add_notices(notices);
	}
}

void
kt_queue_send_notices(const KtNotices *notices)
{
	int i;

	for (i = 0; i < notices->n; i++)
		Async_Notify("kridtech_calls", notices->payloads[i]);
}

/* A race for the callId ends at the unique index. */
static const char bind_requests[] =
	"WITH free AS MATERIALIZED (SELECT v.id, v.call_id FROM unnest($1, $2) AS v (id, call_id)"
	" CROSS JOIN LATERAL (SELECT q.state, q.call_id FROM kridtech.call_requests AS q"
	" WHERE q.id = v.id LIMIT 1 FOR UPDATE SKIP LOCKED) AS q"
	" WHERE q.state IN ('unknown', 'placed') AND q.call_id IS NULL"
	" AND NOT EXISTS (SELECT FROM kridtech.call_requests AS o WHERE o.call_id = v.call_id))"
	" UPDATE kridtech.call_requests AS r SET state = 'placed', call_id = free.call_id,"
	" error = CASE r.state WHEN 'unknown' THEN $3 ELSE r.error END,"
	" finished_at = CASE r.state WHEN 'unknown' THEN clock_timestamp() ELSE r.finished_at END"
	" FROM free WHERE r.id = free.id RETURNING r.id";

static const char bind_attempts[] =
	"UPDATE kridtech.call_attempts AS a SET call_id = r.call_id,"
	" detail = concat_ws('; ', a.detail, $2), finished_at = coalesce(a.finished_at, clock_timestamp())"
	" FROM unnest($1) AS v (id) JOIN kridtech.call_requests AS r ON r.id = v.id"
	" WHERE a.request_id = v.id AND a.live";

int
kt_queue_bind(const int64 *ids, const char **call_ids, int n, const char *how)
{
	static SPIPlanPtr kept_requests = NULL;
	static SPIPlanPtr kept_attempts = NULL;
	Oid types[] = {INT8ARRAYOID, TEXTARRAYOID, TEXTOID};
	Oid attempt_types[] = {INT8ARRAYOID, TEXTOID};
	Datum values[3];
	int64 *bound;

	values[0] = int8_array(ids, n);
	values[1] = text_array(call_ids, n);
	values[2] = CStringGetTextDatum(how);
	n = (int) run(&kept_requests, bind_requests, 3, types, values, NULL, SPI_OK_UPDATE_RETURNING);
	if (n == 0)
		return 0;
	bound = returned_ids();
	values[0] = int8_array(bound, n);
	values[1] = CStringGetTextDatum(how);
	run(&kept_attempts, bind_attempts, 2, attempt_types, values, NULL, SPI_OK_UPDATE);
	kt_queue_notify(bound, n);
	return n;
}

static const char reject_request[] =
	"UPDATE kridtech.call_requests AS r SET state = 'failed', error = $2,"
	" finished_at = clock_timestamp() WHERE r.id = $1 AND r.state = 'queued'";

void
kt_queue_reject(int64 id, const char *error)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {INT8OID, TEXTOID};
	Datum values[] = {Int64GetDatum(id), CStringGetTextDatum(error)};

	run(&kept, reject_request, 2, types, values, NULL, SPI_OK_UPDATE);
	kt_queue_notify(&id, 1);
}

static const char notify_finals[] =
	"SELECT pg_notify('kridtech_calls', json_build_object('id', r.id, 'state', r.state,"
	" 'call_id', r.call_id, 'reference', left(r.reference, 1000))::text)"
	" FROM unnest($1) AS v (id) JOIN kridtech.call_requests AS r ON r.id = v.id"
	" WHERE r.state NOT IN ('queued', 'placing')";

void
kt_queue_notify(const int64 *ids, int n)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {INT8ARRAYOID};
	Datum values[1];

	if (!kt_notify || n == 0)
		return;
	values[0] = int8_array(ids, n);
	run(&kept, notify_finals, 1, types, values, NULL, SPI_OK_SELECT);
}

/* ---- what the API's list says of an unknown request ------------------------------------------------ */

/* The newest word replaces the one before; what else is known stays. */
static const char note_attempt[] =
	"UPDATE kridtech.call_attempts AS a SET detail = n.detail FROM (SELECT q.id, concat_ws('; ',"
	" nullif(regexp_replace(q.detail, '(^|; )list: .*$', ''), ''), 'list: ' || $2) AS detail"
	" FROM kridtech.call_attempts AS q WHERE q.id = $1 FOR UPDATE SKIP LOCKED) AS n"
	" WHERE a.id = n.id AND a.detail IS DISTINCT FROM n.detail";

void
kt_queue_note(int64 attempt, const char *note)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {INT8OID, TEXTOID};
	Datum values[] = {Int64GetDatum(attempt), CStringGetTextDatum(note)};

	run(&kept, note_attempt, 2, types, values, NULL, SPI_OK_UPDATE);
}
