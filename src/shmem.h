/*
 * The shared memory of the workers: who runs where, their counters, and how to wake them.
 *
 * Nothing in here is the truth about a call: the tables are. After a crash it begins empty.
 */
#ifndef KT_SHMEM_H
#define KT_SHMEM_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

/* Databases that may have workers at the same time; kridtech.databases names a handful. */
#define KT_MAX_DATABASES 32

/* A worker's own words on what it does or why it does not, for the view health. */
#define KT_MAX_STATUS 200

/* Counters of a database's dialer since the server's start, in the order of the view stats. */
typedef enum KtCounter
{
	KT_COUNT_CLAIMED, /* attempts begun */
	KT_COUNT_PLACED,
	KT_COUNT_FAILED,
	KT_COUNT_UNKNOWN,
	KT_COUNT_REQUEUED, /* back to queued on proof that nothing was applied */
	KT_COUNT_EXPIRED,
	KT_COUNT_CLAIM_BATCHES,  /* transactions that claimed something */
	KT_COUNT_RESULT_BATCHES, /* transactions that recorded something */
	KT_COUNT_RESULT_RETRIES, /* results that could not be recorded at the first try */
	KT_COUNT_BYTES_SENT,
	KT_COUNT_BYTES_RECEIVED,
	KT_COUNT_WAKES,              /* turns of the loop */
	KT_COUNT_RECORDINGS,         /* fetched */
	KT_COUNT_RECORDING_FAILURES, /* attempts that came to nothing */
	KT_COUNT_RECORDING_BYTES,    /* of those fetched */
	KT_NCOUNTERS
} KtCounter;

/* Request latencies, from sending to the whole answer: bucket i counts those below 2^i microseconds. */
#define KT_LATENCY_BUCKETS 40

typedef struct KtSlot
{
	Oid database;  /* InvalidOid: the slot is free */
	pid_t pid;     /* 0: no dialer runs */
	Latch *latch;  /* the dialer's, in its PGPROC; NULL when none runs */
	int64 epoch;   /* the dialer's run, 0 before it has one */
	int in_flight; /* requests on the network */
	bool ok;       /* the dialer can place calls */
	char status[KT_MAX_STATUS];
	TimestampTz since; /* when status became what it is */
	bool urgent;       /* something of a higher priority than 0 was queued since the last look */
	bool restart;      /* kridtech_restart_workers() asks it to end */
	pg_atomic_uint64 counters[KT_NCOUNTERS];
	pg_atomic_uint64 latency[KT_LATENCY_BUCKETS];
} KtSlot;

typedef struct KtShared
{
	LWLock *lock; /* everything but the atomics */
	pid_t launcher_pid;
	Latch *launcher_latch;
	bool launcher_ok;
	char launcher_status[KT_MAX_STATUS]; /* such as: too few worker slots */
	TimestampTz launcher_since;
	TimestampTz started_at;
	KtSlot slots[KT_MAX_DATABASES];
} KtShared;

/* NULL when the library was not loaded by shared_preload_libraries. */
extern KtShared *kt_shared;

/* Installs the hooks; called from _PG_init() under shared_preload_libraries only. */
extern void kt_shmem_install(void);

/* The slot of a database, or NULL. The caller holds the lock. */
extern KtSlot *kt_shmem_find(Oid database);

/* The slot of a database, made if need be; NULL when all are taken. The caller holds the lock exclusively. */
extern KtSlot *kt_shmem_claim(Oid database);

/* Gives back a slot whose dialer has ended. The caller holds the lock exclusively. */
extern void kt_shmem_free(KtSlot *slot);

/* Throws 55000 with a HINT that names shared_preload_libraries, unless the library was preloaded. */
extern void kt_shmem_require(void);

/* Sets a slot's status and whether it can place calls; keeps since while both stay the same. Locks. */
extern void kt_shmem_report(KtSlot *slot, bool ok, const char *status);

/* The same for the launcher. True when something changed. */
extern bool kt_shmem_report_launcher(bool ok, const char *status);

static inline void
kt_count(KtSlot *slot, KtCounter counter, uint64 n)
{
	pg_atomic_fetch_add_u64(&slot->counters[counter], (int64) n);
}

#endif /* KT_SHMEM_H */
