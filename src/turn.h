/*
 * The dialer's state, and one turn of its loop: for the dialer's own files alone.
 */
#ifndef KT_TURN_H
#define KT_TURN_H

#include "flight.h"
#include "gate.h"
#include "pace.h"
#include "queue.h"
#include "queueresults.h"
#include "readiness.h"
#include "retention.h"
#include "shmem.h"
#include "stock.h"
#include "sync.h"

/* The table is the truth and a wake only a hint: without one, it is looked at this often. */
#define KT_POLL_US INT64CONST(1000000)

/* A unit of work that failed is tried again after this. */
#define KT_FAILURE_US INT64CONST(500000)

typedef enum KtSweepKind
{
	KT_SWEEP_RECOVER,
	KT_SWEEP_EXPIRE,
	KT_SWEEP_PROMOTE
} KtSweepKind;

#define KT_NSWEEPS (KT_SWEEP_PROMOTE + 1)

typedef struct KtSweep
{
	KtSweepKind kind;
	int offset; /* rows that failed, passed over */
	int limit;
	int64 anew_at; /* when it begins with all rows again */
	int64 epoch;
	int moved; /* by the last one */
} KtSweep;

typedef struct KtDialer
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
	KtSweep sweeps[KT_NSWEEPS];
	bool blind; /* what is to be swept could not be looked at */

	bool look;            /* something may have been queued since the last scan */
	bool held;            /* nothing may be claimed: what is in stock is no reason to try */
	bool claim_one;       /* a claim failed: find the one that makes it fail */
	int64 check_at;       /* when readiness is looked at again, on kt_http_now()'s clock */
	int64 poll_at;        /* when the table is looked at without a wake */
	int64 replan_at;      /* when a few candidates are reason enough to plan anew */
	int64 hold_until;     /* nothing is claimed before */
	TimestampTz next_due; /* when a waiting request becomes ready, 0: none */
} KtDialer;

/* What one unit of work is to do, and what it did. */
typedef struct KtTurn
{
	KtDialer *d;
	KtFlight **record; /* whose results to record */
	int nrecord;
	KtNotices notices; /* of requests that came to a final state */
	bool claim;
	KtFlight **claimed; /* flights made by this unit */
	int nclaimed;
	bool unconfirmed; /* no synchronous standby may have its commit */
	int64 last_id;    /* the candidate a claim of one was about */
	bool building;    /* a claimed request is made into a flight: an error is of its own content */
} KtTurn;

/* record.c: results into the tables, what they teach about the accounts, and the counters. */
extern void kt_turn_record(KtTurn *turn);
extern void kt_turn_learn(KtTurn *turn);
extern void kt_turn_count(KtDialer *d, KtFlight **flights, int n);

/* Whether the callId of a result belongs to another request: one that could not be recorded may have failed otherwise. */
extern bool kt_turn_is_taken(const KtFlight *flight);

/* claim.c: claims what may be sent now and makes flights of it. In a unit of work. */
extern void kt_turn_claim(KtTurn *turn);

/* sweep.c: rows that move without a request being sent, each kind in units of work of its own. */
extern void kt_sweeps_run(KtDialer *d);

#endif /* KT_TURN_H */
