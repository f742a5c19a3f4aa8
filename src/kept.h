/*
 * kridtech.webhook_inbox: the only file that writes it, but for what retention.c removes. What events.h says of
 * itself holds here too; these functions are called between kt_owner_begin() and kt_owner_end().
 */
#ifndef KT_KEPT_H
#define KT_KEPT_H

#include "events.h"
#include "utils/timestamp.h"

/* Why a delivery is kept. */
typedef enum KtKeptReason
{
	KT_KEPT_BAD,      /* it can be no event */
	KT_KEPT_CONFLICT, /* its call's event has another body */
	KT_KEPT_ERROR,    /* what the INSERT threw; this and the next are tried again */
	KT_KEPT_LOCK,     /* the events' table was locked */
	KT_KEPT_LATE,     /* there was no time */
} KtKeptReason;

/* A delivery to keep. */
typedef struct KtKept
{
	const KtWebhook *webhook;
	KtKeptReason reason;
	const char *detail; /* in the database's encoding; or NULL */
	int deliveries;
	TimestampTz received_at;
} KtKept;

/* A delivery that was kept. */
typedef struct KtKeptRow
{
	char *body;
	size_t body_len;
	char *remote_addr; /* or NULL */
	int deliveries;
	TimestampTz received_at;
} KtKeptRow;

/* Bytes a row of either table is counted with beside its body. */
#define KT_ROW_BYTES 512

/* The client's address, palloc'd, as inet takes it; NULL when it is not known, or not an address. */
extern char *kt_kept_address(const KtWebhook *webhook);

/* Looks how much is there, for the bounds. */
extern void kt_kept_begin(void);

/* The same where it seems that little room is left, and the last look is not recent: rows may have gone. */
extern void kt_kept_recount(void);

/* A delivery that comes in now, to be kept: for that reason, or as a bad body where it has a fault. */
extern KtKept kt_kept_row(const KtWebhook *webhook, int deliveries, KtKeptReason reason,
                          const char *detail);

/*
 * Keeps deliveries and says in stored[places[i]] what became of rows[i]. A body that is there already is
 * counted instead. Bad bodies make room for themselves: the oldest of them go.
 */
extern void kt_kept_put(const KtKept *rows, const int *places, int n, KtStored *stored);

/* Locks a row and reads it; palloc'd. False when there is none. */
extern bool kt_kept_read(int64 id, KtKeptRow *row);

/* It has become an event. */
extern void kt_kept_delete(int64 id, size_t body_len);

/*
 * Writes down why it is still here, unless that is known. After so many attempts, KT_KEPT_NEVER or KT_KEPT_ALWAYS
 * among them, it is not tried again by itself.
 */
#define KT_KEPT_NEVER 0
#define KT_KEPT_ALWAYS PG_INT32_MAX
extern void kt_kept_note(int64 id, KtKeptReason reason, const char *detail, int attempts);

/*
 * Ids of rows that are due, whose next time is set to a later one; at most max. *due is when the next one is
 * (0: none). Rows that are locked are passed over.
 */
extern int kt_kept_claim(int64 *ids, int max, TimestampTz *due);

/* How full it is with what may not be deleted, in percent of its bound. */
extern int kt_kept_percent(void);

#endif /* KT_KEPT_H */
