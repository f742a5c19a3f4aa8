/*
 * The dialer's chore beside dialling: it fetches the recordings of verified webhook events.
 *
 * It walks through the events in the order in which they came and gives each recording a row that waits; and it
 * claims what waits, oldest first, at most two at a time. Oldest first, because their URLs expire first; where they
 * have expired already that costs one short request, and the walk comes to those that have not.
 *
 * A download is a chain of units of work: claim, remove what an earlier attempt left, add the pieces, complete; or put
 * back. While a piece waits to be written the transfer is paused, so memory holds two pieces, whatever a recording's
 * length. If the process ends anywhere in the chain, the row says 'fetching', and the next run begins it anew. Nothing
 * here is needed for a call: a unit that fails gives up its download, never more.
 *
 * The walk is a cursor over an index. It stays at the end and looks a little back each time, for transactions that
 * committed late; from time to time it begins again, for events that were verified late.
 */
#include "postgres.h"

#include "recordings.h"

#include "archive.h"
#include "buf.h"
#include "compat.h"
#include "fault.h"
#include "fetchoutcome.h"
#include "fetchurl.h"
#include "limits.h"
#include "miscadmin.h"
#include "settings.h"
#include "utils/timestamp.h"
#include "xact.h"

#define USER_AGENT "kridtech/" KRIDTECH_VERSION

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

/* What failed is tried again after this; and what cannot be put back is left to the next run after so many times. */
#define FAILURE_US INT64CONST(5000000)
#define MAX_FAILURES 10

/* A host that is not listed may come to be: seconds until the list is asked again. */
#define UNLISTED_US (INT64CONST(3600) * 1000000)

#define MAX_REASON 200

typedef enum Phase
{
	PHASE_FREE,
	PHASE_CLEANING, /* removes what an earlier attempt left, or this one when it has failed */
	PHASE_FETCHING,
	PHASE_ENDING /* to be put back */
} Phase;

typedef struct Download
{
	Phase phase;
	MemoryContext context; /* of the claim's strings */
	KtArchiveClaim claim;
	KtFetchTarget target;
	KtHttpTransfer *transfer; /* NULL: not begun, or ended */
	KtBuf buffer;             /* arrived, and not written yet */
	bool paused;              /* the sink has turned bytes away */
	bool ended;
	int64 byte_at; /* when the last byte came, or the transfer was resumed */
	int seq;       /* pieces written */
	int64 bytes;   /* in them */
	KtSha256 *sha; /* of them */
	char content_type[KT_MAX_CONTENT_TYPE + 1];

	KtFetchNext next; /* how it ended, once it has */
	char reason[MAX_REASON];
	int64 retry_after;
	int failures;   /* units that failed in a row */
	int64 retry_at; /* no unit before */
} Download;

typedef struct Chore
{
	MemoryContext context;
	KtSlot *slot;
	KtHttp *http;
	int64 epoch; /* 0: idle */
	bool recovered;
	Download downloads[MAX_DOWNLOADS];
	int turn; /* whose turn it is */

	KtArchiveCursor cursor;
	int walk_limit;
	bool walk_passes; /* the next step adds nothing: the event before it cannot be added */
	int64 walk_began; /* when this walk left its beginning */
	int64 rest_until; /* when it begins again; 0: it is not at its end */
	int64 walk_at;    /* when its next step is due */
	int64 claim_at;   /* when something may be claimed */
	int claim_skip;   /* rows that cannot be claimed, passed over until the next walk */
} Chore;

static Chore *chore = NULL;

/* ---- what libcurl calls: nothing here may throw ---------------------------------------------------------- */

static KtHttpSunk
on_bytes(void *owner, const char *bytes, size_t len)
{
	Download *d = owner;

	if (d->buffer.len >= KT_RECORDING_CHUNK)
	{
		d->paused = true;
		return KT_HTTP_WAIT;
	}
	d->byte_at = kt_http_now();
	return kt_buf_append(&d->buffer, bytes, len) ? KT_HTTP_TAKEN : KT_HTTP_STOP;
}

static bool
on_address(void *owner, const struct sockaddr *address)
{
	const Download *d = owner;

	return kt_fetchurl_allows(&d->target, address);
}

/* Called while the dialer collects what has ended. */
static void
on_end(void *owner, const KtHttpAnswer *answer)
{
	Download *d = owner;

	d->transfer = NULL;
	d->ended = true;
	d->next = kt_fetchoutcome_judge(answer, d->bytes + (int64) d->buffer.len, d->reason,
	                                sizeof(d->reason));
	d->retry_after = answer->retry_after;
	kt_fetchoutcome_print(answer->content_type, d->content_type, sizeof(d->content_type));
}

/* ---- a download's beginning and end ---------------------------------------------------------------------- */

/* Lets go of all that a download holds. What its row says is another matter. */
static void
drop(Download *d)
{
	if (d->transfer != NULL)
		(void) kt_http_abort(chore->http, d->transfer);
	d->transfer = NULL;
	if (d->sha != NULL)
		(void) kt_sha256_end(d->sha, NULL);
	d->sha = NULL;
	kt_buf_free(&d->buffer);
}

static void
release(Download *d)
{
	MemoryContext context = d->context;

	drop(d);
	MemoryContextReset(context);
	memset(d, 0, sizeof(*d));
	d->context = context;
	chore->claim_at = 0;
}

/* The attempt has come to nothing: its pieces are to be removed, and then its row put back. */
static void
fail(Download *d, KtFetchNext next, const char *reason)
{
	drop(d);
	d->next = next;
	d->ended = true;
	if (reason != d->reason)
		strlcpy(d->reason, reason, sizeof(d->reason));
	d->phase = d->seq > 0 ? PHASE_CLEANING : PHASE_ENDING;
}

static int64
age(const Download *d)
{
	return GetCurrentTimestamp() - d->claim.received_at;
}

static bool
is_too_old(const Download *d, int64 delay)
{
	return age(d) + delay > (int64) kt_recording_max_age * USECS_PER_SEC;
}

/* How long until it is tried again, or -1; completes the reason. */
static int64
next_delay(Download *d)
{
	uint64 random = 0;
	int64 delay;

	if (d->next == KT_FETCH_NEVER ||
	    (d->next == KT_FETCH_DOUBT && d->claim.attempts >= KT_FETCH_DOUBTS))
		return -1;
	(void) pg_strong_random(&random, sizeof(random));
	delay = kt_fetchoutcome_delay(d->claim.attempts, d->retry_after, random);
	if (!is_too_old(d, delay))
		return delay;
	strlcat(d->reason, "; given up, it is older than kridtech.recording_max_age",
	        sizeof(d->reason));
	return -1;
}

static const char *
fault_of_url(KtFetchFault fault)
{
	switch (fault)
	{
		case KT_FETCH_OK:
			return NULL;
		case KT_FETCH_MALFORMED:
			return "the URL is malformed";
		case KT_FETCH_SCHEME:
			return "the URL is not https";
		case KT_FETCH_CREDENTIALS:
			return "the URL holds a user name or a password";
		case KT_FETCH_HOST:
			return "the URL's host is not in kridtech.recording_hosts";
	}
	return NULL;
}

/* May it be fetched at all? If not, it is as good as ended. */
static bool
is_fit(Download *d)
{
	KtFetchFault fault;

	if (d->claim.url == NULL)
		fail(d, KT_FETCH_NEVER, "the webhook event is gone, or not verified any more");
	else if (is_too_old(d, 0))
		fail(d, KT_FETCH_NEVER, "it is older than kridtech.recording_max_age");
	else if ((fault = kt_fetchurl_judge(d->claim.url, kt_recording_hosts, &d->target)) !=
	         KT_FETCH_OK)
	{
		d->retry_after = UNLISTED_US / USECS_PER_SEC;
		fail(d, fault == KT_FETCH_HOST ? KT_FETCH_RETRY : KT_FETCH_NEVER, fault_of_url(fault));
	}
	return !d->ended;
}

static void
start(Download *d)
{
	KtHttpDownload download = {.sink = on_bytes,
	                           .allow_address = on_address,
	                           .on_end = on_end,
	                           .max_bytes = (int64) kt_recording_max_size * 1024};
	KtHttpRequest request = {.url = d->claim.url,
	                         .connect_timeout_ms = kt_connect_timeout,
	                         .request_timeout_ms = kt_recording_timeout,
	                         .user_agent = USER_AGENT,
	                         .ca_file = kt_ca_file[0] != '\0' ? kt_ca_file : NULL,
	                         .owner = d,
	                         .download = &download};

	if (!is_fit(d))
		return;
	d->sha = kt_sha256_begin();
	d->byte_at = kt_http_now();
	d->phase = PHASE_FETCHING;
	d->transfer = kt_http_submit(chore->http, &request);
	if (d->transfer == NULL)
		fail(d, KT_FETCH_RETRY, "the download could not be started");
}

/* ---- units of work --------------------------------------------------------------------------------------- */

/* What a unit is about, and what came of it. */
typedef struct Unit
{
	Download *d;
	bool done; /* it had something to do, its claim was good */
	size_t len;
	uint8 sha256[KT_SHA256_SIZE];
	KtArchiveCursor cursor;
	int seen;
} Unit;

static void
clean_work(void *argument)
{
	Unit *unit = argument;

	kt_xact_may_be_lost();
	unit->done = kt_archive_clean(&unit->d->claim);
}

static void
append_work(void *argument)
{
	Unit *unit = argument;

	kt_xact_may_be_lost(); /* until the last one: then the WAL is flushed up to there */
	unit->done = kt_archive_append(&unit->d->claim, unit->d->seq, unit->d->buffer.data, unit->len);
	KT_FAULT("recording-chunk");
}

static void
complete_work(void *argument)
{
	Unit *unit = argument;
	Download *d = unit->d;

	unit->done = unit->len == 0 || kt_archive_append(&d->claim, d->seq, d->buffer.data, unit->len);
	unit->done = unit->done && kt_archive_complete(&d->claim, d->content_type,
	                                               d->bytes + (int64) unit->len, unit->sha256);
	KT_FAULT("recording-complete");
}

static void
put_back_work(void *argument)
{
	Unit *unit = argument;

	unit->done = kt_archive_put_back(&unit->d->claim, unit->d->reason, next_delay(unit->d));
}

/* False when the unit failed: then the download gives up, or, where it did already, tries again later. */
static bool
run(Unit *unit, const char *activity, KtXactWork work)
{
	Download *d = unit->d;
	char error[100];
	char reason[MAX_REASON];

	if (kt_xact_run(activity, work, unit, NULL, error, sizeof(error)) == KT_XACT_DONE)
	{
		d->failures = 0;
		return true;
	}
	d->failures++;
	d->retry_at = kt_http_now() + FAILURE_US;
	if (d->failures > MAX_FAILURES)
		release(d); /* it stays 'fetching' for the next run */
	else if (d->phase == PHASE_FETCHING || !d->ended)
	{
		kt_fetchoutcome_print(error, reason, sizeof(reason));
		d->retry_after = -1;
		fail(d, KT_FETCH_RETRY, psprintf("it could not be stored: %s", reason));
	}
	return false;
}

static void
do_clean(Download *d)
{
	Unit unit = {.d = d};

	if (!run(&unit, "removing a part of a recording", clean_work) || unit.done)
		return;
	if (d->ended)
		d->phase = PHASE_ENDING;
	else
		start(d);
}

/* Writes the first piece of the buffer, and lets the transfer go on. */
static void
do_append(Download *d)
{
	Unit unit = {.d = d, .len = KT_RECORDING_CHUNK};

	if (!run(&unit, "storing a part of a recording", append_work))
		return;
	if (!unit.done)
	{
		release(d);
		return;
	}
	if (!kt_sha256_add(d->sha, d->buffer.data, unit.len))
	{
		fail(d, KT_FETCH_RETRY, "its SHA-256 could not be computed");
		return;
	}
	d->seq++;
	d->bytes += (int64) unit.len;
	d->buffer.len -= unit.len;
	memmove(d->buffer.data, d->buffer.data + unit.len, d->buffer.len);
	if (d->paused && d->transfer != NULL)
	{
		d->paused = false;
		d->byte_at = kt_http_now();
		kt_http_resume(chore->http, d->transfer);
	}
}

static void
do_complete(Download *d)
{
	Unit unit = {.d = d, .len = d->buffer.len};
	bool hashed = unit.len == 0 || kt_sha256_add(d->sha, d->buffer.data, unit.len);

	hashed = kt_sha256_end(d->sha, unit.sha256) && hashed;
	d->sha = NULL;
	if (!hashed)
		fail(d, KT_FETCH_RETRY, "its SHA-256 could not be computed");
	else if (run(&unit, "completing a recording", complete_work))
	{
		kt_count(chore->slot, KT_COUNT_RECORDINGS, unit.done);
		kt_count(chore->slot, KT_COUNT_RECORDING_BYTES,
		         unit.done ? d->bytes + (int64) unit.len : 0);
		release(d);
	}
}

static void
do_put_back(Download *d)
{
	Unit unit = {.d = d};

	if (!run(&unit, "putting back a recording", put_back_work))
		return;
	kt_count(chore->slot, KT_COUNT_RECORDING_FAILURES, 1);
	release(d);
}

/* ---- what to do, and when -------------------------------------------------------------------------------- */

static int64
stall_deadline(const Download *d)
{
	return d->byte_at + (int64) kt_connect_timeout * 1000 + (int64) kt_request_timeout * 1000;
}

/*
 * When a download's next unit is due, -1: when the network brings something. The one answer to "now?" and to
 * "when, then?".
 */
static int64
due_at(const Download *d)
{
	switch (d->phase)
	{
		case PHASE_FREE:
			return -1;
		case PHASE_CLEANING:
		case PHASE_ENDING:
			return d->retry_at;
		case PHASE_FETCHING:
			if (d->ended || d->buffer.len >= KT_RECORDING_CHUNK)
				return d->retry_at;
			return stall_deadline(d);
	}
	return -1;
}

static void
work_on(Download *d)
{
	switch (d->phase)
	{
		case PHASE_FREE:
			break;
		case PHASE_CLEANING:
			do_clean(d);
			break;
		case PHASE_FETCHING:
			if (d->ended && d->next != KT_FETCH_DONE)
				fail(d, d->next, d->reason);
			else if (d->buffer.len >= KT_RECORDING_CHUNK)
				do_append(d);
			else if (d->ended)
				do_complete(d);
			else
				fail(d, KT_FETCH_RETRY, "the server sent nothing for too long");
			break;
		case PHASE_ENDING:
			do_put_back(d);
			break;
	}
}

/* ---- the walk, and the claims ----------------------------------------------------------------------------- */

static void
set_cursor(TimestampTz received_at, const char *call_id)
{
	char *copy = MemoryContextStrdup(chore->context, call_id);

	if (chore->cursor.call_id != NULL)
		pfree(chore->cursor.call_id);
	chore->cursor.received_at = received_at;
	chore->cursor.call_id = copy;
}

static void
begin_walk(int64 now)
{
	set_cursor(GetCurrentTimestamp() - (int64) kt_recording_max_age * USECS_PER_SEC, "");
	chore->walk_limit = WALK_BATCH;
	chore->walk_passes = false;
	chore->walk_began = now;
	chore->rest_until = 0;
	chore->claim_skip = 0;
}

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
	if (chore->cursor.received_at > back)
		set_cursor(back, "");
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
		set_cursor(unit.cursor.received_at, unit.cursor.call_id);
		pfree(unit.cursor.call_id);
		chore->claim_at = Min(chore->claim_at, now);
	}
	if (unit.seen < chore->walk_limit)
		end_walk(now);
	else
		chore->walk_at = now + WALK_US;
}

static Download *
find_free(void)
{
	int i;

	for (i = 0; i < MAX_DOWNLOADS; i++)
		if (chore->downloads[i].phase == PHASE_FREE)
			return &chore->downloads[i];
	return NULL;
}

static void
claim_work(void *argument)
{
	Unit *unit = argument;
	MemoryContext unit_context = MemoryContextSwitchTo(unit->d->context);

	unit->done = kt_archive_claim(&unit->d->claim, chore->claim_skip);
	MemoryContextSwitchTo(unit_context);
}

static void
claim(Download *d, int64 now)
{
	Unit unit = {.d = d};

	if (kt_xact_run("claiming a recording", claim_work, &unit, NULL, NULL, 0) != KT_XACT_DONE)
	{
		chore->claim_skip++;
		chore->claim_at = now + FAILURE_US;
		MemoryContextReset(d->context);
		return;
	}
	if (!unit.done)
	{
		chore->claim_at = now + POLL_US;
		return;
	}
	kt_buf_init(&d->buffer, KT_MAX_RECORDING_BUFFER);
	d->retry_after = -1;
	d->phase = PHASE_CLEANING;
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
	for (i = 0; i < MAX_DOWNLOADS; i++)
		chore->downloads[i].context =
			AllocSetContextCreate(context, "kridtech recording", ALLOCSET_SMALL_SIZES);
}

/* Everything begins anew: what this run had claimed is then recovered like what an earlier one had. */
static void
forget(void)
{
	int i;

	for (i = 0; i < MAX_DOWNLOADS; i++)
		release(&chore->downloads[i]);
	chore->recovered = false;
	chore->rest_until = 1; /* which is past */
	chore->walk_at = 0;
}

/* The next download whose unit is due, in turn. */
static Download *
find_due(int64 now)
{
	int i;

	for (i = 0; i < MAX_DOWNLOADS; i++)
	{
		Download *d = &chore->downloads[(chore->turn + i) % MAX_DOWNLOADS];
		int64 at = due_at(d);

		if (at >= 0 && at <= now)
		{
			chore->turn = (chore->turn + i + 1) % MAX_DOWNLOADS;
			return d;
		}
	}
	return NULL;
}

void
kt_recordings_step(KtHttp *http, KtSlot *slot, int64 epoch)
{
	int64 now = kt_http_now();
	Download *d;

	if (!kt_recordings)
		epoch = 0;
	if (chore == NULL && epoch == 0)
		return;
	if (chore == NULL)
		make_chore();
	chore->http = http;
	chore->slot = slot;
	if (epoch != chore->epoch)
	{
		forget();
		chore->epoch = epoch;
	}
	if (epoch == 0)
		return;
	if (!chore->recovered)
	{
		if (chore->walk_at > now)
			return;
		chore->recovered =
			kt_xact_run("recovering recordings", recover_work, NULL, NULL, NULL, 0) == KT_XACT_DONE;
		chore->walk_at = chore->recovered ? 0 : now + FAILURE_US;
	}
	else if ((d = find_due(now)) != NULL)
		work_on(d);
	else if (now >= chore->walk_at)
		walk(now);
	else if (now >= chore->claim_at && (d = find_free()) != NULL)
		claim(d, now);
}

int64
kt_recordings_deadline(void)
{
	int64 deadline;
	int i;

	if (chore == NULL || chore->epoch == 0)
		return -1;
	deadline = chore->walk_at;
	if (!chore->recovered)
		return deadline;
	if (find_free() != NULL)
		deadline = Min(deadline, chore->claim_at);
	for (i = 0; i < MAX_DOWNLOADS; i++)
	{
		int64 at = due_at(&chore->downloads[i]);

		if (at >= 0)
			deadline = Min(deadline, at);
	}
	return deadline;
}
