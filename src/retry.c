/*
 * When to try again: exponential back-off with full jitter.
 *
 * Full jitter, because what fails for one request fails for all at the same moment: without it they
 * would all come back together.
 */
#include "retry.h"

#include <string.h>

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

#define SECOND INT64_C(1000000)
#define HOUR (3600 * SECOND)
#define YEAR_SECONDS INT64_C(31536000)

int64_t
kt_retry_delay(int failures, uint64_t random)
{
	int64_t top = KT_RETRY_MIN_US;
	int i;

	for (i = 0; i < failures && top < KT_RETRY_MAX_US; i++)
		top *= 2;
	if (top > KT_RETRY_MAX_US)
		top = KT_RETRY_MAX_US;
	return KT_RETRY_MIN_US + (int64_t) (random % (uint64_t) (top - KT_RETRY_MIN_US + 1));
}

int64_t
kt_retry_seconds(const char *value, size_t len)
{
	int64_t seconds = 0;
	size_t i = 0;

	while (len > 0 && strchr(" \t\r\n", value[len - 1]) != NULL && value[len - 1] != '\0')
		len--;
	while (i < len && (value[i] == ' ' || value[i] == '\t'))
		i++;
	if (i == len)
		return -1;
	for (; i < len; i++)
	{
		if (value[i] < '0' || value[i] > '9')
			return -1;
		seconds = seconds * 10 + (value[i] - '0');
		if (seconds > YEAR_SECONDS)
			seconds = YEAR_SECONDS;
	}
	return seconds;
}

int64_t
kt_retry_after(int64_t seconds)
{
	if (seconds < 0)
		return -1;
	if (seconds < 1)
		return SECOND;
	return seconds >= 3600 ? HOUR : seconds * SECOND;
}
