/*
 * New rows of kridtech.webhook_events, and equal deliveries of what is there. What cannot become an event goes to
 * the inbox, which is kept.c's.
 *
 * One statement stores a batch: it inserts what is new, and says in the same moment how each is verified. What
 * it passes over is there already; a second statement counts the equal ones, and what is left has another body:
 * a conflict. Why equal deliveries are one event and another body never overwrites, whatever runs at the same
 * time: the key decides, ON CONFLICT waits for a transaction that is about to write the same call, and the
 * UPDATE compares the bodies under the row's lock.
 *
 * Events that nothing verifies are bounded by kridtech.webhook_max_unverified, in bytes. How much there is, is
 * counted at the worker's start and by each round of the late pass, and estimated in between.
 */
#include "postgres.h"

#include "events.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "extension.h"
#include "compat.h"
#include "inserted.h"
#include "kept.h"
#include "newevent.h"
#include "settings.h"
#include "statement.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/*
 * So much goes through one statement: the arrays stay within work_mem, and far below the 1 GB that one may
 * have.
 */
#define MAX_ROWS 128
#define MAX_BYTES (2 * 1024 * 1024)

/*
 * Bytes of events that nothing has verified, as far as this process knows. Only the worker counts them; for a
 * human who replays there is no bound.
 */
static int64 unverified = 0;
static bool is_counted = false;

/* ---- storing ----------------------------------------------------------------------------------------- */

/* The attempts of the request that a ref names; each half has its index. */
#define NAMED_ATTEMPTS                                                        \
	"(SELECT l.request_id, l.ref, l.call_id FROM kridtech.call_attempts AS l" \
	" WHERE l.live AND l.request_id = v.named UNION ALL"                      \
	" SELECT h.request_id, h.ref, h.call_id FROM kridtech.call_attempts AS h" \
	" WHERE NOT h.live AND h.request_id = v.named)"

/*
 * A request with this call_id; else the attempt that sent this ref, unless its answer named another call; else
 * the API's list. $14: whether an event that none of them verifies is taken.
 */
#define INSERT_EVENTS(source)                                                                \
	"INSERT INTO kridtech.webhook_events AS e (call_id, status, duration_ms, transcript,"    \
	" recording_url, dynamic_variables, variables, raw, remote_addr, deliveries,"            \
	" received_at, request_id, verified_by) SELECT v.call_id, v.status, v.duration_ms,"      \
	" v.transcript, v.recording_url, v.dynamic_variables, v.variables, v.raw,"               \
	" v.remote_addr::inet, v.deliveries, v.received_at, coalesce(r.id, a.request_id),"       \
	" CASE WHEN r.id IS NOT NULL THEN 'request'"                                             \
	" WHEN a.request_id IS NOT NULL THEN 'correlation'"                                      \
	" WHEN c.call_id IS NOT NULL THEN 'api' END FROM " source                                \
	" AS v (call_id, status, duration_ms, transcript, recording_url, dynamic_variables,"     \
	" variables, raw, remote_addr, deliveries, received_at, ref, named)"                     \
	" LEFT JOIN kridtech.call_requests AS r ON r.call_id = v.call_id"                        \
	" LEFT JOIN LATERAL (SELECT t.request_id FROM " NAMED_ATTEMPTS " AS t"                   \
	" WHERE r.id IS NULL AND t.ref = v.ref AND (t.call_id IS NULL OR t.call_id = v.call_id)" \
	" LIMIT 1) AS a ON true"                                                                 \
	" LEFT JOIN LATERAL (SELECT l.call_id FROM kridtech.calls AS l"                          \
	" WHERE r.id IS NULL AND a.request_id IS NULL AND l.call_id = v.call_id) AS c ON true"   \
	" WHERE $14 OR r.id IS NOT NULL OR a.request_id IS NOT NULL OR c.call_id IS NOT NULL"    \
	" ON CONFLICT (call_id) DO NOTHING RETURNING e.call_id, e.verified_by, e.request_id"

static KtStatement insert_event = {
	INSERT_EVENTS("(VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13))"),
	SPI_OK_INSERT_RETURNING,
	{TEXTOID, TEXTOID, INT8OID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, BYTEAOID, TEXTOID, INT4OID,
     TIMESTAMPTZOID, TEXTOID, INT8OID, BOOLOID},
	NULL};

static KtStatement insert_events = {
	INSERT_EVENTS("unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"),
	SPI_OK_INSERT_RETURNING,
	{TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID,
     JSONBARRAYOID, BYTEAARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID,
     INT8ARRAYOID, BOOLOID},
	NULL};

static KtStatement count_equals = {
	"UPDATE kridtech.webhook_events AS e SET"
	" deliveries = e.deliveries + least(v.deliveries, 2147483647 - e.deliveries)"
	" FROM unnest($1, $2, $3) WITH ORDINALITY AS v (call_id, raw, deliveries, n)"
	" WHERE e.call_id = v.call_id AND e.raw = v.raw RETURNING v.n",
	SPI_OK_UPDATE_RETURNING,
	{TEXTARRAYOID, BYTEAARRAYOID, INT4ARRAYOID},
	NULL};

static KtStatement find_events = {
	"SELECT v.n FROM unnest($1) WITH ORDINALITY AS v (call_id, n) WHERE EXISTS"
	" (SELECT FROM kridtech.webhook_events AS e WHERE e.call_id = v.call_id)",
	SPI_OK_SELECT,
	{TEXTARRAYOID},
	NULL};

static bool
is_full(void)
{
	return is_counted && kt_webhook_max_unverified > 0 &&
	       unverified >= (int64) kt_webhook_max_unverified * 1024;
}

static void
become_event(KtNewEvent *item, const char *verified_by, int64 request_id)
{
	item->as = KT_STORED_EVENT;
	item->binds = verified_by != NULL && strcmp(verified_by, "correlation") == 0;
	if (verified_by == NULL)
		unverified += (int64) item->webhook->raw_len + KT_ROW_BYTES;
	if (item->binds)
		kt_events_bind_soon(request_id);
}

/* Marks what the INSERT returned. */
static void
take_inserted(KtNewEvent **items, int n, int rows)
{
	KtInserted *inserted = kt_inserted_read(items, n, rows);
	int i;

	for (i = 0; i < rows; i++)
		if (inserted[i].item >= 0)
			become_event(items[inserted[i].item], inserted[i].verified_by, inserted[i].request_id);
}

/* Inserts items, whose call_ids differ. */
static void
insert(KtNewEvent **items, int n)
{
	Datum values[KT_NPARAMETERS + 1];
	char nulls[KT_NPARAMETERS + 1];
	int i;

	memset(nulls, ' ', sizeof(nulls));
	for (i = 0; i < KT_NPARAMETERS; i++)
		if (n > 1)
			values[i] = kt_newevent_array(items, n, i);
		else
		{
			values[i] = items[0]->parameters[i].value;
			nulls[i] = items[0]->parameters[i].isnull ? 'n' : ' ';
		}
	values[KT_NPARAMETERS] = BoolGetDatum(!is_full());
	take_inserted(items, n,
	              (int) kt_statement_run(n > 1 ? &insert_events : &insert_event, values, nulls));
}

/* Sets as for those of items whose number, from 1, a statement has returned. */
static void
take_numbers(KtNewEvent **items, KtStoredAs as, uint64 rows)
{
	uint64 i;

	for (i = 0; i < rows; i++)
		items[kt_statement_int64(i, 1) - 1]->as = as;
}

/* What the INSERT has passed over: equal to the event that is there, or a conflict with it. */
static void
judge_others(KtNewEvent **items, int n)
{
	Datum values[3];

	values[0] = kt_newevent_array(items, n, KT_P_CALL_ID);
	values[1] = kt_newevent_array(items, n, KT_P_RAW);
	values[2] = kt_newevent_array(items, n, KT_P_DELIVERIES);
	take_numbers(items, KT_STORED_CONFLICT, kt_statement_run(&find_events, values, NULL));
	take_numbers(items, KT_STORED_DUPLICATE, kt_statement_run(&count_equals, values, NULL));
}

/*
 * Makes events of items, no more than one statement takes. An item that meets no event and becomes none was
 * refused for the bound, or a trigger or rule suppressed it.
 */
static void
store_items(KtNewEvent *items, int n)
{
	KtNewEvent **firsts = palloc(n * sizeof(KtNewEvent *));
	KtNewEvent **others = palloc(n * sizeof(KtNewEvent *));
	int nfirsts = 0;
	int nothers = 0;
	int i;
	int j;

	for (i = 0; i < n; i++)
	{
		items[i].as = is_full() ? KT_STORED_REFUSED : KT_STORED_KEPT;
		items[i].binds = false;
		kt_newevent_fill(&items[i]);
		/* A second body for one call in one batch waits for the first. */
		for (j = 0; j < nfirsts && strcmp(firsts[j]->call_id, items[i].call_id) != 0; j++)
			;
		if (j == nfirsts)
			firsts[nfirsts++] = &items[i];
	}
	insert(firsts, nfirsts);
	for (i = 0; i < n; i++)
		if (items[i].as != KT_STORED_EVENT)
			others[nothers++] = &items[i];
	if (nothers > 0)
		judge_others(others, nothers);
}

/* ---- a batch ----------------------------------------------------------------------------------------- */

const char kt_events_suppressed[] =
	"the row was deleted meanwhile, or a trigger or rule on kridtech.webhook_events suppressed it";

/* Of a delivery: equal for equal ones, and for different ones hardly. */
typedef struct Print
{
	uint32 call; /* of the callId, or of the body where there is none */
	uint32
		body; /* looked at where calls are alike: whoever sends many long bodies must not have them compared */
	bool has_body;
} Print;

static uint32
hash_of(const char *bytes, size_t len)
{
	return hash_bytes((const unsigned char *) bytes, (int) len);
}

static uint32
print_of_body(const KtWebhook *w, Print *print)
{
	if (!print->has_body)
		print->body = hash_of(w->raw, w->raw_len);
	print->has_body = true;
	return print->body;
}

/*
 * Which earlier delivery of the batch each one equals; itself where there is none. counts[i] is how many equal
 * the ith.
 */
static void
find_twins(const KtWebhook *webhooks, int n, int *twins, int *counts)
{
	Print *prints = palloc0(n * sizeof(Print));
	int i;
	int j;

	for (i = 0; i < n; i++)
	{
		const KtWebhook *w = &webhooks[i];

		if (w->call_id != NULL)
			prints[i].call = hash_of(w->call_id, strlen(w->call_id));
		else
			prints[i].call = print_of_body(w, &prints[i]);
		counts[i] = 0;
		for (j = 0; j < i; j++)
		{
			const KtWebhook *v = &webhooks[j];

			if (prints[j].call == prints[i].call && v->raw_len == w->raw_len &&
			    print_of_body(v, &prints[j]) == print_of_body(w, &prints[i]) &&
			    memcmp(v->raw, w->raw, w->raw_len) == 0)
				break;
		}
		twins[i] = j;
		counts[j]++;
	}
}

/* Makes events of those deliveries that can be one and equal no earlier one. */
static void
store_events(const KtWebhook *webhooks, int n, const int *twins, const int *counts,
             KtStored *stored)
{
	KtNewEvent *items = palloc(n * sizeof(KtNewEvent));
	int *places = palloc(n * sizeof(int));
	TimestampTz now = GetCurrentTimestamp();
	int nitems = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		if (twins[i] != i || webhooks[i].fault != NULL)
			continue;
		items[nitems].webhook = &webhooks[i];
		items[nitems].deliveries = counts[i];
		items[nitems].received_at = now;
		places[nitems++] = i;
	}
	if (nitems > 0)
		store_items(items, nitems);
	for (i = 0; i < nitems; i++)
	{
		stored[places[i]].as = items[i].as;
		stored[places[i]].binds = items[i].binds;
	}
}

/* What is to be kept of those deliveries that equal no earlier one: bad bodies, and what became no event. */
static void
keep_others(const KtWebhook *webhooks, int n, const int *twins, const int *counts, KtStored *stored)
{
	KtKept *rows = palloc(n * sizeof(KtKept));
	int *places = palloc(n * sizeof(int));
	int nrows = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		const KtWebhook *w = &webhooks[i];

		if (twins[i] != i)
			continue;
		if (w->fault != NULL)
			rows[nrows] = kt_kept_row(w, counts[i], KT_KEPT_BAD, NULL);
		else if (stored[i].as == KT_STORED_CONFLICT)
			rows[nrows] = kt_kept_row(w, counts[i], KT_KEPT_CONFLICT, NULL);
		else if (stored[i].as == KT_STORED_KEPT)
			rows[nrows] = kt_kept_row(w, counts[i], KT_KEPT_ERROR, kt_events_suppressed);
		else
			continue;
		places[nrows++] = i;
	}
	kt_kept_put(rows, places, nrows, stored);
}

/* As many as one statement takes. */
static void
store_chunk(const KtWebhook *webhooks, int n, KtStored *stored)
{
	int *twins = palloc(n * sizeof(int));
	int *counts = palloc(n * sizeof(int));
	int i;

	find_twins(webhooks, n, twins, counts);
	store_events(webhooks, n, twins, counts, stored);
	keep_others(webhooks, n, twins, counts, stored);
	for (i = 0; i < n; i++)
		if (twins[i] != i)
		{
			stored[i] = stored[twins[i]];
			stored[i].binds = false;
			if (stored[i].as == KT_STORED_EVENT)
				stored[i].as = KT_STORED_DUPLICATE;
		}
}

/* How many of the deliveries go through one statement. */
static int
chunk_size(const KtWebhook *webhooks, int n)
{
	size_t bytes = 0;
	int i;

	for (i = 0; i < Min(n, MAX_ROWS); i++)
	{
		bytes += webhooks[i].raw_len;
		if (bytes > MAX_BYTES)
			return Max(i, 1);
	}
	return i;
}

void
kt_events_store(const KtWebhook *webhooks, int n, KtStored *stored)
{
	MemoryContext context;
	MemoryContext caller;
	KtOwner owner;
	int size;
	int i;

	kt_owner_begin(&owner);
	kt_compress_fast();
	context =
		AllocSetContextCreate(CurrentMemoryContext, "kridtech events", ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	for (i = 0; i < n; i += size)
	{
		size = chunk_size(&webhooks[i], n - i);
		store_chunk(&webhooks[i], size, &stored[i]);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	kt_owner_end(&owner);
}

KtStored
kt_events_store_one(const KtWebhook *webhook, TimestampTz received_at, int deliveries)
{
	KtNewEvent item = {.webhook = webhook, .deliveries = deliveries, .received_at = received_at};
	KtStored stored;

	store_items(&item, 1);
	stored.as = item.as;
	stored.binds = item.binds;
	return stored;
}

/* ---- the bound --------------------------------------------------------------------------------------- */

static KtStatement count_unverified = {
	"SELECT sum(octet_length(e.raw) + $1)::int8 FROM (SELECT raw FROM kridtech.webhook_events"
	" WHERE verified_by IS NULL ORDER BY received_at, call_id LIMIT 1000000) AS e",
	SPI_OK_SELECT,
	{INT8OID},
	NULL};

void
kt_events_begin(void)
{
	Datum values[] = {Int64GetDatum(KT_ROW_BYTES)};
	KtOwner owner;

	kt_owner_begin(&owner);
	kt_statement_run(&count_unverified, values, NULL);
	unverified = kt_statement_int64(0, 1);
	is_counted = true;
	kt_kept_begin();
	kt_owner_end(&owner);
}

int64
kt_events_unverified(void)
{
	return unverified;
}

void
kt_events_set_unverified(int64 bytes)
{
	unverified = bytes;
}
