/*
 * kridtech.call_requests and kridtech.call_attempts: the only file by which the dialer, and a
 * synchronous call, move a call request from state to state. The dialer's functions run inside a unit of work (xact.h) and throw as any statement does.
 */
#ifndef KT_QUEUE_H
#define KT_QUEUE_H

#include "outcome.h"
#include "utils/timestamp.h"

/* ---- a call placed by the caller's own backend ----------------------------------------------------- */

/*
 * Records a call that this backend is about to place: in its own transaction, as owner of the table.
 * Done before anything is sent, so that a record that cannot be made costs no call. Text is in the
 * database's encoding. Returns the request's id.
 */
extern int64 kt_queue_record_begin(const char *account_id, const char *to_number,
                                   Datum dynamic_variables, bool has_variables);

/*
 * The call was placed; call_status is a text or 0. False when call_id already belongs to another request.
 */
extern bool kt_queue_record_placed(int64 id, Datum call_id, Datum call_status, int http_status,
                                   bool flagged);

/* ---- the dialer ------------------------------------------------------------------------------------ */

/*
 * A kridtech_ref: 48 bits of the request's id, then 80 random ones, in hexadecimal. That it names its request
 * saves an index on call_attempts, which would cost every call.
 */
#define KT_REF_SIZE 33

/* A new one, palloc'd. */
extern char *kt_queue_make_ref(int64 id);

/* The id of the request that a foreign ref names, so that its attempts can be asked; 0: it is no ref. */
extern int64 kt_queue_read_ref(const char *ref);

/* A request that could be placed now, as a scan saw it: a hint, the claim looks again. */
typedef struct KtCandidate
{
	int64 id;
	char *account_id; /* palloc'd in the context that was current */
} KtCandidate;

/* A request that is claimed: 'placing', with an open attempt. Text in the database's encoding, palloc'd. */
typedef struct KtClaim
{
	int64 id;
	int attempts; /* this one counted */
	char *account_id;
	char *to_number;
	char *dynamic_variables; /* JSON or NULL */
	char *ref;               /* the kridtech_ref to send along, or NULL */
} KtClaim;

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

/*
 * The sweeps: each moves up to limit rows, those after the first offset ones, and returns how many. What an
 * earlier run left 'placing' becomes 'unknown'; what is queued beyond its not_after expires; what has waited
 * long enough becomes ready.
 */
extern int kt_queue_recover(int64 epoch, int offset, int limit);
extern int kt_queue_expire(int offset, int limit);
extern int kt_queue_promote(int offset, int limit);

/* When the next waiting request can be placed; 0: none waits. */
extern TimestampTz kt_queue_next_due(void);

/*
 * Has the statements planned anew when they are next run. A plan made while the tables were small may read
 * an index from end to end, which is right then and ruinous once they are large; the server itself plans
 * anew only after an ANALYZE.
 */
extern void kt_queue_replan(void);

/*
 * Requests that are ready, in their order, but for those of the accounts to skip, and those
 * created before born, which came from elsewhere, and those set aside. Returns how many.
 */
extern int kt_queue_scan(const char *default_account, const char **skip, int nskip,
                         const int64 *aside, int naside, TimestampTz born, KtCandidate *candidates,
                         int max);

/* True when something ready is older than the queue. For when nothing else is ready. */
extern bool kt_queue_has_foreign(TimestampTz born);

/*
 * Claims those of the candidates that still can be: not locked by another, within their time. refs[i] is
 * the random text for ids[i], or refs is NULL. Returns how many; their order is the candidates'.
 */
extern int kt_queue_claim(const int64 *ids, const char **refs, int n, const char *default_account,
                          int64 epoch, TimestampTz born, KtClaim *claims);

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

/*
 * Evidence found later (a webhook that brings back a kridtech_ref, the API's list) says which calls requests
 * that are 'unknown' have become: they are 'placed', and so is who was 'placed' without a callId. how, a
 * sentence without a period, goes to the request's error and the attempt's detail. Passed over: a request in
 * any other state, locked by another transaction, or whose callId another request has. Returns how many were
 * bound; they are notified. ids and call_ids (text in the database's encoding) are each without duplicates.
 */
extern int kt_queue_bind(const int64 *ids, const char **call_ids, int n, const char *how);

/* A request that cannot be sent because of its own content becomes 'failed', if it is still queued. */
extern void kt_queue_reject(int64 id, const char *error);

/* NOTIFY kridtech_calls for those of the requests that are in a final state, unless kridtech.notify is off. */
extern void kt_queue_notify(const int64 *ids, int n);

/* How many requests became unknown in the last hour and still are, at most limit. */
extern int kt_queue_recent_unknown(int limit);

#endif /* KT_QUEUE_H */
