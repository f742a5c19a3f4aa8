/*
 * May this dialer dial?
 *
 * Two fences keep a second dialer of the same database away: a session-level advisory lock, which the
 * server gives back when the process ends, however it ends; and the epoch, which every attempt bears, so
 * that a result is recorded only for the attempt it belongs to.
 */
#include "postgres.h"

#include "shmem.h"
#include "readiness.h"

#include "commands/dbcommands.h"
#include "extension.h"
#include "fault.h"
#include "identity.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "xact.h"

/* 'krid', 'dial': the advisory lock of the one dialer of a database. */
#define LOCK_CLASS 0x6b726964
#define LOCK_OBJECT 0x6469616c
#define LOCK_KIND 3 /* SQL's own are 1 and 2 */

/* How long the receiver may look for the extension, in ms: deliveries wait meanwhile. */
#define INSTALLED_MS 1000

typedef struct Check
{
	KtReadiness *readiness;
	int in_flight;
} Check;

/* An advisory lock of a kind that no SQL function can take: nobody else can keep a dialer from its work. */
static bool
take_lock(KtReadiness *readiness)
{
	LOCKTAG tag;

	if (readiness->has_lock)
		return true;
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, LOCK_CLASS, LOCK_OBJECT, LOCK_KIND);
	readiness->has_lock = LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	return readiness->has_lock;
}

/* What keeps the dialer from dialling, or NULL; begins its run if nothing does. */
static const char *
find_problem(KtReadiness *readiness, int in_flight)
{
	int64 epoch = kt_identity_epoch(&readiness->born);
	char *difference;

	if (!kt_identity_is_own(&difference))
	{
		kt_identity_note_subscription();
		return psprintf("paused: this database is a copy (%s); kridtech_adopt() lets it dial",
		                difference);
	}
	if (!take_lock(readiness))
		return "another dialer holds this database's lock";
	if (!readiness->gone && readiness->epoch == epoch)
		return NULL;
	if (in_flight > 0 && !readiness->gone)
		return "waiting for the requests of an earlier run";
	readiness->epoch = kt_identity_next_epoch();
	return NULL;
}

static void
check_work(void *argument)
{
	Check *check = argument;
	KtReadiness *readiness = check->readiness;
	const char *problem;
	KtOwner owner;
	Oid extension;

	problem = kt_extension_problem(&extension);
	readiness->gone = extension != readiness->extension;
	if (problem == NULL)
	{
		kt_owner_begin(&owner);
		problem = find_problem(readiness, check->in_flight);
		strlcpy(readiness->problem, problem != NULL ? problem : "", KT_MAX_STATUS);
		kt_owner_end(&owner);
	}
	else
		strlcpy(readiness->problem, problem, KT_MAX_STATUS);
	readiness->ready = problem == NULL;
	readiness->extension = extension;
	KT_FAULT("readiness-checked");
}

void
kt_readiness_check(KtReadiness *readiness, int in_flight)
{
	Check check = {.readiness = readiness, .in_flight = in_flight};
	int64 epoch = readiness->epoch;
	char error[KT_MAX_STATUS] = "";

	if (kt_xact_run("checking whether it may dial", check_work, &check, NULL, error,
	                sizeof(error)) == KT_XACT_DONE)
		return;
	/*
	 * The epoch may have been counted up in the transaction that was rolled back. The one before is still
	 * that of the requests in the air: without it they could never be recorded.
	 */
	readiness->epoch = epoch;
	readiness->ready = false;
	readiness->gone = false;
	strlcpy(readiness->problem, error, KT_MAX_STATUS);
}

typedef struct Installed
{
	Oid extension;
	NameData database;
	char *problem; /* of KT_MAX_STATUS bytes */
} Installed;

static void
installed_work(void *argument)
{
	Installed *installed = argument;
	char *problem = kt_extension_problem(&installed->extension);

	strlcpy(installed->problem, problem != NULL ? problem : "", KT_MAX_STATUS);
	namestrcpy(&installed->database, get_database_name(MyDatabaseId));
}

KtInstalled
kt_readiness_installed(Oid *extension, NameData *database, char *problem)
{
	Installed installed = {.extension = InvalidOid, .problem = problem};

	kt_xact_limit(INSTALLED_MS);
	if (kt_xact_run("checking whether it may receive", installed_work, &installed, NULL, problem,
	                KT_MAX_STATUS) != KT_XACT_DONE)
		return KT_INSTALLED_UNKNOWN;
	*extension = installed.extension;
	*database = installed.database;
	return problem[0] == '\0' ? KT_INSTALLED : KT_NOT_INSTALLED;
}
