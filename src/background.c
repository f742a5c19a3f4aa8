/*
 * Units of work that give way: what the dialer's process does beside its calls.
 *
 * While such a unit waits, no call is placed. So it waits for nothing: tables that are locked are left for
 * later, and so are rows (SKIP LOCKED in the statements); what is locked in between costs a tenth of a second.
 */
#include "postgres.h"

#include "background.h"

#include "catalog/namespace.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

/* In ms, as lock_timeout has it. */
#define LOCK_PATIENCE "100"

static void
set_for_unit(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
	                         false);
}

void
kt_background_prefer_indexes(void)
{
	set_for_unit("enable_seqscan", "off");
	set_for_unit("jit", "off");
}

void
kt_background_begin(KtOwner *owner)
{
	kt_owner_begin(owner);
	kt_background_prefer_indexes();
	set_for_unit("lock_timeout", LOCK_PATIENCE);
}

const char *
kt_background_locked(void)
{
	static const char *const tables[] = {"accounts", "call_attempts",  "call_requests", "calls",
	                                     "pauses",   "webhook_events", "webhook_inbox"};
	Oid namespace = get_namespace_oid("kridtech", false);
	int i;

	for (i = 0; i < (int) lengthof(tables); i++)
	{
		Oid table = get_relname_relid(tables[i], namespace);

		if (!OidIsValid(table) || !ConditionalLockRelationOid(table, RowExclusiveLock))
			return tables[i];
	}
	return NULL;
}
