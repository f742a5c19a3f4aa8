/*
 * Turns foreign bytes into valid UTF-8 without NUL, and JSON text also into one without escapes that
 * jsonb refuses or would have to convert.
 *
 * One pass with one pointer that only moves forward. What needs no change is not copied byte by byte:
 * it stays in a run that is appended whole when something has to be replaced. Why it is right on
 * hostile bytes: each step consumes at least one byte and reads only below the end; whatever is
 * replaced becomes a character above U+007F, so that no quote, backslash or NUL can come into being
 * and a second repair finds nothing to do; and a byte is passed on only when it is nonzero ASCII or
 * part of a well-formed sequence. A \u that four hexadecimal digits do not follow is no escape:
 * it stands as it is, for the JSON parser to refuse.
 *
 * Depth and string state follow the quotes as a JSON parser does up to its first error; behind that
 * no parser goes.
 */
#include "repair.h"

#include <stdint.h>
#include <string.h>

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

#define BOM "\xEF\xBB\xBF"
#define REPLACEMENT 0xFFFD

typedef struct Scan
{
	const char *run; /* the first byte not yet appended */
	const char *p;   /* the byte looked at */
	const char *end;
	KtBuf *out;
	KtRepair *report;
	int depth;
	bool in_string;
} Scan;

/* ASCII and not NUL; independent of whether the platform's char is signed. */
static bool
is_plain(char c)
{
	return c != '\0' && ((unsigned char) c & 0x80) == 0;
}

/*
 * The length of the well-formed UTF-8 sequence at p (Unicode's table 3-7: no overlong forms, no
 * surrogates, nothing above U+10FFFF), or 0. Then *bad is the length of the maximal subpart that one
 * U+FFFD stands for. p < end, and *p is not ASCII.
 */
static size_t
utf8_sequence(const char *p, const char *end, size_t *bad)
{
	unsigned char lead = (unsigned char) *p;
	unsigned char low = 0x80;
	unsigned char high = 0xBF;
	size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
	size_t n;

	*bad = 1;
	if (lead < 0xC2 || lead > 0xF4)
		return 0;
	if (lead == 0xE0)
		low = 0xA0;
	else if (lead == 0xED)
		high = 0x9F;
	else if (lead == 0xF0)
		low = 0x90;
	else if (lead == 0xF4)
		high = 0x8F;
	for (n = 1; n < need; n++)
	{
		unsigned char c = p + n < end ? (unsigned char) p[n] : 0;

		if (c < low || c > high)
		{
			*bad = n;
			return 0;
		}
		low = 0x80;
		high = 0xBF;
	}
	return need;
}

/* Appends the run, then code in place of the next len bytes. */
static void
substitute(Scan *scan, uint32_t code, size_t len)
{
	char utf8[4];
	size_t n = 0;

	if (code >= 0x10000)
	{
		utf8[n++] = (char) (0xF0 | code >> 18);
		utf8[n++] = (char) (0x80 | (code >> 12 & 0x3F));
	}
	else if (code >= 0x800)
		utf8[n++] = (char) (0xE0 | code >> 12);
	if (code >= 0x800)
		utf8[n++] = (char) (0x80 | (code >> 6 & 0x3F));
	else
		utf8[n++] = (char) (0xC0 | code >> 6);
	utf8[n++] = (char) (0x80 | (code & 0x3F));

	kt_buf_append(scan->out, scan->run, (size_t) (scan->p - scan->run));
	kt_buf_append(scan->out, utf8, n);
	scan->p += len;
	scan->run = scan->p;
}

static void
replace(Scan *scan, size_t len)
{
	scan->report->replaced++;
	substitute(scan, REPLACEMENT, len);
}

/* A NUL byte or the beginning of a non-ASCII character, well-formed or not. */
static void
step_special(Scan *scan)
{
	size_t bad = 1;
	size_t len = *scan->p == '\0' ? 0 : utf8_sequence(scan->p, scan->end, &bad);

	if (len > 0)
		scan->p += len;
	else
		replace(scan, bad);
}

/* The value of the escape \uXXXX at p, or -1 when there is none. */
static int32_t
unicode_escape(const char *p, const char *end)
{
	int32_t value = 0;
	int i;

	if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
		return -1;
	for (i = 2; i < 6; i++)
	{
		char c = p[i];

		if (c >= '0' && c <= '9')
			value = value * 16 + (c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value * 16 + (c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			value = value * 16 + (c - 'A' + 10);
		else
			return -1;
	}
	return value;
}

/* A backslash within a string. */
static void
step_escape(Scan *scan)
{
	const char *p = scan->p;
	int32_t code = unicode_escape(p, scan->end);
	int32_t low;

	if (code < 0)
	{
		/* the byte behind it belongs to the escape, unless that byte itself needs repair */
		bool pair = scan->end - p > 1 && is_plain(p[1]);

		scan->p += pair ? 2 : 1;
	}
	else if (code == 0 || (code >= 0xDC00 && code <= 0xDFFF))
		replace(scan, 6);
	else if (code >= 0xD800 && code <= 0xDBFF)
	{
		low = unicode_escape(p + 6, scan->end);
		if (low >= 0xDC00 && low <= 0xDFFF)
			substitute(
				scan, 0x10000 + ((uint32_t) (code - 0xD800) << 10) + (uint32_t) (low - 0xDC00), 12);
		else
			replace(scan, 6);
	}
	else if (code >= 0x80)
		substitute(scan, (uint32_t) code, 6);
	else
		scan->p += 6;
}

static void
step_json(Scan *scan)
{
	char c = *scan->p;

	if (c == '"')
		scan->in_string = !scan->in_string;
	else if (c == '\\' && scan->in_string)
	{
		step_escape(scan);
		return;
	}
	else if ((c == '{' || c == '[') && !scan->in_string)
	{
		if (scan->depth < INT32_MAX && ++scan->depth > scan->report->depth)
			scan->report->depth = scan->depth;
	}
	else if ((c == '}' || c == ']') && !scan->in_string)
		scan->depth -= scan->depth > 0;
	else if (!is_plain(c))
	{
		step_special(scan);
		return;
	}
	scan->p++;
}

/*
 * Does any of the eight bytes need a look? Only '"' and '\\' do among ASCII bytes within a string, and
 * none in plain text; NUL and non-ASCII bytes always do. A false alarm costs time, a miss cannot be:
 * (x - 1) & ~x has a byte's top bit set for every zero byte of x.
 */
static bool
needs_look(const char *p, bool json)
{
	const uint64_t ones = UINT64_C(0x0101010101010101);
	const uint64_t tops = UINT64_C(0x8080808080808080);
	uint64_t x;
	uint64_t hit;

	memcpy(&x, p, sizeof(x));
	hit = x | ((x - ones) & ~x);
	if (json)
	{
		uint64_t quote = x ^ ones * '"';
		uint64_t slash = x ^ ones * '\\';

		hit |= ((quote - ones) & ~quote) | ((slash - ones) & ~slash);
	}
	return (hit & tops) != 0;
}

static bool
finish(Scan *scan)
{
	return kt_buf_append(scan->out, scan->run, (size_t) (scan->end - scan->run));
}

static Scan
begin(const char *in, size_t len, KtBuf *out, KtRepair *report)
{
	Scan scan = {.run = in, .p = in, .end = in + len, .out = out, .report = report};

	report->replaced = 0;
	report->depth = 0;
	return scan;
}

static void
scan_json(Scan *scan)
{
	while (scan->p < scan->end && !scan->out->failed)
	{
		if (scan->in_string && scan->end - scan->p >= 8 && !needs_look(scan->p, true))
			scan->p += 8;
		else
			step_json(scan);
	}
}

static bool
has_bom(const char *in, size_t len)
{
	return len >= 3 && memcmp(in, BOM, 3) == 0;
}

/* The buffer takes nothing, so the first replacement fails and ends the scan. */
bool
kt_repair_json_is_needless(const char *in, size_t len, KtRepair *report)
{
	KtBuf none;
	Scan scan;
	bool needless;

	kt_buf_init(&none, 0);
	scan = begin(in, len, &none, report);
	if (!has_bom(in, len))
		scan_json(&scan);
	needless = scan.p == scan.end && scan.run == in && !none.failed;
	kt_buf_free(&none);
	return needless;
}

/* All leading BOMs go, not only the first: else a second repair would find one more. */
bool
kt_repair_json(const char *in, size_t len, KtBuf *out, KtRepair *report)
{
	Scan scan;

	while (has_bom(in, len))
	{
		in += 3;
		len -= 3;
	}
	scan = begin(in, len, out, report);
	scan_json(&scan);
	return finish(&scan);
}

bool
kt_repair_text(const char *in, size_t len, KtBuf *out, KtRepair *report)
{
	Scan scan = begin(in, len, out, report);

	while (scan.p < scan.end && !out->failed)
	{
		if (scan.end - scan.p >= 8 && !needs_look(scan.p, false))
			scan.p += 8;
		else if (is_plain(*scan.p))
			scan.p++;
		else
			step_special(&scan);
	}
	return finish(&scan);
}
