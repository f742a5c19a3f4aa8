/*
 * The receiver: the worker that takes webhooks over HTTP and HTTPS and makes rows of them.
 *
 * A turn of its loop lets the HTTP server move its connections, stores all deliveries that have come in
 * whole as one batch (intake.c), answers them, and waits for whatever comes first: a connection, a latch, a
 * deadline. There is one thread, and nothing blocks in it but a unit of work, which has a time limit.
 *
 * When does it listen? Once it can serve: the extension is there, the token file and the certificate are fit. (In
 * another version than the library's it cannot store yet, but ALTER EXTENSION UPDATE may be a moment away: webhooks
 * wait for it.) Before, connections are refused, which the sender takes for what it is. From then on
 * they are not refused any more: the sockets are the postmaster's (listen.c), so over the end of this process,
 * however it ends, connections wait for the next one. They are shut again when a receiver starts and finds that
 * it cannot serve, or that a socket is not to be served (no TLS on an address that others can reach).
 *
 * What breaks while it serves (the extension is dropped, nothing can be stored) closes nothing. Deliveries
 * wait for it to be mended, and get their 503 in time.
 *
 * A change that a running server cannot follow (TLS turned on or off, other sockets) ends the process: the
 * launcher starts the next one at once.
 */
#include "postgres.h"

#include "receiver.h"

#include <sys/resource.h>

#include "events.h"
#include "fault.h"
#include "http.h"
#include "httpd.h"
#include "intake.h"
#include "listen.h"
#include "miscadmin.h"
#include "readiness.h"
#include "settings.h"
#include "shmem.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "upkeep.h"
#include "utils/memutils.h"
#include "weboptions.h"
#include "worker.h"
#include "xact.h"

#define SECONDS(n) ((int64) (n) *1000000)
#define MS(n) ((int64) (n) *1000)

/* How often it is asked whether the extension is still there; while something is wrong, and while nothing is. */
#define CHECK_AGAIN SECONDS(1)
#define CHECK_EVERY SECONDS(5)

/*
 * What a turn does beside receiving may take so long, in ms: with the steps of storing (intake.c), and the look at the
 * extension, that leaves time for the answer to a delivery that comes in when it has just begun.
 */
#define BESIDE_MS 3000
/* When what the tables hold is counted again, where that failed. */
#define COUNT_AGAIN SECONDS(60)

/* At the end: how long what has begun to come in is waited for, and after that how long answers may leave. */
#define DRAIN_US SECONDS(2)
#define FLUSH_US MS(300)

/* While deliveries keep coming, upkeep gets its turn this often. */
#define UPKEEP_EVERY SECONDS(1)

/* Descriptors beside the server's own files and the connections: epoll, logs, libraries. */
#define SPARE_DESCRIPTORS 64

typedef struct Receiver
{
	KtSlot *slot;
	MemoryContext turn; /* reset every turn */
	KtWebOptions options;
	KtHttpd *httpd; /* NULL: not listening */
	KtIntake *intake;
	KtUpkeep upkeep;

	Oid extension;     /* the one that can be worked with; InvalidOid: none */
	Oid counted;       /* the one whose tables were counted */
	NameData database; /* "" before it is known */
	bool usable;       /* the options are */
	bool tls;          /* the server has been made with it */
	bool ending;       /* to be started anew */
	const KtListener *served[KT_MAX_LISTENERS];
	int nserved;
	char problem[KT_MAX_STATUS]; /* of readiness or listening; "" */
	char logged[KT_MAX_STATUS];  /* the words in the log last */

	int64 check_at;  /* all on kt_http_now()'s clock */
	int64 count_at;  /* when the tables may be counted */
	int64 upkeep_at; /* when it has its turn whatever comes in */

	uint64 cut_for_room; /* connections of this httpd, as far as they are counted in slot */
} Receiver;

/* ---- sockets ------------------------------------------------------------------------------------------------- */

/* Which of the sockets are to be served, as the settings are now. */
static int
choose_sockets(const Receiver *r, const KtListener **chosen)
{
	bool tls = r->options.httpd.tls_cert != NULL;
	int n = 0;
	int i;

	for (i = 0; i < kt_listen_count(); i++)
	{
		const KtListener *listener = kt_listen_get(i);

		if (listener->fd >= 0 && (tls || listener->loopback) &&
		    kt_listen_is_for(listener, NameStr(r->database)))
			chosen[n++] = listener;
	}
	return n;
}

static bool
sockets_changed(const Receiver *r)
{
	const KtListener *chosen[KT_MAX_LISTENERS];
	int n = choose_sockets(r, chosen);
	bool changed = n != r->nserved;
	int i;

	for (i = 0; i < n && !changed; i++)
		changed = chosen[i] != r->served[i];
	return changed;
}

static bool
is_served(const Receiver *r, const KtListener *listener)
{
	int i;

	for (i = 0; i < r->nserved; i++)
		if (r->served[i] == listener)
			return true;
	return false;
}

/* Connections to this database's sockets that nobody serves are refused. */
static void
stop_unserved(const Receiver *r)
{
	int i;

	for (i = 0; i < kt_listen_count(); i++)
	{
		const KtListener *listener = kt_listen_get(i);

		if (kt_listen_is_for(listener, NameStr(r->database)) && !is_served(r, listener))
			kt_listen_stop(listener);
	}
}

/* ---- options ------------------------------------------------------------------------------------------------- */

/*
 * PostgreSQL opens as many files as it counted at the server's start; connections come on top of that. The soft
 * limit is raised for them as far as the hard one allows; fewer connections are taken where that is not enough.
 */
static void
provide_descriptors(KtHttpdOptions *options)
{
	rlim_t wanted = (rlim_t) options->max_connections + max_safe_fds + SPARE_DESCRIPTORS;
	struct rlimit limits;
	int most;

	if (getrlimit(RLIMIT_NOFILE, &limits) != 0 || limits.rlim_cur >= wanted)
		return;
	limits.rlim_cur = Min(wanted, limits.rlim_max);
	(void) setrlimit(RLIMIT_NOFILE, &limits);
	if (getrlimit(RLIMIT_NOFILE, &limits) != 0 || limits.rlim_cur >= wanted)
		return;
	most = (int) limits.rlim_cur - max_safe_fds - SPARE_DESCRIPTORS;
	ereport(LOG, (errmsg("kridtech receiver: takes %d connections at most, not %d: the process may "
	                     "not have more open files",
	                     Max(most, 1), options->max_connections)));
	options->max_connections = Max(most, 1);
}

static void
read_options(Receiver *r)
{
	r->usable = kt_weboptions_read(&r->options);
	provide_descriptors(&r->options.httpd);
}

static void
log_problem(Receiver *r, const char *words)
{
	if (strcmp(r->logged, words) == 0)
		return;
	strlcpy(r->logged, words, sizeof(r->logged));
	if (words[0] != '\0')
		ereport(WARNING, (errmsg("kridtech receiver: %s", words)));
}

/* The configuration was read again. What cannot be followed in place ends the process. */
static void
follow_settings(Receiver *r)
{
	char error[KT_MAX_STATUS];

	read_options(r);
	r->check_at = 0;
	if (r->httpd == NULL)
		return;
	if ((r->options.httpd.tls_cert != NULL) != r->tls || sockets_changed(r))
	{
		ereport(LOG, (errmsg("kridtech receiver: starts anew for other settings")));
		r->ending = true;
	}
	else if (r->usable && !kt_httpd_configure(r->httpd, &r->options.httpd, error, sizeof(error)))
		ereport(WARNING, (errmsg("kridtech receiver: serves as before: %s", error)));
}

/* ---- readiness ------------------------------------------------------------------------------------------------ */

static void
begin_work(void *argument)
{
	kt_events_begin();
}

/*
 * How much the tables hold, which bounds what they take. Whoever has locked one of them must not keep the receiver
 * from serving: without it there is no bound, and it is tried again.
 */
static void
take_stock(Receiver *r, int ms)
{
	r->count_at = kt_http_now() + COUNT_AGAIN;
	kt_xact_limit(ms);
	if (kt_xact_run("counting webhooks", begin_work, NULL, NULL, NULL, 0) == KT_XACT_DONE)
		r->counted = r->extension;
}

static void
take_extension(Receiver *r, Oid extension)
{
	if (r->extension == extension)
		return;
	r->extension = extension;
	r->count_at = 0;
	memset(&r->upkeep, 0, sizeof(r->upkeep));
}

/* Listens on what is to be served and makes the server for it. */
static void
open_server(Receiver *r)
{
	int sockets[KT_MAX_LISTENERS];
	int n = 0;
	int i;

	r->nserved = choose_sockets(r, r->served);
	for (i = 0; i < r->nserved; i++)
		if (kt_listen_start(r->served[i], r->problem, sizeof(r->problem)))
			sockets[n++] = r->served[i]->fd;
	if (n == 0)
	{
		if (r->nserved == 0)
			strlcpy(r->problem, "there is no address to listen on", sizeof(r->problem));
		return;
	}
	r->httpd = kt_httpd_create(&r->options.httpd, sockets, n, r->problem, sizeof(r->problem));
	r->tls = r->options.httpd.tls_cert != NULL;
}

/* Something was found wrong: the reason may be that the extension has gone. */
static void
check_soon(Receiver *r)
{
	r->check_at = Min(r->check_at, kt_http_now() + CHECK_AGAIN);
}

/* Can it work, and if it does not serve yet, can it now? */
static void
check(Receiver *r)
{
	Oid extension = InvalidOid;
	KtInstalled installed;
	bool there; /* if only in another version, which an ALTER EXTENSION UPDATE may end any moment */

	r->check_at = kt_http_now() + CHECK_EVERY;
	r->problem[0] = '\0';
	installed = kt_readiness_installed(&extension, &r->database, r->problem);
	there = installed != KT_INSTALLED_UNKNOWN && OidIsValid(extension);
	if (installed != KT_INSTALLED_UNKNOWN)
		take_extension(r, installed == KT_INSTALLED ? extension : InvalidOid);
	if (there && r->httpd == NULL)
	{
		if (!r->usable)
			read_options(r);
		if (r->usable)
			open_server(r);
	}
	if (installed != KT_INSTALLED_UNKNOWN && (r->httpd != NULL || !r->usable || !there))
		stop_unserved(r);
	if (r->problem[0] != '\0' || r->httpd == NULL)
		check_soon(r);
}

/* ---- reporting ------------------------------------------------------------------------------------------------ */

static void
report_numbers(Receiver *r)
{
	KtHttpdCounters counters = {0};

	if (r->httpd != NULL)
		kt_httpd_counters(r->httpd, &counters);
	if (counters.cut_for_room > r->cut_for_room)
		kt_count(r->slot, KT_COUNT_CUT_FOR_ROOM, counters.cut_for_room - r->cut_for_room);
	r->cut_for_room = counters.cut_for_room;
	LWLockAcquire(kt_shared->lock, LW_EXCLUSIVE);
	r->slot->connections = counters.connections;
	r->slot->in_flight = kt_intake_unanswered(r->intake);
	r->slot->kept = kt_intake_held(r->intake);
	r->slot->tls = r->httpd != NULL && r->tls;
	r->slot->certificate_end = r->slot->tls ? kt_httpd_certificate_end(r->httpd) : 0;
	LWLockRelease(kt_shared->lock);
}

/* What it does or why it does not, for the view health, the log and GET /healthz. */
static void
report(Receiver *r)
{
	const char *trouble = kt_intake_trouble(r->intake);
	const char *bounds = OidIsValid(r->extension) ? kt_events_problem() : NULL;
	const char *words = r->problem;
	bool works = r->httpd != NULL && OidIsValid(r->extension) && trouble == NULL;

	if (words[0] == '\0' && trouble != NULL)
		words = trouble;
	if (words[0] == '\0')
		words = r->options.problem;
	if (words[0] != '\0' || bounds == NULL)
		log_problem(r, words);
	else
	{
		/* how full changes all the time */
		log_problem(r, "the webhook tables come near their bounds: see kridtech.health");
		words = bounds;
	}
	if (trouble != NULL)
		check_soon(r);
	if (r->httpd != NULL)
		kt_httpd_set_healthy(r->httpd, works);
	kt_shmem_report(r->slot, works && words[0] == '\0', words[0] != '\0' ? words : "receiving");
	report_numbers(r);
}

/* ---- the loop's steps ------------------------------------------------------------------------------------------ */

/* Lets the server read and write, and takes what has come in. */
static void
step(Receiver *r)
{
	kt_httpd_step(r->httpd);
	kt_intake_take(r->intake, r->httpd);
}

/* One thing a turn, and none while a delivery needs the time. */
static void
keep_up(Receiver *r)
{
	int64 now = kt_http_now();
	int ms = kt_intake_spare(r->intake, BESIDE_MS);

	if (!OidIsValid(r->extension) || now < kt_upkeep_deadline(&r->upkeep) || ms == 0 ||
	    kt_intake_trouble(r->intake) != NULL ||
	    (kt_intake_unanswered(r->intake) > 0 && now < r->upkeep_at))
		return;
	r->upkeep_at = now + UPKEEP_EVERY;
	if (r->counted != r->extension && now >= r->count_at)
		take_stock(r, ms);
	else
		kt_upkeep_step(&r->upkeep, ms);
}

static void
serve(Receiver *r)
{
	step(r);
	if (kt_intake_work(r->intake, OidIsValid(r->extension)))
	{
		step(r); /* the answers leave */
		KT_FAULT("receive-sent");
	}
	kt_intake_notify(r->intake);
	if (kt_intake_binds(r->intake))
		kt_upkeep_bind(&r->upkeep);
	keep_up(r);
}

static int64
earlier(int64 a, int64 b)
{
	if (a < 0 || b < 0)
		return Max(a, b);
	return Min(a, b);
}

/* When something is to be done at the latest: the one place that knows every clock of the receiver. */
static int64
next_deadline(const Receiver *r)
{
	bool stores = OidIsValid(r->extension);
	int64 deadline = r->check_at;

	if (r->httpd == NULL)
		return deadline;
	deadline = earlier(deadline, kt_httpd_deadline(r->httpd));
	deadline = earlier(deadline, kt_intake_deadline(r->intake, stores));
	if (stores && kt_intake_trouble(r->intake) == NULL)
		deadline = earlier(deadline, kt_upkeep_deadline(&r->upkeep));
	return deadline;
}

static void
wait_until(Receiver *r, int64 deadline)
{
	if (kt_worker_wait(r->httpd != NULL ? kt_httpd_fd(r->httpd) : -1, deadline,
	                   "KridtechReceiver") &&
	    !OidIsValid(r->extension))
		r->check_at = 0;
	kt_count(r->slot, KT_COUNT_RECEIVER_WAKES, 1);
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

static bool
is_busy(const Receiver *r)
{
	return kt_httpd_busy(r->httpd) > 0 || kt_intake_unanswered(r->intake) > 0;
}

/*
 * Accepts nothing more: who is not accepted yet waits for the next receiver. What has begun to come in is waited
 * for a little, stored and answered.
 */
static void
drain(Receiver *r)
{
	int64 until = kt_http_now() + DRAIN_US;

	if (r->httpd == NULL)
		return;
	kt_httpd_quiesce(r->httpd);
	while (is_busy(r) && kt_http_now() < until)
	{
		MemoryContextReset(r->turn);
		step(r);
		if (kt_intake_work(r->intake, OidIsValid(r->extension)))
			step(r);
		if (is_busy(r))
			wait_until(r, earlier(until, kt_httpd_deadline(r->httpd)));
	}
	kt_intake_end(r->intake);
	kt_intake_notify(r->intake);
	kt_httpd_step(r->httpd);
	until = kt_http_now() + FLUSH_US;
	while (kt_httpd_leaving(r->httpd) > 0 && kt_http_now() < until)
	{
		wait_until(r, until);
		kt_httpd_step(r->httpd);
	}
	kt_worker_forget_fd();
	kt_httpd_destroy(r->httpd);
	r->httpd = NULL;
}

/* ---- the worker -------------------------------------------------------------------------------------------------- */

static Receiver *
make_receiver(KtSlot *slot)
{
	MemoryContext context =
		AllocSetContextCreate(TopMemoryContext, "kridtech receiver", ALLOCSET_DEFAULT_SIZES);
	Receiver *r = MemoryContextAllocZero(context, sizeof(Receiver));

	r->slot = slot;
	r->turn = AllocSetContextCreate(context, "kridtech turn", ALLOCSET_DEFAULT_SIZES);
	r->intake = kt_intake_make(context, slot);
	kt_weboptions_init(&r->options);
	return r;
}

static bool
must_stop(const Receiver *r)
{
	return kt_worker_stop || r->slot->restart || r->ending;
}

void
kridtech_receiver_main(Datum argument)
{
	Oid database = DatumGetObjectId(argument);
	KtSlot *slot;
	Receiver *r;

	kt_worker_signals();
	slot = kt_worker_attach(database, KT_RECEIVER);
	kt_worker_connect(database);
	r = make_receiver(slot);
	read_options(r);
	while (!must_stop(r))
	{
		MemoryContextReset(r->turn);
		MemoryContextSwitchTo(r->turn);
		if (kt_worker_reload())
			follow_settings(r);
		if (kt_http_now() >= r->check_at)
			check(r);
		if (r->httpd != NULL)
			serve(r);
		report(r);
		if (!must_stop(r))
			wait_until(r, next_deadline(r));
	}
	drain(r);
	proc_exit(KT_EXIT_AGAIN);
}
