/*
 * Points at which a test makes a worker fail: compiled with -DKT_FAULTS only, as test/run does for the
 * crash tests, and nothing otherwise.
 *
 * A point is armed by a file kridtech_faults/<point> in the data directory, so that it outlives a crash
 * of the server, which memory would not. The file holds one of these words:
 *	- kill: SIGKILL to the process itself;
 *	- error: an ERROR, as a statement may throw one;
 *	- pause: the process stays there until the file is gone. What it is about to do, a test does to it, or
 *	  to what is around it, at that very moment. Interrupts are served, as at any wait of a transaction.
 * before it perhaps "once": the file is removed first. A paused process says so by the file <point>.reached,
 * which holds its pid. A file is to be put there whole, by rename().
 */
#include "postgres.h"

#include "fault.h"

#ifdef KT_FAULTS

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#define DIRECTORY "kridtech_faults/"

/* Between two looks for the file, in microseconds. */
#define PAUSE_US 10000

/* The file's content. False when the point is not armed. */
static bool
read_order(const char *path, char *order, size_t size)
{
	FILE *file = AllocateFile(path, "r");
	size_t n;

	if (file == NULL)
		return false;
	n = fread(order, 1, size - 1, file);
	order[n] = '\0';
	FreeFile(file);
	return true;
}

static void
report_pause(const char *path)
{
	char reached[MAXPGPATH];
	char aside[MAXPGPATH];
	FILE *file;

	snprintf(reached, sizeof(reached), "%s.reached", path);
	snprintf(aside, sizeof(aside), "%s.new", reached);
	file = AllocateFile(aside, "w");
	if (file == NULL)
		return;
	fprintf(file, "%d\n", MyProcPid);
	FreeFile(file);
	(void) rename(aside, reached);
}

void
kt_fault(const char *point)
{
	char path[MAXPGPATH];
	char order[32];

	snprintf(path, sizeof(path), DIRECTORY "%s", point);
	if (access(path, F_OK) != 0 || !read_order(path, order, sizeof(order)))
		return;
	if (strstr(order, "once") != NULL)
		(void) unlink(path);
	if (strstr(order, "kill") != NULL)
		(void) kill(MyProcPid, SIGKILL);
	if (strstr(order, "error") != NULL)
		elog(ERROR, "fault point \"%s\"", point);
	if (strstr(order, "pause") == NULL)
		return;
	report_pause(path);
	while (access(path, F_OK) == 0)
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(PAUSE_US);
	}
}

#endif /* KT_FAULTS */
