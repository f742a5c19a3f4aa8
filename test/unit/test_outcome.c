/* Every row of the table of outcomes, and over all evidence there can be: no "nothing was applied" without proof. */
#include "unit.h"

#include "outcome.h"

/* A whole answer of the documented shape. */
static KtEvidence
whole(bool places_call, int status)
{
	KtEvidence evidence = {
		.places_call = places_call,
		.bytes_sent = 300,
		.status = status,
		.is_object = true,
		.success = KT_SUCCESS_TRUE,
		.call_id = KT_CALL_ID_CREDIBLE,
		.has_all_fields = true,
	};

	return evidence;
}

static void
expect(const char *what, KtEvidence evidence, KtOutcome outcome)
{
	KtOutcome actual = kt_outcome_judge(&evidence);

	if (actual != outcome)
		fail_msg("%s, HTTP status %d: outcome %d, expected %d", what, evidence.status, actual,
		         outcome);
}

static void
a_transfer_that_failed_before_its_first_byte_was_not_sent(void **state)
{
	int places;

	(void) state;
	for (places = 0; places <= 1; places++)
	{
		KtEvidence evidence = {.places_call = places, .transfer_failed = true};

		expect("no byte left", evidence, KT_OUTCOME_NOT_SENT);
		/* what else stands in the evidence is of no answer: it changes nothing */
		evidence.status = 200;
		evidence.is_object = evidence.has_all_fields = true;
		evidence.success = KT_SUCCESS_TRUE;
		evidence.call_id = KT_CALL_ID_CREDIBLE;
		expect("no byte left, remains in the evidence", evidence, KT_OUTCOME_NOT_SENT);
	}
}

static void
a_transfer_that_failed_after_its_first_byte_is_unknown_or_a_lost_read(void **state)
{
	static const int64_t sent[] = {1, 300, INT64_MAX};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(sent); i++)
	{
		KtEvidence evidence = {.transfer_failed = true, .bytes_sent = sent[i]};

		expect("a read", evidence, KT_OUTCOME_LOST);
		evidence.unreadable = true;
		expect("a read whose answer cannot be read", evidence, KT_OUTCOME_UNDOCUMENTED);
		evidence.places_call = true;
		expect("a call", evidence, KT_OUTCOME_UNKNOWN);
		/* 429 in the header lines of an answer that broke off proves nothing */
		evidence.status = 429;
		expect("a call", evidence, KT_OUTCOME_UNKNOWN);
	}
}

static void
the_documented_answer_with_any_2xx_is_ok(void **state)
{
	int status;

	(void) state;
	for (status = 200; status <= 299; status++)
	{
		expect("a call", whole(true, status), KT_OUTCOME_OK);
		expect("a read", whole(false, status), KT_OUTCOME_OK);
	}
}

static void
a_call_id_without_a_clear_success_is_placed_and_flagged(void **state)
{
	KtEvidence evidence = whole(true, 200);

	(void) state;
	evidence.success = KT_SUCCESS_ABSENT;
	expect("success missing", evidence, KT_OUTCOME_OK_FLAGGED);
	evidence.success = KT_SUCCESS_ODD;
	expect("success of another type", evidence, KT_OUTCOME_OK_FLAGGED);
}

static void
success_false_declines_only_without_any_call_id(void **state)
{
	static const KtCallId ids[] = {KT_CALL_ID_CREDIBLE, KT_CALL_ID_ODD, KT_CALL_ID_CONTRADICTORY};
	KtEvidence evidence = whole(true, 200);
	size_t i;

	(void) state;
	evidence.success = KT_SUCCESS_FALSE;
	evidence.call_id = KT_CALL_ID_ABSENT;
	expect("no callId", evidence, KT_OUTCOME_DECLINED);
	evidence.has_all_fields = false;
	expect("no callId and no other field", evidence, KT_OUTCOME_DECLINED);
	for (i = 0; i < lengthof(ids); i++)
	{
		evidence.call_id = ids[i];
		expect("a callId of some kind", evidence, KT_OUTCOME_UNKNOWN);
	}
}

static void
a_2xx_that_is_not_the_documented_shape_leaves_a_call_unknown(void **state)
{
	static const KtCallId useless[] = {KT_CALL_ID_ABSENT, KT_CALL_ID_ODD, KT_CALL_ID_CONTRADICTORY};
	static const KtSuccess successes[] = {KT_SUCCESS_ABSENT, KT_SUCCESS_TRUE, KT_SUCCESS_ODD};
	KtEvidence evidence = whole(true, 200);
	size_t i;
	size_t j;

	(void) state;
	evidence.has_all_fields = false;
	expect("a web call without its token", evidence, KT_OUTCOME_UNKNOWN);
	for (i = 0; i < lengthof(useless); i++)
	{
		for (j = 0; j < lengthof(successes); j++)
		{
			evidence = whole(true, 200);
			evidence.call_id = useless[i];
			evidence.success = successes[j];
			expect("no usable callId", evidence, KT_OUTCOME_UNKNOWN);
		}
	}
	evidence = whole(true, 200);
	evidence.is_object = false;
	evidence.success = KT_SUCCESS_FALSE;
	evidence.call_id = KT_CALL_ID_ABSENT;
	expect("HTML, empty, truncated or bad JSON", evidence, KT_OUTCOME_UNKNOWN);
}

static void
a_2xx_that_is_not_the_documented_shape_is_an_undocumented_read(void **state)
{
	KtEvidence evidence = whole(false, 200);

	(void) state;
	evidence.call_id = KT_CALL_ID_ABSENT;
	expect("a list has no callId of its own", evidence, KT_OUTCOME_OK);
	evidence.has_all_fields = false;
	expect("no list in it", evidence, KT_OUTCOME_UNDOCUMENTED);
	evidence.success = KT_SUCCESS_ABSENT;
	expect("neither list nor success", evidence, KT_OUTCOME_UNDOCUMENTED);
	evidence.success = KT_SUCCESS_FALSE;
	expect("success false", evidence, KT_OUTCOME_DECLINED);
	evidence.is_object = false;
	expect("no object", evidence, KT_OUTCOME_UNDOCUMENTED);
	evidence = whole(false, 200);
	evidence.success = KT_SUCCESS_ABSENT;
	expect("a list without success", evidence, KT_OUTCOME_OK_FLAGGED);
}

/* The statuses of the table; what is not here is inconclusive. */
static const struct
{
	int status;
	KtOutcome outcome;
} refusals[] = {
	{400, KT_OUTCOME_BAD_ARGUMENT}, {413, KT_OUTCOME_BAD_ARGUMENT}, {422, KT_OUTCOME_BAD_ARGUMENT},
	{431, KT_OUTCOME_BAD_ARGUMENT}, {404, KT_OUTCOME_BAD_ENDPOINT}, {405, KT_OUTCOME_BAD_ENDPOINT},
	{410, KT_OUTCOME_BAD_ENDPOINT}, {415, KT_OUTCOME_BAD_ENDPOINT}, {401, KT_OUTCOME_UNAUTHORIZED},
	{403, KT_OUTCOME_UNAUTHORIZED}, {407, KT_OUTCOME_UNAUTHORIZED}, {402, KT_OUTCOME_NO_CREDITS},
	{429, KT_OUTCOME_RATE_LIMITED},
};

static bool
is_refusal(int status, KtOutcome *outcome)
{
	size_t i;

	for (i = 0; i < lengthof(refusals); i++)
		if (refusals[i].status == status)
		{
			*outcome = refusals[i].outcome;
			return true;
		}
	return false;
}

static void
every_status_means_what_the_table_says_whatever_the_body(void **state)
{
	int status;

	(void) state;
	for (status = 0; status <= 999; status++)
	{
		int places;

		if (status >= 200 && status <= 299)
			continue;
		for (places = 0; places <= 1; places++)
		{
			KtEvidence full = whole(places, status);
			KtEvidence empty = {.places_call = places, .bytes_sent = 300, .status = status};
			KtOutcome expected = places ? KT_OUTCOME_UNKNOWN : KT_OUTCOME_UNDOCUMENTED;

			(void) is_refusal(status, &expected);
			expect("a full body", full, expected);
			expect("an empty body", empty, expected);
			full.success = KT_SUCCESS_FALSE;
			full.call_id = KT_CALL_ID_ABSENT;
			expect("success false", full, expected);
		}
	}
}

static bool
is_proof_that_nothing_was_applied(const KtEvidence *e)
{
	KtOutcome unused;

	if (e->transfer_failed)
		return e->bytes_sent == 0;
	if (is_refusal(e->status, &unused))
		return true;
	return e->status >= 200 && e->status <= 299 && e->is_object && e->success == KT_SUCCESS_FALSE &&
	       e->call_id == KT_CALL_ID_ABSENT;
}

static void
check_invariant(const KtEvidence *evidence)
{
	KtOutcome outcome = kt_outcome_judge(evidence);

	if (evidence->places_call && kt_outcome_nothing_applied(outcome) &&
	    !is_proof_that_nothing_was_applied(evidence))
		fail_msg("HTTP status %d: outcome %d without proof", evidence->status, outcome);
	if (!evidence->places_call)
		assert_int_not_equal(outcome, KT_OUTCOME_UNKNOWN);
	else
	{
		assert_int_not_equal(outcome, KT_OUTCOME_LOST);
		assert_int_not_equal(outcome, KT_OUTCOME_UNDOCUMENTED);
	}
	if (outcome == KT_OUTCOME_OK || outcome == KT_OUTCOME_OK_FLAGGED)
	{
		assert_false(evidence->transfer_failed);
		assert_true(evidence->is_object && evidence->has_all_fields);
		assert_true(!evidence->places_call || evidence->call_id == KT_CALL_ID_CREDIBLE);
	}
	if (outcome == KT_OUTCOME_NOT_SENT)
		assert_true(evidence->transfer_failed && evidence->bytes_sent == 0);
}

/* 1,000 statuses x 1,024 shapes: one bit for each yes or no, two for each field. */
static void
nothing_was_applied_is_never_said_without_proof(void **state)
{
	int status;

	(void) state;
	for (status = 0; status <= 999; status++)
	{
		int bits;

		for (bits = 0; bits < 1024; bits++)
		{
			KtEvidence evidence = {
				.places_call = bits & 1,
				.transfer_failed = bits & 2,
				.bytes_sent = bits & 4 ? 1 : 0,
				.is_object = bits & 8,
				.has_all_fields = bits & 16,
				.success = (KtSuccess) (bits >> 5 & 3),
				.call_id = (KtCallId) (bits >> 7 & 3),
				.unreadable = bits & 512,
				.status = status,
			};

			check_invariant(&evidence);
		}
	}
}

/* A value that no enumerator names must fall to the careful side too. */
static void
an_outcome_out_of_range_is_no_proof(void **state)
{
	(void) state;
	assert_false(kt_outcome_nothing_applied((KtOutcome) 99));
	assert_false(kt_outcome_nothing_applied(KT_OUTCOME_UNKNOWN));
	assert_false(kt_outcome_nothing_applied(KT_OUTCOME_OK));
	assert_false(kt_outcome_nothing_applied(KT_OUTCOME_OK_FLAGGED));
}

/* ---- decisions: faults.md section 1, from the evidence to what becomes of request and account ------------ */

static void
expect_decision(const char *what, KtEvidence evidence, KtNextState next, KtEffect effect,
                bool uses_attempt)
{
	KtDecision decision = kt_outcome_decide(kt_outcome_judge(&evidence), evidence.status);

	if (decision.state != next || decision.effect != effect ||
	    decision.uses_attempt != uses_attempt)
		fail_msg("%s: state %d effect %d uses %d, expected %d %d %d", what, decision.state,
		         decision.effect, decision.uses_attempt, next, effect, uses_attempt);
}

static void
a_failed_transfer_is_queued_or_unknown_by_what_left(void **state)
{
	KtEvidence evidence = {.places_call = true, .transfer_failed = true};

	(void) state;
	expect_decision("nothing left", evidence, KT_NEXT_QUEUED, KT_EFFECT_UNREACHABLE, true);
	evidence.bytes_sent = 1;
	expect_decision("a byte left", evidence, KT_NEXT_UNKNOWN, KT_EFFECT_UNCLEAR, true);
}

static void
a_2xx_is_placed_failed_or_unknown_by_its_body(void **state)
{
	KtEvidence evidence = whole(true, 200);

	(void) state;
	expect_decision("documented", evidence, KT_NEXT_PLACED, KT_EFFECT_NONE, true);
	expect_decision("201", whole(true, 201), KT_NEXT_PLACED, KT_EFFECT_NONE, true);
	evidence.success = KT_SUCCESS_ABSENT;
	expect_decision("success missing", evidence, KT_NEXT_PLACED, KT_EFFECT_NONE, true);
	evidence.success = KT_SUCCESS_ODD;
	expect_decision("success of another type", evidence, KT_NEXT_PLACED, KT_EFFECT_NONE, true);
	evidence.success = KT_SUCCESS_FALSE;
	expect_decision("success false, callId", evidence, KT_NEXT_UNKNOWN, KT_EFFECT_UNCLEAR, true);
	evidence.call_id = KT_CALL_ID_ABSENT;
	expect_decision("success false, no callId", evidence, KT_NEXT_FAILED, KT_EFFECT_NONE, true);
	evidence = whole(true, 200);
	evidence.call_id = KT_CALL_ID_CONTRADICTORY;
	expect_decision("two callIds", evidence, KT_NEXT_UNKNOWN, KT_EFFECT_UNCLEAR, true);
	evidence.is_object = false;
	expect_decision("no object", evidence, KT_NEXT_UNKNOWN, KT_EFFECT_UNCLEAR, true);
}

/* Written out once more, by hand, from the table: not by the code's own lists. */
static KtDecision
decision_of_table(int status)
{
	if (status >= 300 && status <= 399)
		return (KtDecision){KT_NEXT_UNKNOWN, KT_EFFECT_ENDPOINT, true};
	switch (status)
	{
		case 400:
		case 413:
		case 422:
		case 431:
			return (KtDecision){KT_NEXT_FAILED, KT_EFFECT_NONE, true};
		case 404:
		case 405:
			return (KtDecision){KT_NEXT_FAILED, KT_EFFECT_ENDPOINT, true};
		case 410:
		case 415:
			return (KtDecision){KT_NEXT_FAILED, KT_EFFECT_UNCLEAR, true};
		case 401:
		case 403:
		case 407:
			return (KtDecision){KT_NEXT_QUEUED, KT_EFFECT_UNAUTHORIZED, false};
		case 402:
			return (KtDecision){KT_NEXT_QUEUED, KT_EFFECT_CREDITS, false};
		case 429:
			return (KtDecision){KT_NEXT_QUEUED, KT_EFFECT_RATE, false};
		default:
			return (KtDecision){KT_NEXT_UNKNOWN, KT_EFFECT_UNCLEAR, true};
	}
}

static void
every_other_status_decides_what_the_table_says_whatever_the_body(void **state)
{
	int status;

	(void) state;
	for (status = 0; status <= 999; status++)
	{
		KtEvidence empty = {.places_call = true, .bytes_sent = 300, .status = status};
		KtDecision wanted = decision_of_table(status);
		char what[32];

		if (status >= 200 && status <= 299)
			continue;
		snprintf(what, sizeof(what), "HTTP status %d", status);
		expect_decision(what, whole(true, status), wanted.state, wanted.effect,
		                wanted.uses_attempt);
		expect_decision(what, empty, wanted.state, wanted.effect, wanted.uses_attempt);
	}
}

/* Over every outcome there is, some there are not, and every status: the three rules that keep phones quiet. */
static void
only_what_proves_that_nothing_was_applied_is_queued_again(void **state)
{
	int outcome;

	(void) state;
	for (outcome = -1; outcome <= 99; outcome++)
	{
		int status;

		for (status = -1; status <= 1000; status++)
		{
			KtDecision decision = kt_outcome_decide((KtOutcome) outcome, status);
			bool proof = kt_outcome_nothing_applied((KtOutcome) outcome);
			bool placed = outcome == KT_OUTCOME_OK || outcome == KT_OUTCOME_OK_FLAGGED;

			if (decision.state == KT_NEXT_QUEUED)
				assert_true(proof);
			if (decision.state == KT_NEXT_FAILED)
				assert_true(proof);
			assert_int_equal(decision.state == KT_NEXT_PLACED, placed);
			/* what costs no attempt is tried for ever: something else must hold it back */
			if (!decision.uses_attempt)
				assert_true(decision.state == KT_NEXT_QUEUED && decision.effect != KT_EFFECT_NONE &&
				            decision.effect != KT_EFFECT_UNCLEAR);
		}
	}
}

/* The same from the evidence on: 1,000 statuses x 1,024 shapes. */
static void
no_evidence_without_proof_leads_back_to_the_queue(void **state)
{
	int status;

	(void) state;
	for (status = 0; status <= 999; status++)
	{
		int bits;

		for (bits = 0; bits < 256; bits++)
		{
			KtEvidence evidence = {
				.places_call = true,
				.transfer_failed = bits & 1,
				.bytes_sent = bits & 2 ? 1 : 0,
				.is_object = bits & 4,
				.has_all_fields = bits & 8,
				.success = (KtSuccess) (bits >> 4 & 3),
				.call_id = (KtCallId) (bits >> 6 & 3),
				.status = status,
			};
			KtDecision decision = kt_outcome_decide(kt_outcome_judge(&evidence), status);
			bool refused =
				!evidence.transfer_failed &&
				(status == 401 || status == 402 || status == 403 || status == 407 || status == 429);
			bool unsent = evidence.transfer_failed && evidence.bytes_sent == 0;

			assert_int_equal(decision.state == KT_NEXT_QUEUED, refused || unsent);
		}
	}
}

/* Words stand in tables that humans read and queries compare: each its own. */
static void
every_outcome_has_a_word_of_its_own(void **state)
{
	int a;
	int b;

	(void) state;
	for (a = KT_OUTCOME_OK; a <= KT_OUTCOME_UNKNOWN; a++)
		for (b = KT_OUTCOME_OK; b < a; b++)
			assert_string_not_equal(kt_outcome_word((KtOutcome) a), kt_outcome_word((KtOutcome) b));
	assert_string_equal(kt_outcome_word((KtOutcome) 99), "unknown");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_transfer_that_failed_before_its_first_byte_was_not_sent),
		cmocka_unit_test(a_transfer_that_failed_after_its_first_byte_is_unknown_or_a_lost_read),
		cmocka_unit_test(the_documented_answer_with_any_2xx_is_ok),
		cmocka_unit_test(a_call_id_without_a_clear_success_is_placed_and_flagged),
		cmocka_unit_test(success_false_declines_only_without_any_call_id),
		cmocka_unit_test(a_2xx_that_is_not_the_documented_shape_leaves_a_call_unknown),
		cmocka_unit_test(a_2xx_that_is_not_the_documented_shape_is_an_undocumented_read),
		cmocka_unit_test(every_status_means_what_the_table_says_whatever_the_body),
		cmocka_unit_test(nothing_was_applied_is_never_said_without_proof),
		cmocka_unit_test(an_outcome_out_of_range_is_no_proof),
		cmocka_unit_test(a_failed_transfer_is_queued_or_unknown_by_what_left),
		cmocka_unit_test(a_2xx_is_placed_failed_or_unknown_by_its_body),
		cmocka_unit_test(every_other_status_decides_what_the_table_says_whatever_the_body),
		cmocka_unit_test(only_what_proves_that_nothing_was_applied_is_queued_again),
		cmocka_unit_test(no_evidence_without_proof_leads_back_to_the_queue),
		cmocka_unit_test(every_outcome_has_a_word_of_its_own),
	};

	return cmocka_run_group_tests_name("outcome", tests, NULL, NULL);
}
