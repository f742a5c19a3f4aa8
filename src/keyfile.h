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
	KT_KEY_CHARACTERS /* a byte within the key that cannot stand in a header's value, or within a token, in a path */
} KtKeyFault;

/*
 * Reads the one key in the file at path into out, without the white space around it. Checks the open
 * file, not the name (no race between check and read). Never blocks on a pipe. On any fault out is empty.
 */
extern KtKeyFault kt_keyfile_read(const char *path, KtBuf *out, int *err);

/* Whom a file's owner and permissions may let read it. */
typedef enum KtKeyRule
{
	KT_RULE_SECRET, /* the server's user alone: its own file, 0600 or 0400 */
	KT_RULE_TLS_KEY, /* PostgreSQL's rule for ssl_key_file: that, or root's with at most 0640 (a group of key readers) */
	KT_RULE_PUBLIC /* anybody */
} KtKeyRule;

/*
 * Reads a whole file into out, up to out->max bytes, as it is. Checks as above, by that rule. One that holds
 * nothing but white space is KT_KEY_EMPTY.
 */
extern KtKeyFault kt_keyfile_read_whole(const char *path, KtKeyRule rule, KtBuf *out, int *err);

/*
 * Cuts what kt_keyfile_read_whole() has read into the secrets that it holds, one a line, without the white space
 * around them and without empty lines. They stay in buf, NUL-terminated. They are parts of a URL: KT_KEY_CHARACTERS where
 * one cannot stand in its path as it is. At most so many, of at most so many bytes each: KT_KEY_TOO_LONG beyond.
 */
extern KtKeyFault kt_keyfile_split(KtBuf *buf, const char **secrets, int max, size_t max_len,
                                   int *n);

/* A fault in words that go behind the file's name; NULL for KT_KEY_OK. */
extern const char *kt_keyfile_words(KtKeyFault fault, KtKeyRule rule);

#endif /* KT_KEYFILE_H */
