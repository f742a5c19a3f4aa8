/*
 * New rows of kridtech.call_requests by a short way below the executor, singly or many at a time.
 */
#ifndef KT_DIRECTINSERT_H
#define KT_DIRECTINSERT_H

#include "requesttable.h"

/* Installs the hook that ends a batch; called from _PG_init() under shared_preload_libraries only. */
extern void kt_directinsert_install(void);

/*
 * Whether the statement that is firing its triggers was given for this table. Those of the tables behind foreign keys
 * fire in it, too, one table's between another's.
 */
extern bool kt_directinsert_is_for(Oid table);

/* Whether the statement that is firing its triggers may have changed or deleted rows that were there. */
extern bool kt_directinsert_changes_rows(void);

/*
 * Inserts a row and gives it its id. query is NULL, or the memory context of a statement that is firing its
 * triggers (an FmgrInfo's fn_mcxt): then the row may be held back, with others, until that statement ends.
 * False when the row has to go the ordinary way: nothing was inserted.
 */
extern bool kt_directinsert(KtRow *row, MemoryContext query, int64 *id);

#endif /* KT_DIRECTINSERT_H */
