/*
 * What a human says about the queue: cancel, resolve, pause, resume.
 *
 * Against the dialer each decision is one row lock: a claim and a cancelling look at the state again once
 * they have the row, so exactly one of them wins; a resolution locks the request before it judges its
 * state.
 */
#include "postgres.h"

#include "arguments.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "events.h"
#include "extension.h"
#include "fmgr.h"
#include "limits.h"
#include "statement.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "wake.h"

PG_FUNCTION_INFO_V1(kridtech_cancel_call);
PG_FUNCTION_INFO_V1(kridtech_resolve_call);
PG_FUNCTION_INFO_V1(kridtech_pause);
PG_FUNCTION_INFO_V1(kridtech_resume);

/* The role a human logged in as, whatever function or SET ROLE stands between. */
static Datum
session_user_datum(void)
{
	Name name = palloc(sizeof(NameData));

	namestrcpy(name, GetUserNameFromId(GetSessionUserId(), false));
	return NameGetDatum(name);
}

/* ---- cancel ------------------------------------------------------------------------------------------ */

static KtStatement cancel_queued = {
	"UPDATE kridtech.call_requests SET state = 'cancelled', finished_at = clock_timestamp()"
	" WHERE id = $1 AND state = 'queued'",
	SPI_OK_UPDATE,
	{INT8OID, InvalidOid},
	NULL};

/* kridtech_cancel_call(request_id) returns boolean; strict */
Datum
kridtech_cancel_call(PG_FUNCTION_ARGS)
{
	Datum values[] = {PG_GETARG_DATUM(0)};
	KtOwner owner;
	bool cancelled;

	PreventCommandIfReadOnly("kridtech_cancel_call()");
	kt_extension_check();
	kt_owner_begin(&owner);
	cancelled = kt_statement_run(&cancel_queued, values, NULL) == 1;
	kt_owner_end(&owner);
	PG_RETURN_BOOL(cancelled);
}

/* ---- resolve ----------------------------------------------------------------------------------------- */

typedef enum Verdict
{
	VERDICT_PLACED,
	VERDICT_NOT_PLACED,
	VERDICT_REDIAL
} Verdict;

static const char *const verdict_words[] = {
	[VERDICT_PLACED] = "placed",
	[VERDICT_NOT_PLACED] = "not_placed",
	[VERDICT_REDIAL] = "redial",
};

static KtStatement lock_request = {
	"SELECT state, coalesce(not_after <= clock_timestamp(), false) FROM kridtech.call_requests"
	" WHERE id = $1 FOR UPDATE",
	SPI_OK_SELECT,
	{INT8OID, InvalidOid},
	NULL};

static KtStatement find_call = {
	"SELECT id FROM kridtech.call_requests WHERE call_id = $2 AND id <> $1",
	SPI_OK_SELECT,
	{INT8OID, TEXTOID, InvalidOid},
	NULL};

static KtStatement find_key = {
	"SELECT other.id FROM kridtech.call_requests AS r JOIN kridtech.call_requests AS other"
	" ON other.unique_key = r.unique_key AND other.id <> r.id"
	" AND other.state NOT IN ('cancelled', 'failed', 'expired') WHERE r.id = $1",
	SPI_OK_SELECT,
	{INT8OID, InvalidOid},
	NULL};

/* The callId may be one that was known before, or that nobody knows. */
static KtStatement set_placed = {
	"UPDATE kridtech.call_requests SET state = 'placed', call_id = coalesce($2, call_id), error = $3,"
	" finished_at = clock_timestamp() WHERE id = $1",
	SPI_OK_UPDATE,
	{INT8OID, TEXTOID, TEXTOID, InvalidOid},
	NULL};

static KtStatement set_failed = {
	"UPDATE kridtech.call_requests SET state = 'failed', error = $3, finished_at = clock_timestamp()"
	" WHERE id = $1",
	SPI_OK_UPDATE,
	{INT8OID, TEXTOID, TEXTOID, InvalidOid},
	NULL};

/* As if it were new: a human's redial has all its attempts before it. Their records stay. */
static KtStatement set_queued = {
	"UPDATE kridtech.call_requests SET state = 'queued', attempts = 0, call_id = NULL,"
	" call_status = NULL, http_status = NULL, error = $3, finished_at = NULL,"
	" next_attempt_at = CASE WHEN not_before > clock_timestamp() THEN not_before END WHERE id = $1",
	SPI_OK_UPDATE,
	{INT8OID, TEXTOID, TEXTOID, InvalidOid},
	NULL};

/*
 * The attempt that may have been applied; where every one is known not to have been, the last. Each of the two has an
 * index of its own.
 */
static KtStatement note_attempt = {
	"UPDATE kridtech.call_attempts SET detail = concat_ws('; ', detail, $2), live = live AND $3,"
	" finished_at = coalesce(finished_at, clock_timestamp()) WHERE id = coalesce((SELECT a.id"
	" FROM kridtech.call_attempts AS a WHERE a.request_id = $1 AND a.live LIMIT 1),"
	" (SELECT max(a.id) FROM (SELECT h.id FROM kridtech.call_attempts AS h"
	" WHERE h.request_id = $1 AND NOT h.live OFFSET 0) AS a))",
	SPI_OK_UPDATE,
	{INT8OID, TEXTOID, BOOLOID, InvalidOid},
	NULL};

/* A request without an attempt (loaded from elsewhere) gets one that never was, for the record. */
static KtStatement add_note = {
	"INSERT INTO kridtech.call_attempts (request_id, epoch, live, finished_at, outcome, detail)"
	" VALUES ($1, 0, $3, clock_timestamp(), 'resolved', $2)",
	SPI_OK_INSERT,
	{INT8OID, TEXTOID, BOOLOID, InvalidOid},
	NULL};

/* Such as: resolved as redial by alice at 2026-01-31T12:00:00Z */
static KtStatement compose_note = {
	"SELECT format('resolved as %s by %s at %s', $1, $2,"
	" to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))",
	SPI_OK_SELECT,
	{TEXTOID, NAMEOID, InvalidOid},
	NULL};

static Verdict
verdict_argument(FunctionCallInfo fcinfo, int n)
{
	char *word = kt_argument_text(fcinfo, n);
	int i;

	for (i = 0; word != NULL && i < (int) lengthof(verdict_words); i++)
		if (strcmp(word, verdict_words[i]) == 0)
			return i;
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
	                word == NULL ? errmsg("outcome must not be null")
	                             : errmsg("the outcome is not one a request can have"),
	                errhint("Use placed, not_placed or redial.")));
	return 0;
}

/* The rule for a credible callId, as for one in an answer. */
static Datum
call_id_argument(FunctionCallInfo fcinfo, int n, Verdict verdict)
{
	char *call_id = kt_argument_text(fcinfo, n);
	char *c;

	if (call_id == NULL)
		return (Datum) 0;
	if (verdict != VERDICT_PLACED)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("a call ID goes with the outcome placed only")));
	for (c = call_id; *c != '\0' && (unsigned char) *c >= 0x20 && *c != 0x7f; c++)
		;
	if (c == call_id || *c != '\0' || c - call_id > KT_MAX_CALL_ID)
		ereport(ERROR,
		        (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("call ID is not a valid one"),
		         errdetail("It is empty, longer than %d bytes, or holds a control character.",
		                   KT_MAX_CALL_ID)));
	return PG_GETARG_DATUM(n);
}

/* Locks the request and makes sure that it can be resolved so. */
static void
judge_request(Datum id, Verdict verdict)
{
	Datum values[] = {id};
	bool isnull;
	char *state;

	if (kt_statement_run(&lock_request, values, NULL) == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("there is no call request " INT64_FORMAT, DatumGetInt64(id))));
	state = kt_statement_present(0, 1);
	if (strcmp(state, "unknown") != 0 && strcmp(state, "failed") != 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		                errmsg("call request " INT64_FORMAT " is %s", DatumGetInt64(id), state),
		                errdetail("Only a request that is unknown or failed can be resolved.")));
	if (verdict == VERDICT_REDIAL && DatumGetBool(kt_statement_datum(0, 2, &isnull)))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		                errmsg("call request " INT64_FORMAT " must not be dialled any more",
		                       DatumGetInt64(id)),
		                errdetail("Its not_after has passed."),
		                errhint("Queue a new one with kridtech_queue_call().")));
}

/* Says whose it is; a race for it ends at the unique index all the same. */
static void
refuse_taken_call(Datum id, Datum call_id)
{
	Datum values[] = {id, call_id};

	if (call_id == 0 || kt_statement_run(&find_call, values, NULL) == 0)
		return;
	ereport(ERROR, (errcode(ERRCODE_UNIQUE_VIOLATION),
	                errmsg("call ID \"%s\" already belongs to call request %s",
	                       TextDatumGetCString(call_id), kt_statement_text(0, 1))));
}

/* A failed request has given its unique_key up. The message does not show it: it may be a phone number. */
static void
refuse_taken_key(Datum id, Verdict verdict)
{
	Datum values[] = {id};

	if (verdict == VERDICT_NOT_PLACED || kt_statement_run(&find_key, values, NULL) == 0)
		return;
	ereport(ERROR, (errcode(ERRCODE_UNIQUE_VIOLATION),
	                errmsg("the unique key of call request " INT64_FORMAT
	                       " already belongs to call request %s",
	                       DatumGetInt64(id), kt_statement_text(0, 1))));
}

static Datum
note_of(Verdict verdict)
{
	Datum values[] = {CStringGetTextDatum(verdict_words[verdict]), session_user_datum()};

	(void) kt_statement_run(&compose_note, values, NULL);
	return CStringGetTextDatum(kt_statement_text(0, 1));
}

static KtStatement *
update_for(Verdict verdict)
{
	switch (verdict)
	{
		case VERDICT_PLACED:
			return &set_placed;
		case VERDICT_NOT_PLACED:
			return &set_failed;
		case VERDICT_REDIAL:
			return &set_queued;
	}
	return NULL;
}

/* kridtech_resolve_call(request_id, outcome, call_id) returns void */
Datum
kridtech_resolve_call(PG_FUNCTION_ARGS)
{
	Datum values[3] = {PG_GETARG_DATUM(0)};
	Verdict verdict = verdict_argument(fcinfo, 1);
	Datum call_id = call_id_argument(fcinfo, 2, verdict);
	Datum note;
	KtOwner owner;

	PreventCommandIfReadOnly("kridtech_resolve_call()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
		        (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("request ID must not be null")));
	kt_extension_check();
	kt_owner_begin(&owner);
	judge_request(values[0], verdict);
	refuse_taken_call(values[0], call_id);
	refuse_taken_key(values[0], verdict);
	note = note_of(verdict);
	values[1] = note;
	values[2] = BoolGetDatum(verdict == VERDICT_PLACED);
	if (kt_statement_run(&note_attempt, values, NULL) == 0)
		(void) kt_statement_run(&add_note, values, NULL);
	values[1] = call_id;
	values[2] = note;
	(void) kt_statement_run(update_for(verdict), values, call_id == 0 ? " n " : NULL);
	kt_owner_end(&owner);
	if (call_id != 0)
		(void) kt_events_verify_requested(TextDatumGetCString(call_id));
	if (verdict == VERDICT_REDIAL)
		kt_wake_at_commit(false);
	PG_RETURN_VOID();
}

/* ---- pause and resume -------------------------------------------------------------------------------- */

static KtStatement add_pause = {
	"INSERT INTO kridtech.pauses (account_id, cause, reason, until, created_by)"
	" VALUES (coalesce($1, ''), 'manual', $2, $3, $4) ON CONFLICT (account_id, cause) DO UPDATE"
	" SET reason = excluded.reason, until = excluded.until, created_by = excluded.created_by",
	SPI_OK_INSERT,
	{TEXTOID, TEXTOID, TIMESTAMPTZOID, NAMEOID, InvalidOid},
	NULL};

static KtStatement delete_pauses = {"DELETE FROM kridtech.pauses WHERE account_id = $1",
                                    SPI_OK_DELETE,
                                    {TEXTOID, InvalidOid},
                                    NULL};

static KtStatement delete_all_pauses = {
	"DELETE FROM kridtech.pauses", SPI_OK_DELETE, {InvalidOid}, NULL};

static Datum
text_datum(const char *text)
{
	return text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

/* kridtech_pause(account_id, reason, until) returns void */
Datum
kridtech_pause(PG_FUNCTION_ARGS)
{
	Datum values[] = {text_datum(kt_argument_account(fcinfo, 0)),
	                  text_datum(kt_argument_text(fcinfo, 1)),
	                  PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2), session_user_datum()};
	char nulls[] = {values[0] == 0 ? 'n' : ' ', values[1] == 0 ? 'n' : ' ',
	                PG_ARGISNULL(2) ? 'n' : ' ', ' '};
	KtOwner owner;

	PreventCommandIfReadOnly("kridtech_pause()");
	if (!PG_ARGISNULL(2) && PG_GETARG_TIMESTAMPTZ(2) <= GetCurrentTimestamp())
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("a pause cannot end in the past")));
	kt_extension_check();
	kt_owner_begin(&owner);
	(void) kt_statement_run(&add_pause, values, nulls);
	kt_owner_end(&owner);
	kt_wake_at_commit(false);
	PG_RETURN_VOID();
}

/* kridtech_resume(account_id) returns void */
Datum
kridtech_resume(PG_FUNCTION_ARGS)
{
	Datum values[] = {text_datum(kt_argument_account(fcinfo, 0))};
	KtOwner owner;

	PreventCommandIfReadOnly("kridtech_resume()");
	kt_extension_check();
	kt_owner_begin(&owner);
	(void) kt_statement_run(values[0] == 0 ? &delete_all_pauses : &delete_pauses, values, NULL);
	kt_owner_end(&owner);
	kt_wake_at_commit(false);
	PG_RETURN_VOID();
}
