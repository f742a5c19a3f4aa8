/*
 * The polling of GET /api/calls in the dialer's process: the mirror, the verification of events, the
 * reconciliation of unknown requests.
 */
#ifndef KT_SYNC_H
#define KT_SYNC_H

#include "flight.h"

typedef struct KtSync KtSync;

/* Polls over air's network, as far as gates let it. */
extern KtSync *kt_sync_create(MemoryContext context, KtSlot *slot, KtAir *air, KtGates *gates);

/* Does what is due: stores what lists have brought, asks for the next ones. Outside a unit of work. */
extern void kt_sync_work(KtSync *sync);

/* When kt_sync_work() is to be called at the latest, on kt_http_now()'s clock; -1: no deadline. */
extern int64 kt_sync_deadline(const KtSync *sync);

/* Gives up what is on the network. */
extern void kt_sync_stop(KtSync *sync);

#endif /* KT_SYNC_H */
