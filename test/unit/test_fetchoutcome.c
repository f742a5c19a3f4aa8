/* What the end of a recording's download means, and when it is tried again. */
#include "unit.h"

#include "fetchoutcome.h"

#define SECOND INT64_C(1000000)
#define HOUR (3600 * SECOND)

static void
check(const KtHttpAnswer *answer, int64_t bytes, KtFetchNext next, const char *words)
{
	char error[200] = "not set";
	KtFetchNext got = kt_fetchoutcome_judge(answer, bytes, error, sizeof(error));

	if (got != next || strstr(error, words) == NULL)
		fail_msg("status %d, curl code %d, type %s: %d \"%s\", not %d \"%s\"", answer->status,
		         answer->curl_code, answer->content_type != NULL ? answer->content_type : "none",
		         got, error, next, words);
}

static void
a_whole_answer_of_some_type_is_done(void **state)
{
	static const char *const types[] = {
		NULL,        "",           "audio/mpeg", "audio/wav; rate=8000", "application/octet-stream",
		"video/mp4", "text/plain", "x",          "text/htmlx",           "application/jsonl"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(types); i++)
	{
		KtHttpAnswer answer = {.status = 200, .content_type = types[i]};

		check(&answer, 1, KT_FETCH_DONE, "");
	}
}

static void
a_page_or_a_message_is_no_recording(void **state)
{
	static const char *const types[] = {"text/html",
	                                    "TEXT/HTML; charset=utf-8",
	                                    "text/html;charset=utf-8",
	                                    "application/json",
	                                    "application/xml",
	                                    "text/xml",
	                                    "application/xhtml+xml"};
	KtHttpAnswer empty = {.status = 200, .content_type = "audio/mpeg"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(types); i++)
	{
		KtHttpAnswer answer = {.status = 200, .content_type = types[i]};

		check(&answer, 1000, KT_FETCH_DOUBT, types[i]);
	}
	check(&empty, 0, KT_FETCH_DOUBT, "empty");
}

static void
a_status_says_whether_another_try_is_worth_it(void **state)
{
	static const int retried[] = {408, 425, 429, 500, 502, 503, 504, 599, 999};
	static const int doubted[] = {100, 201, 204, 206, 301, 302, 304, 307, 308,
	                              400, 401, 403, 404, 405, 410, 416, 451};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(retried); i++)
	{
		KtHttpAnswer answer = {.status = retried[i], .curl_code = (int) (i % 2) * 23, .error = "x"};

		check(&answer, 0, KT_FETCH_RETRY, "HTTP status");
	}
	for (i = 0; i < lengthof(doubted); i++)
	{
		KtHttpAnswer answer = {.status = doubted[i], .curl_code = (int) (i % 2) * 23, .error = "x"};

		check(&answer, 0, KT_FETCH_DOUBT, doubted[i] / 100 == 3 ? "not followed" : "HTTP status");
	}
}

static void
the_network_is_tried_again_and_what_is_too_large_never(void **state)
{
	KtHttpAnswer refused = {.curl_code = 7, .error = "Failed to connect\n\xc3\xa4"};
	KtHttpAnswer broken = {.curl_code = 18, .status = 200, .error = "transfer closed"};
	KtHttpAnswer unfit = {.curl_code = 23, .status = 200, .error = "does not say where it ends"};
	KtHttpAnswer large = {.curl_code = 23, .status = 200, .too_large = true, .error = "larger"};
	KtHttpAnswer large_error = {.curl_code = 23, .status = 500, .too_large = true, .error = "x"};

	(void) state;
	check(&refused, 0, KT_FETCH_RETRY, "Failed to connect???");
	check(&broken, 1000, KT_FETCH_RETRY, "transfer closed");
	check(&unfit, 0, KT_FETCH_DOUBT, "does not say");
	check(&large, 1000, KT_FETCH_NEVER, "larger");
	check(&large_error, 0, KT_FETCH_RETRY, "500");
}

static void
the_wait_grows_and_heeds_retry_after(void **state)
{
	int64_t before = 0;
	int attempts;

	(void) state;
	for (attempts = 1; attempts <= 20; attempts++)
	{
		int64_t least = kt_fetchoutcome_delay(attempts, -1, 0);
		int64_t most = 0;
		uint64_t random;

		for (random = 0; random < 1000; random++)
		{
			int64_t delay = kt_fetchoutcome_delay(attempts, -1, random * 0x9e3779b97f4a7c15u);

			assert_true(delay >= least);
			most = delay > most ? delay : most;
		}
		assert_true(least >= SECOND);
		assert_true(most <= HOUR);
		assert_true(most > before * 9 / 10);
		before = most;
	}
	/* a file that is not in place yet gets some minutes in the few tries it has */
	assert_true(kt_fetchoutcome_delay(1, -1, 30 * SECOND) > 30 * SECOND);
	assert_true(kt_fetchoutcome_delay(1, -1, UINT64_MAX) <= 32 * SECOND);
	assert_true(kt_fetchoutcome_delay(20, -1, 0) >= HOUR / 2);
	assert_int_equal(kt_fetchoutcome_delay(1, 1000, 5), 1000 * SECOND);
	assert_int_equal(kt_fetchoutcome_delay(1, 1000000, 5), HOUR);
}

static void
foreign_words_become_printable_and_short(void **state)
{
	char out[8];

	(void) state;
	kt_fetchoutcome_print(NULL, out, sizeof(out));
	assert_string_equal(out, "");
	kt_fetchoutcome_print("ab\x01\x7f\xff ~", out, sizeof(out));
	assert_string_equal(out, "ab??? ~");
	kt_fetchoutcome_print("abcdefghij", out, sizeof(out));
	assert_string_equal(out, "abcdefg");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_answer_of_some_type_is_done),
		cmocka_unit_test(a_page_or_a_message_is_no_recording),
		cmocka_unit_test(a_status_says_whether_another_try_is_worth_it),
		cmocka_unit_test(the_network_is_tried_again_and_what_is_too_large_never),
		cmocka_unit_test(the_wait_grows_and_heeds_retry_after),
		cmocka_unit_test(foreign_words_become_printable_and_short),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
