/* What is repaired, what stays as it is, and that the result is always valid UTF-8 without NUL. */
#include "unit.h"

#include "repair.h"

#define FFFD "\xEF\xBF\xBD"

typedef struct RepairCase
{
	const char *in;
	size_t len;
	const char *out;
	size_t out_len;
	size_t replaced;
} RepairCase;

static void
check_cases(const RepairCase *cases, size_t n,
            bool (*repair)(const char *, size_t, KtBuf *, KtRepair *))
{
	size_t i;

	for (i = 0; i < n; i++)
	{
		char *in = exact_copy(cases[i].in, cases[i].len);
		KtRepair report = {99, 99};
		KtRepair again;
		KtBuf out;
		KtBuf second;

		kt_buf_init(&out, 1 << 20);
		kt_buf_init(&second, 1 << 20);
		assert_true(repair(in, cases[i].len, &out, &report));
		assert_true(repair(out.data, out.len, &second, &again));
		assert_bytes("a second repair", second.data, second.len, out.data, out.len);
		assert_int_equal(again.replaced, 0);
		assert_int_equal(again.depth, report.depth);
		if (repair == kt_repair_json)
			assert_int_equal(kt_repair_json_is_needless(in, cases[i].len, &again),
			                 out.len == cases[i].len && memcmp(out.data, in, out.len) == 0);
		assert_buf_and_free(cases[i].in, &out, cases[i].out, cases[i].out_len);
		assert_int_equal(report.replaced, cases[i].replaced);
		kt_buf_free(&second);
		free(in);
	}
}

static void
valid_text_passes_unchanged(void **state)
{
	static const char *const texts[] = {
		"",
		"{}",
		"{\"callId\":\"c1\",\"status\":\"completed\",\"durationMs\":94000}",
		"\x01\x1f\x7f\t\r\n",
		"\xC2\x80\xDF\xBF",
		"\xE0\xA0\x80\xEC\xBF\xBF\xED\x80\x80\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF",
		"\xF0\x90\x80\x80\xF4\x8F\xBF\xBF",
		"\"a long enough \xC3\xA4 string with \xF0\x9F\x98\x80 in it\"",
		FFFD,
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(texts); i++)
	{
		size_t len = strlen(texts[i]);
		RepairCase same = {texts[i], len, texts[i], len, 0};

		check_cases(&same, 1, kt_repair_json);
		check_cases(&same, 1, kt_repair_text);
	}
}

/* One U+FFFD for each maximal subpart: the examples of the Unicode Standard, chapter 3.9, and edges. */
static const RepairCase bad_utf8[] = {
	{BYTES("\xff\xfe"), BYTES(FFFD FFFD), 2},
	{BYTES("\x80"), BYTES(FFFD), 1},
	{BYTES("a\xBF"
           "b"),
     BYTES("a" FFFD "b"), 1},
	{BYTES("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
     BYTES(FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A"), 8},
	{BYTES("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
     BYTES(FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A"), 8},
	{BYTES("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
     BYTES(FFFD FFFD FFFD FFFD FFFD "A" FFFD FFFD "B"), 7},
	{BYTES("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), BYTES(FFFD FFFD FFFD FFFD "A"), 4},
	{BYTES("\xC1\xBF"), BYTES(FFFD FFFD), 2},
	{BYTES("\xF5\x80\x80\x80"), BYTES(FFFD FFFD FFFD FFFD), 4},
	/* cut by the end of the input */
	{BYTES("x\xC3"), BYTES("x" FFFD), 1},
	{BYTES("x\xE2\x82"), BYTES("x" FFFD), 1},
	{BYTES("x\xF0\x9F\x98"), BYTES("x" FFFD), 1},
	/* a quote right behind is not swallowed */
	{BYTES("\"\xC3\""), BYTES("\"" FFFD "\""), 1},
	{BYTES("\"\xF0\x9F\x98\",\"b\""), BYTES("\"" FFFD "\",\"b\""), 1},
	/* within and across the eight bytes the fast path looks at */
	{BYTES("\"abcdefg\xff"
           "abcdefgh\xff\""),
     BYTES("\"abcdefg" FFFD "abcdefgh" FFFD "\""), 2},
	{BYTES("\"abcdef\xC3\xA4"
           "abcdefgh\xF0\x9F\x98\x80\""),
     BYTES("\"abcdef\xC3\xA4"
           "abcdefgh\xF0\x9F\x98\x80\""),
     0},
	{BYTES("\0"), BYTES(FFFD), 1},
	{BYTES("abcdefg\0abcdefg"), BYTES("abcdefg" FFFD "abcdefg"), 1},
	{BYTES("\"\0\0\""), BYTES("\"" FFFD FFFD "\""), 2},
};

static void
each_maximal_subpart_of_invalid_utf8_and_each_nul_becomes_one_replacement_character(void **state)
{
	(void) state;
	check_cases(bad_utf8, lengthof(bad_utf8), kt_repair_text);
	check_cases(bad_utf8, lengthof(bad_utf8), kt_repair_json);
}

static void
a_lone_surrogate_becomes_the_replacement_character(void **state)
{
	static const RepairCase cases[] = {
		{BYTES("\"\\ud83d\""), BYTES("\"" FFFD "\""), 1},
		{BYTES("\"\\udc00\""), BYTES("\"" FFFD "\""), 1},
		{BYTES("\"\\uDFFF\\uDBFF\""), BYTES("\"" FFFD FFFD "\""), 2},
		{BYTES("\"\\ud83d\\u0041\""), BYTES("\"" FFFD "\\u0041\""), 1},
		{BYTES("\"\\ud83d\\ud83d\\ude00\""), BYTES("\"" FFFD "\xF0\x9F\x98\x80\""), 1},
		{BYTES("\"\\ud83d\\n\\ude00\""), BYTES("\"" FFFD "\\n" FFFD "\""), 2},
		{BYTES("\"\\ud83d \\ude00\""), BYTES("\"" FFFD " " FFFD "\""), 2},
		{BYTES("\"\\ud83d\\\\ude00\""), BYTES("\"" FFFD "\\\\ude00\""), 1},
		{BYTES("\"\\ud83d"), BYTES("\"" FFFD), 1},
		{BYTES("\"\\ud83d\\"), BYTES("\"" FFFD "\\"), 1},
		{BYTES("\"\\ud83d\\u"), BYTES("\"" FFFD "\\u"), 1},
		{BYTES("\"\\ud83d\\ude0"), BYTES("\"" FFFD "\\ude0"), 1},
		{BYTES("\"\\ud83d\\ude0\""), BYTES("\"" FFFD "\\ude0\""), 1},
	};

	(void) state;
	check_cases(cases, lengthof(cases), kt_repair_json);
}

static void
an_escaped_nul_becomes_the_replacement_character_unless_its_backslash_is_escaped(void **state)
{
	static const RepairCase cases[] = {
		{BYTES("\"\\u0000\""), BYTES("\"" FFFD "\""), 1},
		{BYTES("\"a\\u0000\\u0000b\""), BYTES("\"a" FFFD FFFD "b\""), 2},
		{BYTES("\"\\\\u0000\""), BYTES("\"\\\\u0000\""), 0},
		{BYTES("\"\\\\\\u0000\""), BYTES("\"\\\\" FFFD "\""), 1},
		{BYTES("\"\\\\\\\\u0000\""), BYTES("\"\\\\\\\\u0000\""), 0},
		{BYTES("\"\\\"\\u0000\""), BYTES("\"\\\"" FFFD "\""), 1},
		{BYTES("{\"\\u0000\":1}"), BYTES("{\"" FFFD "\":1}"), 1},
	};

	(void) state;
	check_cases(cases, lengthof(cases), kt_repair_json);
}

static void
escapes_above_ascii_become_characters_and_escapes_of_ascii_stay(void **state)
{
	static const RepairCase cases[] = {
		{BYTES("\"\\u0001\\u0022\\u005c\\u005C\\u007f\\n\\t\\\"\\/\""),
	     BYTES("\"\\u0001\\u0022\\u005c\\u005C\\u007f\\n\\t\\\"\\/\""), 0},
		{BYTES("\"\\u0080\""), BYTES("\"\xC2\x80\""), 0},
		{BYTES("\"\\u07ff\\u0800\""), BYTES("\"\xDF\xBF\xE0\xA0\x80\""), 0},
		{BYTES("\"\\ud7ff\\ue000\""), BYTES("\"\xED\x9F\xBF\xEE\x80\x80\""), 0},
		{BYTES("\"\\uD7Ff\\uFfFe\\uffff\""), BYTES("\"\xED\x9F\xBF\xEF\xBF\xBE\xEF\xBF\xBF\""), 0},
		{BYTES("\"\\ud800\\udc00\""), BYTES("\"\xF0\x90\x80\x80\""), 0},
		{BYTES("\"\\uDBFF\\uDFFF\""), BYTES("\"\xF4\x8F\xBF\xBF\""), 0},
		{BYTES("\"\\ud83d\\ude00\""), BYTES("\"\xF0\x9F\x98\x80\""), 0},
		{BYTES("\"\\uD83D\\uDE00\\u00e4\\u00E4\""), BYTES("\"\xF0\x9F\x98\x80\xC3\xA4\xC3\xA4\""),
	     0},
		{BYTES("\"\\ufffd\""), BYTES("\"" FFFD "\""), 0},
		{BYTES("\"\\ufeffx\""), BYTES("\"\xEF\xBB\xBFx\""), 0},
	};

	(void) state;
	check_cases(cases, lengthof(cases), kt_repair_json);
}

static void
what_is_no_escape_is_left_to_the_json_parser(void **state)
{
	static const RepairCase cases[] = {
		{BYTES("\"\\u12\""), BYTES("\"\\u12\""), 0},
		{BYTES("\"\\u12"), BYTES("\"\\u12"), 0},
		{BYTES("\"\\u"), BYTES("\"\\u"), 0},
		{BYTES("\"\\"), BYTES("\"\\"), 0},
		{BYTES("\"\\u00g0\""), BYTES("\"\\u00g0\""), 0},
		{BYTES("\"\\U00e4\""), BYTES("\"\\U00e4\""), 0},
		{BYTES("\"\\u\\u00e4\""), BYTES("\"\\u\xC3\xA4\""), 0},
		{BYTES("\"\\x\""), BYTES("\"\\x\""), 0},
		/* the byte behind a backslash is repaired like any other */
		{BYTES("\"\\\0\""), BYTES("\"\\" FFFD "\""), 1},
		{BYTES("\"\\\xff\""), BYTES("\"\\" FFFD "\""), 1},
		{BYTES("\"\\\xC3\xA4\""), BYTES("\"\\\xC3\xA4\""), 0},
		{BYTES("\"\\u00\xff"
	           "e4\""),
	     BYTES("\"\\u00" FFFD "e4\""), 1},
		/* outside strings a backslash means nothing */
		{BYTES("\\u0000\\ud83d\\u00e4"), BYTES("\\u0000\\ud83d\\u00e4"), 0},
		{BYTES("\\\"\\u0000\""), BYTES("\\\"" FFFD "\""), 1},
		{BYTES("\\\xff"), BYTES("\\" FFFD), 1},
	};

	(void) state;
	check_cases(cases, lengthof(cases), kt_repair_json);
}

static void
leading_byte_order_marks_are_dropped_from_json_but_not_from_text(void **state)
{
	static const RepairCase json[] = {
		{BYTES("\xEF\xBB\xBF{}"), BYTES("{}"), 0},
		{BYTES("\xEF\xBB\xBF\xEF\xBB\xBF{}"), BYTES("{}"), 0},
		{BYTES("\xEF\xBB\xBF"), BYTES(""), 0},
		{BYTES(" \xEF\xBB\xBF{}"), BYTES(" \xEF\xBB\xBF{}"), 0},
		{BYTES("\xEF\xBB"), BYTES(FFFD), 1},
	};
	static const RepairCase text[] = {
		{BYTES("\xEF\xBB\xBFx"), BYTES("\xEF\xBB\xBFx"), 0},
	};

	(void) state;
	check_cases(json, lengthof(json), kt_repair_json);
	check_cases(text, lengthof(text), kt_repair_text);
}

static void
plain_text_keeps_backslashes_and_escapes(void **state)
{
	static const RepairCase cases[] = {
		{BYTES("\"\\u0000\\ud83d\\u00e4\""), BYTES("\"\\u0000\\ud83d\\u00e4\""), 0},
		{BYTES("\\\0"), BYTES("\\" FFFD), 1},
	};

	(void) state;
	check_cases(cases, lengthof(cases), kt_repair_text);
}

typedef struct DepthCase
{
	const char *in;
	int depth;
} DepthCase;

static void
the_deepest_nesting_outside_strings_is_counted(void **state)
{
	static const DepthCase cases[] = {
		{"", 0},     {"null", 0},          {"{}", 1},           {"[{}]", 2},
		{"{}{}", 1}, {"\"[[[\"", 0},       {"{\"[{\":[1]}", 2}, {"[\"\\\"[[\",[]]", 2},
		{"]]]", 0},  {"}]}[[[", 3},        {"[[[]]][[", 3},     {"\"\\\\\"[", 1},
		{"[\"", 1},  {"[\"[[[[[[[[[[", 1}, {"\\\"[", 0},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		KtRepair report;
		KtBuf out;

		kt_buf_init(&out, 1000);
		assert_true(kt_repair_json(cases[i].in, strlen(cases[i].in), &out, &report));
		if (report.depth != cases[i].depth)
			fail_msg("%s: depth %d, expected %d", cases[i].in, report.depth, cases[i].depth);
		kt_buf_free(&out);
	}
}

static void
a_hundred_thousand_levels_are_counted_without_recursion(void **state)
{
	size_t len = 100000;
	char *in = malloc(len);
	KtRepair report;
	KtBuf out;

	(void) state;
	memset(in, '[', len);
	kt_buf_init(&out, len);
	assert_true(kt_repair_json(in, len, &out, &report));
	assert_int_equal(report.depth, 100000);
	kt_buf_free(&out);
	free(in);
}

static void
a_result_over_the_maximum_is_a_failure(void **state)
{
	static const char *const inputs[] = {"\"abc\\u0000\"", "\"\xff\xff\xff\"", "\"abcdefgh\""};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(inputs); i++)
	{
		size_t len = strlen(inputs[i]);
		KtRepair report;
		KtBuf out;
		size_t whole;

		kt_buf_init(&out, 1000);
		assert_true(kt_repair_json(inputs[i], len, &out, &report));
		whole = out.len;
		kt_buf_free(&out);

		kt_buf_init(&out, whole);
		assert_true(kt_repair_json(inputs[i], len, &out, &report));
		kt_buf_free(&out);
		kt_buf_init(&out, whole - 1);
		assert_false(kt_repair_json(inputs[i], len, &out, &report));
		kt_buf_free(&out);
		kt_buf_init(&out, len - 1);
		assert_false(kt_repair_text(inputs[i], len, &out, &report));
		kt_buf_free(&out);
	}
}

static void
the_result_is_appended_behind_what_is_there(void **state)
{
	KtRepair report;
	KtBuf out;

	(void) state;
	kt_buf_init(&out, 100);
	kt_buf_append_str(&out, "before ");
	assert_true(kt_repair_text(BYTES("a\xff"), &out, &report));
	assert_buf_and_free("appended", &out, BYTES("before a" FFFD));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(valid_text_passes_unchanged),
		cmocka_unit_test(
			each_maximal_subpart_of_invalid_utf8_and_each_nul_becomes_one_replacement_character),
		cmocka_unit_test(a_lone_surrogate_becomes_the_replacement_character),
		cmocka_unit_test(
			an_escaped_nul_becomes_the_replacement_character_unless_its_backslash_is_escaped),
		cmocka_unit_test(escapes_above_ascii_become_characters_and_escapes_of_ascii_stay),
		cmocka_unit_test(what_is_no_escape_is_left_to_the_json_parser),
		cmocka_unit_test(leading_byte_order_marks_are_dropped_from_json_but_not_from_text),
		cmocka_unit_test(plain_text_keeps_backslashes_and_escapes),
		cmocka_unit_test(the_deepest_nesting_outside_strings_is_counted),
		cmocka_unit_test(a_hundred_thousand_levels_are_counted_without_recursion),
		cmocka_unit_test(a_result_over_the_maximum_is_a_failure),
		cmocka_unit_test(the_result_is_appended_behind_what_is_there),
	};

	return cmocka_run_group_tests_name("repair", tests, NULL, NULL);
}
