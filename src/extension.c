/*
 * The extension's own objects: is the SQL side of the same version, who owns the tables, and how to work
 * on them as that owner.
 */
#include "postgres.h"

#include "extension.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "compat.h"
#include "parser/parse_coerce.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/*
 * A transaction's rows can be seen a moment before the caches of other processes hear of it, and it wakes the dialer in
 * that moment. It holds its own lock until they have heard.
 */
static void
wait_for_caches(HeapTuple tuple)
{
	TransactionId author = HeapTupleHeaderGetXmin(tuple->t_data);

	if (!TransactionIdIsNormal(author) || TransactionIdIsCurrentTransactionId(author))
		return;
	XactLockTableWait(author, NULL, NULL, XLTW_None);
	AcceptInvalidationMessages();
}

/*
 * The extension in this database, or InvalidOid, and its version, palloc'd, or NULL. Both of one row: the server's own
 * look-up of the OID asks a cache from 18 on, which may not have heard of the row yet.
 */
static Oid
installed(char **version, bool wait)
{
	Relation rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	Oid oid = InvalidOid;

	*version = NULL;
	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
	            CStringGetDatum("kridtech"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;
		Datum datum =
			heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(rel), &isnull);

		oid = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
		if (!isnull)
			*version = TextDatumGetCString(datum);
		if (wait)
			wait_for_caches(tuple);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return oid;
}

char *
kt_extension_problem(Oid *oid)
{
	char *version;

	*oid = installed(&version, true);
	if (version == NULL)
		return pstrdup("extension kridtech is not installed in this database");
	if (strcmp(version, KRIDTECH_VERSION) != 0)
		return psprintf("the library is version %s, the extension's objects are version %s",
		                KRIDTECH_VERSION, version);
	return NULL;
}

void
kt_extension_check(void)
{
	char *version;

	(void) installed(&version, false);
	if (version == NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		                errmsg("extension \"kridtech\" is not installed in this database"),
		                errhint("Run CREATE EXTENSION kridtech.")));
	if (strcmp(version, KRIDTECH_VERSION) != 0)
		ereport(ERROR,
		        (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		         errmsg("the kridtech library is version %s, but the extension's objects in this "
		                "database are version %s",
		                KRIDTECH_VERSION, version),
		         errhint("Run ALTER EXTENSION kridtech UPDATE; if the library is the older one, "
		                 "restart the server (preloaded) or reconnect.")));
	pfree(version);
}

static Oid
table_oid(const char *name)
{
	Oid namespace = get_namespace_oid("kridtech", true);
	Oid table = OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;

	if (!OidIsValid(table))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
		                errmsg("relation \"kridtech.%s\" does not exist", name),
		                errhint("Run DROP EXTENSION kridtech and CREATE EXTENSION kridtech.")));
	return table;
}

Relation
kt_extension_table(const char *name)
{
	return table_open(table_oid(name), AccessShareLock);
}

AttrNumber
kt_extension_column(Relation table, const char *name, Oid type)
{
	AttrNumber column = get_attnum(RelationGetRelid(table), name);

	if (column <= 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
		                errmsg("column \"%s\" of kridtech.%s does not exist", name,
		                       RelationGetRelationName(table))));
	if (!IsBinaryCoercible(get_atttype(RelationGetRelid(table), column), type))
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
		                errmsg("column \"%s\" of kridtech.%s must be of type %s", name,
		                       RelationGetRelationName(table), format_type_be(type))));
	return column;
}

bool
kt_extension_is_table(Relation table, const char *name)
{
	Oid namespace = get_namespace_oid("kridtech", true);

	return OidIsValid(namespace) && RelationGetNamespace(table) == namespace &&
	       strcmp(RelationGetRelationName(table), name) == 0;
}

bool
kt_extension_lock_at_once(const char *name, LOCKMODE mode)
{
	Oid namespace = get_namespace_oid("kridtech", true);
	Oid table = OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;

	return OidIsValid(table) && ConditionalLockRelationOid(table, mode);
}

static Oid
owner_of_tables(void)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table_oid("call_requests")));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation kridtech.call_requests");
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
hide_row(void *argument)
{
	if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
		errdetail("What rows hold is not shown: it may be a phone number or a transcript.");
}

void
kt_hide_rows(ErrorContextCallback *hiding)
{
	*hiding = (ErrorContextCallback){error_context_stack, hide_row, NULL};
	error_context_stack = hiding;
}

Oid kt_owner_used = InvalidOid;

void
kt_owner_begin(KtOwner *owner)
{
	Oid tables_owner = owner_of_tables();

	kt_owner_used = tables_owner;
	GetUserIdAndSecContext(&owner->user, &owner->security);
	SetUserIdAndSecContext(tables_owner, owner->security | SECURITY_LOCAL_USERID_CHANGE);
	owner->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
	                         GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	kt_hide_rows(&owner->hiding);
}

void
kt_owner_end(KtOwner *owner)
{
	error_context_stack = owner->hiding.previous;
	SPI_finish();
	AtEOXact_GUC(false, owner->guc_level);
	SetUserIdAndSecContext(owner->user, owner->security);
}

SPIPlanPtr
kt_owner_plan(SPIPlanPtr *kept, const char *statement, int nargs, Oid *types)
{
	SPIPlanPtr plan = *kept;

	if (plan != NULL)
		return plan;
	plan = SPI_prepare(statement, nargs, types);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare a statement: %s", SPI_result_code_string(SPI_result));
	*kept = plan;
	return plan;
}
