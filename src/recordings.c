/*
 * The dialer's chore beside dialling: it fetches the recordings of verified webhook events.
 *
 * It walks through the events in the order in which they came and gives each recording a row that waits; and it
 * claims what waits, oldest first, at most two at a time (fetch.c). Oldest first, because their URLs expire first;
 * where they have expired already that costs one short request, and it comes to those that have not.
 *
 * The walk is a cursor over an index. It stays at the end and looks a little back each time, for transactions that
 * committed late; from time to time it begins again, for events that were verified late.
 *
 * Nothing here is needed for a call. A unit of work that fails holds up recordings for a few seconds and nothing
 * else; and a row that fails every time, or that a trigger leaves as it is, is passed over until the next round.
 */
#include "postgres.h"

#include "recordings.h"

#include "archive.h"
#include "fetch.h"
#include "settings.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "xact.h"

/* Downloads at a time: a second one, so that a slow server does not hold up all others. */
#define MAX_DOWNLOADS 2

/* How often new events are looked for, and the next step of a walk that is not at its end. */
#define POLL_US INT64CONST(2000000)
#define WALK_US INT64CONST(10000)

/* Events that one step of the walk passes. */
#define WALK_BATCH 200

/* A transaction that stores an event may commit this much later. */
#define OVERLAP_US INT64CONST(10000000)

/* A walk begins again so long after it came to its end, and ten times as long as it took. */
#define REST_US INT64CONST(30000000)
#define REST_SHARE 10

/* How often what kridtech.retention has condemned is looked for. */
#define RETIRE_US INT64CONST(60000000)

/*
 * What failed is tried again after this; and when a row was passed over, the next one is looked at after this, which is
 * doubled while rows fail one after the other: each is an ERROR in the log.
 */
#define FAILURE_US INT64CONST(5000000)
#define PASS_US INT64CONST(500000)
#define MAX_DOUBLINGS 2

/* Stands behind the rows that cannot be claimed, or removed; at its end they are looked at again. */
typedef struct Round
{
	KtArchiveCursor cursor;
	int failures; /* one after the other */
} Round;

typedef struct Chore
{
	MemoryContext context;
	MemoryContext scratch; /* of one unit */
	KtSlot *slot;
	KtHttp *http;
	bool ready;  /* this database is ours to work in */
	int64 epoch; /* of the run that fetches, 0: none does */
	bool recovered;
	KtFetch fetches[MAX_DOWNLOADS];
	int turn; /* whose turn it is */

	KtArchiveCursor cursor;
	int walk_limit;
	bool walk_passes; /* the next step adds nothing: the event before it cannot be added */
	int64 walk_began; /* when this walk left its beginning */
	int64 rest_until; /* when it begins again; 0: it is not at its end */
	int64 walk_at;    /* when its next step is due */
	int64 claim_at;   /* when something may be claimed */
	int64 retire_at;  /* when something may be old enough to be removed */

	Round claims;
	Round removals;
} Chore;

static Chore *chore = NULL;

/* ---- the walk ----------------------------------------------------------------------------- */

static void
set_cursor(KtArchiveCursor *cursor, TimestampTz at, const char *call_id)
{
	char *copy = MemoryContextStrdup(chore->context, call_id);

	if (cursor->call_id != NULL)
		pfree(cursor->call_id);
	cursor->at = at;
	cursor->call_id = copy;
}

static void
to_beginning(KtArchiveCursor *cursor)
{
	set_cursor(cursor, DT_NOBEGIN, "");
}

static void
begin_walk(int64 now)
{
	int64 reach = kt_recording_max_age;

	/* what retention has removed is not to come again */
	if (kt_retention > 0)
		reach = Min(reach, kt_retention);
	set_cursor(&chore->cursor, GetCurrentTimestamp() - reach * USECS_PER_SEC, "");
	chore->walk_limit = WALK_BATCH;
	chore->walk_passes = false;
	chore->walk_began = now;
	chore->rest_until = 0;
}

/* What a unit is about, and what came of it. */
typedef struct Unit
{
	KtArchiveCursor cursor;
	int seen;
	KtFetch *fetch;
	KtArchiveFound found;
	bool row; /* a whole recording is gone */
} Unit;

static void
walk_work(void *argument)
{
	Unit *unit = argument;
	MemoryContext unit_context = MemoryContextSwitchTo(chore->context);

	unit->cursor = chore->cursor;
	unit->seen = kt_archive_enlist(&unit->cursor, chore->walk_limit, !chore->walk_passes);
	MemoryContextSwitchTo(unit_context);
}

/* At the end of the events: from here on only what is new, until the next walk. */
static void
end_walk(int64 now)
{
	TimestampTz back = GetCurrentTimestamp() - OVERLAP_US;

	if (chore->rest_until == 0)
		chore->rest_until = now + Max(REST_US, REST_SHARE * (now - chore->walk_began));
	if (chore->cursor.at > back)
		set_cursor(&chore->cursor, back, "");
	chore->walk_at = now + POLL_US;
}

/*
 * One step. A batch that fails is done again one by one, and one that fails alone is passed over, until the next
 * walk: one event that cannot be added does not stop the others.
 */
static void
walk(int64 now)
{
	Unit unit = {0};

	if (chore->cursor.call_id == NULL || (chore->rest_until != 0 && now >= chore->rest_until))
		begin_walk(now);
	if (kt_xact_run("looking for recordings", walk_work, &unit, NULL, NULL, 0) != KT_XACT_DONE)
	{
		chore->walk_passes = chore->walk_limit == 1;
		chore->walk_limit = 1;
		chore->walk_at = now + FAILURE_US;
		return;
	}
	chore->walk_passes = false;
	if (unit.seen > 0)
	{
		set_cursor(&chore->cursor, unit.cursor.at, unit.cursor.call_id);
		pfree(unit.cursor.call_id);
		chore->claim_at = Min(chore->claim_at, now);
	}
	if (unit.seen < chore->walk_limit)
		end_walk(now);
	else
		chore->walk_at = now + WALK_US;
}

/* ---- the claims ------------------------------------------------------------------------------------------ */

static KtFetch *
find_free(void)
{
	int i;

	for (i = 0; i < MAX_DOWNLOADS; i++)
		if (chore->fetches[i].phase == KT_FETCH_FREE)
			return &chore->fetches[i];
	return NULL;
}

/*
 * When a unit is to be done that did not do its work: later, where that may pass by itself, nothing was found, or it
 * failed before a row was; else behind the row that it was about. One row that somebody's trigger refuses to have changed
 * does not stop the others.
 */
static int64
pass_over(Round *round, const Unit *unit, int sqlstate, int64 pause)
{
	bool moved = unit->cursor.call_id != round->cursor.call_id;

	if (kt_xact_is_passing(sqlstate) || (sqlstate != 0 && !moved))
		return FAILURE_US;
	if (sqlstate == 0)
		round->failures = 0;
	if (sqlstate == 0 && unit->found == KT_ARCHIVE_NOTHING)
	{
		to_beginning(&round->cursor);
		return pause;
	}
	set_cursor(&round->cursor, unit->cursor.at, unit->cursor.call_id);
	if (sqlstate == 0)
		return PASS_US;
	round->failures++;
	return PASS_US << Min(round->failures - 1, MAX_DOUBLINGS);
}

static void
claim_work(void *argument)
{
	Unit *unit = argument;
	MemoryContext unit_context = MemoryContextSwitchTo(unit->fetch->context);

	unit->found = kt_archive_claim(&unit->fetch->claim, &unit->cursor);
	MemoryContextSwitchTo(unit_context);
}

static void
claim(KtFetch *fetch, int64 now)
{
	Unit unit = {.fetch = fetch, .cursor = chore->claims.cursor};
	bool passed = unit.cursor.at != DT_NOBEGIN;
	int sqlstate;

	if (kt_xact_run("claiming a recording", claim_work, &unit, &sqlstate, NULL, 0) ==
	        KT_XACT_DONE &&
	    unit.found == KT_ARCHIVE_DONE)
	{
		chore->claims.failures = 0;
		kt_fetch_begin(fetch, chore->http, chore->slot);
		return;
	}
	chore->claim_at = now + pass_over(&chore->claims, &unit, sqlstate, passed ? REST_US : POLL_US);
	MemoryContextReset(fetch->context);
}

/* ---- retention --------------------------------------------------------------------------------------------- */

static void
retire_work(void *argument)
{
	Unit *unit = argument;
	TimestampTz cutoff = GetCurrentTimestamp() - (int64) kt_retention * USECS_PER_SEC;
	MemoryContext unit_context = MemoryContextSwitchTo(chore->scratch);

	unit->found = kt_archive_retire(cutoff, &unit->cursor, chore->epoch != 0, &unit->row);
	MemoryContextSwitchTo(unit_context);
}

static void
retire(int64 now)
{
	Unit unit = {.cursor = chore->removals.cursor};
	int sqlstate;

	if (kt_xact_run("removing a recording beyond kridtech.retention", retire_work, &unit, &sqlstate,
	                NULL, 0) == KT_XACT_DONE &&
	    unit.found == KT_ARCHIVE_DONE)
	{
		kt_count(chore->slot, KT_COUNT_RETIRED, unit.row);
		chore->removals.failures = 0;
		chore->retire_at = now + WALK_US;
	}
	else
		chore->retire_at = now + pass_over(&chore->removals, &unit, sqlstate, RETIRE_US);
	MemoryContextReset(chore->scratch);
}

/* ---- the chore -------------------------------------------------------------------------------------------- */

static void
recover_work(void *argument)
{
	kt_archive_recover();
}

static void
make_chore(void)
{
	MemoryContext context =
		AllocSetContextCreate(TopMemoryContext, "kridtech recordings", ALLOCSET_DEFAULT_SIZES);
	int i;

	chore = MemoryContextAllocZero(context, sizeof(Chore));
	chore->context = context;
	chore->scratch =
		AllocSetContextCreate(context, "kridtech recordings unit", ALLOCSET_SMALL_SIZES);
	to_beginning(&chore->claims.cursor);
	to_beginning(&chore->removals.cursor);
	for (i = 0; i < MAX_DOWNLOADS; i++)
		chore->fetches[i].context =
			AllocSetContextCreate(context, "kridtech recording", ALLOCSET_SMALL_SIZES);
}

/* Everything begins anew: what this run had claimed is then recovered like what an earlier one had. */
static void
forget(void)
{
	int i;

	for (i = 0; i < MAX_DOWNLOADS; i++)
		kt_fetch_release(&chore->fetches[i]);
	chore->recovered = false;
	chore->rest_until = 1; /* which is past */
	chore->walk_at = chore->claim_at = chore->retire_at = 0;
	to_beginning(&chore->claims.cursor);
	to_beginning(&chore->removals.cursor);
}

/* The next download whose unit is due, in turn. */
static KtFetch *
find_due(int64 now)
{
	int i;

	for (i = 0; i < MAX_DOWNLOADS; i++)
	{
		KtFetch *fetch = &chore->fetches[(chore->turn + i) % MAX_DOWNLOADS];
		int64 at = kt_fetch_due(fetch);

		if (at >= 0 && at <= now)
		{
			chore->turn = (chore->turn + i + 1) % MAX_DOWNLOADS;
			return fetch;
		}
	}
	return NULL;
}

/* When what there is to fetch needs a unit. */
static int64
fetch_deadline(void)
{
	int64 deadline = chore->walk_at;
	int i;

	if (!chore->recovered)
		return deadline;
	if (find_free() != NULL)
		deadline = Min(deadline, chore->claim_at);
	for (i = 0; i < MAX_DOWNLOADS; i++)
	{
		int64 at = kt_fetch_due(&chore->fetches[i]);

		if (at >= 0)
			deadline = Min(deadline, at);
	}
	return deadline;
}

/* One unit, which must be due. */
static void
fetch_step(int64 now)
{
	KtFetch *fetch;

	if (!chore->recovered)
	{
		chore->recovered =
			kt_xact_run("recovering recordings", recover_work, NULL, NULL, NULL, 0) == KT_XACT_DONE;
		chore->walk_at = chore->recovered ? 0 : now + FAILURE_US;
		if (chore->recovered)
			kt_shmem_report_fetch(chore->slot);
	}
	else if ((fetch = find_due(now)) != NULL)
	{
		kt_fetch_work(fetch);
		if (fetch->phase == KT_FETCH_FREE)
			chore->claim_at = 0;
	}
	else if (now >= chore->walk_at)
		walk(now);
	else if ((fetch = find_free()) != NULL)
		claim(fetch, now);
}

void
kt_recordings_step(KtHttp *http, KtSlot *slot, int64 epoch)
{
	int64 now = kt_http_now();
	int64 fetching = kt_recordings ? epoch : 0;

	if (chore == NULL && (epoch == 0 || (fetching == 0 && kt_retention == 0)))
		return;
	if (chore == NULL)
		make_chore();
	chore->http = http;
	chore->slot = slot;
	chore->ready = epoch != 0;
	if (fetching != chore->epoch)
	{
		forget();
		chore->epoch = fetching;
	}
	if (chore->epoch != 0 && now >= fetch_deadline())
		fetch_step(now);
	else if (chore->ready && kt_retention > 0 && now >= chore->retire_at)
		retire(now);
}

int64
kt_recordings_deadline(void)
{
	int64 deadline = -1;

	if (chore == NULL || !chore->ready)
		return -1;
	if (kt_retention > 0)
		deadline = chore->retire_at;
	if (chore->epoch != 0)
		deadline = deadline < 0 ? fetch_deadline() : Min(deadline, fetch_deadline());
	return deadline;
}
