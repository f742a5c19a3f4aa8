/*
 * What a list of calls brings: rows of the mirror, proof for events, calls for unknown requests.
 *
 * A user's trigger on the events or the requests may raise: that costs what it stands in the way of, and that
 * comes again with the next list.
 */
#include "postgres.h"

#include "listing.h"

#include "background.h"
#include "convert.h"
#include "events.h"
#include "queuebind.h"
#include "utils/memutils.h"
#include "xact.h"

/* Events looked at beside those of the list. */
#define LATE_EVENTS 1000

static bool
run_unit(const char *activity, KtXactWork work, void *argument)
{
	return kt_xact_run(activity, work, argument, NULL, NULL, 0) == KT_XACT_DONE;
}

static void
store_work(void *argument)
{
	KtListing *listing = argument;
	KtListRead *read = &listing->read;
	MemoryContext caller = MemoryContextSwitchTo(listing->memory);
	KtOwner owner;

	read->n = listing->answer->ncalls;
	read->calls = kt_mirror_convert(listing->answer->calls, read->n);
	read->whole = !listing->filtered && kt_mirror_is_whole(listing->answer);
	MemoryContextSwitchTo(caller);
	kt_background_begin(&owner);
	listing->known = listing->known || kt_mirror_knows(listing->account_id);
	listing->changed = kt_mirror_store(read->calls, read->n, &listing->added);
	kt_owner_end(&owner);
}

bool
kt_listing_store(KtListing *listing)
{
	listing->changed = listing->added = 0;
	return run_unit("storing the list of calls", store_work, listing);
}

static void
verify_work(void *argument)
{
	const KtApiAnswer *answer = ((KtListing *) argument)->answer;
	const char **call_ids = palloc((answer->ncalls + LATE_EVENTS) * sizeof(char *));
	char **late = palloc(LATE_EVENTS * sizeof(char *));
	KtOwner owner;
	int nlate;
	int n = 0;
	int i;

	for (i = 0; i < answer->ncalls; i++)
		if (answer->calls[i].call_id != NULL)
			call_ids[n++] = answer->calls[i].call_id;
	kt_background_begin(&owner);
	nlate = kt_mirror_late_events(late, LATE_EVENTS);
	for (i = 0; i < nlate; i++)
		call_ids[n++] = kt_convert_to_utf8(late[i]);
	(void) kt_events_verify_listed(call_ids, n);
	kt_owner_end(&owner);
}

void
kt_listing_verify(KtListing *listing)
{
	(void) run_unit("verifying events by the list", verify_work, listing);
}

/* ---- unknown requests ------------------------------------------------------------------------------------ */

typedef struct Bindings
{
	KtListing *listing;
	KtBinding *items; /* in the listing's memory */
	int n;
	int current;
	int bound;
} Bindings;

static void
judge_work(void *argument)
{
	Bindings *bindings = argument;
	KtListing *listing = bindings->listing;
	KtBinding *found = NULL;
	KtOwner owner;
	int n;
	int i;

	kt_background_begin(&owner);
	n = kt_reconcile(listing->account_id, &listing->read, listing->trusted_since,
	                 listing->sightings, &found);
	bindings->items = MemoryContextAlloc(listing->memory, Max(n, 1) * sizeof(KtBinding));
	for (i = 0; i < n; i++)
	{
		bindings->items[i] = found[i];
		bindings->items[i].call_id = MemoryContextStrdup(listing->memory, found[i].call_id);
		bindings->items[i].how = MemoryContextStrdup(listing->memory, found[i].how);
	}
	bindings->n = n;
	kt_owner_end(&owner);
}

static void
bind_work(void *argument)
{
	Bindings *bindings = argument;
	const KtBinding *binding = &bindings->items[bindings->current];
	const char *call_id = binding->call_id;
	KtOwner owner;

	kt_background_begin(&owner);
	bindings->bound = kt_queue_bind(&binding->request_id, &call_id, 1, binding->how);
	kt_owner_end(&owner);
}

void
kt_listing_reconcile(KtListing *listing)
{
	Bindings bindings = {.listing = listing};
	bool any = false;

	if (!run_unit("reconciling unknown requests", judge_work, &bindings))
		return;
	for (; bindings.current < bindings.n; bindings.current++)
	{
		bindings.bound = 0;
		if (!run_unit("binding a request to its call", bind_work, &bindings) || bindings.bound == 0)
			continue;
		any = true;
		kt_count(listing->slot, KT_COUNT_SYNC_BOUND, 1);
		ereport(
			LOG,
			(errmsg("kridtech: the list of calls shows which call the unknown request " INT64_FORMAT
		            " has become",
		            bindings.items[bindings.current].request_id)));
	}
	/* Its event may be here, verified by this very list. */
	if (any)
		kt_listing_verify(listing);
}
