/*
 * What puts a call into the queue: kridtech_queue_call(), and the trigger that watches over rows that are
 * inserted into kridtech.call_requests directly.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "arguments.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "compat.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "extension.h"
#include "fmgr.h"
#include "newrequest.h"
#include "shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "wake.h"

PG_FUNCTION_INFO_V1(kridtech_queue_call);
PG_FUNCTION_INFO_V1(kridtech_check_request);

/* ---- kridtech_queue_call() -------------------------------------------------------------------------- */

static Datum
text_datum(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? (Datum) 0 : PG_GETARG_DATUM(n);
}

static bool
time_argument(FunctionCallInfo fcinfo, int n, TimestampTz *time)
{
	*time = PG_ARGISNULL(n) ? 0 : PG_GETARG_TIMESTAMPTZ(n);
	return !PG_ARGISNULL(n);
}

/* Once per call site and transaction: reading pg_extension costs as much as queueing. */
static void
check_installation(FunctionCallInfo fcinfo)
{
	if (fcinfo->flinfo->fn_extra != NULL)
		return;
	kt_extension_check();
	kt_shmem_require();
	fcinfo->flinfo->fn_extra = fcinfo->flinfo;
}

/*
 * kridtech_queue_call(to_number, dynamic_variables, account_id, reference, not_before, not_after,
 * priority, unique_key) returns bigint
 */
Datum
kridtech_queue_call(PG_FUNCTION_ARGS)
{
	KtNewRequest request = {0};
	char number[KT_PHONE_SIZE];
	Jsonb *variables;

	check_installation(fcinfo);
	kt_argument_phone(fcinfo, 0, number);
	variables = kt_argument_variables(fcinfo, 1);
	(void) kt_argument_account(fcinfo, 2);
	request.to_number = CStringGetTextDatum(number);
	request.dynamic_variables = variables == NULL ? (Datum) 0 : JsonbPGetDatum(variables);
	request.account_id = text_datum(fcinfo, 2);
	request.reference = text_datum(fcinfo, 3);
	request.has_not_before = time_argument(fcinfo, 4, &request.not_before);
	request.has_not_after = time_argument(fcinfo, 5, &request.not_after);
	request.priority = PG_ARGISNULL(6) ? 0 : PG_GETARG_INT32(6);
	request.unique_key = text_datum(fcinfo, 7);
	if (request.has_not_before && request.has_not_after && request.not_after <= request.not_before)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("not_after must be later than not_before")));
	PG_RETURN_INT64(kt_newrequest_queue(&request, NULL));
}

/* ---- the trigger on kridtech.call_requests ---------------------------------------------------------- */

/* What a role that may only insert must leave as it is in a new request. */
typedef enum Guarded
{
	GUARDED_STATE,
	GUARDED_ATTEMPTS,
	GUARDED_NEXT_ATTEMPT_AT,
	GUARDED_CALL_ID,
	GUARDED_CALL_STATUS,
	GUARDED_HTTP_STATUS,
	GUARDED_ERROR,
	GUARDED_CREATED_BY,
	GUARDED_CREATED_AT,
	GUARDED_FINISHED_AT,
	GUARDED_NOT_BEFORE,
	GUARDED_PRIORITY,
	NGUARDED
} Guarded;

static const struct
{
	const char *name;
	Oid type;
} guarded[NGUARDED] = {
	[GUARDED_STATE] = {"state", TEXTOID},
	[GUARDED_ATTEMPTS] = {"attempts", INT4OID},
	[GUARDED_NEXT_ATTEMPT_AT] = {"next_attempt_at", TIMESTAMPTZOID},
	[GUARDED_CALL_ID] = {"call_id", TEXTOID},
	[GUARDED_CALL_STATUS] = {"call_status", TEXTOID},
	[GUARDED_HTTP_STATUS] = {"http_status", INT4OID},
	[GUARDED_ERROR] = {"error", TEXTOID},
	[GUARDED_CREATED_BY] = {"created_by", NAMEOID},
	[GUARDED_CREATED_AT] = {"created_at", TIMESTAMPTZOID},
	[GUARDED_FINISHED_AT] = {"finished_at", TIMESTAMPTZOID},
	[GUARDED_NOT_BEFORE] = {"not_before", TIMESTAMPTZOID},
	[GUARDED_PRIORITY] = {"priority", INT4OID},
};

/* A new request's guarded columns; numbers are looked up once per statement. */
typedef struct GuardedRow
{
	int attnum[NGUARDED];
	Datum values[NGUARDED];
	bool nulls[NGUARDED];
} GuardedRow;

/* An altered table is refused. */
static GuardedRow *
read_guarded(FunctionCallInfo fcinfo, HeapTuple tuple, Relation table)
{
	GuardedRow *row = fcinfo->flinfo->fn_extra;
	TupleDesc desc = RelationGetDescr(table);
	int i;

	if (row == NULL)
	{
		row = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(GuardedRow));
		for (i = 0; i < NGUARDED; i++)
			row->attnum[i] = kt_extension_column(table, guarded[i].name, guarded[i].type);
		fcinfo->flinfo->fn_extra = row;
	}
	for (i = 0; i < NGUARDED; i++)
		row->values[i] = heap_getattr(tuple, row->attnum[i], desc, &row->nulls[i]);
	return row;
}

static bool
is_queued(const GuardedRow *row)
{
	text *state;

	if (row->nulls[GUARDED_STATE])
		return false;
	state = DatumGetTextPP(row->values[GUARDED_STATE]);
	return VARSIZE_ANY_EXHDR(state) == strlen("queued") &&
	       memcmp(VARDATA_ANY(state), "queued", strlen("queued")) == 0;
}

/* Whether a column holds what its default gives. */
static bool
is_untouched(const GuardedRow *row, Guarded column)
{
	switch (column)
	{
		case GUARDED_STATE:
			return is_queued(row);
		case GUARDED_ATTEMPTS:
			return !row->nulls[column] && DatumGetInt32(row->values[column]) == 0;
		case GUARDED_CREATED_BY:
			return !row->nulls[column] && strcmp(NameStr(*DatumGetName(row->values[column])),
			                                     GetUserNameFromId(GetUserId(), false)) == 0;
		case GUARDED_CREATED_AT:
			return !row->nulls[column] && DatumGetTimestampTz(row->values[column]) ==
			                                  GetCurrentTransactionStartTimestamp();
		case GUARDED_NEXT_ATTEMPT_AT:
		case GUARDED_CALL_ID:
		case GUARDED_CALL_STATUS:
		case GUARDED_HTTP_STATUS:
		case GUARDED_ERROR:
		case GUARDED_FINISHED_AT:
			return row->nulls[column];
		case GUARDED_NOT_BEFORE:
		case GUARDED_PRIORITY:
		case NGUARDED:
			return true;
	}
	return true;
}

/* A row that says it was placed, or by another, would be a forged record. */
static void
refuse_forgery(const GuardedRow *row)
{
	int i;

	for (i = 0; i < NGUARDED; i++)
		if (!is_untouched(row, i))
			ereport(ERROR,
			        (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			         errmsg("column \"%s\" of a new call request may be given by the owner of "
			                "kridtech.call_requests only",
			                guarded[i].name),
			         errhint("Leave it to its default.")));
}

/* With not_before ahead, the row belongs into the index of what waits. */
static HeapTuple
set_next_attempt(const GuardedRow *row, HeapTuple tuple, TupleDesc desc)
{
	int attnum = row->attnum[GUARDED_NEXT_ATTEMPT_AT];
	Datum not_before = row->values[GUARDED_NOT_BEFORE];
	bool isnull = false;

	if (!row->nulls[GUARDED_NEXT_ATTEMPT_AT] ||
	    !kt_newrequest_waits(!row->nulls[GUARDED_NOT_BEFORE], DatumGetTimestampTz(not_before)))
		return tuple;
	return heap_modify_tuple_by_cols(tuple, desc, 1, &attnum, &not_before, &isnull);
}

/* An id of the sequence, whatever was given: one that was used before has attempts in its history. */
static HeapTuple
number_anew(Relation table, HeapTuple tuple)
{
	Oid sequence = get_relname_relid("call_requests_id_seq", RelationGetNamespace(table));
	int attnum = SPI_fnumber(RelationGetDescr(table), "id");
	Datum id = Int64GetDatum(nextval_internal(sequence, false));
	bool isnull = false;

	return heap_modify_tuple_by_cols(tuple, RelationGetDescr(table), 1, &attnum, &id, &isnull);
}

/* Also as a trigger of any other table: it would read that one's columns as those of this. */
static void
refuse_misuse(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
	    !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
	    (fcinfo->flinfo->fn_extra == NULL &&
	     !kt_extension_is_table(trigger->tg_relation, "call_requests")))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
		                errmsg("kridtech_check_request() must be fired BEFORE INSERT FOR EACH ROW "
		                       "on kridtech.call_requests")));
}

/*
 * kridtech_check_request(): BEFORE INSERT FOR EACH ROW on kridtech.call_requests
 *
 * The owner (and a superuser) may load any state and as many rows as it likes: pg_restore does, and so do
 * our own statements, which count for themselves. Logical replication does not fire it at all.
 */
Datum
kridtech_check_request(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	GuardedRow *row;
	TupleDesc desc;
	HeapTuple tuple;

	refuse_misuse(fcinfo);
	desc = RelationGetDescr(trigger->tg_relation);
	tuple = trigger->tg_trigtuple;
	row = read_guarded(fcinfo, tuple, trigger->tg_relation);
	if (!has_privs_of_role(GetUserId(), trigger->tg_relation->rd_rel->relowner))
	{
		refuse_forgery(row);
		kt_newrequest_count();
		tuple = number_anew(trigger->tg_relation, tuple);
	}
	if (!is_queued(row))
		return PointerGetDatum(tuple);
	kt_wake_at_commit(!row->nulls[GUARDED_PRIORITY] &&
	                  DatumGetInt32(row->values[GUARDED_PRIORITY]) > 0);
	return PointerGetDatum(set_next_attempt(row, tuple, desc));
}
