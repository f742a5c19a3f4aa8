/*
 * Addresses as the settings name them: where to listen, which networks to trust.
 *
 * Only numeric addresses are taken. A name would have to be looked up in the postmaster, before the server
 * starts, from a name server that may not answer.
 */
#include "netaddr.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ascii.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* A piece of a list: not NUL-terminated. */
typedef struct Piece
{
	const char *text;
	size_t len;
} Piece;

static void
trim(Piece *piece)
{
	while (piece->len > 0 && kt_is_space(piece->text[piece->len - 1]))
		piece->len--;
	while (piece->len > 0 && kt_is_space(*piece->text))
	{
		piece->text++;
		piece->len--;
	}
}

/* Cuts the next piece off a list. A comma in double quotes ends nothing. */
static bool
next_piece(const char **list, Piece *piece)
{
	const char *end = *list;
	bool quoted = false;

	while (kt_is_space(*end))
		end++;
	if (*end == '\0')
		return false;
	piece->text = end;
	for (; *end != '\0' && (quoted || *end != ','); end++)
		if (*end == '"')
			quoted = !quoted;
	piece->len = (size_t) (end - piece->text);
	*list = *end == ',' ? end + 1 : end;
	trim(piece);
	return true;
}

/* Copies what fits, with a NUL; false when not all of it did. */
static bool
copy_piece(const Piece *piece, char *out, size_t size)
{
	size_t len = piece->len < size ? piece->len : size - 1;

	memcpy(out, piece->text, len);
	out[len] = '\0';
	return len == piece->len;
}

static bool
read_address(const Piece *piece, struct sockaddr_storage *address, socklen_t *size)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *) address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *) address;
	char text[INET6_ADDRSTRLEN];

	memset(address, 0, sizeof(*address));
	if (!copy_piece(piece, text, sizeof(text)))
		return false;
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
	{
		address->ss_family = AF_INET;
		*size = sizeof(*v4);
		return true;
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
		return false;
	address->ss_family = AF_INET6;
	*size = sizeof(*v6);
	return true;
}

/* A decimal number of digits alone, up to a maximum; -1 for anything else. */
static int
read_number(const Piece *piece, int max)
{
	int number = 0;
	size_t i;

	if (piece->len == 0 || piece->len > 5)
		return -1;
	for (i = 0; i < piece->len; i++)
	{
		if (!kt_is_digit(piece->text[i]))
			return -1;
		number = number * 10 + (piece->text[i] - '0');
	}
	return number <= max ? number : -1;
}

/* ---- where to listen ------------------------------------------------------------------------------------- */

/* The last of a byte in a piece, or NULL. */
static const char *
find_last(const Piece *piece, char c)
{
	size_t i;

	for (i = piece->len; i > 0; i--)
		if (piece->text[i - 1] == c)
			return piece->text + i - 1;
	return NULL;
}

/* Splits a piece at a byte of it, which goes. The parts may be written over the piece. */
static void
split(Piece piece, const char *at, Piece *left, Piece *right)
{
	left->text = piece.text;
	left->len = (size_t) (at - piece.text);
	right->text = at + 1;
	right->len = piece.len - left->len - 1;
	trim(left);
	trim(right);
}

/* A name as an identifier: "as ""it"" stands", or in lower case. Words about what is wrong with it, or NULL. */
static const char *
read_name(const Piece *piece, char name[KT_NETADDR_NAME])
{
	bool quoted = piece->len > 1 && piece->text[0] == '"' && piece->text[piece->len - 1] == '"';
	size_t from = quoted ? 1 : 0;
	size_t to = piece->len - from;
	size_t len = 0;
	size_t i;

	for (i = from; i < to; i++)
	{
		char c = piece->text[i];

		if (c == '"' && (!quoted || ++i == to || piece->text[i] != '"'))
			return "its double quotes are not in order";
		if (len == KT_NETADDR_NAME - 1)
			return "the database's name is too long";
		name[len++] = !quoted && c >= 'A' && c <= 'Z' ? (char) (c - 'A' + 'a') : c;
	}
	name[len] = '\0';
	return len == 0 ? "the database's name is empty" : NULL;
}

/* Of [database@]address:port what stands behind the name. */
static const char *
read_place(const Piece *piece, KtEndpoint *endpoint)
{
	const char *colon = find_last(piece, ':');
	Piece host;
	Piece port;
	int number;

	if (colon == NULL)
		return "it has no port";
	split(*piece, colon, &host, &port);
	number = read_number(&port, 65535);
	if (number < 0)
		return "its port is no number from 0 to 65535";
	if (host.len > 1 && host.text[0] == '[' && host.text[host.len - 1] == ']')
	{
		host.text++;
		host.len -= 2;
		if (memchr(host.text, ':', host.len) == NULL)
			return "only an IPv6 address stands in brackets";
	}
	else if (memchr(host.text, ':', host.len) != NULL)
		return "an IPv6 address stands in brackets";
	if (!read_address(&host, &endpoint->address, &endpoint->size))
		return "its address is not a numeric IPv4 or IPv6 address";
	if (endpoint->address.ss_family == AF_INET)
		((struct sockaddr_in *) &endpoint->address)->sin_port = htons((uint16_t) number);
	else
		((struct sockaddr_in6 *) &endpoint->address)->sin6_port = htons((uint16_t) number);
	return NULL;
}

bool
kt_netaddr_next_endpoint(const char **list, KtEndpoint *endpoint)
{
	const char *at;
	Piece piece;
	Piece name;

	memset(endpoint, 0, sizeof(*endpoint));
	if (!next_piece(list, &piece))
		return false;
	(void) copy_piece(&piece, endpoint->text, sizeof(endpoint->text));
	at = find_last(&piece, '@');
	if (at != NULL)
	{
		split(piece, at, &name, &piece);
		endpoint->fault = read_name(&name, endpoint->database);
	}
	if (endpoint->fault == NULL)
		endpoint->fault = read_place(&piece, endpoint);
	return true;
}

/* ---- networks -------------------------------------------------------------------------------------------- */

bool
kt_netaddr_next_network(const char **list, struct sockaddr_storage *address, int *prefix)
{
	Piece piece;
	Piece bits;
	const char *slash;
	socklen_t size;
	int most;

	if (!next_piece(list, &piece))
		return false;
	*prefix = -1;
	slash = find_last(&piece, '/');
	if (slash != NULL)
		split(piece, slash, &piece, &bits);
	if (!read_address(&piece, address, &size))
		return true;
	most = address->ss_family == AF_INET ? 32 : 128;
	*prefix = slash != NULL ? read_number(&bits, most) : most;
	return true;
}

/* ---- an address as text ----------------------------------------------------------------------------------- */

void
kt_netaddr_print(const struct sockaddr_storage *address, char *text, size_t size)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *) address;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *) address;
	char host[INET6_ADDRSTRLEN] = "?";

	if (address->ss_family == AF_INET)
	{
		(void) inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
		snprintf(text, size, "%s:%d", host, ntohs(v4->sin_port));
		return;
	}
	(void) inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
	snprintf(text, size, "[%s]:%d", host, ntohs(v6->sin6_port));
}
