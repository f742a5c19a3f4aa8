/*
 * From foreign text to SQL values and back.
 *
 * PostgreSQL's input functions throw for what they refuse, and before 16 there is no other way to call
 * them. Throwing away the ninety-nine good rows of a list for one odd field would be wrong, so each
 * converter first makes sure that PostgreSQL will accept the text, or uses a decoder that returns its
 * errors.
 */
#include "postgres.h"

#include "convert.h"

#include <math.h>

#include "catalog/namespace.h"
#include "compat.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

/* Numbers beyond these are nobody's cost or duration; numeric_in() would take them, or throw. */
#define MAX_NUMBER_LENGTH 100
#define MAX_NUMBER_EXPONENT 100

char *
kt_convert_to_server(const char *utf8)
{
	int encoding = GetDatabaseEncoding();
	StringInfoData result;
	Oid proc;
	int len;

	if (utf8 == NULL)
		return NULL;
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return unconstify(char *, utf8);
	proc = FindDefaultConversionProc(PG_UTF8, encoding);
	initStringInfo(&result);
	for (; *utf8 != '\0'; utf8 += len)
	{
		char converted[KT_CHARACTER_SIZE] = {0};

		len = pg_utf_mblen((const unsigned char *) utf8);
		if (len == 1)
			appendStringInfoChar(&result, *utf8);
		else if (OidIsValid(proc) && kt_convert_character(proc, utf8, len, converted))
			appendStringInfoString(&result, converted);
		else
			appendStringInfoChar(&result, '?');
	}
	return result.data;
}

char *
kt_convert_to_utf8(const char *text)
{
	return pg_server_to_any(text, strlen(text), PG_UTF8);
}

/* A JSON number that PostgreSQL's types can hold without throwing, as a double. */
static bool
tame_number(const char *number, double *value)
{
	const char *exponent;

	if (number == NULL || strlen(number) > MAX_NUMBER_LENGTH)
		return false;
	exponent = strpbrk(number, "eE");
	if (exponent != NULL && labs(strtol(exponent + 1, NULL, 10)) > MAX_NUMBER_EXPONENT)
		return false;
	*value = strtod(number, NULL);
	return isfinite(*value);
}

bool
kt_convert_int32(const char *number, int32 *result)
{
	double value;

	if (!tame_number(number, &value))
		return false;
	value = rint(value);
	if (value < (double) PG_INT32_MIN || value > (double) PG_INT32_MAX)
		return false;
	*result = (int32) value;
	return true;
}

bool
kt_convert_int64(const char *number, int64 *result)
{
	double value;

	if (!tame_number(number, &value))
		return false;
	value = rint(value);
	/* 2^53: beyond it a double no longer holds every integer */
	if (fabs(value) > 9007199254740992.0)
		return false;
	*result = (int64) value;
	return true;
}

bool
kt_convert_numeric(const char *number, Datum *result)
{
	double value;

	if (!tame_number(number, &value))
		return false;
	*result = DirectFunctionCall3(numeric_in, CStringGetDatum(number), ObjectIdGetDatum(InvalidOid),
	                              Int32GetDatum(-1));
	return true;
}

/* "2025-02-14T10:30:00Z", "...+01:00": keeps out "now", "infinity", and times without a zone. */
static bool
looks_like_iso(const char *text)
{
	size_t len = strlen(text);
	size_t i;

	if (len < 17 || len > MAXDATELEN || text[4] != '-' || text[7] != '-' || text[10] != 'T')
		return false;
	for (i = 0; i < 4; i++)
		if (text[i] < '0' || text[i] > '9')
			return false;
	return text[len - 1] == 'Z' || strpbrk(text + 11, "+-") != NULL;
}

bool
kt_convert_timestamptz(const char *iso, TimestampTz *result)
{
	char work[MAXDATELEN + MAXDATEFIELDS];
	char *field[MAXDATEFIELDS];
	int ftype[MAXDATEFIELDS];
	struct pg_tm tm;
	fsec_t fsec;
	int nfields;
	int dtype;
	int tz;

	if (iso == NULL || !looks_like_iso(iso))
		return false;
	if (ParseDateTime(iso, work, sizeof(work), field, ftype, MAXDATEFIELDS, &nfields) != 0 ||
	    kt_decode_datetime(field, ftype, nfields, &dtype, &tm, &fsec, &tz) != 0)
		return false;
	return dtype == DTK_DATE && tm2timestamp(&tm, fsec, &tz, result) == 0;
}
