/*
 * New rows of kridtech.call_requests by a short way below the executor, singly or many at a time.
 *
 * An INSERT of one row spends most of its time on its own beginning and end, of which a trigger on a bulk
 * load would see nothing but repetition. The short way keeps what there is to know of the table
 * (requesttable.c), checks per row the constraints that may differ from row to row, inserts into the heap,
 * and inserts into those indexes whose predicate the row fulfils. What a statement's triggers queue is
 * gathered and goes into the heap many rows at a time, as COPY does it.
 *
 * Why that is the same as an INSERT: it is taken only when nothing hangs on the table that an INSERT
 * would run (no trigger but our own, no rule, no row security that holds for the owner, no partition's
 * bound, no unknown column with a default or of a domain, no deferred or exclusion constraint), and a row
 * that a CHECK or NOT NULL would refuse is left to the INSERT, which refuses it in PostgreSQL's words.
 * Locks, WAL, SSI and unique checks are those of the heap's and the index's own functions. A row carries
 * the command id of the moment it was queued at, so later commands of the transaction see it, and a scan
 * that is under way does not.
 *
 * Why rows may be held back: only those of a trigger that its statement is firing at its end, and only
 * until that end, in ExecutorFinish(), which is not left but by an error that takes the statement with
 * it. Triggers that fire elsewhere (COPY, deferred ones, replication) insert at once, as do those of a
 * statement that changes several tables (WITH), whose triggers could look for the rows. A subtransaction
 * cannot come between: those begun in there are over before the next trigger fires.
 */
#include "postgres.h"

#include "directinsert.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "commands/sequence.h"
#include "compat.h"
#include "executor/executor.h"
#include "extension.h"
#include "parser/parsetree.h"
#include "utils/rel.h"

/* ---- rows ------------------------------------------------------------------------------------------ */

/* An index at a time: it is opened once, and its last pages stay in the processor's cache. */
static void
insert_into_index(Relation table, const KtTableIndex *entry, TupleTableSlot **slots, int n)
{
	Datum values[INDEX_MAX_KEYS];
	bool nulls[INDEX_MAX_KEYS];
	Relation index = NULL;
	int i;

	for (i = 0; i < n; i++)
	{
		ExprContext *context = kt_requesttable_context(slots[i]);
		bool is_asked = entry->predicate != NULL && (i == 0 || entry->of_content);

		if (is_asked && !ExecQual(entry->predicate, context))
		{
			if (!entry->of_content)
				break;
			continue;
		}
		if (index == NULL)
			index = index_open(entry->index, RowExclusiveLock);
		FormIndexDatum(entry->info, slots[i], kt_requesttable->estate, values, nulls);
		kt_index_insert(index, values, nulls, &slots[i]->tts_tid, table, entry->info);
	}
	if (index != NULL)
		index_close(index, NoLock);
}

/* Rows of one kind, that were accepted. */
static void
insert_slots(Relation table, TupleTableSlot **slots, int n, CommandId command)
{
	const KtRequestTable *t = kt_requesttable;
	ErrorContextCallback hiding;
	MemoryContext caller;
	int i;

	kt_hide_rows(&hiding);
	ResetPerTupleExprContext(t->estate);
	caller = MemoryContextSwitchTo(GetPerTupleMemoryContext(t->estate));
	table_multi_insert(table, slots, n, command, 0, NULL);
	for (i = 0; i < t->nindexes; i++)
		if (t->indexes[i].info->ii_ReadyForInserts)
			insert_into_index(table, &t->indexes[i], slots, n);
	MemoryContextSwitchTo(caller);
	error_context_stack = hiding.previous;
}

/* ---- batches --------------------------------------------------------------------------------------- */

/* Enough that opening tables and indexes vanishes; 256 rows are some seven pages. */
#define BATCH_ROWS 256

/* Variables may be long: what is held back is bounded in bytes too. */
#define BATCH_BYTES (1024 * 1024)

/* A statement that is in its ExecutorFinish(), and what its triggers have queued. */
typedef struct Statement
{
	struct Statement *outer;
	const PlannedStmt *planned;
	MemoryContext query; /* the statement's, holds the slots; NULL: no row is held back */
	MemoryContext rows;  /* a child of it; NULL before the first row */
	CommandId command;   /* of all rows held back */
	uint64 generation;   /* the KtRequestTable they passed */
	uint64 kind;         /* of all rows held back */
	int n;
	Size bytes;
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
	const KtRequestTable *t = kt_requesttable;

	if (s->generation != t->generation &&
	    (t->ordinary ||
	     !equalTupleDescs(t->slot->tts_tupleDescriptor, s->slots[0]->tts_tupleDescriptor)))
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
	table = kt_requesttable_open();
	refuse_change(s);
	insert_slots(table, s->slots, s->n, s->command);
	table_close(table, NoLock);
	for (i = 0; i < s->n; i++)
		ExecClearTuple(s->slots[i]);
	s->n = 0;
	s->bytes = 0;
	/* What a batch has taken is kept for the next one, unless it was a large one. */
	if (MemoryContextMemAllocated(s->rows, false) > BATCH_BYTES)
		MemoryContextReset(s->rows);
}

static void
begin_batches(Statement *s)
{
	s->rows = AllocSetContextCreate(s->query, "kridtech rows", ALLOCSET_DEFAULT_SIZES);
	s->slots = MemoryContextAlloc(s->query, BATCH_ROWS * sizeof(TupleTableSlot *));
}

/* The slots outlive a change of kt_requesttable, so they have a descriptor of their own. */
static TupleTableSlot *
next_slot(Statement *s)
{
	MemoryContext caller;

	if (s->n < s->nslots)
		return s->slots[s->n];
	caller = MemoryContextSwitchTo(s->query);
	s->slots[s->n] = MakeSingleTupleTableSlot(
		s->n == 0 ? CreateTupleDescCopyConstr(kt_requesttable->slot->tts_tupleDescriptor)
				  : s->slots[0]->tts_tupleDescriptor,
		&TTSOpsHeapTuple);
	MemoryContextSwitchTo(caller);
	s->nslots++;
	return s->slots[s->n];
}

/* Whether a row queued now may join those held back. */
static bool
has_room(const Statement *s)
{
	return s->n < BATCH_ROWS && s->bytes < BATCH_BYTES && s->command == GetCurrentCommandId(true);
}

/* Holds the row accepted last back. */
static void
hold(Statement *s)
{
	const KtRequestTable *t = kt_requesttable;
	MemoryContext caller;
	TupleTableSlot *slot;
	HeapTuple tuple;

	if (s->rows == NULL)
		begin_batches(s);
	s->command = GetCurrentCommandId(true);
	s->generation = t->generation;
	s->kind = t->kind;
	slot = next_slot(s);
	caller = MemoryContextSwitchTo(s->rows);
	tuple = heap_form_tuple(slot->tts_tupleDescriptor, t->slot->tts_values, t->slot->tts_isnull);
	ExecStoreHeapTuple(tuple, slot, true);
	MemoryContextSwitchTo(caller);
	s->bytes += HEAPTUPLESIZE + tuple->t_len;
	s->n++;
}

/* The triggers fire in there; what they held back is inserted before the statement is over. */
static void
finish_statement(QueryDesc *query)
{
	bool several = query->plannedstmt->hasModifyingCTE;
	Statement mine = {.outer = statement,
	                  .planned = query->plannedstmt,
	                  .query = several ? NULL : query->estate->es_query_cxt};

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

bool
kt_directinsert_is_for(Oid table)
{
	const List *targets = statement != NULL ? statement->planned->resultRelations : NIL;

	return list_length(targets) == 1 &&
	       rt_fetch(linitial_int(targets), statement->planned->rtable)->relid == table;
}

/* By any command but a plain INSERT. (MERGE has a name from 15 on only.) */
bool
kt_directinsert_changes_rows(void)
{
	const PlannedStmt *planned = statement != NULL ? statement->planned : NULL;

	if (planned == NULL)
		return false;
	return planned->commandType != CMD_INSERT || !IsA(planned->planTree, ModifyTable) ||
	       ((const ModifyTable *) planned->planTree)->onConflictAction == ONCONFLICT_UPDATE;
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
	Statement *s =
		query != NULL && statement != NULL && statement->query == query ? statement : NULL;
	Relation table = NULL;
	bool accepted = false;

	if (s != NULL && !has_room(s))
		flush(s);
	/* With rows held back the table is locked already. */
	if (s == NULL || s->n == 0 || !kt_requesttable_is_valid())
		table = kt_requesttable_open();
	if (!kt_requesttable->ordinary)
	{
		*id = nextval_internal(kt_requesttable->sequence, false);
		kt_row_put(row, KT_COL_ID, Int64GetDatum(*id), false);
		accepted = kt_requesttable_accepts(row);
	}
	if (accepted && s != NULL && s->n > 0 && s->kind != kt_requesttable->kind)
	{
		/* Here the table may be looked at anew. */
		flush(s);
		accepted = !kt_requesttable->ordinary && kt_requesttable_accepts(row);
	}
	if (accepted && s != NULL)
		hold(s);
	else if (accepted)
		insert_slots(table, &kt_requesttable->slot, 1, GetCurrentCommandId(true));
	if (table != NULL)
		table_close(table, NoLock);
	return accepted;
}
