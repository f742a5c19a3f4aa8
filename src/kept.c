/*
 * kridtech.webhook_inbox: the only file that writes it, but for what retention.c removes.
 *
 * The inbox is bounded by kridtech.webhook_max_inbox, in bytes. What it holds without a callId is of little
 * use: at most a quarter of it, of which the oldest go. Conflicts, which anybody can make who can deliver, have
 * at most half. Nothing that has a callId is ever deleted to make room; where there is none, it is not kept, and
 * the receiver says so to the client. How much there is is looked up at the worker's start and then estimated,
 * from what this process does. A rollback, or a DELETE by another, makes the estimate too high; so it is looked
 * up again before anything is refused, but not all the time.
 */
#include "postgres.h"

#include "kept.h"

#include <arpa/inet.h>

#include "catalog/pg_type.h"
#include "convert.h"
#include "settings.h"
#include "statement.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Bytes, as far as this process knows, and when it last looked. */
static int64 held[KT_KEPT_LATE + 1];
static TimestampTz counted_at = 0;

/* The least time between two looks, in ms. */
#define COUNT_PAUSE 10000

/* So full, in percent of the bound, that it is worth a look. */
#define NEARLY_FULL 75

static const char *
word_of(KtKeptReason reason)
{
	switch (reason)
	{
		case KT_KEPT_BAD:
			return "bad body";
		case KT_KEPT_CONFLICT:
			return "conflict";
		case KT_KEPT_ERROR:
			return "error";
		case KT_KEPT_LOCK:
			return "lock";
		case KT_KEPT_LATE:
			return "late";
	}
	return NULL;
}

static bool
is_retried(KtKeptReason reason)
{
	return reason != KT_KEPT_BAD && reason != KT_KEPT_CONFLICT;
}

/* ---- room -------------------------------------------------------------------------------------------- */

static int64
held_for_good(void)
{
	return held[KT_KEPT_CONFLICT] + held[KT_KEPT_ERROR] + held[KT_KEPT_LOCK] + held[KT_KEPT_LATE];
}

static int64
bound(void)
{
	return (int64) kt_webhook_max_inbox * 1024;
}

int
kt_kept_percent(void)
{
	/* A quarter is the bad bodies'. */
	return bound() == 0 ? 0 : (int) Min(held_for_good() * 100 / (bound() - bound() / 4), 100);
}

static KtStatement count_rows = {
	"SELECT i.reason, sum(octet_length(i.body) + $1)::int8 FROM (SELECT reason, body"
	" FROM kridtech.webhook_inbox ORDER BY id LIMIT 1000000) AS i GROUP BY i.reason",
	SPI_OK_SELECT,
	{INT8OID},
	NULL};

void
kt_kept_begin(void)
{
	Datum values[] = {Int64GetDatum(KT_ROW_BYTES)};
	uint64 rows = kt_statement_run(&count_rows, values, NULL);
	uint64 i;

	counted_at = GetCurrentTimestamp();
	memset(held, 0, sizeof(held));
	for (i = 0; i < rows; i++)
	{
		const char *word = kt_statement_present(i, 1);
		KtKeptReason reason = KT_KEPT_BAD;

		while (reason < KT_KEPT_LATE && strcmp(word, word_of(reason)) != 0)
			reason++;
		held[reason] += kt_statement_int64(i, 2);
	}
}

void
kt_kept_recount(void)
{
	if (kt_kept_percent() >= NEARLY_FULL &&
	    TimestampDifferenceExceeds(counted_at, GetCurrentTimestamp(), COUNT_PAUSE))
		kt_kept_begin();
}

static KtStatement trim_bad = {
	"DELETE FROM kridtech.webhook_inbox AS i WHERE i.id IN (SELECT b.id FROM kridtech.webhook_inbox AS b"
	" WHERE b.call_id IS NULL ORDER BY b.id LIMIT $1 FOR UPDATE SKIP LOCKED)"
	" RETURNING octet_length(i.body)::int8",
	SPI_OK_DELETE_RETURNING,
	{INT8OID},
	NULL};

/* How many bad bodies go at a time. */
#define TRIM_ROWS 100

/* Makes room for a bad body. False when it is too large, or others' locks are in the way. */
static bool
make_room(int64 size)
{
	int64 share = bound() / 4;

	while (held[KT_KEPT_BAD] + size > share)
	{
		Datum values[] = {Int64GetDatum(TRIM_ROWS)};
		uint64 rows;
		uint64 i;

		if (size > share || (rows = kt_statement_run(&trim_bad, values, NULL)) == 0)
			return false;
		for (i = 0; i < rows; i++)
			held[KT_KEPT_BAD] -= kt_statement_int64(i, 1) + KT_ROW_BYTES;
		held[KT_KEPT_BAD] = Max(held[KT_KEPT_BAD], 0);
	}
	return true;
}

static bool
has_room(KtKeptReason reason, int64 size)
{
	int64 share = bound() / 4;

	if (bound() == 0)
		return true;
	if (reason == KT_KEPT_BAD)
		return held[reason] + size <= share;
	return held_for_good() + size <= bound() - share &&
	       (reason != KT_KEPT_CONFLICT || held[reason] + size <= bound() / 2);
}

/* Takes room for a row, where there is some. */
static bool
take_room(KtKeptReason reason, int64 size)
{
	if (!has_room(reason, size) &&
	    TimestampDifferenceExceeds(counted_at, GetCurrentTimestamp(), COUNT_PAUSE))
		kt_kept_begin();
	if (!has_room(reason, size) && (reason != KT_KEPT_BAD || !make_room(size)))
		return false;
	held[reason] += size;
	return true;
}

/* ---- keeping ----------------------------------------------------------------------------------------- */

/* The first time a row is tried again, in seconds. */
#define FIRST_RETRY 2

/* An equal row that waits for nothing any more is woken by one that may still become an event. */
static KtStatement count_equal = {
	"UPDATE kridtech.webhook_inbox AS i SET deliveries = i.deliveries + least($2, 2147483647 - i.deliveries),"
	" reason = CASE WHEN i.next_attempt_at IS NULL THEN $3 ELSE i.reason END,"
	" detail = CASE WHEN i.next_attempt_at IS NULL THEN $4 ELSE i.detail END,"
	" next_attempt_at = coalesce(i.next_attempt_at, clock_timestamp() + $5 * interval '1 second')"
	" WHERE sha256(i.body) = sha256($1)",
	SPI_OK_UPDATE,
	{BYTEAOID, INT4OID, TEXTOID, TEXTOID, INT4OID},
	NULL};

static KtStatement put_row = {
	"INSERT INTO kridtech.webhook_inbox AS i"
	" (body, deliveries, reason, detail, next_attempt_at, received_at, remote_addr, call_id)"
	" VALUES ($1, $2, $3, $4, clock_timestamp() + $5 * interval '1 second', $6, $7::inet, $8)"
	" ON CONFLICT (sha256(body)) DO UPDATE SET deliveries = i.deliveries"
	" + least(excluded.deliveries, 2147483647 - i.deliveries)",
	SPI_OK_INSERT,
	{BYTEAOID, INT4OID, TEXTOID, TEXTOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID},
	NULL};

/* inet takes no zone ("fe80::1%eth0"), and what is no address must not cost the event. */
char *
kt_kept_address(const KtWebhook *webhook)
{
	unsigned char binary[sizeof(struct in6_addr)];
	char *address;

	if (webhook->remote_addr == NULL)
		return NULL;
	address = pnstrdup(webhook->remote_addr, strcspn(webhook->remote_addr, "%"));
	if (inet_pton(AF_INET, address, binary) == 1 || inet_pton(AF_INET6, address, binary) == 1)
		return address;
	return NULL;
}

static void
set_text(Datum *value, char *isnull, const char *text)
{
	*isnull = text == NULL ? 'n' : ' ';
	*value = text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

/* Rows are rare here and bodies large, so they are written one by one. False when there is no room. */
static bool
put(const KtKept *row)
{
	const KtWebhook *webhook = row->webhook;
	const char *call_id = webhook->fault == NULL ? kt_convert_to_server(webhook->call_id) : NULL;
	Datum values[8];
	char nulls[lengthof(values)];

	memset(nulls, ' ', sizeof(nulls));
	values[0] = PointerGetDatum(cstring_to_text_with_len(webhook->raw, (int) webhook->raw_len));
	values[1] = Int32GetDatum(row->deliveries);
	values[2] = CStringGetTextDatum(word_of(row->reason));
	set_text(&values[3], &nulls[3], row->detail);
	values[4] = Int32GetDatum(FIRST_RETRY);
	nulls[4] = is_retried(row->reason) ? ' ' : 'n';
	values[5] = TimestampTzGetDatum(row->received_at);
	set_text(&values[6], &nulls[6], kt_kept_address(webhook));
	set_text(&values[7], &nulls[7], call_id);
	if (kt_statement_run(&count_equal, values, nulls) == 1)
		return true;
	if (!take_room(row->reason, (int64) webhook->raw_len + KT_ROW_BYTES))
		return false;
	if (kt_statement_run(&put_row, values, nulls) != 1)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		                errmsg("a webhook could not be kept in kridtech.webhook_inbox"),
		                errdetail("A trigger or rule on the table suppressed the row.")));
	return true;
}

KtKept
kt_kept_row(const KtWebhook *webhook, int deliveries, KtKeptReason reason, const char *detail)
{
	KtKept row = {webhook, reason, detail, deliveries, GetCurrentTimestamp()};

	if (webhook->fault != NULL)
	{
		row.reason = KT_KEPT_BAD;
		row.detail = webhook->fault;
	}
	return row;
}

static KtStoredAs
stored_as(KtKeptReason reason, bool kept)
{
	if (reason == KT_KEPT_BAD)
		return KT_STORED_BAD;
	if (!kept)
		return KT_STORED_REFUSED;
	return reason == KT_KEPT_CONFLICT ? KT_STORED_CONFLICT : KT_STORED_KEPT;
}

void
kt_kept_put(const KtKept *rows, const int *places, int n, KtStored *stored)
{
	MemoryContext context;
	MemoryContext caller;
	int i;

	if (n == 0)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "kridtech kept", ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	for (i = 0; i < n; i++)
	{
		stored[places[i]].as = stored_as(rows[i].reason, put(&rows[i]));
		stored[places[i]].binds = false;
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/* ---- trying again ------------------------------------------------------------------------------------ */

static KtStatement claim_rows = {
	"UPDATE kridtech.webhook_inbox AS i SET attempts = i.attempts + 1, next_attempt_at = clock_timestamp()"
	" + least(interval '1 hour', interval '1 second' * $2 * power(2, least(i.attempts + 1, 20)))"
	" WHERE i.id IN (SELECT w.id FROM kridtech.webhook_inbox AS w"
	" WHERE w.next_attempt_at <= (SELECT clock_timestamp()) ORDER BY w.next_attempt_at, w.id LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING i.id",
	SPI_OK_UPDATE_RETURNING,
	{INT8OID, INT4OID},
	NULL};

static KtStatement next_due = {
	"SELECT i.next_attempt_at FROM kridtech.webhook_inbox AS i WHERE i.next_attempt_at IS NOT NULL"
	" ORDER BY i.next_attempt_at LIMIT 1",
	SPI_OK_SELECT,
	{InvalidOid},
	NULL};

int
kt_kept_claim(int64 *ids, int max, TimestampTz *due)
{
	Datum values[] = {Int64GetDatum(max), Int32GetDatum(FIRST_RETRY)};
	int n = (int) kt_statement_run(&claim_rows, values, NULL);
	bool isnull;
	int i;

	for (i = 0; i < n; i++)
		ids[i] = kt_statement_int64(i, 1);
	*due = 0;
	if (kt_statement_run(&next_due, NULL, NULL) == 1)
		*due = DatumGetTimestampTz(kt_statement_datum(0, 1, &isnull));
	return n;
}

static KtStatement read_row = {
	"SELECT coalesce(i.body, ''::bytea), host(i.remote_addr), i.deliveries::int8, i.received_at FROM kridtech.webhook_inbox AS i"
	" WHERE i.id = $1 FOR UPDATE",
	SPI_OK_SELECT,
	{INT8OID},
	NULL};

bool
kt_kept_read(int64 id, KtKeptRow *row)
{
	Datum values[] = {Int64GetDatum(id)};
	bytea *body;
	bool isnull;

	if (kt_statement_run(&read_row, values, NULL) == 0)
		return false;
	body = DatumGetByteaPP(kt_statement_datum(0, 1, &isnull));
	row->body = VARDATA_ANY(body);
	row->body_len = VARSIZE_ANY_EXHDR(body);
	row->remote_addr = kt_statement_text(0, 2);
	row->deliveries = (int) kt_statement_int64(0, 3);
	row->received_at = DatumGetTimestampTz(kt_statement_datum(0, 4, &isnull));
	return true;
}

static KtStatement delete_row = {
	"DELETE FROM kridtech.webhook_inbox AS i WHERE i.id = $1 RETURNING i.reason",
	SPI_OK_DELETE_RETURNING,
	{INT8OID},
	NULL};

void
kt_kept_delete(int64 id, size_t body_len)
{
	Datum values[] = {Int64GetDatum(id)};
	KtKeptReason reason;

	if (kt_statement_run(&delete_row, values, NULL) == 0)
		return;
	for (reason = KT_KEPT_BAD; reason <= KT_KEPT_LATE; reason++)
		if (strcmp(word_of(reason), kt_statement_present(0, 1)) == 0)
			held[reason] = Max(held[reason] - (int64) body_len - KT_ROW_BYTES, 0);
}

static KtStatement note_reason = {
	"UPDATE kridtech.webhook_inbox AS i SET reason = $2, detail = $3,"
	" next_attempt_at = CASE WHEN i.attempts < $4 THEN i.next_attempt_at END WHERE i.id = $1"
	" AND (i.reason <> $2 OR i.detail IS DISTINCT FROM $3"
	" OR (i.attempts >= $4 AND i.next_attempt_at IS NOT NULL))",
	SPI_OK_UPDATE,
	{INT8OID, TEXTOID, TEXTOID, INT4OID},
	NULL};

void
kt_kept_note(int64 id, KtKeptReason reason, const char *detail, int attempts)
{
	Datum values[] = {Int64GetDatum(id), CStringGetTextDatum(word_of(reason)),
	                  detail == NULL ? (Datum) 0 : CStringGetTextDatum(detail),
	                  Int32GetDatum(attempts)};

	kt_statement_run(&note_reason, values, detail == NULL ? "  n " : NULL);
}
