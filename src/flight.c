/*
 * The requests in the air: on the network, or landed with a result that is not recorded yet.
 *
 * Why a claim is sent at most once: kt_air_send() is called once per boarded flight, after the claim's
 * commit, and forgets the request as it hands it over; kt_http never sends anything again by itself. Why
 * no result is lost: a flight keeps its place, and its result, until kt_air_end().
 */
#include "postgres.h"

#include "flight.h"

#include "api.h"
#include "convert.h"
#include "limits.h"
#include "miscadmin.h"
#include "retry.h"
#include "settings.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* No more flights begin while the bodies in the air are so many bytes: few requests have large ones. */
#define MAX_BYTES INT64CONST(67108864)

/* CURLE_FAILED_INIT */
#define FAILED_INIT 2

void
kt_air_init(KtAir *air, MemoryContext context, KtSlot *slot, KtGates *gates)
{
	memset(air, 0, sizeof(*air));
	air->context = context;
	air->slot = slot;
	air->gates = gates;
	/* all of them, once: what is in the air is known to the network by its address */
	air->flights = MemoryContextAllocZero(context, KT_MAX_CONCURRENT * sizeof(KtFlight));
	air->http = kt_http_create(kt_max_concurrent_requests);
	if (air->http == NULL)
		ereport(FATAL,
		        (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("could not set up the HTTP client")));
}

void
kt_air_resize(KtAir *air, int size)
{
	kt_http_keep(air->http, size);
	air->size = Max(size, air->size);
}

int
kt_air_free_places(const KtAir *air)
{
	if (air->bytes >= MAX_BYTES)
		return 0;
	return Max(0, Min(kt_max_concurrent_requests, air->size) - air->taken);
}

/*
 * What a request takes of the processor, roughly. Where all places in the air could not be kept busy at that rate,
 * the network is not what is waited for, and large batches save work. Where they can, answers tend to come in one
 * burst and to be sent again in one burst, with all places empty meanwhile: small batches pull the bursts apart.
 */
#define WORK_US 60
#define LARGE_BATCH 500
#define SMALL_BATCH 64

int
kt_air_batch(const KtAir *air)
{
	return air->latency_us > (int64) kt_max_concurrent_requests * WORK_US ? SMALL_BATCH
	                                                                      : LARGE_BATCH;
}

static int
compare_ids(const void *a, const void *b)
{
	int64 left = *(const int64 *) a;
	int64 right = *(const int64 *) b;

	return (left > right) - (left < right);
}

int
kt_air_without_flying(const KtAir *air, int64 *ids, int n)
{
	int64 *flying = palloc(Max(air->taken, 1) * sizeof(int64));
	int nflying = 0;
	int kept = 0;
	int i;

	for (i = 0; i < air->size && nflying < air->taken; i++)
		if (air->flights[i].taken)
			flying[nflying++] = air->flights[i].id;
	qsort(flying, nflying, sizeof(int64), compare_ids);
	for (i = 0; i < n; i++)
		if (bsearch(&ids[i], flying, nflying, sizeof(int64), compare_ids) == NULL)
			ids[kept++] = ids[i];
	return kept;
}

/* ---- beginning and end ------------------------------------------------------------------------------- */

static KtFlight *
take(KtAir *air)
{
	int i;

	for (i = 0; i < air->size; i++)
		if (!air->flights[i].taken)
		{
			KtFlight *flight = &air->flights[i];
			MemoryContext context = flight->context;

			if (context == NULL)
				context =
					AllocSetContextCreate(air->context, "kridtech flight", ALLOCSET_SMALL_SIZES);
			memset(flight, 0, sizeof(*flight));
			flight->context = context;
			flight->gate = -1;
			flight->taken = true;
			air->taken++;
			return flight;
		}
	elog(ERROR, "more claims than places in the air");
	return NULL;
}

static void
forget_key(KtFlight *flight)
{
	if (flight->key != NULL)
	{
		explicit_bzero(flight->key, strlen(flight->key));
		pfree(flight->key);
	}
	if (flight->stamp != NULL)
		pfree(flight->stamp);
	if (flight->base_url != NULL)
		pfree(flight->base_url);
	flight->key = flight->stamp = flight->base_url = NULL;
}

void
kt_air_end(KtAir *air, KtFlight *flight)
{
	if (flight->transfer != NULL)
		(void) kt_http_abort(air->http, flight->transfer);
	if (flight->gate >= 0)
		air->gates->gates[flight->gate].in_flight--;
	if (flight->landed)
		air->landed--;
	air->bytes -= flight->bytes;
	kt_api_forget(&flight->http);
	forget_key(flight);
	MemoryContextReset(flight->context);
	flight->taken = false;
	air->taken--;
}

static KtFlight *
fill(KtAir *air, KtFlight *flight, const KtClaim *claim)
{
	KtApiRequest request = {.endpoint = KT_ENDPOINT_CREATE_CALL};
	KtGate *gate;

	flight->id = claim->id;
	flight->attempts = claim->attempts;
	flight->gate = kt_gate_find(air->gates, claim->account_id);
	gate = &air->gates->gates[flight->gate];
	gate->in_flight++;
	request.account_id = kt_convert_to_utf8(claim->account_id);
	request.to_number = claim->to_number;
	if (claim->dynamic_variables != NULL)
		request.dynamic_variables = kt_convert_to_utf8(claim->dynamic_variables);
	request.ref = claim->ref;
	/* since the scan the request may have come to another account: by UPDATE, by another default */
	if (gate->key == NULL || (gate->closed != NULL && !gate->may_probe))
		ereport(ERROR,
		        (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
		         errmsg("the account of call request " INT64_FORMAT " has changed", claim->id)));
	/* not in the flight's own context, which is emptied once it is sent */
	flight->key = MemoryContextStrdup(air->context, gate->key);
	if (gate->stamp != NULL)
		flight->stamp = MemoryContextStrdup(air->context, gate->stamp);
	flight->base_url = MemoryContextStrdup(air->context, kt_base_url);
	kt_api_build(&request, flight->key, &flight->http);
	flight->http.owner = flight;
	flight->bytes = (int64) flight->http.body_len;
	air->bytes += flight->bytes;
	return flight;
}

KtFlight *
kt_air_board(KtAir *air, const KtClaim *claim)
{
	KtFlight *flight = take(air);
	MemoryContext caller = MemoryContextSwitchTo(flight->context);

	PG_TRY();
	{
		fill(air, flight, claim);
	}
	PG_CATCH();
	{
		kt_air_end(air, flight);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return flight;
}

static void
land(KtAir *air, KtFlight *flight)
{
	flight->landed = true;
	flight->transfer = NULL;
	air->landed++;
	air->bytes -= flight->bytes;
	flight->bytes = 0;
}

/* ---- what an attempt's end means --------------------------------------------------------------------- */

static TimestampTz
after_back_off(int failures)
{
	uint64 random = 0;

	(void) pg_strong_random(&random, sizeof(random));
	return GetCurrentTimestamp() + kt_retry_delay(failures, random);
}

/* "unknown (HTTP status 500): the API's words" */
static char *
error_text(KtOutcome outcome, int status, const char *words)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, kt_outcome_word(outcome));
	if (status != 0)
		appendStringInfo(&text, " (HTTP status %d)", status);
	if (words != NULL)
		appendStringInfo(&text, ": %s", words);
	return text.data;
}

/* Fills the result of a flight from how its transfer ended. UTF-8; in the flight's context. */
static void
judge(KtFlight *flight, const KtHttpAnswer *http)
{
	const char *key = flight->key;
	KtResult *result = &flight->result;
	KtApiAnswer answer;
	KtOutcome outcome = kt_api_judge(KT_ENDPOINT_CREATE_CALL, http, &answer);
	KtDecision decision = kt_outcome_decide(outcome, http->status);
	const char *words = http->curl_code != 0 ? http->error : answer.words;

	words = words != NULL ? kt_api_presentable(words, strlen(words), key) : NULL;
	result->id = flight->id;
	result->state = decision.state;
	result->uses_attempt = decision.uses_attempt;
	result->outcome = kt_outcome_word(outcome);
	result->curl_code = http->curl_code;
	result->bytes_sent = http->bytes_sent;
	result->http_status = http->status;
	result->call_id = answer.call_id;
	result->call_status = answer.call_status;
	if (outcome != KT_OUTCOME_OK)
	{
		result->detail = words;
		result->error = error_text(outcome, http->status, words);
		result->answer_head = kt_api_presentable(http->body, http->body_len, key);
	}
	if (outcome == KT_OUTCOME_NOT_SENT)
	{
		if (flight->attempts >= kt_retry_limit)
			result->state = KT_NEXT_FAILED;
		else
			result->next_attempt_at = after_back_off(flight->attempts);
	}
	result->live = !kt_outcome_nothing_applied(outcome);
	flight->effect = decision.effect;
	flight->retry_after = http->retry_after;
}

/* The result of a transfer that was given up, or held back. */
static void
judge_given_up(KtFlight *flight, int64 bytes_sent, const char *why)
{
	MemoryContext caller = MemoryContextSwitchTo(flight->context);
	KtResult *result = &flight->result;
	bool unsent = bytes_sent == 0;

	result->id = flight->id;
	result->state = unsent ? KT_NEXT_QUEUED : KT_NEXT_UNKNOWN;
	result->live = !unsent;
	result->outcome = kt_outcome_word(unsent ? KT_OUTCOME_NOT_SENT : KT_OUTCOME_UNKNOWN);
	result->bytes_sent = bytes_sent;
	result->detail = why;
	result->error = unsent ? NULL : error_text(KT_OUTCOME_UNKNOWN, 0, why);
	flight->effect = KT_EFFECT_UNCLEAR;
	flight->retry_after = -1;
	MemoryContextSwitchTo(caller);
}

/*
 * The network took nothing: memory is out, or too many resolvers are stuck. As for any other that could not be sent it
 * waits longer each time, and after some the account is tried by one request at a time.
 */
static void
judge_unstarted(KtFlight *flight)
{
	KtHttpAnswer answer = {.curl_code = FAILED_INIT,
	                       .error = "the request could not be started",
	                       .body = "",
	                       .retry_after = -1};
	MemoryContext caller = MemoryContextSwitchTo(flight->context);

	judge(flight, &answer);
	MemoryContextSwitchTo(caller);
}

/* ---- sending ------------------------------------------------------------------------------------------- */

/* What a boarded flight would have sent, and its secrets. */
static void
forget_request(KtFlight *flight)
{
	kt_api_forget(&flight->http);
	memset(&flight->http, 0, sizeof(flight->http));
	MemoryContextReset(flight->context);
}

void
kt_air_keep_back(KtAir *air, KtFlight *flight, const char *why)
{
	forget_request(flight);
	judge_given_up(flight, 0, why);
	land(air, flight);
}

void
kt_air_send(KtAir *air, KtFlight *flight)
{
	flight->transfer = kt_http_submit(air->http, &flight->http);
	forget_request(flight);
	if (flight->transfer == NULL)
	{
		judge_unstarted(flight);
		land(air, flight);
	}
}

void
kt_air_give_up(KtAir *air, const char *why)
{
	int i;

	for (i = 0; i < air->size; i++)
	{
		KtFlight *flight = &air->flights[i];
		int64 sent;

		if (!flight->taken || flight->transfer == NULL)
			continue;
		sent = kt_http_abort(air->http, flight->transfer);
		judge_given_up(flight, sent, why);
		land(air, flight);
	}
}

bool
kt_air_is_outdated(const KtAir *air, const KtFlight *flight)
{
	const char *stamp = air->gates->gates[flight->gate].stamp;

	if (strcmp(flight->base_url, kt_base_url) != 0)
		return true;
	return flight->effect == KT_EFFECT_UNAUTHORIZED && flight->stamp != NULL && stamp != NULL &&
	       strcmp(flight->stamp, stamp) != 0;
}

void
kt_air_doubt(KtAir *air, KtFlight *flight)
{
	MemoryContext caller = MemoryContextSwitchTo(flight->context);
	KtResult *result = &flight->result;

	result->state = KT_NEXT_UNKNOWN;
	result->live = true;
	result->outcome = kt_outcome_word(KT_OUTCOME_UNKNOWN);
	result->detail = "the answer's callId belongs to another request";
	result->error = error_text(KT_OUTCOME_UNKNOWN, result->http_status, result->detail);
	flight->effect = KT_EFFECT_UNCLEAR;
	flight->conflict = true;
	MemoryContextSwitchTo(caller);
}

static void
count_latency(KtSlot *slot, int64 us)
{
	int bucket = 0;

	while (bucket < KT_LATENCY_BUCKETS - 1 && (INT64CONST(1) << bucket) <= us)
		bucket++;
	pg_atomic_fetch_add_u64(&slot->latency[bucket], 1);
}

static bool
is_guest(const KtAir *air, const void *owner)
{
	uintptr_t first = (uintptr_t) air->flights;
	uintptr_t end = (uintptr_t) (air->flights + KT_MAX_CONCURRENT);

	return (uintptr_t) owner < first || (uintptr_t) owner >= end;
}

void
kt_air_collect(KtAir *air)
{
	KtHttpAnswer answer;
	KtHttpTransfer *transfer;

	kt_http_step(air->http);
	while ((transfer = kt_http_reap(air->http, &answer)) != NULL)
	{
		KtFlight *flight = answer.owner;
		MemoryContext caller;

		if (is_guest(air, answer.owner))
		{
			KtGuest *guest = answer.owner;

			guest->land(guest, &answer);
			kt_http_release(air->http, transfer);
			continue;
		}
		caller = MemoryContextSwitchTo(flight->context);
		judge(flight, &answer);
		MemoryContextSwitchTo(caller);
		count_latency(air->slot, answer.total_us);
		air->latency_us += (answer.total_us - air->latency_us) / 16;
		kt_count(air->slot, KT_COUNT_BYTES_SENT, (uint64) answer.bytes_sent);
		kt_count(air->slot, KT_COUNT_BYTES_RECEIVED, answer.body_len);
		kt_http_release(air->http, transfer);
		land(air, flight);
	}
}
