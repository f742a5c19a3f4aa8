/*
 * Which deliveries the rows belong to that an INSERT of events has returned: owns nothing.
 *
 * A BEFORE trigger may give an event another call_id. It is its delivery's event all the same: else that were kept, and
 * each new try at it would make one more. The other call_id may be that of another delivery, which is passed over then,
 * and must not be taken for stored. So where something was passed over and there are such triggers, bodies tell; else
 * call_ids do, and bodies what these leave.
 */
#include "postgres.h"

#include "inserted.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "extension.h"
#include "utils/builtins.h"
#include "utils/rel.h"

/* Which of these bodies are those of these events. */
static KtStatement find_bodies = {
	"SELECT v.n, e.call_id FROM unnest($1) WITH ORDINALITY AS v (raw, n)"
	" JOIN kridtech.webhook_events AS e ON e.call_id = ANY ($2) AND e.raw = v.raw",
	SPI_OK_SELECT,
	{BYTEAARRAYOID, TEXTARRAYOID},
	NULL};

/* Rows come back in their order, mostly, so the search is short. */
static void
match_call_ids(KtNewEvent **items, int n, KtInserted *inserted, int rows, bool *taken)
{
	int next = 0;
	int i;

	for (i = 0; i < rows; i++)
	{
		int tries;

		if (inserted[i].item >= 0)
			continue;
		for (tries = 0;
		     tries < n && (taken[next] || strcmp(items[next]->call_id, inserted[i].call_id) != 0);
		     tries++)
			next = (next + 1) % n;
		if (tries == n)
			continue;
		inserted[i].item = next;
		taken[next] = true;
	}
}

static void
match_body(KtInserted *inserted, int rows, const char *call_id, int item, bool *taken)
{
	int i;

	for (i = 0; i < rows && !taken[item]; i++)
		if (inserted[i].item < 0 && strcmp(inserted[i].call_id, call_id) == 0)
		{
			inserted[i].item = item;
			taken[item] = true;
		}
}

static void
match_bodies(KtNewEvent **items, int n, KtInserted *inserted, int rows, bool *taken)
{
	KtParameter *call_ids = palloc(rows * sizeof(KtParameter));
	Datum values[2];
	int found;
	int left = 0;
	int i;

	for (i = 0; i < rows; i++)
		if (inserted[i].item < 0)
			call_ids[left++] = (KtParameter){CStringGetTextDatum(inserted[i].call_id), false};
	if (left == 0)
		return;
	values[0] = kt_newevent_array(items, n, KT_P_RAW);
	values[1] = kt_statement_array(TEXTOID, call_ids, left);
	found = (int) kt_statement_run(&find_bodies, values, NULL);
	for (i = 0; i < found; i++)
		match_body(inserted, rows, kt_statement_text(i, 2), (int) kt_statement_int64(i, 1) - 1,
		           taken);
}

static bool
has_before_trigger(void)
{
	Relation table = kt_extension_table("webhook_events");
	bool has = table->trigdesc != NULL && table->trigdesc->trig_insert_before_row;

	table_close(table, NoLock);
	return has;
}

KtInserted *
kt_inserted_read(KtNewEvent **items, int n, int rows)
{
	KtInserted *inserted = palloc(Max(rows, 1) * sizeof(KtInserted));
	bool *taken = palloc0(n * sizeof(bool));
	int i;

	for (i = 0; i < rows; i++)
		inserted[i] = (KtInserted){kt_statement_text(i, 1), kt_statement_text(i, 2),
		                           kt_statement_int64(i, 3), -1};
	if (rows > 0 && rows < n && has_before_trigger())
		match_bodies(items, n, inserted, rows, taken);
	match_call_ids(items, n, inserted, rows, taken);
	match_bodies(items, n, inserted, rows, taken);
	return inserted;
}
