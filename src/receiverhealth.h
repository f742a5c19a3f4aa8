/*
 * The receiver's row of the view health.
 */
#ifndef KT_RECEIVERHEALTH_H
#define KT_RECEIVERHEALTH_H

#include "datatype/timestamp.h"

typedef struct KtReceiverHealth
{
	bool applies; /* false: no receiver is wanted here */
	bool ok;
	char *detail;      /* palloc'd */
	TimestampTz since; /* 0: not known */
} KtReceiverHealth;

/* For the current database, in any backend. */
extern void kt_receiver_health(KtReceiverHealth *health);

#endif /* KT_RECEIVERHEALTH_H */
