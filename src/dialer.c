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
#include "convert.h"
#include "extension.h"
#include "fault.h"
#include "flight.h"
#include "gate.h"
#include "http.h"
#include "identity.h"
#include "miscadmin.h"
#include "pace.h"
#include "queue.h"
#include "recordings.h"
#include "settings.h"
#include "shmem.h"
#include "readiness.h"
#include "retention.h"
#include "stock.h"
#include "storage/ipc.h"
#include "sync.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker.h"
#include "xact.h"

/* Requests claimed at most in one transaction. */
#define MAX_BATCH 500

/* The table is the truth and a wake only a hint: without one, it is looked at this often. */
#define POLL_US INT64CONST(1000000)

/* While candidates are in stock, what is committed meanwhile is looked at this often. */
#define RESCAN_US INT64CONST(100000)

/* The statements are planned anew when so many candidates come at once, and this often while any come. */
#define REPLAN_AT 100
#define REPLAN_US INT64CONST(60000000)

/* A unit of work that failed is tried again after this. */
#define FAILURE_US INT64CONST(500000)

/* At the end, answers are awaited this long; the contract gives 3 s in all. */
#define DRAIN_US INT64CONST(1500000)

/* And this long what could not be recorded before is tried once more. */
#define LAST_US INT64CONST(500000)

/* How many rows a sweep moves at a time, and how long it passes over those that fail. */
#define SWEEP_BATCH 1000
#define SWEEP_ANEW_US INT64CONST(60000000)

typedef enum SweepKind
{
	SWEEP_RECOVER,
	SWEEP_EXPIRE,
	SWEEP_PROMOTE
} SweepKind;

#define NSWEEPS (SWEEP_PROMOTE + 1)

typedef struct Sweep
{
	SweepKind kind;
	int offset; /* rows that failed, passed over */
	int limit;
	int64 anew_at; /* when it begins with all rows again */
	int64 epoch;
	int moved;            /* by the last one */
	TimestampTz next_due; /* found by SWEEP_PROMOTE */
} Sweep;

typedef struct Dialer
{
	KtSlot *slot;
	MemoryContext context; /* for the worker's life */
	MemoryContext turn;    /* reset every turn */
	KtReadiness readiness;
	KtGates gates;
	KtPace pace;
	KtAir air;
	KtStock stock;
	KtSync *sync;
	KtRetention retention;
	Sweep sweeps[NSWEEPS];

	bool look;            /* something may have been queued since the last scan */
	bool held;            /* nothing may be claimed: what is in stock is no reason to try */
	bool claim_one;       /* a claim failed: find the one that makes it fail */
	int64 check_at;       /* when readiness is looked at again, on kt_http_now()'s clock */
	int64 poll_at;        /* when the table is looked at without a wake */
	int64 replan_at;      /* when a few candidates are reason enough to plan anew */
	int64 hold_until;     /* nothing is claimed before */
	TimestampTz next_due; /* when a waiting request becomes ready, 0: none */
} Dialer;

/* ---- recording ------------------------------------------------------------------------------------------ */

/* What one unit of work is to do, and what it did. */
typedef struct Turn
{
	Dialer *d;
	KtFlight **record; /* whose results to record */
	int nrecord;
	int64 *finished; /* requests that came to a final state */
	int nfinished;
	bool claim;
	KtFlight **claimed; /* flights made by this unit */
	int nclaimed;
	int64 last_id; /* the candidate a claim of one was about */
} Turn;

static void
convert_result(KtResult *result)
{
	result->error = kt_convert_to_server(result->error);
	result->detail = kt_convert_to_server(result->detail);
	result->answer_head = kt_convert_to_server(result->answer_head);
	result->call_id = kt_convert_to_server(result->call_id);
	result->call_status = kt_convert_to_server(result->call_status);
}

/* What the ends teach about the accounts, each lesson once a batch. */
static void
learn(Dialer *d, KtFlight **flights, int n)
{
	int i;
	int j;

	for (i = 0; i < n; i++)
	{
		KtFlight *flight = flights[i];
		KtGate *gate = &d->gates.gates[flight->gate];
		bool known = flight->effect == KT_EFFECT_UNCLEAR || kt_air_is_outdated(&d->air, flight) ||
		             (flight->effect == KT_EFFECT_NONE && !gate->has_pause && gate->failures == 0);

		if (flight->conflict)
			kt_gate_conflict(gate, kt_convert_to_server(flight->result.error));
		for (j = 0; j < i && !known; j++)
			known = flights[j]->gate == flight->gate && flights[j]->effect == flight->effect &&
			        flight->effect != KT_EFFECT_UNREACHABLE;
		if (!known)
			kt_gate_learn(gate, flight->effect, flight->retry_after,
			              kt_convert_to_server(flight->result.error));
	}
}

static void
record_results(Turn *turn)
{
	KtResult *results = palloc(turn->nrecord * sizeof(KtResult));
	int i;

	for (i = 0; i < turn->nrecord; i++)
	{
		results[i] = turn->record[i]->result;
		convert_result(&results[i]);
		if (results[i].state != KT_NEXT_QUEUED)
			turn->finished[turn->nfinished++] = results[i].id;
	}
	kt_queue_record(results, turn->nrecord, turn->d->readiness.epoch);
	learn(turn->d, turn->record, turn->nrecord);
	KT_FAULT("record-executed");
}

static void
count_results(Dialer *d, KtFlight **flights, int n)
{
	static const KtCounter counter[] = {
		[KT_NEXT_PLACED] = KT_COUNT_PLACED,
		[KT_NEXT_FAILED] = KT_COUNT_FAILED,
		[KT_NEXT_UNKNOWN] = KT_COUNT_UNKNOWN,
		[KT_NEXT_QUEUED] = KT_COUNT_REQUEUED,
	};
	int i;

	kt_count(d->slot, KT_COUNT_RESULT_BATCHES, 1);
	for (i = 0; i < n; i++)
	{
		kt_count(d->slot, counter[flights[i]->result.state], 1);
		/* what was set back can be claimed again */
		if (flights[i]->result.state == KT_NEXT_QUEUED)
			d->look = true;
	}
}

/* ---- claiming ------------------------------------------------------------------------------------------- */

/* Claims up to so many requests and makes flights of them. In a unit of work. */
static void
claim(Turn *turn, int want)
{
	Dialer *d = turn->d;
	int64 *ids = palloc(want * sizeof(int64));
	const char **refs = NULL;
	KtClaim *claims = palloc(want * sizeof(KtClaim));
	int n = kt_stock_pick(&d->stock, &d->gates, want, ids);
	int i;

	if (n == 0)
		return;
	turn->last_id = ids[0];
	if (kt_correlate)
	{
		refs = palloc(n * sizeof(char *));
		for (i = 0; i < n; i++)
			refs[i] = kt_queue_make_ref(ids[i]);
	}
	n = kt_queue_claim(ids, refs, n, kt_account_id, d->readiness.epoch, d->readiness.born, claims);
	for (i = 0; i < n; i++)
	{
		KtFlight *flight = kt_air_board(&d->air, &claims[i]);
		KtGate *gate = &d->gates.gates[flight->gate];

		turn->claimed[turn->nclaimed++] = flight;
		if (gate->closed != NULL)
			kt_gate_probed(gate);
	}
	if (n > 0)
		KT_FAULT("claim-executed");
}

/*
 * Is this run still the last one, and since when is the queue this database's own? Looked up in the claim's own
 * transaction: a restore may replace the whole extension between two checks of readiness.
 */
static bool
is_last_run(Dialer *d)
{
	char *difference;

	if (kt_identity_is_own(&difference) &&
	    kt_identity_epoch(&d->readiness.born) == d->readiness.epoch)
		return true;
	d->check_at = 0;
	return false;
}

/* Why nothing may be claimed now, or NULL. In a unit of work. */
static const char *
reason_to_hold(Dialer *d)
{
	if (!kt_settings_usable())
		return "kridtech.base_url is not usable";
	if (d->gates.all_closed)
		return "paused";
	if (kt_max_unknown > 0 && kt_queue_recent_unknown(kt_max_unknown) >= kt_max_unknown)
		return psprintf("holding: %d requests of the last hour are unknown (kridtech.max_unknown); "
		                "resolve them with kridtech_resolve_call()",
		                kt_max_unknown);
	return NULL;
}

static bool
needs_scan(const Dialer *d, int64 now)
{
	if (!kt_stock_has(&d->stock))
		return d->look || d->stock.full;
	return d->look && (d->slot->urgent || now - d->stock.scanned_at >= RESCAN_US);
}

static void
claim_work(Turn *turn)
{
	Dialer *d = turn->d;
	int64 now = kt_http_now();
	int want = Min(kt_air_free_places(&d->air), d->claim_one ? 1 : MAX_BATCH);
	const char *hold;

	if (!is_last_run(d))
		return;
	kt_gate_refresh(&d->gates);
	hold = reason_to_hold(d);
	if (hold == NULL && d->stock.foreign)
		kt_shmem_report(d->slot, false,
		                "dialling, but not requests that were queued before the extension was "
		                "made here; kridtech_adopt() lets them be dialled");
	else
		kt_shmem_report(d->slot, hold == NULL, hold != NULL ? hold : "dialling");
	d->held = hold != NULL;
	if (d->held)
		d->look = false; /* a wake or the next poll asks again */
	want = kt_pace_allow(&d->pace, want, now);
	if (d->held || want == 0)
		return;
	if (needs_scan(d, now))
	{
		d->slot->urgent = false;
		kt_stock_scan(&d->stock, &d->gates, d->readiness.born);
		if (kt_stock_has(&d->stock))
			KT_FAULT("scanned");
		d->look = false;
		if (d->stock.n >= REPLAN_AT || (d->stock.n > 0 && now >= d->replan_at))
		{
			kt_queue_replan();
			d->replan_at = now + REPLAN_US;
		}
	}
	claim(turn, want);
}

/* ---- the unit of work of a turn ---------------------------------------------------------------------- */

static void
turn_work(void *argument)
{
	Turn *turn = argument;
	KtOwner owner;

	kt_owner_begin(&owner);
	if (turn->nrecord > 0)
		record_results(turn);
	if (turn->claim)
		claim_work(turn);
	kt_owner_end(&owner);
}

static void
notify_work(void *argument)
{
	Turn *turn = argument;
	KtOwner owner;

	kt_xact_may_be_lost(); /* a notification is a hint */
	kt_owner_begin(&owner);
	kt_queue_notify(turn->finished, turn->nfinished);
	KT_FAULT("notify-executed");
	kt_owner_end(&owner);
}

/* ---- a turn --------------------------------------------------------------------------------------------- */

static void
begin_turn(Dialer *d, Turn *turn)
{
	memset(turn, 0, sizeof(*turn));
	turn->d = d;
	turn->record = palloc(Max(d->air.landed, 1) * sizeof(KtFlight *));
	turn->finished = palloc(Max(d->air.landed, 1) * sizeof(int64));
	turn->claimed = palloc(Max(d->air.size, 1) * sizeof(KtFlight *));
}

/* Runs the turn's unit of work. On failure what it claimed is undone; what it was to record is still to do. */
static bool
run_turn(Turn *turn, const char *activity, int *sqlstate, char *error, size_t size)
{
	Dialer *d = turn->d;
	int i;

	if (turn->nrecord > 0)
		KT_FAULT("answer-received");
	if (kt_xact_run(activity, turn_work, turn, sqlstate, error, size) == KT_XACT_DONE)
	{
		if (turn->nrecord > 0)
		{
			KT_FAULT("record-committed");
			count_results(d, turn->record, turn->nrecord);
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
	turn->nclaimed = turn->nfinished = 0;
	d->look = true;
	d->check_at = 0; /* is the extension still there? */
	return false;
}

static void
notify(Turn *turn)
{
	if (kt_notify && turn->nfinished > 0) /* else it would be an empty transaction */
		(void) kt_xact_run("notifying", notify_work, turn, NULL, NULL, 0);
	turn->nfinished = 0;
}

/* The claims are committed: hand them to the network, each once. */
static void
send_claims(Turn *turn)
{
	int i;

	if (turn->nclaimed == 0)
		return;
	KT_FAULT("claim-committed");
	for (i = 0; i < turn->nclaimed; i++)
		kt_air_send(&turn->d->air, turn->claimed[i]);
	KT_FAULT("submitted");
	kt_air_collect(&turn->d->air); /* which makes the first step */
}

/* ---- when a unit of work fails ------------------------------------------------------------------------ */

/* One result, in a unit of its own. What fails (false) is tried again later, for ever. */
static bool
record_alone(Dialer *d, KtFlight *flight)
{
	Turn turn;
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
	flight->retry_at = kt_http_now() + Min(flight->failures, 20) * FAILURE_US;
	if (sqlstate == ERRCODE_UNIQUE_VIOLATION && flight->result.state == KT_NEXT_PLACED)
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
record_stragglers(Dialer *d, int64 until)
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
} Rejection;

static void
reject_work(void *argument)
{
	Rejection *rejection = argument;
	KtOwner owner;

	kt_owner_begin(&owner);
	kt_queue_reject(rejection->id, rejection->error);
	kt_owner_end(&owner);
}

/* Failures that have nothing to do with the row: a lock, a cancel, a full disk, a serialization failure. */
static bool
is_passing(int sqlstate)
{
	int category = ERRCODE_TO_CATEGORY(sqlstate);

	return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ||
	       category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
	       category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
	       category == ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR) ||
	       category == ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK);
}

/*
 * A claim failed. It is tried one by one, so that a poison row shows itself; one whose own content is at
 * fault (SQLSTATE class 22) becomes 'failed', another is left aside. For what passes, the dialer waits a little.
 */
static void
claim_failed(Dialer *d, Turn *turn, int sqlstate, const char *error)
{
	Rejection rejection = {turn->last_id, error};
	bool content = ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION);

	if (is_passing(sqlstate))
		d->hold_until = kt_http_now() + FAILURE_US;
	else if (d->claim_one && turn->last_id != 0)
	{
		if (!content || kt_xact_run("rejecting a request", reject_work, &rejection, NULL, NULL,
		                            0) != KT_XACT_DONE)
		{
			kt_stock_set_aside(&d->stock, turn->last_id);
			ereport(WARNING,
			        (errmsg("call request " INT64_FORMAT " cannot be claimed", turn->last_id),
			         errdetail("It is left aside for a minute; the others go on.")));
		}
	}
	if (!content)
		d->stock.n = d->stock.next = 0; /* it may be out of date */
	d->claim_one = true;
}

/* ---- sweeps: rows that move without a request being sent ------------------------------------------------ */

static void
sweep_work(void *argument)
{
	Sweep *sweep = argument;
	KtOwner owner;

	kt_owner_begin(&owner);
	switch (sweep->kind)
	{
		case SWEEP_RECOVER:
			sweep->moved = kt_queue_recover(sweep->epoch, sweep->offset, sweep->limit);
			break;
		case SWEEP_EXPIRE:
			sweep->moved = kt_queue_expire(sweep->offset, sweep->limit);
			break;
		case SWEEP_PROMOTE:
			sweep->moved = kt_queue_promote(sweep->offset, sweep->limit);
			sweep->next_due = kt_queue_next_due();
			break;
	}
	kt_owner_end(&owner);
}

typedef enum SweepEnd
{
	SWEEP_DONE,
	SWEEP_MORE,   /* there may be more to move at once */
	SWEEP_FAILED, /* by a row of its own */
	SWEEP_BLOCKED /* by what would stop the others too: a lock, a full disk */
} SweepEnd;

/*
 * A sweep whose batch fails goes on row by row, and passes over each that fails, until it begins anew a minute
 * later: one poison row does not stop the others.
 */
static SweepEnd
run_sweep(Dialer *d, Sweep *sweep)
{
	static const char *const activity[] = {
		[SWEEP_RECOVER] = "recovering what an earlier run left",
		[SWEEP_EXPIRE] = "expiring",
		[SWEEP_PROMOTE] = "making ready what has waited",
	};
	int64 now = kt_http_now();
	int sqlstate = 0;

	if (now >= sweep->anew_at)
	{
		sweep->offset = 0;
		sweep->limit = SWEEP_BATCH;
		sweep->anew_at = now + SWEEP_ANEW_US;
	}
	sweep->epoch = d->readiness.epoch;
	sweep->moved = 0;
	if (kt_xact_run(activity[sweep->kind], sweep_work, sweep, &sqlstate, NULL, 0) == KT_XACT_DONE)
		return sweep->moved == sweep->limit ? SWEEP_MORE : SWEEP_DONE;
	d->check_at = 0; /* is the extension still there? */
	if (is_passing(sqlstate))
		return SWEEP_BLOCKED;
	if (sweep->limit > 1)
		sweep->limit = 1;
	else
		sweep->offset++;
	return SWEEP_FAILED;
}

static bool
sweeps_are_due(const Dialer *d)
{
	return kt_http_now() >= d->poll_at ||
	       (d->next_due != 0 && d->next_due <= GetCurrentTimestamp());
}

static void
run_sweeps(Dialer *d)
{
	SweepEnd end = SWEEP_DONE;
	bool more = false;
	int kind;

	for (kind = 0; kind < NSWEEPS && end != SWEEP_BLOCKED; kind++)
	{
		end = run_sweep(d, &d->sweeps[kind]);
		more = more || end == SWEEP_MORE;
	}
	if (d->sweeps[SWEEP_RECOVER].moved > 0)
		ereport(LOG, (errmsg("kridtech: %d requests of an earlier dialer are unknown",
		                     d->sweeps[SWEEP_RECOVER].moved)));
	if (end == SWEEP_BLOCKED)
	{
		d->poll_at = kt_http_now() + POLL_US;
		return;
	}
	kt_count(d->slot, KT_COUNT_EXPIRED, d->sweeps[SWEEP_EXPIRE].moved);
	d->next_due = d->sweeps[SWEEP_PROMOTE].next_due;
	d->poll_at = kt_http_now() + (more ? 0 : POLL_US);
	d->look = true;
}

/* ---- the loop's steps ----------------------------------------------------------------------------------- */

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
next_claim(const Dialer *d, int64 now)
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
wants_to_claim(const Dialer *d, int64 now)
{
	return kt_air_free_places(&d->air) > 0 && next_claim(d, now) <= now;
}

static void
take_ended(Dialer *d, Turn *turn)
{
	int i;

	for (i = 0; i < d->air.size && turn->nrecord < d->air.landed; i++)
		if (d->air.flights[i].taken && d->air.flights[i].landed && !d->air.flights[i].alone)
			turn->record[turn->nrecord++] = &d->air.flights[i];
}

/* Records what has ended and claims what can be sent, in one transaction; then sends. */
static void
work(Dialer *d)
{
	char error[256] = "";
	int sqlstate = 0;
	Turn turn;
	int i;

	begin_turn(d, &turn);
	take_ended(d, &turn);
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
discard_flights(Dialer *d)
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
check_readiness(Dialer *d)
{
	KtReadiness *readiness = &d->readiness;
	int64 epoch = readiness->epoch;

	kt_readiness_check(readiness, d->air.taken);
	d->check_at = kt_http_now() + POLL_US;
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
next_deadline(const Dialer *d)
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
wait_for_something(Dialer *d)
{
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	d->slot->in_flight = d->air.taken;
	LWLockRelease(kt_shared->lock);
	if (kt_worker_wait(kt_http_fd(d->air.http), next_deadline(d), "KridtechDialer"))
		d->look = true;
	kt_count(d->slot, KT_COUNT_WAKES, 1);
}

static void
record_all(Dialer *d, int64 until)
{
	char error[256];
	Turn turn;
	int i;

	begin_turn(d, &turn);
	take_ended(d, &turn);
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
drain(Dialer *d)
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

static Dialer *
make_dialer(KtSlot *slot)
{
	MemoryContext context =
		AllocSetContextCreate(TopMemoryContext, "kridtech dialer", ALLOCSET_DEFAULT_SIZES);
	Dialer *d = MemoryContextAllocZero(context, sizeof(Dialer));
	int kind;

	d->slot = slot;
	d->context = context;
	d->turn = AllocSetContextCreate(context, "kridtech turn", ALLOCSET_DEFAULT_SIZES);
	kt_gate_init(&d->gates, context);
	kt_air_init(&d->air, context, slot, &d->gates);
	kt_stock_init(&d->stock, context);
	kt_retention_init(&d->retention, slot);
	d->sync = kt_sync_create(context, slot, &d->air, &d->gates);
	for (kind = 0; kind < NSWEEPS; kind++)
		d->sweeps[kind].kind = (SweepKind) kind;
	return d;
}

static void
take_settings(Dialer *d)
{
	kt_air_resize(&d->air, kt_max_concurrent_requests);
	kt_pace_set(&d->pace, kt_calls_per_second, kt_http_now());
}

static bool
must_stop(const Dialer *d)
{
	return kt_worker_stop || d->slot->restart;
}

void
kridtech_dialer_main(Datum argument)
{
	Oid database = DatumGetObjectId(argument);
	KtSlot *slot;
	Dialer *d;

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
			take_settings(d);
		kt_air_collect(&d->air);
		if (!d->readiness.ready || kt_http_now() >= d->check_at)
			check_readiness(d);
		/* what a run has sent is recorded whether or not it may send more */
		if (d->readiness.epoch != 0)
		{
			record_stragglers(d, 0);
			if (d->readiness.ready && sweeps_are_due(d))
				run_sweeps(d);
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
