/*
 * The sweeps' statements: requests that move because of what an earlier run left, or of the clock, without
 * anything being sent. Each is one bounded UPDATE that passes over what another transaction has locked, so it
 * waits for nobody; what the dialer does with them is sweep.c's.
 *
 * None can lead to a second ring: what was 'placing' under an earlier epoch becomes 'unknown', never 'queued',
 * and its attempt stays live.
 */
#include "postgres.h"

#include "queuesweep.h"

#include "catalog/pg_type.h"
#include "queue.h"
#include "statement.h"

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

/* In the sweeps the clock stands in a subquery: read once, so that it can bound what is read of an index. */
static KtStatement look = {
	"SELECT EXISTS (SELECT FROM kridtech.call_requests AS q WHERE q.state = 'placing'"
	" AND NOT EXISTS (SELECT FROM kridtech.call_attempts AS a WHERE a.request_id = q.id AND a.live"
	" AND a.epoch >= $1))"
	" OR EXISTS (SELECT FROM kridtech.call_requests AS q WHERE q.state = 'queued'"
	" AND q.not_after <= (SELECT clock_timestamp()))"
	" OR EXISTS (SELECT FROM kridtech.call_requests AS q WHERE q.state = 'queued'"
	" AND q.next_attempt_at <= (SELECT clock_timestamp())),"
	" (SELECT q.next_attempt_at FROM kridtech.call_requests AS q WHERE q.state = 'queued'"
	" AND q.next_attempt_at > (SELECT clock_timestamp()) ORDER BY q.next_attempt_at LIMIT 1)",
	SPI_OK_SELECT,
	{INT8OID},
	NULL,
};

bool
kt_queue_look(int64 epoch, TimestampTz *next_due)
{
	Datum values[] = {Int64GetDatum(epoch)};
	bool isnull;
	Datum due;

	kt_statement_run(&look, values, NULL);
	due = kt_statement_datum(0, 2, &isnull);
	*next_due = isnull ? 0 : DatumGetTimestampTz(due);
	return DatumGetBool(kt_statement_datum(0, 1, &isnull));
}

/* What this run has in the air has an attempt of its epoch. */
static KtStatement recover_requests = {
	"UPDATE kridtech.call_requests AS r SET state = 'unknown', finished_at = clock_timestamp(),"
	" error = 'the dialer ended before it knew the outcome'"
	" WHERE r.id IN (SELECT q.id FROM kridtech.call_requests AS q WHERE q.state = 'placing'"
	" AND NOT EXISTS (SELECT FROM kridtech.call_attempts AS a WHERE a.request_id = q.id AND a.live"
	" AND a.epoch >= $3) ORDER BY q.id OFFSET $1 LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING r.id",
	SPI_OK_UPDATE_RETURNING,
	{INT8OID, INT8OID, INT8OID},
	NULL,
};

static KtStatement recover_attempts = {
	"UPDATE kridtech.call_attempts AS a SET finished_at = clock_timestamp(), outcome = 'unknown',"
	" detail = 'the dialer ended before it knew the outcome' FROM unnest($1) AS v (id)"
	" WHERE a.request_id = v.id AND a.live AND a.finished_at IS NULL AND a.epoch < $2",
	SPI_OK_UPDATE,
	{INT8ARRAYOID, INT8OID},
	NULL,
};

int
kt_queue_recover(int64 epoch, int offset, int limit)
{
	Datum *window = window_values(offset, limit);
	Datum values[2];
	int64 *ids;
	int n;

	window[2] = Int64GetDatum(epoch);
	n = (int) kt_statement_run(&recover_requests, window, NULL);
	if (n == 0)
		return 0;
	ids = kt_statement_ids();
	values[0] = kt_statement_int8s(ids, n);
	values[1] = Int64GetDatum(epoch);
	kt_statement_run(&recover_attempts, values, NULL);
	kt_queue_notify(ids, n);
	return n;
}

static KtStatement expire_requests = {
	"UPDATE kridtech.call_requests AS r SET state = 'expired', finished_at = clock_timestamp(),"
	" error = 'its time (not_after) was over before it could be placed'"
	" WHERE r.id IN (SELECT q.id FROM kridtech.call_requests AS q WHERE q.state = 'queued'"
	" AND q.not_after <= (SELECT clock_timestamp()) ORDER BY q.not_after, q.id OFFSET $1 LIMIT $2"
	" FOR UPDATE SKIP LOCKED) RETURNING r.id",
	SPI_OK_UPDATE_RETURNING,
	{INT8OID, INT8OID},
	NULL,
};

int
kt_queue_expire(int offset, int limit)
{
	int n = (int) kt_statement_run(&expire_requests, window_values(offset, limit), NULL);

	kt_queue_notify(kt_statement_ids(), n);
	return n;
}

static KtStatement promote_requests = {
	"UPDATE kridtech.call_requests AS r SET next_attempt_at = NULL"
	" WHERE r.id IN (SELECT q.id FROM kridtech.call_requests AS q WHERE q.state = 'queued'"
	" AND q.next_attempt_at <= (SELECT clock_timestamp()) ORDER BY q.next_attempt_at, q.id"
	" OFFSET $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
	SPI_OK_UPDATE,
	{INT8OID, INT8OID},
	NULL,
};

int
kt_queue_promote(int offset, int limit)
{
	return (int) kt_statement_run(&promote_requests, window_values(offset, limit), NULL);
}
