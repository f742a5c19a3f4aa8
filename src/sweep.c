/*
 * The sweeps: rows that move without a request being sent. What an earlier run left behind becomes unknown, what
 * is too late expires, what has waited long enough becomes ready.
 *
 * Each moves a bounded number of rows in a unit of work of its own. One poison row does not stop the others.
 */
#include "postgres.h"

#include "turn.h"

#include "extension.h"
#include "http.h"
#include "queuesweep.h"
#include "utils/timestamp.h"
#include "xact.h"

/* How many rows a sweep moves at a time, and how long it passes over those that fail. */
#define SWEEP_BATCH 1000
#define SWEEP_ANEW_US INT64CONST(60000000)

static void
sweep_work(void *argument)
{
	KtSweep *sweep = argument;
	KtOwner owner;

	kt_owner_begin(&owner);
	switch (sweep->kind)
	{
		case KT_SWEEP_RECOVER:
			sweep->moved = kt_queue_recover(sweep->epoch, sweep->offset, sweep->limit);
			break;
		case KT_SWEEP_EXPIRE:
			sweep->moved = kt_queue_expire(sweep->offset, sweep->limit);
			break;
		case KT_SWEEP_PROMOTE:
			sweep->moved = kt_queue_promote(sweep->offset, sweep->limit);
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
run_sweep(KtDialer *d, KtSweep *sweep)
{
	static const char *const activity[] = {
		[KT_SWEEP_RECOVER] = "recovering what an earlier run left",
		[KT_SWEEP_EXPIRE] = "expiring",
		[KT_SWEEP_PROMOTE] = "making ready what has waited",
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
	sweep->moved = 0;
	d->check_at = 0; /* is the extension still there? */
	if (kt_xact_is_passing(sqlstate))
		return SWEEP_BLOCKED;
	if (sweep->limit > 1)
		sweep->limit = 1;
	else
		sweep->offset++;
	return SWEEP_FAILED;
}

/* ---- is there anything to move? ---------------------------------------------------------------------- */

typedef struct Look
{
	int64 epoch;
	bool found;
	TimestampTz next_due;
} Look;

static void
look_work(void *argument)
{
	Look *look = argument;
	KtOwner owner;

	kt_owner_begin(&owner);
	look->found = kt_queue_look(look->epoch, &look->next_due);
	kt_owner_end(&owner);
}

/* Mostly nothing moves: SWEEP_DONE. */
static SweepEnd
look_first(KtDialer *d)
{
	Look look = {d->readiness.epoch, false, 0};
	int sqlstate = 0;
	bool done = kt_xact_run("looking for what is to move", look_work, &look, &sqlstate, NULL, 0) ==
	            KT_XACT_DONE;

	d->next_due = look.next_due; /* what failed is tried again at the next poll, and not before */
	if (done)
		return look.found ? SWEEP_MORE : SWEEP_DONE;
	d->check_at = 0;
	return kt_xact_is_passing(sqlstate) ? SWEEP_BLOCKED : SWEEP_FAILED;
}

static void
count_moved(KtDialer *d, const KtSweep *sweep)
{
	switch (sweep->kind)
	{
		case KT_SWEEP_RECOVER:
			if (sweep->moved > 0)
				ereport(LOG, (errmsg("kridtech: %d requests of an earlier dialer are unknown",
				                     sweep->moved)));
			break;
		case KT_SWEEP_EXPIRE:
			kt_count(d->slot, KT_COUNT_EXPIRED, sweep->moved);
			break;
		case KT_SWEEP_PROMOTE:
			break;
	}
}

static void
sweep_all(KtDialer *d)
{
	SweepEnd end = SWEEP_DONE;
	bool more = false;
	int kind;

	for (kind = 0; kind < KT_NSWEEPS && end != SWEEP_BLOCKED; kind++)
	{
		end = run_sweep(d, &d->sweeps[kind]);
		more = more || end == SWEEP_MORE;
		count_moved(d, &d->sweeps[kind]);
	}
	if (end == SWEEP_BLOCKED)
	{
		d->poll_at = kt_http_now() + KT_POLL_US;
		return;
	}
	d->poll_at = kt_http_now() + (more ? 0 : KT_POLL_US);
	d->look = true;
}

/*
 * What cannot be looked at may still be swept, in part. But the reason may be that the extension is gone: so that is
 * looked at before, and the sweeps run in the next turn.
 */
void
kt_sweeps_run(KtDialer *d)
{
	bool was_blind = d->blind;
	SweepEnd end = was_blind ? SWEEP_FAILED : look_first(d);

	d->blind = end == SWEEP_FAILED && !was_blind;
	if (d->blind)
	{
		d->readiness.ready = false;
		d->poll_at = 0;
		return;
	}
	if (end == SWEEP_MORE || end == SWEEP_FAILED)
	{
		sweep_all(d);
		return;
	}
	d->poll_at = kt_http_now() + KT_POLL_US;
	if (end == SWEEP_DONE)
		d->look = true;
}
