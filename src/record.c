/*
 * The results of a turn: into the tables by queueresults.c, what they teach about the accounts by gate.c, and into the
 * counters.
 *
 * What they teach is written in a unit of its own, after the results are safe: somebody's open transaction on
 * kridtech.pauses must not keep a callId from being recorded. Until it is written the account's gate is shut in
 * memory, so that a request that goes back to 'queued' for a refused key is not sent again meanwhile. Should the
 * dialer die in between, the next one is refused once more, which proves that nothing is applied.
 */
#include "postgres.h"

#include "turn.h"

#include "convert.h"
#include "extension.h"
#include "fault.h"
#include "http.h"
#include "utils/guc.h"
#include "xact.h"

static void
convert_result(KtResult *result)
{
	result->error = kt_convert_to_server(result->error);
	result->detail = kt_convert_to_server(result->detail);
	result->answer_head = kt_convert_to_server(result->answer_head);
	result->call_id = kt_convert_to_server(result->call_id);
	result->call_status = kt_convert_to_server(result->call_status);
}

/* How long an account's gate is shut in memory for a lesson that could not be written yet. */
#define LESSON_US INT64CONST(5000000)

/* How long writing it waits for a lock, in ms. */
#define LESSON_PATIENCE "100"

static KtGate *
gate_of(const KtDialer *d, const KtFlight *flight)
{
	return &d->gates.gates[flight->gate];
}

static bool
teaches(const KtDialer *d, const KtFlight *flight)
{
	const KtGate *gate = gate_of(d, flight);

	if (flight->effect == KT_EFFECT_UNCLEAR || kt_air_is_outdated(&d->air, flight))
		return false;
	return flight->effect != KT_EFFECT_NONE || gate->has_pause || gate->failures > 0;
}

/* What the ends teach about the accounts, each lesson once a batch. */
static void
learn(KtDialer *d, KtFlight **flights, int n)
{
	int i;
	int j;

	for (i = 0; i < n; i++)
	{
		KtFlight *flight = flights[i];
		bool known = !teaches(d, flight);

		if (flight->conflict)
			kt_gate_conflict(gate_of(d, flight), kt_convert_to_server(flight->result.error));
		for (j = 0; j < i && !known; j++)
			known = flights[j]->gate == flight->gate && flights[j]->effect == flight->effect &&
			        flight->effect != KT_EFFECT_UNREACHABLE;
		if (!known)
			kt_gate_learn(gate_of(d, flight), flight->effect, flight->retry_after,
			              kt_convert_to_server(flight->result.error));
	}
}

static void
learn_work(void *argument)
{
	KtTurn *turn = argument;
	KtOwner owner;

	kt_owner_begin(&owner);
	(void) set_config_option("lock_timeout", LESSON_PATIENCE, PGC_SUSET, PGC_S_SESSION,
	                         GUC_ACTION_LOCAL, true, 0, false);
	learn(turn->d, turn->record, turn->nrecord);
	kt_owner_end(&owner);
}

/* Shuts the gates of the accounts that are about to be paused. */
static void
shut_gates(KtTurn *turn)
{
	int i;

	for (i = 0; i < turn->nrecord; i++)
		if (turn->record[i]->conflict ||
		    (kt_gate_shuts(turn->record[i]->effect) && teaches(turn->d, turn->record[i])))
			gate_of(turn->d, turn->record[i])->shut_until = kt_http_now() + LESSON_US;
}

static void
open_gates(KtTurn *turn)
{
	int i;

	for (i = 0; i < turn->nrecord; i++)
		gate_of(turn->d, turn->record[i])->shut_until = 0;
}

void
kt_turn_learn(KtTurn *turn)
{
	bool any = false;
	int i;

	for (i = 0; i < turn->nrecord; i++)
		any = any || turn->record[i]->conflict || teaches(turn->d, turn->record[i]);
	if (!any)
		return;
	if (kt_xact_run("pausing accounts", learn_work, turn, NULL, NULL, 0) == KT_XACT_DONE)
		open_gates(turn);
	else
		shut_gates(turn);
	turn->d->look = true;
}

void
kt_turn_record(KtTurn *turn)
{
	KtResult *results = palloc(turn->nrecord * sizeof(KtResult));
	int i;

	for (i = 0; i < turn->nrecord; i++)
	{
		results[i] = turn->record[i]->result;
		convert_result(&results[i]);
	}
	kt_queue_record(results, turn->nrecord, turn->d->readiness.epoch, &turn->notices);
	shut_gates(turn);
	KT_FAULT("record-executed");
}

void
kt_turn_count(KtDialer *d, KtFlight **flights, int n)
{
	static const KtCounter counter[] = {
		[KT_NEXT_PLACED] = KT_COUNT_PLACED,
		[KT_NEXT_FAILED] = KT_COUNT_FAILED,
		[KT_NEXT_UNKNOWN] = KT_COUNT_UNKNOWN,
		[KT_NEXT_QUEUED] = KT_COUNT_REQUEUED,
	};
	int i;

	kt_count(d->slot, KT_COUNT_RESULT_BATCHES, 1);
	for (i = 0; i < n; i++)
	{
		kt_count(d->slot, counter[flights[i]->result.state], 1);
		/* what was set back can be claimed again */
		if (flights[i]->result.state == KT_NEXT_QUEUED)
			d->look = true;
	}
}

/* ---- a callId that is somebody else's ------------------------------------------------------------------- */

typedef struct Doubt
{
	const KtFlight *flight;
	bool taken;
} Doubt;

static void
doubt_work(void *argument)
{
	Doubt *doubt = argument;
	KtOwner owner;

	kt_owner_begin(&owner);
	doubt->taken =
		kt_queue_is_taken(kt_convert_to_server(doubt->flight->result.call_id), doubt->flight->id);
	kt_owner_end(&owner);
}

bool
kt_turn_is_taken(const KtFlight *flight)
{
	Doubt doubt = {flight, false};

	return flight->result.call_id != NULL &&
	       kt_xact_run("looking for a callId's request", doubt_work, &doubt, NULL, NULL, 0) ==
	           KT_XACT_DONE &&
	       doubt.taken;
}
