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

#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/spi.h"
#include "extension.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* How long a statement here waits for a lock. */
#define LOCK_TIMEOUT "100ms"

/* Pieces that are removed in one unit. */
#define CLEAN_CHUNKS "4"

/* ---- statements ------------------------------------------------------------------------------------------- */

static void
begin(KtOwner *owner)
{
	kt_owner_begin(owner);
	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_SESSION,
	                         GUC_ACTION_SAVE, true, 0, false);
}

/* Runs a kept plan and returns how many rows it touched. */
static uint64
run(SPIPlanPtr *kept, const char *statement, int nargs, Oid *types, Datum *values,
    const char *nulls, int expected)
{
	int result =
		SPI_execute_plan(kt_owner_plan(kept, statement, nargs, types), values, nulls, false, 0);

	if (result != expected)
		elog(ERROR, "unexpected result of a statement on the recordings: %s",
		     SPI_result_code_string(result));
	return SPI_processed;
}

static Datum
get(int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, isnull);
}

/* A text column in that context; NULL stays NULL. */
static char *
get_text(int column, MemoryContext context)
{
	char *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

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
static const char enlist[] =
	"WITH seen AS MATERIALIZED (SELECT e.call_id, e.received_at FROM kridtech.webhook_events AS e"
	"  WHERE e.recording_url IS NOT NULL AND e.verified_by IS NOT NULL"
	"  AND (e.received_at, e.call_id) > ($1, $2) ORDER BY e.received_at, e.call_id LIMIT $3),"
	" added AS (INSERT INTO kridtech.recordings (call_id, next_attempt_at)"
	"  SELECT s.call_id, s.received_at FROM seen AS s WHERE $4 AND NOT EXISTS"
	"  (SELECT FROM kridtech.recordings AS r WHERE r.call_id = s.call_id)"
	"  ON CONFLICT (call_id) DO NOTHING)"
	" SELECT s.received_at, s.call_id, (SELECT count(*) FROM seen) FROM seen AS s"
	" ORDER BY s.received_at DESC, s.call_id DESC LIMIT 1";

int
kt_archive_enlist(KtArchiveCursor *cursor, int limit, bool insert)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {TIMESTAMPTZOID, TEXTOID, INT8OID, BOOLOID};
	MemoryContext caller = CurrentMemoryContext;
	Datum values[4];
	KtOwner owner;
	bool isnull;
	int seen = 0;

	begin(&owner);
	values[0] = TimestampTzGetDatum(cursor->received_at);
	values[1] = CStringGetTextDatum(cursor->call_id);
	values[2] = Int64GetDatum(limit);
	values[3] = BoolGetDatum(insert);
	if (run(&kept, enlist, lengthof(types), types, values, NULL, SPI_OK_SELECT) > 0)
	{
		cursor->received_at = DatumGetTimestampTz(get(1, &isnull));
		cursor->call_id = get_text(2, caller);
		seen = (int) DatumGetInt64(get(3, &isnull));
	}
	kt_owner_end(&owner);
	return seen;
}

static const char claim_next[] =
	"UPDATE kridtech.recordings AS r SET state = 'fetching', attempts = r.attempts + 1,"
	" next_attempt_at = NULL FROM (SELECT q.call_id FROM kridtech.recordings AS q"
	"  WHERE q.state = 'waiting' AND q.next_attempt_at <= clock_timestamp()"
	"  ORDER BY q.next_attempt_at, q.call_id OFFSET $1 LIMIT 1 FOR UPDATE SKIP LOCKED) AS due"
	" LEFT JOIN kridtech.webhook_events AS e ON e.call_id = due.call_id AND e.verified_by IS NOT NULL"
	" WHERE r.call_id = due.call_id RETURNING r.call_id, r.attempts, e.recording_url, e.received_at";

bool
kt_archive_claim(KtArchiveClaim *claim, int skip)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {INT8OID};
	Datum values[] = {Int64GetDatum(skip)};
	MemoryContext caller = CurrentMemoryContext;
	KtOwner owner;
	bool isnull;
	bool found;

	begin(&owner);
	found =
		run(&kept, claim_next, lengthof(types), types, values, NULL, SPI_OK_UPDATE_RETURNING) > 0;
	if (found)
	{
		claim->call_id = get_text(1, caller);
		claim->attempts = DatumGetInt32(get(2, &isnull));
		claim->url = get_text(3, caller);
		claim->received_at = DatumGetTimestampTz(get(4, &isnull));
	}
	kt_owner_end(&owner);
	return found;
}

static const char recover[] =
	"UPDATE kridtech.recordings AS r SET state = 'waiting', next_attempt_at = clock_timestamp(),"
	" error = 'the dialer ended before the recording was whole' WHERE r.state = 'fetching'";

void
kt_archive_recover(void)
{
	static SPIPlanPtr kept = NULL;
	KtOwner owner;

	begin(&owner);
	(void) run(&kept, recover, 0, NULL, NULL, NULL, SPI_OK_UPDATE);
	kt_owner_end(&owner);
}

/* ---- under a claim ---------------------------------------------------------------------------------------- */

/* Runs a statement whose first two parameters are the claim. True when it touched a row. */
static bool
run_under(const KtArchiveClaim *claim, SPIPlanPtr *kept, const char *statement, int nargs,
          Datum *values, int expected)
{
	Oid types[] = {TEXTOID, INT4OID, INT8OID, TEXTOID, BYTEAOID};
	char nulls[] = {' ', ' ', ' ', ' ', ' '};
	KtOwner owner;
	bool touched;
	int i;

	begin(&owner);
	values[0] = CStringGetTextDatum(claim->call_id);
	values[1] = Int32GetDatum(claim->attempts);
	for (i = 3; i < nargs; i++)
		nulls[i] = values[i] == 0 ? 'n' : ' ';
	touched = run(kept, statement, nargs, types, values, nulls, expected) > 0;
	kt_owner_end(&owner);
	return touched;
}

static const char clean[] =
	"DELETE FROM kridtech.recording_chunks AS c WHERE c.call_id = $1 AND c.seq IN"
	" (SELECT p.seq FROM kridtech.recording_chunks AS p WHERE p.call_id = $1"
	"  ORDER BY p.seq LIMIT " CLEAN_CHUNKS ") AND EXISTS (SELECT FROM kridtech.recordings AS r"
	" WHERE r.call_id = $1 AND r.state = 'fetching' AND r.attempts = $2)";

bool
kt_archive_clean(const KtArchiveClaim *claim)
{
	static SPIPlanPtr kept = NULL;
	Datum values[2];

	return run_under(claim, &kept, clean, lengthof(values), values, SPI_OK_DELETE);
}

static const char append[] =
	"INSERT INTO kridtech.recording_chunks (call_id, seq, data) SELECT r.call_id, $3, $5"
	" FROM kridtech.recordings AS r"
	" WHERE r.call_id = $1 AND r.state = 'fetching' AND r.attempts = $2";

bool
kt_archive_append(const KtArchiveClaim *claim, int seq, const char *data, size_t len)
{
	static SPIPlanPtr kept = NULL;
	Datum values[5] = {0};

	values[2] = Int64GetDatum(seq);
	values[4] = bytes_datum(data, len);
	return run_under(claim, &kept, append, lengthof(values), values, SPI_OK_INSERT);
}

static const char complete[] =
	"UPDATE kridtech.recordings AS r SET state = 'fetched', bytes = $3, content_type = $4,"
	" sha256 = $5, fetched_at = clock_timestamp(), error = NULL"
	" WHERE r.call_id = $1 AND r.state = 'fetching' AND r.attempts = $2";

bool
kt_archive_complete(const KtArchiveClaim *claim, const char *content_type, int64 bytes,
                    const uint8 *sha256)
{
	static SPIPlanPtr kept = NULL;
	Datum values[5];

	values[2] = Int64GetDatum(bytes);
	values[3] = content_type[0] != '\0' ? CStringGetTextDatum(content_type) : (Datum) 0;
	values[4] = bytes_datum(sha256, KT_SHA256_SIZE);
	return run_under(claim, &kept, complete, lengthof(values), values, SPI_OK_UPDATE);
}

/* $3: the delay in microseconds, negative for ever. */
static const char put_back[] =
	"UPDATE kridtech.recordings AS r SET state = CASE WHEN $3 < 0 THEN 'failed' ELSE 'waiting' END,"
	" next_attempt_at = CASE WHEN $3 >= 0 THEN clock_timestamp() + $3 * interval '1 microsecond' END,"
	" error = $4 WHERE r.call_id = $1 AND r.state = 'fetching' AND r.attempts = $2";

bool
kt_archive_put_back(const KtArchiveClaim *claim, const char *error, int64 delay)
{
	static SPIPlanPtr kept = NULL;
	Datum values[4];

	values[2] = Int64GetDatum(delay);
	values[3] = CStringGetTextDatum(error);
	return run_under(claim, &kept, put_back, lengthof(values), values, SPI_OK_UPDATE);
}
