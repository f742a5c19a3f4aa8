/*
 * What a turn claims: candidates from the stock, as many as places in the air, accounts and pace allow.
 *
 * Everything that may forbid a claim is looked at in the claim's own transaction: the identity, the epoch, the
 * pauses, the keys. The claim itself is one statement of queue.c. The flights are made in the same unit, so a
 * request that cannot be built is not claimed.
 */
#include "postgres.h"

#include "turn.h"

#include "fault.h"
#include "http.h"
#include "identity.h"
#include "settings.h"

/* While candidates are in stock, what is committed meanwhile is looked at this often. */
#define RESCAN_US INT64CONST(100000)

/* The statements are planned anew when so many candidates come at once, and this often while any come. */
#define REPLAN_AT 100
#define REPLAN_US INT64CONST(60000000)

/* Claims up to so many requests and makes flights of them. In a unit of work. */
static void
claim(KtTurn *turn, int want)
{
	KtDialer *d = turn->d;
	int64 *ids = palloc(want * sizeof(int64));
	const char **refs = NULL;
	KtClaim *claims = palloc(want * sizeof(KtClaim));
	int n = kt_air_without_flying(&d->air, ids, kt_stock_pick(&d->stock, &d->gates, want, ids));
	int picked = n;
	int i;

	if (n == 0)
		return;
	turn->last_id = ids[0];
	if (kt_correlate)
	{
		refs = palloc(n * sizeof(char *));
		for (i = 0; i < n; i++)
			refs[i] = kt_queue_make_ref(ids[i]);
	}
	n = kt_queue_claim(ids, refs, n, kt_account_id, d->readiness.epoch, d->readiness.born, claims);
	for (i = 0; i < n; i++)
	{
		KtFlight *flight;
		KtGate *gate;

		turn->building = true;
		flight = kt_air_board(&d->air, &claims[i]);
		turn->building = false;
		gate = &d->gates.gates[flight->gate];
		turn->claimed[turn->nclaimed++] = flight;
		if (gate->closed != NULL)
			kt_gate_probed(gate);
	}
	kt_stock_note(&d->stock, picked, n);
	if (kt_stock_is_fruitless(&d->stock))
		d->hold_until = kt_http_now() + KT_FAILURE_US;
	if (n > 0)
		KT_FAULT("claim-executed");
}

/*
 * Is this run still the last one, and since when is the queue this database's own? Looked up in the claim's own
 * transaction: a restore may replace the whole extension between two checks of readiness.
 */
static bool
is_last_run(KtDialer *d)
{
	char *difference;

	if (kt_identity_is_own(&difference) &&
	    kt_identity_epoch(&d->readiness.born) == d->readiness.epoch)
		return true;
	d->check_at = 0;
	return false;
}

/* Why nothing may be claimed now, or NULL. In a unit of work. */
static const char *
reason_to_hold(KtDialer *d)
{
	if (!kt_settings_usable())
		return "kridtech.base_url is not usable";
	if (d->gates.all_closed)
		return "paused";
	if (kt_max_unknown > 0 && kt_queue_recent_unknown(kt_max_unknown) >= kt_max_unknown)
		return psprintf("holding: %d requests of the last hour are unknown (kridtech.max_unknown); "
		                "resolve them with kridtech_resolve_call()",
		                kt_max_unknown);
	return NULL;
}

static bool
needs_scan(const KtDialer *d, int64 now)
{
	if (!kt_stock_has(&d->stock))
		return d->look || d->stock.full;
	return d->look && !kt_stock_is_stuck(&d->stock) &&
	       (d->slot->urgent || now - d->stock.scanned_at >= RESCAN_US);
}

void
kt_turn_claim(KtTurn *turn)
{
	KtDialer *d = turn->d;
	int64 now = kt_http_now();
	int want = Min(kt_air_free_places(&d->air), d->claim_one ? 1 : kt_air_batch(&d->air));
	const char *hold;

	if (!is_last_run(d))
		return;
	kt_gate_refresh(&d->gates);
	hold = reason_to_hold(d);
	if (hold == NULL && d->stock.foreign)
		kt_shmem_report(d->slot, false,
		                "dialling, but not requests that were queued before the extension was "
		                "made here; kridtech_adopt() lets them be dialled");
	else
		kt_shmem_report(d->slot, hold == NULL, hold != NULL ? hold : "dialling");
	d->held = hold != NULL;
	if (d->held)
		d->look = false; /* a wake or the next poll asks again */
	want = kt_pace_allow(&d->pace, want, now);
	if (d->held || want == 0)
		return;
	if (needs_scan(d, now))
	{
		d->slot->urgent = false;
		kt_stock_scan(&d->stock, &d->gates, d->readiness.born);
		if (kt_stock_has(&d->stock))
			KT_FAULT("scanned");
		d->look = false;
		if (d->stock.n >= REPLAN_AT || (d->stock.n > 0 && now >= d->replan_at))
		{
			kt_queue_replan();
			d->replan_at = now + REPLAN_US;
		}
	}
	claim(turn, want);
}
