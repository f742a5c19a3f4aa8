/*
 * Deliveries between the HTTP server and the tables: stored in batches, answered in time.
 *
 * A delivery is an entry from the moment its body is in until it is stored. All that have come in while the
 * batch before was written are the next batch: one transaction, one flush, then all are answered. A lone one
 * waits for nobody.
 *
 * The sender gives up after 10 s and never comes back. So every entry has a time by which it is answered,
 * 503 if need be (waiting.c), and no unit of work outlives the earliest of them. Each step down the ladder gives up
 * something to keep the promise that 2xx means durable:
 *	1. all become events, in one statement;
 *	2. that failed by what one of them is (a user's trigger, a constraint): each apart;
 *	3. that failed, or the events' table is locked: all into the inbox, from where they are tried again.
 *	   While it goes on, the first step is left out for some seconds: they must not each wait for the lock;
 *	4. the inbox fails as well: nothing can be stored now. Entries wait in memory, and are tried again less and
 *	   less often; when their time comes they are answered 503 and stay, up to a bound, until they are stored.
 *
 * A synchronous standby that is gone does not make a unit fail: the commit is done here and waits. When
 * its time is up, the wait is cancelled and the rows are in the tables, but the promise cannot be given. Such
 * entries wait for the next commit that is confirmed, which vouches for all before it, or for their 503.
 *
 * Nothing here survives a crash, and need not: an entry without a row has had no 2xx.
 */
#include "postgres.h"

#include "intake.h"

#include "events.h"
#include "executor/spi.h"
#include "fault.h"
#include "http.h"
#include "nodes/pg_list.h"
#include "settings.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "waiting.h"
#include "webhook.h"
#include "worker.h"
#include "xact.h"

#define MS(n) ((int64) (n) *1000)

/* One unit of work takes at most so much. */
#define MAX_BATCH 500
#define MAX_BATCH_BYTES (32 * 1024 * 1024)

/*
 * An entry of the first age is answered 503; no unit of work outlives the second, so that there is time for it.
 * While nothing can be stored and places for connections become scarce, an earlier 503 is better: it frees the
 * place, and what is held can be stored later, while what is never accepted is lost.
 */
#define REFUSE_AT MS(8000)
#define UNIT_ENDS_AT MS(8500)
#define REFUSE_CROWDED_AT MS(1000)

/*
 * How long a unit may take, in ms. Together they leave time for what comes in meanwhile: 2 s for a lock and some
 * for the statement, then as much again down the ladder. In trouble each try blocks those that come.
 */
#define STORE_MS 2500
#define APART_MS 1500
#define KEEP_MS 1500
#define TROUBLE_MS 750
#define NOTIFY_MS 500

/*
 * A delivery as old as this gets what time there is: nothing is done beside. The rest is what the steps above may
 * take together.
 */
#define BESIDE_UNTIL (UNIT_ENDS_AT - MS(STORE_MS + APART_MS + KEEP_MS))

/* At the end: how long batches are begun for what is held. */
#define END_US MS(300)

/* With less time left than this no unit is begun. */
#define LEAST_MS 100

/* How long the first step is left out after the events' table was locked. */
#define INBOX_FOR MS(5000)

/*
 * How long nothing is tried after nothing could be stored, or the standbys are not asked after they did not
 * confirm: the first time, and at most.
 */
#define FIRST_DELAY MS(250)
#define LAST_DELAY MS(4000)

struct KtIntake
{
	MemoryContext context;
	KtSlot *slot;
	KtWaiting waiting;

	int64 inbox_until;  /* the first step is left out */
	int inbox_sqlstate; /* why: of the error */
	char inbox_error[KT_MAX_STATUS];
	int64 retry_at; /* nothing is tried before; 0: no trouble */
	int64 delay;
	int64 confirm_at;
	int batch; /* entries in the next unit at most: halved when one of them makes the inbox fail */
	char trouble[KT_MAX_STATUS];

	List *notify; /* call_ids, palloc'd in context */
	bool binds;
};

/* One unit of work. */
typedef enum Step
{
	STEP_STORE,
	STEP_APART,
	STEP_KEEP
} Step;

typedef struct Batch
{
	MemoryContext context; /* of what outlives a step */
	KtEntry *entries[MAX_BATCH];
	KtWebhook *webhooks; /* of which nread are read */
	KtStored *stored;
	int n;
	int nread;
	Step step;
	int64 deadline; /* for STEP_APART */
	int sqlstate;   /* of the step before */
	char error[KT_MAX_STATUS];
} Batch;

KtIntake *
kt_intake_make(MemoryContext context, KtSlot *slot)
{
	KtIntake *intake = MemoryContextAllocZero(context, sizeof(KtIntake));

	intake->context = context;
	intake->slot = slot;
	intake->batch = MAX_BATCH;
	kt_waiting_init(&intake->waiting, context, slot);
	return intake;
}

void
kt_intake_take(KtIntake *intake, KtHttpd *httpd)
{
	kt_waiting_take(&intake->waiting, httpd);
}

/*
 * How long a unit may take that is to be over before the first that has no answer is so old, in ms: that at most. 0:
 * it is not begun at all.
 */
static int
time_until(const KtIntake *intake, int64 age, int most)
{
	int64 first = kt_waiting_earliest(&intake->waiting);
	int64 left = most;

	if (first >= 0)
		left = Min(left, (first + age - kt_http_now()) / 1000);
	return left >= LEAST_MS ? (int) left : 0;
}

static int
time_for(const KtIntake *intake, int most)
{
	return time_until(intake, UNIT_ENDS_AT, most);
}

int
kt_intake_spare(const KtIntake *intake, int most)
{
	return time_until(intake, BESIDE_UNTIL, most);
}

/* ---- what became of a batch -------------------------------------------------------------------------------- */

static int
status_of(KtStoredAs as)
{
	switch (as)
	{
		case KT_STORED_EVENT:
		case KT_STORED_DUPLICATE:
		case KT_STORED_CONFLICT:
		case KT_STORED_KEPT:
			return 200;
		case KT_STORED_BAD:
			return 400;
		case KT_STORED_REFUSED:
			return 503;
	}
	return 503;
}

static void
count_stored(KtSlot *slot, KtStoredAs as)
{
	static const KtCounter counters[] = {
		[KT_STORED_EVENT] = KT_COUNT_STORED,
		[KT_STORED_DUPLICATE] = KT_COUNT_DUPLICATES,
		[KT_STORED_CONFLICT] = KT_COUNT_CONFLICTS,
		[KT_STORED_KEPT] = KT_COUNT_KEPT,
		[KT_STORED_BAD] = KT_COUNT_BAD,
		[KT_STORED_REFUSED] = KT_COUNT_DROPPED,
	};

	kt_count(slot, counters[as], 1);
}

/*
 * The entry is in the tables here. Where the standbys may not have it, the answer has to wait; but a 400 promises
 * nothing, whatever they say.
 */
static void
finish_entry(KtIntake *intake, KtEntry *entry, KtStoredAs as, bool confirmed)
{
	int status = status_of(as);

	count_stored(intake->slot, as);
	if (entry->delivery == NULL && as != KT_STORED_REFUSED)
		kt_count(intake->slot, KT_COUNT_STORED_LATE, 1);
	if (entry->delivery != NULL && status == 200 && !confirmed)
		kt_waiting_hold_back(&intake->waiting, entry);
	else
		kt_waiting_end(&intake->waiting, entry, status);
}

static void
remember_notification(KtIntake *intake, const KtWebhook *webhook)
{
	MemoryContext old = MemoryContextSwitchTo(intake->context);

	intake->notify = lappend(intake->notify, pstrdup(webhook->call_id));
	MemoryContextSwitchTo(old);
}

static void
note_webhook(KtIntake *intake)
{
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	intake->slot->last_webhook = GetCurrentTimestamp();
	LWLockRelease(kt_shared->lock);
}

static int64
longer(int64 delay)
{
	return Min(Max(2 * delay, FIRST_DELAY), LAST_DELAY);
}

/* The standbys have not confirmed the last commit. */
static void
note_unconfirmed(KtIntake *intake)
{
	intake->delay = longer(intake->delay);
	intake->confirm_at = kt_http_now() + intake->delay;
	strlcpy(intake->trouble,
	        "synchronous standbys do not confirm: webhooks are stored here and answered with 503",
	        sizeof(intake->trouble));
}

/* The batch's unit is committed. */
static void
finish(KtIntake *intake, Batch *batch)
{
	bool confirmed = !kt_xact_is_unconfirmed();
	bool wrote = false; /* else the commit waited for nobody */
	int i;

	KT_FAULT("receive-committed");
	kt_count(intake->slot, KT_COUNT_EVENT_BATCHES, 1);
	for (i = 0; i < batch->n; i++)
	{
		wrote = wrote || status_of(batch->stored[i].as) == 200;
		if (batch->stored[i].as == KT_STORED_EVENT && kt_notify)
			remember_notification(intake, &batch->webhooks[i]);
		intake->binds = intake->binds || batch->stored[i].binds;
		finish_entry(intake, batch->entries[i], batch->stored[i].as, confirmed);
	}
	intake->retry_at = 0;
	intake->batch = Min(2 * intake->batch, MAX_BATCH);
	if (!confirmed)
		note_unconfirmed(intake);
	else if (wrote || intake->waiting.nunconfirmed == 0)
	{
		intake->delay = 0;
		intake->trouble[0] = '\0';
		kt_waiting_confirm(&intake->waiting);
		note_webhook(intake);
	}
}

/* ---- the ladder -------------------------------------------------------------------------------------------- */

/* Within a step: memory that is out for one body costs the step, not the process with all it holds. */
static void
read_webhooks(Batch *batch)
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
	Batch *batch = argument;

	read_webhooks(batch);
	switch (batch->step)
	{
		case STEP_STORE:
			kt_events_store(batch->webhooks, batch->n, batch->stored);
			break;
		case STEP_APART:
			kt_events_store_apart(batch->webhooks, batch->n, batch->deadline, batch->stored);
			break;
		case STEP_KEEP:
			kt_events_keep(batch->webhooks, batch->n, batch->sqlstate,
			               batch->sqlstate != 0 ? batch->error : NULL, batch->stored);
			break;
	}
	KT_FAULT("receive-executed");
}

/* One step, if there is time for it; false when there is not or it failed. */
static bool
run_step(KtIntake *intake, Batch *batch, Step step, int most)
{
	static const char *const activity[] = {
		[STEP_STORE] = "storing webhooks",
		[STEP_APART] = "storing webhooks one by one",
		[STEP_KEEP] = "keeping webhooks in the inbox",
	};
	int time = time_for(intake, most);
	char error[KT_MAX_STATUS];
	int sqlstate;

	if (time == 0)
		return false;
	batch->step = step;
	batch->deadline = kt_http_now() + MS(time) / 2;
	/* a cancelled part leaves a third as long for the rest: see kt_xact_limit() */
	kt_xact_limit(step == STEP_APART ? time * 3 / 4 : time);
	if (kt_xact_run(activity[step], batch_work, batch, &sqlstate, error, sizeof(error)) ==
	    KT_XACT_DONE)
		return true;
	batch->sqlstate = sqlstate;
	strlcpy(batch->error, error, sizeof(batch->error));
	return false;
}

static void
leave_out_first_step(KtIntake *intake, const Batch *batch)
{
	intake->inbox_until = kt_http_now() + INBOX_FOR;
	intake->inbox_sqlstate = batch->sqlstate;
	strlcpy(intake->inbox_error, batch->error, sizeof(intake->inbox_error));
}

/* Goes down the steps. False when the last failed, or there was no time for it. */
static bool
descend(KtIntake *intake, Batch *batch)
{
	bool calm = intake->trouble[0] == '\0';

	if (kt_http_now() >= intake->inbox_until)
	{
		if (run_step(intake, batch, STEP_STORE, calm ? STORE_MS : TROUBLE_MS))
			return true;
		if (batch->sqlstate == 0)
			return false;
		if (kt_xact_is_passing(batch->sqlstate))
			leave_out_first_step(intake, batch);
		else if (run_step(intake, batch, STEP_APART, calm ? APART_MS : TROUBLE_MS))
			return true;
	}
	else
	{
		batch->sqlstate = intake->inbox_sqlstate;
		strlcpy(batch->error, intake->inbox_error, sizeof(batch->error));
	}
	return run_step(intake, batch, STEP_KEEP, calm ? KEEP_MS : TROUBLE_MS);
}

/*
 * Nothing of the batch could be stored. It may be for one of them, or for all together, which take too long: smaller
 * batches help, and what failed goes behind the others.
 */
static void
give_up_for_now(KtIntake *intake, Batch *batch)
{
	int i;

	intake->delay = longer(intake->delay);
	intake->retry_at = kt_http_now() + intake->delay;
	intake->inbox_until = 0;
	intake->batch = Max(batch->n / 2, 1);
	for (i = 0; i < batch->n; i++)
		kt_waiting_put_last(&intake->waiting, batch->entries[i]);
	snprintf(intake->trouble, sizeof(intake->trouble), "cannot store webhooks: %s",
	         batch->sqlstate != 0 ? batch->error : "there was no time");
}

/* ---- batches ------------------------------------------------------------------------------------------------ */

/* Fills the batch with entries that are answered, or with those that are not. */
static void
pick(const KtIntake *intake, Batch *batch, size_t *bytes, bool answered)
{
	dlist_iter iter;

	dlist_foreach(iter, unconstify(dlist_head *, &intake->waiting.waiting))
	{
		KtEntry *entry = dlist_container(KtEntry, node, iter.cur);

		if ((entry->delivery == NULL) != answered)
			continue;
		if (batch->n == intake->batch || (batch->n > 0 && *bytes + entry->len > MAX_BATCH_BYTES))
			return;
		batch->entries[batch->n++] = entry;
		*bytes += entry->len;
	}
}

/* Those that can still be answered come first. */
static Batch *
make_batch(const KtIntake *intake)
{
	Batch *batch = palloc0(sizeof(Batch));
	size_t bytes = 0;

	pick(intake, batch, &bytes, false);
	pick(intake, batch, &bytes, true);
	batch->context = CurrentMemoryContext;
	batch->webhooks = palloc(batch->n * sizeof(KtWebhook));
	batch->stored = palloc0(batch->n * sizeof(KtStored));
	return batch;
}

/* False when nothing of the batch could be stored. */
static bool
store_batch(KtIntake *intake)
{
	Batch *batch = make_batch(intake);

	KT_FAULT("receive-taken");
	if (!descend(intake, batch))
	{
		give_up_for_now(intake, batch);
		return false;
	}
	finish(intake, batch);
	KT_FAULT("receive-answered");
	return true;
}

/* A commit that has to be confirmed and changes nothing. */
static void
confirm_work(void *argument)
{
	if (SPI_execute("SELECT pg_catalog.pg_logical_emit_message(true, 'kridtech', '')", false, 0) !=
	    SPI_OK_SELECT)
		elog(ERROR, "could not write a message");
}

static void
ask_standbys(KtIntake *intake)
{
	int time = time_for(intake, TROUBLE_MS);

	note_unconfirmed(intake);
	if (time == 0)
		return;
	kt_xact_limit(time);
	if (kt_xact_run("asking the synchronous standbys", confirm_work, NULL, NULL, NULL, 0) !=
	        KT_XACT_DONE ||
	    kt_xact_is_unconfirmed())
		return;
	intake->delay = 0;
	intake->trouble[0] = '\0';
	kt_waiting_confirm(&intake->waiting);
}

/* Nothing can be stored when retry_at is set; else what is wrong are the standbys. */
static bool
asks_standbys(const KtIntake *intake)
{
	return intake->trouble[0] != '\0' && intake->retry_at == 0;
}

/* Nothing can be stored, and three quarters of the connections wait for it. */
static bool
is_crowded(const KtIntake *intake, bool stores)
{
	return (!stores || intake->trouble[0] != '\0') &&
	       kt_waiting_unanswered(&intake->waiting) > kt_webhook_max_connections * 3 / 4;
}

static int64
refuse_at(const KtIntake *intake, bool stores)
{
	return is_crowded(intake, stores) ? REFUSE_CROWDED_AT : REFUSE_AT;
}

bool
kt_intake_work(KtIntake *intake, bool stores)
{
	int64 now = kt_http_now();

	intake->waiting.answered = false;
	kt_waiting_refuse(&intake->waiting, refuse_at(intake, stores));
	if (stores && intake->waiting.nwaiting > 0 && now >= intake->retry_at)
		(void) store_batch(intake);
	else if (stores && asks_standbys(intake) && now >= intake->confirm_at)
		ask_standbys(intake);
	kt_waiting_refuse(&intake->waiting, refuse_at(intake, stores));
	return intake->waiting.answered;
}

/* ---- what follows ------------------------------------------------------------------------------------------- */

typedef struct Notification
{
	const char **call_ids;
	int n;
} Notification;

static void
notify_work(void *argument)
{
	Notification *notification = argument;

	kt_xact_may_be_lost(); /* a notification is a hint */
	kt_events_notify(notification->call_ids, notification->n);
	KT_FAULT("receive-notified");
}

void
kt_intake_notify(KtIntake *intake)
{
	Notification notification = {.n = 0};
	int time = kt_intake_spare(intake, NOTIFY_MS);
	ListCell *cell;

	if (intake->notify == NIL || time == 0)
		return;
	notification.call_ids = palloc(list_length(intake->notify) * sizeof(char *));
	foreach (cell, intake->notify)
	{
		notification.call_ids[notification.n++] = lfirst(cell);
	}
	kt_xact_limit(time);
	(void) kt_xact_run("notifying", notify_work, &notification, NULL, NULL, 0);
	list_free_deep(intake->notify);
	intake->notify = NIL;
}

int64
kt_intake_deadline(const KtIntake *intake, bool stores)
{
	int64 first = kt_waiting_earliest(&intake->waiting);
	int64 deadline = first >= 0 ? first + refuse_at(intake, stores) : -1;
	int64 work = -1;

	if (stores && intake->waiting.nwaiting > 0)
		work = intake->retry_at;
	else if (stores && asks_standbys(intake))
		work = intake->confirm_at;
	if (work >= 0 && (deadline < 0 || work < deadline))
		deadline = work;
	return deadline;
}

int
kt_intake_unanswered(const KtIntake *intake)
{
	return kt_waiting_unanswered(&intake->waiting);
}

int
kt_intake_held(const KtIntake *intake)
{
	return intake->waiting.nheld;
}

const char *
kt_intake_trouble(const KtIntake *intake)
{
	return intake->trouble[0] != '\0' ? intake->trouble : NULL;
}

bool
kt_intake_binds(KtIntake *intake)
{
	bool binds = intake->binds;

	intake->binds = false;
	return binds;
}

void
kt_intake_end(KtIntake *intake)
{
	int64 until = kt_http_now() + END_US;
	int held;

	kt_waiting_refuse(&intake->waiting, 0);
	intake->batch = MAX_BATCH;
	while (intake->waiting.nheld > 0 && kt_http_now() < until)
	{
		intake->inbox_until = PG_INT64_MAX; /* there is time for one step */
		if (!store_batch(intake))
			break;
	}
	held = intake->waiting.nheld;
	if (held > 0)
		ereport(WARNING, (errmsg("kridtech receiver: %d webhooks that were refused with 503 could "
		                         "not be stored and are lost",
		                         held)));
	kt_count(intake->slot, KT_COUNT_DROPPED, held);
}
