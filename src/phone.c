/*
 * E.164 phone numbers: normalised for the API, masked for everything people may read.
 *
 * Why it is right on hostile bytes: the output is written only behind a count that never exceeds 15
 * digits, an unknown byte (NUL and non-ASCII digits included) refuses the whole, and what is not a
 * number is masked to a constant, so that no byte of it reaches a log.
 */
#include "phone.h"

#include <string.h>

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

#define MIN_DIGITS 7
#define MAX_DIGITS (KT_PHONE_SIZE - 2)

/* A mask leaves these many characters; a normalized number is always longer than both together. */
#define SHOWN_FIRST 3
#define SHOWN_LAST 2

static bool
is_separator(char c)
{
	return c == ' ' || c == '.' || c == '-' || c == '(' || c == ')';
}

bool
kt_phone_normalize(const char *in, size_t len, char out[KT_PHONE_SIZE])
{
	char number[KT_PHONE_SIZE];
	size_t n = 0;
	size_t i;

	for (i = 0; i < len; i++)
	{
		char c = in[i];

		if (is_separator(c))
			continue;
		if (n == 0 ? c != '+' : c < '0' || c > '9')
			return false;
		if (n > MAX_DIGITS || (n == 1 && c == '0'))
			return false;
		number[n++] = c;
	}
	if (n < 1 + MIN_DIGITS)
		return false;
	number[n] = '\0';
	memcpy(out, number, n + 1);
	return true;
}

/* What is no number is shown as "***". */
void
kt_phone_mask(const char *number, char out[KT_PHONE_SIZE])
{
	size_t len;

	if (!kt_phone_normalize(number, strlen(number), out))
	{
		memcpy(out, "***", sizeof("***"));
		return;
	}
	len = strlen(out);
	memset(out + SHOWN_FIRST, '*', len - SHOWN_FIRST - SHOWN_LAST);
}
