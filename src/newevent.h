/*
 * A webhook as the parameters of the INSERT that makes an event of it.
 */
#ifndef KT_NEWEVENT_H
#define KT_NEWEVENT_H

#include "events.h"
#include "statement.h"

/* In the order of the statement's. */
typedef enum KtEventParameter
{
	KT_P_CALL_ID,
	KT_P_STATUS,
	KT_P_DURATION_MS,
	KT_P_TRANSCRIPT,
	KT_P_RECORDING_URL,
	KT_P_DYNAMIC_VARIABLES,
	KT_P_VARIABLES,
	KT_P_RAW,
	KT_P_REMOTE_ADDR,
	KT_P_DELIVERIES,
	KT_P_RECEIVED_AT,
	KT_P_REF,
	KT_P_NAMED, /* the request that the ref names */
	KT_NPARAMETERS
} KtEventParameter;

extern const Oid kt_event_types[KT_NPARAMETERS];

/* A delivery that is to become an event, and what came of it. */
typedef struct KtNewEvent
{
	const KtWebhook *webhook;
	int deliveries;
	TimestampTz received_at;
	char *call_id; /* in the database's encoding */
	KtStoredAs as; /* KT_STORED_KEPT: it did not become one, for no reason of its own */
	bool binds;
	KtParameter parameters[KT_NPARAMETERS];
} KtNewEvent;

/* Sets call_id and parameters from the other members; palloc'd. No webhook without a fault makes it throw. */
extern void kt_newevent_fill(KtNewEvent *event);

/* One parameter of them all, as an array. */
extern Datum kt_newevent_array(KtNewEvent **events, int n, KtEventParameter column);

#endif /* KT_NEWEVENT_H */
