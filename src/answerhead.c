/*
 * The head of an answer, line by line: has it come whole, when does the server say it is, when to ask again.
 *
 * Runs inside libcurl's callback for header lines, so nothing may throw.
 */
#include "answerhead.h"

#include <string.h>
#include <strings.h>
#include <time.h>

#include "limits.h"
#include "retry.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

void
kt_answerhead_reset(KtAnswerHead *head)
{
	head->bytes = 0;
	head->whole = false;
	head->date = head->retry_seconds = head->retry_date = -1;
}

/* Not a 1xx, which another answer follows. */
static bool
is_final(CURL *easy)
{
	long status = 0;

	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	return status >= 200;
}

/* Answers of the same second have the same date: the last one is kept. -1 for one that cannot be read. */
static int64_t
date_of(const char *text, size_t len)
{
	static char last[64];
	static int64_t value = -1;

	if (len >= sizeof(last))
		return -1;
	if (memcmp(last, text, len) != 0 || last[len] != '\0')
	{
		memcpy(last, text, len);
		last[len] = '\0';
		value = (int64_t) curl_getdate(last, NULL);
	}
	return value;
}

bool
kt_answerhead_line(KtAnswerHead *head, CURL *easy, const char *line, size_t len)
{
	head->bytes += len;
	if (head->bytes > KT_MAX_ANSWER_HEADERS)
		return false;
	if (len >= 5 && memcmp(line, "HTTP/", 5) == 0)
		head->date = head->retry_seconds = head->retry_date = -1; /* what a 1xx said is void */
	else if (line[0] == '\r' || line[0] == '\n')
		head->whole = is_final(easy);
	else if (len > 5 && strncasecmp(line, "Date:", 5) == 0)
		head->date = date_of(line + 5, len - 5);
	else if (len > 12 && strncasecmp(line, "Retry-After:", 12) == 0)
	{
		head->retry_seconds = kt_retry_seconds(line + 12, len - 12);
		head->retry_date = head->retry_seconds < 0 ? date_of(line + 12, len - 12) : -1;
	}
	return true;
}

/* Not CURLINFO_RETRY_AFTER, which is 0 for none, for 0 and for a number beyond its own. */
int64_t
kt_answerhead_retry_after(const KtAnswerHead *head)
{
	int64_t now = head->date >= 0 ? head->date : (int64_t) time(NULL);

	if (head->retry_date < 0)
		return head->retry_seconds;
	return head->retry_date > now ? head->retry_date - now : 0;
}
