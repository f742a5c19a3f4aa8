/*
 * kridtech.recordings and kridtech.recording_chunks: the only file that writes them.
 *
 * Why a recording that says 'fetched' is whole: its pieces are added only while it is being fetched, each under the
 * claim of one attempt; an attempt begins by removing what an earlier one left; and the state, the length and the
 * hash are written by the transaction that adds the last piece. The pieces before need not be flushed on their
 * own: the WAL has them before that commit.
 *
 * A claim is the row's state 'fetching' together with its count of attempts. Whoever deletes the row or sets it
 * back ends the claim, and nothing is written under it any more.
 */
#include "postgres.h"

#include "archive.h"

#include "background.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "statement.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Pieces that are removed in one unit: a megabyte. */
#define CLEAN_CHUNKS "4"

/* ---- statements ------------------------------------------------------------------------------------------- */

/* A text column of the row that came back, in that context; NULL stays NULL. */
static char *
get_text(int column, MemoryContext context)
{
	char *value = kt_statement_text(0, column);

	return value == NULL ? NULL : MemoryContextStrdup(context, value);
}

static Datum
bytes_datum(const void *data, size_t len)
{
	bytea *value = palloc(VARHDRSZ + len);

	SET_VARSIZE(value, VARHDRSZ + len);
	memcpy(VARDATA(value), data, len);
	return PointerGetDatum(value);
}

/* ---- what there is to fetch ------------------------------------------------------------------------------- */

/* $4: whether to add them. next_attempt_at is the event's time: the oldest is claimed first. */
static KtStatement enlist = {
	"WITH seen AS MATERIALIZED (SELECT e.call_id, e.received_at FROM kridtech.webhook_events AS e"
	"  WHERE e.recording_url IS NOT NULL AND e.verified_by IS NOT NULL"
	"  AND (e.received_at, e.call_id) > ($1, $2) ORDER BY e.received_at, e.call_id LIMIT $3),"
	" added AS (INSERT INTO kridtech.recordings (call_id, next_attempt_at, received_at)"
	"  SELECT s.call_id, s.received_at, s.received_at FROM seen AS s WHERE $4 AND NOT EXISTS"
	"  (SELECT FROM kridtech.recordings AS r WHERE r.call_id = s.call_id)"
	"  ON CONFLICT (call_id) DO NOTHING)"
	" SELECT s.received_at, coalesce(s.call_id, ''), (SELECT count(*) FROM seen) FROM seen AS s"
	" ORDER BY s.received_at DESC, s.call_id DESC LIMIT 1",
	SPI_OK_SELECT,
	{TIMESTAMPTZOID, TEXTOID, INT8OID, BOOLOID, InvalidOid},
	NULL};

int
kt_archive_enlist(KtArchiveCursor *cursor, int limit, bool insert)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum values[4];
	KtOwner owner;
	bool isnull;
	int seen = 0;

	kt_background_begin(&owner);
	values[0] = TimestampTzGetDatum(cursor->at);
	values[1] = CStringGetTextDatum(cursor->call_id);
	values[2] = Int64GetDatum(limit);
	values[3] = BoolGetDatum(insert);
	if (kt_statement_run(&enlist, values, NULL) > 0)
	{
		cursor->at = DatumGetTimestampTz(kt_statement_datum(0, 1, &isnull));
		cursor->call_id = get_text(2, caller);
		seen = (int) kt_statement_int64(0, 3);
	}
	kt_owner_end(&owner);
	return seen;
}

/* $1: now. A volatile function in its place would make it read all that waits, however long it still has to. */
static KtStatement next_due = {
	"SELECT q.next_attempt_at, q.call_id FROM kridtech.recordings AS q WHERE q.state = 'waiting'"
	" AND q.next_attempt_at <= $1 AND (q.next_attempt_at, q.call_id) > ($2, $3)"
	" ORDER BY q.next_attempt_at, q.call_id LIMIT 1 FOR UPDATE SKIP LOCKED",
	SPI_OK_SELECT,
	{TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, InvalidOid},
	NULL};

static KtStatement claim_it = {
	"UPDATE kridtech.recordings AS r SET state = 'fetching', attempts = r.attempts + 1,"
	" next_attempt_at = NULL WHERE r.call_id = $1 RETURNING r.attempts,"
	" (SELECT e.recording_url FROM kridtech.webhook_events AS e WHERE e.call_id = r.call_id"
	" AND e.verified_by IS NOT NULL), r.received_at",
	SPI_OK_UPDATE_RETURNING,
	{TEXTOID, InvalidOid},
	NULL};

/* Moves the cursor to the row that came back: its time and its call_id. */
static Datum
move_to_row(KtArchiveCursor *cursor, MemoryContext caller)
{
	cursor->at = kt_statement_int64(0, 1);
	cursor->call_id = MemoryContextStrdup(caller, kt_statement_present(0, 2));
	return CStringGetTextDatum(cursor->call_id);
}

KtArchiveFound
kt_archive_claim(KtArchiveClaim *claim, KtArchiveCursor *cursor)
{
	Datum behind[] = {TimestampTzGetDatum(GetCurrentTimestamp()), TimestampTzGetDatum(cursor->at),
	                  CStringGetTextDatum(cursor->call_id)};
	MemoryContext caller = CurrentMemoryContext;
	KtArchiveFound found = KT_ARCHIVE_NOTHING;
	KtOwner owner;
	bool isnull;

	kt_background_begin(&owner);
	if (kt_statement_run(&next_due, behind, NULL) > 0)
	{
		Datum call_id[] = {move_to_row(cursor, caller)};

		found = KT_ARCHIVE_HELD;
		if (kt_statement_run(&claim_it, call_id, NULL) > 0)
		{
			found = KT_ARCHIVE_DONE;
			claim->call_id = MemoryContextStrdup(caller, cursor->call_id);
			claim->attempts = DatumGetInt32(kt_statement_datum(0, 1, &isnull));
			claim->url = get_text(2, caller);
			claim->received_at = kt_statement_int64(0, 3);
		}
	}
	kt_owner_end(&owner);
	return found;
}

static KtStatement recover = {
	"UPDATE kridtech.recordings AS r SET state = 'waiting', next_attempt_at = clock_timestamp(),"
	" error = 'the dialer ended before the recording was whole' WHERE r.state = 'fetching'",
	SPI_OK_UPDATE,
	{InvalidOid},
	NULL};

void
kt_archive_recover(void)
{
	KtOwner owner;

	kt_background_begin(&owner);
	(void) kt_statement_run(&recover, NULL, NULL);
	kt_owner_end(&owner);
}

/* ---- under a claim ---------------------------------------------------------------------------------------- */

/* Runs a statement whose first two parameters are the claim. True when it touched a row. */
static bool
run_under(const KtArchiveClaim *claim, KtStatement *statement, Datum *values)
{
	KtOwner owner;
	bool touched;

	kt_background_begin(&owner);
	values[0] = CStringGetTextDatum(claim->call_id);
	values[1] = Int32GetDatum(claim->attempts);
	touched = kt_statement_run(statement, values, NULL) > 0;
	kt_owner_end(&owner);
	return touched;
}

static KtStatement clean = {
	"DELETE FROM kridtech.recording_chunks AS c WHERE c.call_id = $1 AND c.seq IN"
	" (SELECT p.seq FROM kridtech.recording_chunks AS p WHERE p.call_id = $1"
	"  ORDER BY p.seq LIMIT " CLEAN_CHUNKS ") AND EXISTS (SELECT FROM kridtech.recordings AS r"
	" WHERE r.call_id = $1 AND r.state = 'fetching' AND r.attempts = $2)",
	SPI_OK_DELETE,
	{TEXTOID, INT4OID, InvalidOid},
	NULL};

bool
kt_archive_clean(const KtArchiveClaim *claim)
{
	Datum values[2];

	return run_under(claim, &clean, values);
}

/* The lock does what a foreign key's check would: no piece outlives a recording that is deleted meanwhile. */
static KtStatement append = {
	"INSERT INTO kridtech.recording_chunks (call_id, seq, data) SELECT r.call_id, $3, $4"
	" FROM kridtech.recordings AS r"
	" WHERE r.call_id = $1 AND r.state = 'fetching' AND r.attempts = $2 FOR KEY SHARE",
	SPI_OK_INSERT,
	{TEXTOID, INT4OID, INT4OID, BYTEAOID, InvalidOid},
	NULL};

bool
kt_archive_append(const KtArchiveClaim *claim, int seq, const char *data, size_t len)
{
	Datum values[4];

	values[2] = Int32GetDatum(seq);
	values[3] = bytes_datum(data, len);
	return run_under(claim, &append, values);
}

static KtStatement complete = {
	"UPDATE kridtech.recordings AS r SET state = 'fetched', bytes = $3, content_type = nullif($4, ''),"
	" sha256 = $5, fetched_at = clock_timestamp(), error = NULL"
	" WHERE r.call_id = $1 AND r.state = 'fetching' AND r.attempts = $2",
	SPI_OK_UPDATE,
	{TEXTOID, INT4OID, INT8OID, TEXTOID, BYTEAOID, InvalidOid},
	NULL};

bool
kt_archive_complete(const KtArchiveClaim *claim, const char *content_type, int64 bytes,
                    const uint8 *sha256)
{
	Datum values[5];

	values[2] = Int64GetDatum(bytes);
	values[3] = CStringGetTextDatum(content_type);
	values[4] = bytes_datum(sha256, KT_SHA256_SIZE);
	return run_under(claim, &complete, values);
}

/* $3: the delay in microseconds, negative for ever. */
static KtStatement put_back = {
	"UPDATE kridtech.recordings AS r SET state = CASE WHEN $3 < 0 THEN 'failed' ELSE 'waiting' END,"
	" next_attempt_at = CASE WHEN $3 >= 0 THEN clock_timestamp() + $3 * interval '1 microsecond' END,"
	" error = $4 WHERE r.call_id = $1 AND r.state = 'fetching' AND r.attempts = $2",
	SPI_OK_UPDATE,
	{TEXTOID, INT4OID, INT8OID, TEXTOID, InvalidOid},
	NULL};

bool
kt_archive_put_back(const KtArchiveClaim *claim, const char *error, int64 delay)
{
	Datum values[4];

	values[2] = Int64GetDatum(delay);
	values[3] = CStringGetTextDatum(error);
	return run_under(claim, &put_back, values);
}

/* ---- retention -------------------------------------------------------------------------------------------- */

static KtStatement oldest = {
	"SELECT r.received_at, r.call_id, r.state = 'failed' FROM kridtech.recordings AS r"
	" WHERE r.received_at < $1 AND (r.received_at, r.call_id) > ($2, $3)"
	" AND (r.state <> 'fetching' OR NOT $4) ORDER BY r.received_at, r.call_id LIMIT 1"
	" FOR UPDATE SKIP LOCKED",
	SPI_OK_SELECT,
	{TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, BOOLOID, InvalidOid},
	NULL};

static KtStatement condemn = {
	"UPDATE kridtech.recordings AS r SET state = 'failed', error = 'removed after kridtech.retention',"
	" next_attempt_at = NULL, content_type = NULL, bytes = NULL, sha256 = NULL, fetched_at = NULL"
	" WHERE r.call_id = $1",
	SPI_OK_UPDATE,
	{TEXTOID, InvalidOid},
	NULL};

static KtStatement remove_chunks = {
	"DELETE FROM kridtech.recording_chunks AS c WHERE c.call_id = $1 AND c.seq IN"
	" (SELECT p.seq FROM kridtech.recording_chunks AS p WHERE p.call_id = $1"
	"  ORDER BY p.seq LIMIT " CLEAN_CHUNKS ")",
	SPI_OK_DELETE,
	{TEXTOID, InvalidOid},
	NULL};

/* Pieces that a trigger keeps keep their row, or nothing would lead to them any more. */
static KtStatement remove_row = {
	"DELETE FROM kridtech.recordings AS r WHERE r.call_id = $1"
	" AND NOT EXISTS (SELECT FROM kridtech.recording_chunks AS c WHERE c.call_id = $1)",
	SPI_OK_DELETE,
	{TEXTOID, InvalidOid},
	NULL};

/* True when a part went. No piece goes of a recording that says it is whole: where it does not cease to, all stays. */
static bool
remove_part(Datum *call_id, bool condemned, bool *row)
{
	if (!condemned && kt_statement_run(&condemn, call_id, NULL) == 0)
		return false;
	if (kt_statement_run(&remove_chunks, call_id, NULL) > 0)
		return true;
	*row = kt_statement_run(&remove_row, call_id, NULL) > 0;
	return *row;
}

KtArchiveFound
kt_archive_retire(TimestampTz cutoff, KtArchiveCursor *cursor, bool fetching, bool *row)
{
	Datum which[] = {TimestampTzGetDatum(cutoff), TimestampTzGetDatum(cursor->at),
	                 CStringGetTextDatum(cursor->call_id), BoolGetDatum(fetching)};
	MemoryContext caller = CurrentMemoryContext;
	KtArchiveFound found = KT_ARCHIVE_NOTHING;
	KtOwner owner;

	*row = false;
	kt_background_begin(&owner);
	if (kt_statement_run(&oldest, which, NULL) > 0)
	{
		bool isnull;
		bool condemned = DatumGetBool(kt_statement_datum(0, 3, &isnull));
		Datum call_id[] = {move_to_row(cursor, caller)};

		found = remove_part(call_id, condemned, row) ? KT_ARCHIVE_DONE : KT_ARCHIVE_HELD;
	}
	kt_owner_end(&owner);
	return found;
}
