/*
 * The extension's own objects: is the SQL side of the same version, who owns the tables, and how to work
 * on them as that owner.
 */
#ifndef KT_EXTENSION_H
#define KT_EXTENSION_H

#include "executor/spi.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

/* Throws 55000, saying what to do, when this library and the installed SQL objects differ in version. */
extern void kt_extension_check(void);

/* Why the extension cannot be used in this database, palloc'd, or NULL; *oid is the extension's, if any. */
extern char *kt_extension_problem(Oid *oid);

/* What kt_owner_begin() changed and kt_owner_end() puts back; an error puts it back by itself. */
typedef struct KtOwner
{
	Oid user;
	int security;
	int guc_level;
	ErrorContextCallback hiding;
} KtOwner;

/*
 * Until error_context_stack is set back to its previous, an error of a constraint does not show the row in its DETAIL,
 * as PostgreSQL's do: it holds a phone number or a transcript, and the caller may have no right on the table.
 */
extern void kt_hide_rows(ErrorContextCallback *hiding);

/*
 * Between the two, SPI statements run with the rights of the owner of kridtech.call_requests and with
 * search_path = pg_catalog, pg_temp: a caller needs no right on the tables, and cannot slip an operator
 * of its own into our statements. kt_owner_begin() also connects to SPI. Rows are hidden, too.
 */
extern void kt_owner_begin(KtOwner *owner);
extern void kt_owner_end(KtOwner *owner);

/* The owner that kt_owner_begin() last worked as; a worker commits as it, and clears it (InvalidOid) before. */
extern Oid kt_owner_used;

/*
 * A plan for that statement, made at its first use in this backend and kept; to be called, and the plan
 * executed, between kt_owner_begin() and kt_owner_end().
 */
extern SPIPlanPtr kt_owner_plan(SPIPlanPtr *kept, const char *statement, int nargs, Oid *types);

/* A table of the schema kridtech, opened with AccessShareLock; to be closed with table_close(). */
extern Relation kt_extension_table(const char *name);

/*
 * The number of its column, which is of that type, or of one that is stored alike (varchar for text, a domain); throws
 * where it is not, so that who reads a row without SQL finds what he takes it for.
 */
extern AttrNumber kt_extension_column(Relation table, const char *name, Oid type);

/* Whether it is the table of that name in the schema kridtech. */
extern bool kt_extension_is_table(Relation table, const char *name);

/*
 * Takes that lock on a table of the schema kridtech until the transaction's end, if it is to be had without
 * waiting; false otherwise, and where there is no such table.
 */
extern bool kt_extension_lock_at_once(const char *name, LOCKMODE mode);

#endif /* KT_EXTENSION_H */
