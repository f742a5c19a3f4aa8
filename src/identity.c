/*
 * Is this database the one that may dial, or a copy of it? A copy that dials rings everybody twice.
 *
 * An identity is four facts, each of which some way of copying changes:
 *	- the cluster's system identifier: another after dump and restore into another cluster, pg_upgrade;
 *	- the database's OID: another after CREATE DATABASE ... TEMPLATE, or a restore into the same cluster;
 *	- the WAL's timeline: another after a promotion or a point-in-time recovery, where claims may be
 *	  missing that were made on the old timeline;
 *	- the inode of PG_VERSION in the data directory, and when that was made, if the file system tells: written once
 *	  by initdb, so only a copy of the files has another. The number alone does not do: on a file system that is
 *	  otherwise idle, files that are removed and brought back from a backup tend to get it again.
 * What none of them shows, such as a snapshot of the whole block device, is listed in doc/operating.md.
 *
 * A subscriber of a publication of the requests is a copy too, for as long as the subscription is there, and then
 * until it is adopted: whoever sees the subscription first sets the timeline to 0, which is nobody's.
 *
 * Every way of copying brings the table's row along. CREATE EXTENSION records the new database's own, and
 * a restored dump adds its origin's: so "all rows are our own" is the rule, not "one is". And since the dump's
 * requests may come before that row does, requests that are older than the extension here are not dialled.
 */
#include "postgres.h"

#include "identity.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "compat.h"
#include "extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "wake.h"

PG_FUNCTION_INFO_V1(kridtech_adopt);

#define IDENTITY_FACTS 4

static Oid fact_types[IDENTITY_FACTS] = {INT8OID, OIDOID, INT8OID, TIMESTAMPTZOID};

/* What tells the file PG_VERSION from a copy of it. */
typedef struct Version
{
	int64 inode;
	TimestampTz birth; /* -infinity: not known */
} Version;

/* Our own facts, but for the timeline, which the statements look up (pg_walfile_name() begins with it). */
#define OWN_TIMELINE "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer"

/* A worker's and a backend's working directory is the data directory. */
static Version
stat_version(void)
{
	Version version = {.birth = DT_NOBEGIN};
	struct stat st;
#ifdef STATX_BTIME
	struct statx stx;

	/* an older kernel, or a sandbox, may refuse it */
	if (statx(AT_FDCWD, "PG_VERSION", 0, STATX_INO | STATX_BTIME, &stx) == 0)
	{
		version.inode = (int64) stx.stx_ino;
		if (stx.stx_mask & STATX_BTIME)
			version.birth =
				time_t_to_timestamptz(stx.stx_btime.tv_sec) + stx.stx_btime.tv_nsec / 1000;
		return version;
	}
#endif
	if (stat("PG_VERSION", &st) != 0)
		ereport(ERROR, (errcode_for_file_access(),
		                errmsg("could not stat file \"PG_VERSION\" of the data directory: %m")));
	version.inode = (int64) st.st_ino;
	return version;
}

static void
own_facts(Datum values[IDENTITY_FACTS], char nulls[IDENTITY_FACTS])
{
	Version version = stat_version();

	values[0] = Int64GetDatum((int64) GetSystemIdentifier());
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	values[2] = Int64GetDatum(version.inode);
	values[3] = TimestampTzGetDatum(version.birth);
	memset(nulls, ' ', IDENTITY_FACTS);
	if (TIMESTAMP_IS_NOBEGIN(version.birth))
		nulls[3] = 'n';
}

/* Do the requests come by logical replication? pg_subscription_rel is readable by everyone. */
#define SUBSCRIBED                                       \
	"EXISTS (SELECT FROM pg_subscription_rel AS s WHERE" \
	" s.srrelid = 'kridtech.call_requests'::regclass)"

static void
execute(SPIPlanPtr *kept, const char *statement, int expected)
{
	Datum values[IDENTITY_FACTS];
	char nulls[IDENTITY_FACTS];
	SPIPlanPtr plan = kt_owner_plan(kept, statement, IDENTITY_FACTS, fact_types);

	own_facts(values, nulls);
	if (SPI_execute_plan(plan, values, nulls, false, 0) != expected)
		elog(ERROR, "unexpected result of a statement on kridtech.identity");
}

/*
 * Has row i, which is our own, another of our own beside it, of the same time, or older though i is adopted (which
 * leaves one row)? Then a dump of this very database was restored into it, without its extension being made anew: no
 * born_at tells its requests from those that came since. Beside a row of an extension that was made anew the dump's
 * rows do no harm.
 */
#define CAME_BACK                                                       \
	"EXISTS (SELECT FROM kridtech.identity AS o WHERE o.ctid <> i.ctid" \
	" AND o.system_identifier = $1 AND o.database_oid = $2"             \
	" AND o.directory_inode = $3 AND (o.adopted_at = i.adopted_at"      \
	" OR o.adopted_at < i.adopted_at AND i.born_at = '-infinity'))"

bool
kt_identity_is_own(char **why)
{
	static SPIPlanPtr kept = NULL;

	execute(&kept,
	        "SELECT CASE"
	        " WHEN i.system_identifier <> $1 THEN 'another cluster'"
	        " WHEN i.database_oid <> $2 THEN 'another database'"
	        " WHEN i.timeline = 0 OR " SUBSCRIBED " THEN 'its requests come by a subscription'"
	        " WHEN i.timeline <> " OWN_TIMELINE " THEN 'another timeline'"
	        " WHEN i.directory_inode <> $3 OR i.directory_birth <> $4 THEN 'another data directory'"
	        " WHEN " CAME_BACK " THEN 'its own dump was restored'"
	        " END AS difference FROM kridtech.identity AS i ORDER BY difference NULLS LAST LIMIT 1",
	        SPI_OK_SELECT);
	if (SPI_processed == 0)
		*why = pstrdup("no identity");
	else
		*why = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	return *why == NULL;
}

void
kt_identity_note_subscription(void)
{
	static SPIPlanPtr kept = NULL;

	execute(&kept,
	        "UPDATE kridtech.identity AS i SET timeline = 0 WHERE i.timeline <> 0 AND " SUBSCRIBED
	        " AND i.system_identifier = $1 AND i.database_oid = $2 AND i.directory_inode = $3",
	        SPI_OK_UPDATE);
}

int64
kt_identity_epoch(TimestampTz *born)
{
	static SPIPlanPtr kept = NULL;
	bool no_epoch;
	bool no_birth;
	Datum epoch;

	execute(&kept,
	        "SELECT max(i.epoch), max(i.born_at) FROM kridtech.identity AS i"
	        " WHERE i.system_identifier = $1 AND i.database_oid = $2 AND i.directory_inode = $3",
	        SPI_OK_SELECT);
	epoch = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &no_epoch);
	*born = DatumGetTimestampTz(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &no_birth));
	if (no_birth)
		TIMESTAMP_NOEND(*born);
	return no_epoch ? 0 : DatumGetInt64(epoch);
}

int64
kt_identity_next_epoch(void)
{
	static SPIPlanPtr kept = NULL;
	bool isnull;

	execute(&kept,
	        "UPDATE kridtech.identity AS i"
	        " SET epoch = (SELECT max(m.epoch) FROM kridtech.identity AS m) + 1"
	        " WHERE i.system_identifier = $1 AND i.database_oid = $2 AND i.directory_inode = $3"
	        " RETURNING i.epoch",
	        SPI_OK_UPDATE_RETURNING);
	if (SPI_processed < 1)
		elog(ERROR, "kridtech.identity has no row of this database");
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* An adopted subscriber would dial what the publisher dials. */
static void
refuse_subscriber(void)
{
	static SPIPlanPtr kept = NULL;
	SPIPlanPtr plan = kt_owner_plan(&kept, "SELECT WHERE " SUBSCRIBED, 0, NULL);

	if (SPI_execute_plan(plan, NULL, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for subscriptions");
	if (SPI_processed > 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		     errmsg("kridtech.call_requests is filled by a subscription"),
		     errhint("Drop the subscription first, once its publisher does not dial any more.")));
}

static bool
is_adopted(void)
{
	TimestampTz born;
	char *why;

	if (!kt_identity_is_own(&why))
		return false;
	(void) kt_identity_epoch(&born);
	return TIMESTAMP_IS_NOBEGIN(born);
}

static void
record_identity(const char *caller)
{
	static SPIPlanPtr kept = NULL;
	static SPIPlanPtr kept_delete = NULL;
	Oid types[] = {INT8OID, OIDOID, INT8OID, TIMESTAMPTZOID, TEXTOID, BOOLOID};
	Datum values[IDENTITY_FACTS + 2];
	char nulls[IDENTITY_FACTS + 2] = {' ', ' ', ' ', ' ', ' ', ' '};
	SPIPlanPtr plan;

	own_facts(values, nulls);
	values[IDENTITY_FACTS] = CStringGetTextDatum(caller);
	values[IDENTITY_FACTS + 1] = BoolGetDatum(creating_extension);
	plan = kt_owner_plan(&kept,
	                     "INSERT INTO kridtech.identity (system_identifier, timeline, database_oid,"
	                     " directory_inode, directory_birth, epoch, adopted_by, born_at)"
	                     " SELECT $1, " OWN_TIMELINE ", $2, $3, $4,"
	                     " coalesce((SELECT max(i.epoch) FROM kridtech.identity AS i), 0) + 1, $5,"
	                     " CASE WHEN $6 THEN now() ELSE '-infinity' END",
	                     lengthof(types), types);
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not record the identity");
	plan = kt_owner_plan(&kept_delete,
	                     "DELETE FROM kridtech.identity AS i WHERE i.epoch <>"
	                     " (SELECT max(m.epoch) FROM kridtech.identity AS m)",
	                     0, NULL);
	if (SPI_execute_plan(plan, NULL, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not record the identity");
}

/*
 * kridtech_adopt() returns void
 *
 * Makes this database's identity the only one recorded, and its own whatever is queued. The epoch goes on
 * from the highest one recorded, so that a result of an older dialer can never be taken for one of a newer.
 * Where nothing is foreign nothing changes, so that a dialer at work is not disturbed. Errors: 25006, and 55000
 * while a subscription fills the queue.
 *
 * CREATE EXTENSION calls it too, of whatever version: then the queue is born at that moment. A dump brings its
 * requests before or after its identity, and a dialer may run meanwhile; what is older than the queue is not
 * dialled.
 */
Datum
kridtech_adopt(PG_FUNCTION_ARGS)
{
	char *caller = GetUserNameFromId(GetUserId(), false);
	KtOwner owner;

	PreventCommandIfReadOnly("kridtech_adopt()");
	if (!creating_extension)
		kt_extension_check();
	kt_owner_begin(&owner);
	refuse_subscriber();
	if (!is_adopted())
		record_identity(caller);
	kt_owner_end(&owner);
	kt_wake_at_commit(false);
	PG_RETURN_VOID();
}
