/*
 * What monitoring reads first: the rows of the view health.
 *
 * What the workers do is read from shared memory, what waits from the tables. The tables are read as
 * their owner, so a monitoring role needs no right on them; and by indexes that hold only what is not
 * finished, each to a bound, so that it stays cheap with millions of requests behind or before it.
 */
#include "postgres.h"

#include "account.h"
#include "access/xlog.h"
#include "background.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "compat.h"
#include "extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "receiverhealth.h"
#include "recordinghealth.h"
#include "settings.h"
#include "shmem.h"
#include "statement.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "xact.h"

PG_FUNCTION_INFO_V1(kridtech_health);

/* Requests of one kind that are counted; beyond, health says "at least". A text: it stands in statements. */
#define COUNT_BOUND 10000
#define COUNT_BOUND_TEXT "10000"

/* Accounts whose key file is looked at, so that a table of thousands does not open thousands of files. */
#define ACCOUNTS_BOUND_TEXT "100"

/* What is ready and unpaused for longer than this, while nothing is placed, is stuck. */
#define STUCK_SECONDS 60

/* ---- rows ----------------------------------------------------------------------------------------------- */

typedef enum Verdict
{
	GOOD,
	BAD,
	NEITHER /* does not apply: NULL */
} Verdict;

typedef struct Report
{
	ReturnSetInfo *result;
	KtOwner owner;
} Report;

static void
put_health(Report *report, const char *component, Verdict verdict, const char *detail,
           TimestampTz since)
{
	Datum values[] = {CStringGetTextDatum(component), BoolGetDatum(verdict == GOOD),
	                  CStringGetTextDatum(detail), TimestampTzGetDatum(since)};
	bool nulls[] = {false, verdict == NEITHER, false, since == 0};

	tuplestore_putvalues(report->result->setResult, report->result->setDesc, values, nulls);
}

/*
 * Reads the tables as their owner, up to kt_owner_end(). The plan must not depend on statistics, which say "empty"
 * for a queue that has just been filled; nor must it be compiled, which takes 200 ms.
 */
static uint64
ask(Report *report, KtStatement *question, Datum *values)
{
	kt_owner_begin(&report->owner);
	kt_background_prefer_indexes();
	return kt_statement_run(question, values, NULL);
}

/* ---- the dialer ----------------------------------------------------------------------------------------- */

/* The shared memory's words, copied so that the lock is not held over what may throw. */
typedef struct Words
{
	bool running;
	bool ok;
	char status[KT_MAX_STATUS];
	TimestampTz since;
	bool sync_ok;
	char sync_status[KT_MAX_STATUS];
	TimestampTz sync_since;
	pid_t launcher_pid;
	char launcher_status[KT_MAX_STATUS];
	TimestampTz launcher_since;
} Words;

/*
 * A status is cut at a byte and holds names of other databases, whose encoding need not be ours: what is
 * no text here loses its characters beyond ASCII.
 */
static void
make_valid(char *status)
{
	if (pg_verifymbstr(status, (int) strlen(status), true))
		return;
	for (; *status != '\0'; status++)
		if (IS_HIGHBIT_SET(*status))
			*status = '?';
}

static void
read_words(Words *words)
{
	KtSlot *slot;

	memset(words, 0, sizeof(*words));
	LWLockAcquire(kt_shared->lock, LW_SHARED);
	slot = kt_shmem_find(MyDatabaseId, KT_DIALER);
	if (slot != NULL)
	{
		words->running = slot->pid != 0;
		words->ok = slot->ok;
		strlcpy(words->status, slot->status, sizeof(words->status));
		words->since = slot->since;
		words->sync_ok = slot->sync_ok;
		strlcpy(words->sync_status, slot->sync_status, sizeof(words->sync_status));
		words->sync_since = slot->sync_since;
	}
	words->launcher_pid = kt_shared->launcher_pid;
	strlcpy(words->launcher_status, kt_shared->launcher_status, sizeof(words->launcher_status));
	words->launcher_since = kt_shared->launcher_since;
	LWLockRelease(kt_shared->lock);
	make_valid(words->status);
	make_valid(words->sync_status);
	make_valid(words->launcher_status);
}

static void
report_dialer(Report *report)
{
	Words words;

	if (kt_shared == NULL)
	{
		put_health(
			report, "dialer", BAD,
			"kridtech was not loaded at the server's start: add it to shared_preload_libraries "
			"and restart the server",
			0);
		return;
	}
	read_words(&words);
	if (RecoveryInProgress())
		put_health(report, "dialer", NEITHER,
		           "this server is a standby: nothing dials before its promotion", 0);
	else if (words.running)
		put_health(report, "dialer", words.ok ? GOOD : BAD,
		           words.status[0] != '\0' ? words.status : "starting", words.since);
	else if (!kt_settings_list_database(get_database_name(MyDatabaseId)))
		put_health(report, "dialer", BAD,
		           "the setting kridtech.databases does not name this database", 0);
	else if (words.launcher_pid == 0)
		put_health(report, "dialer", BAD,
		           "the launcher does not run: see the server's log, and max_worker_processes", 0);
	else
		put_health(report, "dialer", BAD,
		           psprintf("no dialer runs (%s); launcher: %s",
		                    words.status[0] != '\0' ? words.status : "none has yet",
		                    words.launcher_status),
		           words.launcher_since);
}

static void
report_receiver(Report *report)
{
	KtReceiverHealth health;

	kt_receiver_health(&health);
	make_valid(health.detail);
	put_health(report, "receiver", health.applies ? (health.ok ? GOOD : BAD) : NEITHER,
	           health.detail, health.since);
}

/* ---- the polling of the list, by the dialer's process ------------------------------------------------- */

static void
report_sync(Report *report)
{
	Words words;

	if (kt_sync_interval == 0)
	{
		put_health(report, "sync", NEITHER, "off: kridtech.sync_interval is 0", 0);
		return;
	}
	if (kt_shared == NULL)
	{
		put_health(report, "sync", BAD, "kridtech was not loaded at the server's start", 0);
		return;
	}
	read_words(&words);
	if (RecoveryInProgress())
		put_health(report, "sync", NEITHER, "this server is a standby", 0);
	else if (!words.running)
		put_health(report, "sync", BAD, "no dialer runs, which polls the list of calls", 0);
	else if (words.sync_status[0] == '\0')
		put_health(report, "sync", NEITHER, "the list of calls has not been read yet", 0);
	else
		put_health(report, "sync", words.sync_ok ? GOOD : BAD, words.sync_status, words.sync_since);
}

/* ---- the queue ------------------------------------------------------------------------------------------ */

/* $1: the default account. A pause that is over by time is no pause, whether or not its row has gone. */
static KtStatement queue_question = {
	"WITH ready AS MATERIALIZED (SELECT q.account_id, greatest(q.created_at, q.not_before) AS since"
	"  FROM kridtech.call_requests AS q WHERE q.state = 'queued' AND q.next_attempt_at IS NULL"
	"  ORDER BY q.priority DESC, q.id LIMIT " COUNT_BOUND_TEXT "),"
	" pauses AS MATERIALIZED (SELECT p.account_id FROM kridtech.pauses AS p"
	"  WHERE p.until IS NULL OR p.until > clock_timestamp())"
	" SELECT (SELECT count(*) FROM ready),"
	" (SELECT count(*) FROM (SELECT FROM kridtech.call_requests AS q WHERE q.state = 'queued'"
	"  AND q.next_attempt_at IS NOT NULL LIMIT " COUNT_BOUND_TEXT ") AS w),"
	" (SELECT min(q.next_attempt_at) FROM kridtech.call_requests AS q WHERE q.state = 'queued'"
	"  AND q.next_attempt_at IS NOT NULL),"
	" (SELECT count(*) FROM kridtech.call_requests AS q WHERE q.state = 'placing'),"
	" (SELECT count(*) FROM kridtech.call_requests AS q WHERE q.state = 'unknown'"
	"  AND q.finished_at > (SELECT clock_timestamp()) - interval '1 hour'),"
	" (SELECT count(*) FROM (SELECT FROM kridtech.call_requests AS q WHERE q.state = 'unknown'"
	"  LIMIT " COUNT_BOUND_TEXT ") AS u),"
	" (SELECT min(r.since) FROM ready AS r WHERE NOT EXISTS (SELECT FROM pauses AS p"
	"  WHERE p.account_id IN ('', coalesce(r.account_id, $1)))),"
	" (SELECT a.started_at FROM kridtech.call_attempts AS a ORDER BY a.id DESC LIMIT 1),"
	" (SELECT min(w.since) FROM (SELECT q.account_id, q.attempts, q.error,"
	"  greatest(q.created_at, q.not_before) AS since FROM kridtech.call_requests AS q"
	"  WHERE q.state = 'queued' AND q.next_attempt_at IS NOT NULL"
	"  ORDER BY q.next_attempt_at LIMIT " COUNT_BOUND_TEXT ") AS w"
	"  WHERE w.attempts = 0 AND w.error IS NOT NULL AND NOT EXISTS (SELECT FROM pauses AS p"
	"  WHERE p.account_id IN ('', coalesce(w.account_id, $1))))",
	SPI_OK_SELECT,
	{TEXTOID, InvalidOid},
	NULL};

typedef struct Queue
{
	int64 ready;
	int64 waiting;
	TimestampTz next; /* of those that wait */
	int64 placing;
	int64 unknown_lately;
	int64 unknown;
	TimestampTz oldest; /* of those that are ready and not paused; 0: none */
	TimestampTz placed; /* the last attempt; 0: none */
	/* of those, not paused, that wait with an error and no attempt: they cannot be claimed; 0: none */
	TimestampTz refused;
} Queue;

static void
read_queue(Report *report, Queue *queue)
{
	Datum values[] = {CStringGetTextDatum(kt_account_id)};

	(void) ask(report, &queue_question, values);
	queue->ready = kt_statement_int64(0, 1);
	queue->waiting = kt_statement_int64(0, 2);
	queue->next = kt_statement_int64(0, 3);
	queue->placing = kt_statement_int64(0, 4);
	queue->unknown_lately = kt_statement_int64(0, 5);
	queue->unknown = kt_statement_int64(0, 6);
	queue->oldest = kt_statement_int64(0, 7);
	queue->placed = kt_statement_int64(0, 8);
	queue->refused = kt_statement_int64(0, 9);
	kt_owner_end(&report->owner);
}

/* A slow pace is not a fault: two calls' time must have passed without one, and a minute at least. */
static bool
is_stuck(const Queue *queue, TimestampTz since)
{
	TimestampTz now = GetCurrentTimestamp();
	double patience = STUCK_SECONDS;

	if (kt_calls_per_second > 0)
		patience = Max(patience, Min(2 / kt_calls_per_second, SECS_PER_DAY));
	return since != 0 && since < now - (TimestampTz) STUCK_SECONDS * USECS_PER_SEC &&
	       queue->placed < now - (TimestampTz) (patience * USECS_PER_SEC);
}

static void
append_count(StringInfo words, int64 count, const char *what)
{
	appendStringInfo(words, "%s%s" INT64_FORMAT " %s", words->len > 0 ? ", " : "",
	                 count >= COUNT_BOUND ? "at least " : "", count, what);
}

static char *
describe_queue(const Queue *queue)
{
	StringInfoData words;

	initStringInfo(&words);
	append_count(&words, queue->ready, "ready");
	append_count(&words, queue->waiting, "waiting");
	if (queue->waiting > 0)
		appendStringInfo(&words, " (the next until %s)", timestamptz_to_str(queue->next));
	append_count(&words, queue->placing, "on the network");
	append_count(&words, queue->unknown, "unknown");
	appendStringInfo(&words, " (" INT64_FORMAT " of the last hour", queue->unknown_lately);
	if (kt_max_unknown > 0)
		appendStringInfo(&words, ", the dialer stops at %d", kt_max_unknown);
	appendStringInfoChar(&words, ')');
	return words.data;
}

static void
report_queue(Report *report)
{
	char *description;
	Queue queue;

	read_queue(report, &queue);
	description = describe_queue(&queue);
	if (kt_max_unknown > 0 && queue.unknown_lately >= kt_max_unknown)
		put_health(report, "queue", BAD,
		           psprintf("stopped by kridtech.max_unknown, see kridtech_resolve_call(): %s",
		                    description),
		           queue.oldest);
	else if (is_stuck(&queue, queue.oldest))
		put_health(report, "queue", BAD, psprintf("nothing is being placed: %s", description),
		           queue.oldest);
	else if (is_stuck(&queue, queue.refused))
		put_health(report, "queue", BAD,
		           psprintf("nothing is being placed, some cannot be claimed, see their error: %s",
		                    description),
		           queue.refused);
	else
		put_health(report, "queue", GOOD, description, queue.oldest);
}

/* ---- recordings, if they are fetched -------------------------------------------------------------------- */

static void
report_recordings(Report *report)
{
	KtRecordingHealth health;

	if (!kt_recordings)
		return;
	kt_recording_health(&health);
	put_health(report, "recordings", health.applies ? (health.ok ? GOOD : BAD) : NEITHER,
	           health.detail, health.since);
}

/* ---- credentials ---------------------------------------------------------------------------------------- */

/* What is wrong with an account's key, or NULL. The key itself is gone when this returns. */
static char *
key_problem(const char *account_id)
{
	char *file;
	char *problem = NULL;
	char *key = kt_account_read_key(account_id, &file, &problem);

	if (key != NULL)
		explicit_bzero(key, strlen(key));
	return key == NULL ? problem : NULL;
}

static KtStatement accounts_question = {
	"SELECT a.account_id FROM kridtech.accounts AS a ORDER BY 1 LIMIT " ACCOUNTS_BOUND_TEXT,
	SPI_OK_SELECT,
	{InvalidOid},
	NULL};

/* The accounts of kridtech.accounts: their number, and words about those without a usable key. */
static int
check_accounts(Report *report, StringInfo faults)
{
	int count = (int) ask(report, &accounts_question, NULL);
	int i;

	for (i = 0; i < count; i++)
	{
		char *account_id = kt_statement_present(i, 1);
		char *problem = key_problem(account_id);

		if (problem != NULL)
			appendStringInfo(faults, "%saccount \"%s\": %s", faults->len > 0 ? "; " : "",
			                 account_id, problem);
	}
	kt_owner_end(&report->owner);
	return count;
}

static void
report_credentials(Report *report)
{
	char *problem = key_problem(kt_account_id[0] != '\0' ? kt_account_id : NULL);
	StringInfoData faults;
	int accounts;

	initStringInfo(&faults);
	accounts = check_accounts(report, &faults);

	/* Who names an account in every request needs no default one. */
	if (problem == NULL && kt_account_id[0] == '\0')
		problem = pstrdup("kridtech.account_id is not set");
	if (problem != NULL && (accounts == 0 || kt_account_id[0] != '\0'))
		appendStringInfo(&faults, "%sdefault account: %s", faults.len > 0 ? "; " : "", problem);
	if (faults.len > 0)
		put_health(report, "credentials", BAD, faults.data, 0);
	else
		put_health(report, "credentials", GOOD,
		           psprintf("the default account %s a key; %d more in kridtech.accounts",
		                    problem == NULL ? "has" : "has not", accounts),
		           0);
}

/* ---- pauses --------------------------------------------------------------------------------------------- */

/* An account that is paused for several causes has one row. */
static KtStatement pauses_question = {
	"SELECT CASE coalesce(p.account_id, '') WHEN '' THEN 'all accounts' ELSE 'account ' || p.account_id END,"
	" string_agg(concat(p.cause, ': ' || p.reason, '; ends ' || p.until, '; tried again ' || p.probe_at),"
	" '; also ' ORDER BY p.cause), min(p.since) FROM kridtech.pauses AS p"
	" WHERE p.until IS NULL OR p.until > clock_timestamp() GROUP BY p.account_id ORDER BY 1",
	SPI_OK_SELECT,
	{InvalidOid},
	NULL};

static void
report_pauses(Report *report)
{
	uint64 count = ask(report, &pauses_question, NULL);
	uint64 i;

	for (i = 0; i < count; i++)
		put_health(report, kt_statement_text(i, 1), BAD, kt_statement_text(i, 2),
		           kt_statement_int64(i, 3));
	kt_owner_end(&report->owner);
}

/* ---- all of it ------------------------------------------------------------------------------------------ */

/* How long a lock on a table is waited for, in ms. */
#define LOCK_PATIENCE 1000
#define LOCK_PATIENCE_TEXT "1000"

/* What is read from tables, for one of health's rows or several. */
typedef struct Section
{
	Report *report;
	void (*put)(Report *);
} Section;

static void
section_work(void *argument)
{
	Section *section = argument;

	section->put(section->report);
}

/*
 * A table that somebody has locked, or altered, or given to an owner of its own, is a row and not the end: monitoring
 * asks when something is wrong. What was put before an error stays put.
 */
static void
put_section(Report *report, const char *component, void (*put)(Report *))
{
	Section section = {report, put};
	int guc_level = NewGUCNestLevel();
	char *message;
	int sqlstate;

	if (LockTimeout == 0 || LockTimeout > LOCK_PATIENCE)
		(void) set_config_option("lock_timeout", LOCK_PATIENCE_TEXT, PGC_USERSET, PGC_S_SESSION,
		                         GUC_ACTION_SAVE, true, 0, false);
	if (!kt_xact_try(section_work, &section, &sqlstate, &message))
		put_health(report, component, BAD,
		           sqlstate == ERRCODE_LOCK_NOT_AVAILABLE
		               ? "not known: somebody has locked a table of the schema kridtech"
		               : psprintf("not known: %s", message),
		           0);
	AtEOXact_GUC(false, guc_level);
}

/*
 * Where library and objects are of different versions the workers can be asked, but not the tables, whose columns
 * may be others: what keeps everything from working is not to keep it from being said.
 */
Datum
kridtech_health(PG_FUNCTION_ARGS)
{
	Report report;
	Oid extension;
	char *problem = kt_extension_problem(&extension);

	if (!OidIsValid(extension))
		kt_extension_check();
	InitMaterializedSRF(fcinfo, 0);
	report.result = (ReturnSetInfo *) fcinfo->resultinfo;
	report_dialer(&report);
	report_receiver(&report);
	report_sync(&report);
	if (problem != NULL)
	{
		put_health(&report, "queue", BAD, problem, 0);
		put_health(&report, "credentials", BAD, problem, 0);
		if (kt_recordings)
			put_health(&report, "recordings", BAD, problem, 0);
		return (Datum) 0;
	}
	put_section(&report, "queue", report_queue);
	put_section(&report, "credentials", report_credentials);
	put_section(&report, "recordings", report_recordings);
	put_section(&report, "all accounts", report_pauses);
	return (Datum) 0;
}
