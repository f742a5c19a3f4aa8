/*
 * What the receiver does beside receiving: the inbox's retries, late verification, late binding.
 *
 * All of it is in the tables, so nothing is lost when it does not happen now. Each is a short unit with a time
 * limit, one between two looks at the network: a user's trigger that hangs on a kept webhook delays what comes
 * in by that at most. The claim of a retry notes that the row will have been tried, and is committed first; so
 * one that takes the server down comes back later and later.
 */
#include "postgres.h"

#include "upkeep.h"

#include "events.h"
#include "fault.h"
#include "http.h"
#include "shmem.h"
#include "utils/timestamp.h"
#include "xact.h"

#define SECONDS(n) ((int64) (n) *1000000)

/* How long one of the units may take at most, in ms. */
#define UNIT_MS 2000

/* The inbox is looked at this often: a row may come to it by a way that tells nobody. */
#define LOOK_EVERY SECONDS(10)

/* After a failure of its own (a lock, a full disk) a thing is left alone for this long. */
#define FAILURE_DELAY SECONDS(5)

typedef struct Unit
{
	KtUpkeep *upkeep;
	int64 id; /* of the inbox */
	int sqlstate;
	char error[KT_MAX_STATUS];
	TimestampTz due;
	long again_ms;
} Unit;

static bool
run(const char *activity, KtXactWork work, Unit *unit, int ms)
{
	kt_xact_limit(Min(ms, UNIT_MS));
	return kt_xact_run(activity, work, unit, &unit->sqlstate, unit->error, sizeof(unit->error)) ==
	       KT_XACT_DONE;
}

/* ---- the inbox ---------------------------------------------------------------------------------------------- */

static void
claim_work(void *argument)
{
	Unit *unit = argument;

	unit->upkeep->nretries =
		kt_events_retry_claim(unit->upkeep->retries, KT_UPKEEP_RETRIES, &unit->due);
}

static void
claim_retries(KtUpkeep *upkeep, int ms)
{
	int64 now = kt_http_now();
	Unit unit = {.upkeep = upkeep};

	upkeep->claim_at = now + LOOK_EVERY;
	if (!run("looking into the inbox", claim_work, &unit, ms))
		upkeep->nretries = 0;
	else if (unit.due != 0)
		upkeep->claim_at = now + Min(Max(unit.due - GetCurrentTimestamp(), 0), LOOK_EVERY);
	if (upkeep->nretries == KT_UPKEEP_RETRIES)
		upkeep->claim_at = now;
}

static void
retry_work(void *argument)
{
	Unit *unit = argument;
	char *call_id = NULL;

	(void) kt_events_retry(unit->id, &call_id);
	if (call_id != NULL)
		kt_events_notify((const char *const *) &call_id, 1);
	KT_FAULT("receive-retried");
}

static void
failed_work(void *argument)
{
	Unit *unit = argument;

	kt_events_retry_failed(unit->id, unit->sqlstate, unit->error);
}

/* A third of the time is for the note. */
static void
retry_one(KtUpkeep *upkeep, int ms)
{
	Unit unit = {.id = upkeep->retries[--upkeep->nretries]};

	if (!run("processing a kept webhook again", retry_work, &unit, ms * 2 / 3))
		(void) run("noting why a kept webhook failed", failed_work, &unit, ms / 3);
}

/* ---- verification ------------------------------------------------------------------------------------------- */

static void
verify_work(void *argument)
{
	Unit *unit = argument;

	(void) kt_events_verify(&unit->again_ms);
}

static void
bind_work(void *argument)
{
	Unit *unit = argument;

	(void) kt_events_bind(&unit->again_ms);
}

/* When to do it again. A cancelled part of it leaves a third as long for the rest: see kt_xact_limit(). */
static int64
run_round(const char *activity, KtXactWork work, int ms)
{
	Unit unit = {.again_ms = 0};

	if (!run(activity, work, &unit, ms * 3 / 4))
		return kt_http_now() + FAILURE_DELAY;
	return kt_http_now() + (int64) unit.again_ms * 1000;
}

void
kt_upkeep_step(KtUpkeep *upkeep, int ms)
{
	int64 now = kt_http_now();

	if (upkeep->bind_at <= now)
		upkeep->bind_at = run_round("binding requests to their webhooks", bind_work, ms);
	else if (upkeep->nretries > 0)
		retry_one(upkeep, ms);
	else if (upkeep->claim_at <= now)
		claim_retries(upkeep, ms);
	else if (upkeep->verify_at <= now)
		upkeep->verify_at = run_round("verifying webhooks", verify_work, ms);
}

void
kt_upkeep_bind(KtUpkeep *upkeep)
{
	upkeep->bind_at = 0;
}

int64
kt_upkeep_deadline(const KtUpkeep *upkeep)
{
	if (upkeep->nretries > 0)
		return 0;
	return Min(Min(upkeep->verify_at, upkeep->bind_at), upkeep->claim_at);
}
