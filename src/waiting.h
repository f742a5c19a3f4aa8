/*
 * Deliveries that are not done with: from the moment a body is in whole until it is stored and answered.
 */
#ifndef KT_WAITING_H
#define KT_WAITING_H

#include <netinet/in.h>

#include "buf.h"
#include "httpd.h"
#include "lib/ilist.h"
#include "shmem.h"

typedef struct KtEntry
{
	dlist_node node;
	KtHttpdDelivery *delivery; /* NULL once it was answered */
	const char *body;          /* the delivery's, then held's */
	size_t len;
	KtBuf held;
	int64 arrived;                  /* on kt_http_now()'s clock */
	char address[INET6_ADDRSTRLEN]; /* of the client; "" when it is not known */
} KtEntry;

typedef struct KtWaiting
{
	MemoryContext context;
	KtSlot *slot;
	KtHttpd *httpd;
	dlist_head waiting;     /* to be stored, in the order in which they came */
	dlist_head unconfirmed; /* stored here, maybe not at the standbys; none is answered */
	int nwaiting;
	int nunconfirmed;
	int nheld; /* of those waiting: answered already, with 503 */
	size_t held_bytes;
	bool answered; /* something; for the owner to clear */
} KtWaiting;

/* Entries are made in that context. Counters go to the slot. */
extern void kt_waiting_init(KtWaiting *w, MemoryContext context, KtSlot *slot);

/* Takes what has come in whole. */
extern void kt_waiting_take(KtWaiting *w, KtHttpd *httpd);

/* It is stored, or to be forgotten: answers it with that status, unless it was answered before, and frees it. */
extern void kt_waiting_end(KtWaiting *w, KtEntry *entry, int status);

/* It is stored here: waits for a commit that is confirmed. It has no answer yet. */
extern void kt_waiting_hold_back(KtWaiting *w, KtEntry *entry);

/* Answers 200 to all that were held back. */
extern void kt_waiting_confirm(KtWaiting *w);

/* Puts one that could not be stored behind the others. */
extern void kt_waiting_put_last(KtWaiting *w, KtEntry *entry);

/*
 * Answers 503 to those that have waited for so long, in microseconds. What is not stored is held, as far as there
 * is room, and waits on.
 */
extern void kt_waiting_refuse(KtWaiting *w, int64 age);

/* When the first that has no answer came; -1: all have one. */
extern int64 kt_waiting_earliest(const KtWaiting *w);

/* How many connections can wait for one at a time; 0 before the first came. */
static inline int
kt_waiting_places(const KtWaiting *w)
{
	return w->httpd != NULL ? kt_httpd_places(w->httpd) : 0;
}

/* How many have no answer. */
static inline int
kt_waiting_unanswered(const KtWaiting *w)
{
	return w->nwaiting - w->nheld + w->nunconfirmed;
}

#endif /* KT_WAITING_H */
