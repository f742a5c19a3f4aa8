/*
 * When to try again: exponential back-off with full jitter, in microseconds.
 */
#ifndef KT_RETRY_H
#define KT_RETRY_H

#include <stddef.h>
#include <stdint.h>

/* No retry comes sooner than a second, none later than five minutes. */
#define KT_RETRY_MIN_US INT64_C(1000000)
#define KT_RETRY_MAX_US INT64_C(300000000)

/*
 * How long to wait after the nth failure in a row (from 1): between KT_RETRY_MIN_US and 2^n times as much, at
 * most KT_RETRY_MAX_US, spread by random (any 64 bits).
 */
extern int64_t kt_retry_delay(int failures, uint64_t random);

/*
 * The number of seconds a Retry-After header's value names, blanks around it aside; any number of digits, a year
 * at most. -1 when it is no such number: a date, or nothing to go by.
 */
extern int64_t kt_retry_seconds(const char *value, size_t len);

/* A Retry-After of so many seconds as a wait: clamped to 1 s .. 1 h; negative (none): -1. */
extern int64_t kt_retry_after(int64_t seconds);

#endif /* KT_RETRY_H */
