/*
 * What every worker shares: signals, its slot, its connection, its pinned settings, its one wait.
 *
 * A worker's main calls kt_worker_signals(), kt_worker_attach() (one of a database) or kt_worker_attach_launcher(),
 * kt_worker_connect(), loops until kt_worker_stop, and ends with proc_exit(KT_EXIT_AGAIN).
 */
#ifndef KT_WORKER_H
#define KT_WORKER_H

#include <signal.h>

#include "postmaster/bgworker.h"
#include "shmem.h"

/* Set by SIGTERM; the worker's loop ends its work and returns. */
extern volatile sig_atomic_t kt_worker_stop;

/* Set by SIGHUP; kt_worker_reload() clears it. */
extern volatile sig_atomic_t kt_worker_reload_pending;

/* Names of bgw_type, as pg_stat_activity.backend_type shows them. */
#define KT_LAUNCHER_TYPE "kridtech launcher"
#define KT_DIALER_TYPE "kridtech dialer"
#define KT_RECEIVER_TYPE "kridtech receiver"

/* Exit codes: 0 would unregister a static worker for good, 1 brings it back. */
#define KT_EXIT_AGAIN 1

/*
 * How long a unit waits for a lock, in ms, as lock_timeout has it. Then it fails and is tried again later. Less than
 * deadlock_timeout is as a rule (1 s): see the pins in worker.c.
 */
#define KT_LOCK_TIMEOUT "900"

/* Signal handlers, then unblocks signals. */
extern void kt_worker_signals(void);

/*
 * Enters this process as the database's worker of that role in its slot, and takes it out at its exit,
 * however it ends; the launcher is woken then. Ends the process where another one like it runs.
 */
extern KtSlot *kt_worker_attach(Oid database, KtRole role);

/* A role's name for messages: "dialer". */
extern const char *kt_worker_role(KtRole role);

/* Enters this process as the launcher. */
extern void kt_worker_attach_launcher(void);

/*
 * Connects to a database (InvalidOid: none, shared catalogs only) as the bootstrap superuser, and pins
 * every setting that a database's or role's owner could turn against the worker.
 */
extern void kt_worker_connect(Oid database);

/* Puts back what was SET in this session since. kt_xact_run() calls it; throws nothing in practice. */
extern void kt_worker_pin(void);

/* Registers the launcher; from _PG_init() under shared_preload_libraries, never during pg_upgrade. */
extern void kt_worker_register_launcher(void);

/*
 * Starts a worker for a database, dynamically. False when no worker slot is free. *handle is palloc'd in
 * the current memory context. The caller's latch is set when the worker starts or ends.
 */
extern bool kt_worker_start(KtRole role, Oid database, const char *name,
                            BackgroundWorkerHandle **handle);

/* Rereads the configuration if SIGHUP asked for it; the pins stay. True when it did. */
extern bool kt_worker_reload(void);

/*
 * Waits for the latch, for fd to be readable (-1: no fd), or for a deadline on kt_http_now()'s clock (-1:
 * none); serves interrupts. Ends the process at once when the postmaster is dead. No transaction may be
 * open. True when the latch was set. wait_event, a string constant, is the name shown from PostgreSQL 17
 * on. fd is remembered: should it be closed, kt_worker_forget_fd() comes first.
 */
extern bool kt_worker_wait(int fd, int64 deadline, const char *wait_event);
extern void kt_worker_forget_fd(void);

#endif /* KT_WORKER_H */
