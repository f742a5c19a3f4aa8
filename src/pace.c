/*
 * Calls per second: a token bucket on the monotonic clock, smooth rather than in bursts.
 *
 * The bucket holds what is earned in 10 ms, and at least one token: a worker that wakes a little late
 * catches up, one that slept for an hour does not send an hour's calls at once.
 */
#include "pace.h"

#include <math.h>
#include <string.h>

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

#define SECOND 1000000.0
#define BUCKET_SECONDS 0.01

/* The longest wait that is told at once: what is slower is asked again then, and overflows nothing. */
#define LONGEST_US (86400 * SECOND)

static double
capacity(const KtPace *pace)
{
	return fmax(1.0, pace->rate * BUCKET_SECONDS);
}

static void
fill(KtPace *pace, int64_t now)
{
	if (now > pace->filled_at)
		pace->tokens = fmin(capacity(pace),
		                    pace->tokens + pace->rate * (double) (now - pace->filled_at) / SECOND);
	pace->filled_at = now;
}

void
kt_pace_set(KtPace *pace, double rate, int64_t now)
{
	if (rate == pace->rate && pace->filled_at != 0)
		return;
	if (pace->rate > 0)
		fill(pace, now);
	else
		pace->tokens = 1.0;
	pace->rate = rate;
	pace->filled_at = now;
	pace->tokens = fmin(pace->tokens, capacity(pace));
}

int
kt_pace_allow(KtPace *pace, int want, int64_t now)
{
	if (pace->rate <= 0)
		return want;
	fill(pace, now);
	return pace->tokens < (double) want ? (int) pace->tokens : want;
}

void
kt_pace_spend(KtPace *pace, int n)
{
	if (pace->rate > 0)
		pace->tokens -= n;
}

int64_t
kt_pace_next(const KtPace *pace, int64_t now)
{
	if (pace->rate <= 0 || pace->tokens >= 1.0)
		return now;
	/* a microsecond more, so that rounding cannot make the caller come a moment too early for ever */
	return pace->filled_at +
	       (int64_t) fmin(ceil((1.0 - pace->tokens) / pace->rate * SECOND), LONGEST_US) + 1;
}
