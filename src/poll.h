/*
 * The polls of the accounts' lists: the state that sync.c, which drives them, and syncplan.c, which says whose turn it
 * is, share.
 */
#ifndef KT_POLL_H
#define KT_POLL_H

#include "cadence.h"
#include "listing.h"
#include "sync.h"

typedef enum KtPollPhase
{
	KT_RESTING,
	KT_BUILT,  /* its request is ready to be sent */
	KT_ASKING, /* it is on the network */
	KT_LANDED
} KtPollPhase;

typedef struct KtPoll
{
	KtGuest guest; /* first: what the network knows it by */
	KtSync *sync;
	char *account_id;
	bool in_use; /* as of the last plan */
	bool shut;   /* the gate is */
	KtCadence cadence;
	KtPollPhase phase;
	int list; /* 0: all calls; n: of kt_list_statuses[n - 1] */

	MemoryContext memory; /* of one list */
	KtHttpRequest request;
	KtHttpTransfer *transfer;
	KtOutcome outcome;
	int http_status;
	int64 retry_after;
	KtApiAnswer answer;
	KtListRead read;

	int64 filtered_at; /* when the lists by status were begun last, monotonic; 0: never */
	bool not_stored;   /* the last failure was ours, not the API's */
	bool polled;       /* a list of all calls was stored */
	TimestampTz done_at;
	TimestampTz gap_at;
	KtSightings sightings;
} KtPoll;

struct KtSync
{
	KtSlot *slot;
	KtAir *air;
	KtGates *gates;
	MemoryContext context;
	KtPoll **polls;
	int n;
	int64 plan_at;               /* when it is looked whose turn it is */
	int64 clock;                 /* wall minus monotonic, as it was the turn before */
	TimestampTz trusted_since;   /* the wall clock has not been set since */
	const char *locked;          /* a table that the last plan found locked, or NULL */
	char problem[KT_MAX_STATUS]; /* of the last plan; empty: none */
};

/* The ordinary interval, and that while an answer is lost, as the settings have them now. */
extern KtCadenceRules kt_syncplan_rules(void);

/* When the account's next list is to be read, on kt_http_now()'s clock; 0: now. */
extern int64 kt_syncplan_due(const KtPoll *poll);

/*
 * Looks which accounts are in use and what waits for their lists, and builds the requests of those whose turn it is,
 * in a unit of work. False when that failed, and sync->problem says why; or when a table was locked.
 */
extern bool kt_syncplan_make(KtSync *sync);

#endif /* KT_POLL_H */
