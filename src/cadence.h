/*
 * How often an account's list of calls is read. Times in microseconds on kt_http_now()'s clock.
 */
#ifndef KT_CADENCE_H
#define KT_CADENCE_H

#include <stdbool.h>
#include <stdint.h>

/* What waits for the list. */
typedef enum KtUrgency
{
	KT_NOTHING_AWAITED,
	KT_END_AWAITED, /* the end of a call */
	KT_ANSWER_LOST  /* evidence about an unknown request */
} KtUrgency;

typedef struct KtCadenceRules
{
	int64_t interval; /* the ordinary one */
	int64_t lost;     /* while an answer is lost */
} KtCadenceRules;

/* One account's; all zero at first. */
typedef struct KtCadence
{
	KtUrgency urgency; /* the caller's to set */
	int failures;      /* in a row */
	int64_t rested_at; /* when the last list was stored, or failed; 0: none was */
	int64_t asked_at;  /* when the last list of all calls was stored; 0: none was */
	int64_t retry_at;  /* after a failure */
	int64_t busy;      /* the interval that the traffic demands; 0: none */
	int idle;          /* how often the interval is doubled */
} KtCadence;

extern int64_t kt_cadence_interval(const KtCadence *cadence, const KtCadenceRules *rules);

/* When the next list is to be read; 0: now. */
extern int64_t kt_cadence_due(const KtCadence *cadence, const KtCadenceRules *rules);

/*
 * A list of all calls was stored. fresh of its calls were new, and with gap others have passed unseen; changed:
 * it brought something new at all.
 */
extern void kt_cadence_stored(KtCadence *cadence, const KtCadenceRules *rules, int64_t now,
                              int fresh, bool gap, bool changed);

/* A list failed. random: any 64 bits. */
extern void kt_cadence_failed(KtCadence *cadence, const KtCadenceRules *rules, int64_t now,
                              uint64_t random);

#endif /* KT_CADENCE_H */
