/*
 * Statements of ours with kept plans, and arrays as their parameters: a set of rows costs one statement.
 */
#include "postgres.h"

#include "statement.h"

#include "catalog/pg_type.h"
#include "extension.h"
#include "utils/array.h"
#include "utils/builtins.h"

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

char *
kt_statement_present(uint64 row, int column)
{
	char *text = kt_statement_text(row, column);

	return text != NULL ? text : pstrdup("");
}

int64
kt_statement_int64(uint64 row, int column)
{
	bool isnull;
	Datum value = kt_statement_datum(row, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

int64 *
kt_statement_ids(void)
{
	int64 *ids = palloc(Max(SPI_processed, 1) * sizeof(int64));
	uint64 i;

	for (i = 0; i < SPI_processed; i++)
		ids[i] = kt_statement_int64(i, 1);
	return ids;
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

Datum
kt_statement_int8s(const int64 *values, int n)
{
	KtParameter *elements = palloc(Max(n, 1) * sizeof(KtParameter));
	int i;

	for (i = 0; i < n; i++)
		elements[i] = (KtParameter){.value = Int64GetDatum(values[i])};
	return kt_statement_array(INT8OID, elements, n);
}

Datum
kt_statement_texts(const char **texts, int n)
{
	KtParameter *elements = palloc(Max(n, 1) * sizeof(KtParameter));
	int i;

	for (i = 0; i < n; i++)
		if (texts == NULL || texts[i] == NULL)
			elements[i] = (KtParameter){.isnull = true};
		else
			elements[i] = (KtParameter){.value = CStringGetTextDatum(texts[i])};
	return kt_statement_array(TEXTOID, elements, n);
}
