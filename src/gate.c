/*
 * Which accounts may be dialled now.
 *
 * kridtech.pauses is the truth: a pause, by a human or by an answer, is a row there, so that it outlives
 * the dialer and can be seen in the view health. This is the dialer's view of it, read anew in each
 * transaction that claims, plus the one fact that is not worth a row: how many failures there were in a
 * row.
 */
#include "postgres.h"

#include "gate.h"

#include <sys/stat.h>

#include "account.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat.h"
#include "extension.h"
#include "http.h"
#include "retry.h"
#include "settings.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "xact.h"

/* After so many failures in a row to send anything, one request at a time shows whether it works again. */
#define UNREACHABLE_AFTER 10

/* A gate that was not asked for so long is forgotten. */
#define UNUSED_US INT64CONST(60000000)

/* When pauses are ended again after one that could not be. */
#define END_AGAIN_US INT64CONST(5000000)

/* How long no probe is sent after one whose time could not be written down. */
#define PROBED_US INT64CONST(5000000)

void
kt_gate_init(KtGates *gates, MemoryContext context)
{
	memset(gates, 0, sizeof(*gates));
	gates->context = context;
}

static void
set_copy(KtGates *gates, char **text, const char *with)
{
	char *copy = with != NULL ? MemoryContextStrdup(gates->context, with) : NULL;

	if (*text != NULL)
	{
		explicit_bzero(*text, strlen(*text)); /* it may be a key */
		pfree(*text);
	}
	*text = copy;
}

/* A free place, made if need be. */
static int
free_place(KtGates *gates)
{
	int size = Max(2 * gates->size, 16);
	int i;

	for (i = 0; i < gates->n && gates->gates[i].account_id != NULL; i++)
		;
	if (i == gates->size)
	{
		gates->gates = gates->gates == NULL
		                   ? MemoryContextAlloc(gates->context, size * sizeof(KtGate))
		                   : repalloc_huge(gates->gates, size * sizeof(KtGate));
		gates->size = size;
	}
	gates->n = Max(gates->n, i + 1);
	return i;
}

int
kt_gate_find(KtGates *gates, const char *account_id)
{
	uint32 hash = hash_bytes((const unsigned char *) account_id, (int) strlen(account_id));
	KtGate gate = {.hash = hash};
	int i;

	for (i = 0; i < gates->n; i++)
		if (gates->gates[i].hash == hash && gates->gates[i].account_id != NULL &&
		    strcmp(gates->gates[i].account_id, account_id) == 0)
			break;
	if (i == gates->n)
	{
		i = free_place(gates);
		gate.account_id = MemoryContextStrdup(gates->context, account_id);
		gate.closed = MemoryContextStrdup(gates->context, "not looked at yet");
		gates->gates[i] = gate;
	}
	gates->gates[i].used_at = kt_http_now();
	return i;
}

static void
forget(KtGates *gates, KtGate *gate)
{
	set_copy(gates, &gate->key, NULL);
	set_copy(gates, &gate->stamp, NULL);
	set_copy(gates, &gate->closed, NULL);
	set_copy(gates, &gate->account_id, NULL);
}

void
kt_gate_forget_unused(KtGates *gates)
{
	int64 now = kt_http_now();
	int i;

	for (i = 0; i < gates->n; i++)
	{
		KtGate *gate = &gates->gates[i];

		if (gate->account_id != NULL && gate->in_flight == 0 && now - gate->used_at > UNUSED_US &&
		    gate->shut_until < now)
			forget(gates, gate);
	}
	while (gates->n > 0 && gates->gates[gates->n - 1].account_id == NULL)
		gates->n--;
}

/* ---- the pauses ---------------------------------------------------------------------------------- */

static void
execute(SPIPlanPtr *kept, const char *statement, int nargs, Oid *types, Datum *values,
        const char *nulls, int expected)
{
	SPIPlanPtr plan = kt_owner_plan(kept, statement, nargs, types);

	if (SPI_execute_plan(plan, values, nulls, false, 0) != expected)
		elog(ERROR, "unexpected result of a statement on kridtech.pauses");
}

/* One row of kridtech.pauses. */
typedef struct Pause
{
	char *account_id;
	char *cause;
	char *stamp;
	bool may_probe;
	bool by_time; /* its time is over */
	bool ended;   /* and it is deleted */
} Pause;

/*
 * Ends a pause for the reason it was found to be over, looked at again: a human may just be renewing it, and
 * holds its row then, or has changed it. It stands unless ended is set.
 */
static void
end_pause(void *argument)
{
	Pause *pause = argument;
	static SPIPlanPtr kept = NULL;
	Oid types[] = {TEXTOID, TEXTOID, TEXTOID, BOOLOID};
	char nulls[] = {' ', ' ', pause->stamp != NULL ? ' ' : 'n', ' '};
	Datum values[4];

	values[0] = CStringGetTextDatum(pause->account_id);
	values[1] = CStringGetTextDatum(pause->cause);
	values[2] = pause->stamp != NULL ? CStringGetTextDatum(pause->stamp) : (Datum) 0;
	values[3] = BoolGetDatum(pause->by_time);
	execute(
		&kept,
		"DELETE FROM kridtech.pauses AS p WHERE p.ctid IN (SELECT q.ctid FROM kridtech.pauses AS q"
		" WHERE q.account_id = $1 AND q.cause = $2 AND CASE WHEN $4 THEN q.until <= clock_timestamp()"
		" ELSE q.stamp IS NOT DISTINCT FROM $3 END FOR UPDATE SKIP LOCKED)",
		4, types, values, nulls, SPI_OK_DELETE);
	pause->ended = SPI_processed > 0;
}

/* False when it stands. */
static bool
try_to_end(KtGates *gates, Pause *pause)
{
	int sqlstate;
	char *message;

	pause->ended = false;
	if (kt_xact_try(end_pause, pause, &sqlstate, &message))
		return pause->ended;
	gates->end_at = kt_http_now() + END_AGAIN_US;
	ereport(WARNING, (errmsg("a pause (%s) of account %s is over, but cannot be ended",
	                         pause->cause, pause->account_id),
	                  errdetail("%s", message)));
	return false;
}

/* until_us and probe_us are from now; negative: none. */
static void
begin_pause(KtGate *gate, const char *cause, const char *reason, int64 until_us, int64 probe_us,
            const char *stamp)
{
	static SPIPlanPtr kept = NULL;
	TimestampTz now = GetCurrentTimestamp();
	Oid types[] = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID};
	char nulls[] = {' ',
	                ' ',
	                reason != NULL ? ' ' : 'n',
	                until_us >= 0 ? ' ' : 'n',
	                probe_us >= 0 ? ' ' : 'n',
	                stamp != NULL ? ' ' : 'n'};
	Datum values[6];

	values[0] = CStringGetTextDatum(gate->account_id);
	values[1] = CStringGetTextDatum(cause);
	values[2] = reason != NULL ? CStringGetTextDatum(reason) : (Datum) 0;
	values[3] = TimestampTzGetDatum(now + until_us);
	values[4] = TimestampTzGetDatum(now + probe_us);
	values[5] = stamp != NULL ? CStringGetTextDatum(stamp) : (Datum) 0;
	execute(&kept,
	        "INSERT INTO kridtech.pauses AS p (account_id, cause, reason, until, probe_at, stamp)"
	        " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (account_id, cause) DO UPDATE"
	        " SET reason = excluded.reason, until = excluded.until, probe_at = excluded.probe_at,"
	        " stamp = excluded.stamp",
	        6, types, values, nulls, SPI_OK_INSERT);
	gate->has_pause = strcmp(cause, "manual") != 0;
}

static bool
is_over(KtGates *gates, const Pause *pause)
{
	int gate;

	if (pause->by_time)
		return true;
	if (strcmp(pause->cause, "endpoint") == 0)
		return pause->stamp != NULL && strcmp(pause->stamp, kt_base_url) != 0;
	if (strcmp(pause->cause, "unauthorized") != 0)
		return false;
	gate = kt_gate_find(gates, pause->account_id); /* which may move the gates */
	return gates->gates[gate].stamp != NULL &&
	       (pause->stamp == NULL || strcmp(pause->stamp, gates->gates[gate].stamp) != 0);
}

static void
apply_pause(KtGates *gates, const Pause *pause)
{
	int index;
	KtGate *gate;

	if (pause->account_id[0] == '\0')
	{
		gates->all_closed = true;
		return;
	}
	index = kt_gate_find(gates, pause->account_id); /* which may move the gates */
	gate = &gates->gates[index];
	/* a probe goes when every pause lets it, and nothing else closes the gate */
	if (gate->closed == NULL)
	{
		gate->may_probe = pause->may_probe;
		set_copy(gates, &gate->closed, pause->cause);
	}
	else
		gate->may_probe = gate->may_probe && pause->may_probe;
	if (strcmp(pause->cause, "manual") != 0)
		gate->has_pause = true;
}

static void
read_pauses(KtGates *gates)
{
	static SPIPlanPtr kept = NULL;
	bool may_end = kt_http_now() >= gates->end_at;
	SPITupleTable *table;
	uint64 rows;
	uint64 i;

	execute(&kept,
	        "SELECT coalesce(p.account_id, ''), coalesce(p.cause, ''), p.stamp,"
	        " p.probe_at <= clock_timestamp(), p.until <= clock_timestamp()"
	        " FROM kridtech.pauses AS p",
	        0, NULL, NULL, NULL, SPI_OK_SELECT);
	table = SPI_tuptable;
	rows = SPI_processed;
	for (i = 0; i < rows; i++)
	{
		HeapTuple tuple = table->vals[i];
		bool isnull;
		Pause pause;
		Datum datum;

		pause.account_id = SPI_getvalue(tuple, table->tupdesc, 1);
		pause.cause = SPI_getvalue(tuple, table->tupdesc, 2);
		pause.stamp = SPI_getvalue(tuple, table->tupdesc, 3);
		datum = SPI_getbinval(tuple, table->tupdesc, 4, &isnull);
		pause.may_probe = !isnull && DatumGetBool(datum);
		datum = SPI_getbinval(tuple, table->tupdesc, 5, &isnull);
		pause.by_time = !isnull && DatumGetBool(datum);
		if (!is_over(gates, &pause) || !may_end || !try_to_end(gates, &pause))
			apply_pause(gates, &pause);
	}
}

/* ---- the gates ------------------------------------------------------------------------------------- */

/* The key file's stamp: another content has another one. */
static char *
stamp_of(const char *file)
{
	struct stat st;

	if (file == NULL || stat(file, &st) != 0)
		return NULL;
	return psprintf("%llu-%lld-%lld.%09ld", (unsigned long long) st.st_ino, (long long) st.st_size,
	                (long long) st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

/* The key file that was read last: many accounts may have the same. */
typedef struct LastFile
{
	char *file; /* NULL: none was read */
	char *key;
	char *stamp;
	char *problem;
} LastFile;

/*
 * The stamp comes before the key: should the file be replaced in between, the stamp is the older one's, and the next
 * look sees that it differs. The other way round a refused key's pause would outlast its replacement.
 */
static void
read_file(LastFile *last, const char *file)
{
	if (last->key != NULL)
		explicit_bzero(last->key, strlen(last->key));
	memset(last, 0, sizeof(*last));
	if (file == NULL)
		return;
	last->file = pstrdup(file);
	last->stamp = stamp_of(file);
	last->key = kt_account_read_file(file, &last->problem);
}

/* Opens the gate if its key can be had. */
static void
read_key(KtGates *gates, KtGate *gate, const KtAccountFiles *files, LastFile *last)
{
	const char *file = kt_account_file(files, gate->account_id);
	const char *problem;

	if (file != NULL && (last->file == NULL || strcmp(file, last->file) != 0))
		read_file(last, file);
	if (gate->account_id[0] == '\0')
		problem = "no account ID: set kridtech.account_id";
	else
		problem = file == NULL ? "no API key file is set" : last->problem;
	set_copy(gates, &gate->stamp, file == NULL ? NULL : last->stamp);
	set_copy(gates, &gate->key, problem == NULL ? last->key : NULL);
	set_copy(gates, &gate->closed, problem);
	gate->looked_at = true;
}

void
kt_gate_refresh(KtGates *gates)
{
	const KtAccountFiles *files = kt_account_files();
	LastFile last = {.file = NULL};
	int i;

	gates->all_closed = false;
	for (i = 0; i < gates->n; i++)
	{
		KtGate *gate = &gates->gates[i];

		if (gate->account_id == NULL)
			continue;
		gate->may_probe = gate->has_pause = false;
		read_key(gates, gate, files, &last);
	}
	read_file(&last, NULL);
	read_pauses(gates);
}

int
kt_gate_allow(const KtGate *gate, int want)
{
	if (gate->shut_until > 0 && gate->shut_until > kt_http_now())
		return 0;
	if (gate->closed == NULL)
		return want;
	if (gate->may_probe && gate->in_flight == 0)
		return Min(want, 1);
	return 0;
}

void
kt_gate_probed(KtGate *gate)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {TEXTOID, TIMESTAMPTZOID};
	Datum values[2];

	values[0] = CStringGetTextDatum(gate->account_id);
	values[1] = TimestampTzGetDatum(GetCurrentTimestamp() + (int64) kt_probe_interval * 1000);
	execute(&kept,
	        "UPDATE kridtech.pauses AS p SET probe_at = $2 WHERE p.ctid IN (SELECT q.ctid"
	        " FROM kridtech.pauses AS q WHERE q.account_id = $1 AND q.probe_at IS NOT NULL"
	        " FOR UPDATE SKIP LOCKED)",
	        2, types, values, NULL, SPI_OK_UPDATE);
	if (SPI_processed == 0)
		gate->shut_until = kt_http_now() + PROBED_US;
	gate->may_probe = false;
}

/* The API answered, and not with a refusal that concerns the account. */
static void
works_again(KtGate *gate)
{
	static SPIPlanPtr kept = NULL;
	Oid types[] = {TEXTOID};
	Datum values[1];

	gate->failures = 0;
	if (!gate->has_pause)
		return;
	values[0] = CStringGetTextDatum(gate->account_id);
	execute(&kept,
	        "DELETE FROM kridtech.pauses AS p WHERE p.account_id = $1"
	        " AND p.cause IN ('credits', 'unreachable')",
	        1, types, values, NULL, SPI_OK_DELETE);
}

static int64
back_off(const KtGate *gate, int failures)
{
	uint64 random = 0;

	(void) pg_strong_random(&random, sizeof(random));
	return kt_retry_delay(failures, random);
}

bool
kt_gate_shuts(KtEffect effect)
{
	switch (effect)
	{
		case KT_EFFECT_UNAUTHORIZED:
		case KT_EFFECT_CREDITS:
		case KT_EFFECT_RATE:
		case KT_EFFECT_ENDPOINT:
			return true;
		case KT_EFFECT_NONE:
		case KT_EFFECT_UNREACHABLE:
		case KT_EFFECT_UNCLEAR:
			break;
	}
	return false;
}

void
kt_gate_learn(KtGate *gate, KtEffect effect, int64 retry_after, const char *reason)
{
	int64 wait_us;

	switch (effect)
	{
		case KT_EFFECT_NONE:
			works_again(gate);
			break;
		case KT_EFFECT_UNREACHABLE:
			if (++gate->failures >= UNREACHABLE_AFTER)
				begin_pause(gate, "unreachable", reason, -1,
				            back_off(gate, gate->failures - UNREACHABLE_AFTER + 1), NULL);
			break;
		case KT_EFFECT_UNAUTHORIZED:
			begin_pause(gate, "unauthorized", reason, -1, -1, gate->stamp);
			break;
		case KT_EFFECT_CREDITS:
			begin_pause(gate, "credits", reason, -1, (int64) kt_probe_interval * 1000, NULL);
			break;
		case KT_EFFECT_RATE:
			gate->failures++;
			wait_us = kt_retry_after(retry_after);
			begin_pause(gate, "rate", reason,
			            wait_us > 0 ? wait_us : back_off(gate, gate->failures), -1, NULL);
			break;
		case KT_EFFECT_ENDPOINT:
			begin_pause(gate, "endpoint", reason, -1, -1, kt_base_url);
			break;
		case KT_EFFECT_UNCLEAR:
			break;
	}
}

void
kt_gate_conflict(KtGate *gate, const char *reason)
{
	begin_pause(gate, "conflict", reason, -1, -1, NULL);
}
