/*
 * New rows of kridtech.call_requests by a short way below the executor, singly or many at a time.
 */
#ifndef KT_DIRECTINSERT_H
#define KT_DIRECTINSERT_H

/* The columns a new row has values for; every other one is NULL. */
typedef enum KtColumn
{
	KT_COL_ID,
	KT_COL_ACCOUNT_ID,
	KT_COL_TO_NUMBER,
	KT_COL_DYNAMIC_VARIABLES,
	KT_COL_REFERENCE,
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

/* A row's values. KT_COL_ID is given when it is inserted. */
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

/* Installs the hook that ends a batch; called from _PG_init() under shared_preload_libraries only. */
extern void kt_directinsert_install(void);

/*
 * Inserts a row and gives it its id. query is NULL, or the memory context of a statement that is firing its
 * triggers (an FmgrInfo's fn_mcxt): then the row may be held back, with others, until that statement ends.
 * False when the row has to go the ordinary way: nothing was inserted.
 */
extern bool kt_directinsert(KtRow *row, MemoryContext query, int64 *id);

#endif /* KT_DIRECTINSERT_H */
