/*
 * Deliveries between the HTTP server and the tables: stored in batches, answered in time.
 *
 * A delivery is an entry from the moment its body is in until it is stored. All that have come in while the
 * batch before was written are the next batch: one transaction, one flush, then all are answered. A lone one
 * waits for nobody.
 *
 * The sender gives up after 10 s and never comes back. So every entry has a time by which it is answered,
 * 503 if need be (waiting.c), and no unit of work outlives the earliest of them. ladder.c says how a batch is stored,
 * step by step. Where none of them works, nothing can be stored now. Entries wait in memory, and are tried again less
 * and less often; when their time comes they are answered 503 and stay, up to a bound, until they are stored.
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
#include "ladder.h"
#include "nodes/pg_list.h"
#include "settings.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "waiting.h"
#include "webhook.h"
#include "worker.h"
#include "xact.h"

#define MS(n) ((int64) (n) *1000)

/* A batch takes at most so many bytes; more in a first entry. */
#define MAX_BATCH_BYTES (32 * 1024 * 1024)

/*
 * An entry of that age is answered 503; no unit of work outlives it for long (KT_UNIT_ENDS_AT).
 * While nothing can be stored and places for connections become scarce, an earlier 503 is better: it frees the
 * place, and what is held can be stored later, while what is never accepted is lost.
 */
#define REFUSE_AT MS(8000)
#define REFUSE_CROWDED_AT MS(1000)

/* How long notifying may take, in ms. */
#define NOTIFY_MS 500

/* At the end: how long batches are begun for what is held. */
#define END_US MS(300)

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

	KtLadder ladder;
	int64 retry_at; /* nothing is tried before; 0: no trouble */
	int64 delay;
	int64 confirm_at;
	int batch; /* entries in the next unit at most: halved when one of them makes the inbox fail */
	char trouble[KT_MAX_STATUS];

	List *notify; /* call_ids, palloc'd in context */
	bool binds;
};

KtIntake *
kt_intake_make(MemoryContext context, KtSlot *slot)
{
	KtIntake *intake = MemoryContextAllocZero(context, sizeof(KtIntake));

	intake->context = context;
	intake->slot = slot;
	intake->batch = KT_MAX_BATCH;
	kt_waiting_init(&intake->waiting, context, slot);
	kt_ladder_init(&intake->ladder, &intake->waiting);
	return intake;
}

void
kt_intake_take(KtIntake *intake, KtHttpd *httpd)
{
	kt_waiting_take(&intake->waiting, httpd);
}

int
kt_intake_spare(const KtIntake *intake, int most)
{
	return kt_ladder_spare(&intake->ladder, most);
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
finish(KtIntake *intake, KtBatch *batch)
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
	intake->batch = Min(2 * intake->batch, KT_MAX_BATCH);
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

/* ---- batches ------------------------------------------------------------------------------------------------ */

/*
 * Nothing of the batch could be stored. It may be for one of them, or for all together, which take too long: smaller
 * batches help, and what failed goes behind the others.
 */
static void
give_up_for_now(KtIntake *intake, KtBatch *batch)
{
	int i;

	intake->delay = longer(intake->delay);
	intake->retry_at = kt_http_now() + intake->delay;
	intake->ladder.inbox_until = 0;
	intake->batch = Max(batch->n / 2, 1);
	for (i = 0; i < batch->n; i++)
		kt_waiting_put_last(&intake->waiting, batch->entries[i]);
	snprintf(intake->trouble, sizeof(intake->trouble), "cannot store webhooks: %s",
	         batch->sqlstate != 0 ? batch->error : "there was no time");
}

/* Fills the batch with entries that are answered, or with those that are not. */
static void
pick(const KtIntake *intake, KtBatch *batch, size_t *bytes, bool answered)
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
static KtBatch *
make_batch(const KtIntake *intake)
{
	KtBatch *batch = palloc0(sizeof(KtBatch));
	size_t bytes = 0;

	pick(intake, batch, &bytes, false);
	pick(intake, batch, &bytes, true);
	batch->context = CurrentMemoryContext;
	batch->webhooks = palloc(batch->n * sizeof(KtWebhook));
	batch->stored = palloc0(batch->n * sizeof(KtStored));
	return batch;
}

/*
 * May a batch take its full time? In trouble it may not: but one alone that has had its 503, and fails for the want of
 * time, would never be stored then.
 */
static bool
has_time(const KtIntake *intake, const KtBatch *batch)
{
	return intake->trouble[0] == '\0' || (batch->n == 1 && batch->entries[0]->delivery == NULL);
}

/* False when nothing of the batch could be stored. */
static bool
store_batch(KtIntake *intake)
{
	KtBatch *batch = make_batch(intake);

	KT_FAULT("receive-taken");
	if (!kt_ladder_descend(&intake->ladder, batch, has_time(intake, batch)))
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
	int time = kt_ladder_time(&intake->ladder, KT_TROUBLE_MS);

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
	       kt_waiting_unanswered(&intake->waiting) > kt_waiting_places(&intake->waiting) * 3 / 4;
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
	intake->batch = KT_MAX_BATCH;
	while (intake->waiting.nheld > 0 && kt_http_now() < until)
	{
		intake->ladder.inbox_until = PG_INT64_MAX; /* there is time for one step */
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
