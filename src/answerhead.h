/*
 * The head of an answer, line by line: has it come whole, when does the server say it is, when to ask again.
 */
#ifndef KT_ANSWERHEAD_H
#define KT_ANSWERHEAD_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct KtAnswerHead
{
	size_t bytes;
	bool whole;            /* the blank line after the final answer's head came */
	int64_t date;          /* Date as Unix time, or -1 */
	int64_t retry_seconds; /* Retry-After as a number, or ... */
	int64_t retry_date;    /* ... as Unix time; -1 for neither */
} KtAnswerHead;

extern void kt_answerhead_reset(KtAnswerHead *head);

/*
 * Takes a whole line, a status line or the blank one at the end too, not NUL-terminated. False when the head
 * has become larger than KT_MAX_ANSWER_HEADERS.
 */
extern bool kt_answerhead_line(KtAnswerHead *head, CURL *easy, const char *line, size_t len);

/*
 * Seconds to wait by Retry-After, -1 where there is none. A date is read against the server's own clock where the
 * answer tells it.
 */
extern int64_t kt_answerhead_retry_after(const KtAnswerHead *head);

#endif /* KT_ANSWERHEAD_H */
