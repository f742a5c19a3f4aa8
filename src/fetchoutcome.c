/*
 * What the end of a recording's download means: pure functions.
 *
 * A download changes nothing at the other side, so a try too many costs little, and one too few costs the
 * recording. What surely comes to nothing again is still not asked for without end: a URL that has expired
 * answers 403, 404 or 410 for ever.
 */
#include "fetchoutcome.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "retry.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

#define STATUS_OK 200

/* CURLE_WRITE_ERROR: download.c did not take the body for what its header says. */
#define BODY_REFUSED 23

/* The first waits are in the order of half a minute; after so many attempts they are in the order of an hour. */
#define EARLY_ATTEMPTS 10
#define LATE_US (INT64_C(3600) * 1000000)

/* Types of pages and messages: what says "error" with status 200. */
static bool
is_message(const char *content_type)
{
	static const char *const types[] = {"text/html", "text/xml", "application/json",
	                                    "application/xml", "application/xhtml+xml"};
	size_t len;
	size_t i;

	if (content_type == NULL)
		return false;
	len = strcspn(content_type, "; \t");
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (strlen(types[i]) == len && strncasecmp(content_type, types[i], len) == 0)
			return true;
	return false;
}

static KtFetchNext
judge_status(int status, char *error, size_t size)
{
	if (status / 100 == 3)
		snprintf(error, size, "HTTP status %d: redirects are not followed", status);
	else if (status == 403 || status == 404 || status == 410)
		snprintf(error, size, "HTTP status %d: the URL may have expired", status);
	else
		snprintf(error, size, "HTTP status %d", status);
	if (status == 408 || status == 425 || status == 429 || status >= 500)
		return KT_FETCH_RETRY;
	return KT_FETCH_DOUBT;
}

KtFetchNext
kt_fetchoutcome_judge(const KtHttpAnswer *answer, int64_t bytes, char *error, size_t size)
{
	if (answer->status != 0 && answer->status != STATUS_OK)
		return judge_status(answer->status, error, size);
	if (answer->curl_code != 0)
	{
		kt_fetchoutcome_print(answer->error, error, size);
		if (answer->too_large)
			return KT_FETCH_NEVER;
		return answer->curl_code == BODY_REFUSED ? KT_FETCH_DOUBT : KT_FETCH_RETRY;
	}
	if (bytes == 0)
	{
		snprintf(error, size, "the answer is empty");
		return KT_FETCH_DOUBT;
	}
	if (is_message(answer->content_type))
	{
		char printable[KT_MAX_CONTENT_TYPE + 1];

		kt_fetchoutcome_print(answer->content_type, printable, sizeof(printable));
		snprintf(error, size, "the answer is no recording, its type is %s", printable);
		return KT_FETCH_DOUBT;
	}
	error[0] = '\0';
	return KT_FETCH_DONE;
}

int64_t
kt_fetchoutcome_delay(int attempts, int64_t retry_after, uint64_t random)
{
	int64_t wanted = kt_retry_after(retry_after);
	int64_t delay;

	if (attempts <= EARLY_ATTEMPTS)
		delay = kt_retry_delay(attempts + 4, random);
	else
		delay = LATE_US / 2 + (int64_t) (random % (LATE_US / 2));
	return delay > wanted ? delay : wanted;
}

void
kt_fetchoutcome_print(const char *words, char *printable, size_t size)
{
	size_t i;

	for (i = 0; words != NULL && words[i] != '\0' && i + 1 < size; i++)
		printable[i] = words[i] >= ' ' && words[i] <= '~' ? words[i] : '?';
	printable[i] = '\0';
}
