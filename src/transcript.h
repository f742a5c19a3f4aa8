/*
 * Splits a plain-text transcript into turns. Bytes in, slices out; copies nothing, allocates nothing.
 */
#ifndef KT_TRANSCRIPT_H
#define KT_TRANSCRIPT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct KtTurn
{
	const char *speaker; /* NULL where the text names none */
	size_t speaker_len;
	const char
		*utterance; /* trimmed of white space at both ends; may hold CRLF inside; may be empty */
	size_t utterance_len;
} KtTurn;

typedef struct KtTurnCursor
{
	const char *next;
	const char *end;
} KtTurnCursor;

extern void kt_transcript_begin(KtTurnCursor *cursor, const char *text, size_t len);

/* The next turn, or false at the end. */
extern bool kt_transcript_next(KtTurnCursor *cursor, KtTurn *turn);

/* Copies an utterance to dst (at least len bytes), each CRLF and lone CR as one LF; returns the length. */
extern size_t kt_transcript_copy(char *dst, const char *utterance, size_t len);

#endif /* KT_TRANSCRIPT_H */
