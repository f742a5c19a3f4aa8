/*
 * What the short way into kridtech.call_requests knows of that table, for as long as it stays the same.
 */
#ifndef KT_REQUESTTABLE_H
#define KT_REQUESTTABLE_H

#include "nodes/execnodes.h"
#include "utils/rel.h"

/*
 * The columns a new row has values for; every other one is NULL. First those in which the rows of one
 * statement differ, its content; in the others they are mostly alike.
 */
typedef enum KtColumn
{
	KT_COL_ID,
	KT_COL_TO_NUMBER,
	KT_COL_DYNAMIC_VARIABLES,
	KT_COL_REFERENCE,
	KT_COL_ACCOUNT_ID,
	KT_NCONTENT = KT_COL_ACCOUNT_ID,
	KT_COL_UNIQUE_KEY,
	KT_COL_PRIORITY,
	KT_COL_NOT_BEFORE,
	KT_COL_NOT_AFTER,
	KT_COL_STATE,
	KT_COL_ATTEMPTS,
	KT_COL_NEXT_ATTEMPT_AT,
	KT_COL_CREATED_BY,
	KT_COL_CREATED_AT,
	KT_NCOLUMNS
} KtColumn;

typedef struct KtColumnType
{
	const char *name;
	Oid type;
} KtColumnType;

extern const KtColumnType kt_columns[KT_NCOLUMNS];

/* A row's values. KT_COL_ID and KT_COL_STATE are given when it is inserted. */
typedef struct KtRow
{
	Datum values[KT_NCOLUMNS];
	bool nulls[KT_NCOLUMNS];
	NameData created_by; /* what KT_COL_CREATED_BY points to */
} KtRow;

static inline void
kt_row_put(KtRow *row, KtColumn column, Datum value, bool isnull)
{
	row->values[column] = value;
	row->nulls[column] = isnull;
}

typedef struct KtTableCheck
{
	ExprState *holds;
	bool of_content; /* may differ between rows of one kind */
} KtTableCheck;

typedef struct KtTableIndex
{
	Oid index;
	IndexInfo *info;
	ExprState *predicate; /* NULL: every row */
	bool of_content;      /* the predicate may differ between rows of one kind */
} KtTableIndex;

typedef struct KtRequestTable
{
	MemoryContext context; /* holds all of it, this struct too */
	Oid table;
	uint64 generation; /* a number of its own */
	bool ordinary; /* the table has something that only an INSERT does right; the rest is not set */
	Oid sequence;
	Datum queued;
	AttrNumber attnum[KT_NCOLUMNS];
	EState *estate;
	TupleTableSlot
		*slot; /* virtual, with a copy of the table's descriptor; the row accepted last */
	int nchecks;
	KtTableCheck *checks;
	int nindexes;
	KtTableIndex *indexes;

	/* Rows of one kind are alike but for their content, so that what was found for one holds for all. */
	uint64 kind; /* the kind of the row accepted last, a number of its own; 0: none yet */
	MemoryContext alike_context;
	Datum alike[KT_NCOLUMNS]; /* what they share */
	bool alike_nulls[KT_NCOLUMNS];
} KtRequestTable;

/* NULL before the first kt_requesttable_open(). */
extern KtRequestTable *kt_requesttable;

/* Whether nothing is known to have changed since the last kt_requesttable_open(). */
extern bool kt_requesttable_is_valid(void);

/*
 * The table, locked as an INSERT locks it, with kt_requesttable brought up to date. Only this function
 * replaces that.
 */
extern Relation kt_requesttable_open(void);

/*
 * Makes the row a queued one and fills kt_requesttable->slot with it, which points to the row's content.
 * False when a constraint does not hold. Not for a table that is ordinary.
 */
extern bool kt_requesttable_accepts(KtRow *row);

/* For its expressions, with the slot as the row; to be reset by ResetPerTupleExprContext(). */
extern ExprContext *kt_requesttable_context(TupleTableSlot *slot);

#endif /* KT_REQUESTTABLE_H */
