/*
 * The growing byte buffer behind everything that comes from outside.
 *
 * It owns one malloc'd block and nothing else. Why it is right on hostile bytes: no length is ever
 * added before it was compared with what is left below the maximum (len <= max always holds, so
 * max - len cannot wrap), the maximum itself is clamped so that one more byte for the NUL cannot
 * wrap either, and an append is all or nothing. Growing never uses realloc(): that could leave an
 * unwiped copy of a secret behind.
 */
#include "buf.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* The first allocation: a header line, a token or a URL fits without growing again. */
#define FIRST_CAPACITY 256

void
kt_buf_init(KtBuf *buf, size_t max)
{
	memset(buf, 0, sizeof(*buf));
	/* no object is larger than PTRDIFF_MAX, so nothing is lost by the clamp */
	buf->max = max < (size_t) PTRDIFF_MAX ? max : (size_t) PTRDIFF_MAX - 1;
}

static void
drop_block(KtBuf *buf)
{
	if (buf->data != NULL)
	{
		explicit_bzero(buf->data, buf->cap);
		free(buf->data);
	}
	buf->data = NULL;
	buf->cap = 0;
}

/* Makes room for need bytes and the NUL, need being at most max. Doubles, so appending is linear. */
static bool
make_room(KtBuf *buf, size_t need)
{
	size_t cap = buf->cap > FIRST_CAPACITY / 2 ? buf->cap : FIRST_CAPACITY / 2;
	char *data;

	if (buf->data != NULL && need < buf->cap)
		return true;
	cap = cap <= buf->max / 2 ? cap * 2 : buf->max + 1;
	if (cap <= need)
		cap = need + 1;
	data = malloc(cap);
	if (data == NULL)
		return false;
	if (buf->data != NULL)
		memcpy(data, buf->data, buf->len);
	data[buf->len] = '\0';
	drop_block(buf);
	buf->data = data;
	buf->cap = cap;
	return true;
}

bool
kt_buf_append(KtBuf *buf, const void *bytes, size_t len)
{
	if (buf->failed)
		return false;
	if (len > buf->max - buf->len || !make_room(buf, buf->len + len))
	{
		buf->failed = true;
		return false;
	}
	if (len > 0)
		memcpy(buf->data + buf->len, bytes, len);
	buf->len += len;
	buf->data[buf->len] = '\0';
	return true;
}

bool
kt_buf_append_str(KtBuf *buf, const char *str)
{
	return kt_buf_append(buf, str, strlen(str));
}

bool
kt_buf_append_char(KtBuf *buf, char c)
{
	return kt_buf_append(buf, &c, 1);
}

void
kt_buf_reset(KtBuf *buf, size_t keep)
{
	if (buf->cap > keep)
		drop_block(buf);
	buf->len = 0;
	buf->failed = false;
	if (buf->data != NULL)
		buf->data[0] = '\0';
}

void
kt_buf_free(KtBuf *buf)
{
	drop_block(buf);
	buf->len = 0;
	buf->failed = false;
}
