/*
 * kridtech.recordings and kridtech.recording_chunks: the only file that writes them.
 *
 * Each of these is called inside a unit of work (xact.h) and throws as any statement does. None waits for
 * another's lock longer than an instant: what a human has locked is tried again later, and dialling goes on.
 */
#ifndef KT_ARCHIVE_H
#define KT_ARCHIVE_H

#include "datatype/timestamp.h"
#include "utils/palloc.h"

/* Where a walk through the events, or through the recordings, stands: behind that one. */
typedef struct KtArchiveCursor
{
	TimestampTz at;
	char *call_id; /* palloc'd */
} KtArchiveCursor;

/*
 * Goes on through the verified events that name a recording, in the order in which they came: at most limit of
 * them from the cursor on; those that have no row yet get one, unless insert is false. Returns how many events
 * there were and moves the cursor behind them; its call_id is a new one, in the caller's memory context.
 */
extern int kt_archive_enlist(KtArchiveCursor *cursor, int limit, bool insert);

/* A recording that is to be fetched; palloc'd. */
typedef struct KtArchiveClaim
{
	char *call_id;
	int attempts; /* this one counted: it also tells this claim from a later one */
	char *url;    /* NULL: the event is gone */
	TimestampTz received_at;
} KtArchiveClaim;

/* What came of looking for a recording behind a cursor, to do something with it. */
typedef enum KtArchiveFound
{
	KT_ARCHIVE_NOTHING, /* there is none */
	KT_ARCHIVE_DONE,
	KT_ARCHIVE_HELD /* somebody's trigger keeps it as it is */
} KtArchiveFound;

/*
 * Claims the recording that has waited longest of those that are due, behind the cursor. That is moved behind the one
 * that was found as soon as it is, by a call_id in the caller's memory context: so it says which one makes this throw.
 */
extern KtArchiveFound kt_archive_claim(KtArchiveClaim *claim, KtArchiveCursor *cursor);

/* What is claimed by an earlier run of the dialer waits again. Only while this one has claimed nothing. */
extern void kt_archive_recover(void);

/*
 * Removes some of what an attempt left behind; false when nothing is left, or the claim is not good any more. To be
 * called before the first piece is added, until then.
 */
extern bool kt_archive_clean(const KtArchiveClaim *claim);

/*
 * Removes a part of a recording whose event came before the cutoff, the oldest first, behind the cursor, which is moved
 * as by kt_archive_claim(). What is begun says 'failed' until its last part, the row, is gone: *row.
 */
extern KtArchiveFound kt_archive_retire(TimestampTz cutoff, KtArchiveCursor *cursor, bool fetching,
                                        bool *row);

/*
 * The next functions return false, and do nothing, when the claim is not good any more: the row was deleted, say; or
 * when a user's trigger suppressed the row.
 */

extern bool kt_archive_append(const KtArchiveClaim *claim, int seq, const char *data, size_t len);

/* The recording is whole: together with its last piece, if that is in the same unit. content_type may be empty. */
extern bool kt_archive_complete(const KtArchiveClaim *claim, const char *content_type, int64 bytes,
                                const uint8 *sha256);

/* The attempt came to nothing, for that reason; it is tried again after delay microseconds, or never (-1). */
extern bool kt_archive_put_back(const KtArchiveClaim *claim, const char *error, int64 delay);

#endif /* KT_ARCHIVE_H */
