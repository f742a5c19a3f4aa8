/*
 * Which accounts may be dialled now: the dialer's view of kridtech.pauses, of the key files, and of how
 * the last requests went.
 */
#ifndef KT_GATE_H
#define KT_GATE_H

#include "outcome.h"

typedef struct KtGate
{
	char
		*account_id; /* '' : no account is given and there is no default; NULL: the place is free */
	char *key;       /* NULL while it cannot be had */
	char *stamp;     /* of the key file; changes with it */
	char *closed;    /* why no request may be sent, or NULL: open */
	bool may_probe;  /* closed, but one request may go to see whether the cause is gone */
	bool has_pause;  /* an automatic pause is recorded: success must end it */
	int64 shut_until; /* on kt_http_now()'s clock: a pause is still to be recorded */
	int in_flight;
	int failures; /* in a row that could not be sent, or were refused by rate */

	bool looked_at; /* at its key, at least once */
	uint32 hash;    /* of the account_id */
	int64 used_at;  /* when it was last asked for */
} KtGate;

typedef struct KtGates
{
	MemoryContext context; /* holds everything below */
	KtGate *gates;
	int n;           /* places in use, or between such */
	int size;        /* places there are */
	bool all_closed; /* kridtech_pause() for all accounts */
	int64 end_at;    /* a pause could not be ended: none is before this, on kt_http_now()'s clock */
} KtGates;

extern void kt_gate_init(KtGates *gates, MemoryContext context);

/* The index of an account's gate, made if need be. It stays that until the next kt_gate_forget_unused(). */
extern int kt_gate_find(KtGates *gates, const char *account_id);

/*
 * Forgets the gates, and keys, that nobody has asked for a while, so that there are no more of them than accounts in
 * use. Not those of requests in the air; nor, since each look at the pauses asks for them, of paused accounts.
 */
extern void kt_gate_forget_unused(KtGates *gates);

/*
 * Reads the pauses and the key files anew. Pauses that are over (by time, by a new key file, by another
 * base URL) are deleted; one that cannot be, by a user's trigger say, stands, and stops no other account. In a unit
 * of work.
 */
extern void kt_gate_refresh(KtGates *gates);

/* How many requests may be sent for it now, at most want: none, one (a probe), or all. */
extern int kt_gate_allow(const KtGate *gate, int want);

/* Whether an attempt's end shuts the account's gate. */
extern bool kt_gate_shuts(KtEffect effect);

/* A probe was sent: the next one only after a while. Waits for no lock. In a unit of work. */
extern void kt_gate_probed(KtGate *gate);

/* What an attempt's end means for the account. retry_after in seconds, negative: none. In a unit of work. */
extern void kt_gate_learn(KtGate *gate, KtEffect effect, int64 retry_after, const char *reason);

/* An answer held a callId that belongs to another request: nothing is sent until a human looks. */
extern void kt_gate_conflict(KtGate *gate, const char *reason);

#endif /* KT_GATE_H */
