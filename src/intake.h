/*
 * Deliveries between the HTTP server and the tables: stored in batches, answered in time.
 */
#ifndef KT_INTAKE_H
#define KT_INTAKE_H

#include "httpd.h"
#include "shmem.h"

typedef struct KtIntake KtIntake;

/* For the worker's life, in that context. Counters go to the slot. */
extern KtIntake *kt_intake_make(MemoryContext context, KtSlot *slot);

/* Takes what has come in whole. */
extern void kt_intake_take(KtIntake *intake, KtHttpd *httpd);

/*
 * Stores what is due and answers it, or answers 503 for what is late. stores: whether the tables are there;
 * without them the time passes until the 503. What it allocates goes into the current memory context. True
 * when it gave answers.
 */
extern bool kt_intake_work(KtIntake *intake, bool stores);

/*
 * How long something else may take now, in ms, so that no delivery loses the time that storing it may need: that at
 * most; 0: it has to wait.
 */
extern int kt_intake_spare(const KtIntake *intake, int most);

/* Sends the notifications that kt_intake_work() has earned, in a unit of its own, when there is time for it. */
extern void kt_intake_notify(KtIntake *intake);

/* When kt_intake_work() has to be called at the latest; -1: not before something comes in. */
extern int64 kt_intake_deadline(const KtIntake *intake, bool stores);

/* Deliveries that were not answered yet. */
extern int kt_intake_unanswered(const KtIntake *intake);

/* Deliveries that were answered with 503 and are to be stored yet. */
extern int kt_intake_held(const KtIntake *intake);

/* Why nothing can be stored just now, or NULL. */
extern const char *kt_intake_trouble(const KtIntake *intake);

/* True, once, after an event came in that names a request which waits for its callId. */
extern bool kt_intake_binds(KtIntake *intake);

/*
 * The server is going: what still waits for an answer gets its 503 (nothing of it was stored), and what is
 * held one last try, as long as that goes well and quickly.
 */
extern void kt_intake_end(KtIntake *intake);

#endif /* KT_INTAKE_H */
