/* Calls per second: never more than the rate and the bucket allow, and no less for waking late. */
#include "unit.h"

#include "pace.h"

#define SECOND INT64_C(1000000)

/* A start that is not 0, which means "never filled". */
#define START (INT64_C(77) * SECOND)

static KtPace
pace_of(double rate, int64_t now)
{
	KtPace pace = {0};

	kt_pace_set(&pace, rate, now);
	return pace;
}

/* Takes what is allowed, at most want, as the dialer does. */
static int
take(KtPace *pace, int want, int64_t now)
{
	int n = kt_pace_allow(pace, want, now);

	assert_true(n >= 0 && n <= want);
	kt_pace_spend(pace, n);
	assert_true(pace->tokens >= 0 || pace->rate <= 0);
	return n;
}

static void
without_a_rate_everything_is_allowed_at_once(void **state)
{
	KtPace pace = pace_of(0, START);

	(void) state;
	assert_int_equal(take(&pace, 500, START), 500);
	assert_int_equal(take(&pace, 500, START), 500);
	assert_int_equal(kt_pace_next(&pace, START), START);
}

static void
a_new_pace_begins_with_one_call(void **state)
{
	static const double rates[] = {0.001, 0.5, 1, 2.5, 10, 99};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(rates); i++)
	{
		KtPace pace = pace_of(rates[i], START);

		assert_int_equal(kt_pace_next(&pace, START), START);
		assert_int_equal(take(&pace, 100, START), 1);
		assert_int_equal(take(&pace, 100, START), 0);
	}
}

/* The one who waits for kt_pace_next() may send then, and may not a little before. */
static void
the_next_call_may_be_sent_exactly_when_it_is_said(void **state)
{
	static const double rates[] = {0.001, 0.3, 1, 3, 7.7, 50, 1000, 33333};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(rates); i++)
	{
		KtPace pace = pace_of(rates[i], START);
		int64_t now = START;
		int n;

		while (take(&pace, 1, now) == 1)
			;
		for (n = 0; n < 1000; n++)
		{
			int64_t next = kt_pace_next(&pace, now);

			assert_true(next > now);
			assert_int_equal(kt_pace_allow(&pace, 1, next - 3), 0);
			now = next;
			assert_int_equal(take(&pace, 1, now), 1);
		}
		/* rounding costs a microsecond or two a call, no more */
		assert_true(now - START >= (int64_t) (999 * SECOND / rates[i]));
		assert_true(now - START <= (int64_t) (1000 * SECOND / rates[i]) + 3000);
	}
}

static int
bucket_of(double rate)
{
	return rate * 0.01 > 1 ? (int) (rate * 0.01) : 1;
}

/* However often and irregularly it is asked: in no stretch of time more than rate x time + bucket. */
static void
no_stretch_of_time_holds_more_than_the_rate(void **state)
{
	static const double rates[] = {0.7, 5, 99.5, 1000, 25000};
	static int64_t sent[20000];
	size_t i;

	(void) state;
	srand(1);
	for (i = 0; i < lengthof(rates); i++)
	{
		KtPace pace = pace_of(rates[i], START);
		int64_t now = START;
		int n = 0;
		int first;

		while (n < 2000)
		{
			int k = take(&pace, 1 + rand() % 50, now);

			while (k-- > 0)
				sent[n++] = now;
			now += rand() % (int64_t) (2 * SECOND / rates[i] + 2);
			if (rand() % 100 == 0)
				now += 10 * SECOND; /* it slept */
		}
		for (first = 0; first < n; first += 7)
		{
			int last;

			for (last = first; last < n; last += 3)
				assert_true(last - first + 1 <=
				            (double) (sent[last] - sent[first]) / SECOND * rates[i] +
				                bucket_of(rates[i]) + 1e-6);
		}
	}
}

static void
a_long_sleep_earns_a_bucket_and_no_more(void **state)
{
	KtPace slow = pace_of(2, START);
	KtPace fast = pace_of(10000, START);

	(void) state;
	assert_int_equal(take(&slow, 100, START + 3600 * SECOND), 1);
	assert_int_equal(take(&fast, 1000, START + 3600 * SECOND), 100);
	assert_int_equal(take(&fast, 1000, START + 3600 * SECOND), 0);
}

static void
a_clock_that_stands_or_goes_back_earns_nothing_and_breaks_nothing(void **state)
{
	KtPace pace = pace_of(10, START);

	(void) state;
	assert_int_equal(take(&pace, 5, START), 1);
	assert_int_equal(take(&pace, 5, START), 0);
	assert_int_equal(take(&pace, 5, START - 5 * SECOND), 0);
	assert_int_equal(take(&pace, 5, START - 5 * SECOND + SECOND / 10 + 1), 1);
}

static void
what_is_allowed_and_not_spent_stays(void **state)
{
	KtPace pace = pace_of(1, START);

	(void) state;
	assert_int_equal(kt_pace_allow(&pace, 9, START), 1);
	assert_int_equal(kt_pace_allow(&pace, 9, START), 1);
	assert_int_equal(kt_pace_allow(&pace, 0, START), 0);
}

/* A reload that changes nothing, or only the rate, gives no call away. */
static void
a_change_of_the_rate_gives_nothing_away(void **state)
{
	KtPace pace = pace_of(1, START);
	int i;

	(void) state;
	assert_int_equal(take(&pace, 1, START), 1);
	for (i = 0; i < 100; i++)
		kt_pace_set(&pace, 1, START + i);
	assert_int_equal(take(&pace, 1, START + 100), 0);
	for (i = 0; i < 100; i++)
	{
		kt_pace_set(&pace, 1 + i % 2, START + 100 + i);
		assert_int_equal(take(&pace, 1, START + 100 + i), 0);
	}
	/* a full bucket of a high rate is no full bucket of a low one */
	pace = pace_of(10000, START);
	assert_true(kt_pace_allow(&pace, 1000, START + SECOND) == 100);
	kt_pace_set(&pace, 1, START + SECOND);
	assert_int_equal(take(&pace, 1000, START + SECOND), 1);
	assert_int_equal(take(&pace, 1000, START + SECOND + SECOND / 2), 0);
}

static void
a_limit_that_is_lifted_holds_no_longer_and_one_that_is_set_holds_at_once(void **state)
{
	KtPace pace = pace_of(0.001, START);

	(void) state;
	assert_int_equal(take(&pace, 1, START), 1);
	kt_pace_set(&pace, 0, START + 1);
	assert_int_equal(take(&pace, 1000, START + 1), 1000);
	assert_int_equal(kt_pace_next(&pace, START + 1), START + 1);
	kt_pace_set(&pace, 5, START + 2);
	assert_int_equal(take(&pace, 1000, START + 2), 1);
	assert_int_equal(take(&pace, 1000, START + 3), 0);
}

/* What takes longer than any time can tell is not overdue. */
static void
a_rate_next_to_nothing_does_not_overflow(void **state)
{
	KtPace pace = pace_of(1e-30, START);

	(void) state;
	assert_int_equal(take(&pace, 1000, START), 1);
	assert_true(kt_pace_next(&pace, START + 1) > START + 3600 * SECOND);
	assert_int_equal(take(&pace, 1000, START + 3600 * SECOND), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_rate_everything_is_allowed_at_once),
		cmocka_unit_test(a_new_pace_begins_with_one_call),
		cmocka_unit_test(the_next_call_may_be_sent_exactly_when_it_is_said),
		cmocka_unit_test(no_stretch_of_time_holds_more_than_the_rate),
		cmocka_unit_test(a_long_sleep_earns_a_bucket_and_no_more),
		cmocka_unit_test(a_clock_that_stands_or_goes_back_earns_nothing_and_breaks_nothing),
		cmocka_unit_test(what_is_allowed_and_not_spent_stays),
		cmocka_unit_test(a_change_of_the_rate_gives_nothing_away),
		cmocka_unit_test(a_rate_next_to_nothing_does_not_overflow),
		cmocka_unit_test(a_limit_that_is_lifted_holds_no_longer_and_one_that_is_set_holds_at_once),
	};

	return cmocka_run_group_tests_name("pace", tests, NULL, NULL);
}
