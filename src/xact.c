/*
 * One guarded unit of work: the only file that begins, commits or aborts a worker's transactions.
 *
 * Cancelling. Outside a unit a cancel means nothing, so the flag is only ever raised while one runs, and
 * what was raised too late for it is dropped at its end: an error can be thrown nowhere but in the
 * guarded part.
 *
 * Stopping. die() is not for a worker: it would end it in the middle of a unit and lose the answers of
 * calls that are on the network. But a unit can wait for long: on a lock, in a user's trigger, for a
 * synchronous standby. So every unit has a timer that notes that it has become old, and SIGTERM cancels
 * an old one at once and a young one when the timer goes off. (Armed at SIGTERM only it would have to be
 * armed in a signal handler, which timeout.c does not allow. An armed timer costs a few system calls, and
 * from 14 on mostly none, beside a commit that flushes.)
 *
 * Limits. A unit that is to be over by some time has a second timer, which cancels it. There is one place where a
 * cancel does not undo the unit: in the commit, behind the local flush, in the wait for synchronous standbys, which
 * PostgreSQL gives up with a WARNING. So every cancel is noted, for who promises more than the local disk. (A flush
 * that hangs in the kernel cannot be cancelled at all.)
 *
 * Words. An error's detail may hold a row's values: a phone number, a transcript. What a unit logs leaves it out.
 *
 * Pins. A trigger or default on our tables can SET something in this session. What worker.c pins is
 * therefore put back before each unit, and once more right before the commit, behind deferred triggers.
 */
#include "postgres.h"

#include "xact.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "extension.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "worker.h"

/* How old a unit may become that runs when SIGTERM comes, and one that begins after it, in ms. */
#define PATIENCE 1000
#define PATIENCE_IN_DRAIN 500

/* What is left for the rest of a unit when a part of it was cancelled: a share of its limit, or so many ms. */
#define REST_OF_LIMIT(ms) ((ms) / 3)
#define REST 500

/* How long after its limit a unit is cancelled again, in ms, and how many cancels may be caught without its end. */
#define LIMIT_AGAIN 250
#define MAX_CAUGHT 8

/* Read by signal handlers. */
static volatile sig_atomic_t unit_open = false;
static volatile sig_atomic_t old = false;

static volatile sig_atomic_t cancelled = false; /* the unit that runs, or ran last */

/* The unit that runs need not be on disk. */
static bool may_be_lost = false;

/* How old the next unit may become, in ms; 0: no limit. */
static int limit = 0;
static bool limit_armed = false;

/* Since the limit was armed: cancels by it, and those of them after which the unit went on. */
static volatile sig_atomic_t limit_cancels = 0;
static volatile sig_atomic_t limit_caught = 0;

static TimeoutId patience_timer;
static TimeoutId limit_timer;

void
kt_xact_limit(int ms)
{
	limit = Max(ms, 1);
}

void
kt_xact_may_be_lost(void)
{
	may_be_lost = true;
}

bool
kt_xact_is_open(void)
{
	return unit_open;
}

void
kt_xact_cancel(void)
{
	if (!unit_open)
		return;
	cancelled = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

void
kt_xact_hurry(void)
{
	if (old)
		kt_xact_cancel();
}

static void
on_patience_ends(void)
{
	old = true;
	if (kt_worker_stop)
		kt_xact_cancel();
}

/*
 * A cancel that still pends has been caught by nobody: the unit is in its commit, or in the kernel. timeout.c lets a
 * timer's own handler arm it again.
 */
static void
on_limit(void)
{
	if (!unit_open)
		return;
	if (limit_cancels > 0 && !QueryCancelPending)
		limit_caught++;
	if (limit_caught > MAX_CAUGHT)
		ProcDiePending = true;
	limit_cancels++;
	kt_xact_cancel();
	enable_timeout_after(limit_timer, LIMIT_AGAIN);
}

/*
 * The wait for standbys ends without them by a cancel, or when the postmaster is dead (which notes that the process
 * is to end, and returns as if all were well).
 *
 * A server whose synchronous_standby_names changes tells its processes by SIGHUP. One that has not been served yet
 * may bring standbys that the commit has waited for already.
 */
bool
kt_xact_is_unconfirmed(void)
{
	return (cancelled || ProcDiePending) && SyncRepRequested() &&
	       (SyncRepStandbyNames[0] != '\0' || kt_worker_reload_pending);
}

static void
on_transaction_event(XactEvent event, void *arg)
{
	if (!unit_open || event != XACT_EVENT_PRE_COMMIT)
		return;
	kt_worker_pin();
	if (may_be_lost)
		(void) set_config_option("synchronous_commit", "off", PGC_SUSET, PGC_S_SESSION,
		                         GUC_ACTION_LOCAL, true, 0, false);
}

static void
set_up_once(void)
{
	static bool done = false;

	if (done)
		return;
	patience_timer = RegisterTimeout(USER_TIMEOUT, on_patience_ends);
	limit_timer = RegisterTimeout(USER_TIMEOUT, on_limit);
	RegisterXactCallback(on_transaction_event, NULL);
	done = true;
}

static void
arm_limit(int ms)
{
	limit_armed = true;
	limit_cancels = limit_caught = 0;
	enable_timeout_after(limit_timer, ms);
}

static void
begin(const char *activity)
{
	old = cancelled = false;
	may_be_lost = false;
	kt_owner_used = InvalidOid;
	unit_open = true;
	enable_timeout_after(patience_timer, kt_worker_stop ? PATIENCE_IN_DRAIN : PATIENCE);
	if (limit > 0)
		arm_limit(limit);
	debug_query_string = activity;
	pgstat_report_activity(STATE_RUNNING, activity);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Deferred triggers and the like run inside the commit: as the owner of the tables, like all that a unit
 * does, and not as the superuser that a worker is in between. An error puts the user back by itself.
 */
static void
commit(void)
{
	Oid user;
	int security;

	PopActiveSnapshot();
	SPI_finish();
	GetUserIdAndSecContext(&user, &security);
	if (OidIsValid(kt_owner_used))
		SetUserIdAndSecContext(kt_owner_used, security | SECURITY_LOCAL_USERID_CHANGE);
	CommitTransactionCommand();
	SetUserIdAndSecContext(user, security);
}

/* After both ends, with interrupts held or none possible. */
static void
close_unit(void)
{
	unit_open = false;
	QueryCancelPending = false;
	disable_timeout(patience_timer, false);
	if (limit_armed)
		disable_timeout(limit_timer, false);
	limit_armed = false;
	limit = 0;
	debug_query_string = NULL;
}

/* What does not fit is cut off between two characters: it may become a row's text. */
static void
copy_message(const char *message, char *error, size_t size)
{
	int len = message == NULL ? 0 : pg_mbcliplen(message, (int) strlen(message), (int) size - 1);

	if (len > 0)
		memcpy(error, message, len);
	error[len] = '\0';
}

/* Clears up after an error that was caught. */
static void
roll_back(MemoryContext context, int *sqlstate, char *error, size_t size)
{
	ErrorData *data;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	data = CopyErrorData();
	*sqlstate = data->sqlerrcode;
	if (error != NULL && size > 0)
		copy_message(data->message, error, size);
	if (data->detail != NULL)
		errdetail_log("It may hold values of a row and is not logged.");
	FreeErrorData(data);
	EmitErrorReport();
	AbortCurrentTransaction();
	FlushErrorState();
	MemoryContextSwitchTo(context);
	close_unit();
	RESUME_INTERRUPTS();
}

KtXactResult
kt_xact_run(const char *activity, KtXactWork work, void *argument, int *sqlstate, char *error,
            size_t size)
{
	MemoryContext context = CurrentMemoryContext;
	volatile KtXactResult result = KT_XACT_FAILED;
	int code = 0;

	Assert(!unit_open && !IsTransactionState());
	set_up_once();
	kt_worker_pin();
	if (error != NULL && size > 0)
		error[0] = '\0';
	PG_TRY();
	{
		begin(activity);
		work(argument);
		commit();
		result = KT_XACT_DONE;
	}
	PG_CATCH();
	{
		roll_back(context, &code, error, size);
	}
	PG_END_TRY();
	if (result == KT_XACT_DONE)
		close_unit();
	MemoryContextSwitchTo(context);
	if (sqlstate != NULL)
		*sqlstate = code;
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	return result;
}

/*
 * A part of the unit was cancelled. Whatever did that, a limit, SIGTERM or a human, has been used up by it; but the
 * rest of the unit is to end soon, too.
 */
static void
note_cancelled_part(void)
{
	int rest = limit > 0 ? Max(REST_OF_LIMIT(limit), 1) : REST;

	QueryCancelPending = false;
	arm_limit(kt_worker_stop ? Min(rest, REST) : rest);
}

static void
bring_forward_deferred(void)
{
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not bring forward what is deferred");
}

/*
 * A caller's cancel or statement_timeout is the caller's: it is not caught. Nor is anything brought forward there: it
 * would be the caller's own constraints, too.
 */
bool
kt_xact_try(KtXactWork work, void *argument, int *sqlstate, char **message)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner resources = CurrentResourceOwner;
	volatile bool done = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(argument);
		if (unit_open)
			bring_forward_deferred();
		ReleaseCurrentSubTransaction();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		{
			if (!unit_open)
				ReThrowError(error);
			note_cancelled_part();
		}
		*sqlstate = error->sqlerrcode;
		*message = error->message != NULL ? error->message : pstrdup("");
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = resources;
	return done;
}

bool
kt_xact_is_passing(int sqlstate)
{
	int category = ERRCODE_TO_CATEGORY(sqlstate);

	return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ||
	       category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
	       category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
	       category == ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR) ||
	       category == ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK);
}
