/*
 * Waking this database's dialer when, and only when, the transaction that queued something commits.
 *
 * The wake is a hint, the table is the truth: a lost one costs at most the dialer's slow poll (1 s).
 */
#ifndef KT_WAKE_H
#define KT_WAKE_H

/*
 * Asks for a wake at the commit of the current transaction (not at its abort, not at PREPARE; a
 * savepoint's rollback may leave a needless wake). urgent: something has a priority above 0. Cheap when
 * called for every row.
 */
extern void kt_wake_at_commit(bool urgent);

/* Wakes this database's dialer now. False when none runs. */
extern bool kt_wake_now(void);

/* Rows this transaction has queued so far, for kridtech.max_queued_per_transaction. */
extern void kt_wake_count_queued(int64 n);
extern int64 kt_wake_queued(void);

#endif /* KT_WAKE_H */
