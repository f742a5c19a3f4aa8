/* How often the list of calls is read: as its settings say, as something waits for it, as the traffic demands. */
#include "unit.h"

#include "cadence.h"

#define SECOND INT64_C(1000000)
#define MINUTE (60 * SECOND)

static const KtCadenceRules rules = {.interval = 5 * MINUTE, .lost = 15 * SECOND};

static void
the_first_list_is_due_at_once(void **state)
{
	KtCadence cadence = {0};

	(void) state;
	assert_int_equal(kt_cadence_due(&cadence, &rules), 0);
}

static void
a_list_that_changes_nothing_is_read_less_often(void **state)
{
	KtCadence cadence = {0};
	int64_t now = MINUTE;
	int i;

	(void) state;
	kt_cadence_stored(&cadence, &rules, now, 1, false, true);
	assert_int_equal(kt_cadence_due(&cadence, &rules), now + 5 * MINUTE);
	for (i = 0; i < 5; i++)
		kt_cadence_stored(&cadence, &rules, now += 5 * MINUTE, 0, false, false);
	assert_int_equal(kt_cadence_due(&cadence, &rules), now + 20 * MINUTE);
	kt_cadence_stored(&cadence, &rules, now += 20 * MINUTE, 1, false, true);
	assert_int_equal(kt_cadence_due(&cadence, &rules), now + 5 * MINUTE);
}

static void
what_waits_for_the_list_makes_it_come_sooner(void **state)
{
	KtCadence cadence = {.idle = 2, .rested_at = MINUTE};
	KtCadenceRules often = {.interval = SECOND, .lost = 2 * SECOND};

	(void) state;
	cadence.urgency = KT_END_AWAITED;
	assert_int_equal(kt_cadence_interval(&cadence, &rules), 30 * SECOND);
	assert_int_equal(kt_cadence_interval(&cadence, &often), SECOND);
	cadence.urgency = KT_ANSWER_LOST;
	assert_int_equal(kt_cadence_interval(&cadence, &rules), 15 * SECOND);
	assert_int_equal(kt_cadence_interval(&cadence, &often), SECOND);
}

static void
no_interval_is_shorter_than_a_tenth_of_a_second(void **state)
{
	KtCadence cadence = {0};
	KtCadenceRules at_once = {.interval = 1, .lost = 1};

	(void) state;
	assert_int_equal(kt_cadence_interval(&cadence, &at_once), SECOND / 10);
}

static void
a_failure_backs_off_and_a_success_ends_that(void **state)
{
	KtCadence cadence = {0};
	KtCadenceRules often = {.interval = SECOND, .lost = SECOND};
	int64_t due = 0;
	int i;

	(void) state;
	for (i = 0; i < 12; i++)
	{
		kt_cadence_failed(&cadence, &often, MINUTE, UINT64_MAX);
		assert_true(kt_cadence_due(&cadence, &often) >= due);
		due = kt_cadence_due(&cadence, &often);
		assert_true(due >= MINUTE + SECOND && due <= 6 * MINUTE);
	}
	assert_true(due > 3 * MINUTE);
	kt_cadence_stored(&cadence, &often, 7 * MINUTE, 1, false, true);
	assert_int_equal(kt_cadence_due(&cadence, &often), 7 * MINUTE + SECOND);
	/* nor is the ordinary interval undercut */
	kt_cadence_failed(&cadence, &rules, MINUTE, 0);
	assert_int_equal(kt_cadence_due(&cadence, &rules), 6 * MINUTE);
}

/*
 * An account of so many calls a second, read whenever its list is due, for so many lists. Returns how many of the
 * last half passed more than 100 calls.
 */
static int
gaps_at(KtCadence *cadence, double calls_per_second, int lists)
{
	int64_t now = cadence->asked_at;
	int gaps = 0;
	int i;

	for (i = 0; i < lists; i++)
	{
		int64_t due = kt_cadence_due(cadence, &rules);
		double passed = (double) (due - now) / (double) SECOND * calls_per_second;

		now = due;
		gaps += passed > 100 && i >= lists / 2;
		kt_cadence_stored(cadence, &rules, now, passed > 100 ? 100 : (int) passed, passed > 100,
		                  passed >= 1);
	}
	return gaps;
}

static void
the_interval_adapts_to_the_traffic(void **state)
{
	static const double rates[] = {0.01, 0.3, 1, 3, 10, 40};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(rates); i++)
	{
		KtCadence cadence = {.rested_at = MINUTE, .asked_at = MINUTE};

		if (gaps_at(&cadence, rates[i], 40) > 0)
			fail_msg("at %.2f calls a second", rates[i]);
		assert_true(kt_cadence_interval(&cadence, &rules) >= SECOND);
	}
}

static void
traffic_that_is_over_is_forgotten(void **state)
{
	KtCadence cadence = {.rested_at = MINUTE, .asked_at = MINUTE};

	(void) state;
	(void) gaps_at(&cadence, 10, 40);
	assert_true(kt_cadence_interval(&cadence, &rules) < 10 * SECOND);
	(void) gaps_at(&cadence, 0, 20);
	assert_int_equal(kt_cadence_interval(&cadence, &rules), 20 * MINUTE);
}

static void
traffic_that_doubles_leaves_no_gap(void **state)
{
	KtCadence cadence = {.rested_at = MINUTE, .asked_at = MINUTE};

	(void) state;
	(void) gaps_at(&cadence, 2, 40);
	assert_int_equal(gaps_at(&cadence, 4, 1), 0);
	assert_int_equal(gaps_at(&cadence, 4, 40), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_list_is_due_at_once),
		cmocka_unit_test(a_list_that_changes_nothing_is_read_less_often),
		cmocka_unit_test(what_waits_for_the_list_makes_it_come_sooner),
		cmocka_unit_test(no_interval_is_shorter_than_a_tenth_of_a_second),
		cmocka_unit_test(a_failure_backs_off_and_a_success_ends_that),
		cmocka_unit_test(the_interval_adapts_to_the_traffic),
		cmocka_unit_test(traffic_that_is_over_is_forgotten),
		cmocka_unit_test(traffic_that_doubles_leaves_no_gap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
