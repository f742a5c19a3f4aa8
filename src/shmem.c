/*
 * The shared memory of the workers: a fixed array of slots, one per database and role, and the launcher's
 * words.
 *
 * A slot's pid and latch are those of a living process: they are set by the process itself and cleared
 * by it on its way out, under the lock; a process that dies without that makes the postmaster reset all
 * of shared memory. So whoever holds the lock may signal the pid and set the latch.
 */
#include "postgres.h"

#include "shmem.h"

#include "clock.h"
#include "compat.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#define NAME "kridtech"

KtShared *kt_shared = NULL;

static shmem_startup_hook_type previous_startup_hook = NULL;

static void
request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(KtShared)));
	RequestNamedLWLockTranche(NAME, 1);
}

static void
initialize(void)
{
	int i;
	int j;

	memset(kt_shared, 0, sizeof(*kt_shared));
	kt_shared->lock = &GetNamedLWLockTranche(NAME)->lock;
	kt_shared->started_at = kt_shared->launcher_since = GetCurrentTimestamp();
	for (i = 0; i < KT_MAX_SLOTS; i++)
	{
		KtSlot *slot = &kt_shared->slots[i];

		for (j = 0; j < KT_NCOUNTERS; j++)
			pg_atomic_init_u64(&slot->counters[j], 0);
		for (j = 0; j < KT_LATENCY_BUCKETS; j++)
			pg_atomic_init_u64(&slot->latency[j], 0);
	}
}

/* Runs in the postmaster, at start and after every crash of a backend. */
static void
on_startup(void)
{
	bool found;

	if (previous_startup_hook != NULL)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	kt_shared = ShmemInitStruct(NAME, sizeof(KtShared), &found);
	if (!found)
		initialize();
	LWLockRelease(AddinShmemInitLock);
}

void
kt_shmem_install(void)
{
	kt_clock_install();
	kt_on_shmem_request(request);
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = on_startup;
}

KtSlot *
kt_shmem_find(Oid database, KtRole role)
{
	int i;

	if (kt_shared == NULL || !OidIsValid(database))
		return NULL;
	for (i = 0; i < KT_MAX_SLOTS; i++)
		if (kt_shared->slots[i].database == database && kt_shared->slots[i].role == role)
			return &kt_shared->slots[i];
	return NULL;
}

static KtSlot *
find_free(void)
{
	int i;

	for (i = 0; i < KT_MAX_SLOTS; i++)
		if (!OidIsValid(kt_shared->slots[i].database))
			return &kt_shared->slots[i];
	return NULL;
}

KtSlot *
kt_shmem_claim(Oid database, KtRole role)
{
	KtSlot *slot = kt_shmem_find(database, role);
	int i;

	Assert(LWLockHeldByMeInMode(kt_shared->lock, LW_EXCLUSIVE));
	if (slot != NULL || (slot = find_free()) == NULL)
		return slot;
	slot->database = database;
	slot->role = role;
	slot->pid = 0;
	slot->latch = NULL;
	slot->epoch = 0;
	slot->in_flight = 0;
	slot->ok = slot->woken = slot->urgent = slot->restart = false;
	slot->status[0] = slot->sync_status[0] = '\0';
	slot->sync_ok = false;
	slot->sync_since = 0;
	slot->fetch_at = 0;
	slot->since = GetCurrentTimestamp();
	slot->connections = slot->kept = 0;
	slot->tls = false;
	slot->certificate_end = 0;
	slot->last_webhook = 0;
	for (i = 0; i < KT_NCOUNTERS; i++)
		pg_atomic_write_u64(&slot->counters[i], 0);
	for (i = 0; i < KT_LATENCY_BUCKETS; i++)
		pg_atomic_write_u64(&slot->latency[i], 0);
	return slot;
}

void
kt_shmem_free(KtSlot *slot)
{
	Assert(LWLockHeldByMeInMode(kt_shared->lock, LW_EXCLUSIVE));
	Assert(slot->pid == 0);
	slot->database = InvalidOid;
}

void
kt_shmem_require(void)
{
	if (kt_shared == NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		                errmsg("kridtech was not loaded at the server's start"),
		                errhint("Add kridtech to shared_preload_libraries in postgresql.conf and "
		                        "restart the server.")));
}

void
kt_shmem_report(KtSlot *slot, bool ok, const char *status)
{
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	if (slot->ok != ok || strncmp(slot->status, status, sizeof(slot->status) - 1) != 0)
	{
		slot->ok = ok;
		strlcpy(slot->status, status, sizeof(slot->status));
		slot->since = GetCurrentTimestamp();
	}
	LWLockRelease(kt_shared->lock);
}

void
kt_shmem_report_sync(KtSlot *slot, bool ok, const char *status)
{
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	if (slot->sync_ok != ok || slot->sync_since == 0)
		slot->sync_since = GetCurrentTimestamp();
	slot->sync_ok = ok;
	strlcpy(slot->sync_status, status, sizeof(slot->sync_status));
	LWLockRelease(kt_shared->lock);
}

TimestampTz
kt_shmem_watch_clock(void)
{
	TimestampTz trusted_since;

	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	trusted_since = kt_clock_follow();
	LWLockRelease(kt_shared->lock);
	return trusted_since;
}

void
kt_shmem_report_fetch(KtSlot *slot)
{
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	slot->fetch_at = GetCurrentTimestamp();
	LWLockRelease(kt_shared->lock);
}

bool
kt_shmem_report_launcher(bool ok, const char *status)
{
	bool changed;

	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	changed = kt_shared->launcher_ok != ok || strncmp(kt_shared->launcher_status, status,
	                                                  sizeof(kt_shared->launcher_status) - 1) != 0;
	if (changed)
	{
		kt_shared->launcher_ok = ok;
		strlcpy(kt_shared->launcher_status, status, sizeof(kt_shared->launcher_status));
		kt_shared->launcher_since = GetCurrentTimestamp();
	}
	LWLockRelease(kt_shared->lock);
	return changed;
}
