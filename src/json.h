/*
 * Reads chosen fields of a JSON object in one pass of PostgreSQL's own parser, without making a jsonb.
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

/* The value of a field; of two fields of one name the last. */
typedef struct KtJsonValue
{
	KtJsonKind kind;
	bool contradictory; /* the name stands there twice, with different values */
	char *text;         /* palloc'd: a string's characters (UTF-8), anything else as it stands */
} KtJsonValue;

/* A field that holds an array of objects, and which fields of theirs are wanted. */
typedef struct KtJsonRows
{
	const char *name;
	const char *const *columns;
	int ncolumns;
	int max;             /* rows that are kept; further ones are counted only */
	KtJsonValue *values; /* of those kept, row by row */
	int nrows;
	bool is_array_of_objects;

	int capacity; /* in rows; json.c's own */
} KtJsonRows;

/*
 * Fills values[i] with the field names[i], and rows, unless NULL, with its rows. False, with all of them
 * empty or half filled, when the text is not one JSON object.
 */
extern bool kt_json_read(const char *text, size_t len, const char *const *names, int nnames,
                         KtJsonValue *values, KtJsonRows *rows);

#endif /* KT_JSON_H */
