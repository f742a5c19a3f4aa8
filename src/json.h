/*
 * Reads chosen fields of a JSON text with PostgreSQL's own parser, without making a jsonb of it.
 *
 * The text must have been through kt_repair_json() and be at most KT_MAX_JSON_DEPTH deep (json.c says
 * why). Compiles for the server and, for the fuzzers, for frontend programs. Throws only for memory.
 */
#ifndef KT_JSON_H
#define KT_JSON_H

typedef enum KtJsonKind
{
	KT_JSON_ABSENT,
	KT_JSON_NULL,
	KT_JSON_BOOL,
	KT_JSON_NUMBER,
	KT_JSON_STRING,
	KT_JSON_OBJECT,
	KT_JSON_ARRAY
} KtJsonKind;

typedef struct KtJsonValue
{
	KtJsonKind kind;
	char *
		text; /* palloc'd: a string's characters (UTF-8), anything else as it stands; NULL if absent */
	size_t len;
} KtJsonValue;

typedef struct KtJsonField
{
	const char *name;   /* which field is wanted */
	KtJsonValue value;  /* the last one of that name */
	bool contradictory; /* that name stands there twice, with different values */
} KtJsonField;

/* Fills the fields from an object. False when the text is not one JSON object. */
extern bool kt_json_read_object(const char *text, size_t len, KtJsonField *fields, int nfields);

/* The elements of an array, palloc'd. False when the text is not one JSON array. */
extern bool kt_json_read_array(const char *text, size_t len, KtJsonValue **values, int *nvalues);

#endif /* KT_JSON_H */
