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
 * A row whose removal fails, by a user's trigger or foreign key, is passed over until the next pass; so is a request
 * that a trigger keeps, with all that would have gone with it. (What a trigger keeps of what goes with another row is
 * not looked at again: no index leads to it.)
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

/* Of each statement: an id or a number, the cutoff, how many rows to look at, a time. */
#define PARAMETERS                                       \
	{                                                    \
		INT8OID, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID \
	}

/* Between two units of a pass, and after a pass: a tenth of the retention, but not outside these. */
#define PAUSE_US INT64CONST(100000)
#define REST_MIN_US INT64CONST(200000)
#define REST_MAX_US INT64CONST(60000000)

/* Of the pause, while units fail: to 1.6 s. */
#define MAX_DOUBLINGS 4

/*
 * Why a batch costs the same however many rows there are, and whatever the plan was made on: each subquery about one
 * row says OFFSET 0, which keeps it a look-up by the index instead of a join; what is removed is named by an array,
 * which leaves an index no other way to be read; and no condition stands between an index and its predicate (IN
 * would, for the two states of OPEN, and so would call_attempts without saying live or not).
 *
 * $2 is the cutoff. OPEN are the times around the requests whose outcome is open.
 */
/* clang-format off */

/* Rows of one time: so many of them have been looked at and stay. */
#define NEXT(time) "CASE WHEN " time " = $4 THEN $1 ELSE 0 END"
#define STAYED(gone) \
	"(SELECT count(*) FROM looked AS l WHERE l.at = (SELECT max(at) FROM looked)" \
	" AND NOT EXISTS (SELECT FROM " gone " AS g WHERE g.call_id = l.call_id))"
#define LAST_TIME "(SELECT max(at) FROM looked)"

#define FINAL "('placed', 'failed', 'cancelled', 'expired')"
#define TIME_OF_OPEN(state) \
	"SELECT u.created_at - interval '1 day' AS since," \
	" coalesce(u.finished_at, clock_timestamp()) + interval '1 day' AS until" \
	" FROM kridtech.call_requests AS u WHERE u.state = '" state "'"
#define OPEN "open AS MATERIALIZED (" TIME_OF_OPEN("unknown") " UNION ALL " TIME_OF_OPEN("placing") ")"
#define NO_EVIDENCE(time) \
	" AND NOT EXISTS (SELECT FROM open AS u WHERE " time " > u.since AND " time " < u.until OFFSET 0)"
#define GO(name, table, condition, key, from, of, keys) \
	", " name " AS (DELETE FROM kridtech." table " AS q WHERE " condition "q." key \
	" = ANY (ARRAY(SELECT g." of " FROM " from " AS g)) RETURNING " keys ")"
#define COUNT(name) "(SELECT count(*) FROM " name ")"

/* What a batch looks at. next and at: where the row behind this one is looked for, should it stay. */
#define LOOK_AT_REQUESTS \
	"SELECT q.id AS next, NULL::timestamptz AS at, q.created_at FROM kridtech.call_requests AS q" \
	" WHERE q.id > $1 ORDER BY q.id LIMIT $3"
#define LOOK_AT_CALLS \
	"SELECT " NEXT("q.created_at") " + 1 AS next, q.created_at AS at, q.call_id FROM kridtech.calls AS q" \
	" WHERE q.created_at >= $4 AND q.created_at < $2 ORDER BY q.created_at OFFSET $1 LIMIT $3"
#define LOOK_AT_UNDATED_CALLS \
	"SELECT $1 + 1 AS next, NULL::timestamptz AS at, q.call_id FROM kridtech.calls AS q" \
	" WHERE q.created_at IS NULL AND q.synced_at < $2 OFFSET $1 LIMIT $3"
#define LOOK_AT_EVENTS \
	"SELECT " NEXT("q.received_at") " + 1 AS next, q.received_at AS at, q.call_id" \
	" FROM kridtech.webhook_events AS q WHERE q.verified_by IS NULL AND q.received_at >= $4" \
	" AND q.received_at < $2 ORDER BY q.received_at, q.call_id OFFSET $1 LIMIT $3"
#define LOOK_AT_KEPT \
	"SELECT q.id AS next, NULL::timestamptz AS at, q.received_at FROM kridtech.webhook_inbox AS q" \
	" WHERE q.id > $1 ORDER BY q.id LIMIT $3"
#define LOOKED(look) "WITH looked AS MATERIALIZED (" look "), " OPEN ","

/* clang-format on */

/* From its beginning to its end: one that was redialled has attempts all along. */
#define REQUEST_IS_NO_EVIDENCE                                            \
	" AND NOT EXISTS (SELECT FROM open AS u WHERE q.created_at < u.until" \
	" AND coalesce(q.finished_at, q.created_at) > u.since OFFSET 0)"
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
 * Each comes to: rows removed, rows looked at, where to go on (a number and a time), how many of these are old. What
 * goes with a request goes with a row that really went: a user's trigger may keep it.
 *
 * $1, $4: where to look: behind this id; or from this time on, behind so many rows of it; or behind so many rows.
 */
/* clang-format off */
static KtStatement remove_requests = {
	LOOKED(LOOK_AT_REQUESTS)
	" old AS MATERIALIZED (SELECT q.id FROM looked CROSS JOIN LATERAL (SELECT r.*"
	" FROM kridtech.call_requests AS r WHERE r.id = looked.next LIMIT 1 FOR UPDATE SKIP LOCKED) AS q"
	" WHERE looked.created_at < $2 AND q.state IN " FINAL
	" AND coalesce(q.finished_at, q.created_at) < $2"
	ITS_EVENT_IS_OLD ITS_CORRELATED_EVENTS_ARE_OLD REQUEST_IS_NO_EVIDENCE ")"
	GO("r", "call_requests", "", "id", "old", "id", "q.id, q.call_id")
	GO("a", "call_attempts", "q.live AND ", "request_id", "r", "id", "q.request_id")
	GO("b", "call_attempts", "NOT q.live AND ", "request_id", "r", "id", "q.request_id")
	GO("e", "webhook_events", "", "call_id", "r", "call_id", "q.call_id")
	GO("f", "webhook_events", IS_ONLY_CORRELATED, "request_id", "r", "id", "q.request_id")
	GO("c", "calls", "", "call_id", "r", "call_id", "q.call_id")
	" SELECT " COUNT("r") " + " COUNT("a") " + " COUNT("b") " + " COUNT("e") " + " COUNT("f") " + " COUNT("c") ","
	" " COUNT("looked") ", (SELECT max(next) FROM looked), NULL::timestamptz,"
	" (SELECT count(*) FROM looked WHERE created_at < $2)",
	SPI_OK_SELECT, PARAMETERS, NULL};

#define OLD_CALLS \
	" old AS MATERIALIZED (SELECT q.call_id FROM looked CROSS JOIN LATERAL (SELECT c.*" \
	" FROM kridtech.calls AS c WHERE c.call_id = looked.call_id LIMIT 1 FOR UPDATE SKIP LOCKED) AS q" \
	" WHERE true" IT_HAS_NO_REQUEST ITS_EVENT_IS_OLD CALL_IS_NO_EVIDENCE ")" \
	GO("c", "calls", "", "call_id", "old", "call_id", "q.call_id") \
	GO("e", "webhook_events", "", "call_id", "c", "call_id", "q.call_id") \
	" SELECT " COUNT("e") " + " COUNT("c") ", " COUNT("looked") ", "

static KtStatement remove_calls = {
	LOOKED(LOOK_AT_CALLS) OLD_CALLS
	STAYED("c") " + " NEXT(LAST_TIME) ", " LAST_TIME ", 1::bigint",
	SPI_OK_SELECT, PARAMETERS, NULL};

static KtStatement remove_undated_calls = {
	LOOKED(LOOK_AT_UNDATED_CALLS) OLD_CALLS
	"$1 + " COUNT("looked") " - " COUNT("c") ", NULL::timestamptz, 1::bigint",
	SPI_OK_SELECT, PARAMETERS, NULL};

/* What is verified goes with its request or its call. */
static KtStatement remove_events = {
	LOOKED(LOOK_AT_EVENTS)
	" old AS MATERIALIZED (SELECT q.call_id FROM looked CROSS JOIN LATERAL (SELECT v.*"
	" FROM kridtech.webhook_events AS v WHERE v.call_id = looked.call_id LIMIT 1 FOR UPDATE SKIP LOCKED)"
	" AS q WHERE q.verified_by IS NULL" IT_HAS_NO_REQUEST DELIVERY_IS_NO_EVIDENCE ")"
	GO("e", "webhook_events", "", "call_id", "old", "call_id", "q.call_id")
	" SELECT " COUNT("e") ", " COUNT("looked") ","
	" " STAYED("e") " + " NEXT(LAST_TIME) ", " LAST_TIME ", 1::bigint",
	SPI_OK_SELECT, PARAMETERS, NULL};

static KtStatement remove_kept = {
	LOOKED(LOOK_AT_KEPT)
	" old AS MATERIALIZED (SELECT q.id FROM looked CROSS JOIN LATERAL (SELECT i.*"
	" FROM kridtech.webhook_inbox AS i WHERE i.id = looked.next LIMIT 1 FOR UPDATE SKIP LOCKED) AS q"
	" WHERE q.received_at < $2" DELIVERY_IS_NO_EVIDENCE ")"
	GO("i", "webhook_inbox", "", "id", "old", "id", "q.id")
	" SELECT " COUNT("i") ", " COUNT("looked") ", (SELECT max(next) FROM looked), NULL::timestamptz,"
	" (SELECT count(*) FROM looked WHERE received_at < $2)",
	SPI_OK_SELECT, PARAMETERS, NULL};

/* What a batch of one looks at, for when it failed. */
static KtStatement look_at_requests = {LOOK_AT_REQUESTS, SPI_OK_SELECT, PARAMETERS, NULL};
static KtStatement look_at_calls = {LOOK_AT_CALLS, SPI_OK_SELECT, PARAMETERS, NULL};
static KtStatement look_at_undated_calls = {LOOK_AT_UNDATED_CALLS, SPI_OK_SELECT, PARAMETERS, NULL};
static KtStatement look_at_events = {LOOK_AT_EVENTS, SPI_OK_SELECT, PARAMETERS, NULL};
static KtStatement look_at_kept = {LOOK_AT_KEPT, SPI_OK_SELECT, PARAMETERS, NULL};
/* clang-format on */

typedef struct Phase
{
	KtStatement *remove;
	KtStatement *look;
} Phase;

static const Phase phases[] = {
	{&remove_requests, &look_at_requests},
	{&remove_calls, &look_at_calls},
	{&remove_undated_calls, &look_at_undated_calls},
	{&remove_events, &look_at_events},
	{&remove_kept, &look_at_kept},
};

static void
begin_phase(KtRetention *retention, int phase)
{
	retention->phase = phase;
	retention->place = (KtRetentionPlace){.id = 0, .at = DT_NOBEGIN};
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

static uint64
run(const KtRetention *retention, KtStatement *statement)
{
	Datum values[] = {Int64GetDatum(retention->place.id), TimestampTzGetDatum(retention->cutoff),
	                  Int64GetDatum(retention->limit), TimestampTzGetDatum(retention->place.at)};

	return kt_statement_run(statement, values, NULL);
}

static void
remove_work(void *argument)
{
	KtRetention *retention = argument;
	KtOwner owner;

	retention->removed = 0;
	retention->at_end = false;
	retention->next = retention->place;
	kt_background_begin(&owner);
	if (kt_background_locked() == NULL)
	{
		(void) run(retention, phases[retention->phase].remove);
		retention->removed = kt_statement_int64(0, 1);
		retention->next.id = kt_statement_int64(0, 3);
		retention->next.at = kt_statement_int64(0, 4);
		/* ids are nearly in the order of time: a batch of nothing old has nothing old behind it */
		retention->at_end = kt_statement_int64(0, 2) < retention->limit ||
		                    (retention->limit > 1 && kt_statement_int64(0, 5) == 0);
	}
	kt_owner_end(&owner);
}

static void
pass_over_work(void *argument)
{
	KtRetention *retention = argument;
	KtOwner owner;

	kt_background_begin(&owner);
	retention->at_end = run(retention, phases[retention->phase].look) == 0;
	if (!retention->at_end)
	{
		retention->next.id = kt_statement_int64(0, 1);
		retention->next.at = kt_statement_int64(0, 2);
	}
	kt_owner_end(&owner);
}

/*
 * A batch is done again one by one, so that a row which fails is passed over; but not for what may pass by itself, such
 * as somebody's lock, which ends the phase. Whatever the unit noted counts for nothing: it may have failed in its
 * commit, by a constraint that is deferred.
 */
static void
failed(KtRetention *retention, int sqlstate)
{
	retention->at_end = kt_xact_is_passing(sqlstate);
	retention->next = retention->place;
	retention->failures++;
	if (retention->at_end)
		return;
	if (retention->limit > 1)
	{
		retention->limit = 1;
		retention->singly = BATCH;
	}
	else if (kt_xact_run("passing over a row", pass_over_work, retention, NULL, NULL, 0) !=
	         KT_XACT_DONE)
		retention->at_end = true;
}

/* Rows that fail one after the other are taken more and more slowly: each is an ERROR in the log. */
static int64
pause_us(const KtRetention *retention)
{
	if (retention->at_end && retention->phase == 0)
		return Min(Max((int64) kt_retention * USECS_PER_SEC / 10, REST_MIN_US), REST_MAX_US);
	if (retention->failures > 0)
		return PAUSE_US << Min(retention->failures - 1, MAX_DOUBLINGS);
	return retention->limit > 1 ? PAUSE_US : PAUSE_US / 10;
}

void
kt_retention_work(KtRetention *retention)
{
	int sqlstate;

	if (retention->setting != kt_retention)
	{
		begin_phase(retention, 0);
		retention->setting = kt_retention;
		retention->next_at = 0;
	}
	if (kt_retention == 0 || kt_http_now() < retention->next_at)
		return;
	retention->cutoff = GetCurrentTimestamp() - (int64) kt_retention * USECS_PER_SEC;
	if (kt_xact_run("removing what is beyond kridtech.retention", remove_work, retention, &sqlstate,
	                NULL, 0) == KT_XACT_DONE)
	{
		kt_count(retention->slot, KT_COUNT_RETIRED, retention->removed);
		retention->failures = 0;
	}
	else
		failed(retention, sqlstate);
	retention->place = retention->next;
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
