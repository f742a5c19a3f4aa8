/*
 * Reads chosen fields of a JSON object in one pass of PostgreSQL's own parser, without making a jsonb.
 *
 * Why not jsonb: it folds two fields of one name into one, so that two different callIds would look
 * like one, and it refuses numbers that are legal JSON.
 *
 * Why hostile text cannot make this throw: pg_parse_json() returns its errors, but for two: it checks
 * the stack once per nesting level (so the depth is bounded by the caller, KT_MAX_JSON_DEPTH), and up
 * to PostgreSQL 15 it throws for a Unicode escape that the server's encoding lacks (so kt_repair_json()
 * leaves only escapes of ASCII). The lexer is told UTF-8, whatever the server's encoding: what is read
 * here is converted by who uses it.
 *
 * Hardly a text holds an escape of the form \uXXXX. Without one the parser is not asked to copy strings, which before
 * PostgreSQL 16 it does character by character, and which would be half of its work: it only checks them. Names are
 * compared where they stand, and only values that are wanted are copied, in runs between their escapes.
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "json.h"

#include <limits.h>

#include "compat.h"
#include "mb/pg_wchar.h"

/* How deep a field of the object itself stands, and one of a row: object, array, object. */
#define FIELD_DEPTH 1
#define ROW_DEPTH 2
#define COLUMN_DEPTH 3

typedef struct Reader
{
	JsonLexContext *lex;
	int depth; /* containers open */
	bool is_object;

	const char *const *names;
	int nnames;
	KtJsonValue *values;
	KtJsonRows *rows;
	bool in_rows; /* within the field that holds them */
	int expected; /* the column that comes next if this row is like the one before */

	bool raw;    /* no string has a \uXXXX: they are taken from the text */
	char *arena; /* room for all of them */

	KtJsonValue *target; /* where the value being read goes, or NULL */
	int target_depth;    /* how many containers hold that value */
	KtJsonValue value;   /* what is read of it so far */
	const char *start;   /* where it begins in the text */
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

static bool
is_name(const char *wanted, const char *name, size_t len)
{
	return strncmp(wanted, name, len) == 0 && wanted[len] == '\0';
}

/* Which of the names it is, or -1. The one that is expected is tried first. */
static int
find_name(const char *const *names, int nnames, const char *name, size_t len, int expected)
{
	int i;

	if (expected < nnames && is_name(names[expected], name, len))
		return expected;
	for (i = 0; i < nnames; i++)
		if (is_name(names[i], name, len))
			return i;
	return -1;
}

/* Is the quote at p part of a string? A name's first quote never follows a backslash. */
static bool
is_escaped(const char *p)
{
	bool escaped = false;

	while (*--p == '\\')
		escaped = !escaped;
	return escaped;
}

/*
 * The name of the field whose value the lexer has come to: what stands in quotes before the colon. Escapes in it are
 * left as they are, for it is no name that is wanted then: those are made of characters that only \uXXXX can stand for.
 */
static const char *
name_before_value(const Reader *reader, size_t *len)
{
	const char *end = reader->lex->prev_token_terminator - 1; /* the colon */
	const char *begin;

	while (*--end != '"')
		;
	begin = end;
	while (begin[-1] != '"' || is_escaped(begin - 1))
		begin--;
	*len = (size_t) (end - begin);
	return begin;
}

/* Is there a \uXXXX in one of the strings? What is no JSON may be answered in either way. */
static bool
has_unicode_escape(const char *text, size_t len)
{
	const char *end = text + len;
	const char *p = text;

	while (p < end && (p = memchr(p, '\\', (size_t) (end - p))) != NULL)
	{
		if (p + 1 < end && p[1] == 'u')
			return true;
		p += 2;
	}
	return false;
}

/* What a backslash and this character stand for. */
static char
unescaped(char c)
{
	switch (c)
	{
		case 'b':
			return '\b';
		case 'f':
			return '\f';
		case 'n':
			return '\n';
		case 'r':
			return '\r';
		case 't':
			return '\t';
		default:
			return c;
	}
}

/* The string whose checked characters lie between, in the arena: it never holds more than the text does. */
static char *
keep(Reader *reader, const char *begin, const char *end)
{
	char *copy = reader->arena;

	for (;;)
	{
		const char *escape = memchr(begin, '\\', (size_t) (end - begin));
		size_t len = (size_t) ((escape != NULL ? escape : end) - begin);

		memcpy(reader->arena, begin, len);
		reader->arena += len;
		if (escape == NULL)
			break;
		*reader->arena++ = unescaped(escape[1]);
		begin = escape + 2;
	}
	*reader->arena++ = '\0';
	return copy;
}

static bool
is_row_place(const Reader *reader)
{
	return reader->in_rows && reader->depth == ROW_DEPTH;
}

static void
row_begins(KtJsonRows *rows)
{
	KtJsonValue *row;

	if (rows->nrows >= rows->max)
	{
		rows->nrows++;
		return;
	}
	if (rows->nrows == rows->capacity)
	{
		int capacity = Max(16, rows->capacity * 2);
		Size size = (Size) capacity * rows->ncolumns * sizeof(KtJsonValue);

		rows->values = rows->values == NULL ? palloc(size) : repalloc(rows->values, size);
		rows->capacity = capacity;
	}
	row = &rows->values[(Size) rows->nrows * rows->ncolumns];
	memset(row, 0, rows->ncolumns * sizeof(KtJsonValue));
	rows->nrows++;
}

static void
container_begins(Reader *reader, KtJsonKind kind)
{
	if (reader->target != NULL && reader->depth == reader->target_depth)
		reader->value.kind = kind;
	if (reader->depth == 0)
		reader->is_object = kind == KT_JSON_OBJECT;
	else if (is_row_place(reader) && kind == KT_JSON_OBJECT)
	{
		row_begins(reader->rows);
		reader->expected = 0;
	}
	else if (is_row_place(reader) || (reader->in_rows && reader->depth == FIELD_DEPTH))
		reader->rows->is_array_of_objects = reader->depth == FIELD_DEPTH && kind == KT_JSON_ARRAY;
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

/* The token is palloc'd for us: a string's characters (NULL if raw), anything else as it stands. */
static KT_JSON_ACTION
on_scalar(void *state, char *token, JsonTokenType type)
{
	Reader *reader = state;

	if (reader->target != NULL && reader->depth == reader->target_depth)
	{
		reader->value.kind = kind_of_scalar(type);
		reader->value.text =
			token != NULL ? token
						  : keep(reader, reader->start + 1, reader->lex->prev_token_terminator - 1);
	}
	else
	{
		if (is_row_place(reader))
			reader->rows->is_array_of_objects = false;
		if (token != NULL)
			pfree(token);
	}
	KT_JSON_GO_ON;
}

/* A field begins: is it one that is wanted, here? */
static KT_JSON_ACTION
on_field_start(void *state, char *name, bool isnull)
{
	Reader *reader = state;
	KtJsonRows *rows = reader->rows;
	bool is_column = reader->depth == COLUMN_DEPTH && reader->in_rows && rows->nrows > 0 &&
	                 rows->nrows <= rows->max;
	const char *text = name;
	size_t len;
	int i;

	if (reader->depth != FIELD_DEPTH && !is_column)
		KT_JSON_GO_ON;
	if (reader->raw)
		text = name_before_value(reader, &len);
	else
		len = strlen(name);
	if (is_column)
	{
		i = find_name(rows->columns, rows->ncolumns, text, len, reader->expected);
		reader->expected = i + 1;
		reader->target =
			i < 0 ? NULL : &rows->values[(Size) (rows->nrows - 1) * rows->ncolumns + i];
	}
	else
	{
		reader->in_rows = rows != NULL && is_name(rows->name, text, len);
		if (reader->in_rows)
		{
			/* of two fields of one name the last; whether this one is a list shows its value */
			rows->nrows = 0;
			rows->is_array_of_objects = false;
		}
		i = find_name(reader->names, reader->nnames, text, len, reader->nnames);
		reader->target = i < 0 ? NULL : &reader->values[i];
	}
	reader->target_depth = reader->depth;
	memset(&reader->value, 0, sizeof(reader->value));
	reader->start = reader->lex->token_start;
	KT_JSON_GO_ON;
}

static bool
same_value(const KtJsonValue *a, const KtJsonValue *b)
{
	return a->kind == b->kind && strcmp(a->text, b->text) == 0;
}

static KT_JSON_ACTION
on_field_end(void *state, char *name, bool isnull)
{
	Reader *reader = state;
	KtJsonValue *target = reader->target;
	KtJsonValue *value = &reader->value;

	if (name != NULL)
		pfree(name);
	if (target == NULL || reader->depth != reader->target_depth)
		KT_JSON_GO_ON;
	if (value->text == NULL)
		value->text = pnstrdup(reader->start, reader->lex->prev_token_terminator - reader->start);
	value->contradictory =
		target->contradictory || (target->kind != KT_JSON_ABSENT && !same_value(target, value));
	*target = *value;
	reader->target = NULL;
	KT_JSON_GO_ON;
}

bool
kt_json_read(const char *text, size_t len, const char *const *names, int nnames,
             KtJsonValue *values, KtJsonRows *rows)
{
	Reader reader = {0};
	JsonSemAction actions = {0};

	memset(values, 0, nnames * sizeof(KtJsonValue));
	if (len > INT_MAX)
		return false;
	reader.names = names;
	reader.nnames = nnames;
	reader.values = values;
	reader.rows = rows;
	reader.raw = !has_unicode_escape(text, len);
	reader.arena = reader.raw ? palloc(len + 1) : NULL;
	reader.lex = kt_json_lexer(unconstify(char *, text), (int) len, !reader.raw);
	actions.semstate = &reader;
	actions.object_start = on_object_start;
	actions.object_end = on_container_end;
	actions.array_start = on_array_start;
	actions.array_end = on_container_end;
	actions.object_field_start = on_field_start;
	actions.object_field_end = on_field_end;
	actions.scalar = on_scalar;
	return pg_parse_json(reader.lex, &actions) == JSON_SUCCESS && reader.is_object;
}
