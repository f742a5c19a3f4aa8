/*
 * A growing byte buffer that cannot be made without a maximum, for bytes that come from outside.
 *
 * Plain malloc, never palloc: it is filled inside library callbacks, where a longjmp is forbidden.
 * Failure is sticky: after one append that did not fit (or found no memory) the buffer stays failed
 * until kt_buf_reset(), so that a writer may check once at the end.
 */
#ifndef KT_BUF_H
#define KT_BUF_H

#include <stdbool.h>
#include <stddef.h>

typedef struct KtBuf
{
	char *data;  /* NUL-terminated whenever not NULL; the NUL is not counted in len */
	size_t len;  /* bytes held */
	size_t cap;  /* bytes allocated, the NUL's included */
	size_t max;  /* len never exceeds this */
	bool failed; /* an append was refused since the last reset */
} KtBuf;

/* Makes an empty buffer that will never hold more than max bytes. Allocates nothing. */
extern void kt_buf_init(KtBuf *buf, size_t max);

/* Appends len bytes. False, and sticky failure, when they do not fit or memory is out. */
extern bool kt_buf_append(KtBuf *buf, const void *bytes, size_t len);

/* Appends a NUL-terminated string. */
extern bool kt_buf_append_str(KtBuf *buf, const char *str);

/* Appends one byte. */
extern bool kt_buf_append_char(KtBuf *buf, char c);

/* Empties the buffer and clears the failure; memory of at most keep bytes is kept for reuse. */
extern void kt_buf_reset(KtBuf *buf, size_t keep);

/* Overwrites what it holds, then frees it: for secrets and for everything else. */
extern void kt_buf_free(KtBuf *buf);

#endif /* KT_BUF_H */
