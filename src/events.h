/*
 * What becomes of a webhook delivery in the database. events.c stores, verify.c verifies later: they alone
 * write kridtech.webhook_events, and kept.c alone kridtech.webhook_inbox, but for what retention.c removes.
 * salvage.c decides what goes to the inbox and comes back.
 *
 * All of it runs inside a unit of work (xact.h), or a caller's transaction, works as the owner of the tables
 * and throws as any statement does: then nothing of the unit was done. What results say holds once the unit
 * has committed.
 */
#ifndef KT_EVENTS_H
#define KT_EVENTS_H

#include "datatype/timestamp.h"
#include "webhook.h"

/* What became of a delivery. */
typedef enum KtStoredAs
{
	KT_STORED_EVENT,     /* a new event: 200, and a notification is due */
	KT_STORED_DUPLICATE, /* an equal one is there already, and has counted it: 200 */
	KT_STORED_CONFLICT,  /* its callId is known with another body: kept in the inbox, 200 */
	KT_STORED_KEPT,      /* kept in the inbox, becomes an event later: 200 */
	KT_STORED_BAD,       /* webhook->fault: 400. Kept in the inbox, as long as there is room */
	KT_STORED_REFUSED,   /* nothing was kept, there is no room (kt_events_problem()): 503 */
} KtStoredAs;

typedef struct KtStored
{
	KtStoredAs as;
	bool binds; /* the event names a request that waits for its callId: kt_events_bind() is due */
} KtStored;

/*
 * Takes stock of both tables, for the bounds on what they may hold. Once at the worker's start, and
 * after a reload that changed the bounds nothing needs to be done.
 */
extern void kt_events_begin(void);

/*
 * Stores deliveries, any number, with as few statements as there can be. One that cannot become an event for
 * what it is goes to the inbox; an error (a user's trigger, a lock, a full disk) is thrown for all of them.
 * deliveries of one body are counted together.
 */
extern void kt_events_store(const KtWebhook *webhooks, int n, KtStored *stored);

/*
 * The same, one by one: for when kt_events_store() or the commit behind it failed. One whose event fails, also
 * by a deferred trigger, goes to the inbox with the error as reason. After the deadline, on kt_http_now()'s
 * clock, and after a cancel, the rest goes there untried.
 */
extern void kt_events_store_apart(const KtWebhook *webhooks, int n, int64 deadline,
                                  KtStored *stored);

/*
 * Straight to the inbox, to be tried again later: for when the events' table is locked, or the commit failed.
 * sqlstate and message are the error's, as kt_xact_run() gave them; 0 and NULL: there was no time.
 */
extern void kt_events_keep(const KtWebhook *webhooks, int n, int sqlstate, const char *message,
                           KtStored *stored);

/*
 * NOTIFY kridtech_webhooks with each call_id (UTF-8) as payload, unless kridtech.notify is off. In a unit of
 * its own, which may be lost.
 */
extern void kt_events_notify(const char *const *call_ids, int n);

/*
 * The late pass: a bounded number of events that nothing has verified yet are looked at again, in rounds.
 * Returns how many have become verified. *again_ms is how long to wait before the next call.
 */
extern int kt_events_verify(long *again_ms);

/*
 * Events whose call_id (UTF-8) the API has listed become verified: by 'request' and naming it where there is one, also
 * if they were verified by 'api' before; else by 'api'. Returns how many. kt_events_verify_requested() does the former
 * alone, for one call (in the database's encoding), or leaves it to the next list.
 */
extern int kt_events_verify_listed(const char *const *call_ids, int n);
extern int kt_events_verify_requested(const char *call_id);

/*
 * Requests that are 'unknown', and whose kridtech_ref an event has brought back, become 'placed' with the
 * event's call_id. Bounded, in rounds; returns how many, *again_ms as kt_events_verify(). Apart from
 * kt_events_store(), so that what a user's trigger on call_requests raises costs no event. When a delivery's
 * "binds" says so it is to be called at once.
 */
extern int kt_events_bind(long *again_ms);

/*
 * The inbox's retries, each row in a unit of its own; the claim before notes that the rows will have been
 * tried and when they may be tried next, so that one that fails, or takes the server down, comes back later
 * and later.
 *
 * kt_events_retry_claim() fills ids with at most max rows that are due and returns how many; *due is when the
 * next one is (0: none). kt_events_retry() then does what kridtech_replay_webhook() does: true when the row
 * has become an event (*call_id, palloc'd UTF-8, is for kt_events_notify(); NULL where an equal one was there
 * already). Should it throw, kt_events_retry_failed() writes down why.
 */
extern int kt_events_retry_claim(int64 *ids, int max, TimestampTz *due);
extern bool kt_events_retry(int64 inbox_id, char **call_id);
extern void kt_events_retry_failed(int64 inbox_id, int sqlstate, const char *message);

/* What somebody should look at (the tables have come near their bounds), for health; NULL: nothing. */
extern const char *kt_events_problem(void);

/* ---- between the files ----------------------------------------------------------------------------- */

/*
 * Makes an event of a delivery, or says why not: KT_STORED_CONFLICT, or KT_STORED_KEPT where a trigger or rule
 * suppressed the row. Nothing goes to the inbox.
 */
extern KtStored kt_events_store_one(const KtWebhook *webhook, TimestampTz received_at,
                                    int deliveries);

/* Why a row that was inserted without an error is not there, in words. */
extern const char kt_events_suppressed[];

/* Bytes of events that nothing has verified: add, or set them (a round of the late pass knows). */
extern int64 kt_events_unverified(void);
extern void kt_events_set_unverified(int64 bytes);

/* A request that an event has just named by its kridtech_ref: the next kt_events_bind() looks at it. */
extern void kt_events_bind_soon(int64 request_id);

#endif /* KT_EVENTS_H */
