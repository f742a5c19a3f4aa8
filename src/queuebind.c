/*
 * What later evidence says of requests whose outcome was unknown: which call each has become, or what the API's
 * list says meanwhile. Who found the evidence, and why it is one, is listing.c's and verify.c's.
 *
 * A request is locked and looked at again by the statement that moves it, so evidence that comes twice, or beside
 * a human's decision, moves it once. It leads to 'placed' and nowhere else.
 */
#include "postgres.h"

#include "queuebind.h"

#include "catalog/pg_type.h"
#include "queue.h"
#include "statement.h"
#include "utils/builtins.h"

/* A race for the callId ends at the unique index. */
static KtStatement bind_requests = {
	"WITH free AS MATERIALIZED (SELECT v.id, v.call_id FROM unnest($1, $2) AS v (id, call_id)"
	" CROSS JOIN LATERAL (SELECT q.state, q.call_id FROM kridtech.call_requests AS q"
	" WHERE q.id = v.id LIMIT 1 FOR UPDATE SKIP LOCKED) AS q"
	" WHERE q.state IN ('unknown', 'placed') AND q.call_id IS NULL"
	" AND NOT EXISTS (SELECT FROM kridtech.call_requests AS o WHERE o.call_id = v.call_id))"
	" UPDATE kridtech.call_requests AS r SET state = 'placed', call_id = free.call_id,"
	" error = CASE r.state WHEN 'unknown' THEN $3 ELSE r.error END,"
	" finished_at = CASE r.state WHEN 'unknown' THEN clock_timestamp() ELSE r.finished_at END"
	" FROM free WHERE r.id = free.id RETURNING r.id",
	SPI_OK_UPDATE_RETURNING,
	{INT8ARRAYOID, TEXTARRAYOID, TEXTOID},
	NULL,
};

static KtStatement bind_attempts = {
	"UPDATE kridtech.call_attempts AS a SET call_id = r.call_id,"
	" detail = concat_ws('; ', a.detail, $2), finished_at = coalesce(a.finished_at, clock_timestamp())"
	" FROM unnest($1) AS v (id) JOIN kridtech.call_requests AS r ON r.id = v.id"
	" WHERE a.request_id = v.id AND a.live",
	SPI_OK_UPDATE,
	{INT8ARRAYOID, TEXTOID},
	NULL,
};

int
kt_queue_bind(const int64 *ids, const char **call_ids, int n, const char *how)
{
	Datum values[3];
	int64 *bound;

	values[0] = kt_statement_int8s(ids, n);
	values[1] = kt_statement_texts(call_ids, n);
	values[2] = CStringGetTextDatum(how);
	n = (int) kt_statement_run(&bind_requests, values, NULL);
	if (n == 0)
		return 0;
	bound = kt_statement_ids();
	values[0] = kt_statement_int8s(bound, n);
	values[1] = CStringGetTextDatum(how);
	kt_statement_run(&bind_attempts, values, NULL);
	kt_queue_notify(bound, n);
	return n;
}

/* The newest word replaces the one before; what else is known stays. */
static KtStatement note_attempt = {
	"UPDATE kridtech.call_attempts AS a SET detail = n.detail FROM (SELECT q.id, concat_ws('; ',"
	" nullif(regexp_replace(q.detail, '(^|; )list: .*$', ''), ''), 'list: ' || $2) AS detail"
	" FROM kridtech.call_attempts AS q WHERE q.id = $1 FOR UPDATE SKIP LOCKED) AS n"
	" WHERE a.id = n.id AND a.detail IS DISTINCT FROM n.detail",
	SPI_OK_UPDATE,
	{INT8OID, TEXTOID},
	NULL,
};

void
kt_queue_note(int64 attempt, const char *note)
{
	Datum values[] = {Int64GetDatum(attempt), CStringGetTextDatum(note)};

	kt_statement_run(&note_attempt, values, NULL);
}
