/*
 * How a batch of webhooks is stored, whatever stands in the way.
 *
 * Each step down the ladder gives up something to keep the promise that 2xx means durable:
 *	1. all become events, in one statement;
 *	2. that failed by what one of them is (a user's trigger, a constraint): each apart;
 *	3. that failed, or the events' table is locked: all into the inbox, from where they are tried again.
 *	   While it goes on, the first step is left out for some seconds: they must not each wait for the lock.
 *
 * Each step is a unit of work, of which either all is committed or nothing, and it begins with the webhooks as they
 * came. None outlives the time of the earliest delivery that waits for an answer.
 */
#include "postgres.h"

#include "ladder.h"

#include "fault.h"
#include "http.h"
#include "xact.h"

#define MS(n) ((int64) (n) *1000)

/*
 * How long a unit may take, in ms. Together they leave time for what comes in meanwhile: 1 s for a lock and some
 * for the statement, then as much again down the ladder. In trouble each try blocks those that come.
 */
#define STORE_MS 2500
#define APART_MS 1500
#define KEEP_MS 1500

/*
 * A delivery as old as this gets what time there is: nothing is done beside. The rest is what the steps above may
 * take together.
 */
#define BESIDE_UNTIL (KT_UNIT_ENDS_AT - MS(STORE_MS + APART_MS + KEEP_MS))

/* With less time left than this no unit is begun. */
#define LEAST_MS 100

/* How long the first step is left out after the events' table was locked. */
#define INBOX_FOR MS(5000)

void
kt_ladder_init(KtLadder *ladder, const KtWaiting *waiting)
{
	memset(ladder, 0, sizeof(*ladder));
	ladder->waiting = waiting;
}

/* ---- time -------------------------------------------------------------------------------------------------- */

/*
 * How long a unit may take that is to be over before the first that has no answer is so old, in ms: that at most. 0:
 * it is not begun at all.
 */
static int
time_until(const KtLadder *ladder, int64 age, int most)
{
	int64 first = kt_waiting_earliest(ladder->waiting);
	int64 left = most;

	if (first >= 0)
		left = Min(left, (first + age - kt_http_now()) / 1000);
	return left >= LEAST_MS ? (int) left : 0;
}

int
kt_ladder_time(const KtLadder *ladder, int most)
{
	return time_until(ladder, KT_UNIT_ENDS_AT, most);
}

int
kt_ladder_spare(const KtLadder *ladder, int most)
{
	return time_until(ladder, BESIDE_UNTIL, most);
}

/* ---- the steps --------------------------------------------------------------------------------------------- */

/* Within a step: memory that is out for one body costs the step, not the process with all it holds. */
static void
read_webhooks(KtBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	for (; batch->nread < batch->n; batch->nread++)
	{
		const KtEntry *entry = batch->entries[batch->nread];
		KtWebhook *webhook = &batch->webhooks[batch->nread];

		kt_webhook_read(entry->body, entry->len, webhook);
		webhook->remote_addr = entry->address[0] != '\0' ? entry->address : NULL;
	}
	MemoryContextSwitchTo(old);
}

static void
batch_work(void *argument)
{
	KtBatch *batch = argument;

	read_webhooks(batch);
	switch (batch->step)
	{
		case KT_STEP_STORE:
			kt_events_store(batch->webhooks, batch->n, batch->stored);
			break;
		case KT_STEP_APART:
			kt_events_store_apart(batch->webhooks, batch->n, batch->deadline, batch->stored);
			break;
		case KT_STEP_KEEP:
			kt_events_keep(batch->webhooks, batch->n, batch->sqlstate,
			               batch->sqlstate != 0 ? batch->error : NULL, batch->stored);
			break;
	}
	KT_FAULT("receive-executed");
}

/* One step, if there is time for it; false when there is not or it failed. */
static bool
run_step(const KtLadder *ladder, KtBatch *batch, KtStep step, int most)
{
	static const char *const activity[] = {
		[KT_STEP_STORE] = "storing webhooks",
		[KT_STEP_APART] = "storing webhooks one by one",
		[KT_STEP_KEEP] = "keeping webhooks in the inbox",
	};
	int time = kt_ladder_time(ladder, most);
	char error[KT_MAX_STATUS];
	int sqlstate;

	if (time == 0)
		return false;
	batch->step = step;
	batch->deadline = kt_http_now() + MS(time) / 2;
	/* a cancelled part leaves a third as long for the rest: see kt_xact_limit() */
	kt_xact_limit(step == KT_STEP_APART ? time * 3 / 4 : time);
	if (kt_xact_run(activity[step], batch_work, batch, &sqlstate, error, sizeof(error)) ==
	    KT_XACT_DONE)
		return true;
	batch->sqlstate = sqlstate;
	strlcpy(batch->error, error, sizeof(batch->error));
	return false;
}

static void
leave_out_first_step(KtLadder *ladder, const KtBatch *batch)
{
	ladder->inbox_until = kt_http_now() + INBOX_FOR;
	ladder->inbox_sqlstate = batch->sqlstate;
	strlcpy(ladder->inbox_error, batch->error, sizeof(ladder->inbox_error));
}

bool
kt_ladder_descend(KtLadder *ladder, KtBatch *batch, bool calm)
{
	if (kt_http_now() >= ladder->inbox_until)
	{
		if (run_step(ladder, batch, KT_STEP_STORE, calm ? STORE_MS : KT_TROUBLE_MS))
			return true;
		if (batch->sqlstate == 0)
			return false;
		if (kt_xact_is_passing(batch->sqlstate))
			leave_out_first_step(ladder, batch);
		else if (run_step(ladder, batch, KT_STEP_APART, calm ? APART_MS : KT_TROUBLE_MS))
			return true;
	}
	else
	{
		batch->sqlstate = ladder->inbox_sqlstate;
		strlcpy(batch->error, ladder->inbox_error, sizeof(batch->error));
	}
	return run_step(ladder, batch, KT_STEP_KEEP, calm ? KEEP_MS : KT_TROUBLE_MS);
}
