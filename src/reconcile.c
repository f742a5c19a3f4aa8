/*
 * The reconciliation: which listed calls unknown requests have become.
 *
 * Why a binding is right: match.c, and its property test, on what is read here in one transaction: every attempt
 * that may have placed a call nobody has bound, and every call that the API has listed for the time. Two lists
 * must agree, since one may be older than it looks. kt_queue_bind() looks once more that the request is unknown
 * and the call nobody's, and the unique index on call_id ends any race.
 *
 * What an attempt's calls cannot be told from: see match.c, and doc/operating.md.
 */
#include "postgres.h"

#include "reconcile.h"

#include "catalog/pg_type.h"
#include "extension.h"
#include "match.h"
#include "queuebind.h"
#include "settings.h"
#include "statement.h"
#include "utils/builtins.h"

/* Unknown requests that are looked at, the newest ones; the breaker stops dialling long before. */
#define MAX_UNKNOWN 1000

/* Calls in one attempt's zone. A list that covers a zone holds 100 at most. */
#define MAX_IN_ZONE_TEXT "1000"

/* Attempts of this time before the oldest unknown one may still have placed a call in its zone. */
#define RIVALS_US (INT64CONST(24) * 3600 * 1000000)

/* What is known of an attempt beside what match.c needs. */
typedef struct Attempt
{
	int64 request_id;
	bool echoed; /* a webhook has brought back its ref: that decides, not the list */
} Attempt;

typedef struct Case
{
	const char *account_id;
	const KtListRead *read;
	KtMatchRules rules;
	KtMatchAttempt *attempts;
	Attempt *more; /* of each attempt */
	int nattempts;
	KtMatchCall *calls;
	KtMatchList list;
} Case;

/* ---- the attempts -------------------------------------------------------------------------------------- */

#define ATTEMPT_COLUMNS                                                                                  \
	"a.id, r.id, r.to_number, coalesce(r.account_id, a.account_id, $1), a.started_at,"                   \
	" coalesce(a.finished_at, 'infinity'), a.ref, r.state = 'unknown' AND a.live AND a.call_id IS NULL," \
	" EXISTS (SELECT FROM kridtech.webhook_events AS e WHERE e.request_id = r.id"                        \
	" AND e.verified_by = 'correlation')"

static KtStatement unknown_attempts = {
	"SELECT " ATTEMPT_COLUMNS " FROM (SELECT q.id, q.to_number, q.account_id, q.state"
	" FROM kridtech.call_requests AS q WHERE q.state = 'unknown' ORDER BY q.finished_at DESC LIMIT $2)"
	" AS r JOIN kridtech.call_attempts AS a ON a.request_id = r.id AND a.live",
	SPI_OK_SELECT,
	{TEXTOID, INT8OID},
	NULL};

/*
 * Others that may have placed a call which is nobody's: those on the network, those a human knows to be placed
 * without knowing the call, those he decided about.
 */
static KtStatement rival_attempts = {
	"SELECT " ATTEMPT_COLUMNS " FROM kridtech.call_requests AS r JOIN kridtech.call_attempts AS a"
	" ON a.request_id = r.id AND a.live WHERE r.state = 'placing'"
	" UNION ALL SELECT " ATTEMPT_COLUMNS
	" FROM kridtech.call_requests AS r JOIN kridtech.call_attempts"
	" AS a ON a.request_id = r.id AND a.live WHERE r.state = 'placed' AND r.call_id IS NULL"
	" AND r.finished_at > $2"
	" UNION ALL SELECT " ATTEMPT_COLUMNS " FROM kridtech.call_attempts AS a"
	" JOIN kridtech.call_requests AS r ON r.id = a.request_id"
	" WHERE NOT a.live AND a.outcome = 'unknown' AND a.started_at > $2",
	SPI_OK_SELECT,
	{TEXTOID, TIMESTAMPTZOID},
	NULL};

static bool
bool_at(uint64 row, int column)
{
	bool isnull;
	Datum value = kt_statement_datum(row, column, &isnull);

	return !isnull && DatumGetBool(value);
}

static void
take_attempts(Case *c, uint64 rows)
{
	Size n = c->nattempts + rows + 1;
	uint64 i;

	c->attempts = c->attempts == NULL ? palloc(n * sizeof(KtMatchAttempt))
	                                  : repalloc(c->attempts, n * sizeof(KtMatchAttempt));
	c->more =
		c->more == NULL ? palloc(n * sizeof(Attempt)) : repalloc(c->more, n * sizeof(Attempt));
	for (i = 0; i < rows; i++)
	{
		KtMatchAttempt *attempt = &c->attempts[c->nattempts];
		Attempt *more = &c->more[c->nattempts++];

		attempt->id = kt_statement_int64(i, 1);
		more->request_id = kt_statement_int64(i, 2);
		attempt->number = kt_statement_present(i, 3);
		attempt->account_id = kt_statement_text(i, 4);
		attempt->started_at = kt_statement_int64(i, 5);
		attempt->ended_at = kt_statement_int64(i, 6); /* infinity is INT64_MAX */
		attempt->ref = kt_statement_text(i, 7);
		attempt->unknown = bool_at(i, 8);
		more->echoed = bool_at(i, 9);
	}
}

/* False when none of them is the account's to judge. */
static bool
load_attempts(Case *c, TimestampTz trusted_since)
{
	Datum values[2];
	TimestampTz oldest = DT_NOEND;
	bool any = false;
	int i;

	values[0] = CStringGetTextDatum(kt_account_id);
	values[1] = Int64GetDatum(MAX_UNKNOWN);
	take_attempts(c, kt_statement_run(&unknown_attempts, values, NULL));
	for (i = 0; i < c->nattempts; i++)
	{
		KtMatchAttempt *attempt = &c->attempts[i];

		oldest = Min(oldest, attempt->started_at);
		attempt->unknown = attempt->unknown && !c->more[i].echoed &&
		                   attempt->started_at >= trusted_since &&
		                   strcmp(attempt->account_id, c->account_id) == 0;
		any = any || attempt->unknown;
	}
	if (!any || c->nattempts >= MAX_UNKNOWN)
		return false;
	values[1] = TimestampTzGetDatum(oldest - RIVALS_US);
	take_attempts(c, kt_statement_run(&rival_attempts, values, NULL));
	return true;
}

/* ---- the calls ------------------------------------------------------------------------------------------ */

#define CALL_COLUMNS                                                                \
	"c.account_id, c.direction, c.to_number, c.created_at,"                         \
	" EXISTS (SELECT FROM kridtech.call_requests AS r WHERE r.call_id = v.call_id)" \
	" OR coalesce(e.verified_by = 'correlation', false), e.variables IS NOT NULL,"  \
	" jsonb_extract_path_text(e.variables, 'kridtech_ref')"

/* One row for each callId, in their order; what the list does not tell of a call, an earlier one may have. */
static KtStatement listed_calls = {
	"SELECT v.call_id, " CALL_COLUMNS " FROM unnest($1) WITH ORDINALITY AS v (call_id, n)"
	" LEFT JOIN kridtech.calls AS c ON c.call_id = v.call_id"
	" LEFT JOIN kridtech.webhook_events AS e ON e.call_id = v.call_id ORDER BY v.n",
	SPI_OK_SELECT,
	{TEXTARRAYOID},
	NULL};

/* Those of the zones that the list does not show. */
static KtStatement other_calls = {
	"SELECT v.call_id, " CALL_COLUMNS " FROM (SELECT DISTINCT m.call_id FROM unnest($2, $3)"
	" AS z (since, until) CROSS JOIN LATERAL (SELECT q.call_id FROM kridtech.calls AS q"
	" WHERE q.created_at BETWEEN z.since AND z.until LIMIT " MAX_IN_ZONE_TEXT ") AS m) AS v"
	" JOIN kridtech.calls AS c ON c.call_id = v.call_id"
	" LEFT JOIN kridtech.webhook_events AS e ON e.call_id = v.call_id"
	" WHERE v.call_id <> ALL ($1)",
	SPI_OK_SELECT,
	{TEXTARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID},
	NULL};

static void
take_call(KtMatchCall *call, uint64 row, bool listed)
{
	bool no_time;

	call->call_id = kt_statement_present(row, 1);
	call->account_id = kt_statement_text(row, 2);
	call->direction = kt_statement_text(row, 3);
	call->number = kt_statement_text(row, 4);
	call->created_at = DatumGetTimestampTz(kt_statement_datum(row, 5, &no_time));
	call->has_created = !no_time;
	call->bound = bool_at(row, 6);
	call->has_event = bool_at(row, 7);
	call->ref = kt_statement_text(row, 8);
	call->listed = listed;
}

/*
 * What the list itself says goes before what the mirror has made of it: of two rows of one call that say different
 * things it holds one only. Where the list says nothing the mirror's word stays; it has none of a row without a callId,
 * nor of one older than kridtech.retention.
 */
static void
take_row(KtMatchCall *call, const KtMirrorCall *row)
{
	if (row->account_id != NULL)
		call->account_id = row->account_id;
	if (row->direction != NULL)
		call->direction = row->direction;
	if (row->to_number != NULL)
		call->number = row->to_number;
	if (row->created_at != 0)
	{
		call->has_created = true;
		call->created_at = row->created_at;
	}
	call->listed = true;
}

static KtStatement own_key = {"SELECT FROM kridtech.accounts AS a WHERE a.account_id = $1",
                              SPI_OK_SELECT,
                              {TEXTOID, InvalidOid},
                              NULL};

/*
 * Whether the list was asked for with the default key, though the account is not the default one: it was when its
 * requests were sent, say, and the key may be the new one's.
 */
static bool
has_shared_key(const char *account_id)
{
	Datum values[] = {CStringGetTextDatum(account_id)};

	return strcmp(account_id, kt_account_id) != 0 && kt_statement_run(&own_key, values, NULL) == 0;
}

static KtParameter
text_parameter(const char *text)
{
	KtParameter parameter = {CStringGetTextDatum(text), false};

	return parameter;
}

/* The zones of the attempts at hand, by the API's clock. */
static void
zones(const Case *c, Datum *since, Datum *until)
{
	KtParameter *from = palloc(c->nattempts * sizeof(KtParameter));
	KtParameter *to = palloc(c->nattempts * sizeof(KtParameter));
	int n = 0;
	int i;

	for (i = 0; i < c->nattempts; i++)
	{
		int64_t begin;
		int64_t end;

		kt_match_zone(&c->attempts[i], &c->rules, &begin, &end);
		if (!c->attempts[i].unknown || end > c->read->read_at)
			continue;
		from[n].value = TimestampTzGetDatum(begin + c->read->skew_low);
		to[n].value = TimestampTzGetDatum(end + c->read->skew_high);
		from[n].isnull = to[n].isnull = false;
		n++;
	}
	*since = kt_statement_array(TIMESTAMPTZOID, from, n);
	*until = kt_statement_array(TIMESTAMPTZOID, to, n);
}

static void
load_calls(Case *c)
{
	const KtListRead *read = c->read;
	KtParameter *ids = palloc((read->n + 1) * sizeof(KtParameter));
	Datum values[3];
	uint64 rows;
	uint64 i;
	int nids = 0;
	int n;

	for (n = 0; n < read->n; n++)
		if (read->calls[n].call_id != NULL)
			ids[nids++] = text_parameter(read->calls[n].call_id);
	values[0] = kt_statement_array(TEXTOID, ids, nids);
	c->calls = palloc0((read->n + 1) * sizeof(KtMatchCall));
	(void) kt_statement_run(&listed_calls, values, NULL);
	for (n = 0, i = 0; n < read->n; n++)
	{
		if (read->calls[n].call_id != NULL)
			take_call(&c->calls[n], i++, true);
		take_row(&c->calls[n], &read->calls[n]);
	}
	zones(c, &values[1], &values[2]);
	rows = kt_statement_run(&other_calls, values, NULL);
	c->calls = repalloc(c->calls, (n + rows + 1) * sizeof(KtMatchCall));
	for (i = 0; i < rows; i++)
		take_call(&c->calls[n++], i, false);
	c->list.calls = c->calls;
	c->list.ncalls = n;
	c->list.whole = read->whole;
	c->list.shared = has_shared_key(c->account_id);
	c->list.read_at = read->read_at;
	c->list.has_skew = read->has_skew;
	c->list.skew_low = read->skew_low;
	c->list.skew_high = read->skew_high;
}

/* ---- what was seen before ------------------------------------------------------------------------------- */

static KtSighting *
find_sighting(KtSightings *sightings, int64 attempt)
{
	int i;

	for (i = 0; i < sightings->n; i++)
		if (sightings->items[i].attempt == attempt)
			return &sightings->items[i];
	return NULL;
}

static void
remember(KtSightings *sightings, int64 attempt, const char *call_id, const KtListRead *read)
{
	KtSighting *sighting = find_sighting(sightings, attempt);

	if (sighting == NULL)
	{
		Size size = (sightings->n + 1) * sizeof(KtSighting);

		sightings->items = sightings->items == NULL ? MemoryContextAlloc(sightings->context, size)
		                                            : repalloc(sightings->items, size);
		sighting = &sightings->items[sightings->n++];
	}
	else
		pfree(sighting->call_id);
	sighting->attempt = attempt;
	sighting->call_id = MemoryContextStrdup(sightings->context, call_id);
	sighting->read_at = read->read_at;
	sighting->skew_low = read->skew_low;
	sighting->skew_high = read->skew_high;
	sighting->seen = true;
}

/* What this list has not shown again does not count any more. */
static void
forget_unseen(KtSightings *sightings)
{
	int n = 0;
	int i;

	for (i = 0; i < sightings->n; i++)
	{
		if (!sightings->items[i].seen)
		{
			pfree(sightings->items[i].call_id);
			continue;
		}
		sightings->items[n] = sightings->items[i];
		sightings->items[n++].seen = false;
	}
	sightings->n = n;
}

/* ---- judging -------------------------------------------------------------------------------------------- */

static char *
time_words(TimestampTz time)
{
	return pstrdup(timestamptz_to_str(time));
}

/* The evidence of a binding, as it is stored with the attempt. */
static char *
evidence(const Case *c, const KtMatchCall *call, TimestampTz seen_before)
{
	return psprintf(
		"the answer was lost; the list of calls shows exactly one to the number for the attempt's "
		"time, created %s by a clock %.1f to %.1f s ahead of ours, in lists read at %s and %s, "
		"the last of %d calls, %s",
		time_words(call->created_at), (double) c->read->skew_low / USECS_PER_SEC,
		(double) c->read->skew_high / USECS_PER_SEC, time_words(seen_before),
		time_words(c->read->read_at), c->read->n,
		c->read->whole ? "which are all there are" : "which reach back to before the attempt");
}

static void
note_verdict(const Case *c, int64 attempt, const KtMatch *match)
{
	StringInfoData note;
	int i;

	initStringInfo(&note);
	appendStringInfoString(&note, kt_match_words(match->verdict));
	for (i = 0; i < match->ncandidates; i++)
	{
		const char *call_id = c->calls[match->candidates[i]].call_id;

		appendStringInfo(&note, "%s%s", i == 0 ? ": " : ", ",
		                 call_id != NULL ? call_id : "one without a callId");
	}
	kt_queue_note(attempt, note.data);
}

/* On the call, and on the API's clock: a list from a cache has an old Date, and so shifts every time in it. */
static bool
agrees(const KtSighting *before, const KtMatchCall *call, const KtListRead *read)
{
	return strcmp(before->call_id, call->call_id) == 0 && before->skew_low <= read->skew_high &&
	       read->skew_low <= before->skew_high;
}

/* True, and *binding, when this list and one before it agree. */
static bool
judge(Case *c, int which, KtSightings *sightings, KtBinding *binding)
{
	const KtMatchAttempt *attempt = &c->attempts[which];
	KtMatch match = kt_match_judge(&c->list, c->attempts, c->nattempts, which, &c->rules);
	const KtMatchCall *call;
	KtSighting *before;

	if (match.verdict == KT_MATCH_TOO_SOON)
		return false;
	if (match.verdict != KT_MATCH_ONE)
	{
		note_verdict(c, attempt->id, &match);
		return false;
	}
	call = &c->calls[match.candidates[0]];
	before = find_sighting(sightings, attempt->id);
	if (before == NULL || !agrees(before, call, c->read))
	{
		remember(sightings, attempt->id, call->call_id, c->read);
		return false;
	}
	before->seen = true;
	if (before->read_at >= c->read->read_at)
		return false;
	binding->request_id = c->more[which].request_id;
	binding->call_id = pstrdup(call->call_id);
	binding->how = evidence(c, call, before->read_at);
	return true;
}

int
kt_reconcile(const char *account_id, const KtListRead *list, TimestampTz trusted_since,
             KtSightings *sightings, KtBinding **bindings)
{
	Case c = {.account_id = account_id, .read = list};
	int n = 0;
	int i;

	c.rules.settle = (int64) kt_settle_time * 1000;
	c.rules.longest = (int64) kt_request_timeout * 1000;
	if (load_attempts(&c, trusted_since))
	{
		load_calls(&c);
		*bindings = palloc(c.nattempts * sizeof(KtBinding));
		for (i = 0; i < c.nattempts; i++)
			if (c.attempts[i].unknown && judge(&c, i, sightings, &(*bindings)[n]))
				n++;
	}
	forget_unseen(sightings);
	return n;
}
