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
#include "variables.h"

PG_FUNCTION_INFO_V1(kridtech_variables);
PG_FUNCTION_INFO_V1(kridtech_transcript_turns);

/* kridtech_variables(jsonb) returns jsonb; strict */
Datum
kridtech_variables(PG_FUNCTION_ARGS)
{
	Jsonb *object = kt_variables_object(PG_GETARG_JSONB_P(0));

	if (object == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(object);
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
