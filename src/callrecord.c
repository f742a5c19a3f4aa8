/*
 * The record of a call that the caller's own backend places: 'placing' before it is sent, 'placed' after, in the
 * caller's own transaction. Nobody else ever sees the first; should the transaction roll back, the record goes
 * and the call does not, which is what "synchronous" costs and the documentation says.
 *
 * The dialer leaves it alone: it moves only what is 'queued', or what is 'placing' once it sees it.
 */
#include "postgres.h"

#include "callrecord.h"

#include "catalog/pg_type.h"
#include "extension.h"
#include "miscadmin.h"
#include "utils/builtins.h"

static const char record_begin[] =
	"INSERT INTO kridtech.call_requests"
	" (account_id, to_number, dynamic_variables, state, attempts, created_by)"
	" VALUES ($1, $2, $3, 'placing', 1, $4) RETURNING id";

static const char record_placed[] =
	"UPDATE kridtech.call_requests AS r SET state = 'placed', call_id = $2, call_status = $3,"
	" http_status = $4, error = CASE WHEN $5 THEN 'the answer did not say \"success\": true' END,"
	" finished_at = pg_catalog.clock_timestamp() WHERE r.id = $1 AND NOT EXISTS"
	" (SELECT FROM kridtech.call_requests AS other WHERE other.call_id = $2)";

static const char find_holder[] =
	"SELECT FROM kridtech.call_requests AS other WHERE other.call_id = $1";

int64
kt_callrecord_begin(const char *account_id, const char *to_number, Datum dynamic_variables,
                    bool has_variables)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {TEXTOID, TEXTOID, JSONBOID, NAMEOID};
	char nulls[] = {' ', ' ', has_variables ? ' ' : 'n', ' '};
	NameData caller;
	Datum values[4];
	SPIPlanPtr plan;
	KtOwner owner;
	bool isnull;
	int64 id;

	namestrcpy(&caller, GetUserNameFromId(GetUserId(), false));
	kt_owner_begin(&owner);
	values[0] = CStringGetTextDatum(account_id);
	values[1] = CStringGetTextDatum(to_number);
	values[2] = dynamic_variables;
	values[3] = NameGetDatum(&caller);
	plan = kt_owner_plan(&kept, record_begin, lengthof(types), types);
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_INSERT_RETURNING ||
	    SPI_processed != 1)
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		     errmsg("the call could not be recorded in kridtech.call_requests"),
		     errdetail("A trigger or rule on the table suppressed the row. Nothing was sent.")));
	id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	kt_owner_end(&owner);
	return id;
}

static bool
is_taken(Datum call_id)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {TEXTOID};

	if (SPI_execute_plan(kt_owner_plan(&kept, find_holder, lengthof(types), types), &call_id, NULL,
	                     false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read kridtech.call_requests");
	return SPI_processed > 0;
}

bool
kt_callrecord_placed(int64 id, Datum call_id, Datum call_status, int http_status, bool flagged)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {INT8OID, TEXTOID, TEXTOID, INT4OID, BOOLOID};
	char nulls[] = {' ', ' ', call_status == 0 ? 'n' : ' ', ' ', ' '};
	Datum values[5];
	SPIPlanPtr plan;
	KtOwner owner;
	bool recorded;

	kt_owner_begin(&owner);
	values[0] = Int64GetDatum(id);
	values[1] = call_id;
	values[2] = call_status;
	values[3] = Int32GetDatum(http_status);
	values[4] = BoolGetDatum(flagged);
	plan = kt_owner_plan(&kept, record_placed, lengthof(types), types);
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not update kridtech.call_requests");
	recorded = SPI_processed == 1;
	if (!recorded && !is_taken(call_id))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		                errmsg("a trigger or rule on kridtech.call_requests suppressed the row")));
	kt_owner_end(&owner);
	return recorded;
}
