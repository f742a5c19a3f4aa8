/*
 * Waking this database's dialer at commit.
 *
 * One transaction callback per backend, registered when something is first queued there. It runs after
 * the transaction has become visible to others, so a dialer it wakes finds the rows. A transaction that
 * is prepared forgets its wake: another backend commits it, and the slow poll sees that. Without shared
 * memory (not preloaded) there is nobody to wake.
 */
#include "postgres.h"

#include "wake.h"

#include "access/xact.h"
#include "fault.h"
#include "miscadmin.h"
#include "shmem.h"
#include "utils/memutils.h"

/* What the current transaction has asked for. */
static bool wanted = false;
static bool wanted_urgently = false;
static int64 queued = 0;

/*
 * How much was queued when each of the open subtransactions began, by nesting level: what one of them queued does
 * not count when it is rolled back. A level that began before the callbacks were registered had nothing before it.
 */
static int64 *queued_before = NULL;
static int levels = 0;

static bool
wake(bool urgent)
{
	Latch *latch = NULL;
	KtSlot *slot;

	if (kt_shared == NULL)
		return false;
	LWLockAcquire(kt_shared->lock, LW_SHARED);

	/* A receiver that cannot receive may be waiting for what this transaction has brought: the extension. */
	slot = kt_shmem_find(MyDatabaseId, KT_RECEIVER);
	if (slot != NULL && !slot->ok && slot->latch != NULL)
		SetLatch(slot->latch);
	slot = kt_shmem_find(MyDatabaseId, KT_DIALER);
	if (slot != NULL)
	{
		/* Lone stores of true, repeated by others at worst: a shared lock will do. */
		slot->woken = true;
		if (urgent)
			slot->urgent = true;
		latch = slot->latch;
	}
	/* Under the lock: a dialer that ends clears its latch before its PGPROC can be another's. */
	if (latch != NULL)
		SetLatch(latch);
	LWLockRelease(kt_shared->lock);
	return latch != NULL;
}

/* Nothing here throws: at COMMIT the transaction is committed, an error would be a PANIC or worse. */
static void
on_transaction_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (wanted)
				(void) wake(wanted_urgently);
			KT_FAULT("commit-visible");
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			break;
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			return;
	}
	wanted = wanted_urgently = false;
	queued = 0;
	if (levels > 0)
		memset(queued_before, 0, levels * sizeof(int64));
}

/* Memory is had at the start, where an error is one like any other; the abort only looks. */
static void
on_subtransaction_event(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
                        void *arg)
{
	int level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_START_SUB)
	{
		if (level >= levels)
		{
			int n = level + 16;

			queued_before = queued_before == NULL
			                    ? MemoryContextAlloc(TopMemoryContext, n * sizeof(int64))
			                    : repalloc(queued_before, n * sizeof(int64));
			memset(queued_before + levels, 0, (n - levels) * sizeof(int64));
			levels = n;
		}
		queued_before[level] = queued;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		queued = level < levels ? queued_before[level] : 0;
}

static void
register_once(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(on_transaction_event, NULL);
	RegisterSubXactCallback(on_subtransaction_event, NULL);
	registered = true;
}

void
kt_wake_at_commit(bool urgent)
{
	register_once();
	wanted = true;
	wanted_urgently = wanted_urgently || urgent;
}

bool
kt_wake_now(void)
{
	return wake(false);
}

void
kt_wake_count_queued(int64 n)
{
	register_once();
	queued += n;
}

int64
kt_wake_queued(void)
{
	return queued;
}
