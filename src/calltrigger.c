/*
 * kridtech_call_trigger(): a row of any table becomes a call request.
 *
 * What a trigger's arguments mean for its table is worked out once per statement and kept in the
 * FmgrInfo, which the executor makes for one trigger of one relation in one statement (and, for deferred
 * triggers, for one round of them). The table cannot change under that: it is open, so this session may
 * not alter it, and locked, so no other can. Hence nothing to invalidate, and ALTER TABLE between two
 * statements is noticed. Each partition brings a trigger and a relation of its own, with its own numbers.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "arguments.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "columnreader.h"
#include "commands/trigger.h"
#include "directinsert.h"
#include "extension.h"
#include "fmgr.h"
#include "funcapi.h"
#include "newrequest.h"
#include "parser/parse_coerce.h"
#include "shmem.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(kridtech_call_trigger);

typedef struct Source
{
	AttrNumber attnum;
	KtColumnReader reader;
	JsonbValue name; /* a variable's */
} Source;

/* What a trigger does to its table's rows, for one statement. */
typedef struct Meaning
{
	Source phone;
	int nvariables;
	Source *variables;
	int nkeys; /* the primary key's columns; 0: none */
	Source *keys;
	FmgrInfo key_text; /* the cast to text of a key of one column, where its type has one */
	TupleDesc key_row; /* of a key of several columns */
	FmgrInfo record_out;
	MemoryContext query; /* requests may wait for the statement's end; NULL: they may not */
} Meaning;

/* ---- arguments --------------------------------------------------------------------------------------- */

static void
set_source(Source *source, Form_pg_attribute attribute, MemoryContext context)
{
	source->attnum = attribute->attnum;
	kt_columnreader_init(&source->reader, attribute->atttypid, context);
}

/* The user's column of that name, or NULL. */
static Form_pg_attribute
find_column(TupleDesc desc, const char *name)
{
	int i;

	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (!attribute->attisdropped && strcmp(NameStr(attribute->attname), name) == 0)
			return attribute;
	}
	return NULL;
}

static void
set_column(Source *source, Relation table, const char *name, MemoryContext context)
{
	Form_pg_attribute attribute = find_column(RelationGetDescr(table), name);

	if (attribute == NULL)
		ereport(ERROR,
		        (errcode(ERRCODE_UNDEFINED_COLUMN),
		         errmsg("column \"%s\" of table \"%s\" does not exist", name,
		                RelationGetRelationName(table)),
		         errhint("The arguments of kridtech_call_trigger() are the phone column, then "
		                 "column or variable=column.")));
	/* 18 computes them when they are read, which is not here. */
	if (attribute->attgenerated == 'v')
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
		                errmsg("column \"%s\" of table \"%s\" is a virtual generated column", name,
		                       RelationGetRelationName(table)),
		                errhint("A trigger does not see its value; make it a stored one.")));
	set_source(source, attribute, context);
}

/*
 * "column" or "variable=column". A column whose name is the whole argument goes first, so that one with
 * a '=' in its name can be told; else the first '=' divides.
 */
static void
set_variable(Source *source, Relation table, const char *argument, MemoryContext context)
{
	const char *equals = strchr(argument, '=');
	const char *column = argument;
	size_t len = strlen(argument);

	if (equals != NULL && find_column(RelationGetDescr(table), argument) == NULL)
	{
		column = equals + 1;
		len = equals - argument;
	}
	if (len == 0)
		ereport(ERROR,
		        (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		         errmsg("argument \"%s\" of kridtech_call_trigger() names no variable", argument)));
	set_column(source, table, column, context);
	source->name.type = jbvString;
	source->name.val.string.val = MemoryContextStrdup(context, argument);
	source->name.val.string.len = (int) len;
}

static void
set_variables(Meaning *meaning, TriggerData *data, MemoryContext context)
{
	int n = data->tg_trigger->tgnargs - 1;
	int i;
	int j;

	meaning->nvariables = n;
	meaning->variables = MemoryContextAllocZero(context, Max(n, 1) * sizeof(Source));
	for (i = 0; i < n; i++)
	{
		JsonbValue *name = &meaning->variables[i].name;

		set_variable(&meaning->variables[i], data->tg_relation, data->tg_trigger->tgargs[i + 1],
		             context);
		for (j = 0; j < i; j++)
		{
			JsonbValue *other = &meaning->variables[j].name;

			if (other->val.string.len == name->val.string.len &&
			    memcmp(other->val.string.val, name->val.string.val, name->val.string.len) == 0)
				ereport(ERROR,
				        (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				         errmsg("variable \"%.*s\" is given twice to kridtech_call_trigger()",
				                name->val.string.len, name->val.string.val)));
		}
	}
}

/* ---- the primary key --------------------------------------------------------------------------------- */

/*
 * For a few types a cast to text is not what their output function prints: char(n) loses its blanks, a boolean is
 * true, an inet has its /32. A user's own cast is left out: it might look for what this trigger queues.
 */
static void
set_key_text(Meaning *meaning, Oid type, MemoryContext context)
{
	Oid function = InvalidOid;

	if (find_coercion_pathway(TEXTOID, type, COERCION_EXPLICIT, &function) == COERCION_PATH_FUNC &&
	    function < FirstNormalObjectId)
		fmgr_info_cxt(function, &meaning->key_text, context);
}

static void
set_keys_of_index(Meaning *meaning, Relation table, Form_pg_index index, MemoryContext context)
{
	TupleDesc desc = RelationGetDescr(table);
	int i;

	meaning->nkeys = index->indnkeyatts;
	meaning->keys = MemoryContextAllocZero(context, meaning->nkeys * sizeof(Source));
	for (i = 0; i < meaning->nkeys; i++)
		set_source(&meaning->keys[i], TupleDescAttr(desc, index->indkey.values[i] - 1), context);
	if (meaning->nkeys == 1)
	{
		set_key_text(meaning, TupleDescAttr(desc, meaning->keys[0].attnum - 1)->atttypid, context);
		return;
	}
	meaning->key_row = CreateTemplateTupleDesc(meaning->nkeys);
	for (i = 0; i < meaning->nkeys; i++)
	{
		Form_pg_attribute key = TupleDescAttr(desc, meaning->keys[i].attnum - 1);

		TupleDescInitEntry(meaning->key_row, i + 1, NULL, key->atttypid, key->atttypmod, 0);
	}
	BlessTupleDesc(meaning->key_row);
	fmgr_info_cxt(F_RECORD_OUT, &meaning->record_out, context);
}

static void
set_keys(Meaning *meaning, Relation table, MemoryContext context)
{
	List *indexes = RelationGetIndexList(table);
	ListCell *cell;

	foreach (cell, indexes)
	{
		HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
		Form_pg_index index;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for index %u", lfirst_oid(cell));
		index = (Form_pg_index) GETSTRUCT(tuple);
		if (index->indisprimary)
			set_keys_of_index(meaning, table, index, context);
		ReleaseSysCache(tuple);
	}
	list_free(indexes);
}

/*
 * Whether no other trigger that fires after the table's rows could look for what this one queues: then
 * requests may be gathered. A partitioned table may have one of its own. Built-in ones are foreign keys' and look
 * at their own tables, but where a row that was changed or deleted (MERGE and ON CONFLICT DO UPDATE do so beside
 * inserting) takes others along, their triggers are fired, so this one may be another's; an UPDATE or MERGE of a
 * table goes on to those that inherit from it, too. (tgisinternal would not tell: before 15 a partition's copy of
 * anybody's trigger is internal.)
 */
static bool
is_alone(TriggerData *data)
{
	TriggerDesc *triggers = data->tg_relation->trigdesc;
	bool for_update = TRIGGER_FOR_UPDATE(data->tg_trigger->tgtype);
	bool takes_along = for_update || kt_directinsert_changes_rows();
	int i;

	if (!kt_directinsert_is_for(RelationGetRelid(data->tg_relation)) ||
	    data->tg_relation->rd_rel->relispartition || data->tg_relation->rd_rel->relhassubclass ||
	    (for_update && has_superclass(RelationGetRelid(data->tg_relation))))
		return false;
	for (i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger *trigger = &triggers->triggers[i];

		if (takes_along && RI_FKey_trigger_type(trigger->tgfoid) == RI_TRIGGER_PK)
			return false;
		if (TRIGGER_FOR_AFTER(trigger->tgtype) && trigger->tgfoid >= FirstNormalObjectId &&
		    trigger->tgfoid != data->tg_trigger->tgfoid)
			return false;
	}
	return true;
}

static void
refuse_misuse(FunctionCallInfo fcinfo)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(data->tg_event) ||
	    !TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
	    !(TRIGGER_FIRED_BY_INSERT(data->tg_event) || TRIGGER_FIRED_BY_UPDATE(data->tg_event)))
		ereport(
			ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
		     errmsg("kridtech_call_trigger() must be fired AFTER INSERT OR UPDATE, FOR EACH ROW")));
	if (data->tg_trigger->tgnargs < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("kridtech_call_trigger() needs the phone column as its argument")));
}

static Meaning *
meaning_of(FunctionCallInfo fcinfo)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	MemoryContext context = fcinfo->flinfo->fn_mcxt;
	Meaning *meaning = fcinfo->flinfo->fn_extra;
	MemoryContext caller;

	if (meaning != NULL)
		return meaning;
	kt_extension_check();
	kt_shmem_require();
	caller = MemoryContextSwitchTo(context);
	meaning = palloc0(sizeof(Meaning));
	set_column(&meaning->phone, data->tg_relation, data->tg_trigger->tgargs[0], context);
	set_variables(meaning, data, context);
	set_keys(meaning, data->tg_relation, context);
	if (is_alone(data))
		meaning->query = context;
	MemoryContextSwitchTo(caller);
	fcinfo->flinfo->fn_extra = meaning;
	return meaning;
}

/* ---- the request ---------------------------------------------------------------------------------------- */

/* The row's variables as a jsonb, or 0 where the trigger names none. */
static Datum
variables_of(Meaning *meaning, TupleTableSlot *row)
{
	JsonbParseState *state = NULL;
	JsonbValue value;
	bool isnull;
	int i;

	if (meaning->nvariables == 0)
		return (Datum) 0;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (i = 0; i < meaning->nvariables; i++)
	{
		Source *source = &meaning->variables[i];
		Datum datum = slot_getattr(row, source->attnum, &isnull);

		pushJsonbValue(&state, WJB_KEY, &source->name);
		value.type = jbvNull;
		if (!isnull)
			kt_columnreader_json(&source->reader, datum, &value);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/*
 * The primary key as text: one column as key::text gives it, several as a row, (7,"x y"), which is what
 * ROW(a, b)::text gives and, unlike any joining of them, can be told apart again. NULL without a key.
 */
static Datum
reference_of(Meaning *meaning, TupleTableSlot *row)
{
	Datum values[INDEX_MAX_KEYS];
	bool nulls[INDEX_MAX_KEYS];
	HeapTuple tuple;
	char *result;
	int len;
	int i;

	for (i = 0; i < meaning->nkeys; i++)
		values[i] = slot_getattr(row, meaning->keys[i].attnum, &nulls[i]);
	if (meaning->nkeys == 0)
		return (Datum) 0;
	if (meaning->nkeys == 1)
	{
		if (nulls[0])
			return (Datum) 0;
		if (OidIsValid(meaning->key_text.fn_oid))
			return FunctionCall1(&meaning->key_text, values[0]);
		result = kt_columnreader_characters(&meaning->keys[0].reader, values[0], &len);
		return PointerGetDatum(cstring_to_text_with_len(result, len));
	}
	tuple = heap_form_tuple(meaning->key_row, values, nulls);
	return CStringGetTextDatum(OutputFunctionCall(&meaning->record_out, HeapTupleGetDatum(tuple)));
}

/* ---- the trigger ------------------------------------------------------------------------------------- */

static void
say_which_trigger(void *argument)
{
	TriggerData *data = argument;

	errcontext("trigger \"%s\" on table \"%s\"", data->tg_trigger->tgname,
	           RelationGetRelationName(data->tg_relation));
}

static void
queue_row(Meaning *meaning, TupleTableSlot *row)
{
	KtNewRequest request = {0};
	char number[KT_PHONE_SIZE];
	char *typed;
	bool isnull;
	int len;
	Datum phone = slot_getattr(row, meaning->phone.attnum, &isnull);

	if (isnull)
		return;
	typed = kt_columnreader_characters(&meaning->phone.reader, phone, &len);
	kt_phone_check(typed, len, number);
	request.to_number = CStringGetTextDatum(number);
	request.dynamic_variables = variables_of(meaning, row);
	request.reference = reference_of(meaning, row);
	(void) kt_newrequest_queue(&request, meaning->query);
}

/* kridtech_call_trigger() returns trigger */
Datum
kridtech_call_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	ErrorContextCallback which = {error_context_stack, say_which_trigger, data};
	Meaning *meaning;

	/* each time: one MERGE may insert, update and delete */
	refuse_misuse(fcinfo);
	error_context_stack = &which;
	meaning = meaning_of(fcinfo);
	queue_row(meaning,
	          TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newslot : data->tg_trigslot);
	error_context_stack = which.previous;
	return PointerGetDatum(NULL);
}
