/*
 * kridtech.call_requests and kridtech.call_attempts, as the dialer claims them: which requests are ready, and the
 * one statement that takes them. With queueresults.c, queuesweep.c and queuebind.c the only file by which the
 * dialer moves a call request from state to state. A synchronous call's record is callrecord.c's, what a human
 * decides is operate.c's.
 *
 * The statements work on sets, so that a batch costs a handful of statements whatever its size.
 * Why at most one ring: a request is sent only after the commit of a claim, which is one statement that
 * moves it from 'queued' to 'placing' and opens an attempt; nothing but a recorded proof, or a human,
 * brings it back to 'queued'. Should a bug do so all the same, the open attempt is still 'live', and the
 * unique index on live attempts refuses the next claim.
 */
#include "postgres.h"

#include "queue.h"

#include "catalog/pg_type.h"
#include "http.h"
#include "settings.h"
#include "statement.h"
#include "utils/builtins.h"
#include "utils/plancache.h"
#include "xact.h"

void
kt_queue_replan(void)
{
	ResetPlanCache();
}

/* ---- correlation ----------------------------------------------------------------------------------- */

#define REF_ID_DIGITS 12
#define REF_WIDE_ID_DIGITS 16
#define REF_RANDOM_DIGITS 20

char *
kt_queue_make_ref(int64 id)
{
	static const char hex[] = "0123456789abcdef";
	static uint8 random[64 * REF_RANDOM_DIGITS / 2]; /* asking for it costs */
	static Size used = sizeof(random);
	int digits = (uint64) id >> (4 * REF_ID_DIGITS) == 0 ? REF_ID_DIGITS : REF_WIDE_ID_DIGITS;
	char *ref = palloc(KT_REF_SIZE);
	int i;

	if (used == sizeof(random) && !pg_strong_random(random, sizeof(random)))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not get random bytes")));
	if (used == sizeof(random))
		used = 0;
	for (i = 0; i < digits; i++)
		ref[i] = hex[(id >> (4 * (digits - 1 - i))) & 0xF];
	for (; i < digits + REF_RANDOM_DIGITS; i += 2)
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
	char digits[REF_WIDE_ID_DIGITS + 1];
	size_t len = strlen(ref);

	if ((len != REF_ID_DIGITS + REF_RANDOM_DIGITS &&
	     len != REF_WIDE_ID_DIGITS + REF_RANDOM_DIGITS) ||
	    strspn(ref, "0123456789abcdef") != len)
		return 0;
	strlcpy(digits, ref, len - REF_RANDOM_DIGITS + 1);
	return (int64) strtoull(digits, NULL, 16);
}

/* ---- scan and claim -------------------------------------------------------------------------------- */

/* Variables of more are called heavy: as they are stored, compressed. */
#define HEAVY_BYTES "2000"

/*
 * No lock, and no more than the ids: a scan may look at thousands. A direct INSERT may have left a
 * not_before that lies ahead in a ready row; it is set aside here, so that the next scan is spared it.
 */
#define SCAN(condition)                                                                        \
	"SELECT q.id, coalesce(q.account_id, $1), q.not_before > clock_timestamp(), q.priority,"   \
	" pg_column_size(q.dynamic_variables) > " HEAVY_BYTES                                      \
	" FROM kridtech.call_requests AS q WHERE q.state = 'queued' AND q.next_attempt_at IS NULL" \
	" AND coalesce(q.account_id, $1) <> ALL ($2) AND q.created_at >= $4"                       \
	" AND q.id <> ALL ($5)" condition " ORDER BY q.priority DESC, q.id LIMIT $3"

static KtStatement scan_ready = {
	SCAN(""),
	SPI_OK_SELECT,
	{TEXTOID, TEXTARRAYOID, INT8OID, TIMESTAMPTZOID, INT8ARRAYOID},
	NULL,
};

/*
 * From a mark on, in the order of the index: what is above its priority, what is of it, what is below. By = instead of
 * = ANY, which leaves the order to be made, the planner takes the primary key for the middle one, and reads the
 * history.
 */
static KtStatement scan_part = {
	"(" SCAN(" AND $8 AND q.priority > $6") ") UNION ALL (" SCAN(
		" AND q.priority = ANY (ARRAY[$6]) AND q.id >= $7") ") UNION ALL (" SCAN(" AND q.priority < $6") ") LIMIT $3",
	SPI_OK_SELECT,
	{TEXTOID, TEXTARRAYOID, INT8OID, TIMESTAMPTZOID, INT8ARRAYOID, INT4OID, INT8OID, BOOLOID},
	NULL,
};

static KtStatement set_aside = {
	"UPDATE kridtech.call_requests AS r SET next_attempt_at = r.not_before WHERE r.id IN (SELECT q.id"
	" FROM kridtech.call_requests AS q WHERE q.id = ANY ($1) AND q.state = 'queued'"
	" AND q.next_attempt_at IS NULL AND q.not_before > clock_timestamp() FOR UPDATE SKIP LOCKED)",
	SPI_OK_UPDATE,
	{INT8ARRAYOID},
	NULL,
};

/* When it is tried again, on kt_http_now()'s clock, after it failed: by a user's trigger, say. */
#define ASIDE_AGAIN_US INT64CONST(5000000)
static int64 set_aside_at = 0;

typedef struct Early
{
	const int64 *ids;
	int n;
} Early;

static void
set_early_aside(void *argument)
{
	const Early *early = argument;
	Datum values[] = {kt_statement_int8s(early->ids, early->n)};

	kt_statement_run(&set_aside, values, NULL);
}

/* Where it cannot be, they are no candidates all the same. */
static void
try_to_set_aside(Early *early)
{
	int sqlstate;
	char *message;

	if (early->n == 0 || kt_http_now() < set_aside_at ||
	    kt_xact_try(set_early_aside, early, &sqlstate, &message))
		return;
	set_aside_at = kt_http_now() + ASIDE_AGAIN_US;
	ereport(WARNING,
	        (errmsg("%d call requests whose time has not come cannot be set aside", early->n),
	         errdetail("%s", message)));
}

static KtStatement last_ready = {
	"SELECT q.id, q.priority FROM kridtech.call_requests AS q WHERE q.state = 'queued'"
	" AND q.next_attempt_at IS NULL ORDER BY q.priority, q.id DESC LIMIT 1",
	SPI_OK_SELECT,
	{InvalidOid},
	NULL,
};

static KtStatement find_foreign = {
	"SELECT FROM kridtech.call_requests AS q WHERE q.state = 'queued' AND q.next_attempt_at IS NULL"
	" AND q.created_at < $1 LIMIT 1",
	SPI_OK_SELECT,
	{TIMESTAMPTZOID},
	NULL,
};

bool
kt_queue_has_foreign(TimestampTz born)
{
	Datum values[] = {TimestampTzGetDatum(born)};

	return !TIMESTAMP_IS_NOBEGIN(born) && kt_statement_run(&find_foreign, values, NULL) == 1;
}

bool
kt_queue_last_ready(KtMark *mark)
{
	bool isnull;

	if (kt_statement_run(&last_ready, NULL, NULL) == 0)
		return false;
	mark->id = kt_statement_int64(0, 1);
	mark->priority = DatumGetInt32(kt_statement_datum(0, 2, &isnull));
	mark->above = true;
	return true;
}

int
kt_queue_scan(const KtScanRules *rules, const KtMark *from, KtCandidate *candidates, int max,
              bool *full)
{
	Datum values[8];
	uint64 rows;
	uint64 i;
	int64 *ids;
	Early early = {NULL, 0};
	int n = 0;

	values[0] = CStringGetTextDatum(rules->default_account);
	values[1] = kt_statement_texts(rules->skip, rules->nskip);
	values[2] = Int64GetDatum(max);
	values[3] = TimestampTzGetDatum(rules->born);
	values[4] = kt_statement_int8s(rules->aside, rules->naside);
	if (from != NULL)
	{
		values[5] = Int32GetDatum(from->priority);
		values[6] = Int64GetDatum(from->id);
		values[7] = BoolGetDatum(from->above);
	}
	rows = kt_statement_run(from != NULL ? &scan_part : &scan_ready, values, NULL);
	early.ids = ids = palloc(Max(rows, 1) * sizeof(int64));
	for (i = 0; i < rows; i++)
	{
		bool isnull;
		bool is_early = DatumGetBool(kt_statement_datum(i, 3, &isnull));

		if (!isnull && is_early)
			ids[early.n++] = kt_statement_int64(i, 1);
		else
		{
			candidates[n].id = kt_statement_int64(i, 1);
			candidates[n].priority = DatumGetInt32(kt_statement_datum(i, 4, &isnull));
			candidates[n].heavy = DatumGetBool(kt_statement_datum(i, 5, &isnull)) && !isnull;
			candidates[n++].account_id = kt_statement_text(i, 2);
		}
	}
	try_to_set_aside(&early);
	*full = rows == (uint64) max && n > 0;
	return n;
}

/*
 * One statement: look again and lock (skipping what another transaction holds: a kridtech_cancel_call()
 * in progress, say), move to 'placing', open the attempt, return what is to be sent. not_after is looked
 * at here, with the clock of this moment. A request without an account keeps none, should it be tried again; its attempt
 * has the default one of this moment, in whose list its call would be.
 */
static KtStatement claim_requests = {
	"WITH picked AS MATERIALIZED (SELECT r.id, c.ref, c.n"
	" FROM unnest($1, $2) WITH ORDINALITY AS c (id, ref, n) CROSS JOIN LATERAL"
	" (SELECT q.id, q.state, q.next_attempt_at, q.not_before, q.not_after, q.created_at"
	" FROM kridtech.call_requests AS q WHERE q.id = c.id LIMIT 1 FOR UPDATE SKIP LOCKED) AS r"
	" WHERE r.state = 'queued' AND r.next_attempt_at IS NULL AND r.created_at >= $5"
	" AND (r.not_before IS NULL OR r.not_before <= clock_timestamp())"
	" AND (r.not_after IS NULL OR r.not_after > clock_timestamp())),"
	" claimed AS (UPDATE kridtech.call_requests AS r SET state = 'placing', attempts = r.attempts + 1"
	" FROM picked WHERE r.id = picked.id"
	" RETURNING r.id, picked.n, r.attempts, coalesce(r.account_id, $3) AS account_id,"
	" CASE WHEN r.account_id IS NULL THEN $3 END AS default_account, r.to_number,"
	" r.dynamic_variables::text AS dynamic_variables,"
	" CASE WHEN jsonb_exists(r.dynamic_variables, 'kridtech_ref') THEN NULL ELSE picked.ref END AS ref),"
	" opened AS (INSERT INTO kridtech.call_attempts (request_id, epoch, account_id, ref)"
	" SELECT claimed.id, $4, claimed.default_account, claimed.ref FROM claimed RETURNING 1)"
	" SELECT claimed.id, claimed.attempts, claimed.account_id, claimed.to_number,"
	" claimed.dynamic_variables, claimed.ref, (SELECT count(*) FROM opened) FROM claimed ORDER BY claimed.n",
	SPI_OK_SELECT,
	{INT8ARRAYOID, TEXTARRAYOID, TEXTOID, INT8OID, TIMESTAMPTZOID},
	NULL,
};

int
kt_queue_claim(const int64 *ids, const char **refs, int n, const char *default_account, int64 epoch,
               TimestampTz born, KtClaim *claims)
{
	Datum values[5];
	uint64 rows;
	uint64 i;

	values[0] = kt_statement_int8s(ids, n);
	values[1] = kt_statement_texts(refs, n);
	values[2] = CStringGetTextDatum(default_account);
	values[3] = Int64GetDatum(epoch);
	values[4] = TimestampTzGetDatum(born);
	rows = kt_statement_run(&claim_requests, values, NULL);
	/* without its open attempt a request is guarded by no index, and its result has no place */
	if (rows > 0 && kt_statement_int64(0, 7) != (int64) rows)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		                errmsg("a trigger or rule on kridtech.call_attempts suppressed the row")));
	for (i = 0; i < rows; i++)
	{
		bool isnull;

		claims[i].id = kt_statement_int64(i, 1);
		claims[i].attempts = DatumGetInt32(kt_statement_datum(i, 2, &isnull));
		claims[i].account_id = kt_statement_text(i, 3);
		claims[i].to_number = kt_statement_text(i, 4);
		claims[i].dynamic_variables = kt_statement_text(i, 5);
		claims[i].ref = kt_statement_text(i, 6);
	}
	return (int) rows;
}

static KtStatement recent_unknown = {
	"SELECT FROM kridtech.call_requests AS q WHERE q.state = 'unknown'"
	" AND q.finished_at > (SELECT clock_timestamp()) - interval '1 hour' LIMIT $1",
	SPI_OK_SELECT,
	{INT8OID},
	NULL,
};

int
kt_queue_recent_unknown(int limit)
{
	Datum values[] = {Int64GetDatum(limit)};

	return (int) kt_statement_run(&recent_unknown, values, NULL);
}

/* ---- one request ----------------------------------------------------------------------------------- */

static KtStatement reject_request = {
	"UPDATE kridtech.call_requests AS r SET state = 'failed', error = $2,"
	" finished_at = clock_timestamp() WHERE r.id = $1 AND r.state = 'queued'",
	SPI_OK_UPDATE,
	{INT8OID, TEXTOID},
	NULL,
};

void
kt_queue_reject(int64 id, const char *error)
{
	Datum values[] = {Int64GetDatum(id), CStringGetTextDatum(error)};

	kt_statement_run(&reject_request, values, NULL);
	kt_queue_notify(&id, 1);
}

static KtStatement set_back = {
	"UPDATE kridtech.call_requests AS r SET error = $2, next_attempt_at = clock_timestamp()"
	" + greatest(interval '1 minute', least(interval '10 minutes', clock_timestamp() - r.created_at))"
	" WHERE r.id = $1 AND r.state = 'queued'",
	SPI_OK_UPDATE,
	{INT8OID, TEXTOID},
	NULL,
};

void
kt_queue_set_back(int64 id, const char *error)
{
	Datum values[] = {Int64GetDatum(id), CStringGetTextDatum(error)};

	kt_statement_run(&set_back, values, NULL);
}

static KtStatement notify_finals = {
	"SELECT pg_notify('kridtech_calls', json_build_object('id', r.id, 'state', r.state,"
	" 'call_id', r.call_id, 'reference', left(r.reference, 1000))::text)"
	" FROM unnest($1) AS v (id) JOIN kridtech.call_requests AS r ON r.id = v.id"
	" WHERE r.state NOT IN ('queued', 'placing')",
	SPI_OK_SELECT,
	{INT8ARRAYOID},
	NULL,
};

void
kt_queue_notify(const int64 *ids, int n)
{
	Datum values[1];

	if (!kt_notify || n == 0)
		return;
	values[0] = kt_statement_int8s(ids, n);
	kt_statement_run(&notify_finals, values, NULL);
}
