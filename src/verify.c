/*
 * Events that become verified after they were stored, and requests that an event resolves.
 *
 * Why later: an event can come before its request knows its callId, or before the API lists the call. Its
 * kridtech_ref is not looked at again: an attempt is committed before its ref leaves this server, so it was
 * there when the event was stored.
 *
 * The API may vouch for an event before its request has the callId: a lost answer's call is in the list first, and
 * bound afterwards. So each list asks again for the requests of its calls, and so does a human who names a call,
 * where that can do his own transaction no harm.
 *
 * Both passes walk through their rows in rounds, a bounded number a call, and wait for nobody: rows that are
 * locked come in the next round, and so does everything while a table is.
 */
#include "postgres.h"

#include "events.h"

#include "access/table.h"
#include "api.h"
#include "catalog/pg_type.h"
#include "convert.h"
#include "extension.h"
#include "kept.h"
#include "queuebind.h"
#include "settings.h"
#include "statement.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "xact.h"

/*
 * Rows looked at a call; pauses within a round and between two, in ms. An event that came before the answer to its
 * own create-call waits for the next round: not long, and a round over nothing is one look at an index.
 */
#define WALK_ROWS 500
#define WALK_PAUSE 1000
#define ROUND_PAUSE 3000

static KtParameter
text_parameter(const char *text)
{
	KtParameter parameter = {text == NULL ? (Datum) 0 : CStringGetTextDatum(text), text == NULL};

	return parameter;
}

static KtParameter
int64_parameter(int64 number)
{
	KtParameter parameter = {Int64GetDatum(number), false};

	return parameter;
}

/* Changes n elements of a set, from the first on; returns how many rows that were. */
typedef int (*Change)(const void *set, int first, int n);

typedef struct Step
{
	Change change;
	const void *set;
	int first;
	int n;
	int changed;
} Step;

static void
take_step(void *argument)
{
	Step *step = argument;

	step->changed = step->change(step->set, step->first, step->n);
}

static void
log_failure(const char *message)
{
	const char *words = kt_api_presentable(message, strlen(message), NULL);

	ereport(LOG, (errmsg("an event could not be verified, or a request be bound to its event: %s",
	                     words == NULL ? "" : words),
	              errhidestmt(true), errhidecontext(true)));
}

/*
 * Makes a change to n elements of a set; where that fails, to each by itself, so that one that fails (a
 * user's trigger, say) keeps only itself back, until the next round. Returns how many rows were changed.
 */
static int
apply(Change change, const void *set, int n)
{
	Step step = {change, set, 0, n, 0};
	char *message;
	int sqlstate;
	int changed = 0;
	int i;

	if (n == 0)
		return 0;
	if (kt_xact_try(take_step, &step, &sqlstate, &message))
		return step.changed;
	log_failure(message);
	for (i = 0; n > 1 && i < n && sqlstate != ERRCODE_QUERY_CANCELED; i++)
	{
		step.first = i;
		step.n = 1;
		if (kt_xact_try(take_step, &step, &sqlstate, &message))
			changed += step.changed;
	}
	return changed;
}

/* ---- the late pass ----------------------------------------------------------------------------------- */

/* Where the round stands: behind this event; and what it has counted so far. */
static TimestampTz walk_at = DT_NOBEGIN;
static char *walk_call_id = NULL;
static int64 walk_bytes = 0;

static KtStatement walk_events = {
	"SELECT e.call_id, e.received_at, e.bytes, r.id, l.call_id FROM"
	" (SELECT u.call_id, u.received_at, octet_length(u.raw)::int8 AS bytes"
	" FROM kridtech.webhook_events AS u"
	" WHERE u.verified_by IS NULL AND (u.received_at, u.call_id) > ($1, $2)"
	" ORDER BY u.received_at, u.call_id LIMIT $3) AS e"
	" LEFT JOIN kridtech.call_requests AS r ON r.call_id = e.call_id"
	" LEFT JOIN kridtech.calls AS l ON l.call_id = e.call_id ORDER BY e.received_at, e.call_id",
	SPI_OK_SELECT,
	{TIMESTAMPTZOID, TEXTOID, INT8OID},
	NULL};

/* Each event is verified once, so a trigger on it fires once; twice where its request is found later. */
static KtStatement set_verified = {
	"WITH free AS MATERIALIZED (SELECT e.call_id FROM kridtech.webhook_events AS e"
	" WHERE e.call_id = ANY ($1) AND (e.verified_by IS NULL OR e.verified_by = 'api' AND $3 = 'request')"
	" FOR UPDATE SKIP LOCKED)"
	" UPDATE kridtech.webhook_events AS e SET verified_by = $3, request_id = coalesce(v.request_id, e.request_id)"
	" FROM unnest($1, $2) AS v (call_id, request_id), free"
	" WHERE e.call_id = v.call_id AND free.call_id = v.call_id",
	SPI_OK_UPDATE,
	{TEXTARRAYOID, INT8ARRAYOID, TEXTOID},
	NULL};

/* Events that one source verifies. */
typedef struct Found
{
	KtParameter *call_ids;
	KtParameter *request_ids;
	int n;
	const char *how;
} Found;

static Found
find_none(int max, const char *how)
{
	Found found = {palloc(Max(max, 1) * sizeof(KtParameter)),
	               palloc(Max(max, 1) * sizeof(KtParameter)), 0, how};

	return found;
}

/* request_id 0: none. */
static void
add(Found *found, const char *call_id, int64 request_id)
{
	found->call_ids[found->n] = text_parameter(call_id);
	found->request_ids[found->n] = int64_parameter(request_id);
	found->request_ids[found->n].isnull = request_id == 0;
	found->n++;
}

static int
verify_some(const void *set, int first, int n)
{
	const Found *found = set;
	Datum values[3];

	values[0] = kt_statement_array(TEXTOID, found->call_ids + first, n);
	values[1] = kt_statement_array(INT8OID, found->request_ids + first, n);
	values[2] = CStringGetTextDatum(found->how);
	return (int) kt_statement_run(&set_verified, values, NULL);
}

static int
verify_all(const Found *found)
{
	return apply(verify_some, found, found->n);
}

/* The next round begins at the beginning. */
static void
end_round(void)
{
	kt_events_set_unverified(walk_bytes);
	kt_kept_recount();
	walk_at = DT_NOBEGIN;
	walk_bytes = 0;
}

/* Moves the round on behind row, the last of those that came back. */
static void
move_on(uint64 row)
{
	bool isnull;

	walk_at = DatumGetTimestampTz(kt_statement_datum(row, 2, &isnull));
	if (walk_call_id != NULL)
		pfree(walk_call_id);
	walk_call_id = MemoryContextStrdup(TopMemoryContext, kt_statement_present(row, 1));
}

/* The next rows of the round. True when it is at its end. */
static bool
walk(int *changed)
{
	Found requested = find_none(WALK_ROWS, "request");
	Found listed = find_none(WALK_ROWS, "api");
	Datum values[3];
	uint64 rows;
	uint64 i;

	values[0] = TimestampTzGetDatum(walk_at);
	values[1] = CStringGetTextDatum(walk_call_id == NULL ? "" : walk_call_id);
	values[2] = Int64GetDatum(WALK_ROWS);
	rows = kt_statement_run(&walk_events, values, NULL);
	for (i = 0; i < rows; i++)
	{
		int64 request_id = kt_statement_int64(i, 4);

		if (request_id != 0)
			add(&requested, kt_statement_present(i, 1), request_id);
		else if (kt_statement_text(i, 5) != NULL)
			add(&listed, kt_statement_present(i, 1), 0);
		else
			walk_bytes += kt_statement_int64(i, 3) + KT_ROW_BYTES;
	}
	if (rows < WALK_ROWS)
		end_round();
	else
		move_on(rows - 1);
	*changed = verify_all(&requested) + verify_all(&listed);
	return rows < WALK_ROWS;
}

int
kt_events_verify(long *again_ms)
{
	KtOwner owner;
	int changed = 0;

	*again_ms = ROUND_PAUSE;
	kt_owner_begin(&owner);
	if (kt_extension_lock_at_once("webhook_events", RowExclusiveLock) &&
	    kt_extension_lock_at_once("call_requests", AccessShareLock) &&
	    kt_extension_lock_at_once("calls", AccessShareLock) && !walk(&changed))
		*again_ms = WALK_PAUSE;
	kt_owner_end(&owner);
	return changed;
}

/* Events of these calls that name no request although there is one. Each look-up is by a key. */
static KtStatement find_requests = {
	"SELECT e.call_id, r.id FROM unnest($1) AS v (call_id)"
	" CROSS JOIN LATERAL (SELECT q.call_id FROM kridtech.webhook_events AS q WHERE q.call_id = v.call_id"
	" AND q.request_id IS NULL LIMIT 1) AS e"
	" CROSS JOIN LATERAL (SELECT q.id FROM kridtech.call_requests AS q WHERE q.call_id = v.call_id LIMIT 1) AS r",
	SPI_OK_SELECT,
	{TEXTARRAYOID},
	NULL};

static int
verify_requested(KtParameter *call_ids, int n)
{
	Found requested = find_none(n, "request");
	Datum values[1];
	uint64 rows;
	uint64 i;

	values[0] = kt_statement_array(TEXTOID, call_ids, n);
	rows = kt_statement_run(&find_requests, values, NULL);
	for (i = 0; i < rows; i++)
		add(&requested, kt_statement_present(i, 1), kt_statement_int64(i, 2));
	return verify_all(&requested);
}

static bool
lock_tables(void)
{
	return kt_extension_lock_at_once("webhook_events", RowExclusiveLock) &&
	       kt_extension_lock_at_once("call_requests", AccessShareLock);
}

int
kt_events_verify_listed(const char *const *call_ids, int n)
{
	Found listed = find_none(n, "api");
	KtOwner owner;
	int changed = 0;
	int i;

	kt_owner_begin(&owner);
	if (n > 0 && lock_tables())
	{
		for (i = 0; i < n; i++)
			add(&listed, kt_convert_to_server(call_ids[i]), 0);
		changed = verify_requested(listed.call_ids, n);
		changed += verify_all(&listed);
	}
	kt_owner_end(&owner);
	return changed;
}

/*
 * Whether a change of an event might cost the statement or transaction around it: a trigger that is deferred raises at
 * the commit, as the caller besides; and the event may be the row that the trigger we are called from was fired for.
 */
static bool
may_harm(void)
{
	Relation events = kt_extension_table("webhook_events");
	const TriggerDesc *triggers = events->trigdesc;
	bool harmful =
		events->rd_refcnt > 1 && DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, 0)) > 0;
	int i;

	for (i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		harmful = harmful || triggers->triggers[i].tgdeferrable;
	table_close(events, NoLock);
	return harmful;
}

int
kt_events_verify_requested(const char *call_id)
{
	KtParameter element = text_parameter(call_id);
	KtOwner owner;
	int changed = 0;

	kt_owner_begin(&owner);
	if (lock_tables() && !may_harm())
		changed = verify_requested(&element, 1);
	kt_owner_end(&owner);
	return changed;
}

/* ---- binding ----------------------------------------------------------------------------------------- */

/* Requests that an event has just named. What does not fit, the round finds. */
static int64 named[WALK_ROWS];
static int nnamed = 0;

/* Where the round through the unknown requests stands. */
static TimestampTz bind_at = DT_NOBEGIN;
static int64 bind_id = 0;

void
kt_events_bind_soon(int64 request_id)
{
	if (nnamed < (int) lengthof(named))
		named[nnamed++] = request_id;
}

static KtStatement walk_unknown = {
	"SELECT q.id, q.finished_at FROM kridtech.call_requests AS q WHERE q.state = 'unknown'"
	" AND (q.finished_at, q.id) > ($1, $2) ORDER BY q.finished_at, q.id LIMIT $3",
	SPI_OK_SELECT,
	{TIMESTAMPTZOID, INT8OID, INT8OID},
	NULL};

/* Two events that name one request are no evidence for either. */
static KtStatement find_bindings = {
	"SELECT r.id, min(e.call_id) FROM unnest($1) AS v (id)"
	" JOIN kridtech.call_requests AS r ON r.id = v.id"
	" JOIN kridtech.webhook_events AS e ON e.request_id = r.id AND e.verified_by = 'correlation'"
	" WHERE r.state IN ('unknown', 'placed') AND r.call_id IS NULL GROUP BY r.id HAVING count(*) = 1",
	SPI_OK_SELECT,
	{INT8ARRAYOID},
	NULL};

/* Fills ids with requests to look at: those just named, or the next of the round. */
static int
candidates(KtParameter *ids, bool *at_end)
{
	Datum values[3];
	int rows;
	int i;

	*at_end = false;
	if (nnamed > 0)
	{
		for (i = 0; i < nnamed; i++)
			ids[i] = int64_parameter(named[i]);
		nnamed = 0;
		return i;
	}
	values[0] = TimestampTzGetDatum(bind_at);
	values[1] = Int64GetDatum(bind_id);
	values[2] = Int64GetDatum(WALK_ROWS);
	rows = (int) kt_statement_run(&walk_unknown, values, NULL);
	for (i = 0; i < rows; i++)
		ids[i] = int64_parameter(kt_statement_int64(i, 1));
	*at_end = rows < WALK_ROWS;
	bind_at = DT_NOBEGIN;
	bind_id = 0;
	if (!*at_end)
	{
		bool isnull;

		bind_at = DatumGetTimestampTz(kt_statement_datum(rows - 1, 2, &isnull));
		bind_id = kt_statement_int64(rows - 1, 1);
	}
	return rows;
}

typedef struct Bindings
{
	int64 *requests;
	const char **call_ids;
} Bindings;

static int
bind_some(const void *set, int first, int n)
{
	const Bindings *bindings = set;

	return kt_queue_bind(
		bindings->requests + first, bindings->call_ids + first, n,
		"the answer was lost; a webhook that brought its kridtech_ref back names the call");
}

static int
bind_candidates(const KtParameter *ids, int n)
{
	Datum values[1];
	Bindings bindings;
	int rows;
	int i;

	if (n == 0)
		return 0;
	values[0] = kt_statement_array(INT8OID, ids, n);
	rows = (int) kt_statement_run(&find_bindings, values, NULL);
	bindings.requests = palloc(Max(rows, 1) * sizeof(int64));
	bindings.call_ids = palloc(Max(rows, 1) * sizeof(char *));
	for (i = 0; i < rows; i++)
	{
		bindings.requests[i] = kt_statement_int64(i, 1);
		bindings.call_ids[i] = kt_statement_present(i, 2);
	}
	return apply(bind_some, &bindings, rows);
}

int
kt_events_bind(long *again_ms)
{
	KtParameter ids[WALK_ROWS];
	KtOwner owner;
	bool at_end = true;
	int bound = 0;

	kt_owner_begin(&owner);
	if (kt_extension_lock_at_once("webhook_events", AccessShareLock) &&
	    kt_extension_lock_at_once("call_requests", RowExclusiveLock) &&
	    kt_extension_lock_at_once("call_attempts", RowExclusiveLock))
		bound = bind_candidates(ids, candidates(ids, &at_end));
	*again_ms = at_end ? ROUND_PAUSE : WALK_PAUSE;
	kt_owner_end(&owner);
	return bound;
}

/* ---- notification ------------------------------------------------------------------------------------ */

static KtStatement notify = {
	"SELECT pg_notify('kridtech_webhooks', v.call_id) FROM unnest($1) AS v (call_id)",
	SPI_OK_SELECT,
	{TEXTARRAYOID},
	NULL};

void
kt_events_notify(const char *const *call_ids, int n)
{
	KtParameter *elements;
	Datum values[1];
	KtOwner owner;
	int i;

	if (!kt_notify || n == 0)
		return;
	elements = palloc(n * sizeof(KtParameter));
	for (i = 0; i < n; i++)
		elements[i] = text_parameter(kt_convert_to_server(call_ids[i]));
	kt_owner_begin(&owner);
	values[0] = kt_statement_array(TEXTOID, elements, n);
	kt_statement_run(&notify, values, NULL);
	kt_owner_end(&owner);
}
