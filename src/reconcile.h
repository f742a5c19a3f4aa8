/*
 * The reconciliation: which listed calls unknown requests have become. match.c decides; this reads what it
 * decides on, and keeps what it needs twice.
 */
#ifndef KT_RECONCILE_H
#define KT_RECONCILE_H

#include "mirror.h"

/* An unfiltered list as it was read. */
typedef struct KtListRead
{
	const KtMirrorCall *calls; /* in its order */
	int n;
	bool whole;          /* it holds every call there is */
	TimestampTz read_at; /* when it was asked for, by our clock */
	bool has_skew;       /* the API's clock minus ours lies between these, in microseconds */
	int64 skew_low;
	int64 skew_high;
} KtListRead;

/* What the lists before have shown of one attempt. */
typedef struct KtSighting
{
	int64 attempt;
	char *call_id;
	TimestampTz read_at;
	int64 skew_low; /* of that list */
	int64 skew_high;
	bool seen; /* by the list at hand */
} KtSighting;

/* One account's; all zero at first. */
typedef struct KtSightings
{
	KtSighting *items; /* in the context */
	int n;
	MemoryContext context;
} KtSightings;

/* A request that has become a call. palloc'd. */
typedef struct KtBinding
{
	int64 request_id;
	char *call_id;
	char *how; /* the evidence, for kt_queue_bind() */
} KtBinding;

/*
 * Judges the account's unknown requests by a list whose rows kt_mirror_store() has stored. What two lists agree
 * on comes back in *bindings: how many. Of the others the verdict is noted with the attempt. Attempts begun
 * before trusted_since are passed over: our clock was set since. In a unit of work; throws.
 */
extern int kt_reconcile(const char *account_id, const KtListRead *list, TimestampTz trusted_since,
                        KtSightings *sightings, KtBinding **bindings);

#endif /* KT_RECONCILE_H */
