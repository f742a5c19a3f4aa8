/*
 * Reads a secret (the API key, webhook tokens) from a file that nobody but the server's user can read.
 */
#ifndef KT_KEYFILE_H
#define KT_KEYFILE_H

#include "buf.h"

typedef enum KtKeyFault
{
	KT_KEY_OK,
	KT_KEY_MISSING,    /* no such file */
	KT_KEY_UNREADABLE, /* open or read failed; *err has the errno */
	KT_KEY_NOT_A_FILE, /* a directory, a device, a pipe */
	KT_KEY_OWNER,      /* belongs to another user than the server's */
	KT_KEY_MODE,       /* permissions other than 0600 and 0400 */
	KT_KEY_EMPTY,      /* nothing but white space */
	KT_KEY_TOO_LONG,   /* over KT_MAX_KEY bytes */
	KT_KEY_CHARACTERS /* white space, control or non-ASCII bytes within the key: not a header value */
} KtKeyFault;

/*
 * Reads the one key in the file at path into out, without the white space around it. Checks the open
 * file, not the name (no race between check and read). Never blocks on a pipe. On any fault out is empty.
 */
extern KtKeyFault kt_keyfile_read(const char *path, KtBuf *out, int *err);

#endif /* KT_KEYFILE_H */
