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

/* What a worker of a database does. */
typedef enum KtRole
{
	KT_DIALER,
	KT_RECEIVER,
	KT_NROLES
} KtRole;

#define KT_MAX_SLOTS (KT_MAX_DATABASES * KT_NROLES)

/* A worker's own words on what it does or why it does not, for the view health. */
#define KT_MAX_STATUS 200

/*
 * Counters of a database's workers since the server's start, in the order of the view stats: the dialer's,
 * then the receiver's. Each counts in its own slot.
 */
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
	KT_COUNT_SYNC_POLLS,         /* lists read */
	KT_COUNT_SYNC_ROWS,          /* of the mirror, added or changed */
	KT_COUNT_SYNC_GAPS,          /* more than 100 calls passed between two polls */
	KT_COUNT_SYNC_BOUND,         /* unknown requests that found their call in a list */
	KT_COUNT_RETIRED,            /* rows removed by kridtech.retention */
	KT_COUNT_RECORDINGS,         /* fetched */
	KT_COUNT_RECORDING_FAILURES, /* attempts that came to nothing */
	KT_COUNT_RECORDING_BYTES,    /* of those fetched */
	KT_NDIALER_COUNTERS,

	KT_COUNT_RECEIVED = KT_NDIALER_COUNTERS, /* deliveries whose body came whole */
	KT_COUNT_STORED,                         /* events new in the table */
	KT_COUNT_DUPLICATES,
	KT_COUNT_CONFLICTS,
	KT_COUNT_BAD,  /* bodies that are no webhook */
	KT_COUNT_KEPT, /* into the inbox because they could not become events */
	KT_COUNT_REFUSED_503,
	KT_COUNT_STORED_LATE, /* of those */
	KT_COUNT_DROPPED,     /* of those, given up */
	KT_COUNT_EVENT_BATCHES,
	KT_COUNT_EVENT_BYTES,
	KT_COUNT_CUT_FOR_ROOM, /* connections */
	KT_COUNT_RECEIVER_WAKES,
	KT_NCOUNTERS
} KtCounter;

/*
 * Latencies: a dialer's from sending to the whole answer, a receiver's from a delivery's last byte to its
 * answer. Bucket i counts those below 2^i microseconds.
 */
#define KT_LATENCY_BUCKETS 40

typedef struct KtSlot
{
	Oid database; /* InvalidOid: the slot is free */
	KtRole role;
	pid_t pid;    /* 0: none runs */
	Latch *latch; /* the worker's, in its PGPROC; NULL when none runs */
	int64 epoch;  /* the dialer's run, 0 before it has one */
	int in_flight; /* the dialer's requests on the network, the receiver's deliveries not yet answered */
	bool ok;       /* the worker can do its work */
	char status[KT_MAX_STATUS];
	TimestampTz since; /* when status became what it is */
	bool sync_ok;      /* the polling of the list works */
	char sync_status[KT_MAX_STATUS];
	TimestampTz sync_since; /* when sync_ok became what it is */
	TimestampTz fetch_at;   /* when the dialer last got on with a recording, 0: not yet */
	bool woken;             /* something was queued, or let go, since the dialer last noticed */
	bool urgent;  /* something of a higher priority than 0 was queued since the last look */
	bool restart; /* kridtech_restart_workers() asks it to end */

	/* The receiver's alone. */
	int connections;
	int kept;                 /* deliveries refused with 503, to be stored yet */
	bool tls;                 /* it serves with a certificate */
	int64 certificate_end;    /* of that, Unix time */
	TimestampTz last_webhook; /* when one was answered with 200, 0: none yet */

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
	KtSlot slots[KT_MAX_SLOTS];
} KtShared;

/* NULL when the library was not loaded by shared_preload_libraries. */
extern KtShared *kt_shared;

/* Installs the hooks; called from _PG_init() under shared_preload_libraries only. */
extern void kt_shmem_install(void);

/* The slot of a database's worker, or NULL. The caller holds the lock. */
extern KtSlot *kt_shmem_find(Oid database, KtRole role);

/* The same, made if need be; NULL when all are taken. The caller holds the lock exclusively. */
extern KtSlot *kt_shmem_claim(Oid database, KtRole role);

/* Gives back a slot whose worker has ended. The caller holds the lock exclusively. */
extern void kt_shmem_free(KtSlot *slot);

/* Throws 55000 with a HINT that names shared_preload_libraries, unless the library was preloaded. */
extern void kt_shmem_require(void);

/* Sets a slot's status and whether its worker can work; keeps since while both stay the same. Locks. */
extern void kt_shmem_report(KtSlot *slot, bool ok, const char *status);

/* The same for the polling of the list; since is kept while ok stays the same. */
extern void kt_shmem_report_sync(KtSlot *slot, bool ok, const char *status);

/* The same for the launcher. True when something changed. */
extern bool kt_shmem_report_launcher(bool ok, const char *status);

/* Looks at the wall clock, and returns since when it has not been set. Locks. */
extern TimestampTz kt_shmem_watch_clock(void);

/* The dialer has got on with a recording, now. Locks. */
extern void kt_shmem_report_fetch(KtSlot *slot);

static inline void
kt_count(KtSlot *slot, KtCounter counter, uint64 n)
{
	pg_atomic_fetch_add_u64(&slot->counters[counter], (int64) n);
}

static inline void
kt_count_latency(KtSlot *slot, int64 us)
{
	int bucket = 0;

	while (bucket < KT_LATENCY_BUCKETS - 1 && us >= INT64CONST(1) << bucket)
		bucket++;
	pg_atomic_fetch_add_u64(&slot->latency[bucket], 1);
}

#endif /* KT_SHMEM_H */
