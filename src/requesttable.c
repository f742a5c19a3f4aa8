/*
 * What the short way into kridtech.call_requests knows of that table, for as long as it stays the same.
 *
 * Reading the CHECK constraints from their text, compiling them and looking the indexes up is most of
 * what an INSERT of one row costs. Here it is done once; a relcache callback tells when it has to be done
 * again.
 *
 * Of a bulk load's rows most columns are the same, all but the content. Constraints and predicates that
 * read none of it, and whose functions always give the same result for the same input, are therefore
 * evaluated for the first row of a kind. And two of the table's own constraints on the content are left
 * out: they say what the makers of KtNewRequest have made sure of. They are known by their words, so an
 * altered one, and any other that was added, is evaluated for every row.
 *
 * Why no one's code runs in it with the wrong rights or search_path: a table with a function or operator
 * in a constraint or an index that is not built in, or that is not immutable, is left to the ordinary way.
 * For the same reason nothing in here can call back: what runs statements is not immutable.
 */
#include "postgres.h"

#include "requesttable.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/executor.h"
#include "extension.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

const KtColumnType kt_columns[KT_NCOLUMNS] = {
	[KT_COL_ID] = {"id", INT8OID},
	[KT_COL_TO_NUMBER] = {"to_number", TEXTOID},
	[KT_COL_DYNAMIC_VARIABLES] = {"dynamic_variables", JSONBOID},
	[KT_COL_REFERENCE] = {"reference", TEXTOID},
	[KT_COL_ACCOUNT_ID] = {"account_id", TEXTOID},
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

/*
 * The constraints of sql/kridtech.sql that hold for every KtNewRequest, as PostgreSQL prints them
 * (test/pgtap/objects.sql compares).
 */
static const char *const implied_checks[] = {
	"(((octet_length(to_number) >= 8) AND (octet_length(to_number) <= 16)) AND (to_number ~ "
	"'^\\+[1-9][0-9]*$'::text))",
	"(jsonb_typeof(dynamic_variables) = 'object'::text)",
};

KtRequestTable *kt_requesttable = NULL;

static bool is_valid = false;
static uint64 generations = 0;
static uint64 kinds = 0;

bool
kt_requesttable_is_valid(void)
{
	return kt_requesttable != NULL && is_valid;
}

/* Anything about the table or one of its indexes: look at it all again. */
static void
on_relcache_event(Datum arg, Oid relation)
{
	KtRequestTable *t = kt_requesttable;
	int i;

	if (t == NULL || !OidIsValid(relation) || relation == t->table)
		is_valid = false;
	else
		for (i = 0; i < t->nindexes; i++)
			if (relation == t->indexes[i].index)
				is_valid = false;
}

/* ---- constraints and indexes ----------------------------------------------------------------------- */

static bool
is_foreign_function(Oid function, void *context)
{
	return function >= FirstNormalObjectId;
}

static bool
is_foreign_operator(Node *node)
{
	return IsA(node, OpExpr) && castNode(OpExpr, node)->opno >= FirstNormalObjectId;
}

/* Whether an expression has a function or operator that PostgreSQL was not born with. */
static bool
runs_foreign_code(Node *node, void *context)
{
	if (node == NULL)
		return false;
	/* a domain's constraints are not in the tree */
	if (IsA(node, CoerceToDomain) || is_foreign_operator(node) ||
	    check_functions_in_node(node, is_foreign_function, NULL))
		return true;
	return expression_tree_walker(node, runs_foreign_code, context);
}

/* Whether an expression may have another value for another row of the same kind. */
static bool
is_of_content(const KtRequestTable *t, Node *expression)
{
	Bitmapset *read = NULL;
	bool result = false;
	int c;

	pull_varattnos(expression, 1, &read);
	/* the whole row, or a system column */
	for (c = FirstLowInvalidHeapAttributeNumber + 1; c <= 0; c++)
		if (bms_is_member(c - FirstLowInvalidHeapAttributeNumber, read))
			result = true;
	for (c = 0; c < KT_NCONTENT; c++)
		if (bms_is_member(t->attnum[c] - FirstLowInvalidHeapAttributeNumber, read))
			result = true;
	bms_free(read);
	return result;
}

static bool
is_implied(Relation table, Node *check)
{
	List *context = deparse_context_for(RelationGetRelationName(table), RelationGetRelid(table));
	char *words = deparse_expression(check, context, false, false);
	int i;

	for (i = 0; i < (int) lengthof(implied_checks); i++)
		if (strcmp(words, implied_checks[i]) == 0)
			return true;
	return false;
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
keep_columns(KtRequestTable *t, TupleDesc desc)
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
		/* a domain may have a default and constraints of its own */
		if (c == KT_NCOLUMNS &&
		    (attribute->atthasdef || get_typtype(attribute->atttypid) == TYPTYPE_DOMAIN))
			return false;
		if (c == KT_NCOLUMNS)
			continue;
		if (attribute->atttypid != kt_columns[c].type || attribute->atttypmod != -1)
			return false;
		t->attnum[c] = attribute->attnum;
		found++;
	}
	return found == KT_NCOLUMNS;
}

static bool
keep_checks(KtRequestTable *t, Relation table, TupleConstr *constraints)
{
	int n = constraints == NULL ? 0 : constraints->num_check;
	int i;

	t->checks = palloc0(Max(n, 1) * sizeof(KtTableCheck));
	for (i = 0; i < n; i++)
	{
		Node *check = stringToNode(constraints->check[i].ccbin);

		if (runs_foreign_code(check, NULL) || contain_mutable_functions(check))
			return false;
		if (is_implied(table, check))
			continue;
		t->checks[t->nchecks].of_content = is_of_content(t, check);
		t->checks[t->nchecks++].holds = ExecPrepareExpr((Expr *) check, t->estate);
	}
	return true;
}

static bool
keep_index(KtRequestTable *t, Oid oid)
{
	Relation index = index_open(oid, RowExclusiveLock);
	KtTableIndex *entry = &t->indexes[t->nindexes++];
	IndexInfo *info = BuildIndexInfo(index);
	bool plain = index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indimmediate &&
	             info->ii_ExclusionOps == NULL &&
	             !runs_foreign_code((Node *) info->ii_Expressions, NULL) &&
	             !runs_foreign_code((Node *) info->ii_Predicate, NULL);

	entry->index = oid;
	entry->info = info;
	entry->predicate = NULL;
	if (plain && info->ii_Predicate != NIL)
	{
		entry->of_content = is_of_content(t, (Node *) info->ii_Predicate);
		entry->predicate = ExecPrepareQual(info->ii_Predicate, t->estate);
	}
	index_close(index, NoLock);
	return plain;
}

static bool
keep_indexes(KtRequestTable *t, Relation table)
{
	List *oids = RelationGetIndexList(table);
	ListCell *cell;
	bool plain = true;

	t->indexes = palloc0(Max(list_length(oids), 1) * sizeof(KtTableIndex));
	foreach (cell, oids)
		plain = keep_index(t, lfirst_oid(cell)) && plain;
	list_free(oids);
	return plain;
}

/* ---- the table ------------------------------------------------------------------------------------- */

/* False: only an INSERT does it right. */
static bool
keep_table(KtRequestTable *t, Relation table)
{
	TupleDesc desc = CreateTupleDescCopyConstr(RelationGetDescr(table));

	if (table->rd_rel->relkind != RELKIND_RELATION || table->rd_rel->relispartition ||
	    table->rd_rel->relam != HEAP_TABLE_AM_OID || table->rd_rules != NULL ||
	    table->rd_rel->relforcerowsecurity || has_foreign_trigger(table))
		return false;
	t->sequence = get_relname_relid("call_requests_id_seq", RelationGetNamespace(table));
	if (!OidIsValid(t->sequence))
		return false;
	t->estate = CreateExecutorState();
	t->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	t->slot->tts_tableOid = t->table;
	t->queued = CStringGetTextDatum("queued");
	t->alike_context =
		AllocSetContextCreate(t->context, "kridtech alike rows", ALLOCSET_SMALL_SIZES);
	return keep_columns(t, desc) && keep_checks(t, table, desc->constr) && keep_indexes(t, table);
}

/*
 * What is known of the table, made anew. It hangs below a short-lived context until it is whole, so that
 * an error on the way leaves nothing.
 */
static void
keep(Relation table)
{
	static bool registered = false;
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "kridtech call_requests", ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	KtRequestTable *t = palloc0(sizeof(KtRequestTable));

	if (!registered)
		CacheRegisterRelcacheCallback(on_relcache_event, (Datum) 0);
	registered = true;
	if (kt_requesttable != NULL)
		MemoryContextDelete(kt_requesttable->context);
	kt_requesttable = NULL;
	/* From here on events count: with no table kept any of them makes the next row look again. */
	is_valid = true;
	t->context = context;
	t->table = RelationGetRelid(table);
	t->generation = ++generations;
	t->ordinary = !keep_table(t, table);
	MemoryContextSwitchTo(caller);
	MemoryContextSetParent(context, CacheMemoryContext);
	kt_requesttable = t;
}

/*
 * The lock comes first: it makes this backend hear of every change that was committed before, and keeps
 * others from making one.
 */
Relation
kt_requesttable_open(void)
{
	Relation table = NULL;

	if (kt_requesttable_is_valid())
		table = try_relation_open(kt_requesttable->table, RowExclusiveLock);
	if (table == NULL)
	{
		Relation looked_up = kt_extension_table("call_requests");

		table = table_open(RelationGetRelid(looked_up), RowExclusiveLock);
		table_close(looked_up, NoLock);
	}
	if (!kt_requesttable_is_valid() || kt_requesttable->table != RelationGetRelid(table))
		keep(table);
	return table;
}

/* ---- rows ------------------------------------------------------------------------------------------ */

ExprContext *
kt_requesttable_context(TupleTableSlot *slot)
{
	ExprContext *context = GetPerTupleExprContext(kt_requesttable->estate);

	context->ecxt_scantuple = slot;
	return context;
}

static Form_pg_attribute
attribute_of(const KtRequestTable *t, int column)
{
	return TupleDescAttr(t->slot->tts_tupleDescriptor, t->attnum[column] - 1);
}

static bool
is_of_known_kind(const KtRequestTable *t, const KtRow *row)
{
	int c;

	if (t->kind == 0)
		return false;
	for (c = KT_NCONTENT; c < KT_NCOLUMNS; c++)
	{
		Form_pg_attribute attribute = attribute_of(t, c);

		if (row->nulls[c] != t->alike_nulls[c] ||
		    (!row->nulls[c] &&
		     !datumIsEqual(row->values[c], t->alike[c], attribute->attbyval, attribute->attlen)))
			return false;
	}
	return true;
}

/* The row's kind becomes the one to compare with. */
static void
learn_kind(KtRequestTable *t, const KtRow *row)
{
	MemoryContext caller = MemoryContextSwitchTo(t->alike_context);
	int c;

	t->kind = 0;
	MemoryContextReset(t->alike_context);
	for (c = KT_NCONTENT; c < KT_NCOLUMNS; c++)
	{
		Form_pg_attribute attribute = attribute_of(t, c);

		t->alike_nulls[c] = row->nulls[c];
		t->alike[c] = row->nulls[c]
		                  ? (Datum) 0
		                  : datumCopy(row->values[c], attribute->attbyval, attribute->attlen);
	}
	MemoryContextSwitchTo(caller);
}

static void
fill_slot(KtRequestTable *t, const KtRow *row)
{
	TupleTableSlot *slot = t->slot;
	int c;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (c = 0; c < KT_NCOLUMNS; c++)
	{
		bool is_content = c < KT_NCONTENT;

		slot->tts_values[t->attnum[c] - 1] = is_content ? row->values[c] : t->alike[c];
		slot->tts_isnull[t->attnum[c] - 1] = row->nulls[c];
	}
	ExecStoreVirtualTuple(slot);
}

/* all: also those that are the same for rows of one kind. */
static bool
constraints_hold(KtRequestTable *t, bool all)
{
	TupleDesc desc = t->slot->tts_tupleDescriptor;
	ExprContext *context = kt_requesttable_context(t->slot);
	int i;

	for (i = 0; i < (all ? desc->natts : 0); i++)
		if (t->slot->tts_isnull[i] && TupleDescAttr(desc, i)->attnotnull)
			return false;
	for (i = 0; i < KT_NCONTENT; i++)
		if (t->slot->tts_isnull[t->attnum[i] - 1] && attribute_of(t, i)->attnotnull)
			return false;
	for (i = 0; i < t->nchecks; i++)
		if ((all || t->checks[i].of_content) && !ExecCheck(t->checks[i].holds, context))
			return false;
	return true;
}

bool
kt_requesttable_accepts(KtRow *row)
{
	KtRequestTable *t = kt_requesttable;
	bool is_known;

	kt_row_put(row, KT_COL_STATE, t->queued, false);
	is_known = is_of_known_kind(t, row);
	ResetPerTupleExprContext(t->estate);
	if (!is_known)
		learn_kind(t, row);
	fill_slot(t, row);
	if (!constraints_hold(t, !is_known))
		return false;
	if (!is_known)
		t->kind = ++kinds;
	return true;
}
