/*
 * Reads chosen fields of a JSON text with PostgreSQL's own parser, without making a jsonb of it.
 *
 * Why not jsonb: it folds two fields of one name into one, so that two different callIds would look
 * like one, and it refuses numbers that are legal JSON.
 *
 * Why hostile text cannot make this throw: pg_parse_json() returns its errors, but for two: it checks
 * the stack once per nesting level (so the depth is bounded by the caller, KT_MAX_JSON_DEPTH), and up
 * to PostgreSQL 15 it throws for a Unicode escape that the server's encoding lacks (so kt_repair_json()
 * leaves only escapes of ASCII). The lexer is told UTF-8, whatever the server's encoding: what is read
 * here is converted by who uses it.
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "json.h"

#include "compat.h"
#include "mb/pg_wchar.h"

typedef struct Reader
{
	JsonLexContext *lex;
	int depth;      /* containers open; the values wanted stand directly in the outermost one */
	KtJsonKind top; /* what the text as a whole is */
	KtJsonValue current; /* the value being read there */
	const char *start;   /* where it begins */

	KtJsonField *fields; /* of an object ... */
	int nfields;

	KtJsonValue *values; /* ... or of an array */
	int nvalues;
	int capacity;
} Reader;

static KtJsonKind
kind_of_scalar(JsonTokenType token)
{
	switch (token)
	{
		case JSON_TOKEN_STRING:
			return KT_JSON_STRING;
		case JSON_TOKEN_NUMBER:
			return KT_JSON_NUMBER;
		case JSON_TOKEN_TRUE:
		case JSON_TOKEN_FALSE:
			return KT_JSON_BOOL;
		default:
			return KT_JSON_NULL;
	}
}

static void
container_begins(Reader *reader, KtJsonKind kind)
{
	if (reader->depth == 0)
		reader->top = kind;
	else if (reader->depth == 1)
		reader->current.kind = kind;
	reader->depth++;
}

static KT_JSON_ACTION
on_object_start(void *state)
{
	container_begins(state, KT_JSON_OBJECT);
	KT_JSON_GO_ON;
}

static KT_JSON_ACTION
on_array_start(void *state)
{
	container_begins(state, KT_JSON_ARRAY);
	KT_JSON_GO_ON;
}

static KT_JSON_ACTION
on_container_end(void *state)
{
	((Reader *) state)->depth--;
	KT_JSON_GO_ON;
}

static KT_JSON_ACTION
on_scalar(void *state, char *token, JsonTokenType type)
{
	Reader *reader = state;

	if (reader->depth == 1)
	{
		reader->current.kind = kind_of_scalar(type);
		if (type == JSON_TOKEN_STRING)
			reader->current.text = pstrdup(token);
	}
	else if (reader->depth == 0)
		reader->top = kind_of_scalar(type);
	KT_JSON_GO_ON;
}

static void
value_begins(Reader *reader)
{
	memset(&reader->current, 0, sizeof(reader->current));
	reader->start = reader->lex->token_start;
}

static void
value_ends(Reader *reader)
{
	KtJsonValue *value = &reader->current;

	if (value->kind == KT_JSON_STRING)
		value->len = strlen(value->text);
	else
	{
		value->len = reader->lex->prev_token_terminator - reader->start;
		value->text = pnstrdup(reader->start, value->len);
	}
}

static bool
same_value(const KtJsonValue *a, const KtJsonValue *b)
{
	return a->kind == b->kind && a->len == b->len && memcmp(a->text, b->text, a->len) == 0;
}

static KT_JSON_ACTION
on_field_start(void *state, char *name, bool isnull)
{
	Reader *reader = state;

	(void) name;
	(void) isnull;
	if (reader->depth == 1)
		value_begins(reader);
	KT_JSON_GO_ON;
}

static KT_JSON_ACTION
on_field_end(void *state, char *name, bool isnull)
{
	Reader *reader = state;
	int i;

	(void) isnull;
	if (reader->depth != 1)
		KT_JSON_GO_ON;
	for (i = 0; i < reader->nfields; i++)
	{
		KtJsonField *field = &reader->fields[i];

		if (strcmp(field->name, name) != 0)
			continue;
		value_ends(reader);
		if (field->value.kind != KT_JSON_ABSENT && !same_value(&field->value, &reader->current))
			field->contradictory = true;
		field->value = reader->current;
	}
	KT_JSON_GO_ON;
}

static KT_JSON_ACTION
on_element_start(void *state, bool isnull)
{
	Reader *reader = state;

	(void) isnull;
	if (reader->depth == 1)
		value_begins(reader);
	KT_JSON_GO_ON;
}

static KT_JSON_ACTION
on_element_end(void *state, bool isnull)
{
	Reader *reader = state;

	(void) isnull;
	if (reader->depth != 1)
		KT_JSON_GO_ON;
	value_ends(reader);
	if (reader->nvalues == reader->capacity)
	{
		reader->capacity *= 2;
		reader->values = repalloc(reader->values, reader->capacity * sizeof(KtJsonValue));
	}
	reader->values[reader->nvalues++] = reader->current;
	KT_JSON_GO_ON;
}

static bool
read_json(const char *text, size_t len, Reader *reader, JsonSemAction *actions)
{
	JsonParseErrorType result;

	if (len > INT_MAX)
		return false;
	reader->lex = kt_json_lexer(unconstify(char *, text), (int) len);
	actions->semstate = reader;
	actions->object_start = on_object_start;
	actions->object_end = on_container_end;
	actions->array_start = on_array_start;
	actions->array_end = on_container_end;
	actions->scalar = on_scalar;
	result = pg_parse_json(reader->lex, actions);
	return result == JSON_SUCCESS;
}

bool
kt_json_read_object(const char *text, size_t len, KtJsonField *fields, int nfields)
{
	Reader reader = {0};
	JsonSemAction actions = {0};
	int i;

	for (i = 0; i < nfields; i++)
	{
		memset(&fields[i].value, 0, sizeof(fields[i].value));
		fields[i].contradictory = false;
	}
	reader.fields = fields;
	reader.nfields = nfields;
	actions.object_field_start = on_field_start;
	actions.object_field_end = on_field_end;
	return read_json(text, len, &reader, &actions) && reader.top == KT_JSON_OBJECT;
}

bool
kt_json_read_array(const char *text, size_t len, KtJsonValue **values, int *nvalues)
{
	Reader reader = {0};
	JsonSemAction actions = {0};

	reader.capacity = 16;
	reader.values = palloc(reader.capacity * sizeof(KtJsonValue));
	actions.array_element_start = on_element_start;
	actions.array_element_end = on_element_end;
	if (!read_json(text, len, &reader, &actions) || reader.top != KT_JSON_ARRAY)
		return false;
	*values = reader.values;
	*nvalues = reader.nvalues;
	return true;
}
