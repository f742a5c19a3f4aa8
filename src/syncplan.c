/*
 * Whose list of calls is read next.
 *
 * Which accounts there are, and what waits for them, is read anew each time: a wrong guess costs a list too many, or
 * one that comes later.
 */
#include "postgres.h"

#include "poll.h"

#include "api.h"
#include "background.h"
#include "catalog/pg_type.h"
#include "settings.h"
#include "statement.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "xact.h"

/* While an answer is lost: often enough to see the list several times as the request settles. */
#define LOST_MIN_US INT64CONST(250000)
#define LOST_MAX_US INT64CONST(15000000)

/* Lists on the network at a time, of all accounts. */
#define MAX_ASKING 4

/* Accounts that are polled. */
#define MAX_ACCOUNTS_TEXT "1000"

KtCadenceRules
kt_syncplan_rules(void)
{
	KtCadenceRules rules = {.interval = (int64) kt_sync_interval * 1000};

	rules.lost = Min(Max((int64) kt_settle_time * 1000 / 4, LOST_MIN_US), LOST_MAX_US);
	return rules;
}

int64
kt_syncplan_due(const KtPoll *poll)
{
	KtCadenceRules now = kt_syncplan_rules();

	return poll->list > 0 && poll->cadence.failures == 0 ? 0 : kt_cadence_due(&poll->cadence, &now);
}

/* ---- the plan ---------------------------------------------------------------------------------------- */

/*
 * The accounts in use, each with how urgent its list is: 2, an answer was lost; 1, a call's end is awaited. Where the
 * clock bounds what is read of an index, it stands in a subquery: read once.
 */
static KtStatement accounts_statement = {
	"SELECT u.account_id, max(u.urgency) FROM ("
	"SELECT $1 AS account_id, 0 AS urgency"
	" UNION ALL SELECT a.account_id, 0 FROM kridtech.accounts AS a"
	" UNION ALL SELECT coalesce(u.account_id, a.account_id, $1), 2 FROM (SELECT q.id, q.account_id"
	" FROM kridtech.call_requests AS q"
	" WHERE q.state = 'unknown' AND q.finished_at > (SELECT clock_timestamp()) - $2::float8 * interval '1 ms'"
	" ORDER BY q.finished_at DESC LIMIT 1000) AS u"
	" LEFT JOIN LATERAL (SELECT v.account_id FROM kridtech.call_attempts AS v"
	" WHERE v.request_id = u.id AND v.live OFFSET 0) AS a ON true"
	" UNION ALL SELECT coalesce(r.account_id, a.account_id, $1), 1 FROM (SELECT a.request_id, a.account_id"
	" FROM kridtech.call_attempts AS a ORDER BY a.id DESC LIMIT 100) AS a"
	" JOIN kridtech.call_requests AS r ON r.id = a.request_id WHERE r.state = 'placed'"
	" AND r.finished_at > clock_timestamp() - interval '1 hour' AND r.call_id IS NOT NULL"
	" AND NOT EXISTS (SELECT FROM kridtech.webhook_events AS e WHERE e.call_id = r.call_id)"
	" AND NOT EXISTS (SELECT FROM kridtech.calls AS c WHERE c.call_id = r.call_id"
	" AND c.call_status IN ('completed', 'failed'))"
	" UNION ALL (SELECT $1, 1 FROM kridtech.webhook_events AS e WHERE e.verified_by IS NULL"
	" AND e.received_at > (SELECT clock_timestamp()) - interval '1 hour' LIMIT 1)"
	") AS u WHERE u.account_id <> '' GROUP BY 1 ORDER BY 1 LIMIT " MAX_ACCOUNTS_TEXT,
	SPI_OK_SELECT,
	{TEXTOID, INT8OID},
	NULL};

static KtPoll *
find_poll(KtSync *sync, const char *account_id)
{
	Size size = (sync->n + 1) * sizeof(KtPoll *);
	KtPoll *poll;
	int i;

	for (i = 0; i < sync->n; i++)
		if (strcmp(sync->polls[i]->account_id, account_id) == 0)
			return sync->polls[i];
	sync->polls =
		sync->polls == NULL ? MemoryContextAlloc(sync->context, size) : repalloc(sync->polls, size);
	poll = MemoryContextAllocZero(sync->context, sizeof(KtPoll));
	poll->memory = AllocSetContextCreate(sync->context, "kridtech list", ALLOCSET_SMALL_SIZES);
	poll->account_id = MemoryContextStrdup(sync->context, account_id);
	poll->sync = sync;
	poll->sightings.context = sync->context;
	sync->polls[sync->n++] = poll;
	return poll;
}

/* A lost answer makes a list urgent until it has long settled; what is not bound by then hardly will be. */
static int64
urgent_ms(void)
{
	return (int64) kt_settle_time * 3 + 600000;
}

static void
find_accounts(KtSync *sync)
{
	Datum values[] = {CStringGetTextDatum(kt_account_id), Int64GetDatum(urgent_ms())};
	uint64 rows = kt_statement_run(&accounts_statement, values, NULL);
	uint64 i;
	int n;

	for (n = 0; n < sync->n; n++)
		sync->polls[n]->in_use = false;
	for (i = 0; i < rows; i++)
	{
		KtPoll *poll = find_poll(sync, kt_statement_present(i, 1));
		bool isnull;

		poll->in_use = true;
		poll->cadence.urgency = (KtUrgency) DatumGetInt32(kt_statement_datum(i, 2, &isnull));
		(void) kt_gate_find(sync->gates, poll->account_id);
	}
}

static void
build(KtPoll *poll, const KtGate *gate)
{
	KtApiRequest request = {.endpoint = KT_ENDPOINT_CALLS, .limit = KT_LIST_LIMIT};
	MemoryContext caller = MemoryContextSwitchTo(poll->memory);

	if (poll->list > 0)
		request.status = kt_list_statuses[poll->list - 1];
	kt_api_build(&request, gate->key, &poll->request);
	poll->request.owner = &poll->guest;
	poll->phase = KT_BUILT;
	MemoryContextSwitchTo(caller);
}

static void
plan_work(void *argument)
{
	KtSync *sync = argument;
	int64 now = kt_http_now();
	KtOwner owner;
	int asking = 0;
	int i;

	kt_background_begin(&owner);
	sync->locked = kt_background_locked();
	if (sync->locked != NULL)
	{
		kt_owner_end(&owner);
		return;
	}
	find_accounts(sync);
	kt_gate_refresh(sync->gates);
	for (i = 0; i < sync->n; i++)
		asking += sync->polls[i]->phase != KT_RESTING;
	for (i = 0; i < sync->n; i++)
	{
		KtPoll *poll = sync->polls[i];
		const KtGate *gate = &sync->gates->gates[kt_gate_find(sync->gates, poll->account_id)];

		poll->shut = !kt_settings_usable() || sync->gates->all_closed || gate->closed != NULL;
		if (poll->in_use && !poll->shut && poll->phase == KT_RESTING &&
		    kt_syncplan_due(poll) <= now && asking < MAX_ASKING)
		{
			build(poll, gate);
			asking++;
		}
	}
	kt_owner_end(&owner);
}

bool
kt_syncplan_make(KtSync *sync)
{
	sync->problem[0] = '\0';
	return kt_xact_run("planning which list of calls to read", plan_work, sync, NULL, sync->problem,
	                   sizeof(sync->problem)) == KT_XACT_DONE &&
	       sync->locked == NULL;
}
