/*
 * Requests that move without being sent. In a unit of work (xact.h), between kt_owner_begin() and
 * kt_owner_end(); throws as any statement does.
 */
#ifndef KT_QUEUESWEEP_H
#define KT_QUEUESWEEP_H

#include "utils/timestamp.h"

/*
 * Whether there is anything to sweep, by one statement. *next_due is when the next waiting request can be placed;
 * 0: none waits.
 */
extern bool kt_queue_look(int64 epoch, TimestampTz *next_due);

/*
 * The sweeps: each moves up to limit rows, those after the first offset ones, and returns how many. What an
 * earlier run left 'placing' becomes 'unknown'; what is queued beyond its not_after expires; what has waited
 * long enough becomes ready.
 */
extern int kt_queue_recover(int64 epoch, int offset, int limit);
extern int kt_queue_expire(int offset, int limit);
extern int kt_queue_promote(int offset, int limit);

#endif /* KT_QUEUESWEEP_H */
