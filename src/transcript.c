/*
 * Splits a plain-text transcript into turns: who spoke, and what was said until another speaks.
 *
 * The cursor always stands at the start of a line: of the text, or of a line that begins with a label.
 * So it needs no state besides its two pointers, and every byte belongs to exactly one turn.
 *
 * A label is what stands at a line's start before a colon and looks like a name: at most three words
 * and KT_MAX_SPEAKER bytes of letters and a little punctuation. The colon is ':' with white space or
 * the line's end behind it (so "http://" and "10:30" are no labels), or the full-width U+FF1A. This is
 * a guess by nature: "Note: call back" on a continuation line is taken for a speaker "Note", and a
 * time stamp before the name ("[00:12] Agent: ...") hides the label. Nothing is lost either way: the
 * words stay, only their attribution differs.
 *
 * Why it is right on hostile bytes: every read is guarded by the end pointer; nothing is decoded (any
 * encoding that contains ASCII unambiguously will do); and the work is linear in the text's length,
 * lone carriage returns included, because the search for a line's end goes through windows of fixed
 * size instead of running to the next LF each time.
 */
#include "transcript.h"

#include <string.h>

#include "ascii.h"
#include "limits.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* A label has at most this many words: "Dr. Anna Maier" is one, half a sentence is not. */
#define MAX_WORDS 3

/* How far a line's end is searched for LF before CR is searched for as well; see above. */
#define WINDOW 256

#define BOM "\xEF\xBB\xBF"
#define FULL_WIDTH_COLON "\xEF\xBC\x9A"

/* ASCII letters and digits, and every byte of a non-ASCII character. */
static bool
is_letter(char c)
{
	unsigned char u = (unsigned char) c;

	return (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z') || (u >= '0' && u <= '9') || u >= 0x80;
}

static bool
is_label_punctuation(char c)
{
	switch (c)
	{
		case '.':
		case '-':
		case '_':
		case '\'':
		case '(':
		case ')':
		case '/':
		case '&':
		case '#':
		case '[':
		case ']':
			return true;
		default:
			return false;
	}
}

/* Is there a label's colon at p? Returns the first byte behind it, else NULL. */
static const char *
skip_colon(const char *p, const char *end)
{
	if (*p == ':' && (end - p == 1 || kt_is_space(p[1])))
		return p + 1;
	if (end - p >= 3 && memcmp(p, FULL_WIDTH_COLON, 3) == 0)
		return p + 3;
	return NULL;
}

/*
 * Finds the label of the line that begins at line. Returns the first byte behind its colon and sets the
 * turn's speaker, or returns NULL. Looks at no more than KT_MAX_SPEAKER bytes behind the indentation.
 */
static const char *
find_label(const char *line, const char *end, KtTurn *turn)
{
	const char *start = line;
	const char *limit;
	const char *name_end;
	const char *p;
	int words = 1;

	while (start < end && (*start == ' ' || *start == '\t'))
		start++;
	if (start == end || !(is_letter(*start) || *start == '[' || *start == '('))
		return NULL;
	limit = end - start > KT_MAX_SPEAKER ? start + KT_MAX_SPEAKER + 1 : end;
	name_end = start;
	for (p = start; p < limit; p++)
	{
		const char *behind = skip_colon(p, end);

		if (behind != NULL)
		{
			turn->speaker = start;
			turn->speaker_len = (size_t) (name_end - start);
			return name_end > start ? behind : NULL;
		}
		if (*p == ' ')
			continue;
		if (!is_letter(*p) && !is_label_punctuation(*p))
			return NULL;
		if (name_end < p && ++words > MAX_WORDS)
			return NULL;
		name_end = p + 1;
	}
	return NULL;
}

/* The start of the line behind the one p is in, or end. LF, CR LF and a lone CR end a line. */
static const char *
next_line(const char *p, const char *end)
{
	while (p < end)
	{
		size_t window = end - p > WINDOW ? WINDOW : (size_t) (end - p);
		const char *lf = memchr(p, '\n', window);
		const char *cr = memchr(p, '\r', lf != NULL ? (size_t) (lf - p) : window);

		if (cr != NULL)
			return end - cr > 1 && cr[1] == '\n' ? cr + 2 : cr + 1;
		if (lf != NULL)
			return lf + 1;
		p += window;
	}
	return end;
}

static void
set_utterance(KtTurn *turn, const char *start, const char *end)
{
	while (start < end && kt_is_space(*start))
		start++;
	while (start < end && kt_is_space(end[-1]))
		end--;
	turn->utterance = start;
	turn->utterance_len = (size_t) (end - start);
}

void
kt_transcript_begin(KtTurnCursor *cursor, const char *text, size_t len)
{
	if (len >= 3 && memcmp(text, BOM, 3) == 0)
	{
		text += 3;
		len -= 3;
	}
	cursor->next = text;
	cursor->end = text + len;
}

bool
kt_transcript_next(KtTurnCursor *cursor, KtTurn *turn)
{
	const char *end = cursor->end;

	while (cursor->next < end)
	{
		const char *start = find_label(cursor->next, end, turn);
		const char *stop = next_line(start != NULL ? start : cursor->next, end);
		KtTurn other;

		if (start == NULL)
		{
			turn->speaker = NULL;
			turn->speaker_len = 0;
			start = cursor->next;
		}
		while (stop < end && find_label(stop, end, &other) == NULL)
			stop = next_line(stop, end);
		set_utterance(turn, start, stop);
		cursor->next = stop;
		/* only white space before the first label is not a turn */
		if (turn->speaker != NULL || turn->utterance_len > 0)
			return true;
	}
	return false;
}

size_t
kt_transcript_copy(char *dst, const char *utterance, size_t len)
{
	const char *end = utterance + len;
	char *to = dst;

	while (utterance < end)
	{
		size_t left = (size_t) (end - utterance);
		const char *cr = memchr(utterance, '\r', left);
		size_t run = cr != NULL ? (size_t) (cr - utterance) : left;

		memcpy(to, utterance, run);
		to += run;
		utterance += run;
		if (cr != NULL)
		{
			*to++ = '\n';
			utterance += end - cr > 1 && cr[1] == '\n' ? 2 : 1;
		}
	}
	return (size_t) (to - dst);
}
