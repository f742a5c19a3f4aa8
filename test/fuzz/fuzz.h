/* What the fuzz targets share: libFuzzer's entry, and an oracle's way of saying no. */
#ifndef KT_FUZZ_H
#define KT_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"

#define MUST(condition)                                                             \
	do                                                                              \
	{                                                                               \
		if (!(condition))                                                           \
		{                                                                           \
			fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                                \
		}                                                                           \
	} while (0)

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A NUL-terminated copy of exactly its size; the caller frees it. */
static inline char *
string_of(const uint8_t *data, size_t size)
{
	char *copy = malloc(size + 1);

	MUST(copy != NULL);
	memcpy(copy, data, size);
	copy[size] = '\0';
	return copy;
}

/* RFC 3629, written down apart from repair.c so that both are not wrong together. */
static inline bool
is_valid_utf8_without_nul(const char *text, size_t len)
{
	const unsigned char *p = (const unsigned char *) text;
	size_t i = 0;

	while (i < len)
	{
		uint32_t code = p[i];
		uint32_t least;
		int more;

		if (code == 0)
			return false;
		if (code < 0x80)
		{
			i++;
			continue;
		}
		if ((code & 0xE0) == 0xC0)
			code &= 0x1F, more = 1, least = 0x80;
		else if ((code & 0xF0) == 0xE0)
			code &= 0x0F, more = 2, least = 0x800;
		else if ((code & 0xF8) == 0xF0)
			code &= 0x07, more = 3, least = 0x10000;
		else
			return false;
		for (i++; more > 0; more--, i++)
		{
			if (i >= len || (p[i] & 0xC0) != 0x80)
				return false;
			code = code << 6 | (p[i] & 0x3F);
		}
		if (code < least || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
			return false;
	}
	return true;
}

#endif /* KT_FUZZ_H */
