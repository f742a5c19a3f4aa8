/*
 * kridtech.calls: the local mirror of GET /api/calls. The only file that writes it, but for what retention.c
 * removes.
 *
 * The API forgets: it lists the 100 newest calls. What it has said of a call stays here, and a later answer
 * only adds to it: a field that is missing then does not erase what was known, and a row that is older than
 * what is known (it says "ongoing" of a call that was completed) changes nothing but what was unknown. So
 * lists may be stored in any order, and by two processes at once.
 */
#include "postgres.h"

#include "mirror.h"

#include "background.h"
#include "catalog/pg_type.h"
#include "convert.h"
#include "settings.h"
#include "statement.h"
#include "utils/builtins.h"

/* What of a list's row goes into a column of the statement. */
#define NFIELDS 9

const char *const kt_list_statuses[KT_LIST_STATUSES] = {"ongoing", "completed", "failed"};

bool
kt_mirror_is_whole(const KtApiAnswer *list)
{
	int64 total;

	return list->ncalls < KT_LIST_LIMIT && kt_convert_count(list->total, &total) &&
	       total == list->ncalls;
}

KtMirrorCall *
kt_mirror_convert(const KtListedCall *listed, int n)
{
	KtMirrorCall *calls = palloc0(Max(n, 1) * sizeof(KtMirrorCall));
	int i;

	for (i = 0; i < n; i++)
	{
		int32 duration;
		Datum cost;

		calls[i].call_id = kt_convert_to_server(listed[i].call_id);
		calls[i].account_id = kt_convert_to_server(listed[i].account_id);
		calls[i].direction = kt_convert_to_server(listed[i].direction);
		calls[i].to_number = kt_convert_to_server(listed[i].to_number);
		calls[i].call_status = kt_convert_to_server(listed[i].call_status);
		calls[i].first_name = kt_convert_to_server(listed[i].first_name);
		if (kt_convert_int32(listed[i].duration, &duration))
			calls[i].duration = psprintf("%d", duration);
		if (kt_convert_numeric(listed[i].cost, &cost))
			calls[i].cost = listed[i].cost;
		if (!kt_convert_timestamptz(listed[i].created_at, &calls[i].created_at))
			calls[i].created_at = 0;
	}
	return calls;
}

/* ---- parameters ---------------------------------------------------------------------------------------- */

static const char *
field_of(const KtMirrorCall *call, int field)
{
	switch (field)
	{
		case 0:
			return call->call_id;
		case 1:
			return call->account_id;
		case 2:
			return call->direction;
		case 3:
			return call->to_number;
		case 4:
			return call->call_status;
		case 5:
			return call->duration;
		case 6:
			return call->cost;
		case 7:
			return call->created_at != 0 ? pstrdup(timestamptz_to_str(call->created_at)) : NULL;
		case 8:
			return call->first_name;
	}
	return NULL;
}

/* One field, as text, of the rows that have a callId. */
static Datum
column_of(const KtMirrorCall *calls, int n, int field)
{
	KtParameter *values = palloc(Max(n, 1) * sizeof(KtParameter));
	int count = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		const char *text = calls[i].call_id != NULL ? field_of(&calls[i], field) : NULL;

		if (calls[i].call_id == NULL)
			continue;
		values[count].value = text != NULL ? CStringGetTextDatum(text) : (Datum) 0;
		values[count++].isnull = text == NULL;
	}
	return kt_statement_array(TEXTOID, values, count);
}

/* ---- storing ------------------------------------------------------------------------------------------- */

/* clang-format off */

/* A listed row is older than what is known: a call does not go back to ringing. */
#define STALE(known, listed) \
	"(" known ".call_status IN ('completed', 'failed') AND " listed ".call_status IN ('registered', 'ongoing')" \
	" OR " known ".call_status = 'ongoing' AND " listed ".call_status = 'registered')"
#define MERGED(known, listed, column) \
	"CASE WHEN " STALE(known, listed) " THEN coalesce(" known "." column ", " listed "." column ")" \
	" ELSE coalesce(" listed "." column ", " known "." column ") END"
#define ALL_MERGED(known, listed) \
	"(" MERGED(known, listed, "account_id") ", " MERGED(known, listed, "direction") ", " \
	MERGED(known, listed, "to_number") ", " MERGED(known, listed, "call_status") ", " \
	MERGED(known, listed, "duration") ", " MERGED(known, listed, "cost") ", " \
	MERGED(known, listed, "created_at") ", " MERGED(known, listed, "first_name") ")"
#define ALL_OF(row) \
	"(" row ".account_id, " row ".direction, " row ".to_number, " row ".call_status, " row ".duration, " \
	row ".cost, " row ".created_at, " row ".first_name)"

/* clang-format on */

#define HAS_NEWS ALL_MERGED("c", "l") " IS DISTINCT FROM " ALL_OF("c")
#define MERGED_ROW ALL_MERGED("t", "excluded")
#define STILL_HAS_NEWS ALL_MERGED("t", "excluded") " IS DISTINCT FROM " ALL_OF("t")

/*
 * What is there already is compared before anything is locked; ON CONFLICT is for another process that stores
 * the same call at the same moment, and merges again with what that one wrote. In the order of callIds, so
 * that two of them do not wait for each other crosswise. A call that is listed twice counts once, in its
 * furthest state. What kridtech.retention has removed, and the API still lists, does not come back; unless its event
 * has come since, which is verified by this list and goes again with the row.
 */
static KtStatement store_calls = {
	"WITH listed AS MATERIALIZED (SELECT DISTINCT ON (v.call_id) v.call_id, v.account_id, v.direction,"
	" v.to_number, v.call_status, v.duration::integer, v.cost::numeric, v.created_at::timestamptz,"
	" v.first_name FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) WITH ORDINALITY"
	" AS v (call_id, account_id, direction, to_number, call_status, duration, cost, created_at,"
	" first_name, n) ORDER BY v.call_id, coalesce(v.call_status IN ('completed', 'failed'), false) DESC,"
	" v.n)"
	" INSERT INTO kridtech.calls AS t (call_id, account_id, direction, to_number, call_status, duration,"
	" cost, created_at, first_name, synced_at) SELECT l.*, clock_timestamp()"
	" FROM listed AS l LEFT JOIN kridtech.calls AS c ON c.call_id = l.call_id"
	" WHERE c.call_id IS NULL AND ((l.created_at >= $10) IS NOT FALSE OR EXISTS"
	" (SELECT FROM kridtech.webhook_events AS e WHERE e.call_id = l.call_id))"
	" OR c.call_id IS NOT NULL AND " HAS_NEWS " ORDER BY l.call_id"
	" ON CONFLICT (call_id) DO UPDATE SET (account_id, direction, to_number, call_status, duration,"
	" cost, created_at, first_name) = ROW " MERGED_ROW ", synced_at = excluded.synced_at"
	" WHERE " STILL_HAS_NEWS " RETURNING t.xmax = 0",
	SPI_OK_INSERT_RETURNING,
	{TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
     TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID},
	NULL};

int
kt_mirror_store(const KtMirrorCall *calls, int n, int *added)
{
	TimestampTz oldest = DT_NOBEGIN;
	Datum values[NFIELDS + 1];
	int changed;
	int field;
	int i;

	if (kt_retention > 0)
		oldest = GetCurrentTimestamp() - (int64) kt_retention * USECS_PER_SEC;
	for (field = 0; field < NFIELDS; field++)
		values[field] = column_of(calls, n, field);
	values[NFIELDS] = TimestampTzGetDatum(oldest);
	kt_background_prefer_indexes();
	changed = (int) kt_statement_run(&store_calls, values, NULL);
	*added = 0;
	for (i = 0; i < changed; i++)
	{
		bool isnull;

		*added += DatumGetBool(kt_statement_datum(i, 1, &isnull));
	}
	return changed;
}

/* ---- asking -------------------------------------------------------------------------------------------- */

static KtStatement any_call = {
	"SELECT FROM (SELECT q.account_id FROM kridtech.calls AS q WHERE q.created_at IS NOT NULL"
	" ORDER BY q.created_at DESC LIMIT 1000) AS c WHERE c.account_id = $1 LIMIT 1",
	SPI_OK_SELECT,
	{TEXTOID},
	NULL};

bool
kt_mirror_knows(const char *account_id)
{
	Datum values[] = {CStringGetTextDatum(account_id)};

	kt_background_prefer_indexes();
	return kt_statement_run(&any_call, values, NULL) > 0;
}

/* The mirror holds nothing but what the API has listed; an event may come after the list that named its call. */
static KtStatement late_events = {
	"SELECT u.call_id FROM (SELECT e.call_id FROM kridtech.webhook_events AS e"
	" WHERE e.verified_by IS NULL ORDER BY e.received_at DESC LIMIT $1) AS u"
	" JOIN kridtech.calls AS c ON c.call_id = u.call_id",
	SPI_OK_SELECT,
	{INT8OID},
	NULL};

int
kt_mirror_late_events(char **call_ids, int max)
{
	Datum values[] = {Int64GetDatum(max)};
	int n;
	int i;

	kt_background_prefer_indexes();
	n = (int) kt_statement_run(&late_events, values, NULL);
	for (i = 0; i < n; i++)
		call_ids[i] = kt_statement_present(i, 1);
	return n;
}
