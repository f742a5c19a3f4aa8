/*
 * When to try again: exponential back-off with full jitter, in microseconds.
 */
#ifndef KT_RETRY_H
#define KT_RETRY_H

#include <stdint.h>

/* No retry comes sooner than a second, none later than five minutes. */
#define KT_RETRY_MIN_US INT64_C(1000000)
#define KT_RETRY_MAX_US INT64_C(300000000)

/*
 * How long to wait after the nth failure in a row (from 1): between KT_RETRY_MIN_US and 2^n times as much, at
 * most KT_RETRY_MAX_US, spread by random (any 64 bits).
 */
extern int64_t kt_retry_delay(int failures, uint64_t random);

/* A Retry-After of so many seconds as a wait: clamped to 1 s .. 1 h; negative (none): -1. */
extern int64_t kt_retry_after(int64_t seconds);

#endif /* KT_RETRY_H */
