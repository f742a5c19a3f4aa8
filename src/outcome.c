/*
 * What the end of a request proves about the call it asked for: evidence in, outcome out.
 *
 * A wrong "nothing was applied" rings a person twice, a wrong "failed" costs a missed call, a wrong
 * "unknown" costs a look. So whatever is not listed here as proof is KT_OUTCOME_UNKNOWN.
 */
#include "outcome.h"

#ifdef POSTGRES_H
#error "this file knows nothing of PostgreSQL"
#endif

/* An answer that shows nothing: harmless for a read, undecided for what may have created a call. */
static KtOutcome
inconclusive(const KtEvidence *evidence)
{
	return evidence->places_call ? KT_OUTCOME_UNKNOWN : KT_OUTCOME_UNDOCUMENTED;
}

static KtOutcome
judge_creation(const KtEvidence *evidence)
{
	switch (evidence->call_id)
	{
		case KT_CALL_ID_CREDIBLE:
			if (evidence->success == KT_SUCCESS_FALSE || !evidence->has_all_fields)
				return KT_OUTCOME_UNKNOWN;
			return evidence->success == KT_SUCCESS_TRUE ? KT_OUTCOME_OK : KT_OUTCOME_OK_FLAGGED;
		case KT_CALL_ID_ABSENT:
			return evidence->success == KT_SUCCESS_FALSE ? KT_OUTCOME_DECLINED : KT_OUTCOME_UNKNOWN;
		case KT_CALL_ID_ODD:
		case KT_CALL_ID_CONTRADICTORY:
			return KT_OUTCOME_UNKNOWN;
	}
	return KT_OUTCOME_UNKNOWN;
}

static KtOutcome
judge_read(const KtEvidence *evidence)
{
	switch (evidence->success)
	{
		case KT_SUCCESS_TRUE:
			return evidence->has_all_fields ? KT_OUTCOME_OK : KT_OUTCOME_UNDOCUMENTED;
		case KT_SUCCESS_FALSE:
			return KT_OUTCOME_DECLINED;
		case KT_SUCCESS_ABSENT:
		case KT_SUCCESS_ODD:
			return evidence->has_all_fields ? KT_OUTCOME_OK_FLAGGED : KT_OUTCOME_UNDOCUMENTED;
	}
	return KT_OUTCOME_UNDOCUMENTED;
}

KtOutcome
kt_outcome_judge(const KtEvidence *evidence)
{
	if (evidence->transfer_failed)
	{
		if (evidence->bytes_sent == 0)
			return KT_OUTCOME_NOT_SENT;
		if (evidence->places_call)
			return KT_OUTCOME_UNKNOWN;
		return evidence->unreadable ? KT_OUTCOME_UNDOCUMENTED : KT_OUTCOME_LOST;
	}
	if (evidence->status >= 200 && evidence->status <= 299)
	{
		if (!evidence->is_object)
			return inconclusive(evidence);
		return evidence->places_call ? judge_creation(evidence) : judge_read(evidence);
	}
	switch (evidence->status)
	{
		case 400:
		case 413:
		case 422:
		case 431:
			return KT_OUTCOME_BAD_ARGUMENT;
		case 404:
		case 405:
		case 410:
		case 415:
			return KT_OUTCOME_BAD_ENDPOINT;
		case 401:
		case 403:
		case 407:
			return KT_OUTCOME_UNAUTHORIZED;
		case 402:
			return KT_OUTCOME_NO_CREDITS;
		case 429:
			return KT_OUTCOME_RATE_LIMITED;
		default:
			/* 3xx, 408, 425, 5xx, and whatever is not in the book */
			return inconclusive(evidence);
	}
}

bool
kt_outcome_nothing_applied(KtOutcome outcome)
{
	switch (outcome)
	{
		case KT_OUTCOME_NOT_SENT:
		case KT_OUTCOME_BAD_ARGUMENT:
		case KT_OUTCOME_BAD_ENDPOINT:
		case KT_OUTCOME_UNAUTHORIZED:
		case KT_OUTCOME_NO_CREDITS:
		case KT_OUTCOME_RATE_LIMITED:
		case KT_OUTCOME_DECLINED:
		case KT_OUTCOME_LOST:
		case KT_OUTCOME_UNDOCUMENTED:
			return true;
		case KT_OUTCOME_OK:
		case KT_OUTCOME_OK_FLAGGED:
		case KT_OUTCOME_UNKNOWN:
			return false;
	}
	return false;
}

KtDecision
kt_outcome_decide(KtOutcome outcome, int status)
{
	bool redirected = status >= 300 && status <= 399;
	bool wrong_place = status == 404 || status == 405;

	switch (outcome)
	{
		case KT_OUTCOME_OK:
		case KT_OUTCOME_OK_FLAGGED:
			return (KtDecision){KT_NEXT_PLACED, KT_EFFECT_NONE, true};
		case KT_OUTCOME_NOT_SENT:
			return (KtDecision){KT_NEXT_QUEUED, KT_EFFECT_UNREACHABLE, true};
		case KT_OUTCOME_BAD_ARGUMENT:
		case KT_OUTCOME_DECLINED:
			return (KtDecision){KT_NEXT_FAILED, KT_EFFECT_NONE, true};
		case KT_OUTCOME_BAD_ENDPOINT:
			return (KtDecision){KT_NEXT_FAILED,
			                    wrong_place ? KT_EFFECT_ENDPOINT : KT_EFFECT_UNCLEAR, true};
		case KT_OUTCOME_UNAUTHORIZED:
			return (KtDecision){KT_NEXT_QUEUED, KT_EFFECT_UNAUTHORIZED, false};
		case KT_OUTCOME_NO_CREDITS:
			return (KtDecision){KT_NEXT_QUEUED, KT_EFFECT_CREDITS, false};
		case KT_OUTCOME_RATE_LIMITED:
			return (KtDecision){KT_NEXT_QUEUED, KT_EFFECT_RATE, false};
		case KT_OUTCOME_LOST:
		case KT_OUTCOME_UNDOCUMENTED:
		case KT_OUTCOME_UNKNOWN:
			break;
	}
	return (KtDecision){KT_NEXT_UNKNOWN, redirected ? KT_EFFECT_ENDPOINT : KT_EFFECT_UNCLEAR, true};
}

const char *
kt_outcome_word(KtOutcome outcome)
{
	switch (outcome)
	{
		case KT_OUTCOME_OK:
			return "ok";
		case KT_OUTCOME_OK_FLAGGED:
			return "ok, flagged";
		case KT_OUTCOME_NOT_SENT:
			return "not sent";
		case KT_OUTCOME_BAD_ARGUMENT:
			return "bad argument";
		case KT_OUTCOME_BAD_ENDPOINT:
			return "bad endpoint";
		case KT_OUTCOME_UNAUTHORIZED:
			return "unauthorized";
		case KT_OUTCOME_NO_CREDITS:
			return "no credits";
		case KT_OUTCOME_RATE_LIMITED:
			return "rate limited";
		case KT_OUTCOME_DECLINED:
			return "declined";
		case KT_OUTCOME_LOST:
			return "lost";
		case KT_OUTCOME_UNDOCUMENTED:
			return "undocumented";
		case KT_OUTCOME_UNKNOWN:
			return "unknown";
	}
	return "unknown";
}
