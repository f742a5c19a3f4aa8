/*
 * Values of any table's columns, read as characters or as JSON.
 */
#ifndef KT_COLUMNREADER_H
#define KT_COLUMNREADER_H

#include "fmgr.h"
#include "utils/jsonb.h"

/* How a column's type is read. */
typedef enum KtColumnKind
{
	KT_KIND_TEXT, /* a varlena of characters, taken as it stands */
	KT_KIND_INT2,
	KT_KIND_INT4,
	KT_KIND_INT8,
	KT_KIND_FLOAT,
	KT_KIND_NUMERIC,
	KT_KIND_BOOL,
	KT_KIND_JSON,
	KT_KIND_JSONB,
	KT_KIND_OTHER /* by its output function */
} KtColumnKind;

typedef struct KtColumnReader
{
	KtColumnKind kind;
	FmgrInfo output; /* of the type as declared */
} KtColumnReader;

/* What is looked up lives in that context. */
extern void kt_columnreader_init(KtColumnReader *reader, Oid type, MemoryContext context);

/* A value's characters, not NUL-terminated; *len is their number. May point into the value. */
extern char *kt_columnreader_characters(KtColumnReader *reader, Datum value, int *len);

/*
 * Numbers, booleans and JSON as what they are, NaN and infinities as text: JSON has no word for them. May point into
 * the value.
 */
extern void kt_columnreader_json(KtColumnReader *reader, Datum value, JsonbValue *json);

#endif /* KT_COLUMNREADER_H */
