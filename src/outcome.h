/*
 * What the end of a request proves about the call it asked for: evidence in, outcome out.
 *
 * A pure function in plain C, so that every row of the table is unit-tested. It is the one place that
 * decides whether a request may ever be sent again: only what proves that nothing was applied may.
 */
#ifndef KT_OUTCOME_H
#define KT_OUTCOME_H

#include <stdbool.h>
#include <stdint.h>

/* The field "success" of an answer. */
typedef enum KtSuccess
{
	KT_SUCCESS_ABSENT,
	KT_SUCCESS_TRUE,
	KT_SUCCESS_FALSE,
	KT_SUCCESS_ODD /* another type, or given twice with different values */
} KtSuccess;

/* The field "callId" of an answer. */
typedef enum KtCallId
{
	KT_CALL_ID_ABSENT,
	KT_CALL_ID_CREDIBLE,     /* a printable string of 1 to KT_MAX_CALL_ID bytes */
	KT_CALL_ID_ODD,          /* another type, empty, too long, unprintable */
	KT_CALL_ID_CONTRADICTORY /* given twice with different values */
} KtCallId;

typedef struct KtEvidence
{
	bool places_call;     /* the endpoint creates something: what was sent may have been applied */
	bool transfer_failed; /* no whole answer arrived */
	bool unreadable;      /* and not for the network's sake: what came is too large, or no HTTP */
	int64_t bytes_sent;   /* of the request */
	int status;           /* HTTP; meaningful when the transfer did not fail */
	bool is_object;       /* the body is one JSON object */
	KtSuccess success;
	KtCallId call_id;    /* for endpoints that create */
	bool has_all_fields; /* the fields that make the answer usable beyond these are there */
} KtEvidence;

typedef enum KtOutcome
{
	KT_OUTCOME_OK,           /* the documented answer */
	KT_OUTCOME_OK_FLAGGED,   /* a callId, though "success" is missing or of another type */
	KT_OUTCOME_NOT_SENT,     /* no byte of the request left this machine */
	KT_OUTCOME_BAD_ARGUMENT, /* the API refuses the request's content: 400, 413, 422, 431 */
	KT_OUTCOME_BAD_ENDPOINT, /* no such endpoint there: 404, 405, 410, 415 */
	KT_OUTCOME_UNAUTHORIZED, /* 401, 403, 407 */
	KT_OUTCOME_NO_CREDITS,   /* 402 */
	KT_OUTCOME_RATE_LIMITED, /* 429 */
	KT_OUTCOME_DECLINED,     /* 2xx that says "success": false */
	KT_OUTCOME_LOST,         /* a read that got no whole answer */
	KT_OUTCOME_UNDOCUMENTED, /* a read that got an answer of another shape */
	KT_OUTCOME_UNKNOWN       /* something may have been created */
} KtOutcome;

extern KtOutcome kt_outcome_judge(const KtEvidence *evidence);

/* True when the outcome proves that the request created nothing. */
extern bool kt_outcome_nothing_applied(KtOutcome outcome);

/* What becomes of the call request. */
typedef enum KtNextState
{
	KT_NEXT_PLACED,
	KT_NEXT_FAILED,
	KT_NEXT_UNKNOWN,
	KT_NEXT_QUEUED
} KtNextState;

/* What it means for the account's other requests. */
typedef enum KtEffect
{
	KT_EFFECT_NONE,         /* the API works */
	KT_EFFECT_UNREACHABLE,  /* one more in a row that could not be sent: back-off, then a breaker */
	KT_EFFECT_UNAUTHORIZED, /* pause until the key file changes */
	KT_EFFECT_CREDITS,      /* pause, with a probe now and then */
	KT_EFFECT_RATE,         /* a gate for Retry-After */
	KT_EFFECT_ENDPOINT,     /* pause: base_url is wrong */
	KT_EFFECT_UNCLEAR       /* nothing is learnt about the account */
} KtEffect;

typedef struct KtDecision
{
	KtNextState state;
	KtEffect effect;
	bool uses_attempt; /* counts towards the limit of attempts */
} KtDecision;

/* The table of faults.md section 1 for a create-call: what an outcome with that HTTP status means. */
extern KtDecision kt_outcome_decide(KtOutcome outcome, int status);

/* One word for an attempt's record: "ok", "not sent", "no credits", ... */
extern const char *kt_outcome_word(KtOutcome outcome);

#endif /* KT_OUTCOME_H */
