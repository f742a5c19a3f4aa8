/*
 * The requests in the air: on the network, or landed with a result that is not recorded yet.
 *
 * A flight begins with a claim, is sent once, lands with a result, and ends when the result is recorded.
 * Nothing here touches a table.
 */
#ifndef KT_FLIGHT_H
#define KT_FLIGHT_H

#include "gate.h"
#include "http.h"
#include "queue.h"
#include "queueresults.h"
#include "shmem.h"

typedef struct KtFlight
{
	bool taken;
	bool landed;    /* result holds how it ended */
	bool alone;     /* its result failed to be recorded: it is tried alone ... */
	int64 retry_at; /* ... and not before this, on kt_http_now()'s clock */
	int failures;   /* to record it */
	bool conflict;  /* its callId belongs to another request */

	int64 id;
	int attempts;             /* this one counted */
	int gate;                 /* index of its account's gate, -1: none yet */
	char *key;                /* what it was sent with: the gate's may be another one by now */
	char *stamp;              /* of that key's file, or NULL */
	char *base_url;           /* where it was sent: the setting may be another one by now */
	KtHttpRequest http;       /* until it is sent */
	int64 bytes;              /* of its body */
	KtHttpTransfer *transfer; /* while it is on the network */

	KtResult result; /* UTF-8, in the flight's context */
	KtEffect effect;
	int64 retry_after; /* seconds, negative: none */
	MemoryContext context;
} KtFlight;

typedef struct KtAir
{
	MemoryContext context;
	KtSlot *slot;   /* counters */
	KtGates *gates; /* whose in_flight is kept here */
	KtHttp *http;
	KtFlight *flights;
	int size;         /* how many of them have ever been allowed */
	int taken;        /* flights begun and not ended */
	int landed;       /* of these, those that have landed */
	int64 bytes;      /* of the bodies that are in the air */
	int64 latency_us; /* of the last answers, smoothed */
} KtAir;

/*
 * Somebody else's transfer on the same network, given to kt_http_submit() as its owner: kt_air_collect() tells
 * when it has ended, and gives it back afterwards.
 */
typedef struct KtGuest
{
	void (*land)(struct KtGuest *guest, const KtHttpAnswer *answer);
} KtGuest;

extern void kt_air_init(KtAir *air, MemoryContext context, KtSlot *slot, KtGates *gates);

/* Makes room for so many flights. What is in the air stays there when the number is lowered. */
extern void kt_air_resize(KtAir *air, int size);

/* How many more flights may begin. */
extern int kt_air_free_places(const KtAir *air);

/* How many flights one turn should deal with at most. */
extern int kt_air_batch(const KtAir *air);

/*
 * Leaves those of n requests that have no flight in the air, in their order, and returns how many. One that has is not
 * claimed, whatever somebody has written into its row: the results of the two flights could not be told apart, and that
 * of the first could send it a third time.
 */
extern int kt_air_without_flying(const KtAir *air, int64 *ids, int n);

/* Makes a flight of a claim, its request ready to be sent. Throws what kt_api_build() throws. */
extern KtFlight *kt_air_board(KtAir *air, const KtClaim *claim);

/* Hands a boarded flight to the network: once. One that cannot even begin lands at once. */
extern void kt_air_send(KtAir *air, KtFlight *flight);

/* Lands a boarded flight that is not to be sent: its request is queued again. why is a constant. */
extern void kt_air_keep_back(KtAir *air, KtFlight *flight, const char *why);

/* Lands what has ended on the network. Returns without waiting. */
extern void kt_air_collect(KtAir *air);

/* Gives up whatever has not landed, which lands it: unsent is proven, the rest unknown. */
extern void kt_air_give_up(KtAir *air, const char *why);

/*
 * Whether it was refused with a key that is no longer its account's, or went to another base URL than is set now: that
 * says nothing of the new one.
 */
extern bool kt_air_is_outdated(const KtAir *air, const KtFlight *flight);

/* The result of a landed flight is unknown instead: its callId belongs to another request. */
extern void kt_air_doubt(KtAir *air, KtFlight *flight);

/* Ends a flight, whatever became of it. */
extern void kt_air_end(KtAir *air, KtFlight *flight);

#endif /* KT_FLIGHT_H */
