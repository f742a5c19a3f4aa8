/*
 * kridtech.retention: what is finished, and older than that, is removed, a little at a time.
 *
 * A pass walks through the tables in batches, each a unit of work of its own with a pause behind it, and rests when
 * it is through. Requests are walked by id, which is the order in which they were made, so no index is needed on
 * when they ended; with a request go its attempts, its event and its record in the mirror, in one statement.
 * What nobody here asked for follows: calls, events, the inbox.
 *
 * What stays, however old: requests that are queued, placing or unknown, and whatever is from the time of one that
 * is placing or unknown, a day more on either side. It is the evidence by which that one may still be resolved: were a
 * neighbour's call forgotten, a list might seem to show it as nobody's.
 *
 * A row whose removal fails, by a user's trigger, is passed over until the next pass.
 */
#include "postgres.h"

#include "retention.h"

#include "background.h"
#include "catalog/pg_type.h"
#include "http.h"
#include "settings.h"
#include "statement.h"
#include "utils/timestamp.h"
#include "xact.h"

/* Rows looked at in a unit of work: some milliseconds. */
#define BATCH 500

/* Between two units of a pass, and after a pass: a tenth of the retention, but not outside these. */
#define PAUSE_US INT64CONST(100000)
#define REST_MIN_US INT64CONST(200000)
#define REST_MAX_US INT64CONST(60000000)

/*
 * Why a batch costs the same however many rows there are, and whatever the plan was made on: each subquery about one
 * row says OFFSET 0, which keeps it a look-up by the index instead of a join; what is removed is named by an array,
 * which leaves an index no other way to be read; and no condition stands between an index and its predicate (IN
 * would, for the two states of OPEN, and so would call_attempts without saying live or not).
 *
 * $2 is the cutoff. OPEN are the times around the requests whose outcome is open.
 */
/* clang-format off */

#define FINAL "('placed', 'failed', 'cancelled', 'expired')"
#define TIME_OF_OPEN(state) \
	"SELECT u.created_at - interval '1 day' AS since," \
	" coalesce(u.finished_at, clock_timestamp()) + interval '1 day' AS until" \
	" FROM kridtech.call_requests AS u WHERE u.state = '" state "'"
#define OPEN "open AS MATERIALIZED (" TIME_OF_OPEN("unknown") " UNION ALL " TIME_OF_OPEN("placing") ")"
#define NO_EVIDENCE(time) \
	" AND NOT EXISTS (SELECT FROM open AS u WHERE " time " > u.since AND " time " < u.until OFFSET 0)"
#define REMOVE(name, table, condition, key, old_key) \
	", " name " AS (DELETE FROM kridtech." table " AS q WHERE " condition "q." key \
	" = ANY (ARRAY(SELECT old." old_key " FROM old)) RETURNING q." key ")"

/* clang-format on */

#define REQUEST_IS_NO_EVIDENCE NO_EVIDENCE("coalesce(q.finished_at, q.created_at)")
#define CALL_IS_NO_EVIDENCE NO_EVIDENCE("coalesce(q.created_at, q.synced_at)")
#define DELIVERY_IS_NO_EVIDENCE NO_EVIDENCE("q.received_at")
#define IT_HAS_NO_REQUEST \
	" AND NOT EXISTS (SELECT FROM kridtech.call_requests AS r WHERE r.call_id = q.call_id OFFSET 0)"
#define ITS_CORRELATED_EVENTS_ARE_OLD                                                              \
	" AND NOT EXISTS (SELECT FROM kridtech.webhook_events AS e WHERE e.request_id = q.id"          \
	" AND e.verified_by = 'correlation' AND (e.received_at >= $2 OR EXISTS (SELECT FROM open AS u" \
	" WHERE e.received_at > u.since AND e.received_at < u.until)) OFFSET 0)"
/* It names the request, but its call is no request's: a second one that brought back the same kridtech_ref, say. */
#define IS_ONLY_CORRELATED                                                                  \
	"q.verified_by = 'correlation' AND NOT EXISTS (SELECT FROM kridtech.call_requests AS o" \
	" WHERE o.call_id = q.call_id OFFSET 0) AND "
#define ITS_EVENT_IS_OLD                                                                    \
	" AND NOT EXISTS (SELECT FROM kridtech.webhook_events AS e WHERE e.call_id = q.call_id" \
	" AND e.received_at >= $2 OFFSET 0)"

/*
 * Each comes to: rows removed, rows looked at, the last one of these, how many of these are old. The first
 * parameter is the row, or the time, to go on behind; the third how many to look at.
 */
static KtStatement remove_requests = {
	"WITH looked AS MATERIALIZED (SELECT q.id, q.created_at FROM kridtech.call_requests AS q"
	" WHERE q.id > $1 ORDER BY q.id LIMIT $3), " OPEN ","
	" old AS MATERIALIZED (SELECT q.id, q.call_id FROM looked CROSS JOIN LATERAL (SELECT r.*"
	" FROM kridtech.call_requests AS r WHERE r.id = looked.id LIMIT 1 FOR UPDATE SKIP LOCKED) AS q"
	" WHERE looked.created_at < $2 AND q.state IN " FINAL
	" AND coalesce(q.finished_at, q.created_at) < $2" ITS_EVENT_IS_OLD ITS_CORRELATED_EVENTS_ARE_OLD
		REQUEST_IS_NO_EVIDENCE
	")" REMOVE("r", "call_requests", "", "id", "id") REMOVE(
		"a", "call_attempts", "q.live AND ", "request_id",
		"id") REMOVE("b", "call_attempts", "NOT q.live AND ", "request_id",
                     "id") REMOVE("e", "webhook_events", "", "call_id", "call_id")
		REMOVE("f", "webhook_events", IS_ONLY_CORRELATED, "request_id", "id") REMOVE(
			"c", "calls", "", "call_id",
			"call_id") " SELECT (SELECT count(*) FROM r) + (SELECT count(*) FROM a) + (SELECT count(*) FROM b)"
					   " + (SELECT count(*) FROM e) + (SELECT count(*) FROM f) + (SELECT count(*) FROM c),"
					   " (SELECT count(*) FROM looked), (SELECT max(id) FROM looked),"
					   " (SELECT count(*) FROM looked WHERE created_at < $2)",
	SPI_OK_SELECT,
	{INT8OID, TIMESTAMPTZOID, INT8OID},
	NULL};

static KtStatement remove_calls = {
	"WITH looked AS MATERIALIZED ((SELECT q.call_id, q.created_at AS at FROM kridtech.calls AS q"
	" WHERE q.created_at > $1 AND q.created_at < $2 ORDER BY q.created_at LIMIT $3)"
	" UNION ALL (SELECT q.call_id, NULL FROM kridtech.calls AS q WHERE q.created_at IS NULL"
	" AND q.synced_at < $2 LIMIT $3)), " OPEN ","
	" old AS MATERIALIZED (SELECT q.call_id FROM looked CROSS JOIN LATERAL (SELECT c.*"
	" FROM kridtech.calls AS c WHERE c.call_id = looked.call_id LIMIT 1 FOR UPDATE SKIP LOCKED) AS q"
	" WHERE true" IT_HAS_NO_REQUEST ITS_EVENT_IS_OLD CALL_IS_NO_EVIDENCE
	")" REMOVE("e", "webhook_events", "", "call_id", "call_id") REMOVE(
		"c", "calls", "", "call_id",
		"call_id") " SELECT (SELECT count(*) FROM e) + (SELECT count(*) FROM c),"
				   " (SELECT count(*) FROM looked WHERE at IS NOT NULL), (SELECT max(at) FROM looked), 1::bigint",
	SPI_OK_SELECT,
	{TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID},
	NULL};

/* What is verified goes with its request or its call. */
static KtStatement remove_events = {
	"WITH looked AS MATERIALIZED (SELECT q.call_id, q.received_at AS at FROM kridtech.webhook_events AS q"
	" WHERE q.verified_by IS NULL AND q.received_at > $1 AND q.received_at < $2"
	" ORDER BY q.received_at, q.call_id LIMIT $3), " OPEN ","
	" old AS MATERIALIZED (SELECT q.call_id FROM looked CROSS JOIN LATERAL (SELECT v.*"
	" FROM kridtech.webhook_events AS v WHERE v.call_id = looked.call_id LIMIT 1 FOR UPDATE SKIP LOCKED)"
	" AS q WHERE q.verified_by IS NULL" IT_HAS_NO_REQUEST DELIVERY_IS_NO_EVIDENCE ")" REMOVE(
		"e", "webhook_events", "", "call_id",
		"call_id") " SELECT (SELECT count(*) FROM e), (SELECT count(*) FROM looked), (SELECT max(at) FROM looked),"
				   " 1::bigint",
	SPI_OK_SELECT,
	{TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID},
	NULL};

static KtStatement remove_kept = {
	"WITH looked AS MATERIALIZED (SELECT q.id, q.received_at FROM kridtech.webhook_inbox AS q"
	" WHERE q.id > $1 ORDER BY q.id LIMIT $3), " OPEN ","
	" old AS MATERIALIZED (SELECT q.id FROM looked CROSS JOIN LATERAL (SELECT i.*"
	" FROM kridtech.webhook_inbox AS i WHERE i.id = looked.id LIMIT 1 FOR UPDATE SKIP LOCKED) AS q"
	" WHERE q.received_at < $2" DELIVERY_IS_NO_EVIDENCE ")" REMOVE(
		"i", "webhook_inbox", "", "id",
		"id") " SELECT (SELECT count(*) FROM i), (SELECT count(*) FROM looked), (SELECT max(id) FROM looked),"
			  " (SELECT count(*) FROM looked WHERE received_at < $2)",
	SPI_OK_SELECT,
	{INT8OID, TIMESTAMPTZOID, INT8OID},
	NULL};

typedef struct Phase
{
	KtStatement *statement;
	bool by_time; /* it is walked by time, not by id */
} Phase;

static const Phase phases[] = {
	{&remove_requests, false},
	{&remove_calls, true},
	{&remove_events, true},
	{&remove_kept, false},
};

/* The row behind which a batch of one that failed goes on. */
static KtStatement next_request = {
	"SELECT q.id FROM kridtech.call_requests AS q WHERE q.id > $1 ORDER BY q.id LIMIT 1",
	SPI_OK_SELECT,
	{INT8OID},
	NULL};

static void
begin_phase(KtRetention *retention, int phase)
{
	retention->phase = phase;
	retention->id = 0;
	retention->at = DT_NOBEGIN;
	retention->limit = BATCH;
	retention->singly = 0;
}

void
kt_retention_init(KtRetention *retention, KtSlot *slot)
{
	memset(retention, 0, sizeof(*retention));
	retention->slot = slot;
	begin_phase(retention, 0);
}

static void
remove_work(void *argument)
{
	KtRetention *retention = argument;
	const Phase *phase = &phases[retention->phase];
	Datum values[3];
	KtOwner owner;

	retention->removed = 0;
	retention->at_end = false;
	kt_background_begin(&owner);
	if (kt_background_locked() == NULL)
	{
		values[0] =
			phase->by_time ? TimestampTzGetDatum(retention->at) : Int64GetDatum(retention->id);
		values[1] = TimestampTzGetDatum(retention->cutoff);
		values[2] = Int64GetDatum(retention->limit);
		(void) kt_statement_run(phase->statement, values, NULL);
		retention->removed = kt_statement_int64(0, 1);
		/* ids are nearly in the order of time: a batch of nothing old has nothing old behind it */
		retention->at_end = kt_statement_int64(0, 2) < retention->limit ||
		                    (retention->limit > 1 && kt_statement_int64(0, 4) == 0);
		if (!retention->at_end && phase->by_time)
			retention->at = kt_statement_int64(0, 3);
		else if (!retention->at_end)
			retention->id = kt_statement_int64(0, 3);
	}
	kt_owner_end(&owner);
}

static void
pass_over_work(void *argument)
{
	KtRetention *retention = argument;
	Datum values[] = {Int64GetDatum(retention->id)};
	KtOwner owner;

	kt_background_begin(&owner);
	retention->at_end = kt_statement_run(&next_request, values, NULL) == 0;
	if (!retention->at_end)
		retention->id = kt_statement_int64(0, 1);
	kt_owner_end(&owner);
}

/* A batch of requests is done again one by one, so that one which fails is passed over; other rows wait. */
static void
failed(KtRetention *retention)
{
	retention->at_end = retention->phase > 0;
	if (retention->phase > 0)
		return;
	if (retention->limit > 1)
	{
		retention->limit = 1;
		retention->singly = BATCH;
	}
	else if (kt_xact_run("passing over a request", pass_over_work, retention, NULL, NULL, 0) !=
	         KT_XACT_DONE)
		retention->at_end = true;
}

static int64
pause_us(const KtRetention *retention)
{
	if (!retention->at_end || retention->phase > 0)
		return retention->limit > 1 ? PAUSE_US : PAUSE_US / 10;
	return Min(Max((int64) kt_retention * USECS_PER_SEC / 10, REST_MIN_US), REST_MAX_US);
}

void
kt_retention_work(KtRetention *retention)
{
	if (retention->setting != kt_retention)
	{
		begin_phase(retention, 0);
		retention->setting = kt_retention;
		retention->next_at = 0;
	}
	if (kt_retention == 0 || kt_http_now() < retention->next_at)
		return;
	retention->cutoff = GetCurrentTimestamp() - (int64) kt_retention * USECS_PER_SEC;
	if (kt_xact_run("removing what is beyond kridtech.retention", remove_work, retention, NULL,
	                NULL, 0) == KT_XACT_DONE)
		kt_count(retention->slot, KT_COUNT_RETIRED, retention->removed);
	else
		failed(retention);
	if (retention->at_end)
		begin_phase(retention, (retention->phase + 1) % (int) lengthof(phases));
	else if (retention->singly > 0 && --retention->singly == 0)
		retention->limit = BATCH;
	retention->next_at = kt_http_now() + pause_us(retention);
}

int64
kt_retention_deadline(const KtRetention *retention)
{
	return kt_retention == 0 ? -1 : retention->next_at;
}
