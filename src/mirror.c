/*
 * kridtech.calls: the local mirror of GET /api/calls. The only file that writes it.
 *
 * The API forgets: it lists the 100 newest calls. What it has said of a call stays here, and a later answer
 * only adds to it: a field that is missing then does not erase what was known, and a row that is older than
 * what is known (it says "ongoing" of a call that was completed) changes nothing but what was unknown. So
 * lists may be stored in any order, and by two processes at once.
 */
#include "postgres.h"

#include "mirror.h"

#include "catalog/pg_type.h"
#include "convert.h"
#include "extension.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"

/* What of a list's row goes into a column of the statement. */
#define NFIELDS 9

const char *const kt_list_statuses[KT_LIST_STATUSES] = {"ongoing", "completed", "failed"};

bool
kt_mirror_is_whole(const KtApiAnswer *list)
{
	int64 total;

	return list->ncalls < KT_LIST_LIMIT &&
	       (!kt_convert_int64(list->total, &total) || total <= list->ncalls);
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

/* An array of texts; of nothing but NULLs the empty one, which unnest() fills up with NULLs. */
static Datum
text_array(const char *const *values, int n)
{
	Datum *datums = palloc(Max(n, 1) * sizeof(Datum));
	bool *nulls = palloc(Max(n, 1) * sizeof(bool));
	int lower = 1;
	int given = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		nulls[i] = values[i] == NULL;
		given += !nulls[i];
		datums[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(values[i]);
	}
	if (given == 0)
		return PointerGetDatum(construct_empty_array(TEXTOID));
	return PointerGetDatum(
		construct_md_array(datums, nulls, 1, &n, &lower, TEXTOID, -1, false, TYPALIGN_INT));
}

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

/* One field of the rows that have a callId. */
static Datum
column_of(const KtMirrorCall *calls, int n, int field)
{
	const char **values = palloc(Max(n, 1) * sizeof(char *));
	int count = 0;
	int i;

	for (i = 0; i < n; i++)
		if (calls[i].call_id != NULL)
			values[count++] = field_of(&calls[i], field);
	return text_array(values, count);
}

/*
 * Statements here meet a table of any size by its indexes. A plan that was made while the table was small, or
 * had no statistics, would read it from end to end.
 */
static uint64
run(SPIPlanPtr *kept, const char *statement, int nargs, Oid *types, Datum *values, int expected)
{
	SPIPlanPtr plan;
	int result;

	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
	                         true, 0, false);
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
	                         false);
	plan = kt_owner_plan(kept, statement, nargs, types);
	result = SPI_execute_plan(plan, values, NULL, false, 0);
	if (result != expected)
		elog(ERROR, "unexpected result of a statement on the mirror: %s",
		     SPI_result_code_string(result));
	return SPI_processed;
}

/* ---- storing ------------------------------------------------------------------------------------------- */

/* A listed row is older than what is known: a call does not go back to ringing. */
#define STALE(known, listed)                                                                     \
	"(" known ".call_status IN ('completed', 'failed') AND " listed                              \
	".call_status IN ('registered', 'ongoing') OR " known ".call_status = 'ongoing' AND " listed \
	".call_status = 'registered')"
#define MERGED(known, listed, column)                                                            \
	"CASE WHEN " STALE(known, listed) " THEN coalesce(" known "." column ", " listed "." column  \
									  ") ELSE coalesce(" listed "." column ", " known "." column \
									  ") END"
#define ALL_MERGED(known, listed)                                                                                \
	MERGED(known, listed, "account_id")                                                                          \
	", " MERGED(known, listed, "direction") ", " MERGED(known, listed, "to_number") ", " MERGED(                 \
		known, listed,                                                                                           \
		"call_status") ", " MERGED(known, listed,                                                                \
	                               "duration") ", " MERGED(known, listed,                                        \
	                                                       "cost") ", " MERGED(known, listed,                    \
	                                                                           "created_at") ", " MERGED(known,  \
	                                                                                                     listed, \
	                                                                                                     "first_name")
#define COLUMNS(of)                                                                           \
	of "account_id, " of "direction, " of "to_number, " of "call_status, " of "duration, " of \
	   "cost, " of "created_at, " of "first_name"

/*
 * What is there already is compared before anything is locked; ON CONFLICT is for another process that stores
 * the same call at the same moment, and merges again with what that one wrote. In the order of callIds, so
 * that two of them do not wait for each other crosswise. A call that is listed twice counts once, in its
 * furthest state.
 */
static const char store_calls[] =
	"WITH listed AS MATERIALIZED (SELECT DISTINCT ON (v.call_id) v.call_id, v.account_id, v.direction,"
	" v.to_number, v.call_status, v.duration::integer, v.cost::numeric, v.created_at::timestamptz,"
	" v.first_name FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) WITH ORDINALITY"
	" AS v (call_id, account_id, direction, to_number, call_status, duration, cost, created_at,"
	" first_name, n) ORDER BY v.call_id, coalesce(v.call_status IN ('completed', 'failed'), false) DESC,"
	" v.n)"
	" INSERT INTO kridtech.calls AS t (call_id, " COLUMNS(
		"") ", synced_at)"
			" SELECT l.call_id, " COLUMNS(
				"l.") ", clock_timestamp()"
					  " FROM listed AS l LEFT JOIN kridtech.calls AS c ON c.call_id = l.call_id"
					  " WHERE c.call_id IS NULL OR (" ALL_MERGED("c", "l") ") IS DISTINCT FROM (" COLUMNS(
						  "c.") ")"
								" ORDER BY l.call_id"
								" ON CONFLICT (call_id) DO UPDATE SET (" COLUMNS("") ", synced_at) = ROW (" ALL_MERGED(
									"t",
									"excluded") ", excluded.synced_at)"
												" WHERE (" ALL_MERGED(
													"t",
													"excluded") ") IS DISTINCT FROM (" COLUMNS("t.") ")";

int
kt_mirror_store(const KtMirrorCall *calls, int n)
{
	static SPIPlanPtr kept = NULL;
	Oid types[NFIELDS];
	Datum values[NFIELDS];
	int field;

	for (field = 0; field < NFIELDS; field++)
	{
		types[field] = TEXTARRAYOID;
		values[field] = column_of(calls, n, field);
	}
	return (int) run(&kept, store_calls, NFIELDS, types, values, SPI_OK_INSERT);
}

/* ---- asking -------------------------------------------------------------------------------------------- */

static const char newest_call[] =
	"SELECT c.created_at FROM kridtech.calls AS c WHERE c.account_id = $1 AND c.created_at IS NOT NULL"
	" ORDER BY c.created_at DESC LIMIT 1";

TimestampTz
kt_mirror_newest(const char *account_id)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {TEXTOID};
	Datum values[] = {CStringGetTextDatum(account_id)};
	bool isnull;

	if (run(&kept, newest_call, 1, types, values, SPI_OK_SELECT) == 0)
		return 0;
	return DatumGetTimestampTz(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}
