/*
 * What every worker shares: signals, its slot, its connection, its pinned settings, its one wait.
 *
 * Ending. A worker leaves its loop on SIGTERM and exits with code 1; exit code 0 would unregister the
 * launcher for good. The handlers only set flags and the latch. What keeps a unit of work from outliving
 * SIGTERM stands in xact.c; what bounds a wait for a lock at any time is lock_timeout.
 */
#include "postgres.h"

#include "worker.h"

#include "compat.h"
#include "http.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "xact.h"

/* Seconds until the postmaster starts a launcher that ended: soon enough, and no crash loop. */
#define LAUNCHER_RESTART_SECONDS 5

volatile sig_atomic_t kt_worker_stop = false;
volatile sig_atomic_t kt_worker_reload_pending = false;

/* What tells the roles apart here. */
typedef struct Role
{
	const char *name;
	const char *type;
	const char *function;
} Role;

static const Role roles[] = {
	[KT_DIALER] = {"dialer", KT_DIALER_TYPE, "kridtech_dialer_main"},
	[KT_RECEIVER] = {"receiver", KT_RECEIVER_TYPE, "kridtech_receiver_main"},
};

StaticAssertDecl(lengthof(roles) == KT_NROLES, "every role is described");

const char *
kt_worker_role(KtRole role)
{
	return roles[role].name;
}

/* ---- signals -------------------------------------------------------------------------------------------- */

static void
on_sigterm(SIGNAL_ARGS)
{
	int saved_errno = errno;

	kt_worker_stop = true;
	kt_xact_hurry();
	SetLatch(MyLatch);
	errno = saved_errno;
}

static void
on_sighup(SIGNAL_ARGS)
{
	int saved_errno = errno;

	kt_worker_reload_pending = true;
	SetLatch(MyLatch);
	errno = saved_errno;
}

static void
on_sigint(SIGNAL_ARGS)
{
	int saved_errno = errno;

	kt_xact_cancel();
	errno = saved_errno;
}

/* SIGUSR1 (latches, barriers), SIGQUIT and SIGPIPE are as PostgreSQL sets them for every worker. */
void
kt_worker_signals(void)
{
	pqsignal(SIGTERM, on_sigterm);
	pqsignal(SIGHUP, on_sighup);
	pqsignal(SIGINT, on_sigint);
	BackgroundWorkerUnblockSignals();
}

/* ---- the slot ------------------------------------------------------------------------------------------- */

static void
wake_launcher(void)
{
	if (kt_shared->launcher_latch != NULL)
		SetLatch(kt_shared->launcher_latch);
}

/*
 * Exit callbacks of the kind that runs after the transaction's end has let go of all locks, and before
 * the PGPROC that the latch belongs to is given back.
 */
static void
detach(int code, Datum arg)
{
	KtSlot *slot = (KtSlot *) DatumGetPointer(arg);

	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	slot->pid = 0;
	slot->latch = NULL;
	slot->in_flight = slot->connections = slot->kept = 0;
	if (slot->ok)
	{
		slot->ok = false;
		snprintf(slot->status, sizeof(slot->status), "the %s has ended", roles[slot->role].name);
		slot->since = GetCurrentTimestamp();
	}
	wake_launcher();
	LWLockRelease(kt_shared->lock);
}

KtSlot *
kt_worker_attach(Oid database, KtRole role)
{
	KtSlot *slot;
	bool mine;

	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	slot = kt_shmem_claim(database, role);
	mine = slot != NULL && slot->pid == 0;
	if (mine)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		slot->restart = false;
	}
	LWLockRelease(kt_shared->lock);
	if (!mine)
	{
		ereport(LOG,
		        (errmsg("another kridtech %s works for database %u", roles[role].name, database)));
		proc_exit(KT_EXIT_AGAIN);
	}
	on_shmem_exit(detach, PointerGetDatum(slot));
	return slot;
}

static void
detach_launcher(int code, Datum arg)
{
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	kt_shared->launcher_pid = 0;
	kt_shared->launcher_latch = NULL;
	LWLockRelease(kt_shared->lock);
}

void
kt_worker_attach_launcher(void)
{
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	kt_shared->launcher_pid = MyProcPid;
	kt_shared->launcher_latch = MyLatch;
	LWLockRelease(kt_shared->lock);
	on_shmem_exit(detach_launcher, (Datum) 0);
}

/* ---- the connection and its settings -------------------------------------------------------------------- */

typedef struct Pin
{
	const char *name;
	const char *value;
} Pin;

/* Values as GetConfigOption() writes them. A setting that this version lacks is passed over. */
static const Pin pins[] = {
	/* A commit is flushed when it returns. */
	{"synchronous_commit", "on"},

	/* No unit ends by a time-out of somebody else's choice. */
	{"statement_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	{"idle_session_timeout", "0"},
	{"transaction_timeout", "0"},
	{"lock_timeout", KT_LOCK_TIMEOUT},

	/*
	 * Of two transactions that wait for each other PostgreSQL ends the one that looks first, each after its
	 * deadlock_timeout. A user's is not to be it: a worker that has come to wait last looks soon, and one that waited
	 * before, and saw nothing yet, has given up before the user's session looks.
	 */
	{"deadlock_timeout", "100"},

	/*
	 * What a unit holds has a bound of its own (limits.h). With little work_mem a part of it goes to a file: a limit
	 * would make a large request fail for as long as it stands, and all behind it wait.
	 */
	{"temp_file_limit", "-1"},

	/* An error costs the unit it is thrown in, not the process with all it holds. */
	{"exit_on_error", "off"},

	/* Where auto_explain is loaded, it logs plans, but not the transcripts and numbers that went into them. */
	{"auto_explain.log_parameter_max_length", "0"},

	/* Statements mean what they say. */
	{"default_transaction_read_only", "off"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_deferrable", "off"},
	{"search_path", "pg_catalog, pg_temp"},
	{"row_security", "off"},
	{"session_replication_role", "origin"},
	{"transform_null_equals", "off"},
	{"DateStyle", "ISO, MDY"},
	{"IntervalStyle", "postgres"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},

	/*
	 * One plan, found without statistics: our statements touch a few rows by an index, whatever the
	 * tables hold and whenever they were analyzed last. A plan made over an empty table, kept for days,
	 * would otherwise read millions of finished requests.
	 */
	{"plan_cache_mode", "force_generic_plan"},
	{"enable_seqscan", "off"},
	{"enable_bitmapscan", "off"},
	{"enable_hashjoin", "off"},
	{"enable_mergejoin", "off"},
	{"enable_indexscan", "on"},
	{"enable_nestloop", "on"},
	{"max_parallel_workers_per_gather", "0"},
	{"jit", "off"},
};

/*
 * PGC_S_OVERRIDE outranks the files and what ALTER DATABASE and ALTER ROLE store, so a reload leaves it
 * alone, and RESET comes back to it. Only a SET in this session outranks it; that is undone as what it is.
 */
void
kt_worker_pin(void)
{
	int i;

	for (i = 0; i < (int) lengthof(pins); i++)
	{
		const char *value = GetConfigOption(pins[i].name, true, false);

		if (value == NULL || strcmp(value, pins[i].value) == 0)
			continue;
		SetConfigOption(pins[i].name, pins[i].value, PGC_SUSET, PGC_S_SESSION);
	}
}

static void
pin_for_good(void)
{
	int i;

	for (i = 0; i < (int) lengthof(pins); i++)
		if (GetConfigOption(pins[i].name, true, false) != NULL)
			SetConfigOption(pins[i].name, pins[i].value, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("application_name", MyBgworkerEntry->bgw_type, PGC_USERSET, PGC_S_OVERRIDE);
}

void
kt_worker_connect(Oid database)
{
	/* While it connects there is nothing to drain, but there may be a lock to wait for. */
	pqsignal(SIGTERM, die);
	if (kt_worker_stop)
		proc_exit(KT_EXIT_AGAIN);
	if (OidIsValid(database))
		BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	else
		BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pqsignal(SIGTERM, on_sigterm);
	CHECK_FOR_INTERRUPTS();
	pin_for_good();
}

bool
kt_worker_reload(void)
{
	if (!kt_worker_reload_pending)
		return false;
	kt_worker_reload_pending = false;
	ProcessConfigFile(PGC_SIGHUP);
	kt_worker_pin();
	return true;
}

/* ---- registration --------------------------------------------------------------------------------------- */

/*
 * All wait for the end of recovery: on a standby nothing runs, and what was registered there starts
 * at its promotion.
 */
static void
describe_worker(BackgroundWorker *worker, const char *type, const char *function)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	strlcpy(worker->bgw_library_name, "kridtech", sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, function, sizeof(worker->bgw_function_name));
	strlcpy(worker->bgw_type, type, sizeof(worker->bgw_type));
}

void
kt_worker_register_launcher(void)
{
	BackgroundWorker worker;

	describe_worker(&worker, KT_LAUNCHER_TYPE, "kridtech_launcher_main");
	strlcpy(worker.bgw_name, KT_LAUNCHER_TYPE, sizeof(worker.bgw_name));
	worker.bgw_restart_time = LAUNCHER_RESTART_SECONDS;
	RegisterBackgroundWorker(&worker);
}

/* Whether and when it comes back is the launcher's to decide: it knows the databases. */
bool
kt_worker_start(KtRole role, Oid database, const char *name, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	describe_worker(&worker, roles[role].type, roles[role].function);
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "%s (%s)", roles[role].type, name);
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/* ---- the wait ------------------------------------------------------------------------------------------- */

static WaitEventSet *wait_set = NULL;
static int wait_fd = -1;

/* Kept between waits: making one costs three system calls and more, and a busy dialer waits a lot. */
static void
prepare_wait_set(int fd)
{
	if (wait_set != NULL && fd == wait_fd)
		return;
	kt_worker_forget_fd();
	wait_set = kt_create_wait_event_set(3);
	wait_fd = fd;
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	if (fd >= 0)
		AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, fd, NULL, NULL);
}

void
kt_worker_forget_fd(void)
{
	if (wait_set != NULL)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
	wait_fd = -1;
}

/* Asks PostgreSQL for a name's number once per name: the callers' names are constants. */
static uint32
wait_event_of(const char *name)
{
	static const char *known = NULL;
	static uint32 number;

	if (name != known)
	{
		number = kt_wait_event(name);
		known = name;
	}
	return number;
}

/* Milliseconds until a deadline, rounded up so that the wait does not end just before it. */
static long
time_left(int64 deadline)
{
	int64 left;

	if (deadline < 0)
		return -1;
	left = deadline - kt_http_now();
	return left <= 0 ? 0 : (long) Min((left + 999) / 1000, INT_MAX);
}

bool
kt_worker_wait(int fd, int64 deadline, const char *wait_event)
{
	WaitEvent events[2];
	bool woken = false;
	int count;
	int i;

	Assert(!kt_xact_is_open());
	prepare_wait_set(fd);
	count = WaitEventSetWait(wait_set, time_left(deadline), events, lengthof(events),
	                         wait_event_of(wait_event));
	for (i = 0; i < count; i++)
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			woken = true;
		}

	/* A process that sleeps must still take part: barriers (DROP DATABASE waits for them), invalidations. */
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	return woken;
}
