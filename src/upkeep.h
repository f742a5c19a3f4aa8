/*
 * What the receiver does beside receiving: the inbox's retries, late verification, late binding.
 */
#ifndef KT_UPKEEP_H
#define KT_UPKEEP_H

#include "datatype/timestamp.h"

#define KT_UPKEEP_RETRIES 20

/* All times on kt_http_now()'s clock. Begin with zeroes: everything is due. */
typedef struct KtUpkeep
{
	int64 verify_at;
	int64 bind_at;
	int64 claim_at;                   /* when the inbox is looked at */
	int64 retries[KT_UPKEEP_RETRIES]; /* rows of the inbox that were claimed and not tried yet */
	int nretries;
} KtUpkeep;

/*
 * Does one thing that is due, in at most so many ms, so that what comes in meanwhile is soon served. What it allocates
 * goes into the current memory context.
 */
extern void kt_upkeep_step(KtUpkeep *upkeep, int ms);

/* An event names a request that waits for its callId: binding is due now. */
extern void kt_upkeep_bind(KtUpkeep *upkeep);

/* When something is due. */
extern int64 kt_upkeep_deadline(const KtUpkeep *upkeep);

#endif /* KT_UPKEEP_H */
