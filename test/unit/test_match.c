/*
 * Which listed call an attempt has placed: the rules one by one, then random histories against a model of
 * the API, in which a binding is never wrong.
 */
#include "unit.h"

#include "match.h"

#define SECOND INT64_C(1000000)
#define MINUTE (60 * SECOND)

static const KtMatchRules rules = {.settle = 3 * MINUTE, .longest = 30 * SECOND};

/* ---- the rules ------------------------------------------------------------------------------------------ */

#define NOON (INT64_C(43200) * SECOND)

/* An attempt of 10 s at noon, read about an hour later by a clock that is the API's. */
static KtMatchAttempt
attempt_at_noon(void)
{
	return (KtMatchAttempt){1, "+4930123456", "acme", NOON, NOON + 10 * SECOND, NULL, true};
}

static KtMatchCall
call_at(const char *id, int64_t created_at)
{
	return (KtMatchCall){id,         "+4930123456", "acme", "outbound", true,
	                     created_at, true,          false,  false,      NULL};
}

static KtMatchList
list_of(const KtMatchCall *calls, int n)
{
	return (KtMatchList){.calls = calls,
	                     .ncalls = n,
	                     .whole = true,
	                     .read_at = NOON + 60 * MINUTE,
	                     .has_skew = true,
	                     .skew_high = SECOND};
}

static KtMatchVerdict
verdict_on(KtMatchList list)
{
	KtMatchAttempt attempt = attempt_at_noon();

	return kt_match_judge(&list, &attempt, 1, 0, &rules).verdict;
}

static void
one_call_of_its_time_is_its_call(void **state)
{
	KtMatchCall calls[] = {call_at("a", NOON + 5 * SECOND)};
	KtMatchList list = list_of(calls, 1);
	KtMatchAttempt attempt = attempt_at_noon();
	KtMatch match = kt_match_judge(&list, &attempt, 1, 0, &rules);

	(void) state;
	assert_int_equal(match.verdict, KT_MATCH_ONE);
	assert_int_equal(match.ncandidates, 1);
	assert_int_equal(match.candidates[0], 0);
}

static void
the_window_is_the_attempt_and_a_margin(void **state)
{
	static const struct
	{
		int64_t created_at; /* after noon */
		KtMatchVerdict verdict;
	} cases[] = {
		{-4 * SECOND, KT_MATCH_NONE},    {-2 * SECOND, KT_MATCH_ONE},
		{15 * SECOND, KT_MATCH_ONE},     {16 * SECOND, KT_MATCH_ONE}, /* the clock's uncertainty */
		{17 * SECOND, KT_MATCH_OUTSIDE}, {190 * SECOND, KT_MATCH_OUTSIDE},
		{192 * SECOND, KT_MATCH_NONE},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		KtMatchCall calls[] = {call_at("a", NOON + cases[i].created_at)};

		assert_int_equal(verdict_on(list_of(calls, 1)), cases[i].verdict);
	}
}

static void
a_second_call_in_the_zone_leaves_it_open(void **state)
{
	KtMatchCall calls[] = {call_at("late", NOON + MINUTE), call_at("a", NOON + 5 * SECOND)};

	(void) state;
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_SEVERAL);
	calls[0].bound = true;
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_ONE);
}

static void
with_a_key_that_may_be_anothers_a_call_must_name_its_account(void **state)
{
	KtMatchCall calls[] = {call_at("a", NOON + SECOND)};
	KtMatchList list = list_of(calls, 1);

	(void) state;
	calls[0].account_id = NULL;
	assert_int_equal(verdict_on(list), KT_MATCH_ONE);
	list.shared = true;
	assert_int_equal(verdict_on(list), KT_MATCH_UNCLEAR);
	calls[0].account_id = attempt_at_noon().account_id;
	assert_int_equal(verdict_on(list), KT_MATCH_ONE);
}

static void
nothing_is_said_before_it_has_settled(void **state)
{
	KtMatchCall calls[] = {call_at("a", NOON)};
	KtMatchList list = list_of(calls, 1);
	KtMatchAttempt attempt = attempt_at_noon();

	(void) state;
	list.read_at = attempt.ended_at + rules.settle - 1;
	assert_int_equal(verdict_on(list), KT_MATCH_TOO_SOON);
	list.read_at++;
	assert_int_equal(verdict_on(list), KT_MATCH_ONE);
	attempt.ended_at = INT64_MAX;
	assert_int_equal(kt_match_judge(&list, &attempt, 1, 0, &rules).verdict, KT_MATCH_TOO_SOON);
}

static void
the_list_must_cover_the_zone(void **state)
{
	KtMatchCall calls[] = {call_at("a", NOON + SECOND), call_at("b", NOON - MINUTE),
	                       call_at("c", NOON - MINUTE)};
	KtMatchList list = list_of(calls, 3);

	(void) state;
	list.whole = false;
	assert_int_equal(verdict_on(list), KT_MATCH_ONE);
	list.ncalls = 1;
	assert_int_equal(verdict_on(list), KT_MATCH_UNCOVERED);
	list.ncalls = 0;
	assert_int_equal(verdict_on(list), KT_MATCH_UNCOVERED);
	list.ncalls = 3;
	calls[1].created_at--;
	assert_int_equal(verdict_on(list), KT_MATCH_UNCOVERED); /* unsorted */
	calls[1].created_at++;
	calls[0].has_created = false;
	assert_int_equal(verdict_on(list), KT_MATCH_UNCOVERED);
	/* what earlier lists showed says nothing about this one */
	calls[0].has_created = true;
	calls[1].listed = calls[2].listed = false;
	assert_int_equal(verdict_on(list), KT_MATCH_UNCOVERED);
}

static void
the_api_s_clock_must_be_known(void **state)
{
	KtMatchCall calls[] = {call_at("a", NOON + 3 * 60 * MINUTE)};
	KtMatchList list = list_of(calls, 1);

	(void) state;
	assert_int_equal(verdict_on(list), KT_MATCH_NONE);
	list.skew_low = list.skew_high = 3 * 60 * MINUTE;
	assert_int_equal(verdict_on(list), KT_MATCH_ONE);
	list.skew_high += KT_MATCH_VAGUE_US + 1;
	assert_int_equal(verdict_on(list), KT_MATCH_UNCOVERED);
	list.has_skew = false;
	assert_int_equal(verdict_on(list), KT_MATCH_UNCOVERED);
}

static void
a_number_is_the_same_another_or_unclear(void **state)
{
	static const struct
	{
		const char *number;
		KtMatchVerdict verdict;
	} cases[] = {
		{"+4930123456", KT_MATCH_ONE},
		{"4930123456", KT_MATCH_ONE},
		{"+49 (30) 123-456", KT_MATCH_ONE},
		{"0049 30 123456", KT_MATCH_ONE},
		{"030 123456", KT_MATCH_UNCLEAR},
		{"+49301234567", KT_MATCH_NONE},
		{"+4930123457", KT_MATCH_NONE},
		{"+49301***56", KT_MATCH_UNCLEAR},
		{"anonymous", KT_MATCH_UNCLEAR},
		{"", KT_MATCH_UNCLEAR},
		{NULL, KT_MATCH_UNCLEAR},
		{"00000", KT_MATCH_UNCLEAR},
		{"1111111111111111111111111111111111111111", KT_MATCH_UNCLEAR},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		KtMatchCall calls[] = {call_at("a", NOON)};

		calls[0].number = cases[i].number;
		if (verdict_on(list_of(calls, 1)) != cases[i].verdict)
			fail_msg("%s: %s", cases[i].number, kt_match_words(verdict_on(list_of(calls, 1))));
	}
}

static void
what_cannot_be_read_leaves_it_open(void **state)
{
	KtMatchCall calls[] = {call_at("a", NOON), call_at("b", NOON)};

	(void) state;
	calls[1].number = NULL;
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_UNCLEAR);
	calls[1].direction = "web"; /* which has no number */
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_ONE);
	calls[1] = call_at(NULL, NOON);
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_UNCLEAR);
	calls[1] = call_at("b", NOON);
	calls[1].direction = "sideways";
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_UNCLEAR);
	calls[1].direction = "inbound";
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_ONE);
	calls[1] = call_at("b", NOON);
	calls[1].account_id = "another";
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_ONE);
	calls[1] = call_at("b", 0);
	calls[1].has_created = false;
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_UNCLEAR);
	calls[1] = call_at("b", INT64_MAX);
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_UNCLEAR);
	calls[1] = call_at("b", INT64_MIN);
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_UNCLEAR);
	calls[0].direction = calls[0].account_id = NULL;
	assert_int_equal(verdict_on(list_of(calls, 1)), KT_MATCH_ONE);
}

static void
a_webhook_without_our_ref_leaves_it_open(void **state)
{
	KtMatchCall calls[] = {call_at("a", NOON)};
	KtMatchList list = list_of(calls, 1);
	KtMatchAttempt attempt = attempt_at_noon();

	(void) state;
	calls[0].has_event = true;
	assert_int_equal(kt_match_judge(&list, &attempt, 1, 0, &rules).verdict, KT_MATCH_ONE);
	attempt.ref = "ours";
	assert_int_equal(kt_match_judge(&list, &attempt, 1, 0, &rules).verdict, KT_MATCH_UNCLEAR);
	calls[0].ref = "another's";
	assert_int_equal(kt_match_judge(&list, &attempt, 1, 0, &rules).verdict, KT_MATCH_UNCLEAR);
	calls[0].ref = "ours";
	assert_int_equal(kt_match_judge(&list, &attempt, 1, 0, &rules).verdict, KT_MATCH_ONE);
	attempt.ref = NULL;
	assert_int_equal(kt_match_judge(&list, &attempt, 1, 0, &rules).verdict, KT_MATCH_UNCLEAR);
	calls[0].has_event = false;
	assert_int_equal(kt_match_judge(&list, &attempt, 1, 0, &rules).verdict, KT_MATCH_ONE);
}

static void
a_call_listed_twice_is_one_if_it_is_the_same(void **state)
{
	KtMatchCall calls[] = {call_at("a", NOON), call_at("a", NOON)};

	(void) state;
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_ONE);
	calls[1].number = "+4930999999";
	assert_int_equal(verdict_on(list_of(calls, 2)), KT_MATCH_UNCLEAR);
}

static void
a_call_that_is_listed_no_more_is_not_bound(void **state)
{
	KtMatchCall calls[] = {call_at("a", NOON)};

	(void) state;
	calls[0].listed = false;
	assert_int_equal(verdict_on(list_of(calls, 1)), KT_MATCH_OUTSIDE);
}

static void
attempts_at_one_number_stand_in_each_other_s_way(void **state)
{
	KtMatchCall calls[] = {call_at("a", NOON)};
	KtMatchList list = list_of(calls, 1);
	KtMatchAttempt attempts[] = {attempt_at_noon(), attempt_at_noon()};

	(void) state;
	attempts[1].unknown = false;
	assert_int_equal(kt_match_judge(&list, attempts, 2, 0, &rules).verdict, KT_MATCH_RIVALS);
	attempts[1].number = "+4930123457";
	assert_int_equal(kt_match_judge(&list, attempts, 2, 0, &rules).verdict, KT_MATCH_ONE);
	attempts[1] = attempt_at_noon();
	attempts[1].started_at = NOON + 3 * MINUTE + 13 * SECOND;
	attempts[1].ended_at = INT64_MAX;
	assert_int_equal(kt_match_judge(&list, attempts, 2, 0, &rules).verdict, KT_MATCH_ONE);
	attempts[1].started_at -= 2 * SECOND;
	assert_int_equal(kt_match_judge(&list, attempts, 2, 0, &rules).verdict, KT_MATCH_RIVALS);
}

static void
an_end_that_was_recorded_late_does_not_widen_the_window(void **state)
{
	KtMatchCall calls[] = {call_at("a", NOON + 20 * SECOND)};
	KtMatchList list = list_of(calls, 1);
	KtMatchAttempt attempt = attempt_at_noon();

	(void) state;
	attempt.ended_at = NOON + 20 * MINUTE;
	assert_int_equal(kt_match_judge(&list, &attempt, 1, 0, &rules).verdict, KT_MATCH_ONE);
	calls[0].created_at = NOON + 10 * MINUTE;
	assert_int_equal(kt_match_judge(&list, &attempt, 1, 0, &rules).verdict, KT_MATCH_OUTSIDE);
	attempt.ended_at = NOON - 60 * MINUTE; /* the clock was set back */
	calls[0].created_at = NOON + 2 * MINUTE;
	assert_int_equal(kt_match_judge(&list, &attempt, 1, 0, &rules).verdict, KT_MATCH_OUTSIDE);
}

/* ---- random histories ------------------------------------------------------------------------------------ */

#define HISTORIES 6000
#define MAX_ATTEMPTS 12
#define MAX_CALLS 420
#define MAX_LISTED 200
#define LIST_LIMIT 100
#define LIST_DELAY (MINUTE + 30 * SECOND) /* at most */

static uint64_t seed;

static uint64_t
random_bits(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static int64_t
random_upto(int64_t most)
{
	return (int64_t) (random_bits() % (uint64_t) (most + 1));
}

static bool
one_in(int n)
{
	return random_bits() % (uint64_t) n == 0;
}

/* A call that truly exists. Times are the API's. */
typedef struct ModelCall
{
	char id[12];
	int number; /* index of numbers; -1: a web call */
	const char *direction;
	int64_t created_at;
	int64_t listed_at;
	int attempt; /* which of ours placed it, -1: none */
	bool bound;
	bool seen;       /* by an earlier poll */
	int64_t told_at; /* when its webhook comes; INT64_MAX: never, or without variables */
} ModelCall;

typedef struct Model
{
	KtMatchAttempt attempts[MAX_ATTEMPTS];
	int call_of[MAX_ATTEMPTS]; /* index of calls, -1: the attempt placed none */
	bool done[MAX_ATTEMPTS];   /* it no longer waits for its call */
	int nattempts;
	ModelCall calls[MAX_CALLS];
	int ncalls;
	int64_t skew;
	bool tidy;    /* lists are sorted, and rows whole */
	bool jumbled; /* the list is of any 100 calls in any order */
	bool manual;  /* somebody else calls the same numbers */
} Model;

static const char *const numbers[] = {"+4930123456", "+4930123457", "+14155550123"};

/* What each attempt sends along. */
static const char *const refs[MAX_ATTEMPTS] = {"r0", "r1", "r2", "r3", "r4",  "r5",
                                               "r6", "r7", "r8", "r9", "r10", "r11"};

static int bindings;
static int residual;

static int
add_call(Model *m, int number, int64_t created_at, int attempt)
{
	ModelCall *call = &m->calls[m->ncalls];

	snprintf(call->id, sizeof(call->id), "c%d", m->ncalls);
	call->number = number;
	call->direction = number < 0 ? "web" : "outbound";
	call->created_at = created_at;
	call->listed_at = created_at + random_upto(one_in(3) ? LIST_DELAY : SECOND);
	call->attempt = attempt;
	call->bound = call->seen = false;
	call->told_at = one_in(2) ? INT64_MAX : created_at + random_upto(10 * MINUTE);
	return m->ncalls++;
}

/* One of our attempts, and what truly became of it. */
static void
add_attempt(Model *m, int64_t start)
{
	int which = m->nattempts++;
	int number = (int) random_upto((int64_t) lengthof(numbers) - 1);
	int64_t lasts = random_upto(one_in(2) ? SECOND : 30 * SECOND);
	KtMatchAttempt *attempt = &m->attempts[which];
	int64_t worked = one_in(4) ? MINUTE : lasts; /* a server may go on after we have gone */

	*attempt =
		(KtMatchAttempt){which, numbers[number], "acme", start, start + lasts, refs[which], true};
	if (one_in(5)) /* the dialer crashed, and the next one recorded the end */
		attempt->ended_at += random_upto(20 * MINUTE);
	m->call_of[which] = -1;
	m->done[which] = false;
	if (!one_in(3))
		m->call_of[which] = add_call(m, number, start + m->skew + random_upto(worked), which);
	/* the answer came, or a webhook: bound without the list */
	if (m->call_of[which] >= 0 && one_in(3))
		m->calls[m->call_of[which]].bound = m->done[which] = true;
	else if (one_in(8)) /* still in the air, or a human said "placed" and not which call */
		attempt->unknown = false;
}

/* Somebody else calls one of the numbers: at any time, or just when we do. */
static void
add_manual_call(Model *m, int64_t last)
{
	const KtMatchAttempt *attempt = &m->attempts[random_upto(m->nattempts - 1)];
	int number = (int) random_upto((int64_t) lengthof(numbers) - 1);
	int64_t at = 10 * MINUTE + random_upto(last - 5 * MINUTE);
	int call;

	if (one_in(2))
	{
		at = attempt->started_at - 10 * SECOND + random_upto(50 * SECOND);
		for (number = 0; numbers[number] != attempt->number; number++)
			;
	}
	call = add_call(m, number, m->skew + at, -1);
	if (one_in(4))
		m->calls[call].direction = "inbound";
}

static void
make_history(Model *m)
{
	int n = 1 + (int) random_upto(MAX_ATTEMPTS - 1);
	int busy = one_in(3) ? (int) random_upto(300) : (int) random_upto(20);
	int64_t at = 10 * MINUTE;
	bool burst =
		one_in(3); /* so many calls just after the last attempt that the list hardly holds them */
	int i;

	if (burst)
		busy = 90 + (int) random_upto(15);
	memset(m, 0, sizeof(*m));
	m->skew = random_upto(4 * 60 * MINUTE) - 2 * 60 * MINUTE;
	m->tidy = !one_in(4);
	m->jumbled = one_in(6);
	m->manual = one_in(2);
	for (i = 0; i < n; i++)
	{
		at += random_upto(one_in(2) ? 10 * SECOND : 8 * MINUTE);
		add_attempt(m, at);
	}
	for (i = 0; i < busy; i++)
		add_call(m, one_in(10) ? -1 : 100,
		         m->skew + (burst ? at + random_upto(20 * SECOND) : random_upto(at + 20 * MINUTE)),
		         -1);
	for (i = 0; m->manual && i < 4; i++)
		add_manual_call(m, at);
}

/* One row as the API lists it: its times in seconds, and, in an untidy list, its fields now and then missing. */
static KtMatchCall
row_of(const Model *m, const ModelCall *call, int64_t now, bool listed)
{
	KtMatchCall row = {.call_id = call->id,
	                   .account_id = "acme",
	                   .direction = call->direction,
	                   .has_created = true,
	                   .listed = listed,
	                   .bound = call->bound};

	row.has_event = call->told_at <= now + m->skew;
	row.ref = call->attempt >= 0 ? refs[call->attempt] : NULL;
	if (call->number >= 0)
		row.number =
			call->number < (int) lengthof(numbers) ? numbers[call->number] : "+33144556677";
	row.created_at = call->created_at - call->created_at % SECOND;
	if (m->tidy || !listed)
		return row;
	if (one_in(20))
		row.number = NULL;
	if (one_in(20))
		row.has_created = false;
	if (one_in(20))
		row.direction = NULL;
	if (one_in(20))
		row.account_id = NULL;
	if (one_in(40))
		row.call_id = NULL;
	return row;
}

static int
newer_first(const void *a, const void *b)
{
	const ModelCall *const *x = a;
	const ModelCall *const *y = b;

	return ((*x)->created_at < (*y)->created_at) - ((*x)->created_at > (*y)->created_at);
}

/* What a poll at that time (ours) brings: the list, then what earlier polls have seen besides. */
static KtMatchList
poll(Model *m, int64_t now, KtMatchCall *rows)
{
	KtMatchList list = {.calls = rows, .read_at = now, .has_skew = true};
	ModelCall *shown[MAX_CALLS];
	int64_t takes = random_upto(one_in(10) ? 10 * SECOND : SECOND);
	int64_t date = now + m->skew + random_upto(takes);
	bool in_list[MAX_CALLS] = {false};
	int nshown = 0;
	int n = 0;
	int i;

	for (i = 0; i < m->ncalls; i++)
		if (m->calls[i].listed_at <= now + m->skew)
			shown[nshown++] = &m->calls[i];
	if (!m->jumbled)
		qsort(shown, nshown, sizeof(shown[0]), newer_first);
	list.whole = nshown < LIST_LIMIT;
	for (i = 0; i < nshown && i < LIST_LIMIT; i++)
	{
		in_list[shown[i] - m->calls] = true;
		rows[n++] = row_of(m, shown[i], now, true);
		if (!m->tidy && n > 1 && one_in(10))
		{
			KtMatchCall row = rows[n - 1];

			rows[n - 1] = rows[n - 2];
			rows[n - 2] = row;
		}
	}
	for (i = 0; i < m->ncalls; i++)
	{
		if (m->calls[i].seen && !in_list[i])
			rows[n++] = row_of(m, &m->calls[i], now, false);
		m->calls[i].seen = m->calls[i].seen || in_list[i];
	}
	list.ncalls = n;
	date -= date % SECOND;
	list.skew_low = date - (now + takes);
	list.skew_high = date + SECOND - now;
	return list;
}

/*
 * The one thing that the list cannot show: our attempt placed nothing, and somebody else called that number
 * at that very time.
 */
static bool
is_residual(const Model *m, int which, const ModelCall *call)
{
	const KtMatchAttempt *attempt = &m->attempts[which];
	int64_t created_at = call->created_at - m->skew;

	return m->call_of[which] < 0 && call->attempt < 0 && m->manual &&
	       created_at >= attempt->started_at - 15 * SECOND &&
	       created_at <= attempt->started_at + rules.longest + 15 * SECOND;
}

static void
bind(Model *m, int which, const char *call_id)
{
	ModelCall *call = &m->calls[atoi(call_id + 1)];

	if (call->attempt == which)
		bindings++;
	else if (is_residual(m, which, call))
		residual++;
	else
		fail_msg("attempt %d of a history was given call %s of attempt %d, its own is %d", which,
		         call_id, call->attempt, m->call_of[which]);
	assert_false(call->bound);
	call->bound = true;
	m->done[which] = true;
}

/* A poll's judgement on every attempt; what two polls agree on is bound. */
static void
reconcile(Model *m, int64_t now, char sightings[MAX_ATTEMPTS][12])
{
	KtMatchCall rows[MAX_CALLS + MAX_LISTED];
	KtMatchList list = poll(m, now, rows);
	KtMatchAttempt open[MAX_ATTEMPTS];
	int nopen = 0;
	int i;

	for (i = 0; i < m->nattempts; i++)
		if (!m->done[i] && m->attempts[i].started_at <= now)
			open[nopen++] = m->attempts[i];
	for (i = 0; i < nopen; i++)
	{
		int which = (int) open[i].id;
		KtMatch match = kt_match_judge(&list, open, nopen, i, &rules);
		const char *id = match.verdict == KT_MATCH_ONE ? rows[match.candidates[0]].call_id : "";

		if (!open[i].unknown)
			continue;
		if (id[0] != '\0' && strcmp(sightings[which], id) == 0)
			bind(m, which, id);
		strcpy(sightings[which], id);
		/* a webhook may bind a call, or a human, at any time */
		if (m->call_of[which] >= 0 && one_in(30))
			m->calls[m->call_of[which]].bound = m->done[which] = true;
	}
}

static void
no_history_leads_to_a_wrong_binding(void **state)
{
	static Model m;
	int i;

	(void) state;
	for (i = 1; i <= HISTORIES; i++)
	{
		char sightings[MAX_ATTEMPTS][12] = {""};
		int64_t now = 9 * MINUTE;
		bool seldom;

		seed = UINT64_C(0x9e3779b97f4a7c15) * (uint64_t) i;
		make_history(&m);
		seldom = one_in(3);
		while (now < 150 * MINUTE)
		{
			now += SECOND + random_upto(seldom      ? 30 * MINUTE
			                            : one_in(2) ? 30 * SECOND
			                                        : 5 * MINUTE);
			reconcile(&m, now, sightings);
		}
	}
	print_message(
		"# %d histories: %d bindings, all right; %d where nobody could have known better\n",
		HISTORIES, bindings, residual);
	/* it is not right by never saying anything */
	assert_true(bindings > HISTORIES / 4);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_call_of_its_time_is_its_call),
		cmocka_unit_test(the_window_is_the_attempt_and_a_margin),
		cmocka_unit_test(a_second_call_in_the_zone_leaves_it_open),
		cmocka_unit_test(with_a_key_that_may_be_anothers_a_call_must_name_its_account),
		cmocka_unit_test(nothing_is_said_before_it_has_settled),
		cmocka_unit_test(the_list_must_cover_the_zone),
		cmocka_unit_test(the_api_s_clock_must_be_known),
		cmocka_unit_test(a_number_is_the_same_another_or_unclear),
		cmocka_unit_test(what_cannot_be_read_leaves_it_open),
		cmocka_unit_test(a_webhook_without_our_ref_leaves_it_open),
		cmocka_unit_test(a_call_listed_twice_is_one_if_it_is_the_same),
		cmocka_unit_test(a_call_that_is_listed_no_more_is_not_bound),
		cmocka_unit_test(attempts_at_one_number_stand_in_each_other_s_way),
		cmocka_unit_test(an_end_that_was_recorded_late_does_not_widen_the_window),
		cmocka_unit_test(no_history_leads_to_a_wrong_binding),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
