/* What people may read of foreign words: no secret, no phone number, no control byte, no split character. */
#include "unit.h"

#include "redact.h"

typedef struct RedactCase
{
	const char *in;
	const char *secret;
	const char *out;
} RedactCase;

static void
check_cases(const RedactCase *cases, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
	{
		size_t len = strlen(cases[i].in);
		char *in = exact_copy(cases[i].in, len);
		KtBuf out;

		kt_buf_init(&out, 256);
		kt_redact(in, len, cases[i].secret, &out);
		assert_false(out.failed);
		assert_buf_and_free(cases[i].in, &out, cases[i].out, strlen(cases[i].out));
		free(in);
	}
}

static void
harmless_words_pass_unchanged(void **state)
{
	static const RedactCase cases[] = {
		{"", NULL, ""},
		{"", "key", ""},
		{"insufficient credits: 402", NULL, "insufficient credits: 402"},
		{"Gr\xC3\xBC\xC3\x9F"
	     "e \xE4\xBD\xA0 \xF0\x9F\x98\x80",
	     "",
	     "Gr\xC3\xBC\xC3\x9F"
	     "e \xE4\xBD\xA0 \xF0\x9F\x98\x80"},
		{"\xEF\xBF\xBD", "x", "\xEF\xBF\xBD"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
control_characters_become_question_marks(void **state)
{
	static const RedactCase cases[] = {
		{"a\nb\tc\x1b[2J\x7f", NULL, "a?b?c?[2J?"},
		{"\xC2\x80\xC2\x9F\xC2\xA0", NULL, "??\xC2\xA0"},
		{"\xE2\x80\xAA\xE2\x80\xAE\xE2\x81\xA6\xE2\x81\xA9", NULL, "????"},
		{"\xE2\x80\x8E\xE2\x80\x8F\xD8\x9C\xE2\x80\xA8\xE2\x80\xA9", NULL, "?????"},
		{"\xE2\x80\xAF\xE2\x80\x93\xE2\x81\xA5\xE2\x81\xAA", NULL,
	     "\xE2\x80\xAF\xE2\x80\x93\xE2\x81\xA5\xE2\x81\xAA"},
	};
	KtBuf out;

	(void) state;
	check_cases(cases, lengthof(cases));
	kt_buf_init(&out, 100);
	kt_redact(BYTES("a\0b"), NULL, &out);
	assert_buf_and_free("NUL", &out, BYTES("a?b"));
}

static void
each_occurrence_of_the_secret_is_masked(void **state)
{
	static const RedactCase cases[] = {
		{"key", "key", "[redacted]"},
		{"bad key key.", "key", "bad [redacted] [redacted]."},
		{"keykey", "key", "[redacted][redacted]"},
		{"ke", "key", "ke"},
		{"Key", "key", "Key"},
		{"x", "x", "[redacted]"},
		/* overlapping ones are one stretch: no tail of a secret stays */
		{"aXaXaXa!", "aXa", "[redacted]!"},
		{"zzzzz", "zz", "[redacted]"},
		{"zzzzz", "zzz", "[redacted]"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
long_runs_of_digits_are_masked_but_for_the_last_two(void **state)
{
	static const RedactCase cases[] = {
		{"123456", NULL, "123456"},
		{"1234567", NULL, "*****67"},
		{"to +1234567890 failed", NULL, "to +********90 failed"},
		{"+1 (234) 567-89.01!", NULL, "+* (***) ***-**.01!"},
		{"12-34-56", NULL, "12-34-56"},
		{"12-34-567", NULL, "**-**-*67"},
		/* the last two may be apart */
		{"123456-7", NULL, "*****6-7"},
		/* what ends a run */
		{"123456x7", NULL, "123456x7"},
		{"123456  7", NULL, "123456  7"},
		{"123--4567", NULL, "123--4567"},
		{"1234567 x 1234567", NULL, "*****67 x *****67"},
		{"123/4567", NULL, "123/4567"},
		/* separators that no digit follows belong to no run */
		{"123456. . . ", NULL, "123456. . . "},
		{"1234567-", NULL, "*****67-"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
a_secret_wins_over_the_digits_around_and_within_it(void **state)
{
	static const RedactCase cases[] = {
		{"99912345678", "1234567", "999[redacted]8"},
		{"1234567key", "key", "*****67[redacted]"},
		{"1234key5678", "key", "1234[redacted]5678"},
		{"1234567890", "0", "*******89[redacted]"},
		{"1111111", "111", "[redacted]"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
a_secret_that_our_own_marks_would_spell_leaves_nothing_to_be_shown(void **state)
{
	static const RedactCase cases[] = {
		{"bored", "red", ""},
		{"1234567", "**", ""},
		{"\n", "?", ""},
		{"]x]xx", "]x", ""},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

typedef struct CutCase
{
	const char *in;
	const char *secret;
	size_t max;
	const char *out;
} CutCase;

static void
what_is_too_long_is_cut_at_a_character_and_says_so(void **state)
{
	static const CutCase cases[] = {
		{"abcdef", NULL, 6, "abcdef"},
		{"abcdefg", NULL, 6, "abc..."},
		{"abcdefg", NULL, 4, "a..."},
		{"abcdefg", NULL, 3, "..."},
		{"abcdefg", NULL, 2, ".."},
		{"abcdefg", NULL, 1, "."},
		{"abcdefg", NULL, 0, ""},
		{"abc", NULL, 3, "abc"},
		{"", NULL, 0, ""},
		/* characters of two, three and four bytes */
		{"\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4", NULL, 8, "\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4"},
		{"\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4", NULL, 7, "\xC3\xA4\xC3\xA4..."},
		{"\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4", NULL, 6, "\xC3\xA4..."},
		{"\xE4\xBD\xA0\xE4\xBD\xA0", NULL, 5, "..."},
		{"a\xF0\x9F\x98\x80\xF0\x9F\x98\x80", NULL, 8, "a\xF0\x9F\x98\x80..."},
		{"a\xF0\x9F\x98\x80\xF0\x9F\x98\x80", NULL, 7, "a..."},
		/* a secret across the cut leaves no prefix */
		{"abc secret", "secret", 9, "abc ..."},
		{"abc secret", "secret", 14, "abc [redacted]"},
		{"abc secret", "secret", 13, "abc ..."},
		{"secretsecret", "secret", 13, "[redacted]..."},
		/* a number across the cut is masked as a whole */
		{"call +1234567890 now", NULL, 12, "call +***..."},
		{"1234567890", NULL, 9, "******..."},
		{"1234567890", NULL, 10, "********90"},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		KtBuf out;

		kt_buf_init(&out, cases[i].max);
		kt_redact(cases[i].in, strlen(cases[i].in), cases[i].secret, &out);
		assert_false(out.failed);
		assert_buf_and_free(cases[i].in, &out, cases[i].out, strlen(cases[i].out));
	}
}

static void
words_are_appended_behind_what_is_there_and_only_they_are_cut(void **state)
{
	KtBuf out;

	(void) state;
	kt_buf_init(&out, 10);
	kt_buf_append_str(&out, "HTTP: ");
	kt_redact(BYTES("bad words"), NULL, &out);
	assert_buf_and_free("appended", &out, BYTES("HTTP: b..."));

	kt_buf_init(&out, 8);
	kt_buf_append_str(&out, "HTTP: ");
	kt_redact(BYTES("bad words"), NULL, &out);
	assert_buf_and_free("no room", &out, BYTES("HTTP: .."));

	kt_buf_init(&out, 100);
	kt_buf_append_str(&out, "HTTP: ");
	kt_redact(BYTES("bored"), "red", &out);
	assert_buf_and_free("nothing shown", &out, BYTES("HTTP: "));
}

static void
in_invalid_utf8_nothing_is_read_beyond_the_end_and_no_control_byte_hides(void **state)
{
	static const char *const cases[][2] = {
		{"\xF0", "\xF0"},
		{"\xE2\x80", "\xE2\x80"},
		{"\x80\x80\x80\x80\x80", "\x80\x80\x80\x80\x80"},
		{"\xC2", "\xC2"},
		{"a\xFF", "a\xFF"},
		{"\x01\xB0", "?\xB0"},
		{"\x1B\x9B\x80", "?\x9B\x80"},
		{"\xE2\x80\n", "\xE2\x80?"},
		{"\xC2\x85\x80", "?\x80"},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		size_t len = strlen(cases[i][0]);
		char *in = exact_copy(cases[i][0], len);
		KtBuf out;

		kt_buf_init(&out, 100);
		kt_redact(in, len, "secret", &out);
		assert_buf_and_free(cases[i][0], &out, cases[i][1], strlen(cases[i][1]));
		free(in);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(harmless_words_pass_unchanged),
		cmocka_unit_test(control_characters_become_question_marks),
		cmocka_unit_test(each_occurrence_of_the_secret_is_masked),
		cmocka_unit_test(long_runs_of_digits_are_masked_but_for_the_last_two),
		cmocka_unit_test(a_secret_wins_over_the_digits_around_and_within_it),
		cmocka_unit_test(a_secret_that_our_own_marks_would_spell_leaves_nothing_to_be_shown),
		cmocka_unit_test(what_is_too_long_is_cut_at_a_character_and_says_so),
		cmocka_unit_test(words_are_appended_behind_what_is_there_and_only_they_are_cut),
		cmocka_unit_test(in_invalid_utf8_nothing_is_read_beyond_the_end_and_no_control_byte_hides),
	};

	return cmocka_run_group_tests_name("redact", tests, NULL, NULL);
}
