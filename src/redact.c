/*
 * Makes foreign words fit for a message or a log: short, printable, without secrets or phone numbers.
 *
 * The input is read once as a row of pieces: a stretch of overlapping secrets, one digit, one
 * character. Each piece is rewritten before it is measured against the maximum, and pieces are never
 * cut. So no prefix of a secret can stay behind at the cut, and the secret wins over everything that
 * overlaps it, digits included. Why it is right on hostile bytes: each piece is at least one byte and
 * ends at the input's end at the latest, nothing depends on the input being valid UTF-8 but the
 * validity of the output, and the work ends when the maximum is reached.
 *
 * A secret so strange that our own marks spell it ("red", "**") would come back through them; then
 * nothing at all is shown. That is the last check, and what makes "the secret never appears" true
 * without exception.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif

#include "redact.h"

#include <string.h>

#include "ascii.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

#define MARK "[redacted]"
#define CUT "..."

/* From this many digits on, a run may be a phone number; so many of its last digits are shown. */
#define LONG_RUN 7
#define SHOWN_DIGITS 2

typedef struct Reader
{
	const char *p;
	const char *end;
	const char *secret;
	size_t secret_len;
	const char *hit;      /* the next secret, or end */
	const char *run_end;  /* the digit run p is in ends here; not above p: p is in none */
	const char *hide_end; /* the run's digits below this are hidden */
} Reader;

static const char *
find(const char *from, const char *end, const char *what, size_t len)
{
	const char *hit = len > 0 ? memmem(from, (size_t) (end - from), what, len) : NULL;

	return hit != NULL ? hit : end;
}

/* The end of the stretch of secrets that begins at hit, overlapping ones taken together. */
static const char *
secrets_end(const Reader *reader)
{
	const char *last = reader->hit;
	const char *next;

	for (;;)
	{
		const char *stop = last + reader->secret_len;
		size_t reach = reader->secret_len - 1;
		const char *limit = (size_t) (reader->end - stop) > reach ? stop + reach : reader->end;

		/* a secret that begins behind last and before stop ends before limit */
		next = find(last + 1, limit, reader->secret, reader->secret_len);
		if (next == limit)
			return stop;
		last = next;
	}
}

static bool
is_separator(char c)
{
	return c == ' ' || c == '.' || c == '-' || c == '(' || c == ')';
}

/*
 * Measures the run of digits that begins at p. Between its digits may stand separators, none of them
 * twice in a row: "+1 (555) 010-9999" is one run. A secret ends it.
 */
static void
measure_run(Reader *reader)
{
	const char *shown[SHOWN_DIGITS] = {reader->p, reader->p};
	const char *c;
	size_t digits = 0;

	for (c = reader->p; c < reader->hit; c++)
	{
		if (kt_is_digit(*c))
		{
			shown[0] = shown[1];
			shown[1] = c;
			digits++;
		}
		else if (!is_separator(*c) || *c == c[-1])
			break;
	}
	reader->run_end = shown[1] + 1;
	reader->hide_end = digits >= LONG_RUN ? shown[0] : reader->p;
}

/*
 * The length of the character at p: never more than its first byte announces, so that even in invalid
 * UTF-8 no byte hides behind another, and never into the next secret.
 */
static size_t
character_length(const Reader *reader)
{
	unsigned char lead = (unsigned char) *reader->p;
	size_t announced = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
	const char *c = reader->p + 1;

	while (c < reader->hit && (size_t) (c - reader->p) < announced &&
	       ((unsigned char) *c & 0xC0) == 0x80)
		c++;
	return (size_t) (c - reader->p);
}

/*
 * Would this character act on a terminal or a log instead of being shown in it? C0, DEL, C1, the line
 * and paragraph separators, and everything that changes the direction of text.
 */
static bool
is_control(const char *p, size_t len)
{
	const unsigned char *u = (const unsigned char *) p;

	if (len == 1)
		return u[0] < 0x20 || u[0] == 0x7F;
	if (len == 2)
		return (u[0] == 0xC2 && u[1] < 0xA0) || (u[0] == 0xD8 && u[1] == 0x9C);
	if (len != 3 || u[0] != 0xE2)
		return false;
	if (u[1] == 0x80)
		return u[2] == 0x8E || u[2] == 0x8F || (u[2] >= 0xA8 && u[2] <= 0xAE);
	return u[1] == 0x81 && u[2] >= 0xA6 && u[2] <= 0xA9;
}

/* Takes one piece off the input. What is to be shown for it comes back, its length in *len. */
static const char *
next_piece(Reader *reader, size_t *len)
{
	const char *p = reader->p;

	if (p == reader->hit)
	{
		reader->p = secrets_end(reader);
		reader->hit = find(reader->p, reader->end, reader->secret, reader->secret_len);
		*len = strlen(MARK);
		return MARK;
	}
	if (kt_is_digit(*p))
	{
		if (p >= reader->run_end)
			measure_run(reader);
		reader->p++;
		*len = 1;
		return p < reader->hide_end ? "*" : p;
	}
	*len = character_length(reader);
	reader->p += *len;
	if (!is_control(p, *len))
		return p;
	*len = 1;
	return "?";
}

/* Ends what was begun at start: cut back to where the sign of the cut still fits. */
static void
cut(KtBuf *out, size_t fits)
{
	size_t room;

	if (out->data != NULL)
	{
		out->len = fits;
		out->data[fits] = '\0';
	}
	room = out->max - out->len;
	kt_buf_append(out, CUT, room < strlen(CUT) ? room : strlen(CUT));
}

void
kt_redact(const char *in, size_t len, const char *secret, KtBuf *out)
{
	size_t start = out->len;
	size_t fits = start;
	Reader reader = {.p = in, .end = in + len, .run_end = in, .hide_end = in};

	reader.secret = secret != NULL ? secret : "";
	reader.secret_len = strlen(reader.secret);
	reader.hit = find(in, reader.end, reader.secret, reader.secret_len);
	while (reader.p < reader.end && !out->failed)
	{
		size_t piece_len;
		const char *piece = next_piece(&reader, &piece_len);

		if (piece_len > out->max - out->len)
		{
			cut(out, fits);
			break;
		}
		kt_buf_append(out, piece, piece_len);
		if (out->max - out->len >= strlen(CUT))
			fits = out->len;
	}
	if (reader.secret_len > 0 && out->len > start &&
	    memmem(out->data + start, out->len - start, reader.secret, reader.secret_len) != NULL)
	{
		out->len = start;
		out->data[start] = '\0';
	}
}
