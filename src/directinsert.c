/*
 * New rows of kridtech.call_requests by a short way below the executor, singly or many at a time.
 *
 * An INSERT of one row spends most of its time on its own beginning and end: opening all indexes,
 * reading the CHECK constraints from their text and compiling them, of which a trigger on a bulk load
 * would see nothing but repetition. The short way keeps all that for as long as the table stays the same
 * (a relcache callback tells) and per row checks the constraints, inserts into the heap, and inserts into
 * those indexes whose predicate the row fulfils. What a statement's triggers queue is gathered and goes
 * into the heap many rows at a time, as COPY does it.
 *
 * Why that is the same as an INSERT: it is taken only when nothing hangs on the table that an INSERT
 * would run (no trigger but our own, no rule, no row security that holds for the owner, no unknown column
 * with a default, no deferred or exclusion constraint), and a row that a CHECK or NOT NULL would refuse
 * is left to the INSERT, which refuses it in PostgreSQL's words. Locks, WAL, SSI and unique checks are
 * those of the heap's and the index's own functions. A row carries the command id of the moment it was
 * queued at, so later commands of the transaction see it, and a scan that is under way does not.
 *
 * Why rows may be held back: only those of a trigger that its statement is firing at its end, and only
 * until that end, in ExecutorFinish(), which is not left but by an error that takes the statement with
 * it. Triggers that fire elsewhere (COPY, deferred ones, replication) insert at once. A subtransaction
 * cannot come between: those begun in there are over before the next trigger fires.
 *
 * Why no one's code runs in it with the wrong rights or search_path: no name is resolved per row, and a
 * table with a function in a constraint or an index that is not built in goes the ordinary way, as the
 * table's owner with a pinned search_path. For the same reason nothing in here can call back.
 */
#include "postgres.h"

#include "directinsert.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/relation.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "compat.h"
#include "executor/executor.h"
#include "extension.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

const KtColumnType kt_columns[KT_NCOLUMNS] = {
	[KT_COL_ID] = {"id", INT8OID},
	[KT_COL_ACCOUNT_ID] = {"account_id", TEXTOID},
	[KT_COL_TO_NUMBER] = {"to_number", TEXTOID},
	[KT_COL_DYNAMIC_VARIABLES] = {"dynamic_variables", JSONBOID},
	[KT_COL_REFERENCE] = {"reference", TEXTOID},
	[KT_COL_UNIQUE_KEY] = {"unique_key", TEXTOID},
	[KT_COL_PRIORITY] = {"priority", INT4OID},
	[KT_COL_NOT_BEFORE] = {"not_before", TIMESTAMPTZOID},
	[KT_COL_NOT_AFTER] = {"not_after", TIMESTAMPTZOID},
	[KT_COL_STATE] = {"state", TEXTOID},
	[KT_COL_ATTEMPTS] = {"attempts", INT4OID},
	[KT_COL_NEXT_ATTEMPT_AT] = {"next_attempt_at", TIMESTAMPTZOID},
	[KT_COL_CREATED_BY] = {"created_by", NAMEOID},
	[KT_COL_CREATED_AT] = {"created_at", TIMESTAMPTZOID},
};

/* ---- what is kept ------------------------------------------------------------------- */

typedef struct KeptIndex
{
	Oid index;
	IndexInfo *info;
	ExprState *predicate; /* NULL: every row */
} KeptIndex;

typedef struct Kept
{
	MemoryContext context; /* holds all of it, this struct too */
	Oid table;
	bool ordinary; /* the table has something that only an INSERT does right */
	Oid sequence;
	Datum queued;
	AttrNumber attnum[KT_NCOLUMNS];
	EState *estate;
	TupleTableSlot *slot; /* virtual, with a copy of the table's descriptor */
	int nchecks;
	ExprState **checks;
	int nindexes;
	KeptIndex *indexes;
} Kept;

static Kept *kept = NULL;
static bool kept_is_valid = false;
static uint64 generation = 0; /* counts the Kepts */

/* Anything about the table or one of its indexes: look at it all again. */
static void
on_relcache_event(Datum arg, Oid relation)
{
	int i;

	if (kept == NULL || !OidIsValid(relation) || relation == kept->table)
		kept_is_valid = false;
	else
		for (i = 0; i < kept->nindexes; i++)
			if (relation == kept->indexes[i].index)
				kept_is_valid = false;
}

static bool
is_foreign_function(Oid function, void *context)
{
	return function >= FirstNormalObjectId;
}

/* Whether an expression runs a function that PostgreSQL was not born with. */
static bool
runs_foreign_code(Node *node, void *context)
{
	if (node == NULL)
		return false;
	/* a domain's constraints are not in the tree */
	if (IsA(node, CoerceToDomain) || check_functions_in_node(node, is_foreign_function, NULL))
		return true;
	return expression_tree_walker(node, runs_foreign_code, context);
}

/* Our own trigger there does what kt_newrequest does anyway, and lets the owner pass. */
static bool
has_foreign_trigger(Relation table)
{
	int i;

	for (i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
	{
		Trigger *trigger = &table->trigdesc->triggers[i];

		if ((TRIGGER_FOR_INSERT(trigger->tgtype)) &&
		    strcmp(trigger->tgname, "call_requests_check") != 0)
			return true;
	}
	return false;
}

static bool
keep_columns(Kept *k, TupleDesc desc)
{
	int found = 0;
	int i;
	int c;

	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (attribute->attisdropped)
			continue;
		for (c = 0; c < KT_NCOLUMNS; c++)
			if (strcmp(NameStr(attribute->attname), kt_columns[c].name) == 0)
				break;
		if (attribute->attgenerated != '\0' || attribute->attidentity != '\0')
			return false;
		if (c == KT_NCOLUMNS && attribute->atthasdef)
			return false;
		if (c == KT_NCOLUMNS)
			continue;
		if (attribute->atttypid != kt_columns[c].type)
			return false;
		k->attnum[c] = attribute->attnum;
		found++;
	}
	return found == KT_NCOLUMNS;
}

static bool
keep_checks(Kept *k, TupleConstr *constraints)
{
	int i;

	k->nchecks = constraints == NULL ? 0 : constraints->num_check;
	k->checks = palloc0(Max(k->nchecks, 1) * sizeof(ExprState *));
	for (i = 0; i < k->nchecks; i++)
	{
		Expr *check = stringToNode(constraints->check[i].ccbin);

		if (runs_foreign_code((Node *) check, NULL))
			return false;
		k->checks[i] = ExecPrepareExpr(check, k->estate);
	}
	return true;
}

static bool
keep_index(Kept *k, Oid oid)
{
	Relation index = index_open(oid, RowExclusiveLock);
	KeptIndex *entry = &k->indexes[k->nindexes++];
	IndexInfo *info = BuildIndexInfo(index);
	bool plain = index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indimmediate &&
	             info->ii_ExclusionOps == NULL &&
	             !runs_foreign_code((Node *) info->ii_Expressions, NULL) &&
	             !runs_foreign_code((Node *) info->ii_Predicate, NULL);

	entry->index = oid;
	entry->info = info;
	entry->predicate = NULL;
	if (plain && info->ii_Predicate != NIL)
		entry->predicate = ExecPrepareQual(info->ii_Predicate, k->estate);
	index_close(index, NoLock);
	return plain;
}

static bool
keep_indexes(Kept *k, Relation table)
{
	List *oids = RelationGetIndexList(table);
	ListCell *cell;
	bool plain = true;

	k->indexes = palloc0(Max(list_length(oids), 1) * sizeof(KeptIndex));
	foreach (cell, oids)
		plain = keep_index(k, lfirst_oid(cell)) && plain;
	list_free(oids);
	return plain;
}

/* False: only an INSERT does it right. */
static bool
keep_table(Kept *k, Relation table)
{
	TupleDesc desc = CreateTupleDescCopyConstr(RelationGetDescr(table));

	if (table->rd_rel->relkind != RELKIND_RELATION || table->rd_rel->relam != HEAP_TABLE_AM_OID ||
	    table->rd_rules != NULL || table->rd_rel->relforcerowsecurity || has_foreign_trigger(table))
		return false;
	k->sequence = get_relname_relid("call_requests_id_seq", RelationGetNamespace(table));
	if (!OidIsValid(k->sequence))
		return false;
	k->estate = CreateExecutorState();
	k->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	k->queued = CStringGetTextDatum("queued");
	return keep_columns(k, desc) && keep_checks(k, desc->constr) && keep_indexes(k, table);
}

/*
 * The kept state of the table, made anew if the table is not what it was. It hangs below a short-lived
 * context until it is whole, so that an error on the way leaves nothing.
 */
static void
keep(Relation table)
{
	static bool registered = false;
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "kridtech call_requests", ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	Kept *k = palloc0(sizeof(Kept));

	if (!registered)
		CacheRegisterRelcacheCallback(on_relcache_event, (Datum) 0);
	registered = true;
	if (kept != NULL)
		MemoryContextDelete(kept->context);
	kept = NULL;
	/* From here on events count: with kept NULL any of them makes the next row look again. */
	kept_is_valid = true;
	k->context = context;
	k->table = RelationGetRelid(table);
	k->ordinary = !keep_table(k, table);
	MemoryContextSwitchTo(caller);
	MemoryContextSetParent(context, CacheMemoryContext);
	kept = k;
	generation++;
}

/*
 * The table, locked as an INSERT locks it, and kept brought up to date. The lock comes first: it makes
 * this backend hear of every change that was committed before, and keeps others from making one.
 */
static Relation
open_table(void)
{
	Relation table = NULL;

	if (kept != NULL && kept_is_valid)
		table = try_relation_open(kept->table, RowExclusiveLock);
	if (table == NULL)
	{
		Relation looked_up = kt_extension_table("call_requests");

		table = table_open(RelationGetRelid(looked_up), RowExclusiveLock);
		table_close(looked_up, NoLock);
	}
	if (kept == NULL || !kept_is_valid || kept->table != RelationGetRelid(table))
		keep(table);
	return table;
}

/* ---- rows ------------------------------------------------------------------------------------------ */

static void
fill_slot(TupleTableSlot *slot, const KtRow *row)
{
	int c;

	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (c = 0; c < KT_NCOLUMNS; c++)
	{
		slot->tts_values[kept->attnum[c] - 1] = row->values[c];
		slot->tts_isnull[kept->attnum[c] - 1] = row->nulls[c];
	}
	ExecStoreVirtualTuple(slot);
}

static ExprContext *
context_for(TupleTableSlot *slot)
{
	ExprContext *context = GetPerTupleExprContext(kept->estate);

	context->ecxt_scantuple = slot;
	return context;
}

static bool
constraints_hold(TupleTableSlot *slot)
{
	TupleDesc desc = slot->tts_tupleDescriptor;
	ExprContext *context = context_for(slot);
	int i;

	ResetPerTupleExprContext(kept->estate);
	for (i = 0; i < desc->natts; i++)
		if (slot->tts_isnull[i] && TupleDescAttr(desc, i)->attnotnull)
			return false;
	for (i = 0; i < kept->nchecks; i++)
		if (!ExecCheck(kept->checks[i], context))
			return false;
	return true;
}

/* An index at a time: it is opened once, and its last pages stay in the processor's cache. */
static void
insert_into_index(Relation table, const KeptIndex *entry, TupleTableSlot **slots, int n)
{
	Datum values[INDEX_MAX_KEYS];
	bool nulls[INDEX_MAX_KEYS];
	Relation index = NULL;
	int i;

	for (i = 0; i < n; i++)
	{
		ExprContext *context = context_for(slots[i]);

		if (entry->predicate != NULL && !ExecQual(entry->predicate, context))
			continue;
		if (index == NULL)
			index = index_open(entry->index, RowExclusiveLock);
		FormIndexDatum(entry->info, slots[i], kept->estate, values, nulls);
		kt_index_insert(index, values, nulls, &slots[i]->tts_tid, table, entry->info);
	}
	if (index != NULL)
		index_close(index, NoLock);
}

/* Rows that passed constraints_hold(). */
static void
insert_slots(Relation table, TupleTableSlot **slots, int n, CommandId command)
{
	MemoryContext caller;
	int i;

	ResetPerTupleExprContext(kept->estate);
	caller = MemoryContextSwitchTo(GetPerTupleMemoryContext(kept->estate));
	table_multi_insert(table, slots, n, command, 0, NULL);
	for (i = 0; i < kept->nindexes; i++)
		if (kept->indexes[i].info->ii_ReadyForInserts)
			insert_into_index(table, &kept->indexes[i], slots, n);
	MemoryContextSwitchTo(caller);
}

/* ---- batches --------------------------------------------------------------------------------------- */

/* Enough that opening tables and indexes vanishes; 256 rows are some five pages. */
#define BATCH_ROWS 256

/* Variables may be long: what is held back is bounded in bytes too. */
#define BATCH_BYTES (1024 * 1024)

/* A statement that is in its ExecutorFinish(), and what its triggers have queued. */
typedef struct Statement
{
	struct Statement *outer;
	MemoryContext query;  /* the statement's, holds the slots */
	MemoryContext values; /* a child of it; NULL before the first row */
	CommandId command;    /* of all rows held back */
	uint64 generation;    /* the Kept they passed */
	int n;
	int nslots;
	TupleTableSlot **slots;
} Statement;

static Statement *statement = NULL; /* the innermost */
static ExecutorFinish_hook_type previous_finish = NULL;

/*
 * The lock keeps others from changing the table while rows are held back; this session can, in some
 * function that its statement runs. What it changed may refuse or alter the rows.
 */
static void
refuse_change(Statement *s)
{
	if (s->generation != generation &&
	    (kept->ordinary ||
	     !equalTupleDescs(kept->slot->tts_tupleDescriptor, s->slots[0]->tts_tupleDescriptor)))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
		                errmsg("kridtech.call_requests was altered by the statement that queues "
		                       "calls")));
}

static void
flush(Statement *s)
{
	Relation table;
	int i;

	if (s->n == 0)
		return;
	table = open_table();
	refuse_change(s);
	insert_slots(table, s->slots, s->n, s->command);
	table_close(table, NoLock);
	for (i = 0; i < s->n; i++)
		ExecClearTuple(s->slots[i]);
	s->n = 0;
	MemoryContextReset(s->values);
}

static void
begin_batch(Statement *s)
{
	s->values = AllocSetContextCreate(s->query, "kridtech rows", ALLOCSET_DEFAULT_SIZES);
	s->slots = MemoryContextAlloc(s->query, BATCH_ROWS * sizeof(TupleTableSlot *));
}

/* The slots outlive a change of kept, so they have a descriptor of their own. */
static TupleTableSlot *
next_slot(Statement *s)
{
	MemoryContext caller;

	if (s->n < s->nslots)
		return s->slots[s->n];
	caller = MemoryContextSwitchTo(s->query);
	s->slots[s->n] = MakeSingleTupleTableSlot(
		s->n == 0 ? CreateTupleDescCopyConstr(kept->slot->tts_tupleDescriptor)
				  : s->slots[0]->tts_tupleDescriptor,
		&TTSOpsVirtual);
	MemoryContextSwitchTo(caller);
	s->nslots++;
	return s->slots[s->n];
}

static void
copy_values(TupleTableSlot *slot)
{
	TupleDesc desc = slot->tts_tupleDescriptor;
	int i;

	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (!slot->tts_isnull[i] && !attribute->attbyval)
			slot->tts_values[i] = datumCopy(slot->tts_values[i], false, attribute->attlen);
	}
}

/* Holds a row back, that constraints_hold() has passed. */
static void
hold(Statement *s, const KtRow *row)
{
	CommandId command = GetCurrentCommandId(true);
	MemoryContext caller;
	TupleTableSlot *slot;

	if (s->values == NULL)
		begin_batch(s);
	if (s->n == BATCH_ROWS || s->command != command ||
	    MemoryContextMemAllocated(s->values, false) > BATCH_BYTES)
		flush(s);
	s->command = command;
	s->generation = generation;
	slot = next_slot(s);
	fill_slot(slot, row);
	caller = MemoryContextSwitchTo(s->values);
	copy_values(slot);
	MemoryContextSwitchTo(caller);
	s->n++;
}

/* The triggers fire in there; what they held back is inserted before the statement is over. */
static void
finish_statement(QueryDesc *query)
{
	Statement mine = {.outer = statement, .query = query->estate->es_query_cxt};

	statement = &mine;
	PG_TRY();
	{
		if (previous_finish != NULL)
			previous_finish(query);
		else
			standard_ExecutorFinish(query);
		flush(&mine);
	}
	PG_FINALLY();
	{
		statement = mine.outer;
	}
	PG_END_TRY();
}

void
kt_directinsert_install(void)
{
	previous_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = finish_statement;
}

/* ---- one row --------------------------------------------------------------------------------------- */

bool
kt_directinsert(KtRow *row, MemoryContext query, int64 *id)
{
	bool may_hold = query != NULL && statement != NULL && statement->query == query;
	Relation table = NULL;
	bool accepted = false;

	/* With rows held back the table is locked already. */
	if (!may_hold || statement->n == 0 || !kept_is_valid)
		table = open_table();
	if (!kept->ordinary)
	{
		*id = nextval_internal(kept->sequence, false);
		kt_row_put(row, KT_COL_ID, Int64GetDatum(*id), false);
		kt_row_put(row, KT_COL_STATE, kept->queued, false);
		ExecClearTuple(kept->slot);
		fill_slot(kept->slot, row);
		accepted = constraints_hold(kept->slot);
	}
	if (accepted && may_hold)
		hold(statement, row);
	else if (accepted)
		insert_slots(table, &kept->slot, 1, GetCurrentCommandId(true));
	if (table != NULL)
		table_close(table, NoLock);
	return accepted;
}
