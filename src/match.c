/*
 * Which listed call, if any, is the one that an attempt with a lost answer has placed?
 *
 * A wrong answer gives a lead somebody else's conversation, no answer costs a human a look. So every doubt
 * counts against: whatever cannot be read, whatever may be another attempt's, whatever the list need not
 * show. Two spans of time are looked at:
 *	- the window, the attempt's own time and a small margin: the call must have been created in it;
 *	- the zone, from the attempt's start until it has settled: no other call may have been. A server that
 *	  creates our call late, while somebody calls the same number by hand, thus yields two, and no answer.
 *
 * What it cannot tell: a call that somebody else places to the same number within the window, while ours was
 * never placed. The list does not return the kridtech_ref. A webhook does: once the call's event has come
 * without it, the call is in doubt.
 */
#include "match.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

#ifdef POSTGRES_H
#error "this file knows nothing of PostgreSQL"
#endif

typedef enum Answer
{
	NO,
	MAYBE,
	YES
} Answer;

/* Digits of a number that are compared at most; E.164 has 15. */
#define MAX_DIGITS 32

/* Its digits without leading zeros; false when there is anything but digits and what separates them. */
static bool
digits_of(const char *number, char digits[MAX_DIGITS + 1])
{
	size_t n = 0;
	const char *c;

	for (c = number; *c != '\0'; c++)
	{
		if (strchr(" .-()/", *c) != NULL || (*c == '+' && n == 0) || (*c == '0' && n == 0))
			continue;
		if (*c < '0' || *c > '9' || n == MAX_DIGITS)
			return false;
		digits[n++] = *c;
	}
	digits[n] = '\0';
	return n > 0;
}

static bool
ends_with(const char *text, const char *end)
{
	size_t len = strlen(text);
	size_t end_len = strlen(end);

	return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

/* A national form is the end of the international one, so it may be the same number. */
static Answer
same_number(const char *listed, const char *wanted)
{
	char a[MAX_DIGITS + 1];
	char b[MAX_DIGITS + 1];

	if (listed == NULL || !digits_of(listed, a) || !digits_of(wanted, b))
		return MAYBE;
	if (strcmp(a, b) == 0)
		return YES;
	return ends_with(a, b) || ends_with(b, a) ? MAYBE : NO;
}

static Answer
is_outbound(const char *direction)
{
	if (direction == NULL || strcasecmp(direction, "outbound") == 0)
		return YES;
	return strcasecmp(direction, "inbound") == 0 || strcasecmp(direction, "web") == 0 ? NO : MAYBE;
}

/*
 * A webhook that does not bring back what the attempt sent along speaks against it, but does not prove it:
 * the vendor's agent may change the variables, and anybody may send a webhook.
 */
static Answer
same_ref(const KtMatchCall *call, const char *ref)
{
	if (!call->has_event)
		return YES;
	if (ref == NULL || call->ref == NULL)
		return ref == call->ref ? YES : MAYBE;
	return strcmp(ref, call->ref) == 0 ? YES : MAYBE;
}

static Answer
lesser(Answer a, Answer b)
{
	return a < b ? a : b;
}

static int64_t
later(int64_t time, int64_t by)
{
	return time > INT64_MAX - by ? INT64_MAX : time + by;
}

static int64_t
zone_start(const KtMatchAttempt *attempt)
{
	return attempt->started_at - KT_MATCH_EARLY_US;
}

static int64_t
zone_end(const KtMatchAttempt *attempt, const KtMatchRules *rules)
{
	int64_t ended_at = attempt->ended_at;

	if (ended_at < attempt->started_at) /* the clock was set back meanwhile */
		ended_at = attempt->started_at;
	return later(ended_at, rules->settle);
}

void
kt_match_zone(const KtMatchAttempt *attempt, const KtMatchRules *rules, int64_t *from, int64_t *to)
{
	*from = zone_start(attempt);
	*to = zone_end(attempt, rules);
}

/* An end that was recorded long after the attempt, by the next run of the dialer, is no end of the window. */
static int64_t
window_end(const KtMatchAttempt *attempt, const KtMatchRules *rules)
{
	int64_t given_up_at = later(attempt->started_at, rules->longest);

	return later(attempt->ended_at < given_up_at ? attempt->ended_at : given_up_at,
	             rules->settle < KT_MATCH_LATE_US ? rules->settle : KT_MATCH_LATE_US);
}

/* Whether a time of the API may lie between two of ours. */
static bool
may_lie_between(const KtMatchList *list, int64_t created_at, int64_t from, int64_t to)
{
	return created_at - list->skew_low >= from && created_at - list->skew_high <= to;
}

/* A time that can be reckoned with: within some thousand years. */
static bool
has_time(const KtMatchCall *call)
{
	return call->has_created && call->created_at < INT64_MAX / 64 &&
	       call->created_at > -INT64_MAX / 64;
}

/* Whether it may be a call that this attempt has placed. */
static Answer
may_be_of(const KtMatchList *list, const KtMatchCall *call, const KtMatchAttempt *attempt,
          const KtMatchRules *rules)
{
	Answer answer = call->call_id != NULL ? YES : MAYBE;

	if (call->bound)
		return NO;
	if (call->account_id == NULL && list->shared)
		answer = MAYBE;
	if (call->account_id != NULL && strcmp(call->account_id, attempt->account_id) != 0)
		return NO;
	if (!has_time(call))
		answer = MAYBE;
	else if (!may_lie_between(list, call->created_at, zone_start(attempt),
	                          zone_end(attempt, rules)))
		return NO;
	answer = lesser(answer, is_outbound(call->direction));
	answer = lesser(answer, same_ref(call, attempt->ref));
	return lesser(answer, same_number(call->number, attempt->number));
}

bool
kt_match_covers(const KtMatchList *list, int64_t since)
{
	const KtMatchCall *before = NULL;
	int i;

	if (list->whole)
		return true;
	for (i = 0; i < list->ncalls && list->calls[i].listed; i++)
	{
		const KtMatchCall *call = &list->calls[i];

		if (!has_time(call) || (before != NULL && call->created_at > before->created_at))
			return false;
		before = call;
	}
	return before != NULL && before->created_at < since;
}

static bool
has_rival(const KtMatchAttempt *attempts, int nattempts, int which, const KtMatchRules *rules)
{
	const KtMatchAttempt *attempt = &attempts[which];
	int i;

	for (i = 0; i < nattempts; i++)
	{
		const KtMatchAttempt *other = &attempts[i];

		if (i != which && same_number(other->number, attempt->number) != NO &&
		    zone_start(other) <= zone_end(attempt, rules) &&
		    zone_start(attempt) <= zone_end(other, rules))
			return true;
	}
	return false;
}

static bool
same_call(const KtMatchCall *a, const KtMatchCall *b)
{
	return a->call_id != NULL && b->call_id != NULL && strcmp(a->call_id, b->call_id) == 0;
}

/*
 * What list->calls[which], which may be the attempt's, counts as: NO where another row of the same call counts for it.
 * A call that is listed twice, and not the same, is not to be relied on.
 */
static Answer
once(const KtMatchList *list, int which, const KtMatchAttempt *attempt, const KtMatchRules *rules,
     Answer answer)
{
	Answer result = answer;
	int i;

	for (i = 0; i < list->ncalls; i++)
	{
		Answer other;

		if (i == which || !same_call(&list->calls[i], &list->calls[which]))
			continue;
		other = may_be_of(list, &list->calls[i], attempt, rules);
		if (i < which && other != NO)
			return NO;
		if (other != answer)
			result = MAYBE;
	}
	return result;
}

/* Counts the calls that are the attempt's, or may be, each once, and names some of them. */
static void
count_candidates(const KtMatchList *list, const KtMatchAttempt *attempt, const KtMatchRules *rules,
                 KtMatch *match, int counts[YES + 1])
{
	int i;

	for (i = 0; i < list->ncalls; i++)
	{
		Answer answer = may_be_of(list, &list->calls[i], attempt, rules);

		if (answer != NO) /* few are: only these are compared with all */
			answer = once(list, i, attempt, rules, answer);
		counts[answer]++;
		if (answer != NO && match->ncandidates < KT_MATCH_NAMED)
			match->candidates[match->ncandidates++] = i;
	}
}

KtMatch
kt_match_judge(const KtMatchList *list, const KtMatchAttempt *attempts, int nattempts, int which,
               const KtMatchRules *rules)
{
	const KtMatchAttempt *attempt = &attempts[which];
	KtMatch match = {.verdict = KT_MATCH_ONE};
	int counts[YES + 1] = {0};
	const KtMatchCall *call;

	if (list->read_at < zone_end(attempt, rules))
		match.verdict = KT_MATCH_TOO_SOON;
	else if (!list->has_skew || list->skew_high - list->skew_low > KT_MATCH_VAGUE_US ||
	         !kt_match_covers(list, zone_start(attempt) + list->skew_low))
		match.verdict = KT_MATCH_UNCOVERED;
	if (match.verdict != KT_MATCH_ONE)
		return match;
	count_candidates(list, attempt, rules, &match, counts);
	if (has_rival(attempts, nattempts, which, rules))
		match.verdict = KT_MATCH_RIVALS;
	else if (counts[MAYBE] > 0)
		match.verdict = KT_MATCH_UNCLEAR;
	else if (counts[YES] == 0)
		match.verdict = KT_MATCH_NONE;
	else if (counts[YES] > 1)
		match.verdict = KT_MATCH_SEVERAL;
	if (match.verdict != KT_MATCH_ONE)
		return match;
	call = &list->calls[match.candidates[0]];
	if (!call->listed ||
	    !may_lie_between(list, call->created_at, zone_start(attempt), window_end(attempt, rules)))
		match.verdict = KT_MATCH_OUTSIDE;
	return match;
}

const char *
kt_match_words(KtMatchVerdict verdict)
{
	switch (verdict)
	{
		case KT_MATCH_TOO_SOON:
			return "too early to say";
		case KT_MATCH_UNCOVERED:
			return "the list need not hold every call of the time";
		case KT_MATCH_RIVALS:
			return "another attempt at the same number may have placed what is listed";
		case KT_MATCH_UNCLEAR:
			return "calls are listed that may or may not be this one";
		case KT_MATCH_NONE:
			return "no call to the number is listed for the time";
		case KT_MATCH_SEVERAL:
			return "several calls are listed that may be this one";
		case KT_MATCH_OUTSIDE:
			return "one call is listed, but not of the attempt's own time";
		case KT_MATCH_ONE:
			return "exactly one call to the number is listed for the time";
	}
	return "";
}
