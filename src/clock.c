/*
 * Since when the wall clock has not been set.
 *
 * It was set when it moves against the monotonic one, which never is; the kernel disciplines both alike. What is known
 * of it stands in a mapping that the postmaster's children share, and that, unlike PostgreSQL's shared memory, a crash
 * leaves alone: what a dialer did not trust, the next one does not trust either. A process that is killed while it
 * writes there leaves the later time with the older offset, and so the same step to be found once more.
 *
 * What is not seen is a clock that is set while there is no postmaster.
 */
#include "postgres.h"

#include "clock.h"

#include <sys/mman.h>

#include "http.h"
#include "port/atomics.h"
#include "utils/timestamp.h"

/* Less may come of the measurement itself, or be a leap second. */
#define STEP_US INT64CONST(1000000)

static struct Seen
{
	int64 offset;
	TimestampTz trusted_since;
} *seen = NULL;

int64
kt_clock_offset(void)
{
	return GetCurrentTimestamp() - kt_http_now();
}

bool
kt_clock_was_set(int64 before, int64 after)
{
	return after - before > STEP_US || before - after > STEP_US;
}

void
kt_clock_install(void)
{
	seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (seen == MAP_FAILED)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY),
		                errmsg("kridtech: could not map shared memory: %m")));
	seen->offset = kt_clock_offset();
	seen->trusted_since = DT_NOBEGIN;
}

TimestampTz
kt_clock_follow(void)
{
	int64 offset = kt_clock_offset();

	/* set back, it will show once more the times it has shown before */
	if (kt_clock_was_set(seen->offset, offset))
		seen->trusted_since = Max(
			seen->trusted_since, GetCurrentTimestamp() + Max(INT64CONST(0), seen->offset - offset));
	pg_memory_barrier();
	seen->offset = offset;
	return seen->trusted_since;
}
