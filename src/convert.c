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
	long power = 0;

	if (number == NULL || strlen(number) > MAX_NUMBER_LENGTH)
		return false;
	exponent = strpbrk(number, "eE");
	if (exponent != NULL)
		power = strtol(exponent + 1, NULL, 10); /* LONG_MIN has no absolute value */
	if (power > MAX_NUMBER_EXPONENT || power < -MAX_NUMBER_EXPONENT)
		return false;
	*value = strtod(number, NULL);
	return isfinite(*value);
}

/* The common case: an integer of up to 15 digits. False: it may still be a number. */
static bool
plain_integer(const char *number, int64 *result)
{
	const char *c;
	int64 value = 0;

	if (number == NULL || *number == '\0' || strnlen(number, 16) > 15)
		return false;
	for (c = number + (*number == '-'); *c >= '0' && *c <= '9'; c++)
		value = value * 10 + (*c - '0');
	if (*c != '\0' || c == number)
		return false;
	*result = *number == '-' ? -value : value;
	return true;
}

bool
kt_convert_int32(const char *number, int32 *result)
{
	double value;
	int64 integer;

	if (plain_integer(number, &integer))
	{
		*result = (int32) integer;
		return integer >= PG_INT32_MIN && integer <= PG_INT32_MAX;
	}
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
kt_convert_count(const char *number, int64 *result)
{
	double value;

	return tame_number(number, &value) && value >= 0 && value == rint(value) &&
	       kt_convert_int64(number, result);
}

bool
kt_convert_numeric(const char *number, Datum *result)
{
	double value;
	int64 integer;

	if (plain_integer(number, &integer) && (integer != 0 || number[0] != '-'))
	{
		*result = DirectFunctionCall1(int8_numeric, Int64GetDatum(integer));
		return true;
	}
	if (!tame_number(number, &value))
		return false;
	*result = DirectFunctionCall3(numeric_in, CStringGetDatum(number), ObjectIdGetDatum(InvalidOid),
	                              Int32GetDatum(-1));
	return true;
}

/* "2025-02-14T10:30:00Z", "...+01:00": keeps out "now", "infinity", "... BC", and times without a zone. */
static bool
looks_like_iso(const char *text)
{
	size_t len = strlen(text);
	size_t i;

	if (len < 17 || len > MAXDATELEN || text[4] != '-' || text[7] != '-' || text[10] != 'T' ||
	    strchr(text, ' ') != NULL)
		return false;
	for (i = 0; i < 4; i++)
		if (text[i] < '0' || text[i] > '9')
			return false;
	return text[len - 1] == 'Z' || strpbrk(text + 11, "+-") != NULL;
}

static int
two_digits(const char *c)
{
	return c[0] >= '0' && c[0] <= '9' && c[1] >= '0' && c[1] <= '9'
	           ? (c[0] - '0') * 10 + (c[1] - '0')
	           : -1;
}

/* The documented form, "2025-02-14T10:30:00Z", with or without milliseconds. False: see the decoder. */
static bool
plain_time(const char *iso, TimestampTz *result)
{
	static const char form[] = "....-..-..T..:..:..";
	size_t len = strnlen(iso, 25);
	struct pg_tm tm = {0};
	int tz = 0;
	int century;
	int year;
	fsec_t fsec = 0;
	size_t i;

	if (len != 20 && len != 24)
		return false;
	for (i = 0; form[i] != '\0'; i++)
		if (form[i] != '.' && iso[i] != form[i])
			return false;
	century = two_digits(iso);
	year = two_digits(iso + 2);
	tm.tm_mon = two_digits(iso + 5);
	tm.tm_mday = two_digits(iso + 8);
	tm.tm_hour = two_digits(iso + 11);
	tm.tm_min = two_digits(iso + 14);
	tm.tm_sec = two_digits(iso + 17);
	if (len == 24)
	{
		int tens = two_digits(iso + 20);

		if (iso[19] != '.' || tens < 0 || iso[22] < '0' || iso[22] > '9')
			return false;
		fsec = (tens * 10 + (iso[22] - '0')) * 1000;
	}
	if (iso[len - 1] != 'Z' || century < 0 || year < 0 || tm.tm_mon < 1 || tm.tm_mon > 12 ||
	    tm.tm_mday < 1 || tm.tm_hour < 0 || tm.tm_hour > 23 || tm.tm_min < 0 || tm.tm_min > 59 ||
	    tm.tm_sec < 0 || tm.tm_sec > 59)
		return false;
	tm.tm_year = century * 100 + year;
	if (tm.tm_year == 0 || tm.tm_mday > day_tab[isleap(tm.tm_year)][tm.tm_mon - 1])
		return false;
	return tm2timestamp(&tm, fsec, &tz, result) == 0;
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

	if (iso == NULL)
		return false;
	if (plain_time(iso, result))
		return true;
	if (!looks_like_iso(iso))
		return false;
	if (ParseDateTime(iso, work, sizeof(work), field, ftype, MAXDATEFIELDS, &nfields) != 0 ||
	    kt_decode_datetime(field, ftype, nfields, &dtype, &tm, &fsec, &tz) != 0)
		return false;
	return dtype == DTK_DATE && tm2timestamp(&tm, fsec, &tz, result) == 0;
}
