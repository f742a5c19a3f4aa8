/*
 * The SQL functions that talk to the API at once: check the arguments, make one call down, return rows.
 *
 * Whatever can be refused is refused here, before anything is sent.
 */
#include "postgres.h"

#include "account.h"
#include "arguments.h"
#include "client.h"
#include "compat.h"
#include "convert.h"
#include "extension.h"
#include "fmgr.h"
#include "callrecord.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

/* The documented bounds of the list's limit. */
#define MIN_LIMIT 1
#define MAX_LIMIT 100

PG_FUNCTION_INFO_V1(kridtech_create_call);
PG_FUNCTION_INFO_V1(kridtech_create_web_call);
PG_FUNCTION_INFO_V1(kridtech_calls);
PG_FUNCTION_INFO_V1(kridtech_calls_total);

/* ---- arguments ------------------------------------------------------------------------------------------ */

/* The number in E.164, palloc'd. */
static char *
phone_argument(FunctionCallInfo fcinfo, int n)
{
	char number[KT_PHONE_SIZE];

	kt_argument_phone(fcinfo, n, number);
	return pstrdup(number);
}

/* The variables as UTF-8 JSON text, or NULL. */
static char *
variables_argument(FunctionCallInfo fcinfo, int n)
{
	Jsonb *jsonb = kt_argument_variables(fcinfo, n);

	if (jsonb == NULL)
		return NULL;
	return kt_convert_to_utf8(JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb)));
}

/* The message does not show it: who has mixed up the arguments gives a phone number. */
static char *
status_argument(FunctionCallInfo fcinfo, int n)
{
	char *status = kt_argument_text(fcinfo, n);

	if (status != NULL && strcmp(status, "completed") != 0 && strcmp(status, "ongoing") != 0 &&
	    strcmp(status, "failed") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("the call status is not one the API filters by"),
		                errhint("Use completed, ongoing or failed.")));
	return status;
}

static int
limit_argument(FunctionCallInfo fcinfo, int n)
{
	int limit;

	if (PG_ARGISNULL(n))
		return 0;
	limit = PG_GETARG_INT32(n);
	if (limit < MIN_LIMIT || limit > MAX_LIMIT)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("limit must be between %d and %d", MIN_LIMIT, MAX_LIMIT)));
	return limit;
}

/* ---- performing ----------------------------------------------------------------------------------------- */

/* An account whose ID goes into the request must have one. */
static void
open_calling_account(const char *account_id, KtAccount *account)
{
	kt_account_open(account_id, account);
	if (account->account_id != NULL)
		return;
	kt_account_forget(account);
	ereport(
		ERROR,
		(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("no account ID is given"),
	     errhint("Pass account_id, or set kridtech.account_id in postgresql.conf and reload.")));
}

static void
set_text(Datum *value, bool *isnull, const char *utf8)
{
	*isnull = utf8 == NULL;
	*value = utf8 != NULL ? CStringGetTextDatum(kt_convert_to_server(utf8)) : (Datum) 0;
}

static Datum
return_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

static void
throw_taken_call_id(void)
{
	ereport(ERROR,
	        (errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
	         errmsg("the Kridtech API answered with a callId that belongs to another request (%s)",
	                kt_api_name(KT_ENDPOINT_CREATE_CALL)),
	         errhint("Something may have been created: look for it with kridtech_calls() before "
	                 "trying again.")));
}

/*
 * The call is placed, whatever stops its record (a constraint or trigger of somebody's, a serialization
 * failure): that error's own code would tell the caller, or a framework, to try again. Of its words only the
 * message is kept: a detail shows the row, and with it the number.
 */
static void
throw_incomplete_record(const char *call_id, const ErrorData *error)
{
	ereport(ERROR,
	        (errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
	         errmsg("the Kridtech API placed call \"%s\", but it could not be recorded (%s)",
	                call_id, kt_api_name(KT_ENDPOINT_CREATE_CALL)),
	         errdetail("%s", error->message),
	         errhint("The call is not taken back: look at it with kridtech_calls() before trying "
	                 "again.")));
}

/* Whether it is the index on call_id that refused the record: any other unique violation says nothing of the callId. */
static bool
is_of_call_id(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && error->schema_name != NULL &&
	       strcmp(error->schema_name, "kridtech") == 0 && error->constraint_name != NULL &&
	       strcmp(error->constraint_name, "call_requests_call_id_key") == 0;
}

/*
 * Binds the call to its record. That the callId is taken shows at once, or, when a transaction beside this
 * one commits it first, as a unique violation: to the caller it is the same. A cancelling stays one.
 */
static void
complete_record(int64 id, Datum call_id, Datum call_status, const KtClientAnswer *answer)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData *volatile error = NULL;
	volatile bool taken = false;

	PG_TRY();
	{
		taken =
			!kt_callrecord_placed(id, call_id, call_status, answer->http_status, answer->flagged);
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	/* Nothing but an error from here on: the transaction is broken. */
	if (taken || (error != NULL && is_of_call_id(error)))
		throw_taken_call_id();
	if (error != NULL)
		throw_incomplete_record(TextDatumGetCString(call_id), error);
}

/*
 * kridtech_create_call(to_number, dynamic_variables, account_id) returns (call_id, call_status)
 *
 * The record is made before anything is sent, so that one that cannot be made costs no call, and completed
 * after. It is this transaction's: a rollback takes back the record, not the call.
 */
Datum
kridtech_create_call(PG_FUNCTION_ARGS)
{
	KtApiRequest request = {.endpoint = KT_ENDPOINT_CREATE_CALL};
	KtClientAnswer answer;
	KtAccount account;
	Datum values[2];
	bool nulls[2];
	int64 id;

	PreventCommandIfReadOnly("kridtech_create_call()");
	kt_extension_check();
	request.to_number = phone_argument(fcinfo, 0);
	request.dynamic_variables = variables_argument(fcinfo, 1);
	open_calling_account(kt_argument_account(fcinfo, 2), &account);
	request.account_id = kt_convert_to_utf8(account.account_id);
	id = kt_callrecord_begin(account.account_id, request.to_number,
	                         PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1), !PG_ARGISNULL(1));

	kt_client_perform(&request, &account, &answer);
	set_text(&values[0], &nulls[0], answer.fields.call_id);
	set_text(&values[1], &nulls[1], answer.fields.call_status);
	complete_record(id, values[0], values[1], &answer);
	if (answer.flagged)
		ereport(WARNING, (errmsg("the Kridtech API placed the call, but its answer does not say "
		                         "\"success\": true")));
	return return_row(fcinfo, values, nulls);
}

/*
 * kridtech_create_web_call(dynamic_variables, first_name, account_id)
 * returns (call_id, access_token, account_id, sample_rate)
 *
 * The token is returned and otherwise stored nowhere.
 */
Datum
kridtech_create_web_call(PG_FUNCTION_ARGS)
{
	KtApiRequest request = {.endpoint = KT_ENDPOINT_CREATE_WEB_CALL};
	KtClientAnswer answer;
	KtAccount account;
	Datum values[4];
	bool nulls[4];
	char *first_name = kt_argument_text(fcinfo, 1);
	int32 sample_rate = 0;

	kt_extension_check();
	request.dynamic_variables = variables_argument(fcinfo, 0);
	request.first_name = first_name != NULL ? kt_convert_to_utf8(first_name) : NULL;
	open_calling_account(kt_argument_account(fcinfo, 2), &account);
	request.account_id = kt_convert_to_utf8(account.account_id);

	kt_client_perform(&request, &account, &answer);
	set_text(&values[0], &nulls[0], answer.fields.call_id);
	set_text(&values[1], &nulls[1], answer.fields.access_token);
	set_text(&values[2], &nulls[2], answer.fields.account_id);
	nulls[3] = !kt_convert_int32(answer.fields.sample_rate, &sample_rate);
	values[3] = Int32GetDatum(sample_rate);
	return return_row(fcinfo, values, nulls);
}

static void
put_listed_call(ReturnSetInfo *result, const KtListedCall *call)
{
	Datum values[9];
	bool nulls[9];
	TimestampTz created_at = 0;
	int32 duration = 0;

	set_text(&values[0], &nulls[0], call->call_id);
	set_text(&values[1], &nulls[1], call->account_id);
	set_text(&values[2], &nulls[2], call->direction);
	set_text(&values[3], &nulls[3], call->to_number);
	set_text(&values[4], &nulls[4], call->call_status);
	nulls[5] = !kt_convert_int32(call->duration, &duration);
	values[5] = Int32GetDatum(duration);
	nulls[6] = !kt_convert_numeric(call->cost, &values[6]);
	nulls[7] = !kt_convert_timestamptz(call->created_at, &created_at);
	values[7] = TimestampTzGetDatum(created_at);
	set_text(&values[8], &nulls[8], call->first_name);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * kridtech_calls(status, limit, account_id) returns setof (call_id, account_id, direction, to_number,
 * call_status, duration, cost, created_at, first_name)
 */
Datum
kridtech_calls(PG_FUNCTION_ARGS)
{
	KtApiRequest request = {.endpoint = KT_ENDPOINT_CALLS};
	KtClientAnswer answer;
	KtAccount account;
	int i;

	kt_extension_check();
	request.status = status_argument(fcinfo, 0);
	request.limit = limit_argument(fcinfo, 1);
	kt_account_open(kt_argument_account(fcinfo, 2), &account);
	InitMaterializedSRF(fcinfo, 0);

	kt_client_perform(&request, &account, &answer);
	for (i = 0; i < answer.fields.ncalls; i++)
		put_listed_call((ReturnSetInfo *) fcinfo->resultinfo, &answer.fields.calls[i]);
	return (Datum) 0;
}

/*
 * kridtech_calls_total(status, account_id) returns bigint
 *
 * The list itself is not wanted, so the shortest one is asked for.
 */
Datum
kridtech_calls_total(PG_FUNCTION_ARGS)
{
	KtApiRequest request = {.endpoint = KT_ENDPOINT_CALLS, .limit = MIN_LIMIT};
	KtClientAnswer answer;
	KtAccount account;
	int64 total;

	kt_extension_check();
	request.status = status_argument(fcinfo, 0);
	kt_account_open(kt_argument_account(fcinfo, 1), &account);

	kt_client_perform(&request, &account, &answer);
	if (!kt_convert_count(answer.fields.total, &total))
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
		                errmsg("the Kridtech API gave an answer that is not documented (%s, HTTP "
		                       "status %d)",
		                       kt_api_name(request.endpoint), answer.http_status),
		                errdetail("Its \"total\" is missing, or not a count.")));
	PG_RETURN_INT64(total);
}
