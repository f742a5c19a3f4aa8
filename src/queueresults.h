/*
 * What came of claimed requests, recorded. In a unit of work (xact.h), between kt_owner_begin() and
 * kt_owner_end() where nothing else is said; throws as any statement does.
 */
#ifndef KT_QUEUERESULTS_H
#define KT_QUEUERESULTS_H

#include "outcome.h"
#include "utils/timestamp.h"

/* How an attempt ended. Text in the database's encoding. */
typedef struct KtResult
{
	int64 id;
	KtNextState state;
	bool live; /* it may have been applied */
	bool uses_attempt;
	const char *outcome;
	const char *error; /* for the request; NULL when it is simply placed */
	const char *detail;
	const char *answer_head;
	const char *call_id;
	const char *call_status;
	int curl_code;
	int http_status; /* 0: none */
	int64 bytes_sent;
	TimestampTz next_attempt_at; /* for KT_NEXT_QUEUED; 0: at once */
} KtResult;

/* What NOTIFY is to say once the unit that recorded the results is committed. */
typedef struct KtNotices
{
	MemoryContext context; /* outlives the unit; holds the payloads */
	char **payloads;
	int n;
} KtNotices;

/* Records results, and adds to notices (which has none yet), unless kridtech.notify is off. */
extern void kt_queue_record(const KtResult *results, int n, int64 epoch, KtNotices *notices);

/* NOTIFY kridtech_calls, in a unit of its own. */
extern void kt_queue_send_notices(const KtNotices *notices);

/* Whether another request has this callId. */
extern bool kt_queue_is_taken(const char *call_id, int64 id);

#endif /* KT_QUEUERESULTS_H */
