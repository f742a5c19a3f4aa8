/*
 * What a list of calls brings: rows of the mirror, proof for events, calls for unknown requests. Each in units of
 * work of its own, so that a failure of one costs the others nothing.
 */
#ifndef KT_LISTING_H
#define KT_LISTING_H

#include "reconcile.h"
#include "shmem.h"

typedef struct KtListing
{
	const char *account_id;
	KtSlot *slot; /* counters */
	MemoryContext memory;
	const KtApiAnswer *answer;
	bool filtered;   /* by status: it is not a list of all calls */
	KtListRead read; /* read_at and the skew are the caller's, the rest kt_listing_store()'s */
	TimestampTz trusted_since;
	KtSightings *sightings;

	bool
		known; /* the mirror held calls of the account before; where false, kt_listing_store() looks */
	int changed; /* out: rows of the mirror added or changed */
	int added;   /* out: of these, the new ones */
} KtListing;

/* Brings the list into the mirror. False when that failed. */
extern bool kt_listing_store(KtListing *listing);

/* Events whose call the API lists become verified. */
extern void kt_listing_verify(KtListing *listing);

/* Unknown requests that this list, of all calls, and one before it agree on are bound. */
extern void kt_listing_reconcile(KtListing *listing);

#endif /* KT_LISTING_H */
