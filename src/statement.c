/*
 * Statements of ours with kept plans, and arrays as their parameters: a set of rows costs one statement.
 */
#include "postgres.h"

#include "statement.h"

#include "catalog/pg_type.h"
#include "extension.h"
#include "utils/array.h"

uint64
kt_statement_run(KtStatement *statement, Datum *values, const char *nulls)
{
	SPIPlanPtr plan;
	int result;
	int n;

	for (n = 0; OidIsValid(statement->types[n]); n++)
		;
	plan = kt_owner_plan(&statement->plan, statement->text, n, statement->types);
	result = SPI_execute_plan(plan, values, nulls, false, 0);
	if (result != statement->expected)
		elog(ERROR, "unexpected result of a statement of kridtech: %s",
		     SPI_result_code_string(result));
	return SPI_processed;
}

Datum
kt_statement_datum(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

char *
kt_statement_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

int64
kt_statement_int64(uint64 row, int column)
{
	bool isnull;
	Datum value = kt_statement_datum(row, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

Datum
kt_statement_array(Oid type, const KtParameter *elements, int n)
{
	Datum *values = palloc(Max(n, 1) * sizeof(Datum));
	bool *nulls = palloc(Max(n, 1) * sizeof(bool));
	bool wide = type == INT8OID || type == TIMESTAMPTZOID;
	bool varies = !wide && type != INT4OID;
	int lower = 1;
	int given = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		values[i] = elements[i].value;
		nulls[i] = elements[i].isnull;
		given += !nulls[i];
	}
	if (given == 0)
		return PointerGetDatum(construct_empty_array(type));
	return PointerGetDatum(construct_md_array(
		values, nulls, 1, &n, &lower, type, varies ? -1 : (wide ? 8 : 4),
		wide ? FLOAT8PASSBYVAL : !varies, wide ? TYPALIGN_DOUBLE : TYPALIGN_INT));
}
