/*
 * Turns tile the text: they come in order, lie within it, are trimmed, and between them stands nothing
 * but white space and a label's colon. So no byte of what was said is lost.
 */
#include "fuzz.h"

#include "limits.h"
#include "transcript.h"

static bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool
starts_a_line(const char *text, const char *p)
{
	while (p > text && (p[-1] == ' ' || p[-1] == '\t'))
		p--;
	return p == text || p[-1] == '\n' || p[-1] == '\r' ||
	       (p - text == 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0);
}

static void
check_speaker(const char *text, const KtTurn *turn)
{
	const char *c;

	MUST(turn->speaker_len >= 1 && turn->speaker_len <= KT_MAX_SPEAKER);
	MUST(starts_a_line(text, turn->speaker));
	MUST(!is_space(turn->speaker[0]) && !is_space(turn->speaker[turn->speaker_len - 1]));
	for (c = turn->speaker; c < turn->speaker + turn->speaker_len; c++)
		MUST(*c == ' ' || (!is_space(*c) && *c != ':' && *c != ',' && *c != '\0'));
}

/* Nothing was left out between from and to but white space and at most one colon. */
static void
check_gap(const char *from, const char *to)
{
	int colons = 0;

	while (from < to)
	{
		if (to - from >= 3 && memcmp(from, "\xEF\xBC\x9A", 3) == 0)
			from += 3, colons++;
		else if (*from == ':')
			from++, colons++;
		else
			MUST(is_space(*from++));
	}
	MUST(colons <= 1);
}

static void
check_copy(const KtTurn *turn)
{
	char *copy = malloc(turn->utterance_len + 1);
	size_t n = kt_transcript_copy(copy, turn->utterance, turn->utterance_len);

	MUST(n <= turn->utterance_len);
	MUST(memchr(copy, '\r', n) == NULL);
	free(copy);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *) data;
	const char *seen = text;
	KtTurnCursor cursor;
	KtTurn turn;
	bool first = true;

	if (size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
		seen += 3;
	kt_transcript_begin(&cursor, text, size);
	while (kt_transcript_next(&cursor, &turn))
	{
		const char *start = turn.speaker != NULL ? turn.speaker : turn.utterance;

		MUST(turn.speaker != NULL || (first && turn.utterance_len > 0));
		MUST(start >= seen);
		check_gap(seen, start);
		if (turn.speaker != NULL)
		{
			check_speaker(text, &turn);
			seen = turn.speaker + turn.speaker_len;
			MUST(turn.utterance > seen);
			check_gap(seen, turn.utterance);
		}
		seen = turn.utterance + turn.utterance_len;
		MUST(seen <= text + size);
		MUST(turn.utterance_len == 0 || (!is_space(turn.utterance[0]) && !is_space(seen[-1])));
		check_copy(&turn);
		first = false;
	}
	check_gap(seen, text + size);
	return 0;
}
