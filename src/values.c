/*
 * Pure SQL functions on what a webhook brings: its variables as one object, its transcript as turns.
 *
 * Immutable and parallel safe: they read nothing but their argument.
 */
#include "postgres.h"

#include "compat.h"
#include "fmgr.h"
#include "transcript.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

PG_FUNCTION_INFO_V1(kridtech_variables);
PG_FUNCTION_INFO_V1(kridtech_transcript_turns);

/* One element of the webhook's array: {"variable": name, "value": anything}. False for any other. */
static bool
read_variable(JsonbValue *element, JsonbValue *name, JsonbValue *value)
{
	static char name_key[] = "variable";
	static char value_key[] = "value";
	JsonbValue key = {.type = jbvString};
	JsonbValue *found;

	if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
		return false;
	key.val.string.val = name_key;
	key.val.string.len = strlen(name_key);
	found = findJsonbValueFromContainer(element->val.binary.data, JB_FOBJECT, &key);
	if (found == NULL || found->type != jbvString)
		return false;
	*name = *found;
	key.val.string.val = value_key;
	key.val.string.len = strlen(value_key);
	found = findJsonbValueFromContainer(element->val.binary.data, JB_FOBJECT, &key);
	if (found == NULL)
		value->type = jbvNull;
	else
		*value = *found;
	return true;
}

/*
 * kridtech_variables(jsonb) returns jsonb
 *
 * Of two elements of one name the last counts, elements of another shape are passed over, an element
 * without a value has the value null. An object is returned as it is; anything else gives NULL.
 */
Datum
kridtech_variables(PG_FUNCTION_ARGS)
{
	Jsonb *variables = PG_GETARG_JSONB_P(0);
	JsonbParseState *state = NULL;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue element;
	JsonbValue name;
	JsonbValue value;

	if (JB_ROOT_IS_OBJECT(variables))
		PG_RETURN_JSONB_P(variables);
	if (!JB_ROOT_IS_ARRAY(variables) || JB_ROOT_IS_SCALAR(variables))
		PG_RETURN_NULL();
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	iterator = JsonbIteratorInit(&variables->root);
	while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM || !read_variable(&element, &name, &value))
			continue;
		pushJsonbValue(&state, WJB_KEY, &name);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/* A slice of the transcript as text, with the ends of its lines made alike. */
static Datum
text_of_slice(const char *bytes, size_t len)
{
	text *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + kt_transcript_copy(VARDATA(result), bytes, len));
	return PointerGetDatum(result);
}

/* kridtech_transcript_turns(text) returns setof (turn, speaker, utterance) */
Datum
kridtech_transcript_turns(PG_FUNCTION_ARGS)
{
	text *transcript = PG_GETARG_TEXT_PP(0);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext per_turn;
	MemoryContext caller;
	KtTurnCursor cursor;
	KtTurn turn;
	int number = 0;

	InitMaterializedSRF(fcinfo, 0);
	per_turn = AllocSetContextCreate(CurrentMemoryContext, "kridtech turn", ALLOCSET_DEFAULT_SIZES);
	kt_transcript_begin(&cursor, VARDATA_ANY(transcript), VARSIZE_ANY_EXHDR(transcript));
	while (kt_transcript_next(&cursor, &turn))
	{
		Datum values[3];
		bool nulls[3] = {false, turn.speaker == NULL, false};

		CHECK_FOR_INTERRUPTS();
		caller = MemoryContextSwitchTo(per_turn);
		values[0] = Int32GetDatum(++number);
		values[1] =
			turn.speaker != NULL ? text_of_slice(turn.speaker, turn.speaker_len) : (Datum) 0;
		values[2] = text_of_slice(turn.utterance, turn.utterance_len);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(per_turn);
	}
	MemoryContextDelete(per_turn);
	return (Datum) 0;
}
