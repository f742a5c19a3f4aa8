/*
 * Reads secrets from files that only the server's user can read.
 *
 * Everything is asked of the open file, so that nobody can swap it between the check and the reading.
 * Why it is right on hostile files: opening never blocks (a pipe without a writer) and never makes a
 * terminal ours; only a regular file is read, and of it one fixed buffer at most, which is wiped; and
 * a key is printable ASCII without a blank, so that it cannot add a header line to a request.
 */
#include "keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ascii.h"
#include "limits.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* White space that may surround a key of the greatest length: a line's end, an editor's blank lines. */
#define MAX_SURROUNDING 64

static KtKeyFault
open_fault(int error)
{
	switch (error)
	{
		case ENOENT:
		case ENOTDIR:
			return KT_KEY_MISSING;
		case ENXIO: /* a socket, or a device without a driver */
		case ENODEV:
			return KT_KEY_NOT_A_FILE;
		default:
			return KT_KEY_UNREADABLE;
	}
}

/* PostgreSQL's own rule for ssl_key_file, so that a file fit for the one is fit for the other. */
static KtKeyFault
check_tls_key(const struct stat *st)
{
	if (st->st_uid == 0 && geteuid() != 0)
		return (st->st_mode & (S_IWGRP | S_IXGRP | S_IRWXO)) != 0 ? KT_KEY_MODE : KT_KEY_OK;
	if (st->st_uid != geteuid())
		return KT_KEY_OWNER;
	return (st->st_mode & (S_IRWXG | S_IRWXO)) != 0 ? KT_KEY_MODE : KT_KEY_OK;
}

static KtKeyFault
check_secret(const struct stat *st)
{
	if (st->st_uid != geteuid())
		return KT_KEY_OWNER;
	if ((st->st_mode & 07777) != 0600 && (st->st_mode & 07777) != 0400)
		return KT_KEY_MODE;
	return KT_KEY_OK;
}

static KtKeyFault
check_file(int fd, KtKeyRule rule, int *err)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
	{
		*err = errno;
		return KT_KEY_UNREADABLE;
	}
	if (!S_ISREG(st.st_mode))
		return KT_KEY_NOT_A_FILE;
	switch (rule)
	{
		case KT_RULE_SECRET:
			return check_secret(&st);
		case KT_RULE_TLS_KEY:
			return check_tls_key(&st);
		case KT_RULE_PUBLIC:
			break;
	}
	return KT_KEY_OK;
}

/* Reads until the file or the buffer ends. The number of bytes, or -1 with *err set. */
static ssize_t
read_all(int fd, char *buffer, size_t size, int *err)
{
	size_t len = 0;

	while (len < size)
	{
		ssize_t n = read(fd, buffer + len, size - len);

		if (n == 0)
			break;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
		{
			*err = errno;
			return -1;
		}
		len += (size_t) n;
	}
	return (ssize_t) len;
}

/* Judges the bytes of a whole file and copies the key in them. */
static KtKeyFault
take_key(const char *bytes, size_t len, KtBuf *out, int *err)
{
	size_t i;

	if (len > KT_MAX_KEY + MAX_SURROUNDING)
		return KT_KEY_TOO_LONG;
	while (len > 0 && kt_is_space(bytes[len - 1]))
		len--;
	while (len > 0 && kt_is_space(*bytes))
	{
		bytes++;
		len--;
	}
	if (len == 0)
		return KT_KEY_EMPTY;
	if (len > KT_MAX_KEY || len > out->max)
		return KT_KEY_TOO_LONG;
	for (i = 0; i < len; i++)
	{
		if (bytes[i] <= ' ' || bytes[i] > '~')
			return KT_KEY_CHARACTERS;
	}
	if (kt_buf_append(out, bytes, len))
		return KT_KEY_OK;
	*err = ENOMEM;
	return KT_KEY_UNREADABLE;
}

/* Opens a file that keeps the rule: its descriptor in *fd, -1 on a fault. */
static KtKeyFault
open_file(const char *path, KtKeyRule rule, int *fd, int *err)
{
	KtKeyFault fault;

	*err = 0;
	*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (*fd < 0)
	{
		*err = errno;
		return open_fault(*err);
	}
	fault = check_file(*fd, rule, err);
	if (fault == KT_KEY_OK)
		return fault;
	close(*fd);
	*fd = -1;
	return fault;
}

KtKeyFault
kt_keyfile_read(const char *path, KtBuf *out, int *err)
{
	KtKeyFault fault;
	int fd;

	kt_buf_reset(out, 0);
	fault = open_file(path, KT_RULE_SECRET, &fd, err);
	if (fault == KT_KEY_OK)
	{
		char bytes[KT_MAX_KEY + MAX_SURROUNDING + 1];
		ssize_t len = read_all(fd, bytes, sizeof(bytes), err);

		fault = len < 0 ? KT_KEY_UNREADABLE : take_key(bytes, (size_t) len, out, err);
		explicit_bzero(bytes, sizeof(bytes));
		close(fd);
	}
	return fault;
}

static bool
is_blank(const KtBuf *buf)
{
	size_t i;

	for (i = 0; i < buf->len; i++)
		if (!kt_is_space(buf->data[i]))
			return false;
	return true;
}

KtKeyFault
kt_keyfile_read_whole(const char *path, KtKeyRule rule, KtBuf *out, int *err)
{
	char bytes[4096];
	KtKeyFault fault;
	ssize_t len;
	int fd;

	kt_buf_reset(out, 0);
	fault = open_file(path, rule, &fd, err);
	if (fault != KT_KEY_OK)
		return fault;
	while ((len = read_all(fd, bytes, sizeof(bytes), err)) > 0)
		if (!kt_buf_append(out, bytes, (size_t) len))
			break;
	explicit_bzero(bytes, sizeof(bytes));
	close(fd);
	if (len < 0)
		fault = KT_KEY_UNREADABLE;
	else if (out->failed)
		fault = KT_KEY_TOO_LONG;
	else if (is_blank(out))
		fault = KT_KEY_EMPTY;
	if (fault != KT_KEY_OK)
		kt_buf_free(out);
	return fault;
}

/*
 * One line of a file of secrets: the secret in it, "" when it is empty. It is cut where its white space begins. One that
 * a client writes otherwise in a URL would open nothing, and each webhook would be lost.
 */
static KtKeyFault
take_secret(char *line, size_t max_len, const char **secret)
{
	size_t len;
	size_t i;

	while (kt_is_space(*line))
		line++;
	len = strlen(line);
	while (len > 0 && kt_is_space(line[len - 1]))
		line[--len] = '\0';
	for (i = 0; i < len; i++)
		if (!kt_is_path(line[i]))
			return KT_KEY_CHARACTERS;
	if (kt_has_dot_segment(line))
		return KT_KEY_CHARACTERS;
	*secret = line;
	return len > max_len ? KT_KEY_TOO_LONG : KT_KEY_OK;
}

KtKeyFault
kt_keyfile_split(KtBuf *buf, const char **secrets, int max, size_t max_len, int *n)
{
	char *next = buf->data;
	const char *secret;
	KtKeyFault fault;

	*n = 0;
	if (buf->data == NULL)
		return KT_KEY_EMPTY;
	if (strlen(buf->data) != buf->len)
		return KT_KEY_CHARACTERS;
	while (next != NULL)
	{
		fault = take_secret(strsep(&next, "\n"), max_len, &secret);
		if (fault != KT_KEY_OK)
			return fault;
		if (*secret == '\0')
			continue;
		if (*n == max)
			return KT_KEY_TOO_LONG;
		secrets[(*n)++] = secret;
	}
	return *n == 0 ? KT_KEY_EMPTY : KT_KEY_OK;
}

const char *
kt_keyfile_words(KtKeyFault fault, KtKeyRule rule)
{
	switch (fault)
	{
		case KT_KEY_OK:
			return NULL;
		case KT_KEY_MISSING:
			return "does not exist";
		case KT_KEY_UNREADABLE:
			return "cannot be read";
		case KT_KEY_NOT_A_FILE:
			return "is not a regular file";
		case KT_KEY_OWNER:
			return rule == KT_RULE_TLS_KEY ? "belongs neither to the server's user nor to root"
			                               : "does not belong to the server's user";
		case KT_KEY_MODE:
			return rule == KT_RULE_TLS_KEY
			           ? "can be read by others: it may have at most 0600, or 0640 where it is root's"
			           : "has permissions other than 0600 and 0400";
		case KT_KEY_EMPTY:
			return "is empty";
		case KT_KEY_TOO_LONG:
			return "is too long";
		case KT_KEY_CHARACTERS:
			return "holds a character that does not belong there";
	}
	return NULL;
}
