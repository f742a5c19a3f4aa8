/*
 * For LD_PRELOAD: the wall clock is ahead by as many seconds as the file that KT_CLOCK names says, 8 bytes of the
 * machine's order. The monotonic clock stays what it is.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t
ahead(void)
{
	const char *path = getenv("KT_CLOCK");
	int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	int64_t seconds = 0;

	if (fd < 0)
		return 0;
	if (read(fd, &seconds, sizeof(seconds)) != sizeof(seconds))
		seconds = 0;
	close(fd);
	return seconds;
}

int
clock_gettime(clockid_t clock, struct timespec *ts)
{
	int result = (int) syscall(SYS_clock_gettime, clock, ts);

	if (result == 0 && clock == CLOCK_REALTIME)
		ts->tv_sec += ahead();
	return result;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec ts;

	(void) zone;
	if (clock_gettime(CLOCK_REALTIME, &ts) != 0)
		return -1;
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *result)
{
	struct timespec ts;

	(void) clock_gettime(CLOCK_REALTIME, &ts);
	if (result != NULL)
		*result = ts.tv_sec;
	return ts.tv_sec;
}
