/*
 * kridtech.calls: the local mirror of GET /api/calls. The only file that writes it, but for what retention.c
 * removes.
 *
 * Everything here runs between kt_owner_begin() and kt_owner_end(), in a transaction, and throws as any
 * statement does.
 */
#ifndef KT_MIRROR_H
#define KT_MIRROR_H

#include "answer.h"
#include "utils/timestamp.h"

/* A listed call in the database's terms. Text in its encoding; NULL, and 0 for a time, where it is missing. */
typedef struct KtMirrorCall
{
	const char *call_id;
	const char *account_id;
	const char *direction;
	const char *to_number;
	const char *call_status;
	const char *duration; /* an integer, as text */
	const char *cost;     /* a numeric, as text */
	const char *first_name;
	TimestampTz created_at;
} KtMirrorCall;

/* The most calls that the API lists: the newest of them. */
#define KT_LIST_LIMIT 100

/* Where that is not all of them, these filters show some of the others. */
#define KT_LIST_STATUSES 3
extern const char *const kt_list_statuses[KT_LIST_STATUSES];

/*
 * Whether a list that was asked for without a filter, and with that limit, holds every call there is: its "total" must
 * say so. One without a total may be cut anywhere.
 */
extern bool kt_mirror_is_whole(const KtApiAnswer *list);

/* Rows of a list, converted: n of them, in their order, palloc'd. */
extern KtMirrorCall *kt_mirror_convert(const KtListedCall *listed, int n);

/*
 * Brings the listed calls into the mirror and returns how many rows were added or changed, and in *added
 * how many of these were added. A row that says
 * nothing new is not touched at all: no dead row, no lock, no WAL. Rows without a callId are passed over.
 */
extern int kt_mirror_store(const KtMirrorCall *calls, int n, int *added);

/* Whether the account has any of the newest 1,000 calls of the mirror. */
extern bool kt_mirror_knows(const char *account_id);

/*
 * Unverified events whose call the mirror holds, so that the API has listed it: fills call_ids (palloc'd, the
 * database's encoding) with at most max, of the newest max unverified ones.
 */
extern int kt_mirror_late_events(char **call_ids, int max);

#endif /* KT_MIRROR_H */
