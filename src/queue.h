/*
 * From ready to 'placing': scan and claim, and the few other statements on call requests that stand alone. By
 * queue.c, queueresults.c, queuesweep.c and queuebind.c, and by no other file, the dialer moves a call request
 * from state to state. In a unit of work (xact.h), between kt_owner_begin() and kt_owner_end(); throws as any
 * statement does.
 */
#ifndef KT_QUEUE_H
#define KT_QUEUE_H

#include "utils/timestamp.h"

/*
 * A kridtech_ref: 48 bits of the request's id, or, where that has more, 64; then 80 random ones, in hexadecimal. That it
 * names its request saves an index on call_attempts, which would cost every call.
 */
#define KT_REF_SIZE 37

/* A new one, palloc'd. */
extern char *kt_queue_make_ref(int64 id);

/* The id of the request that a foreign ref names, so that its attempts can be asked; 0: it is no ref. */
extern int64 kt_queue_read_ref(const char *ref);

/* A request that could be placed now, as a scan saw it: a hint, the claim looks again. */
typedef struct KtCandidate
{
	int64 id;
	int priority;
	bool heavy;       /* its variables may be large */
	char *account_id; /* palloc'd in the context that was current */
} KtCandidate;

/* A place in the order of what is ready, and where a scan begins: there, and, if above, in all higher priorities. */
typedef struct KtMark
{
	int priority;
	int64 id;
	bool above;
} KtMark;

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

/*
 * Has the statements planned anew when they are next run. A plan made while the tables were small may read
 * an index from end to end, which is right then and ruinous once they are large; the server itself plans
 * anew only after an ANALYZE.
 */
extern void kt_queue_replan(void);

/* What a scan passes over. */
typedef struct KtScanRules
{
	const char *default_account;
	const char **skip; /* accounts */
	int nskip;
	const int64 *aside; /* requests */
	int naside;
	TimestampTz born; /* what was created before came from elsewhere */
} KtScanRules;

/*
 * Requests that are ready, in their order; from a mark on, unless it is NULL. Returns how many; *full when there may be more.
 */
extern int kt_queue_scan(const KtScanRules *rules, const KtMark *from, KtCandidate *candidates,
                         int max, bool *full);

/* The last of all that is ready, as a mark. False when nothing is. */
extern bool kt_queue_last_ready(KtMark *mark);

/* True when something ready is older than the queue. For when nothing else is ready. */
extern bool kt_queue_has_foreign(TimestampTz born);

/*
 * Claims those of the candidates that still can be: not locked by another, within their time. refs[i] is
 * the random text for ids[i], or refs is NULL. Returns how many; their order is the candidates'.
 */
extern int kt_queue_claim(const int64 *ids, const char **refs, int n, const char *default_account,
                          int64 epoch, TimestampTz born, KtClaim *claims);

/* A request that cannot be sent because of its own content becomes 'failed', if it is still queued. */
extern void kt_queue_reject(int64 id, const char *error);

/*
 * A request that cannot be claimed waits for a minute; if it is older, for as long as it is old, up to ten. The table
 * says why.
 */
extern void kt_queue_set_back(int64 id, const char *error);

/* NOTIFY kridtech_calls for those of the requests that are in a final state, unless kridtech.notify is off. */
extern void kt_queue_notify(const int64 *ids, int n);

/* How many requests became unknown in the last hour and still are, at most limit. */
extern int kt_queue_recent_unknown(int limit);

#endif /* KT_QUEUE_H */
