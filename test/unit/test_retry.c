/* When to try again: within bounds whatever the numbers, and spread over all of the room there is. */
#include "unit.h"

#include "retry.h"

#define SECOND INT64_C(1000000)

/* The longest wait after so many failures, computed another way. */
static int64_t
longest(int failures)
{
	return failures >= 9 ? 300 * SECOND : (INT64_C(1) << failures) * SECOND;
}

static void
a_wait_lies_between_a_second_and_twice_as_much_for_each_failure(void **state)
{
	static const uint64_t randoms[] = {
		0, 1, 999999, 1000000, 1000001, UINT64_MAX / 2, UINT64_MAX - 1, UINT64_MAX};
	int failures;
	size_t i;

	(void) state;
	for (failures = 1; failures <= 40; failures++)
		for (i = 0; i < lengthof(randoms); i++)
		{
			int64_t delay = kt_retry_delay(failures, randoms[i]);

			assert_in_range(delay, SECOND, longest(failures));
			assert_true(delay <= KT_RETRY_MAX_US);
		}
}

static void
both_ends_are_reached(void **state)
{
	int failures;

	(void) state;
	for (failures = 1; failures <= 12; failures++)
	{
		assert_int_equal(kt_retry_delay(failures, 0), SECOND);
		assert_int_equal(kt_retry_delay(failures, (uint64_t) (longest(failures) - SECOND)),
		                 longest(failures));
		assert_int_equal(kt_retry_delay(failures, (uint64_t) (longest(failures) - SECOND) + 1),
		                 SECOND);
	}
}

static void
a_count_of_failures_that_cannot_be_is_harmless(void **state)
{
	static const int counts[] = {0, -1, INT32_MIN, INT32_MAX};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(counts); i++)
		assert_in_range(kt_retry_delay(counts[i], UINT64_MAX / 3), KT_RETRY_MIN_US,
		                KT_RETRY_MAX_US);
}

/* Full jitter: a thousand that failed together come back spread over the whole time, a tenth in each tenth. */
static void
those_that_failed_together_do_not_come_back_together(void **state)
{
	uint64_t random = 88172645463325252U;
	int tenths[10] = {0};
	int i;

	(void) state;
	for (i = 0; i < 10000; i++)
	{
		int64_t room = longest(6) - SECOND;

		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		tenths[(kt_retry_delay(6, random) - SECOND) * 10 / (room + 1)]++;
	}
	for (i = 0; i < 10; i++)
		assert_in_range(tenths[i], 850, 1150);
}

static void
a_retry_after_is_clamped_to_a_second_and_an_hour(void **state)
{
	static const struct
	{
		int64_t seconds;
		int64_t wait;
	} cases[] = {
		{INT64_MIN, -1},
		{-5, -1},
		{-1, -1},
		{0, SECOND},
		{1, SECOND},
		{2, 2 * SECOND},
		{3599, 3599 * SECOND},
		{3600, 3600 * SECOND},
		{3601, 3600 * SECOND},
		{86400, 3600 * SECOND},
		{INT64_MAX, 3600 * SECOND},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
		assert_int_equal(kt_retry_after(cases[i].seconds), cases[i].wait);
}

static void
a_number_of_seconds_is_read_whatever_its_length_and_nothing_else_is(void **state)
{
	static const struct
	{
		const char *value;
		int64_t seconds;
	} cases[] = {
		{"0", 0},
		{"7", 7},
		{" \t120 \r\n", 120},
		{"0000000000000000000000000007", 7},
		{"31535999", 31535999},
		{"31536001", 31536000},
		{"99999999999999999999999999999999999999", 31536000},
		{"", -1},
		{" ", -1},
		{"-5", -1},
		{"+5", -1},
		{"1.5", -1},
		{"1e9", -1},
		{"1 2", -1},
		{"soon", -1},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
		assert_int_equal(kt_retry_seconds(cases[i].value, strlen(cases[i].value)),
		                 cases[i].seconds);
	assert_int_equal(kt_retry_seconds("5\0", 2), -1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_wait_lies_between_a_second_and_twice_as_much_for_each_failure),
		cmocka_unit_test(both_ends_are_reached),
		cmocka_unit_test(a_count_of_failures_that_cannot_be_is_harmless),
		cmocka_unit_test(those_that_failed_together_do_not_come_back_together),
		cmocka_unit_test(a_retry_after_is_clamped_to_a_second_and_an_hour),
		cmocka_unit_test(a_number_of_seconds_is_read_whatever_its_length_and_nothing_else_is),
	};

	return cmocka_run_group_tests_name("retry", tests, NULL, NULL);
}
