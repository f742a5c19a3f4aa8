/*
 * kridtech.retention: what is finished, and older than that, is removed, a little at a time, by the dialer's process.
 */
#ifndef KT_RETENTION_H
#define KT_RETENTION_H

#include "datatype/timestamp.h"
#include "shmem.h"

/* Behind which row: that of the id; or so many of those from the time on. */
typedef struct KtRetentionPlace
{
	int64 id;
	TimestampTz at;
} KtRetentionPlace;

typedef struct KtRetention
{
	KtSlot *slot;           /* counters */
	int phase;              /* which table the pass is at */
	KtRetentionPlace place; /* the pass stands here ... */
	KtRetentionPlace next;  /* ... and behind the unit at hand, once that is committed */
	int limit;              /* rows looked at in a unit of work */
	int singly;             /* how many of a batch that failed are still to be done one by one */
	int failures;           /* units that failed in a row */
	int setting;            /* kridtech.retention as the pass began */
	int64 next_at;          /* when it goes on, on kt_http_now()'s clock */
	TimestampTz cutoff;     /* of the unit at hand */
	int64 removed;          /* by it */
	bool at_end;            /* of the phase */
} KtRetention;

extern void kt_retention_init(KtRetention *retention, KtSlot *slot);

/* One unit of work, when one is due. Outside a unit of work. */
extern void kt_retention_work(KtRetention *retention);

/* When kt_retention_work() is to be called at the latest, on kt_http_now()'s clock; -1: no deadline. */
extern int64 kt_retention_deadline(const KtRetention *retention);

#endif /* KT_RETENTION_H */
