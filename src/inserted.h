/*
 * Which deliveries the rows belong to that an INSERT of events has returned.
 */
#ifndef KT_INSERTED_H
#define KT_INSERTED_H

#include "newevent.h"

/* A row that the INSERT returned: call_id, verified_by, request_id. */
typedef struct KtInserted
{
	char *call_id;
	char *verified_by; /* or NULL */
	int64 request_id;
	int item; /* whose event it is; -1: unknown */
} KtInserted;

/* The rows of the INSERT of those items that has just been run; palloc'd. */
extern KtInserted *kt_inserted_read(KtNewEvent **items, int n, int rows);

#endif /* KT_INSERTED_H */
