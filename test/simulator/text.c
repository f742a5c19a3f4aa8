/*
 * Growing text, pieces of JSON, random numbers and ISO times: what every other file writes with.
 *
 * JSON is jansson's. Only a string that needs no escape at all is copied by hand, for speed.
 */
#include "simulator.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t random_state;

static void
out_of_memory(void)
{
	fputs("kridtech-simulator: out of memory\n", stderr);
	abort();
}

static void
reserve(SimText *text, size_t extra)
{
	size_t cap = text->cap ? text->cap : 512;

	if (text->cap - text->len > extra)
		return;
	while (cap - text->len <= extra)
		cap *= 2;
	text->data = realloc(text->data, cap);
	if (text->data == NULL)
		out_of_memory();
	text->cap = cap;
}

void
sim_text_put(SimText *text, const void *bytes, size_t len)
{
	reserve(text, len);
	if (len > 0)
		memcpy(text->data + text->len, bytes, len);
	text->len += len;
	text->data[text->len] = '\0';
}

void
sim_text_puts(SimText *text, const char *str)
{
	sim_text_put(text, str, strlen(str));
}

void
sim_text_putf(SimText *text, const char *format, ...)
{
	va_list args;
	int len;

	reserve(text, 256);
	va_start(args, format);
	len = vsnprintf(text->data + text->len, text->cap - text->len, format, args);
	va_end(args);
	if (len < 0)
		return;
	if ((size_t) len >= text->cap - text->len)
	{
		reserve(text, (size_t) len);
		va_start(args, format);
		vsnprintf(text->data + text->len, text->cap - text->len, format, args);
		va_end(args);
	}
	text->len += (size_t) len;
}

void
sim_text_put_json(SimText *text, const json_t *value)
{
	size_t room;
	size_t len;

	if (value == NULL)
	{
		sim_text_puts(text, "null");
		return;
	}
	reserve(text, 256);
	room = text->cap - text->len - 1;
	len = json_dumpb(value, text->data + text->len, room, JSON_COMPACT | JSON_ENCODE_ANY);
	if (len > room)
	{
		reserve(text, len);
		len = json_dumpb(value, text->data + text->len, len, JSON_COMPACT | JSON_ENCODE_ANY);
	}
	text->len += len;
	text->data[text->len] = '\0';
}

static bool
needs_no_escape(const char *str, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (str[i] < ' ' || str[i] > '~' || str[i] == '"' || str[i] == '\\')
			return false;
	return true;
}

/* Bytes that are not UTF-8 come out as their Latin-1 reading: nothing is lost. */
static json_t *
string_of_bytes(const char *str, size_t len)
{
	json_t *value = json_stringn(str, len);
	SimText wide = {0};

	if (value != NULL)
		return value;
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) str[i];
		char two[2] = {(char) (0xC0 | c >> 6), (char) (0x80 | (c & 0x3F))};

		if (c < 0x80)
			sim_text_put(&wide, str + i, 1);
		else
			sim_text_put(&wide, two, 2);
	}
	value = json_stringn(wide.data, wide.len);
	sim_text_free(&wide);
	return value;
}

void
sim_text_put_string(SimText *text, const char *str, size_t len)
{
	json_t *value;

	if (needs_no_escape(str, len))
	{
		reserve(text, len + 2);
		text->data[text->len++] = '"';
		memcpy(text->data + text->len, str, len);
		text->len += len;
		text->data[text->len++] = '"';
		text->data[text->len] = '\0';
		return;
	}
	value = string_of_bytes(str, len);
	sim_text_put_json(text, value);
	json_decref(value);
}

void
sim_text_free(SimText *text)
{
	free(text->data);
	*text = (SimText){0};
}

void *
sim_alloc(size_t size)
{
	void *memory = calloc(1, size);

	if (memory == NULL)
		out_of_memory();
	return memory;
}

char *
sim_strdup(const char *str)
{
	char *copy = str ? strdup(str) : NULL;

	if (str != NULL && copy == NULL)
		out_of_memory();
	return copy;
}

void
sim_random_seed(uint64_t seed)
{
	random_state = seed;
}

/* splitmix64: every seed is good, and callIds need to be unique, not secret. */
uint64_t
sim_random(void)
{
	uint64_t z = (random_state += 0x9E3779B97F4A7C15u);

	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
	return z ^ (z >> 31);
}

void
sim_random_id(char *out, const char *prefix)
{
	static const char digits[] = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
	size_t len = strlen(prefix);
	uint64_t bits = 0;

	memcpy(out, prefix, len);
	for (int i = 0; i < 20; i++, bits /= 62)
	{
		if (i % 10 == 0)
			bits = sim_random();
		out[len++] = digits[bits % 62];
	}
	out[len] = '\0';
}

void
sim_time_iso(char *out, int64_t unix_seconds)
{
	time_t when = (time_t) unix_seconds;
	struct tm parts;

	if (gmtime_r(&when, &parts) == NULL || strftime(out, 24, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
		strcpy(out, "1970-01-01T00:00:00Z");
}

bool
sim_time_parse(const char *iso, int64_t *unix_seconds)
{
	struct tm parts = {0};
	const char *end = strptime(iso, "%Y-%m-%dT%H:%M:%S", &parts);

	if (end == NULL || strcmp(end, "Z") != 0)
		return false;
	*unix_seconds = (int64_t) timegm(&parts);
	return true;
}
