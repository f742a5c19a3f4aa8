/*
 * Statements of ours with kept plans, and arrays as their parameters: a set of rows costs one statement.
 */
#ifndef KT_STATEMENT_H
#define KT_STATEMENT_H

#include "executor/spi.h"
#include "utils/timestamp.h"

/* Enough for every statement. */
#define KT_MAX_PARAMETERS 16

/* A statement; types end with InvalidOid. */
typedef struct KtStatement
{
	const char *text;
	int expected; /* SPI_OK_... */
	Oid types[KT_MAX_PARAMETERS + 1];
	SPIPlanPtr plan;
} KtStatement;

/*
 * Runs it between kt_owner_begin() and kt_owner_end(); returns how many rows it touched. nulls is as SPI has
 * it: NULL, or a character for each parameter. Rows that come back are in SPI_tuptable.
 */
extern uint64 kt_statement_run(KtStatement *statement, Datum *values, const char *nulls);

/* A column of a row that came back: palloc'd or NULL; 0 where it is NULL. */
extern char *kt_statement_text(uint64 row, int column);
extern int64 kt_statement_int64(uint64 row, int column);
extern Datum kt_statement_datum(uint64 row, int column, bool *isnull);

/*
 * Of a column that is declared NOT NULL: "" where it is NULL all the same. Who owns the tables may take a constraint
 * away, and must not end the server by that.
 */
extern char *kt_statement_present(uint64 row, int column);

/* The first column of all rows that came back, which is an int8 and not NULL; palloc'd. */
extern int64 *kt_statement_ids(void);

/* A value of a row of parameters. */
typedef struct KtParameter
{
	Datum value;
	bool isnull;
} KtParameter;

/*
 * An array of that element type (text, bytea, jsonb, int4, int8, timestamptz). One of nothing but NULLs is
 * empty: unnest() fills up what is shorter.
 */
extern Datum kt_statement_array(Oid type, const KtParameter *elements, int n);

/* The same of C values. texts (in the database's encoding) may hold NULLs, and be NULL as a whole. */
extern Datum kt_statement_int8s(const int64 *values, int n);
extern Datum kt_statement_texts(const char **texts, int n);

#endif /* KT_STATEMENT_H */
