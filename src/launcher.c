/*
 * The launcher: one per server, connected to no database. It reads kridtech.databases and pg_database,
 * starts a dialer for each database that is named and can be connected to, starts one again that has
 * ended, and ends those whose database is no longer named.
 *
 * Whether a dialer runs is asked of its slot in shared memory, which the dialer itself keeps true, and,
 * while it has not got that far, of the handle of its registration. So a launcher that was ended itself
 * and came back finds the dialers of its predecessor, whose handles are lost, and neither doubles nor
 * abandons them. What slips through (registered by the one, not yet in its slot when the other looks)
 * ends itself in kt_worker_attach().
 *
 * It sleeps until something happens: a dialer's start or end, SIGHUP, kridtech_restart_workers(). Only
 * while a named database is missing or a dialer could not be started does it look again by the clock,
 * since no event tells of a CREATE DATABASE or of a worker slot that has become free.
 */
#include "postgres.h"

#include "launcher.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "compat.h"
#include "http.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "settings.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "worker.h"
#include "xact.h"

#define SECONDS(n) ((int64) (n) *1000000)

/* How often to look for what is missing: databases, worker slots. */
#define LOOK_AGAIN SECONDS(10)

/* A dialer that ended comes back after the first, doubled each time while it lives no longer than the last. */
#define FIRST_DELAY SECONDS(1)
#define LAST_DELAY SECONDS(60)

typedef struct Dialer
{
	Oid database; /* InvalidOid: the entry is free */
	NameData name;
	bool listed;                    /* it should run */
	bool running;                   /* it did when we looked last */
	bool ending;                    /* it was told to end */
	bool refused;                   /* no worker slot was free for it */
	BackgroundWorkerHandle *handle; /* of what this launcher started, until it has ended */
	int64 started;
	int64 due;   /* when to start it, while it does not run */
	int64 delay; /* that was kept last */
} Dialer;

/* What one look into pg_database found. */
typedef struct Look
{
	int named;
	int count;
	Oid databases[KT_MAX_DATABASES];
	NameData names[KT_MAX_DATABASES];
	char missing[KT_MAX_STATUS]; /* words about the others */
} Look;

static Dialer dialers[KT_MAX_DATABASES];
static Look look;
static int64 look_due = 0; /* -1: only when something happens */

/* ---- looking for the databases -------------------------------------------------------------------------- */

/* Why a database can have no worker, or NULL. */
static const char *
judge_database(Form_pg_database form)
{
	if (form->datistemplate)
		return "is a template";
	if (!form->datallowconn)
		return "does not allow connections";
	if (form->datconnlimit < -1)
		return "was left behind by an interrupted DROP DATABASE";
	return NULL;
}

/*
 * Looks a database up; *oid is set where none of the faults is returned. By a heap scan: a process without
 * a database has no index of a shared catalog to go by while the relcache's init file is missing, as it is
 * at a cluster's first start.
 */
static const char *
find_database(const char *name, Oid *oid)
{
	Relation rel = table_open(DatabaseRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(rel, 0, NULL);
	const char *fault = "does not exist";
	HeapTuple tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (strcmp(NameStr(form->datname), name) != 0)
			continue;
		fault = judge_database(form);
		*oid = form->oid;
		break;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return fault;
}

static void
add_words(char words[KT_MAX_STATUS], const char *name, const char *fault)
{
	size_t len = strlen(words);

	snprintf(words + len, KT_MAX_STATUS - len, "%sdatabase \"%s\" %s", len > 0 ? "; " : "", name,
	         fault);
}

static void
look_work(void *argument)
{
	Look *found = argument;
	ListCell *cell;

	memset(found, 0, sizeof(*found));
	foreach (cell, kt_settings_databases())
	{
		const char *name = lfirst(cell);
		Oid database = InvalidOid;
		const char *fault = find_database(name, &database);

		found->named++;
		if (fault != NULL)
		{
			add_words(found->missing, name, fault);
			continue;
		}
		found->databases[found->count] = database;
		namestrcpy(&found->names[found->count], name);
		found->count++;
	}
}

static Dialer *
find_dialer(Oid database)
{
	int i;

	for (i = 0; i < KT_MAX_DATABASES; i++)
		if (dialers[i].database == database)
			return &dialers[i];
	return NULL;
}

/* The entry of a database and its slot; NULL while those of databases that went are not free yet. */
static Dialer *
enter_dialer(Oid database)
{
	Dialer *dialer = find_dialer(database);
	KtSlot *slot;

	if (dialer == NULL)
		dialer = find_dialer(InvalidOid);
	if (dialer == NULL)
		return NULL;
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	slot = kt_shmem_claim(database);
	LWLockRelease(kt_shared->lock);
	if (slot == NULL)
		return NULL;
	dialer->database = database;
	return dialer;
}

/* Reads pg_database and marks the dialers that should run. */
static void
look_around(void)
{
	Look found;
	int i;

	look_due = kt_http_now() + LOOK_AGAIN;
	if (kt_xact_run("looking for databases", look_work, &found, NULL, NULL, 0) != KT_XACT_DONE)
		return;
	look = found;
	for (i = 0; i < KT_MAX_DATABASES; i++)
		dialers[i].listed = false;
	for (i = 0; i < look.count; i++)
	{
		Dialer *dialer = enter_dialer(look.databases[i]);

		if (dialer == NULL)
		{
			add_words(look.missing, NameStr(look.names[i]), "waits for others to end");
			continue;
		}
		dialer->listed = true;
		dialer->name = look.names[i];
	}
	if (look.missing[0] == '\0')
		look_due = -1;
}

/* Enters the dialers that an earlier launcher started. */
static void
adopt_dialers(void)
{
	int i;

	LWLockAcquire(kt_shared->lock, LW_SHARED);
	for (i = 0; i < KT_MAX_DATABASES; i++)
	{
		dialers[i].database = kt_shared->slots[i].database;
		dialers[i].running = kt_shared->slots[i].pid != 0;
		dialers[i].started = kt_http_now();
	}
	LWLockRelease(kt_shared->lock);
}

/* ---- each dialer ---------------------------------------------------------------------------------------- */

/* Whether it runs or is about to; *asked when kridtech_restart_workers() wants a fresh one. */
static bool
is_running(Dialer *dialer, bool *asked)
{
	KtSlot *slot;
	bool running;
	pid_t pid;

	LWLockAcquire(kt_shared->lock, LW_SHARED);
	slot = kt_shmem_find(dialer->database);
	running = slot != NULL && slot->pid != 0;
	*asked = slot != NULL && slot->restart;
	LWLockRelease(kt_shared->lock);
	if (running || dialer->handle == NULL)
		return running;
	switch (GetBackgroundWorkerPid(dialer->handle, &pid))
	{
		case BGWH_NOT_YET_STARTED:
		case BGWH_STARTED:
			return true;
		case BGWH_STOPPED:
		case BGWH_POSTMASTER_DIED:
			break;
	}
	pfree(dialer->handle);
	dialer->handle = NULL;
	return false;
}

/*
 * It has ended: when does it come back, and is its database still there? Its worker slot may do for
 * another one.
 */
static void
note_end(Dialer *dialer, int64 now)
{
	int i;

	if (dialer->ending)
		dialer->delay = 0;
	else if (dialer->delay == 0 || now - dialer->started >= LAST_DELAY)
		dialer->delay = FIRST_DELAY;
	else
		dialer->delay = Min(2 * dialer->delay, LAST_DELAY);
	dialer->due = now + dialer->delay;
	dialer->ending = false;
	look_due = now;
	for (i = 0; i < KT_MAX_DATABASES; i++)
		if (dialers[i].refused)
			dialers[i].due = now;
}

/* A wish for a restart is granted by the attempt: left standing, it would bring a failing one back at once. */
static void
clear_wish(Oid database)
{
	KtSlot *slot;

	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	slot = kt_shmem_find(database);
	if (slot != NULL)
		slot->restart = false;
	LWLockRelease(kt_shared->lock);
}

static void
start_dialer(Dialer *dialer, int64 now)
{
	clear_wish(dialer->database);
	dialer->refused =
		!kt_worker_start_dialer(dialer->database, NameStr(dialer->name), &dialer->handle);
	if (dialer->refused)
	{
		dialer->handle = NULL;
		dialer->due = now + LOOK_AGAIN;
		return;
	}
	dialer->running = true;
	dialer->started = now;
}

/* The slot's pid lives while the lock is held: see shmem.c. */
static void
end_dialer(Dialer *dialer)
{
	KtSlot *slot;

	if (dialer->handle != NULL)
		TerminateBackgroundWorker(dialer->handle);
	LWLockAcquire(kt_shared->lock, LW_SHARED);
	slot = kt_shmem_find(dialer->database);
	if (slot != NULL && slot->pid != 0)
		kill(slot->pid, SIGTERM);
	LWLockRelease(kt_shared->lock);
	dialer->ending = true;
}

static void
forget_dialer(Dialer *dialer)
{
	KtSlot *slot;

	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	slot = kt_shmem_find(dialer->database);
	if (slot != NULL && slot->pid == 0)
		kt_shmem_free(slot);
	LWLockRelease(kt_shared->lock);
	memset(dialer, 0, sizeof(*dialer));
}

static void
supervise(Dialer *dialer, int64 now)
{
	bool asked;
	bool running = is_running(dialer, &asked);

	if (dialer->running && !running)
		note_end(dialer, now);
	dialer->running = running;
	if (!running && asked)
		dialer->due = now;
	if (dialer->listed && !running && dialer->due <= now)
		start_dialer(dialer, now);
	else if (!dialer->listed && running && !dialer->ending)
		end_dialer(dialer);
	else if (!dialer->listed && !running)
		forget_dialer(dialer);
}

static void
supervise_all(void)
{
	int64 now = kt_http_now();
	int i;

	for (i = 0; i < KT_MAX_DATABASES; i++)
		if (OidIsValid(dialers[i].database))
			supervise(&dialers[i], now);
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
	for (i = 0; i < KT_MAX_DATABASES; i++)
		if (dialers[i].listed && dialers[i].refused)
		{
			add_words(status, NameStr(dialers[i].name), "has no dialer: no worker slot is free");
			refused = true;
		}
	ok = status[0] == '\0';
	if (ok && look.named == 0)
		strlcpy(status, "kridtech.databases is empty: nothing dials", sizeof(status));
	else if (ok)
		snprintf(status, sizeof(status), "keeps a dialer for %d of %d databases", look.count,
		         look.named);
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

	for (i = 0; i < KT_MAX_DATABASES; i++)
		if (dialers[i].listed && !dialers[i].running && (deadline < 0 || dialers[i].due < deadline))
			deadline = dialers[i].due;
	return deadline;
}

/* Before a dialer is started, too: its database may have been dropped since the one before it ended. */
static bool
must_look(int64 now)
{
	int i;

	if (look_due >= 0 && look_due <= now)
		return true;
	for (i = 0; i < KT_MAX_DATABASES; i++)
		if (dialers[i].listed && !dialers[i].running && dialers[i].due <= now)
			return true;
	return false;
}

void
kridtech_launcher_main(Datum argument)
{
	kt_worker_signals();
	kt_worker_attach_launcher();
	kt_worker_connect(InvalidOid);

	/* Handles of dialers are allocated here. */
	MemoryContextSwitchTo(TopMemoryContext);
	adopt_dialers();
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
