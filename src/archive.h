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

/* Where the walk through the events stands: behind that one. */
typedef struct KtArchiveCursor
{
	TimestampTz received_at;
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

/*
 * Claims the recording that has waited longest of those that are due, passing over the first skip of them.
 * False when there is none.
 */
extern bool kt_archive_claim(KtArchiveClaim *claim, int skip);

/* What is claimed by an earlier run of the dialer waits again. Only while this one has claimed nothing. */
extern void kt_archive_recover(void);

/*
 * Removes some of what an attempt left behind; false when nothing is left, or the claim is not good any more. To be
 * called before the first piece is added, until then.
 */
extern bool kt_archive_clean(const KtArchiveClaim *claim);

/*
 * Removes a part of a recording whose event came before the cutoff, the oldest first, passing over the first skip
 * of them. What is begun says 'failed' until its last part, the row, is gone.
 */
typedef enum KtArchiveRetired
{
	KT_ARCHIVE_NOTHING, /* there is none */
	KT_ARCHIVE_PART,
	KT_ARCHIVE_ROW
} KtArchiveRetired;

extern KtArchiveRetired kt_archive_retire(TimestampTz cutoff, int skip, bool fetching);

/* The next functions return false, and do nothing, when the claim is not good any more: the row was deleted, say. */

extern bool kt_archive_append(const KtArchiveClaim *claim, int seq, const char *data, size_t len);

/* The recording is whole: together with its last piece, if that is in the same unit. content_type may be empty. */
extern bool kt_archive_complete(const KtArchiveClaim *claim, const char *content_type, int64 bytes,
                                const uint8 *sha256);

/* The attempt came to nothing, for that reason; it is tried again after delay microseconds, or never (-1). */
extern bool kt_archive_put_back(const KtArchiveClaim *claim, const char *error, int64 delay);

#endif /* KT_ARCHIVE_H */
