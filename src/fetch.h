/*
 * One recording on its way: from its claim to the table, or back to those that wait.
 *
 * For recordings.c, which decides when. All of it runs between units of work and throws nothing but for memory.
 */
#ifndef KT_FETCH_H
#define KT_FETCH_H

#include "archive.h"
#include "buf.h"
#include "compat.h"
#include "fetchoutcome.h"
#include "fetchurl.h"
#include "http.h"
#include "limits.h"
#include "shmem.h"

/* Words on why an attempt came to nothing. */
#define KT_MAX_FETCH_REASON 200

typedef enum KtFetchPhase
{
	KT_FETCH_FREE,
	KT_FETCH_CLEANING, /* removes what an earlier attempt left, or this one when it has failed */
	KT_FETCH_RUNNING,
	KT_FETCH_ENDING /* to be put back */
} KtFetchPhase;

typedef struct KtFetch
{
	KtFetchPhase phase;
	MemoryContext context; /* of the claim's strings */
	KtHttp *http;
	KtSlot *slot; /* for the counters */
	KtArchiveClaim claim;

	KtFetchTarget target;
	KtHttpTransfer *transfer; /* NULL: not begun, or ended */
	KtBuf buffer;             /* arrived, and not written yet */
	bool paused;              /* the sink has turned bytes away */
	bool ended;
	int64 byte_at; /* when the last byte came, or the transfer was resumed */
	int seq;       /* pieces written */
	int64 bytes;   /* in them */
	KtSha256 *sha; /* of them */
	char content_type[KT_MAX_CONTENT_TYPE + 1];

	KtFetchNext next; /* how it ended, once it has */
	char reason[KT_MAX_FETCH_REASON];
	int64 retry_after;
	int failures;   /* units that failed in a row */
	int64 retry_at; /* no unit before */
} KtFetch;

/* Begins with a claim (in the fetch's context) that has been committed. */
extern void kt_fetch_begin(KtFetch *fetch, KtHttp *http, KtSlot *slot);

/*
 * When its next unit is due, on kt_http_now()'s clock: 0 for at once, -1 when it is free. The one answer to "now?"
 * and to "when, then?".
 */
extern int64 kt_fetch_due(const KtFetch *fetch);

/* Does its next unit, which must be due. Afterwards it may be free. */
extern void kt_fetch_work(KtFetch *fetch);

/* Lets go of it: its row stays claimed. */
extern void kt_fetch_release(KtFetch *fetch);

#endif /* KT_FETCH_H */
