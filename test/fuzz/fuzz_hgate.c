/*
 * Whatever a head says, the gate lets it through only when it is sound by a second reading of the rules, and
 * only on the one path with a token. Input: method, target and version, a line each, then a header a line.
 */
#include "fuzz.h"

#include <ctype.h>
#include <strings.h>

#include "hgate.h"

static const char *const tokens[] = {"secret", "se", "another-token"};

typedef struct Text
{
	const char *bytes;
	size_t len;
} Text;

/* Cuts the next line off; the last has no end. */
static Text
next_line(Text *rest)
{
	const char *end = rest->len > 0 ? memchr(rest->bytes, '\n', rest->len) : NULL;
	Text line = {rest->bytes, end != NULL ? (size_t) (end - rest->bytes) : rest->len};
	size_t used = end != NULL ? line.len + 1 : line.len;

	rest->bytes += used;
	rest->len -= used;
	return line;
}

static bool
equals(Text text, const char *word)
{
	return text.len == strlen(word) && strncasecmp(text.bytes, word, text.len) == 0;
}

typedef struct Seen
{
	int hosts;
	int lengths;
	int encodings;
	bool fault;
	unsigned long long length;
} Seen;

static void
see(Seen *seen, Text name, Text value)
{
	char digits[16] = "";
	size_t i;

	if (name.len == 0)
		seen->fault = true;
	for (i = 0; i < name.len; i++)
	{
		unsigned char c = (unsigned char) name.bytes[i];

		if (c <= ' ' || c >= 0x7f || memchr("\"(),/:;<=>?@[\\]{}", c, 17) != NULL)
			seen->fault = true;
	}
	for (i = 0; i < value.len; i++)
	{
		if (iscntrl((unsigned char) value.bytes[i]) && value.bytes[i] != '\t')
			seen->fault = true;
	}
	seen->hosts += equals(name, "host");
	if (equals(name, "transfer-encoding"))
	{
		seen->encodings++;
		if (!equals(value, "chunked"))
			seen->fault = true;
	}
	if (equals(name, "content-length"))
	{
		seen->lengths++;
		if (value.len == 0 || value.len > 10)
			seen->fault = true;
		else
			memcpy(digits, value.bytes, value.len);
		if (strspn(digits, "0123456789") != value.len)
			seen->fault = true;
		seen->length = strtoull(digits, NULL, 10);
	}
}

static bool
is_sound(const Seen *seen, const char *version)
{
	if (strcmp(version, "HTTP/1.1") == 0)
		return !seen->fault && seen->hosts == 1 && seen->lengths + seen->encodings <= 1;
	return strcmp(version, "HTTP/1.0") == 0 && !seen->fault && seen->hosts <= 1 &&
	       seen->lengths <= 1 && seen->encodings == 0;
}

static char *
string_of_line(Text line)
{
	return string_of((const uint8_t *) line.bytes, line.len);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Text rest = {(const char *) data, size};
	char *method = string_of_line(next_line(&rest));
	char *target = string_of_line(next_line(&rest));
	char *version = string_of_line(next_line(&rest));
	KtHgateRoute route = {"/webhook", tokens, 3, 1000};
	KtHgateVerdict verdict;
	Seen seen = {0};
	KtHgate gate;
	bool on_route;

	kt_hgate_begin(&gate);
	while (rest.len > 0)
	{
		Text line = next_line(&rest);
		const char *colon = line.len > 0 ? memchr(line.bytes, ':', line.len) : NULL;
		Text name = {line.bytes, colon != NULL ? (size_t) (colon - line.bytes) : line.len};
		Text value = {colon != NULL ? colon + 1 : "", colon != NULL ? line.len - name.len - 1 : 0};

		kt_hgate_header(&gate, name.bytes, name.len, value.bytes, value.len);
		see(&seen, name, value);
	}
	verdict = kt_hgate_judge(&gate, &route, method, target, version);
	on_route = strcmp(target, "/webhook/secret") == 0 || strcmp(target, "/webhook/se") == 0 ||
	           strcmp(target, "/webhook/another-token") == 0;

	if (!is_sound(&seen, version))
		MUST(verdict == KT_HGATE_FRAMING);
	else if (on_route && strcmp(method, "POST") == 0)
		MUST(verdict == (seen.length > 1000 ? KT_HGATE_TOO_LARGE : KT_HGATE_DELIVERY));
	else if (on_route)
		MUST(verdict == KT_HGATE_METHOD);
	else if (strcmp(target, "/healthz") != 0)
		MUST(verdict == KT_HGATE_NOT_FOUND);
	else
		MUST(verdict != KT_HGATE_DELIVERY && verdict != KT_HGATE_NOT_FOUND);
	MUST(kt_hgate_is_bare(&gate) == (seen.lengths + seen.encodings == 0) || seen.fault);
	free(method);
	free(target);
	free(version);
	return 0;
}
