/*
 * The dialer: the worker that places what is queued. One per database.
 *
 * A turn of its loop records what has ended and claims what can be sent in one short transaction, then,
 * with no transaction open, hands the claims to the network and waits for whatever comes first: an answer,
 * a wake, a deadline. It is a sliding window: one slow answer delays nobody.
 *
 * Why a request rings at most once, whatever fails:
 *	- it is sent only after the commit that moved it to 'placing' was flushed;
 *	- it is sent once: kt_http never re-sends, and nothing here submits a claim twice;
 *	- it goes back to 'queued' only with proof (outcome.c) in the same transaction as the attempt's
 *	  evidence, and what is neither proven nor answered is 'unknown', also after a crash (recovery below);
 *	- two dialers cannot work at once: a session-level advisory lock, and the epoch as second fence.
 *
 * Why nothing is lost: a result that cannot be recorded (a lock, a full disk, a user's trigger) stays in
 * memory and is tried again, alone, until it can; its request stays 'placing' meanwhile, and its place in
 * the window stays taken, so that the memory is bounded.
 */
#include "postgres.h"

#include "dialer.h"

#include "compat.h"
#include "extension.h"
#include "fault.h"
#include "http.h"
#include "miscadmin.h"
#include "recordings.h"
#include "settings.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "turn.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker.h"
#include "xact.h"

/* What is due once a second is done together, so that an idle dialer wakes once. */
#define TOGETHER_US INT64CONST(20000)

/* At the end, answers are awaited this long; the contract gives 3 s in all. */
#define DRAIN_US INT64CONST(1500000)

/* And this long what could not be recorded before is tried once more. */
#define LAST_US INT64CONST(500000)

/* ---- the unit of work of a turn ---------------------------------------------------------------------- */

static void
turn_work(void *argument)
{
	KtTurn *turn = argument;
	KtOwner owner;

	kt_owner_begin(&owner);
	if (turn->nrecord > 0)
		kt_turn_record(turn);
	if (turn->claim)
		kt_turn_claim(turn);
	kt_owner_end(&owner);
}

static void
notify_work(void *argument)
{
	KtTurn *turn = argument;

	kt_xact_may_be_lost(); /* a notification is a hint */
	kt_queue_send_notices(&turn->notices);
	KT_FAULT("notify-executed");
}

/* ---- a turn --------------------------------------------------------------------------------------------- */

static void
begin_turn(KtDialer *d, KtTurn *turn)
{
	memset(turn, 0, sizeof(*turn));
	turn->d = d;
	turn->record = palloc(Max(d->air.landed, 1) * sizeof(KtFlight *));
	turn->notices.context = d->turn;
	turn->claimed = palloc(Max(d->air.size, 1) * sizeof(KtFlight *));
}

/* Runs the turn's unit of work. On failure what it claimed is undone; what it was to record is still to do. */
static bool
run_turn(KtTurn *turn, const char *activity, int *sqlstate, char *error, size_t size)
{
	KtDialer *d = turn->d;
	int i;

	if (turn->nrecord > 0)
		KT_FAULT("answer-received");
	if (kt_xact_run(activity, turn_work, turn, sqlstate, error, size) == KT_XACT_DONE)
	{
		turn->unconfirmed = kt_xact_is_unconfirmed();
		if (turn->nrecord > 0)
		{
			KT_FAULT("record-committed");
			kt_turn_count(d, turn->record, turn->nrecord);
			kt_turn_learn(turn);
		}
		for (i = 0; i < turn->nrecord; i++)
			kt_air_end(&d->air, turn->record[i]);
		if (turn->nclaimed > 0)
		{
			kt_count(d->slot, KT_COUNT_CLAIM_BATCHES, 1);
			kt_count(d->slot, KT_COUNT_CLAIMED, turn->nclaimed);
			kt_pace_spend(&d->pace, turn->nclaimed);
		}
		return true;
	}
	for (i = 0; i < turn->nclaimed; i++)
		kt_air_end(&d->air, turn->claimed[i]);
	turn->nclaimed = turn->notices.n = 0;
	d->look = true;
	d->check_at = 0; /* is the extension still there? */
	return false;
}

static void
notify(KtTurn *turn)
{
	if (turn->notices.n > 0) /* else it would be an empty transaction */
		(void) kt_xact_run("notifying", notify_work, turn, NULL, NULL, 0);
	turn->notices.n = 0;
}

/*
 * The claims are committed: hand them to the network, each once. Not those that no synchronous standby may have:
 * after a failover to it they would be claimed, and sent, again.
 */
static void
send_claims(KtTurn *turn)
{
	int i;

	if (turn->nclaimed == 0)
		return;
	KT_FAULT("claim-committed");
	for (i = 0; i < turn->nclaimed; i++)
		if (turn->unconfirmed)
			kt_air_keep_back(&turn->d->air, turn->claimed[i],
			                 "no synchronous standby has confirmed the claim");
		else
			kt_air_send(&turn->d->air, turn->claimed[i]);
	KT_FAULT("submitted");
	kt_air_collect(&turn->d->air); /* which makes the first step */
}

/* ---- when a unit of work fails ------------------------------------------------------------------------ */

/* One result, in a unit of its own. What fails (false) is tried again later, for ever. */
static bool
record_alone(KtDialer *d, KtFlight *flight)
{
	KtTurn turn;
	int sqlstate = 0;

	begin_turn(d, &turn);
	turn.record[turn.nrecord++] = flight;
	if (run_turn(&turn, "recording a result", &sqlstate, NULL, 0))
	{
		notify(&turn);
		return true;
	}
	kt_count(d->slot, KT_COUNT_RESULT_RETRIES, 1);
	flight->alone = true;
	flight->failures++;
	flight->retry_at = kt_http_now() + Min(flight->failures, 20) * KT_FAILURE_US;
	if (sqlstate == ERRCODE_UNIQUE_VIOLATION && flight->result.state == KT_NEXT_PLACED &&
	    kt_turn_is_taken(flight)) /* it might be the word of somebody's trigger */
	{
		kt_air_doubt(&d->air, flight);
		ereport(WARNING, (errmsg("the Kridtech API answered request " INT64_FORMAT
		                         " with a callId that belongs to another request",
		                         flight->id),
		                  errdetail("The request is unknown now, and its account paused.")));
		flight->retry_at = 0;
	}
	return false;
}

/*
 * Results whose batch failed before, those whose time has come. Each may wait for a lock as long as it
 * gets: so after a failure the others are left to the next turn, unless it is earlier than until, lest the
 * network, or SIGTERM, be forgotten over dozens of them.
 */
static void
record_stragglers(KtDialer *d, int64 until)
{
	int i;

	for (i = 0; i < d->air.size && d->air.landed > 0; i++)
		if (d->air.flights[i].taken && d->air.flights[i].landed && d->air.flights[i].alone &&
		    d->air.flights[i].retry_at <= kt_http_now() && !record_alone(d, &d->air.flights[i]) &&
		    kt_http_now() >= until)
			return;
}

typedef struct Rejection
{
	int64 id;
	const char *error;
	bool for_good;
} Rejection;

static void
reject_work(void *argument)
{
	Rejection *rejection = argument;
	KtOwner owner;

	kt_owner_begin(&owner);
	if (rejection->for_good)
		kt_queue_reject(rejection->id, rejection->error);
	else
		kt_queue_set_back(rejection->id, rejection->error);
	kt_owner_end(&owner);
}

static bool
reject(int64 id, const char *error, bool for_good)
{
	Rejection rejection = {id, error, for_good};

	return kt_xact_run(for_good ? "rejecting a request" : "setting back a request", reject_work,
	                   &rejection, NULL, NULL, 0) == KT_XACT_DONE;
}

/*
 * A request that cannot be claimed is out of the others' way: in the table, which has room for any number, or, where
 * that is refused too, in memory. Should there be no more room, the dialer goes slowly.
 */
static void
set_back(KtDialer *d, int64 id, const char *error)
{
	ereport(WARNING, (errmsg("call request " INT64_FORMAT " cannot be claimed", id),
	                  errdetail("It is tried again in a minute or more; the others go on.")));
	if (!reject(id, error, false) && !kt_stock_set_aside(&d->stock, id))
		d->hold_until = kt_http_now() + KT_FAILURE_US;
}

/*
 * A claim failed. It is tried one by one, so that a poison row shows itself; one that cannot be sent because of its
 * own content (SQLSTATE class 22, and not by somebody's trigger) becomes 'failed', another is set back. For what
 * passes, and for what failed before there was a candidate, the dialer waits a little.
 */
static void
claim_failed(KtDialer *d, KtTurn *turn, int sqlstate, const char *error)
{
	bool content = turn->building &&
	               ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION);

	if (kt_xact_is_passing(sqlstate) || turn->last_id == 0)
		d->hold_until = kt_http_now() + KT_FAILURE_US;
	else if (d->claim_one && !(content && reject(turn->last_id, error, true)))
		set_back(d, turn->last_id, error);
	if (!content)
		d->stock.n = d->stock.next = 0; /* it may be out of date */
	d->claim_one = true;
}

/* ---- the loop's steps ----------------------------------------------------------------------------------- */

static bool
sweeps_are_due(const KtDialer *d)
{
	return kt_http_now() + TOGETHER_US >= d->poll_at ||
	       (d->next_due != 0 && d->next_due <= GetCurrentTimestamp());
}

/* A time of the table on the monotonic clock. */
static int64
monotonic(TimestampTz time, int64 now)
{
	return now + Max(0, time - GetCurrentTimestamp());
}

/*
 * When the table is to be looked at, or something claimed. The one answer to "now?" and to "when, then?":
 * two of them that differ would make the dialer turn in circles.
 */
static int64
next_claim(const KtDialer *d, int64 now)
{
	int64 at = d->poll_at;

	if (d->next_due != 0)
		at = Min(at, monotonic(d->next_due, now));
	if (d->held)
		at = d->look ? now : at;
	else if (d->look || kt_stock_has(&d->stock) || d->stock.full)
		at = Min(at, kt_pace_next(&d->pace, now));
	return Max(at, d->hold_until);
}

static bool
wants_to_claim(const KtDialer *d, int64 now)
{
	return kt_air_free_places(&d->air) > 0 && next_claim(d, now) <= now;
}

/* At most so many of the results that are still to be recorded with others. */
static void
take_ended(KtDialer *d, KtTurn *turn, int most)
{
	int i;

	for (i = 0; i < d->air.size && turn->nrecord < most; i++)
		if (d->air.flights[i].taken && d->air.flights[i].landed && !d->air.flights[i].alone)
			turn->record[turn->nrecord++] = &d->air.flights[i];
}

/* Records what has ended and claims what can be sent, in one transaction; then sends. */
static void
work(KtDialer *d)
{
	char error[256] = "";
	int sqlstate = 0;
	KtTurn turn;
	int i;

	begin_turn(d, &turn);
	take_ended(d, &turn, kt_air_batch(&d->air));
	turn.claim = d->readiness.ready && wants_to_claim(d, kt_http_now());
	if (turn.nrecord == 0 && !turn.claim)
		return;
	if (run_turn(&turn, "claiming and recording", &sqlstate, error, sizeof(error)))
	{
		if (turn.claim && d->claim_one && !kt_stock_has(&d->stock))
			d->claim_one = false;
		send_claims(&turn);
		notify(&turn);
		return;
	}
	/* together they failed: apart it shows which of them does */
	for (i = 0; i < turn.nrecord; i++)
		turn.record[i]->alone = true;
	if (turn.nrecord == 0)
		claim_failed(d, &turn, sqlstate, error);
}

/* ---- may it dial? ---------------------------------------------------------------------------------------- */

/* The extension went away under requests in the air: there is nowhere left to record them. */
static void
discard_flights(KtDialer *d)
{
	int i;

	if (d->air.taken > 0)
		ereport(LOG,
		        (errmsg("kridtech: the extension was dropped; %d requests are not followed further",
		                d->air.taken)));
	for (i = 0; i < d->air.size; i++)
		if (d->air.flights[i].taken)
			kt_air_end(&d->air, &d->air.flights[i]);
	d->stock.n = d->stock.next = 0;
}

static void
check_readiness(KtDialer *d)
{
	KtReadiness *readiness = &d->readiness;
	int64 epoch = readiness->epoch;

	kt_readiness_check(readiness, d->air.taken);
	d->check_at = kt_http_now() + KT_POLL_US;
	if (readiness->gone)
		discard_flights(d);
	if (readiness->epoch != epoch)
	{
		d->look = true;
		d->poll_at = 0;
	}
	if (!readiness->ready)
		kt_shmem_report(d->slot, false, readiness->problem);
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	d->slot->epoch = readiness->epoch;
	LWLockRelease(kt_shared->lock);
}

/* ---- waiting and ending ---------------------------------------------------------------------------------- */

static int64
earlier(int64 a, int64 b)
{
	if (a < 0 || b < 0)
		return Max(a, b);
	return Min(a, b);
}

/* When something is to be done at the latest: the one place that knows every clock of the dialer. */
static int64
next_deadline(const KtDialer *d)
{
	int64 deadline = earlier(kt_http_deadline(d->air.http), d->check_at);
	int i;

	if (d->readiness.ready && kt_air_free_places(&d->air) > 0)
		deadline = earlier(deadline, next_claim(d, kt_http_now()));
	if (d->readiness.ready)
		deadline = earlier(earlier(deadline, kt_sync_deadline(d->sync)),
		                   kt_retention_deadline(&d->retention));
	for (i = 0; i < d->air.size && d->air.landed > 0; i++)
		if (d->air.flights[i].taken && d->air.flights[i].landed)
			deadline = earlier(deadline, d->air.flights[i].retry_at);
	return earlier(deadline, kt_recordings_deadline());
}

static void
wait_for_something(KtDialer *d)
{
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	d->slot->in_flight = d->air.taken;
	LWLockRelease(kt_shared->lock);
	(void) kt_worker_wait(kt_http_fd(d->air.http), next_deadline(d), "KridtechDialer");

	/*
	 * The latch is also set by signals, such as that of a unit's timer, which goes off long after it. Behind the
	 * latch's reset: who sets this from now on sets the latch again.
	 */
	if (d->slot->woken)
	{
		d->slot->woken = false;
		d->look = true;
	}
	kt_count(d->slot, KT_COUNT_WAKES, 1);
}

static void
record_all(KtDialer *d, int64 until)
{
	char error[256];
	KtTurn turn;
	int i;

	begin_turn(d, &turn);
	take_ended(d, &turn, d->air.landed);
	if (turn.nrecord > 0 && !run_turn(&turn, "recording at the end", NULL, error, sizeof(error)))
		for (i = 0; i < turn.nrecord; i++)
			turn.record[i]->alone = true;
	notify(&turn);
	record_stragglers(d, until);
}

/*
 * The end: answers are awaited a little, what has not come by then is given up; what never left is queued
 * again, the rest is unknown. What cannot even be recorded stays 'placing' and is recovered as unknown.
 */
static void
drain(KtDialer *d)
{
	int64 until = kt_http_now() + DRAIN_US;

	KT_FAULT("drain-begun");
	kt_sync_stop(d->sync);
	while (d->air.taken > d->air.landed && kt_http_now() < until)
	{
		MemoryContextReset(d->turn);
		kt_air_collect(&d->air);
		if (d->air.landed > 0)
			record_all(d, 0);
		if (d->air.taken > d->air.landed)
			(void) kt_worker_wait(kt_http_fd(d->air.http),
			                      earlier(kt_http_deadline(d->air.http), until), "KridtechDialer");
	}
	kt_air_give_up(&d->air, "the dialer was stopped before the answer came");
	if (d->air.landed > 0)
		record_all(d, kt_http_now() + LAST_US);
}

/* ---- the worker ------------------------------------------------------------------------------------------ */

static KtDialer *
make_dialer(KtSlot *slot)
{
	MemoryContext context =
		AllocSetContextCreate(TopMemoryContext, "kridtech dialer", ALLOCSET_DEFAULT_SIZES);
	KtDialer *d = MemoryContextAllocZero(context, sizeof(KtDialer));
	int kind;

	d->slot = slot;
	d->context = context;
	d->turn = AllocSetContextCreate(context, "kridtech turn", ALLOCSET_DEFAULT_SIZES);
	kt_gate_init(&d->gates, context);
	kt_air_init(&d->air, context, slot, &d->gates);
	kt_stock_init(&d->stock, context);
	kt_retention_init(&d->retention, slot);
	d->sync = kt_sync_create(context, slot, &d->air, &d->gates);
	for (kind = 0; kind < KT_NSWEEPS; kind++)
		d->sweeps[kind].kind = (KtSweepKind) kind;
	return d;
}

static void
take_settings(KtDialer *d)
{
	kt_air_resize(&d->air, kt_max_concurrent_requests);
	kt_pace_set(&d->pace, kt_calls_per_second, kt_http_now());
}

static bool
must_stop(const KtDialer *d)
{
	return kt_worker_stop || d->slot->restart;
}

void
kridtech_dialer_main(Datum argument)
{
	Oid database = DatumGetObjectId(argument);
	KtSlot *slot;
	KtDialer *d;

	kt_worker_signals();
	slot = kt_worker_attach(database, KT_DIALER);
	kt_worker_connect(database);
	d = make_dialer(slot);
	take_settings(d);
	while (!must_stop(d))
	{
		MemoryContextReset(d->turn);
		MemoryContextSwitchTo(d->turn);
		if (kt_worker_reload())
		{
			take_settings(d);
			d->look = true;
		}
		kt_air_collect(&d->air);
		if (!d->readiness.ready || kt_http_now() + TOGETHER_US >= d->check_at)
			check_readiness(d);
		/* what a run has sent is recorded whether or not it may send more */
		if (d->readiness.epoch != 0)
		{
			record_stragglers(d, 0);
			if (d->readiness.ready && sweeps_are_due(d))
				kt_sweeps_run(d);
			work(d);
		}
		if (d->readiness.ready)
		{
			kt_sync_work(d->sync);
			kt_retention_work(&d->retention);
		}
		kt_recordings_step(d->air.http, d->slot, d->readiness.ready ? d->readiness.epoch : 0);
		wait_for_something(d);
	}
	drain(d);
	proc_exit(KT_EXIT_AGAIN);
}
