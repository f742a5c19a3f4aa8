/*
 * What the unit tests share: cmocka with the headers it wants, and foreign bytes in a block of exactly
 * their size, so that the sanitizers and valgrind see every byte read beyond them.
 */
#ifndef KT_UNIT_H
#define KT_UNIT_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"

#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

/* A string literal that may hold NUL bytes, as two arguments: bytes and length. */
#define BYTES(literal) (literal), sizeof(literal) - 1

/* The caller frees it. */
static inline char *
exact_copy(const char *bytes, size_t len)
{
	char *copy = malloc(len > 0 ? len : 1);

	assert_non_null(copy);
	if (len > 0)
		memcpy(copy, bytes, len);
	return copy;
}

static inline void
assert_bytes(const char *what, const char *actual, size_t actual_len, const char *expected,
             size_t expected_len)
{
	if (actual_len != expected_len || memcmp(actual, expected, expected_len) != 0)
		fail_msg("%s: got \"%.*s\" (%zu bytes), expected \"%.*s\" (%zu bytes)", what,
		         (int) actual_len, actual, actual_len, (int) expected_len, expected, expected_len);
}

/* Compares and frees. */
static inline void
assert_buf_and_free(const char *what, KtBuf *buf, const char *expected, size_t expected_len)
{
	assert_bytes(what, buf->data != NULL ? buf->data : "", buf->len, expected, expected_len);
	kt_buf_free(buf);
}

#endif /* KT_UNIT_H */
