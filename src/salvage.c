/*
 * Deliveries that do not become an event at once: what goes to the inbox, and what comes back from it.
 *
 * An event that fails must not take its batch along: each gets a subtransaction of its own, to the end of which
 * what is deferred is brought forward, so that it raises what it raises there and not at the commit. Should the
 * commit fail all the same, the receiver keeps the whole batch (kt_events_keep()).
 */
#include "postgres.h"

#include "events.h"

#include "api.h"
#include "convert.h"
#include "extension.h"
#include "http.h"
#include "kept.h"
#include "settings.h"
#include "utils/builtins.h"
#include "xact.h"

/* Bytes of a callId in a log line. */
#define MAX_LOGGED_ID 64

/* "P0001: the trigger's words", palloc'd: bounded, and without long runs of digits. */
static char *
error_words(int sqlstate, const char *message)
{
	char *words = message == NULL ? NULL : kt_api_presentable(message, strlen(message), NULL);

	return psprintf("%s: %s", unpack_sql_state(sqlstate),
	                words == NULL ? "" : kt_convert_to_server(words));
}

static KtKeptReason
reason_of(int sqlstate)
{
	if (sqlstate == 0)
		return KT_KEPT_LATE;
	return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ? KT_KEPT_LOCK : KT_KEPT_ERROR;
}

/* ---- one by one -------------------------------------------------------------------------------------- */

typedef struct One
{
	const KtWebhook *webhook;
	KtStored *stored;
} One;

static void
store_one(void *argument)
{
	One *one = argument;

	*one->stored = kt_events_store_one(one->webhook, GetCurrentTimestamp(), 1);
}

static void
log_failure(const KtWebhook *webhook, const char *words)
{
	char *call_id =
		kt_api_presentable(webhook->call_id, Min(strlen(webhook->call_id), MAX_LOGGED_ID), NULL);

	ereport(LOG, (errmsg("the webhook of call \"%s\" is kept in kridtech.webhook_inbox: %s",
	                     call_id == NULL ? "" : call_id, words),
	              errhidestmt(true), errhidecontext(true)));
}

/* True when the delivery is done with; otherwise *row says why it is to be kept. */
static bool
store_or_explain(const KtWebhook *webhook, bool late, KtStored *stored, KtKept *row, int *sqlstate)
{
	One one = {webhook, stored};
	char *message = NULL;

	*sqlstate = 0;
	if (webhook->fault != NULL || late)
	{
		*row = kt_kept_row(webhook, 1, KT_KEPT_LATE, NULL);
		return false;
	}
	if (!kt_xact_try(store_one, &one, sqlstate, &message))
	{
		char *words = error_words(*sqlstate, message);

		log_failure(webhook, words);
		*row = kt_kept_row(webhook, 1, reason_of(*sqlstate), words);
		return false;
	}
	if (stored->as == KT_STORED_CONFLICT)
		*row = kt_kept_row(webhook, 1, KT_KEPT_CONFLICT, NULL);
	else if (stored->as == KT_STORED_KEPT)
		*row = kt_kept_row(webhook, 1, KT_KEPT_ERROR, kt_events_suppressed);
	else
		return true;
	return false;
}

void
kt_events_store_apart(const KtWebhook *webhooks, int n, int64 deadline, KtStored *stored)
{
	KtKept *rows = palloc(n * sizeof(KtKept));
	int *places = palloc(n * sizeof(int));
	bool late = false;
	int nrows = 0;
	KtOwner owner;
	int i;

	kt_owner_begin(&owner);
	for (i = 0; i < n; i++)
	{
		int sqlstate;

		late = late || kt_http_now() >= deadline;
		places[nrows] = i;
		if (!store_or_explain(&webhooks[i], late, &stored[i], &rows[nrows], &sqlstate))
			nrows++;
		late = late || sqlstate == ERRCODE_QUERY_CANCELED;
	}
	kt_kept_put(rows, places, nrows, stored);
	kt_owner_end(&owner);
}

void
kt_events_keep(const KtWebhook *webhooks, int n, int sqlstate, const char *message,
               KtStored *stored)
{
	KtKept *rows = palloc(n * sizeof(KtKept));
	int *places = palloc(n * sizeof(int));
	const char *detail = sqlstate == 0 ? NULL : error_words(sqlstate, message);
	KtOwner owner;
	int i;

	for (i = 0; i < n; i++)
	{
		places[i] = i;
		rows[i] = kt_kept_row(&webhooks[i], 1, reason_of(sqlstate), detail);
	}
	kt_owner_begin(&owner);
	kt_kept_put(rows, places, n, stored);
	kt_owner_end(&owner);
}

/* ---- trying again ------------------------------------------------------------------------------------ */

/*
 * A row that was deleted meanwhile is stored by the next attempt. What is suppressed again and again, someone wants so;
 * and a trigger that stores it in a way that we do not see shall not do so for ever.
 */
#define SUPPRESSED_ATTEMPTS 8

/* How long a lock on a table is left alone, in microseconds. */
#define LOCKED_PAUSE (2 * USECS_PER_SEC)

int
kt_events_retry_claim(int64 *ids, int max, TimestampTz *due)
{
	KtOwner owner;
	int n = 0;

	kt_owner_begin(&owner);
	/* While a table is locked each retry would wait for it. */
	if (kt_extension_lock_at_once("webhook_events", RowExclusiveLock) &&
	    kt_extension_lock_at_once("webhook_inbox", RowExclusiveLock))
		n = kt_kept_claim(ids, max, due);
	else
		*due = GetCurrentTimestamp() + LOCKED_PAUSE;
	kt_owner_end(&owner);
	return n;
}

/* A row that has been read and locked. True when it has become an event, or an equal one is there. */
static bool
store_again(int64 id, const KtKeptRow *row, KtWebhook *webhook, bool *is_new)
{
	KtStored stored;

	kt_webhook_read(row->body, row->body_len, webhook);
	webhook->remote_addr = row->remote_addr;
	if (webhook->fault != NULL)
	{
		kt_kept_note(id, KT_KEPT_BAD, webhook->fault, KT_KEPT_NEVER);
		return false;
	}
	stored = kt_events_store_one(webhook, row->received_at, row->deliveries);
	*is_new = stored.as == KT_STORED_EVENT;
	if (stored.as == KT_STORED_CONFLICT)
		kt_kept_note(id, KT_KEPT_CONFLICT, NULL, KT_KEPT_NEVER);
	else if (stored.as == KT_STORED_KEPT)
		kt_kept_note(id, KT_KEPT_ERROR, kt_events_suppressed, SUPPRESSED_ATTEMPTS);
	if (stored.as != KT_STORED_EVENT && stored.as != KT_STORED_DUPLICATE)
		return false;
	kt_kept_delete(id, row->body_len);
	return true;
}

bool
kt_events_retry(int64 inbox_id, char **call_id)
{
	MemoryContext caller = CurrentMemoryContext;
	KtWebhook webhook;
	KtKeptRow row;
	KtOwner owner;
	bool is_new = false;
	bool done;

	*call_id = NULL;
	kt_owner_begin(&owner);
	done = kt_kept_read(inbox_id, &row) && store_again(inbox_id, &row, &webhook, &is_new);
	if (done && is_new)
		*call_id = MemoryContextStrdup(caller, webhook.call_id);
	kt_owner_end(&owner);
	return done;
}

void
kt_events_retry_failed(int64 inbox_id, int sqlstate, const char *message)
{
	KtOwner owner;

	kt_owner_begin(&owner);
	kt_kept_note(inbox_id, reason_of(sqlstate), error_words(sqlstate, message), KT_KEPT_ALWAYS);
	kt_owner_end(&owner);
}

/* ---- what to look at --------------------------------------------------------------------------------- */

/* A table is worth a word when it is so full, in percent. */
#define NEARLY_FULL 80

const char *
kt_events_problem(void)
{
	static char words[200];
	int64 bound = (int64) kt_webhook_max_unverified * 1024;
	int percent = bound == 0 ? 0 : (int) Min(kt_events_unverified() * 100 / bound, 100);

	if (percent >= NEARLY_FULL)
		snprintf(words, sizeof(words),
		         "events that nothing has verified fill %d %% of kridtech.webhook_max_unverified",
		         percent);
	else if (kt_kept_percent() >= NEARLY_FULL)
		snprintf(words, sizeof(words),
		         "kridtech.webhook_inbox fills %d %% of kridtech.webhook_max_inbox",
		         kt_kept_percent());
	else
		return NULL;
	return words;
}
