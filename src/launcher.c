/*
 * The launcher: one per server, connected to no database. It reads which databases are to have
 * workers (databases.c) and starts for each a dialer, and a receiver where kridtech.webhook_listen has an entry
 * for it. It starts one again that has ended, and ends those whose database is no longer named.
 *
 * Whether a worker runs is asked of its slot in shared memory, which the worker itself keeps true, and,
 * while it has not got that far, of the handle of its registration. So a launcher that was ended itself
 * and came back finds the workers of its predecessor, whose handles are lost, and neither doubles nor
 * abandons them. What slips through (registered by the one, not yet in its slot when the other looks)
 * ends itself in kt_worker_attach().
 *
 * A listening socket outlives its receiver, so that connections wait for the next one. Where there is to be
 * none, they would wait for nobody: the launcher shuts such a socket, so that they are refused.
 *
 * It sleeps until something happens: a worker's start or end, SIGHUP, kridtech_restart_workers(). Only
 * while a named database is missing or a worker could not be started does it look again by the clock,
 * since no event tells of a CREATE DATABASE or of a worker slot that has become free.
 */
#include "postgres.h"

#include "launcher.h"

#include "databases.h"
#include "http.h"
#include "listen.h"
#include "miscadmin.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "worker.h"
#include "xact.h"

#define SECONDS(n) ((int64) (n) *1000000)

/* How often to look for what is missing: databases, worker slots. */
#define LOOK_AGAIN SECONDS(10)

/*
 * A worker that ended comes back after a delay: the first, doubled each time up to the last while it lives no
 * longer than that. A receiver that has lived longer comes back at once: connections wait for it, and their
 * senders 10 s.
 */
typedef struct Delays
{
	int64 healthy;
	int64 first;
	int64 last;
} Delays;

static const Delays delays[] = {
	[KT_DIALER] = {SECONDS(1), SECONDS(1), SECONDS(60)},
	[KT_RECEIVER] = {0, SECONDS(1) / 20, SECONDS(4)},
};

StaticAssertDecl(lengthof(delays) == KT_NROLES, "every role has its delays");

typedef struct Entry
{
	Oid database; /* InvalidOid: the entry is free */
	KtRole role;
	NameData name;
	bool listed;                    /* it should run */
	bool running;                   /* it did when we looked last */
	bool ending;                    /* it was told to end */
	bool refused;                   /* no worker slot was free for it */
	BackgroundWorkerHandle *handle; /* of what this launcher started, until it has ended */
	int64 started;
	int64 due;   /* when to start it, while it does not run */
	int64 delay; /* that was kept last */
} Entry;

static Entry entries[KT_MAX_SLOTS];
static KtDatabases look;
static int64 look_due = 0; /* -1: only when something happens */

/* ---- which should run ------------------------------------------------------------------------------------ */

/* The entry of a worker, else a free one, else NULL. */
static Entry *
find_entry(Oid database, KtRole role)
{
	Entry *unused = NULL;
	int i;

	for (i = 0; i < KT_MAX_SLOTS; i++)
	{
		if (entries[i].database == database && entries[i].role == role)
			return &entries[i];
		if (unused == NULL && !OidIsValid(entries[i].database))
			unused = &entries[i];
	}
	return unused;
}

/* Marks one that should run. It gets an entry and a slot, once those of databases that went are free. */
static void
list_worker(Oid database, KtRole role, NameData *name)
{
	Entry *entry = find_entry(database, role);
	KtSlot *slot = NULL;

	if (entry != NULL)
	{
		LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
		slot = kt_shmem_claim(database, role);
		LWLockRelease(kt_shared->lock);
	}
	if (slot == NULL)
	{
		kt_databases_say(look.missing, NameStr(*name), "waits for others to end");
		return;
	}
	entry->database = database;
	entry->role = role;
	entry->listed = true;
	entry->name = *name;
}

/* Reads pg_database and marks the workers that should run. */
static void
look_around(void)
{
	KtDatabases found;
	int i;

	look_due = kt_http_now() + LOOK_AGAIN;
	if (kt_xact_run("looking for databases", kt_databases_look, &found, NULL, NULL, 0) !=
	    KT_XACT_DONE)
		return;
	look = found;
	for (i = 0; i < KT_MAX_SLOTS; i++)
		entries[i].listed = false;
	for (i = 0; i < look.count; i++)
	{
		list_worker(look.databases[i], KT_DIALER, &look.names[i]);
		if (look.receives[i])
			list_worker(look.databases[i], KT_RECEIVER, &look.names[i]);
	}
	for (i = 0; i < kt_listen_count(); i++)
		if (!look.wanted[i])
			kt_listen_stop(kt_listen_get(i));
	if (look.missing[0] == '\0')
		look_due = -1;
}

/* Enters the workers that an earlier launcher started. */
static void
adopt_workers(void)
{
	int i;

	LWLockAcquire(kt_shared->lock, LW_SHARED);
	for (i = 0; i < KT_MAX_SLOTS; i++)
	{
		entries[i].database = kt_shared->slots[i].database;
		entries[i].role = kt_shared->slots[i].role;
		entries[i].running = kt_shared->slots[i].pid != 0;
		entries[i].started = kt_http_now();
	}
	LWLockRelease(kt_shared->lock);
}

/* ---- each worker ---------------------------------------------------------------------------------------- */

/* Whether it runs or is about to; *asked when kridtech_restart_workers() wants a fresh one. */
static bool
is_running(Entry *entry, bool *asked)
{
	KtSlot *slot;
	bool running;
	pid_t pid;

	LWLockAcquire(kt_shared->lock, LW_SHARED);
	slot = kt_shmem_find(entry->database, entry->role);
	running = slot != NULL && slot->pid != 0;
	*asked = slot != NULL && slot->restart;
	LWLockRelease(kt_shared->lock);
	if (running || entry->handle == NULL)
		return running;
	switch (GetBackgroundWorkerPid(entry->handle, &pid))
	{
		case BGWH_NOT_YET_STARTED:
		case BGWH_STARTED:
			return true;
		case BGWH_STOPPED:
		case BGWH_POSTMASTER_DIED:
			break;
	}
	pfree(entry->handle);
	entry->handle = NULL;
	return false;
}

/*
 * It has ended: when does it come back, and is its database still there? Its worker slot may do for
 * another one.
 */
static void
note_end(Entry *entry, int64 now)
{
	const Delays *kept = &delays[entry->role];
	int i;

	if (entry->ending)
		entry->delay = 0;
	else if (now - entry->started >= kept->last)
		entry->delay = kept->healthy;
	else
		entry->delay = Min(Max(2 * entry->delay, kept->first), kept->last);
	entry->due = now + entry->delay;
	entry->ending = false;
	look_due = now;
	for (i = 0; i < KT_MAX_SLOTS; i++)
		if (entries[i].refused)
			entries[i].due = now;
}

/* A wish for a restart is granted by the attempt: left standing, it would bring a failing one back at once. */
static void
clear_wish(const Entry *entry)
{
	KtSlot *slot;

	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	slot = kt_shmem_find(entry->database, entry->role);
	if (slot != NULL)
		slot->restart = false;
	LWLockRelease(kt_shared->lock);
}

static void
start_worker(Entry *entry, int64 now)
{
	clear_wish(entry);
	entry->refused =
		!kt_worker_start(entry->role, entry->database, NameStr(entry->name), &entry->handle);
	if (entry->refused)
	{
		entry->handle = NULL;
		entry->due = now + LOOK_AGAIN;
		return;
	}
	entry->running = true;
	entry->started = now;
}

/* The slot's pid lives while the lock is held: see shmem.c. */
static void
end_worker(Entry *entry)
{
	KtSlot *slot;

	if (entry->handle != NULL)
		TerminateBackgroundWorker(entry->handle);
	LWLockAcquire(kt_shared->lock, LW_SHARED);
	slot = kt_shmem_find(entry->database, entry->role);
	if (slot != NULL && slot->pid != 0)
		kill(slot->pid, SIGTERM);
	LWLockRelease(kt_shared->lock);
	entry->ending = true;
}

static void
forget_worker(Entry *entry)
{
	KtSlot *slot;

	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	slot = kt_shmem_find(entry->database, entry->role);
	if (slot != NULL && slot->pid == 0)
		kt_shmem_free(slot);
	LWLockRelease(kt_shared->lock);
	memset(entry, 0, sizeof(*entry));
}

static void
supervise(Entry *entry, int64 now)
{
	bool asked;
	bool running = is_running(entry, &asked);

	if (entry->running && !running)
		note_end(entry, now);
	entry->running = running;
	if (!running && asked)
		entry->due = now;
	if (entry->listed && !running && entry->due <= now)
		start_worker(entry, now);
	else if (!entry->listed && running && !entry->ending)
		end_worker(entry);
	else if (!entry->listed && !running)
		forget_worker(entry);
}

static void
supervise_all(void)
{
	int64 now = kt_http_now();
	int i;

	for (i = 0; i < KT_MAX_SLOTS; i++)
		if (OidIsValid(entries[i].database))
			supervise(&entries[i], now);
}

/* ---- reporting ------------------------------------------------------------------------------------------ */

/* The state of all in words, for health; and for the log, once each time it changes. */
static void
report(void)
{
	char status[KT_MAX_STATUS] = "";
	bool refused = false;
	bool ok;
	int i;

	strlcpy(status, look.missing, sizeof(status));
	for (i = 0; i < KT_MAX_SLOTS; i++)
		if (entries[i].listed && entries[i].refused)
		{
			char fault[64];

			snprintf(fault, sizeof(fault), "has no %s: no worker slot is free",
			         kt_worker_role(entries[i].role));
			kt_databases_say(status, NameStr(entries[i].name), fault);
			refused = true;
		}
	ok = status[0] == '\0';
	if (ok && look.named == 0)
		strlcpy(status, "kridtech.databases is empty: nothing dials", sizeof(status));
	else if (ok && look.receivers == 0)
		snprintf(status, sizeof(status), "keeps a dialer for %d of %d databases", look.count,
		         look.named);
	else if (ok)
		snprintf(status, sizeof(status),
		         "keeps a dialer for %d of %d databases, and a receiver for %d", look.count,
		         look.named, look.receivers);
	if (kt_shmem_report_launcher(ok, status))
		ereport(LOG,
		        (errmsg("kridtech launcher: %s", status),
		         refused ? errhint("Increase max_worker_processes and restart the server.") : 0));
}

/* When to look next if nothing happens. */
static int64
next_deadline(void)
{
	int64 deadline = look_due;
	int i;

	for (i = 0; i < KT_MAX_SLOTS; i++)
		if (entries[i].listed && !entries[i].running && (deadline < 0 || entries[i].due < deadline))
			deadline = entries[i].due;
	return deadline;
}

/* Before a worker is started, too: its database may have been dropped since the one before it ended. */
static bool
must_look(int64 now)
{
	int i;

	if (look_due >= 0 && look_due <= now)
		return true;
	for (i = 0; i < KT_MAX_SLOTS; i++)
		if (entries[i].listed && !entries[i].running && entries[i].due <= now)
			return true;
	return false;
}

void
kridtech_launcher_main(Datum argument)
{
	kt_worker_signals();
	kt_worker_attach_launcher();
	kt_worker_connect(InvalidOid);

	/* Handles of workers are allocated here. */
	MemoryContextSwitchTo(TopMemoryContext);
	adopt_workers();
	while (!kt_worker_stop)
	{
		if (kt_worker_reload())
			look_due = kt_http_now();
		if (must_look(kt_http_now()))
			look_around();
		supervise_all();
		report();
		kt_worker_wait(-1, next_deadline(), "KridtechLauncher");
	}
	proc_exit(KT_EXIT_AGAIN);
}
