/*
 * Since when the wall clock has not been set: a time taken before cannot be compared with another clock's.
 */
#ifndef KT_CLOCK_H
#define KT_CLOCK_H

#include "datatype/timestamp.h"

/* The wall clock minus the monotonic one, in microseconds. */
extern int64 kt_clock_offset(void);

/* Whether the wall clock was set between two such measurements. */
extern bool kt_clock_was_set(int64 before, int64 after);

/* Once, in the postmaster, before it starts another process. Throws when there is no memory. */
extern void kt_clock_install(void);

/* Looks at the clock, and returns since when times can be trusted. One process at a time. */
extern TimestampTz kt_clock_follow(void);

#endif /* KT_CLOCK_H */
