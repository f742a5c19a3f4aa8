/*
 * How a batch of webhooks is stored: the steps from the statement for all of them down to the inbox.
 */
#ifndef KT_LADDER_H
#define KT_LADDER_H

#include "events.h"
#include "shmem.h"
#include "waiting.h"
#include "webhook.h"

/* Webhooks in one unit of work, at most. */
#define KT_MAX_BATCH 500

/* No unit of work outlives a delivery of that age, in microseconds. */
#define KT_UNIT_ENDS_AT INT64CONST(8500000)

/* How long a unit may take while nothing can be stored, in ms: each try blocks those that come. */
#define KT_TROUBLE_MS 750

typedef enum KtStep
{
	KT_STEP_STORE,
	KT_STEP_APART,
	KT_STEP_KEEP
} KtStep;

typedef struct KtBatch
{
	MemoryContext context; /* of what outlives a step */
	KtEntry *entries[KT_MAX_BATCH];
	KtWebhook *webhooks; /* of which nread are read */
	KtStored *stored;
	int n;
	int nread;
	KtStep step;
	int64 deadline; /* for KT_STEP_APART */
	int sqlstate;   /* of the step before */
	char error[KT_MAX_STATUS];
} KtBatch;

typedef struct KtLadder
{
	const KtWaiting *waiting;
	int64 inbox_until;  /* the first step is left out */
	int inbox_sqlstate; /* why: of the error */
	char inbox_error[KT_MAX_STATUS];
} KtLadder;

extern void kt_ladder_init(KtLadder *ladder, const KtWaiting *waiting);

/*
 * Goes down the steps until one is committed; stored says what became of each webhook. calm: nothing is wrong so far.
 * False when the last failed, or there was no time for it; sqlstate and error, unless that is 0, say why.
 */
extern bool kt_ladder_descend(KtLadder *ladder, KtBatch *batch, bool calm);

/* How long a unit may take now, in ms: that at most; 0: it is not to be begun. */
extern int kt_ladder_time(const KtLadder *ladder, int most);

/* The same for what is done beside, which leaves the steps their time. */
extern int kt_ladder_spare(const KtLadder *ladder, int most);

#endif /* KT_LADDER_H */
