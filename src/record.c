/*
 * The results of a turn: into the tables by queue.c, what they teach about the accounts by gate.c, and into the
 * counters.
 *
 * Recording and learning are one unit of work, so that a request that goes back to 'queued' for a refused key
 * never stands there without the pause that keeps it from being sent again at once.
 */
#include "postgres.h"

#include "turn.h"

#include "convert.h"
#include "fault.h"

static void
convert_result(KtResult *result)
{
	result->error = kt_convert_to_server(result->error);
	result->detail = kt_convert_to_server(result->detail);
	result->answer_head = kt_convert_to_server(result->answer_head);
	result->call_id = kt_convert_to_server(result->call_id);
	result->call_status = kt_convert_to_server(result->call_status);
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
		KtGate *gate = &d->gates.gates[flight->gate];
		bool known = flight->effect == KT_EFFECT_UNCLEAR || kt_air_is_outdated(&d->air, flight) ||
		             (flight->effect == KT_EFFECT_NONE && !gate->has_pause && gate->failures == 0);

		if (flight->conflict)
			kt_gate_conflict(gate, kt_convert_to_server(flight->result.error));
		for (j = 0; j < i && !known; j++)
			known = flights[j]->gate == flight->gate && flights[j]->effect == flight->effect &&
			        flight->effect != KT_EFFECT_UNREACHABLE;
		if (!known)
			kt_gate_learn(gate, flight->effect, flight->retry_after,
			              kt_convert_to_server(flight->result.error));
	}
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
	learn(turn->d, turn->record, turn->nrecord);
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
