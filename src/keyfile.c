/*
 * Reads a key from a file that only the server's user can read.
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

#include "limits.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* White space that may surround a key of the greatest length: a line's end, an editor's blank lines. */
#define MAX_SURROUNDING 64

static bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

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

static KtKeyFault
check_file(int fd, int *err)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
	{
		*err = errno;
		return KT_KEY_UNREADABLE;
	}
	if (!S_ISREG(st.st_mode))
		return KT_KEY_NOT_A_FILE;
	if (st.st_uid != geteuid())
		return KT_KEY_OWNER;
	if ((st.st_mode & 07777) != 0600 && (st.st_mode & 07777) != 0400)
		return KT_KEY_MODE;
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
	while (len > 0 && is_space(bytes[len - 1]))
		len--;
	while (len > 0 && is_space(*bytes))
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

KtKeyFault
kt_keyfile_read(const char *path, KtBuf *out, int *err)
{
	KtKeyFault fault;
	int fd;

	kt_buf_reset(out, 0);
	*err = 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
	{
		*err = errno;
		return open_fault(*err);
	}
	fault = check_file(fd, err);
	if (fault == KT_KEY_OK)
	{
		char bytes[KT_MAX_KEY + MAX_SURROUNDING + 1];
		ssize_t len = read_all(fd, bytes, sizeof(bytes), err);

		fault = len < 0 ? KT_KEY_UNREADABLE : take_key(bytes, (size_t) len, out, err);
		explicit_bzero(bytes, sizeof(bytes));
	}
	close(fd);
	return fault;
}
