/*
 * New rows of kridtech.call_requests, fast enough for a trigger on every row of a bulk load.
 */
#ifndef KT_NEWREQUEST_H
#define KT_NEWREQUEST_H

#include "utils/timestamp.h"

/* What is to be queued. A Datum of 0 is NULL; the others are texts but for the jsonb. Already checked. */
typedef struct KtNewRequest
{
	Datum account_id;
	Datum to_number; /* E.164, never NULL */
	Datum dynamic_variables;
	Datum reference;
	Datum unique_key;
	int32 priority;
	bool has_not_before;
	bool has_not_after;
	TimestampTz not_before;
	TimestampTz not_after;
} KtNewRequest;

/*
 * Queues a request in the caller's transaction and name, without the caller needing a right on the table,
 * and asks for the dialer to be woken at commit. Returns its id; or, where a live request holds the
 * unique_key, that request's, having waited for the transaction that made it. Throws 54000 beyond
 * kridtech.max_queued_per_transaction, 25006 in a read-only transaction.
 *
 * query is NULL, or a trigger's fn_mcxt when nothing else that its statement fires could look for the
 * row: then it may appear only at the statement's end.
 */
extern int64 kt_newrequest_queue(const KtNewRequest *request, MemoryContext query);

/* Counts one more towards kridtech.max_queued_per_transaction. Throws 54000 when that is too many. */
extern void kt_newrequest_count(void);

/*
 * When a new request is tried next: at not_before, where that lies ahead. The index of what is ready
 * holds those without such a time.
 */
extern bool kt_newrequest_waits(bool has_not_before, TimestampTz not_before);

#endif /* KT_NEWREQUEST_H */
