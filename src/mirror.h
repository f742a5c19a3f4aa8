/*
 * kridtech.calls: the local mirror of GET /api/calls. The only file that writes it.
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

/* Whether a list that was asked for without a filter, and with that limit, holds every call there is. */
extern bool kt_mirror_is_whole(const KtApiAnswer *list);

/* Rows of a list, converted: n of them, in their order, palloc'd. */
extern KtMirrorCall *kt_mirror_convert(const KtListedCall *listed, int n);

/*
 * Brings the listed calls into the mirror and returns how many rows were added or changed. A row that says
 * nothing new is not touched at all: no dead row, no lock, no WAL. Rows without a callId are passed over.
 */
extern int kt_mirror_store(const KtMirrorCall *calls, int n);

/* When the newest call of the account that the mirror holds was created; 0: it holds none. */
extern TimestampTz kt_mirror_newest(const char *account_id);

#endif /* KT_MIRROR_H */
