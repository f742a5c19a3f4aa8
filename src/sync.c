/*
 * The polling of GET /api/calls in the dialer's process.
 *
 * Each account in use has a poll: it rests, its turn comes, a list is on the network, the list has landed and
 * is stored, it rests again. Where the 100 newest are not all there are, the lists by status follow at once.
 * Nothing here waits: a list is one more transfer of the dialer's own network, its units of work are short and give
 * way (background.h), and between them the dialer turns to its calls.
 *
 * What a crash costs: a list that was on the network is read again. What only memory knows (what the list before
 * showed, how busy the account is) is learnt anew; nothing is bound meanwhile. The evidence of a binding stands
 * with its attempt, and what is known of the clock in shared memory.
 *
 * How often: every kridtech.sync_interval; more often while an answer was lost or a call's end is awaited, and
 * so often that a list's 100 rows reach back to the list before; less often when nothing changes. A 429 shuts
 * the account's gate for its calls too; no other refusal of a list keeps a call from being placed.
 */
#include "postgres.h"

#include "sync.h"

#include "api.h"
#include "background.h"
#include "clock.h"
#include "miscadmin.h"
#include "poll.h"
#include "settings.h"
#include "statement.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "xact.h"

/* After the dialer's start. */
#define FIRST_US INT64CONST(1000000)

/* A plan is made no more often than this, unless a list is due. */
#define LEAST_US INT64CONST(250000)

/* A gap is in the view health for an hour. */
#define GAP_SHOWN_US (INT64CONST(3600) * 1000000)

KtSync *
kt_sync_create(MemoryContext context, KtSlot *slot, KtAir *air, KtGates *gates)
{
	KtSync *sync = MemoryContextAllocZero(context, sizeof(KtSync));

	sync->slot = slot;
	sync->air = air;
	sync->gates = gates;
	sync->context = context;
	sync->plan_at = kt_http_now() + FIRST_US;
	sync->clock = kt_clock_offset();
	sync->trusted_since = kt_shmem_watch_clock();
	return sync;
}

/* ---- when ----------------------------------------------------------------------------------------------- */

/* An account whose gate is shut, or that finds no place on the network, is looked at with the next plan. */
static void
set_plan(KtSync *sync)
{
	int64 now = kt_http_now();
	int i;

	sync->plan_at =
		now + Min(kt_syncplan_rules().lost, Max(kt_syncplan_rules().interval, LEAST_US));
	for (i = 0; i < sync->n; i++)
		if (sync->polls[i]->in_use && sync->polls[i]->phase == KT_RESTING &&
		    kt_syncplan_due(sync->polls[i]) > now)
			sync->plan_at = Min(sync->plan_at, kt_syncplan_due(sync->polls[i]));
}

int64
kt_sync_deadline(const KtSync *sync)
{
	int i;

	if (kt_sync_interval == 0)
		return -1;
	for (i = 0; i < sync->n; i++)
		if (sync->polls[i]->phase == KT_LANDED)
			return 0;
	return sync->plan_at;
}

/* ---- what health says ----------------------------------------------------------------------------------- */

static void
append_trouble(StringInfo words, const KtPoll *poll)
{
	appendStringInfo(words, "; account %s: ", poll->account_id);
	if (poll->not_stored)
		appendStringInfoString(words, "the list could not be stored: see the server's log");
	else if (poll->http_status != 0)
		appendStringInfo(words, "%s (HTTP status %d)", kt_outcome_word(poll->outcome),
		                 poll->http_status);
	else
		appendStringInfoString(words, kt_outcome_word(poll->outcome));
	appendStringInfo(words, ", %d in a row", poll->cadence.failures);
}

static void
report(KtSync *sync)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz done = DT_NOEND;
	StringInfoData more;
	char *words;
	int64 next = PG_INT64_MAX;
	int in_use = 0;
	int shut = 0;
	bool ok = sync->locked == NULL && sync->problem[0] == '\0';
	int i;

	initStringInfo(&more);
	for (i = 0; i < sync->n; i++)
	{
		const KtPoll *poll = sync->polls[i];

		if (!poll->in_use)
			continue;
		in_use++;
		shut += poll->shut;
		done = Min(done, poll->done_at);
		next = Min(next, kt_syncplan_due(poll));
		if (poll->cadence.failures > 0)
			append_trouble(&more, poll);
		if (poll->gap_at > now - GAP_SHOWN_US)
			appendStringInfo(&more, "; gap: more than %d calls of account %s passed before %s",
			                 KT_LIST_LIMIT, poll->account_id, timestamptz_to_str(poll->gap_at));
		ok = ok && poll->cadence.failures == 0 && poll->gap_at <= now - GAP_SHOWN_US;
	}
	if (in_use == 0)
		words = pstrdup("no account to poll: set kridtech.account_id");
	else
		words = psprintf("%d account%s, %d paused; last success %s", in_use, in_use == 1 ? "" : "s",
		                 shut, done == 0 ? "none yet" : timestamptz_to_str(done));
	if (sync->problem[0] != '\0')
		words = psprintf("cannot poll: %s; %s", sync->problem, words);
	else if (sync->locked != NULL)
		words = psprintf("waiting: kridtech.%s is locked; %s", sync->locked, words);
	else if (in_use > shut && next != PG_INT64_MAX)
		words =
			psprintf("%s, next %s", words, timestamptz_to_str(now + Max(0, next - kt_http_now())));
	kt_shmem_report_sync(sync->slot, ok, psprintf("%s%s", words, more.data));
	pfree(more.data);
}

/* ---- on the network -------------------------------------------------------------------------------------- */

static void
rest(KtPoll *poll)
{
	MemoryContextReset(poll->memory);
	memset(&poll->request, 0, sizeof(poll->request));
	poll->transfer = NULL;
	poll->phase = KT_RESTING;
}

/* The API's clock against ours: its Date header was true at some moment of the request, to a second. */
static void
take_skew(KtListRead *read, int64 date)
{
	int64 since_2000 = date - (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY;

	read->has_skew = date >= 0;
	read->skew_low = since_2000 * USECS_PER_SEC - GetCurrentTimestamp();
	read->skew_high = (since_2000 + 1) * USECS_PER_SEC - read->read_at;
}

/* Called by kt_air_collect(): keeps what the list says. Throws for memory only. */
static void
land(KtGuest *guest, const KtHttpAnswer *http)
{
	KtPoll *poll = (KtPoll *) guest;
	MemoryContext caller = MemoryContextSwitchTo(poll->memory);

	poll->outcome = kt_api_judge(KT_ENDPOINT_CALLS, http, &poll->answer);
	poll->http_status = http->status;
	poll->retry_after = http->retry_after;
	take_skew(&poll->read, http->date);
	poll->transfer = NULL;
	poll->phase = KT_LANDED;
	MemoryContextSwitchTo(caller);
}

static void
send_built(KtPoll *poll, bool wanted)
{
	KtSync *sync = poll->sync;

	if (wanted)
	{
		poll->read.read_at = GetCurrentTimestamp();
		poll->guest.land = land;
		poll->transfer = kt_http_submit(sync->air->http, &poll->request);
	}
	kt_api_forget(&poll->request);
	if (poll->transfer == NULL)
		rest(poll);
	else
		poll->phase = KT_ASKING;
}

void
kt_sync_stop(KtSync *sync)
{
	int i;

	for (i = 0; i < sync->n; i++)
	{
		KtPoll *poll = sync->polls[i];

		if (poll->transfer != NULL)
			(void) kt_http_abort(sync->air->http, poll->transfer);
		if (poll->phase != KT_RESTING)
			rest(poll);
	}
}

/* ---- what a list brings ---------------------------------------------------------------------------------- */

/*
 * Whether calls may have passed unseen: none of the list was known, though some of the account were. A time of
 * creation would not tell: the API may cut it to seconds.
 */
static bool
passed_unseen(const KtListing *listing)
{
	return !listing->read.whole && listing->known &&
	       (listing->added >= KT_LIST_LIMIT ||
	        (listing->added > 0 && listing->added == listing->read.n));
}

static void
fail(KtPoll *poll)
{
	KtCadenceRules now = kt_syncplan_rules();
	uint64 random = 0;

	(void) pg_strong_random(&random, sizeof(random));
	kt_cadence_failed(&poll->cadence, &now, kt_http_now(), random);
	poll->list = 0;
	rest(poll);
}

static void
learn_work(void *argument)
{
	KtPoll *poll = argument;
	KtGates *gates = poll->sync->gates;
	KtOwner owner;

	kt_background_begin(&owner);
	kt_gate_learn(&gates->gates[kt_gate_find(gates, poll->account_id)], KT_EFFECT_RATE,
	              poll->retry_after, "the list of calls was refused (HTTP status 429)");
	kt_owner_end(&owner);
}

/* The list of all calls is stored: what it says of gaps and of unknown requests. */
static void
take_all(KtPoll *poll, KtListing *listing)
{
	KtGate *gate = &poll->sync->gates->gates[kt_gate_find(poll->sync->gates, poll->account_id)];
	KtCadenceRules now = kt_syncplan_rules();
	bool gap = passed_unseen(listing);

	poll->polled = true;
	if (gap)
	{
		poll->gap_at = GetCurrentTimestamp();
		kt_count(poll->sync->slot, KT_COUNT_SYNC_GAPS, 1);
	}
	kt_cadence_stored(&poll->cadence, &now, kt_http_now(), listing->added, gap,
	                  listing->changed > 0);
	if (!gate->has_pause)
		gate->failures = 0; /* the API answers, and refuses nothing for its rate */
	kt_listing_reconcile(listing);
}

/* After the list of all calls those by status, where it does not hold all; but not with each of a busy account. */
static int
next_list(KtPoll *poll, bool whole)
{
	int64 now = kt_http_now();

	if (poll->list == 0)
	{
		if (whole ||
		    (poll->filtered_at != 0 && now < poll->filtered_at + kt_syncplan_rules().interval))
			return 0;
		poll->filtered_at = now;
	}
	return (poll->list + 1) % (KT_LIST_STATUSES + 1);
}

static bool
is_usable(KtOutcome outcome)
{
	return outcome == KT_OUTCOME_OK || outcome == KT_OUTCOME_OK_FLAGGED;
}

static void
take(KtPoll *poll)
{
	KtListing listing = {.account_id = poll->account_id,
	                     .slot = poll->sync->slot,
	                     .memory = poll->memory,
	                     .answer = &poll->answer,
	                     .filtered = poll->list > 0,
	                     .read = poll->read,
	                     .trusted_since = poll->sync->trusted_since,
	                     .sightings = &poll->sightings,
	                     .known = poll->polled};

	kt_count(listing.slot, KT_COUNT_SYNC_POLLS, 1);
	if (poll->outcome == KT_OUTCOME_RATE_LIMITED)
		(void) kt_xact_run("recording the API's rate limit", learn_work, poll, NULL, NULL, 0);
	poll->not_stored = is_usable(poll->outcome) && !kt_listing_store(&listing);
	if (!is_usable(poll->outcome) || poll->not_stored)
	{
		fail(poll);
		return;
	}
	kt_count(listing.slot, KT_COUNT_SYNC_ROWS, listing.changed);
	kt_listing_verify(&listing);
	if (poll->list == 0)
		take_all(poll, &listing);
	poll->list = next_list(poll, listing.read.whole);
	if (poll->list == 0)
		poll->done_at = GetCurrentTimestamp();
	rest(poll);
}

/* ---- the step --------------------------------------------------------------------------------------------- */

/* An attempt whose time was taken by a clock that has been set since cannot be compared with a list. */
static void
watch_clock(KtSync *sync)
{
	int64 clock = kt_clock_offset();

	if (kt_clock_was_set(sync->clock, clock))
		sync->trusted_since = kt_shmem_watch_clock();
	sync->clock = clock;
}

static void
plan(KtSync *sync)
{
	bool done = kt_syncplan_make(sync);
	int i;

	sync->trusted_since = kt_shmem_watch_clock();

	for (i = 0; i < sync->n; i++)
		if (sync->polls[i]->phase == KT_BUILT)
			send_built(sync->polls[i], done);
	set_plan(sync);
	report(sync);
}

void
kt_sync_work(KtSync *sync)
{
	int i;

	watch_clock(sync);
	if (kt_sync_interval == 0)
	{
		kt_sync_stop(sync);
		return;
	}
	for (i = 0; i < sync->n; i++)
		if (sync->polls[i]->phase == KT_LANDED)
		{
			take(sync->polls[i]);
			sync->plan_at = Min(sync->plan_at, kt_syncplan_due(sync->polls[i]));
			report(sync);
		}
	if (kt_http_now() >= sync->plan_at)
		plan(sync);
}
