/* Which lines name a speaker, how lines join into utterances, and that no byte is read twice or missed. */
#include "unit.h"

#include "limits.h"
#include "transcript.h"

/* Writes the turns as "speaker=utterance|..." with "-" for no speaker; the input's block is exact. */
static void
render(const char *text, size_t len, KtBuf *out)
{
	char *in = exact_copy(text, len);
	KtTurnCursor cursor;
	KtTurn turn;

	kt_buf_init(out, 1 << 20);
	kt_transcript_begin(&cursor, in, len);
	while (kt_transcript_next(&cursor, &turn))
	{
		char *copy = malloc(turn.utterance_len + 1);
		size_t n = kt_transcript_copy(copy, turn.utterance, turn.utterance_len);

		assert_true(n <= turn.utterance_len);
		if (turn.speaker != NULL)
			kt_buf_append(out, turn.speaker, turn.speaker_len);
		else
			kt_buf_append_char(out, '-');
		kt_buf_append_char(out, '=');
		kt_buf_append(out, copy, n);
		kt_buf_append_char(out, '|');
		free(copy);
	}
	assert_false(kt_transcript_next(&cursor, &turn));
	free(in);
}

typedef struct TurnCase
{
	const char *text;
	size_t len;
	const char *turns;
} TurnCase;

static void
check_cases(const TurnCase *cases, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
	{
		KtBuf out;

		render(cases[i].text, cases[i].len, &out);
		assert_buf_and_free(cases[i].text, &out, cases[i].turns, strlen(cases[i].turns));
	}
}

static void
each_label_begins_a_turn(void **state)
{
	static const TurnCase cases[] = {
		{BYTES("Agent: Hello!\nUser: Hi.\n"), "Agent=Hello!|User=Hi.|"},
		{BYTES("Agent: Hello!"), "Agent=Hello!|"},
		{BYTES("Agent: a\nAgent: b"), "Agent=a|Agent=b|"},
		{BYTES("  \tAgent: indented"), "Agent=indented|"},
		{BYTES("Agent:\ttab behind"), "Agent=tab behind|"},
		{BYTES("Agent : blank before"), "Agent=blank before|"},
		{BYTES("Agent:   much space   \n\n\nUser: x"), "Agent=much space|User=x|"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
lines_without_a_label_continue_the_utterance(void **state)
{
	static const TurnCase cases[] = {
		{BYTES("Agent: one\ntwo\n\nthree\nUser: four"), "Agent=one\ntwo\n\nthree|User=four|"},
		{BYTES("Agent:\nfirst\nsecond"), "Agent=first\nsecond|"},
		{BYTES("Agent: see http://example.com\nhttp://example.com"),
	     "Agent=see http://example.com\nhttp://example.com|"},
		{BYTES("Agent: at\n10:30 it is"), "Agent=at\n10:30 it is|"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
a_label_with_nothing_behind_it_is_an_empty_utterance(void **state)
{
	static const TurnCase cases[] = {
		{BYTES("Agent:"), "Agent=|"},
		{BYTES("Agent: "), "Agent=|"},
		{BYTES("Agent:\n"), "Agent=|"},
		{BYTES("Agent:\nUser:\n"), "Agent=|User=|"},
		{BYTES("Agent:\r\n \r\nUser: x"), "Agent=|User=x|"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
text_before_the_first_label_has_no_speaker(void **state)
{
	static const TurnCase cases[] = {
		{BYTES("hello there\nAgent: hi"), "-=hello there|Agent=hi|"},
		{BYTES("\n \t\r\nAgent: hi"), "Agent=hi|"},
		{BYTES("no label at all\nreally: \"none\"? that, sir: none"),
	     "-=no label at all|really=\"none\"? that, sir: none|"},
		{BYTES("no label at all\n\nnone"), "-=no label at all\n\nnone|"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
nothing_but_white_space_is_no_turn(void **state)
{
	static const TurnCase cases[] = {
		{BYTES(""), ""},
		{BYTES(" "), ""},
		{BYTES("\n\r\n\r \t\v\f\n"), ""},
		{BYTES("\xEF\xBB\xBF"), ""},
		{BYTES("\xEF\xBB\xBF\n"), ""},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
every_kind_of_line_end_ends_a_line(void **state)
{
	static const TurnCase cases[] = {
		{BYTES("A: 1\nB: 2\nC: 3\n"), "A=1|B=2|C=3|"},
		{BYTES("A: 1\r\nB: 2\r\nC: 3\r\n"), "A=1|B=2|C=3|"},
		{BYTES("A: 1\rB: 2\rC: 3\r"), "A=1|B=2|C=3|"},
		{BYTES("A: 1\r\rB: 2\n\rC: 3"), "A=1|B=2|C=3|"},
		{BYTES("A: 1\r\n2\r3\n4"), "A=1\n2\n3\n4|"},
		/* U+2028 is text */
		{BYTES("A: 1\xE2\x80\xA8"
	           "B: 2"),
	     "A=1\xE2\x80\xA8"
	     "B: 2|"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
a_byte_order_mark_is_skipped_at_the_beginning_only(void **state)
{
	static const TurnCase cases[] = {
		{BYTES("\xEF\xBB\xBF"
	           "Agent: hi"),
	     "Agent=hi|"},
		{BYTES("A: x\n\xEF\xBB\xBF"
	           "B: y"),
	     "A=x|\xEF\xBB\xBF"
	     "B=y|"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
a_full_width_colon_ends_a_label_and_needs_no_space(void **state)
{
	static const TurnCase cases[] = {
		{BYTES("\xE5\xAE\xA2\xE6\x9C\x8D\xEF\xBC\x9A\xE4\xBD\xA0\xE5\xA5\xBD\nA\xEF\xBC\x9A"),
	     "\xE5\xAE\xA2\xE6\x9C\x8D=\xE4\xBD\xA0\xE5\xA5\xBD|A=|"},
		/* without a name, or cut short, it is text */
		{BYTES("\xEF\xBC\x9A x"), "-=\xEF\xBC\x9A x|"},
		{BYTES("A\xEF\xBC"), "-=A\xEF\xBC|"},
		{BYTES("A\xEF"), "-=A\xEF|"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
names_of_many_kinds_are_labels(void **state)
{
	static const char *const names[] = {
		"Agent",
		"USER",
		"user_2",
		"Speaker 1",
		"Dr. M\xC3\xBCller (Praxis)",
		"[Agent]",
		"(agent)",
		"[agent 1]",
		"1",
		"2nd caller",
		"O'Brien",
		"Smith & Sons",
		"Agent #3",
		"Agent/Bot",
		"Jean-Luc",
		"\xD0\x90\xD0\xB3\xD0\xB5\xD0\xBD\xD1\x82",
		"M\xFCller",
		"Dr.  Anna   Maier",
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(names); i++)
	{
		char text[200];
		char turns[200];
		KtBuf out;

		snprintf(text, sizeof(text), "%s: words", names[i]);
		snprintf(turns, sizeof(turns), "%s=words|", names[i]);
		render(text, strlen(text), &out);
		assert_buf_and_free(names[i], &out, turns, strlen(turns));
	}
}

static void
what_does_not_look_like_a_name_is_text(void **state)
{
	static const char *const lines[] = {
		"http://example.com",
		"10:30",
		"Agent:hello",
		": hello",
		":",
		"-agent: x",
		"_agent: x",
		"'agent: x",
		"#agent: x",
		"&: x",
		"*Agent: x",
		"**Agent:** x",
		"> Agent: x",
		"\"Agent\": x",
		"well, agent: x",
		"agent! x: y",
		"agent? x: y",
		"one two three four: x",
		"a b c d e: x",
		"agent\tbot: x",
		"agent@home: x",
		"[00:12] Agent: x",
		"a=b: x",
		"agent;: x",
		"no colon",
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(lines); i++)
	{
		char turns[200];
		KtBuf out;

		snprintf(turns, sizeof(turns), "-=%s|", lines[i]);
		render(lines[i], strlen(lines[i]), &out);
		assert_buf_and_free(lines[i], &out, turns, strlen(turns));
	}
}

static void
a_label_of_the_greatest_length_is_one_and_a_longer_is_not(void **state)
{
	char text[KT_MAX_SPEAKER + 16];
	size_t len;

	(void) state;
	for (len = KT_MAX_SPEAKER - 1; len <= KT_MAX_SPEAKER + 1; len++)
	{
		KtTurnCursor cursor;
		KtTurn turn;
		char *in;

		memset(text, 'a', len);
		memcpy(text + len, ": x", 3);
		in = exact_copy(text, len + 3);
		kt_transcript_begin(&cursor, in, len + 3);
		assert_true(kt_transcript_next(&cursor, &turn));
		if (len <= KT_MAX_SPEAKER)
			assert_int_equal(turn.speaker_len, len);
		else
			assert_null(turn.speaker);
		free(in);
	}
}

static void
a_continuation_line_that_looks_like_a_label_is_taken_for_one(void **state)
{
	static const TurnCase cases[] = {
		{BYTES("Agent: thanks\nNote: call back"), "Agent=thanks|Note=call back|"},
	};

	(void) state;
	check_cases(cases, lengthof(cases));
}

static void
nul_bytes_and_long_lines_are_text_like_any_other(void **state)
{
	size_t len;

	(void) state;
	/* around the sizes of the search window */
	for (len = 250; len < 1030; len++)
	{
		char *text = malloc(len + 5);
		KtTurnCursor cursor;
		KtTurn turn;

		memset(text, '\0', len);
		memcpy(text + len, "\r\nB: ", 5);
		kt_transcript_begin(&cursor, text, len + 5);
		assert_true(kt_transcript_next(&cursor, &turn));
		assert_null(turn.speaker);
		assert_int_equal(turn.utterance_len, len);
		assert_true(kt_transcript_next(&cursor, &turn));
		assert_bytes("speaker", turn.speaker, turn.speaker_len, BYTES("B"));
		assert_int_equal(turn.utterance_len, 0);
		assert_false(kt_transcript_next(&cursor, &turn));
		free(text);
	}
}

static void
copying_makes_every_line_end_one_lf(void **state)
{
	static const char *const copies[][2] = {
		{"", ""},         {"abc", "abc"},   {"a\r\nb", "a\nb"},
		{"a\rb", "a\nb"}, {"a\nb", "a\nb"}, {"\r\r\n\n\r", "\n\n\n\n"},
		{"\r\n", "\n"},   {"a\r", "a\n"},   {"a\n\rb", "a\n\nb"},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(copies); i++)
	{
		size_t len = strlen(copies[i][0]);
		char *in = exact_copy(copies[i][0], len);
		char *dst = malloc(len > 0 ? len : 1);
		size_t n = kt_transcript_copy(dst, in, len);

		assert_bytes(copies[i][0], dst, n, copies[i][1], strlen(copies[i][1]));
		free(dst);
		free(in);
	}
}

static void
a_million_lone_carriage_returns_take_linear_time(void **state)
{
	/* sixteen million bytes: a quadratic search would take hours */
	size_t len = 16 * 1000 * 1000;
	char *text = malloc(len);
	KtTurnCursor cursor;
	KtTurn turn;
	size_t turns = 0;
	size_t i;

	(void) state;
	for (i = 0; i < len; i += 4)
		memcpy(text + i, "a: \r", 4);
	kt_transcript_begin(&cursor, text, len);
	while (kt_transcript_next(&cursor, &turn))
		turns++;
	assert_int_equal(turns, len / 4);
	free(text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_label_begins_a_turn),
		cmocka_unit_test(lines_without_a_label_continue_the_utterance),
		cmocka_unit_test(a_label_with_nothing_behind_it_is_an_empty_utterance),
		cmocka_unit_test(text_before_the_first_label_has_no_speaker),
		cmocka_unit_test(nothing_but_white_space_is_no_turn),
		cmocka_unit_test(every_kind_of_line_end_ends_a_line),
		cmocka_unit_test(a_byte_order_mark_is_skipped_at_the_beginning_only),
		cmocka_unit_test(a_full_width_colon_ends_a_label_and_needs_no_space),
		cmocka_unit_test(names_of_many_kinds_are_labels),
		cmocka_unit_test(what_does_not_look_like_a_name_is_text),
		cmocka_unit_test(a_label_of_the_greatest_length_is_one_and_a_longer_is_not),
		cmocka_unit_test(a_continuation_line_that_looks_like_a_label_is_taken_for_one),
		cmocka_unit_test(nul_bytes_and_long_lines_are_text_like_any_other),
		cmocka_unit_test(copying_makes_every_line_end_one_lf),
		cmocka_unit_test(a_million_lone_carriage_returns_take_linear_time),
	};

	return cmocka_run_group_tests_name("transcript", tests, NULL, NULL);
}
