/*
 * The documented webhook, grown to a wanted size by its transcript: turns of words drawn at random, so that
 * it compresses about as talk does, not as a repeated line would.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

static const char *const words[] = {
	"yes",
	"no",
	"and",
	"the",
	"appointment",
	"on",
	"Tuesday",
	"at",
	"two",
	"thirty",
	"works",
	"for",
	"me",
	"thank",
	"you",
	"so",
	"much",
	"could",
	"we",
	"move",
	"it",
	"to",
	"another",
	"day",
	"because",
	"I",
	"am",
	"travelling",
	"that",
	"week",
	"of",
	"course",
	"let",
	"check",
	"our",
	"calendar",
	"budget",
	"about",
	"fifteen",
	"thousand",
	"dollars",
	"kitchen",
	"roof",
	"insurance",
	"delivery",
	"address",
	"is",
	"still",
	"correct",
	"please",
	"hold",
	"a",
	"moment",
	"while",
	"look",
	"up",
	"great",
	"question",
	"actually",
	"someone",
	"called",
	"me",
	"yesterday",
	"morning",
	"Zo\xc3\xab",
	"caf\xc3\xa9",
	"invoice",
	"reference",
	"number",
	"seven",
	"four",
	"nine",
	"\\\"urgent\\\"",
	"maybe",
	"perhaps",
	"confirm",
	"email",
	"spelled",
	"with",
	"double",
};

static unsigned
next_random(unsigned *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* Fills exactly so many bytes with turns, as they stand in a JSON string. */
static void
write_transcript(char *to, size_t len, unsigned seed)
{
	unsigned random = seed * 2654435761U + 1;
	size_t at = 0;
	int turn = 0;

	while (at < len)
	{
		char line[1024];
		size_t used = (size_t) snprintf(line, sizeof(line), "%s:", turn++ % 2 ? "User" : "Agent");
		unsigned n = 4 + next_random(&random) % 24;

		while (n-- > 0)
			used +=
				(size_t) snprintf(line + used, sizeof(line) - used, " %s",
			                      words[next_random(&random) % (sizeof(words) / sizeof(*words))]);
		used += (size_t) snprintf(line + used, sizeof(line) - used, ".\\n");
		/* A line that does not fit might be cut within an escape or a character. */
		if (used > len - at)
		{
			memset(to + at, '.', len - at);
			return;
		}
		memcpy(to + at, line, used);
		at += used;
	}
}

/*
 * A request whose body has that many bytes, or a few more where the size is less than the other fields
 * take. Its ID is not valid before request_set_id().
 */
void
request_build(Request *request, const Target *target, const char *prefix, size_t size,
              unsigned seed)
{
	static const char tail_format[] =
		"\",\"recordingUrl\":\"https://storage.kridtech.com/recordings/%s%0*d.mp3\","
		"\"dynamicVariables\":[{\"variable\":\"first_name\",\"value\":\"James\"},"
		"{\"variable\":\"budget\",\"value\":\"$15,000\"}]}";
	char front[512];
	char tail[1024];
	char head[1400];
	int front_len = snprintf(front, sizeof(front),
	                         "{\"callId\":\"%s%0*d\",\"status\":\"completed\",\"durationMs\":94000,"
	                         "\"transcript\":\"",
	                         prefix, ID_DIGITS, 0);
	int tail_len = snprintf(tail, sizeof(tail), tail_format, prefix, ID_DIGITS, 0);
	size_t fixed = (size_t) front_len + (size_t) tail_len;
	size_t talk = size > fixed ? size - fixed : 0;
	int head_len = snprintf(head, sizeof(head),
	                        "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
	                        "%sContent-Length: %zu\r\n\r\n",
	                        target->path, target->host,
	                        target->fresh ? "Connection: close\r\n" : "", fixed + talk);
	char *at;

	request->head_len = (size_t) head_len;
	request->len = request->head_len + fixed + talk;
	request->bytes = at = must_alloc(request->len);
	memcpy(at, head, (size_t) head_len);
	memcpy(at + head_len, front, (size_t) front_len);
	write_transcript(at + head_len + front_len, talk, seed);
	memcpy(at + request->len - tail_len, tail, (size_t) tail_len);
	request->id_at[0] = request->head_len + strlen("{\"callId\":\"") + strlen(prefix);
	request->id_at[1] = request->len - (size_t) tail_len +
	                    strlen("\",\"recordingUrl\":\"https://storage.kridtech.com/recordings/") +
	                    strlen(prefix);
}

void
request_set_id(Request *request, long number)
{
	char digits[32];

	if (snprintf(digits, sizeof(digits), "%0*ld", ID_DIGITS, number) != ID_DIGITS)
		die("more webhooks than IDs");
	memcpy(request->bytes + request->id_at[0], digits, ID_DIGITS);
	memcpy(request->bytes + request->id_at[1], digits, ID_DIGITS);
}
