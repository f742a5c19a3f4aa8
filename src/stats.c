/*
 * What monitoring draws curves of: the rows of the view stats; and the two functions that prod the workers.
 *
 * All of it is shared memory, which begins empty at a start and after a crash: counters, never the truth about a
 * call.
 */
#include "postgres.h"

#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "wake.h"

PG_FUNCTION_INFO_V1(kridtech_stats);
PG_FUNCTION_INFO_V1(kridtech_wake);
PG_FUNCTION_INFO_V1(kridtech_restart_workers);

/* ---- stats ---------------------------------------------------------------------------------------------- */

static const char *const counter_names[] = {
	[KT_COUNT_CLAIMED] = "attempts",
	[KT_COUNT_PLACED] = "placed",
	[KT_COUNT_FAILED] = "failed",
	[KT_COUNT_UNKNOWN] = "unknown",
	[KT_COUNT_REQUEUED] = "retries",
	[KT_COUNT_EXPIRED] = "expired",
	[KT_COUNT_CLAIM_BATCHES] = "claim_transactions",
	[KT_COUNT_RESULT_BATCHES] = "result_transactions",
	[KT_COUNT_RESULT_RETRIES] = "result_retries",
	[KT_COUNT_BYTES_SENT] = "bytes_sent",
	[KT_COUNT_BYTES_RECEIVED] = "bytes_received",
	[KT_COUNT_WAKES] = "loop_turns",
	[KT_COUNT_SYNC_POLLS] = "sync_polls",
	[KT_COUNT_SYNC_ROWS] = "sync_rows_changed",
	[KT_COUNT_SYNC_GAPS] = "sync_gaps",
	[KT_COUNT_SYNC_BOUND] = "sync_bound",
	[KT_COUNT_RETIRED] = "retention_removed",
	[KT_COUNT_RECORDINGS] = "recordings_fetched",
	[KT_COUNT_RECORDING_FAILURES] = "recording_failures",
	[KT_COUNT_RECORDING_BYTES] = "recording_bytes",
	[KT_COUNT_RECEIVED] = "webhook_received",
	[KT_COUNT_STORED] = "webhook_stored",
	[KT_COUNT_DUPLICATES] = "webhook_duplicates",
	[KT_COUNT_CONFLICTS] = "webhook_conflicts",
	[KT_COUNT_BAD] = "webhook_bad",
	[KT_COUNT_KEPT] = "webhook_kept",
	[KT_COUNT_REFUSED_503] = "webhook_refused_503",
	[KT_COUNT_STORED_LATE] = "webhook_stored_late",
	[KT_COUNT_DROPPED] = "webhook_dropped",
	[KT_COUNT_EVENT_BATCHES] = "webhook_batches",
	[KT_COUNT_EVENT_BYTES] = "webhook_bytes",
	[KT_COUNT_CUT_FOR_ROOM] = "webhook_connections_cut",
	[KT_COUNT_RECEIVER_WAKES] = "webhook_loop_turns",
};

StaticAssertDecl(lengthof(counter_names) == KT_NCOUNTERS, "every counter has a name");

typedef struct Figures
{
	double counters[KT_NCOUNTERS];
	double latency[KT_LATENCY_BUCKETS];
	double measured; /* the sum of latency */
	int in_flight;
	int connections;
	int kept;
	TimestampTz started_at;
} Figures;

static void
read_figures(Figures *figures, KtRole role)
{
	KtSlot *slot;
	int i;

	memset(figures, 0, sizeof(*figures));
	LWLockAcquire(kt_shared->lock, LW_SHARED);
	figures->started_at = kt_shared->started_at;
	slot = kt_shmem_find(MyDatabaseId, role);
	if (slot != NULL)
	{
		figures->in_flight = slot->in_flight;
		figures->connections = slot->connections;
		figures->kept = slot->kept;
		for (i = 0; i < KT_NCOUNTERS; i++)
			figures->counters[i] = (double) pg_atomic_read_u64(&slot->counters[i]);
		for (i = 0; i < KT_LATENCY_BUCKETS; i++)
			figures->latency[i] = (double) pg_atomic_read_u64(&slot->latency[i]);
	}
	LWLockRelease(kt_shared->lock);
	for (i = 0; i < KT_LATENCY_BUCKETS; i++)
		figures->measured += figures->latency[i];
}

/* Milliseconds below which that share of the requests lies, assuming a bucket to be filled evenly. */
static double
percentile(const Figures *figures, double share)
{
	double wanted = share * figures->measured;
	double low = 0;
	double high = 1;
	int i;

	for (i = 0; i < KT_LATENCY_BUCKETS; i++)
	{
		double n = figures->latency[i];

		if (n > 0 && wanted <= n)
			return (low + (high - low) * wanted / n) / 1000;
		wanted -= n;
		low = high;
		high *= 2;
	}
	return low / 1000;
}

/* A quotient, NULL where there is nothing to divide by. */
static void
put_stat(ReturnSetInfo *result, const char *name, double value, double divisor)
{
	Datum values[] = {CStringGetTextDatum(name), Float8GetDatum(divisor > 0 ? value / divisor : 0)};
	bool nulls[] = {false, divisor <= 0};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
put_latency(ReturnSetInfo *result, const char *prefix, const Figures *figures)
{
	static const int percent[] = {50, 90, 99};
	size_t i;

	for (i = 0; i < lengthof(percent); i++)
		put_stat(result, psprintf("%slatency_p%d_ms", prefix, percent[i]),
		         percentile(figures, percent[i] / 100.0), figures->measured > 0 ? 1 : 0);
}

static void
put_dialer(ReturnSetInfo *result)
{
	Figures figures;
	const double *n = figures.counters;
	int i;

	read_figures(&figures, KT_DIALER);
	put_stat(result, "seconds_since_start",
	         (double) (GetCurrentTimestamp() - figures.started_at) / USECS_PER_SEC, 1);
	put_stat(result, "in_flight", figures.in_flight, 1);
	for (i = 0; i < KT_NDIALER_COUNTERS; i++)
		put_stat(result, counter_names[i], n[i], 1);
	put_stat(result, "claim_batch_average", n[KT_COUNT_CLAIMED], n[KT_COUNT_CLAIM_BATCHES]);
	put_stat(result, "result_batch_average",
	         n[KT_COUNT_PLACED] + n[KT_COUNT_FAILED] + n[KT_COUNT_UNKNOWN] + n[KT_COUNT_REQUEUED],
	         n[KT_COUNT_RESULT_BATCHES]);
	put_latency(result, "", &figures);
}

static void
put_receiver(ReturnSetInfo *result)
{
	Figures figures;
	const double *n = figures.counters;
	int i;

	read_figures(&figures, KT_RECEIVER);
	put_stat(result, "webhook_connections", figures.connections, 1);
	put_stat(result, "webhook_waiting", figures.in_flight, 1);
	put_stat(result, "webhook_held", figures.kept, 1);
	for (i = KT_NDIALER_COUNTERS; i < KT_NCOUNTERS; i++)
		put_stat(result, counter_names[i], n[i], 1);
	put_stat(result, "webhook_batch_average",
	         n[KT_COUNT_STORED] + n[KT_COUNT_DUPLICATES] + n[KT_COUNT_CONFLICTS] + n[KT_COUNT_BAD] +
	             n[KT_COUNT_KEPT],
	         n[KT_COUNT_EVENT_BATCHES]);
	put_latency(result, "webhook_", &figures);
}

Datum
kridtech_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	kt_shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	put_dialer(result);
	put_receiver(result);
	return (Datum) 0;
}

/* ---- prodding ------------------------------------------------------------------------------------------- */

Datum
kridtech_wake(PG_FUNCTION_ARGS)
{
	kt_shmem_require();
	if (!kt_wake_now())
		ereport(NOTICE, (errmsg("no dialer runs for this database"),
		                 errhint("The view kridtech.health says why.")));
	PG_RETURN_VOID();
}

/*
 * A worker ends by itself when it sees the flag, and the launcher starts a new one; where none runs,
 * the launcher is woken to try at once what it would have tried later.
 */
Datum
kridtech_restart_workers(PG_FUNCTION_ARGS)
{
	bool any = false;
	int role;

	kt_shmem_require();
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	for (role = 0; role < KT_NROLES; role++)
	{
		KtSlot *slot = kt_shmem_find(MyDatabaseId, (KtRole) role);

		if (slot == NULL)
			continue;
		any = slot->restart = true;
		if (slot->latch != NULL)
			SetLatch(slot->latch);
	}
	if (kt_shared->launcher_latch != NULL)
		SetLatch(kt_shared->launcher_latch);
	LWLockRelease(kt_shared->lock);
	if (!any)
		ereport(NOTICE, (errmsg("no worker is kept for this database"),
		                 errhint("The view kridtech.health says why.")));
	PG_RETURN_VOID();
}
