/*
 * New rows of kridtech.call_requests: by the short way of directinsert.c where it can be, else by an
 * ordinary INSERT as the table's owner.
 */
#include "postgres.h"

#include "newrequest.h"

#include "access/xact.h"
#include "directinsert.h"
#include "executor/spi.h"
#include "extension.h"
#include "miscadmin.h"
#include "settings.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "wake.h"

bool
kt_newrequest_waits(bool has_not_before, TimestampTz not_before)
{
	return has_not_before && not_before > GetCurrentTimestamp();
}

/* Everything but the id. */
static void
fill_row(const KtNewRequest *request, KtRow *row)
{
	bool waits = kt_newrequest_waits(request->has_not_before, request->not_before);

	namestrcpy(&row->created_by, GetUserNameFromId(GetUserId(), false));
	kt_row_put(row, KT_COL_ID, (Datum) 0, true);
	kt_row_put(row, KT_COL_ACCOUNT_ID, request->account_id, request->account_id == 0);
	kt_row_put(row, KT_COL_TO_NUMBER, request->to_number, false);
	kt_row_put(row, KT_COL_DYNAMIC_VARIABLES, request->dynamic_variables,
	           request->dynamic_variables == 0);
	kt_row_put(row, KT_COL_REFERENCE, request->reference, request->reference == 0);
	kt_row_put(row, KT_COL_UNIQUE_KEY, request->unique_key, request->unique_key == 0);
	kt_row_put(row, KT_COL_PRIORITY, Int32GetDatum(request->priority), false);
	kt_row_put(row, KT_COL_NOT_BEFORE, TimestampTzGetDatum(request->not_before),
	           !request->has_not_before);
	kt_row_put(row, KT_COL_NOT_AFTER, TimestampTzGetDatum(request->not_after),
	           !request->has_not_after);
	kt_row_put(row, KT_COL_STATE, (Datum) 0, true);
	kt_row_put(row, KT_COL_ATTEMPTS, Int32GetDatum(0), false);
	kt_row_put(row, KT_COL_NEXT_ATTEMPT_AT, TimestampTzGetDatum(request->not_before), !waits);
	kt_row_put(row, KT_COL_CREATED_BY, NameGetDatum(&row->created_by), false);
	kt_row_put(row, KT_COL_CREATED_AT, TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()),
	           false);
}

void
kt_newrequest_count(void)
{
	int limit = kt_max_queued_per_transaction;

	if (limit > 0 && kt_wake_queued() >= limit)
		ereport(ERROR,
		        (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		         errmsg("this transaction queues more than %d calls", limit),
		         errhint("If so many calls are meant, queue them in several transactions or raise "
		                 "kridtech.max_queued_per_transaction (0 lifts the limit).")));
	kt_wake_count_queued(1);
}

/* ---- the ordinary way ------------------------------------------------------------------------------ */

#define INSERT_VALUES                                                                             \
	"INSERT INTO kridtech.call_requests (account_id, to_number, dynamic_variables, reference,"    \
	" unique_key, priority, not_before, not_after, state, attempts, next_attempt_at, created_by," \
	" created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'queued', $9, $10, $11, $12)"

#define LIVE "state NOT IN ('cancelled', 'failed', 'expired')"

static const char insert_any[] = INSERT_VALUES " RETURNING id";

static const char insert_unique[] = INSERT_VALUES
	" ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL AND " LIVE " DO NOTHING RETURNING id";

static const char select_holder[] =
	"SELECT id FROM kridtech.call_requests WHERE unique_key = $1 AND " LIVE;

/* The parameters of INSERT_VALUES. */
static const KtColumn parameters[] = {
	KT_COL_ACCOUNT_ID, KT_COL_TO_NUMBER,       KT_COL_DYNAMIC_VARIABLES, KT_COL_REFERENCE,
	KT_COL_UNIQUE_KEY, KT_COL_PRIORITY,        KT_COL_NOT_BEFORE,        KT_COL_NOT_AFTER,
	KT_COL_ATTEMPTS,   KT_COL_NEXT_ATTEMPT_AT, KT_COL_CREATED_BY,        KT_COL_CREATED_AT};

/* The first column of the one row a statement returned; 0 when there was none. */
static int64
returned_id(int result, int expected)
{
	bool isnull;

	if (result != expected)
		elog(ERROR, "unexpected result of a statement on kridtech.call_requests: %s",
		     SPI_result_code_string(result));
	if (SPI_processed == 0)
		return 0;
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

static int64
execute_insert(SPIPlanPtr *plan, const char *statement, const KtRow *row)
{
	Oid types[lengthof(parameters)];
	Datum values[lengthof(parameters)];
	char nulls[lengthof(parameters)];
	int i;

	for (i = 0; i < (int) lengthof(parameters); i++)
	{
		types[i] = kt_columns[parameters[i]].type;
		values[i] = row->values[parameters[i]];
		nulls[i] = row->nulls[parameters[i]] ? 'n' : ' ';
	}
	return returned_id(SPI_execute_plan(kt_owner_plan(plan, statement, lengthof(parameters), types),
	                                    values, nulls, false, 0),
	                   SPI_OK_INSERT_RETURNING);
}

static int64
find_holder(Datum unique_key)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {TEXTOID};

	return returned_id(SPI_execute_plan(kt_owner_plan(&plan, select_holder, 1, types), &unique_key,
	                                    NULL, false, 1),
	                   SPI_OK_SELECT);
}

/*
 * How often a holder may be gone again between the INSERT that met it and the SELECT that looks for it.
 * Each time takes another session's cancelling at the very moment, so this many mean that something
 * swallows the row.
 */
#define MAX_TRIES 100

/* The new request's id, or the holder's. ON CONFLICT waits for a transaction that is about to be one. */
static int64
insert_or_find(const KtRow *row, bool *is_new)
{
	static SPIPlanPtr plan_any = NULL;
	static SPIPlanPtr plan_unique = NULL;
	bool has_key = !row->nulls[KT_COL_UNIQUE_KEY];
	int64 id = 0;
	int tries;

	for (tries = 0; id == 0 && tries < (has_key ? MAX_TRIES : 1); tries++)
	{
		CHECK_FOR_INTERRUPTS();
		id = has_key ? execute_insert(&plan_unique, insert_unique, row)
		             : execute_insert(&plan_any, insert_any, row);
		*is_new = id != 0;
		if (id == 0 && has_key)
			id = find_holder(row->values[KT_COL_UNIQUE_KEY]);
	}
	if (id == 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		                errmsg("the call could not be queued in kridtech.call_requests"),
		                errdetail("A trigger or rule on the table suppressed the row.")));
	return id;
}

static int64
insert_ordinarily(const KtRow *row, bool *is_new)
{
	KtOwner owner;
	int64 id;

	kt_owner_begin(&owner);
	id = insert_or_find(row, is_new);
	kt_owner_end(&owner);
	return id;
}

/* ---- both ------------------------------------------------------------------------------------------ */

int64
kt_newrequest_queue(const KtNewRequest *request, MemoryContext query)
{
	KtRow row;
	bool is_new = true;
	int64 id;

	PreventCommandIfReadOnly("a function that queues calls");
	fill_row(request, &row);
	/* A unique_key is ON CONFLICT's business. */
	if (request->unique_key != 0 || !kt_directinsert(&row, query, &id))
		id = insert_ordinarily(&row, &is_new);
	if (is_new)
	{
		kt_newrequest_count();
		kt_wake_at_commit(request->priority > 0);
	}
	return id;
}
