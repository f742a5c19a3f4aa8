/*
 * One recording on its way: from its claim to the table, or back to those that wait.
 *
 * It is a chain of units of work: remove what an earlier attempt left, add the pieces, complete; or, when it fails,
 * remove the pieces and put the row back. While a piece waits to be written the transfer is paused, so memory holds
 * little more than one piece, whatever a recording's length. If the process ends anywhere in the chain, the row says
 * 'fetching', and the next run begins it anew. A unit that fails (a lock, a full disk, a user's trigger) fails the
 * attempt, never more.
 */
#include "postgres.h"

#include "fetch.h"

#include "settings.h"
#include "utils/timestamp.h"
#include "xact.h"

#define USER_AGENT "kridtech/" KRIDTECH_VERSION

/* What failed is tried again after this; and what cannot be put back is left to the next run after so many times. */
#define FAILURE_US INT64CONST(5000000)
#define MAX_FAILURES 10

/* A host that is not listed may come to be: seconds until the list is asked again. */
#define UNLISTED_SECONDS 3600

/* ---- what libcurl calls: nothing here may throw ---------------------------------------------------------- */

static KtHttpSunk
on_bytes(void *owner, const char *bytes, size_t len)
{
	KtFetch *f = owner;

	if (f->buffer.len >= KT_RECORDING_CHUNK)
	{
		f->paused = true;
		return KT_HTTP_WAIT;
	}
	f->byte_at = kt_http_now();
	return kt_buf_append(&f->buffer, bytes, len) ? KT_HTTP_TAKEN : KT_HTTP_STOP;
}

static bool
on_address(void *owner, const struct sockaddr *address)
{
	const KtFetch *f = owner;

	return kt_fetchurl_allows(&f->target, address);
}

/* Called while the dialer collects what has ended. */
static void
on_end(void *owner, const KtHttpAnswer *answer)
{
	KtFetch *f = owner;

	f->transfer = NULL;
	f->ended = true;
	f->next = kt_fetchoutcome_judge(answer, f->bytes + (int64) f->buffer.len, f->reason,
	                                sizeof(f->reason));
	f->retry_after = answer->retry_after;
	kt_fetchoutcome_print(answer->content_type, f->content_type, sizeof(f->content_type));
}

/* ---- a download's beginning and end ---------------------------------------------------------------------- */

/* Lets go of all that a download holds. What its row says is another matter. */
static void
drop(KtFetch *f)
{
	if (f->transfer != NULL)
		(void) kt_http_abort(f->http, f->transfer);
	f->transfer = NULL;
	if (f->sha != NULL)
		(void) kt_sha256_end(f->sha, NULL);
	f->sha = NULL;
	kt_buf_free(&f->buffer);
}

void
kt_fetch_release(KtFetch *f)
{
	MemoryContext context = f->context;

	drop(f);
	MemoryContextReset(context);
	memset(f, 0, sizeof(*f));
	f->context = context;
}

/* The attempt has come to nothing: its pieces are to be removed, and then its row put back. */
static void
fail(KtFetch *f, KtFetchNext next, const char *reason)
{
	drop(f);
	f->next = next;
	f->ended = true;
	if (reason != f->reason)
		strlcpy(f->reason, reason, sizeof(f->reason));
	f->phase = f->seq > 0 ? KT_FETCH_CLEANING : KT_FETCH_ENDING;
}

static int64
age(const KtFetch *f)
{
	return GetCurrentTimestamp() - f->claim.received_at;
}

static bool
is_too_old(const KtFetch *f, int64 delay)
{
	return age(f) + delay > (int64) kt_recording_max_age * USECS_PER_SEC;
}

/* How long until it is tried again, or -1; the reason is completed once. */
static int64
next_delay(KtFetch *f)
{
	uint64 random = 0;
	int64 delay;

	if (f->next == KT_FETCH_DOUBT && f->claim.attempts >= KT_FETCH_DOUBTS)
		f->next = KT_FETCH_NEVER;
	if (f->next == KT_FETCH_NEVER)
		return -1;
	(void) pg_strong_random(&random, sizeof(random));
	delay = kt_fetchoutcome_delay(f->claim.attempts, f->retry_after, random);
	if (!is_too_old(f, delay))
		return delay;
	f->next = KT_FETCH_NEVER;
	strlcat(f->reason, "; by the next attempt it would be older than kridtech.recording_max_age",
	        sizeof(f->reason));
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
is_fit(KtFetch *f)
{
	KtFetchFault fault;

	if (f->claim.url == NULL)
		fail(f, KT_FETCH_NEVER, "the webhook event is gone, or not verified any more");
	else if (is_too_old(f, 0))
		fail(f, KT_FETCH_NEVER, "it is older than kridtech.recording_max_age");
	else if ((fault = kt_fetchurl_judge(f->claim.url, kt_recording_hosts, &f->target)) !=
	         KT_FETCH_OK)
	{
		f->retry_after = UNLISTED_SECONDS;
		fail(f, fault == KT_FETCH_HOST ? KT_FETCH_RETRY : KT_FETCH_NEVER, fault_of_url(fault));
	}
	return !f->ended;
}

static void
start(KtFetch *f)
{
	KtHttpDownload download = {.sink = on_bytes,
	                           .allow_address = on_address,
	                           .on_end = on_end,
	                           .max_bytes = (int64) kt_recording_max_size * 1024};
	KtHttpRequest request = {.url = f->claim.url,
	                         .connect_timeout_ms = kt_connect_timeout,
	                         .request_timeout_ms = kt_recording_timeout,
	                         .user_agent = USER_AGENT,
	                         .ca_file = kt_ca_file[0] != '\0' ? kt_ca_file : NULL,
	                         .owner = f,
	                         .download = &download};

	if (!is_fit(f))
		return;
	f->sha = kt_sha256_begin();
	f->byte_at = kt_http_now();
	f->phase = KT_FETCH_RUNNING;
	f->transfer = kt_http_submit(f->http, &request);
	if (f->transfer == NULL)
		fail(f, KT_FETCH_RETRY, "the download could not be started");
}

void
kt_fetch_begin(KtFetch *f, KtHttp *http, KtSlot *slot)
{
	f->http = http;
	f->slot = slot;
	f->retry_after = -1;
	kt_buf_init(&f->buffer, KT_MAX_RECORDING_BUFFER);
	f->phase = KT_FETCH_CLEANING;
}

/* ---- units of work --------------------------------------------------------------------------------------- */

/* What a unit is about, and what came of it. */
typedef struct Unit
{
	KtFetch *f;
	bool done; /* it had something to do, its claim was good */
	size_t len;
	uint8 sha256[KT_SHA256_SIZE];
	int64 delay;
} Unit;

static void
clean_work(void *argument)
{
	Unit *unit = argument;

	kt_xact_may_be_lost();
	unit->done = kt_archive_clean(&unit->f->claim);
}

static void
append_work(void *argument)
{
	Unit *unit = argument;

	kt_xact_may_be_lost(); /* until the last one: then the WAL is flushed up to there */
	unit->done = kt_archive_append(&unit->f->claim, unit->f->seq, unit->f->buffer.data, unit->len);
}

static void
complete_work(void *argument)
{
	Unit *unit = argument;
	KtFetch *f = unit->f;

	unit->done = unit->len == 0 || kt_archive_append(&f->claim, f->seq, f->buffer.data, unit->len);
	unit->done = unit->done && kt_archive_complete(&f->claim, f->content_type,
	                                               f->bytes + (int64) unit->len, unit->sha256);
}

static void
put_back_work(void *argument)
{
	Unit *unit = argument;

	unit->done = kt_archive_put_back(&unit->f->claim, unit->f->reason, unit->delay);
}

/* False when the unit failed: then the download gives up, or, where it did already, tries again later. */
static bool
run(Unit *unit, const char *activity, KtXactWork work)
{
	KtFetch *f = unit->f;
	char error[100];
	char reason[KT_MAX_FETCH_REASON];

	if (kt_xact_run(activity, work, unit, NULL, error, sizeof(error)) == KT_XACT_DONE)
	{
		f->failures = 0;
		kt_shmem_report_fetch(f->slot);
		return true;
	}
	f->failures++;
	f->retry_at = kt_http_now() + FAILURE_US;
	if (f->failures > MAX_FAILURES)
		kt_fetch_release(f); /* it stays 'fetching' for the next run */
	else if (f->phase == KT_FETCH_RUNNING || !f->ended)
	{
		kt_fetchoutcome_print(error, reason, sizeof(reason));
		f->retry_after = -1;
		fail(f, KT_FETCH_RETRY, psprintf("it could not be stored: %s", reason));
	}
	return false;
}

static void
do_clean(KtFetch *f)
{
	Unit unit = {.f = f};

	if (!run(&unit, "removing a part of a recording", clean_work) || unit.done)
		return;
	if (f->ended)
		f->phase = KT_FETCH_ENDING;
	else
		start(f);
}

/*
 * Nothing was written: the claim is not good any more, and what follows touches no row either; or somebody's trigger
 * keeps the row as it was, and then it must not say 'fetching' for ever.
 */
static void
give_up(KtFetch *f)
{
	f->retry_after = -1;
	fail(f, KT_FETCH_RETRY, "it could not be stored: a trigger suppressed it");
	f->phase = KT_FETCH_CLEANING; /* a last piece may be there that is not counted */
}

/* Writes the first piece of the buffer, and lets the transfer go on. */
static void
do_append(KtFetch *f)
{
	Unit unit = {.f = f, .len = KT_RECORDING_CHUNK};

	if (!run(&unit, "storing a part of a recording", append_work))
		return;
	if (!unit.done)
	{
		give_up(f);
		return;
	}
	if (!kt_sha256_add(f->sha, f->buffer.data, unit.len))
	{
		fail(f, KT_FETCH_RETRY, "its SHA-256 could not be computed");
		return;
	}
	f->seq++;
	f->bytes += (int64) unit.len;
	f->buffer.len -= unit.len;
	memmove(f->buffer.data, f->buffer.data + unit.len, f->buffer.len);
	if (f->paused && f->transfer != NULL)
	{
		f->paused = false;
		f->byte_at = kt_http_now();
		kt_http_resume(f->http, f->transfer);
	}
}

static void
do_complete(KtFetch *f)
{
	Unit unit = {.f = f, .len = f->buffer.len};
	bool hashed = unit.len == 0 || kt_sha256_add(f->sha, f->buffer.data, unit.len);

	hashed = kt_sha256_end(f->sha, unit.sha256) && hashed;
	f->sha = NULL;
	if (!hashed)
		fail(f, KT_FETCH_RETRY, "its SHA-256 could not be computed");
	else if (run(&unit, "completing a recording", complete_work))
	{
		if (!unit.done)
		{
			give_up(f);
			return;
		}
		kt_count(f->slot, KT_COUNT_RECORDINGS, 1);
		kt_count(f->slot, KT_COUNT_RECORDING_BYTES, f->bytes + (int64) unit.len);
		kt_fetch_release(f);
	}
}

static void
do_put_back(KtFetch *f)
{
	Unit unit = {.f = f, .delay = next_delay(f)};

	if (!run(&unit, "putting back a recording", put_back_work))
		return;
	kt_count(f->slot, KT_COUNT_RECORDING_FAILURES, unit.done);
	kt_fetch_release(f);
}

/* ---- what to do, and when -------------------------------------------------------------------------------- */

static int64
stall_deadline(const KtFetch *f)
{
	return f->byte_at + (int64) kt_connect_timeout * 1000 + (int64) kt_request_timeout * 1000;
}

int64
kt_fetch_due(const KtFetch *f)
{
	switch (f->phase)
	{
		case KT_FETCH_FREE:
			return -1;
		case KT_FETCH_CLEANING:
		case KT_FETCH_ENDING:
			return f->retry_at;
		case KT_FETCH_RUNNING:
			if (f->ended || f->buffer.len >= KT_RECORDING_CHUNK)
				return f->retry_at;
			return stall_deadline(f);
	}
	return -1;
}

void
kt_fetch_work(KtFetch *f)
{
	switch (f->phase)
	{
		case KT_FETCH_FREE:
			break;
		case KT_FETCH_CLEANING:
			do_clean(f);
			break;
		case KT_FETCH_RUNNING:
			if (f->ended && f->next != KT_FETCH_DONE)
				fail(f, f->next, f->reason);
			else if (f->buffer.len >= KT_RECORDING_CHUNK)
				do_append(f);
			else if (f->ended)
				do_complete(f);
			else
				fail(f, KT_FETCH_RETRY, "the server sent nothing for too long");
			break;
		case KT_FETCH_ENDING:
			do_put_back(f);
			break;
	}
}
