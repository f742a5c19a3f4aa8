/*
 * The recordings' row of the view health: how many wait and since when, how the last day's went, and whether the
 * fetching is stuck.
 *
 * A recording that cannot be had is not a fault of ours, and one among many need wake nobody. False are: nothing
 * moves although something is due; events do not become rows; of the last day's not one could be fetched; one that
 * waits has used up half of the time in which it may be fetched. Everything is read by its index, to a bound, so that
 * it stays cheap with millions of recordings. When something last moved stands in shared memory: a piece of a
 * recording that was stored, or an attempt that came to its end.
 */
#include "postgres.h"

#include "recordinghealth.h"

#include "access/xlog.h"
#include "background.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "settings.h"
#include "shmem.h"
#include "statement.h"
#include "utils/timestamp.h"

/* Rows of one kind that are read. A text: it stands in the statement. */
#define BOUND 10000
#define BOUND_TEXT "10000"

/* So many attempts at one recording without success are more than a file that comes into place a little late. */
#define PATIENT_ATTEMPTS "3"

/* Events older than this have been found, however long a walk through all of them takes; so many are looked at. */
#define UNSEEN_SECONDS SECS_PER_HOUR
#define UNSEEN_BOUND_TEXT "100"

/*
 * $1: now; $2, $3: between which times an event that has no row should have one. Volatile functions in their place
 * would read more than that time.
 */
static KtStatement question = {
	"WITH waiting AS MATERIALIZED (SELECT r.next_attempt_at, r.received_at FROM kridtech.recordings AS r"
	"  WHERE r.state = 'waiting' ORDER BY r.next_attempt_at, r.call_id LIMIT " BOUND_TEXT "),"
	" lately AS MATERIALIZED (SELECT r.state, r.attempts, r.error, r.received_at FROM kridtech.recordings AS r"
	"  WHERE r.received_at > $1 - interval '1 day'"
	"  ORDER BY r.received_at DESC, r.call_id DESC LIMIT " BOUND_TEXT ")"
	" SELECT w.n, w.oldest, w.due, l.fetched, l.failed, l.tried,"
	" (SELECT count(*) FROM kridtech.recordings AS r WHERE r.state = 'fetching'),"
	" (SELECT e.error FROM lately AS e WHERE e.error IS NOT NULL ORDER BY e.received_at DESC LIMIT 1),"
	" (SELECT count(*) FROM (SELECT e.call_id FROM kridtech.webhook_events AS e"
	"  WHERE e.recording_url IS NOT NULL AND e.verified_by IS NOT NULL AND e.received_at BETWEEN $2 AND $3"
	"  ORDER BY e.received_at DESC, e.call_id DESC LIMIT " UNSEEN_BOUND_TEXT ") AS e"
	"  WHERE NOT EXISTS (SELECT FROM kridtech.recordings AS r WHERE r.call_id = e.call_id))"
	" FROM (SELECT count(*) AS n, min(received_at) AS oldest, min(next_attempt_at) AS due FROM waiting) AS w,"
	" (SELECT count(*) FILTER (WHERE state = 'fetched') AS fetched,"
	"   count(*) FILTER (WHERE state = 'failed') AS failed,"
	"   count(*) FILTER (WHERE state = 'waiting' AND attempts >= " PATIENT_ATTEMPTS ") AS tried"
	"   FROM lately) AS l",
	SPI_OK_SELECT,
	{TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, InvalidOid},
	NULL};

typedef struct Stock
{
	int64 waiting;
	TimestampTz oldest; /* of those that wait, by their events; 0: none waits */
	TimestampTz due;    /* when the next of them is to be tried */
	int64 fetched;      /* these three of the last day */
	int64 failed;
	int64 tried; /* waiting, after some attempts */
	int64 fetching;
	char *error;  /* the newest of the last day, or NULL */
	int64 unseen; /* events of the last day without a row */
} Stock;

/* Since when events are looked for: what is older is not fetched anew. */
static TimestampTz
reach(TimestampTz now)
{
	int64 seconds = Min(SECS_PER_DAY, kt_recording_max_age);

	if (kt_retention > 0)
		seconds = Min(seconds, kt_retention);
	return now - seconds * USECS_PER_SEC;
}

static void
read_stock(Stock *stock, TimestampTz now)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum values[] = {TimestampTzGetDatum(now), TimestampTzGetDatum(reach(now)),
	                  TimestampTzGetDatum(now - UNSEEN_SECONDS * USECS_PER_SEC)};
	KtOwner owner;
	char *error;

	kt_owner_begin(&owner);
	kt_background_prefer_indexes();
	(void) kt_statement_run(&question, values, NULL);
	stock->waiting = kt_statement_int64(0, 1);
	stock->oldest = kt_statement_int64(0, 2);
	stock->due = kt_statement_int64(0, 3);
	stock->fetched = kt_statement_int64(0, 4);
	stock->failed = kt_statement_int64(0, 5);
	stock->tried = kt_statement_int64(0, 6);
	stock->fetching = kt_statement_int64(0, 7);
	error = kt_statement_text(0, 8);
	stock->unseen = kt_statement_int64(0, 9);
	stock->error = error == NULL ? NULL : MemoryContextStrdup(caller, error);
	kt_owner_end(&owner);
}

/* Whether a dialer runs here, and when it last got on with a recording. */
static bool
read_slot(TimestampTz *moved)
{
	KtSlot *slot;
	bool running;

	LWLockAcquire(kt_shared->lock, LW_SHARED);
	slot = kt_shmem_find(MyDatabaseId, KT_DIALER);
	running = slot != NULL && slot->pid != 0;
	*moved = slot != NULL ? slot->fetch_at : 0;
	LWLockRelease(kt_shared->lock);
	return running;
}

/* Both places may be taken by downloads that send nothing worth a piece, for as long as one may take. */
static bool
is_stuck(const Stock *stock, TimestampTz moved, TimestampTz now)
{
	int64 patience_ms =
		(int64) kt_connect_timeout + (int64) kt_request_timeout + (int64) kt_recording_timeout;
	TimestampTz long_ago = now - patience_ms * 1000;

	return stock->waiting > 0 && stock->due < long_ago && moved < long_ago;
}

static bool
is_in_danger(const Stock *stock, TimestampTz now)
{
	return stock->waiting > 0 &&
	       stock->oldest < now - (int64) kt_recording_max_age * USECS_PER_SEC / 2;
}

static const char *
at_least(int64 count)
{
	return count >= BOUND ? "at least " : "";
}

static void
describe(const Stock *stock, StringInfo words)
{
	appendStringInfo(words, "%s" INT64_FORMAT " waiting", at_least(stock->waiting), stock->waiting);
	if (stock->waiting > 0)
	{
		appendStringInfo(words, " (the oldest since %s", timestamptz_to_str(stock->oldest));
		appendStringInfo(words, ", the next attempt from %s)", timestamptz_to_str(stock->due));
	}
	appendStringInfo(words, ", " INT64_FORMAT " being fetched; of the last day's", stock->fetching);
	appendStringInfo(words, " %s" INT64_FORMAT " fetched, ", at_least(stock->fetched),
	                 stock->fetched);
	appendStringInfo(words, "%s" INT64_FORMAT " failed", at_least(stock->failed), stock->failed);
	if (stock->error != NULL)
		appendStringInfo(words, "; last error: %s", stock->error);
}

/* What is wrong, or NULL. */
static const char *
find_fault(const Stock *stock, TimestampTz now)
{
	TimestampTz moved;

	if (!read_slot(&moved))
		return "no dialer runs, which fetches them: ";
	if (is_stuck(stock, moved, now))
		return "nothing is being fetched, see the row dialer and the log: ";
	if (stock->unseen > 0)
		return "events of more than an hour ago are not taken up, see the log: ";
	if (stock->fetched == 0 && stock->failed + stock->tried > 0)
		return "none of the last day's could be fetched: ";
	if (is_in_danger(stock, now))
		return "the oldest will be given up at kridtech.recording_max_age: ";
	return NULL;
}

void
kt_recording_health(KtRecordingHealth *health)
{
	TimestampTz now = GetCurrentTimestamp();
	StringInfoData detail;
	const char *fault;
	Stock stock;

	memset(health, 0, sizeof(*health));
	if (kt_shared == NULL)
	{
		health->applies = true;
		health->detail = pstrdup("kridtech was not loaded at the server's start");
		return;
	}
	if (RecoveryInProgress())
	{
		health->detail = pstrdup("this server is a standby");
		return;
	}
	read_stock(&stock, now);
	fault = find_fault(&stock, now);
	initStringInfo(&detail);
	if (fault != NULL)
		appendStringInfoString(&detail, fault);
	describe(&stock, &detail);
	health->applies = true;
	health->ok = fault == NULL;
	health->detail = detail.data;
	health->since = stock.oldest;
}
