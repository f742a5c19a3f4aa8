/*
 * Which databases are to have workers: those that kridtech.databases names, as far as pg_database has them.
 *
 * Read by the launcher, which is connected to no database; it decides what follows from it.
 */
#include "postgres.h"

#include "databases.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "nodes/pg_list.h"
#include "settings.h"
#include "utils/builtins.h"
#include "utils/rel.h"

/* Why a database can have no worker, or NULL. */
static const char *
judge_database(Form_pg_database form)
{
	if (form->datistemplate)
		return "is a template";
	if (!form->datallowconn)
		return "does not allow connections";
	if (form->datconnlimit < -1)
		return "was left behind by an interrupted DROP DATABASE";
	return NULL;
}

/*
 * Looks a database up; *oid is set where none of the faults is returned. By a heap scan: a process without
 * a database has no index of a shared catalog to go by while the relcache's init file is missing, as it is
 * at a cluster's first start.
 */
static const char *
find_database(const char *name, Oid *oid)
{
	Relation rel = table_open(DatabaseRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(rel, 0, NULL);
	const char *fault = "does not exist";
	HeapTuple tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (strcmp(NameStr(form->datname), name) != 0)
			continue;
		fault = judge_database(form);
		*oid = form->oid;
		break;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return fault;
}

void
kt_databases_say(char words[KT_MAX_STATUS], const char *name, const char *fault)
{
	size_t len = strlen(words);

	snprintf(words + len, KT_MAX_STATUS - len, "%sdatabase \"%s\" %s", len > 0 ? "; " : "", name,
	         fault);
}

/* A database that can have workers: which of the sockets are its own? */
static void
look_at_listeners(KtDatabases *found, const char *name)
{
	bool *receives = &found->receives[found->count];
	int i;

	for (i = 0; i < kt_listen_count(); i++)
		if (kt_listen_is_for(kt_listen_get(i), name))
			*receives = found->wanted[i] = true;
	if (*receives)
		found->receivers++;
}

void
kt_databases_look(void *argument)
{
	KtDatabases *found = argument;
	ListCell *cell;

	memset(found, 0, sizeof(*found));
	foreach (cell, kt_settings_databases())
	{
		const char *name = lfirst(cell);
		Oid database = InvalidOid;
		const char *fault = find_database(name, &database);

		found->named++;
		if (fault != NULL)
		{
			kt_databases_say(found->missing, name, fault);
			continue;
		}
		found->databases[found->count] = database;
		namestrcpy(&found->names[found->count], name);
		look_at_listeners(found, name);
		found->count++;
	}
}
