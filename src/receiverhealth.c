/*
 * The receiver's row of the view health: where it listens, until when its certificate is good, when it was
 * last heard from, and what is wrong.
 *
 * The sockets are known to every process of the server (listen.c), so their faults show even where no
 * receiver runs. What the receiver itself says stands in its slot.
 */
#include "postgres.h"

#include "receiverhealth.h"

#include <time.h>

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "lib/stringinfo.h"
#include "listen.h"
#include "miscadmin.h"
#include "settings.h"
#include "shmem.h"
#include "utils/timestamp.h"

/* A certificate that ends within so many days is somebody's business now. */
#define CERTIFICATE_DAYS 14

/* The slot's words, copied so that the lock is not held over what may throw. */
typedef struct Words
{
	bool running;
	bool ok;
	char status[KT_MAX_STATUS];
	TimestampTz since;
	bool tls;
	int64 certificate_end;
	TimestampTz last_webhook;
	char launcher[KT_MAX_STATUS];
} Words;

static void
read_words(Words *words)
{
	KtSlot *slot;

	memset(words, 0, sizeof(*words));
	LWLockAcquire(kt_shared->lock, LW_SHARED);
	slot = kt_shmem_find(MyDatabaseId, KT_RECEIVER);
	if (slot != NULL)
	{
		words->running = slot->pid != 0;
		words->ok = slot->ok;
		strlcpy(words->status, slot->status, sizeof(words->status));
		words->since = slot->since;
		words->tls = slot->tls;
		words->certificate_end = slot->certificate_end;
		words->last_webhook = slot->last_webhook;
	}
	strlcpy(words->launcher,
	        kt_shared->launcher_pid != 0 ? kt_shared->launcher_status : "it does not run",
	        sizeof(words->launcher));
	LWLockRelease(kt_shared->lock);
}

static void
add(StringInfo detail, const char *words)
{
	appendStringInfo(detail, "%s%s", detail->len > 0 ? "; " : "", words);
}

/* This database's sockets: those that are on, and those that are not, with the reason. True when all are on. */
static bool
describe_sockets(StringInfo detail, const char *database, bool tls)
{
	StringInfoData faults;
	bool any = false;
	int i;

	initStringInfo(&faults);
	for (i = 0; i < kt_listen_count(); i++)
	{
		const KtListener *listener = kt_listen_get(i);

		if (!kt_listen_is_for(listener, database))
			continue;
		if (listener->fd < 0)
			add(&faults,
			    psprintf("cannot receive at \"%s\": %s", listener->text, listener->problem));
		else if (kt_listen_is_on(listener))
		{
			appendStringInfo(detail, "%s%s", any ? ", " : "listening on ", listener->text);
			any = true;
		}
		else if (!tls && !listener->loopback)
			add(&faults, psprintf("not listening on %s, which needs TLS: set "
			                      "kridtech.webhook_tls_cert_file",
			                      listener->text));
		else
			add(&faults, psprintf("not listening on %s", listener->text));
	}
	if (any)
		appendStringInfoString(detail, tls ? " with TLS" : " without TLS");
	if (faults.len > 0)
		add(detail, faults.data);
	return faults.len == 0;
}

/* False when the certificate has ended or will soon. */
static bool
describe_certificate(StringInfo detail, const Words *words)
{
	TimestampTz end = time_t_to_timestamptz((pg_time_t) words->certificate_end);
	bool fit =
		words->certificate_end > (int64) time(NULL) + (int64) CERTIFICATE_DAYS * SECS_PER_DAY;

	add(detail, psprintf("its certificate %s %s",
	                     words->certificate_end <= (int64) time(NULL) ? "ended" : "ends",
	                     timestamptz_to_str(end)));
	return fit;
}

static void
describe(KtReceiverHealth *health, const char *database)
{
	StringInfoData detail;
	Words words;
	bool sockets;

	initStringInfo(&detail);
	read_words(&words);
	health->since = words.since;
	sockets = describe_sockets(&detail, database, words.tls);
	if (!words.running)
		add(&detail, psprintf("no receiver runs; launcher: %s", words.launcher));
	if (words.status[0] != '\0')
		add(&detail, words.status);
	health->ok = sockets && words.running && words.ok;
	if (words.tls && !describe_certificate(&detail, &words))
		health->ok = false;
	if (words.last_webhook != 0)
		add(&detail, psprintf("last webhook %s", timestamptz_to_str(words.last_webhook)));
	health->detail = detail.data;
}

void
kt_receiver_health(KtReceiverHealth *health)
{
	char *database = get_database_name(MyDatabaseId);

	memset(health, 0, sizeof(*health));
	if (kt_webhook_listen[0] == '\0')
		health->detail = pstrdup("kridtech.webhook_listen is empty: nothing is received");
	else if (kt_shared == NULL)
	{
		health->applies = true;
		health->detail = pstrdup("kridtech was not loaded at the server's start");
	}
	else if (RecoveryInProgress())
		health->detail =
			pstrdup("this server is a standby: nothing is received before its promotion");
	else if (!kt_listen_any_for(database))
		health->detail = pstrdup("kridtech.webhook_listen has no entry for this database");
	else if (!kt_settings_list_database(database))
	{
		health->applies = true;
		health->detail = pstrdup("the setting kridtech.databases does not name this database");
	}
	else
	{
		health->applies = true;
		describe(health, database);
	}
}
