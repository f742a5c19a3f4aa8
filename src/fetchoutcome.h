/*
 * What the end of a recording's download means: is it whole, and if not, is it worth another try.
 */
#ifndef KT_FETCHOUTCOME_H
#define KT_FETCHOUTCOME_H

#include <stddef.h>
#include <stdint.h>

#include "http.h"
#include "limits.h"

typedef enum KtFetchNext
{
	KT_FETCH_DONE,
	KT_FETCH_RETRY, /* it may pass: tried until the recording is too old */
	KT_FETCH_DOUBT, /* it hardly will: tried a few times */
	KT_FETCH_NEVER
} KtFetchNext;

/* KT_FETCH_DOUBT ends after so many attempts: a file may come into place a little after its webhook. */
#define KT_FETCH_DOUBTS 5

/* Judges an answer whose body had so many bytes; error (of size bytes) says why unless it is done. */
extern KtFetchNext kt_fetchoutcome_judge(const KtHttpAnswer *answer, int64_t bytes, char *error,
                                         size_t size);

/*
 * How long to wait after the nth attempt (from 1), in microseconds; random is any 64 bits, retry_after the
 * answer's, negative for none.
 */
extern int64_t kt_fetchoutcome_delay(int attempts, int64_t retry_after, uint64_t random);

/* Foreign words in printable ASCII, cut to size: "?" for every other byte. Empty for NULL. */
extern void kt_fetchoutcome_print(const char *words, char *printable, size_t size);

#endif /* KT_FETCHOUTCOME_H */
