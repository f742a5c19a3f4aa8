/*
 * Classes of ASCII characters. Those of <ctype.h> follow the locale.
 */
#ifndef KT_ASCII_H
#define KT_ASCII_H

#include <stdbool.h>
#include <string.h>

static inline bool
kt_is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static inline bool
kt_is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static inline bool
kt_is_alnum(char c)
{
	return kt_is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Stands in a URL's path as it is: clients write the others as %, or end the path before them. */
static inline bool
kt_is_path(char c)
{
	return c > ' ' && c <= '~' && strchr("?#%\"<>\\^`{|}", c) == NULL;
}

/* Whether one of its segments is "." or "..", which clients take out of a path, with what stands before. */
static inline bool
kt_has_dot_segment(const char *path)
{
	size_t len;

	for (;; path += len + 1)
	{
		len = strcspn(path, "/");
		if ((len == 1 || len == 2) && strncmp(path, "..", len) == 0)
			return true;
		if (path[len] == '\0')
			return false;
	}
}

#endif /* KT_ASCII_H */
