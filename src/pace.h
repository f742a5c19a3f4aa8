/*
 * Calls per second: a token bucket on the monotonic clock, smooth rather than in bursts.
 */
#ifndef KT_PACE_H
#define KT_PACE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct KtPace
{
	double rate;       /* per second; 0: no limit */
	double tokens;     /* may be spent now; negative never */
	int64_t filled_at; /* when tokens was right, in microseconds */
} KtPace;

/* Sets the rate; what was earned so far stays, a new pace begins with one token. */
extern void kt_pace_set(KtPace *pace, double rate, int64_t now);

/* How many calls may be sent now: at most want. */
extern int kt_pace_allow(KtPace *pace, int want, int64_t now);

/* Takes n tokens that kt_pace_allow() has just allowed. */
extern void kt_pace_spend(KtPace *pace, int n);

/* When the next call may be sent, on the same clock; now or earlier when one may be sent already. */
extern int64_t kt_pace_next(const KtPace *pace, int64_t now);

#endif /* KT_PACE_H */
