/*
 * Which listed call, if any, is the one that an attempt with a lost answer has placed? Pure functions.
 *
 * All times are microseconds of a wall clock, of any epoch: the attempts' ours, the calls' the API's.
 */
#ifndef KT_MATCH_H
#define KT_MATCH_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A call may seem to be created so long before its attempt began, since the API may cut its times to seconds
 * and its clock is known to a second only; and so long after the attempt ended, since a server may go on
 * working on a request whose client has gone.
 */
#define KT_MATCH_EARLY_US INT64_C(2000000)
#define KT_MATCH_LATE_US INT64_C(5000000)

/* Beyond this uncertainty about the API's clock nothing is concluded. */
#define KT_MATCH_VAGUE_US INT64_C(5000000)

/* A call that the API has listed. Text that is missing is NULL. */
typedef struct KtMatchCall
{
	const char *call_id;
	const char *number; /* as listed, in whatever form */
	const char *account_id;
	const char *direction;
	bool has_created;
	int64_t created_at;
	bool listed;     /* in this list; otherwise in an earlier one */
	bool bound;      /* it belongs to another request */
	bool has_event;  /* its webhook has come, and told the call's variables ... */
	const char *ref; /* ... this kridtech_ref among them; NULL: none */
} KtMatchCall;

typedef struct KtMatchList
{
	const KtMatchCall *calls; /* those of the list first, in its order */
	int ncalls;
	bool whole;  /* asked for without a filter, and it holds every call there is */
	bool shared; /* asked for with a key that may be another account's: a call must name its own */
	int64_t read_at; /* our clock when it was asked for */
	/* The API's clock minus ours lies between these; has_skew is false when there was no Date header. */
	bool has_skew;
	int64_t skew_low;
	int64_t skew_high;
} KtMatchList;

/* An attempt that may have placed a call which is not bound yet. */
typedef struct KtMatchAttempt
{
	int64_t id;
	const char *number; /* E.164 */
	const char *account_id;
	int64_t started_at;
	int64_t ended_at; /* INT64_MAX: it has not ended */
	const char *ref;  /* the kridtech_ref it sent along, NULL: none */
	bool unknown;     /* its request waits for its call; otherwise it only stands in others' way */
} KtMatchAttempt;

typedef struct KtMatchRules
{
	int64_t settle;  /* an attempt's call exists, and is listed, so long after the attempt's end */
	int64_t longest; /* a request is given up by then; an end that is recorded later says nothing */
} KtMatchRules;

typedef enum KtMatchVerdict
{
	KT_MATCH_TOO_SOON,  /* the list was asked for before the attempt has settled */
	KT_MATCH_UNCOVERED, /* the list need not hold every call of the time */
	KT_MATCH_RIVALS, /* another attempt at that number, of that time, may have placed what is listed */
	KT_MATCH_UNCLEAR, /* a call may or may not be to that number, of that time */
	KT_MATCH_NONE,    /* no call to that number */
	KT_MATCH_SEVERAL,
	KT_MATCH_OUTSIDE, /* one, but it was created well after the attempt, or is listed no more */
	KT_MATCH_ONE
} KtMatchVerdict;

/* Candidates that a verdict names at most. */
#define KT_MATCH_NAMED 5

typedef struct KtMatch
{
	KtMatchVerdict verdict;
	int candidates[KT_MATCH_NAMED]; /* indexes of calls */
	int ncandidates;                /* how many of these; with KT_MATCH_ONE, one */
} KtMatch;

/* The zone, by our clock: a call that the attempt has placed was created between these. */
extern void kt_match_zone(const KtMatchAttempt *attempt, const KtMatchRules *rules, int64_t *from,
                          int64_t *to);

/* What the list says about attempts[which], among all that may have placed an unbound call. */
extern KtMatch kt_match_judge(const KtMatchList *list, const KtMatchAttempt *attempts,
                              int nattempts, int which, const KtMatchRules *rules);

/* "one call", "several calls": the verdict for a human. */
extern const char *kt_match_words(KtMatchVerdict verdict);

/* Whether the list proves to hold every call created at that time (the API's clock) or later. */
extern bool kt_match_covers(const KtMatchList *list, int64_t since);

#endif /* KT_MATCH_H */
