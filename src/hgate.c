/*
 * The gate: what is done with a request, judged by its parsed head before any byte of its body is kept.
 *
 * Owns nothing. Why it is needed: libmicrohttpd 0.9.75 takes Content-Length beside Transfer-Encoding and
 * answers the second request hidden in it; every version up to 1.0 takes two lengths and two Hosts. A proxy in
 * front may read the same bytes otherwise. So each of these lines may stand once, a length is digits and
 * nothing else, and a name is a token: "Content-Length : 5" is another name to one party and a length to
 * another. What only the parser sees (a bare LF) is not judged here.
 *
 * The query is ignored: it names nothing here, and a URL copied with one shall lose no webhook. The path is
 * compared as it came, so that no encoding leads to it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "hgate.h"

#include <string.h>
#include <strings.h>

#include "ascii.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* A Content-Length of more digits is over every limit there can be. */
#define MAX_LENGTH_DIGITS 10

#define HEALTH_PATH "/healthz"

bool
kt_hgate_is_bare(const KtHgate *gate)
{
	return gate->lengths == 0 && gate->encodings == 0;
}

void
kt_hgate_begin(KtHgate *gate)
{
	memset(gate, 0, sizeof(*gate));
}

/* RFC 9110, 5.6.2. */
static bool
is_token(const char *bytes, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
	{
		char c = bytes[i];

		if (!kt_is_alnum(c) && (c == '\0' || strchr("!#$%&'*+-.^_`|~", c) == NULL))
			return false;
	}
	return len > 0;
}

/* A tab is white space in a value, and the only control character that may stand there. */
static bool
is_value(const char *bytes, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) bytes[i];

		if ((c < ' ' && c != '\t') || c == 0x7f)
			return false;
	}
	return true;
}

static bool
is_word(const char *bytes, size_t len, const char *word)
{
	return len == strlen(word) && strncasecmp(bytes, word, len) == 0;
}

static bool
read_length(const char *bytes, size_t len, size_t *length)
{
	size_t i;

	*length = 0;
	if (len < 1 || len > MAX_LENGTH_DIGITS)
		return false;
	for (i = 0; i < len; i++)
	{
		if (bytes[i] < '0' || bytes[i] > '9')
			return false;
		*length = *length * 10 + (size_t) (bytes[i] - '0');
	}
	return true;
}

void
kt_hgate_header(KtHgate *gate, const char *name, size_t name_len, const char *value,
                size_t value_len)
{
	if (!is_token(name, name_len) || !is_value(value, value_len))
		gate->malformed = true;
	else if (is_word(name, name_len, "Host"))
		gate->hosts++;
	else if (is_word(name, name_len, "Content-Length"))
	{
		gate->lengths++;
		if (!read_length(value, value_len, &gate->length))
			gate->malformed = true;
	}
	else if (is_word(name, name_len, "Transfer-Encoding"))
	{
		gate->encodings++;
		gate->chunked = is_word(value, value_len, "chunked");
	}
}

static bool
framing_is_sound(const KtHgate *gate, const char *version)
{
	bool modern = strcmp(version, "HTTP/1.1") == 0;

	if (!modern && strcmp(version, "HTTP/1.0") != 0)
		return false;
	if (gate->malformed || gate->hosts > 1 || (modern && gate->hosts == 0))
		return false;
	if (gate->encodings > 0)
		return modern && gate->encodings == 1 && gate->chunked && gate->lengths == 0;
	return gate->lengths <= 1;
}

/*
 * Compares with every token, and every byte of what came with each, so that the time tells nothing of how much
 * of a token was guessed. It tells the length of what came, which its sender knows.
 */
static bool
is_one_of(const char *given, const char *const *tokens, int ntokens)
{
	size_t len = strlen(given);
	unsigned int found = 0;
	int i;

	for (i = 0; i < ntokens; i++)
	{
		size_t token_len = strlen(tokens[i]);
		volatile unsigned int differs = len != token_len || len == 0;
		size_t j;

		for (j = 0; j < len; j++)
			differs |= (unsigned char) given[j] ^
			           (unsigned char) tokens[i][token_len > 0 ? j % token_len : 0];
		found |= differs == 0;
	}
	return found != 0;
}

static bool
is_route(const KtHgateRoute *route, const char *target)
{
	size_t len = strlen(route->path);

	if (strncmp(target, route->path, len) != 0)
		return false;
	if (route->ntokens == 0)
		return strcmp(target + len, len > 0 ? "" : "/") == 0;
	return target[len] == '/' && is_one_of(target + len + 1, route->tokens, route->ntokens);
}

KtHgateVerdict
kt_hgate_judge(const KtHgate *gate, const KtHgateRoute *route, const char *method,
               const char *target, const char *version)
{
	if (!framing_is_sound(gate, version))
		return KT_HGATE_FRAMING;
	if (is_route(route, target))
	{
		if (strcmp(method, "POST") != 0)
			return KT_HGATE_METHOD;
		return gate->length > route->max_body ? KT_HGATE_TOO_LARGE : KT_HGATE_DELIVERY;
	}
	if (strcmp(target, HEALTH_PATH) != 0)
		return KT_HGATE_NOT_FOUND;
	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
		return KT_HGATE_HEALTH_ONLY;
	/* A question has no body; one that has could hide a second request from someone. */
	return gate->chunked || gate->length > 0 ? KT_HGATE_FRAMING : KT_HGATE_HEALTH;
}
