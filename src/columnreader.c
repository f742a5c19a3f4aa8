/*
 * Values of any table's columns, read as characters or as JSON.
 *
 * A value becomes what PostgreSQL's own to_jsonb() makes of it, but for what is neither a number, a boolean nor JSON:
 * that is its text. How a type is read is looked up once for a column, not for each row.
 */
#include "postgres.h"

#include "columnreader.h"

#include "catalog/pg_type.h"
#include "compat.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

static KtColumnKind
kind_of(Oid type)
{
	switch (getBaseType(type))
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return KT_KIND_TEXT;
		case INT2OID:
			return KT_KIND_INT2;
		case INT4OID:
			return KT_KIND_INT4;
		case INT8OID:
			return KT_KIND_INT8;
		case FLOAT4OID:
		case FLOAT8OID:
			return KT_KIND_FLOAT;
		case NUMERICOID:
			return KT_KIND_NUMERIC;
		case BOOLOID:
			return KT_KIND_BOOL;
		case JSONOID:
			return KT_KIND_JSON;
		case JSONBOID:
			return KT_KIND_JSONB;
		default:
			return KT_KIND_OTHER;
	}
}

void
kt_columnreader_init(KtColumnReader *reader, Oid type, MemoryContext context)
{
	Oid output;
	bool is_varlena;

	reader->kind = kind_of(type);
	getTypeOutputInfo(type, &output, &is_varlena);
	fmgr_info_cxt(output, &reader->output, context);
}

char *
kt_columnreader_characters(KtColumnReader *reader, Datum value, int *len)
{
	char *result;

	if (reader->kind == KT_KIND_TEXT)
	{
		text *packed = DatumGetTextPP(value);

		*len = VARSIZE_ANY_EXHDR(packed);
		return VARDATA_ANY(packed);
	}
	result = OutputFunctionCall(&reader->output, value);
	*len = strlen(result);
	return result;
}

static void
put_characters(KtColumnReader *reader, Datum value, JsonbValue *json)
{
	json->type = jbvString;
	json->val.string.val = kt_columnreader_characters(reader, value, &json->val.string.len);
}

static void
put_numeric(Datum numeric, JsonbValue *json)
{
	json->type = jbvNumeric;
	json->val.numeric = DatumGetNumeric(numeric);
}

static void
put_jsonb(Jsonb *jsonb, JsonbValue *json)
{
	if (JB_ROOT_IS_SCALAR(jsonb))
	{
		(void) JsonbExtractScalar(&jsonb->root, json);
		return;
	}
	json->type = jbvBinary;
	json->val.binary.data = &jsonb->root;
	json->val.binary.len = VARSIZE_ANY_EXHDR(jsonb);
}

/* By way of its text, as to_jsonb() does: a float's digits, not the digits of its binary value. */
static void
put_float(KtColumnReader *reader, Datum value, JsonbValue *json)
{
	char *digits = OutputFunctionCall(&reader->output, value);

	if (strspn(digits, "-+.0123456789eE") == strlen(digits))
		put_numeric(DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
		                                ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)),
		            json);
	else
		put_characters(reader, value, json);
}

static void
put_json_text(KtColumnReader *reader, Datum value, JsonbValue *json)
{
	char *words = OutputFunctionCall(&reader->output, value);

	put_jsonb(DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(words))), json);
}

void
kt_columnreader_json(KtColumnReader *reader, Datum value, JsonbValue *json)
{
	switch (reader->kind)
	{
		case KT_KIND_INT2:
			put_numeric(DirectFunctionCall1(int2_numeric, value), json);
			return;
		case KT_KIND_INT4:
			put_numeric(DirectFunctionCall1(int4_numeric, value), json);
			return;
		case KT_KIND_INT8:
			put_numeric(DirectFunctionCall1(int8_numeric, value), json);
			return;
		case KT_KIND_NUMERIC:
			value = PointerGetDatum(PG_DETOAST_DATUM(value));
			if (kt_numeric_is_special(DatumGetNumeric(value)))
				put_characters(reader, value, json);
			else
				put_numeric(value, json);
			return;
		case KT_KIND_FLOAT:
			put_float(reader, value, json);
			return;
		case KT_KIND_BOOL:
			json->type = jbvBool;
			json->val.boolean = DatumGetBool(value);
			return;
		case KT_KIND_JSON:
			put_json_text(reader, value, json);
			return;
		case KT_KIND_JSONB:
			put_jsonb(DatumGetJsonbP(value), json);
			return;
		case KT_KIND_TEXT:
		case KT_KIND_OTHER:
			put_characters(reader, value, json);
			return;
	}
}
