/*
 * The only transactions of a worker: one guarded unit of work, begun and ended in one place.
 *
 * Only here does a worker's code throw and catch. Between two units no transaction is open, no lock
 * is held and no snapshot is kept, so that waiting on the network holds back nothing.
 */
#ifndef KT_XACT_H
#define KT_XACT_H

/* How a unit of work ended. */
typedef enum KtXactResult
{
	KT_XACT_DONE,   /* committed (and flushed) */
	KT_XACT_FAILED, /* rolled back; the error was logged */
} KtXactResult;

typedef void (*KtXactWork)(void *argument);

/*
 * Runs work in a transaction of its own, with SPI connected and an active snapshot, shown as activity (a
 * string constant) in pg_stat_activity. An error is logged once, as an ERROR, and rolls back; a query
 * cancel is one such error, and so is a lock that is not had within KT_LOCK_TIMEOUT of worker.h. error,
 * unless NULL, gets the message (at most size bytes), sqlstate the code, 0 when done. What work keeps
 * must not be in CurrentMemoryContext, which ends with the transaction.
 *
 * After SIGTERM a unit has little time: one that runs is cancelled once it is a second old, one begun
 * afterwards (the drain) after half a second. It fails like any other, and nothing of it was done.
 */
extern KtXactResult kt_xact_run(const char *activity, KtXactWork work, void *argument,
                                int *sqlstate, char *error, size_t size);

/*
 * The next unit, and it alone, is cancelled when it is so old, in ms. Cancelled in what it runs it fails like any
 * other; cancelled in its commit, while that waits for a synchronous standby, it is committed here all the same.
 * Cancelled in what kt_xact_try() runs, the rest of it has a third as long, and is cancelled then.
 */
extern void kt_xact_limit(int ms);

/*
 * Whether the last unit, which was KT_XACT_DONE, may not have reached the synchronous standbys that were to
 * confirm it: something cancelled it. It is on this server's disk.
 */
extern bool kt_xact_is_unconfirmed(void);

/*
 * Within a unit, and with SPI connected there, or within a caller's transaction: runs work so that an
 * error takes back what work did and no more. In a unit, what is deferred is brought forward to work's end,
 * so that it fails there and not at the commit. False when it failed, with the code in *sqlstate and the
 * message, palloc'd, in *message; nothing is logged. A cancel of the caller's is thrown on.
 */
extern bool kt_xact_try(KtXactWork work, void *argument, int *sqlstate, char **message);

/* For a unit whose loss in a crash does no harm: its commit is not waited for. Called by its work. */
extern void kt_xact_may_be_lost(void);

/* True while a unit runs: a worker asserts that it does not wait then. */
extern bool kt_xact_is_open(void);

/* For signal handlers: cancels the unit that runs, if one does; and only once it has had its time. */
extern void kt_xact_cancel(void);
extern void kt_xact_hurry(void);

/* True for failures that have nothing to do with the rows: a lock, a cancel, a full disk, serialization. */
extern bool kt_xact_is_passing(int sqlstate);

#endif /* KT_XACT_H */
