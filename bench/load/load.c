/*
 * Sends webhooks to a receiver and measures: load [options] http[s]://host:port/path
 *
 *   --connections N   at once (1)
 *   --requests N      webhooks in all (1000)
 *   --rate R          so many a second, at even times; without it each connection sends its next webhook
 *                     as soon as the last one is answered
 *   --size BYTES      of a body (2400)
 *   --fresh           each webhook on a new connection, which is part of its latency
 *   --idle N          beside them so many connections that send nothing
 *   --drip N          or so many that send one byte a second
 *   --lines N         or so many that send 200 bytes of a head, and then a line a second
 *   --prefix P        of the calls' IDs, which end in nine digits from 000000000 on
 *   --limit S         give up after so many seconds (120)
 *   --body            only prints a body
 *
 * Prints one line of name=value. A latency counts from just before the first byte is written; with --rate
 * from when the webhook was due, if no connection was free then, so that a slow server does not slow down
 * its own measurement. Exit code 1: not every webhook was answered with 2xx.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define SECOND INT64_C(1000000000)

/* A histogram of microseconds with 64 steps for each power of two: right to 1.6 %. */
#define STEPS 64
#define BUCKETS (64 * STEPS)

static Target target;
static int nconns = 1;
static long requests = 1000;
static double rate = 0;
static size_t size = 2400;
static int nholders = 0;
static HolderKind holders = HOLDER_IDLES;
static const char *prefix = "call_";
static double limit = 120;

static int epoll;
static int timer;
static Conn *conns;
static Conn **free_conns; /* a queue, so that all are used in turn */
static int free_head;
static int free_n;

static int64_t began;
static int64_t ended;
static long started;
static long finished;
static long failed;
static long opened;
static int64_t slowest;
static long histogram[BUCKETS];

int64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

void
die(const char *format, ...)
{
	va_list args;

	fputs("load: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(2);
}

void *
must_alloc(size_t n)
{
	void *p = calloc(1, n);

	if (!p)
		die("out of memory");
	return p;
}

static int
bucket_of(int64_t us)
{
	int power = us < 2 * STEPS ? 0 : 57 - __builtin_clzll((unsigned long long) us);

	return power * STEPS + (int) (us >> power);
}

/* Microseconds that so many per cent of the webhooks took at most. */
static long
percentile(double percent)
{
	long wanted = (long) ((double) (finished - failed) * percent / 100);
	long seen = 0;
	int i;

	for (i = 0; i < BUCKETS; i++)
	{
		seen += histogram[i];
		if (seen > wanted)
			break;
	}
	/* The inverse of bucket_of(): the lower end of that step. */
	return i < 2 * STEPS ? i : (long) (STEPS + i % STEPS) << (i / STEPS - 1);
}

static void
put_free(Conn *conn)
{
	conn->freed = now_ns();
	free_conns[(free_head + free_n++) % nconns] = conn;
}

static void
finish(Conn *conn, bool ok)
{
	int64_t now = now_ns();

	finished++;
	ended = now;
	if (ok)
	{
		int64_t took = now - conn->started;

		histogram[bucket_of(took / 1000)]++;
		if (took > slowest)
			slowest = took;
	}
	else if (failed++ == 0)
		fprintf(stderr, "load: the first failure: %s\n", conn->failure);
}

/* A connection that closed is opened again when its next webhook is to go. */
static void
take_result(Conn *conn, ConnResult result)
{
	switch (result)
	{
		case CONN_PENDING:
			break;
		case CONN_OPENED:
			put_free(conn);
			break;
		case CONN_ANSWERED:
			finish(conn, true);
			if (target.fresh || conn->last)
				conn_close(conn);
			put_free(conn);
			break;
		case CONN_FAILED:
			finish(conn, false);
			put_free(conn);
			break;
	}
}

static int64_t
due(long number)
{
	return rate > 0 ? began + (int64_t) ((double) number * (double) SECOND / rate) : 0;
}

/* Gives webhooks that are due to connections that are free. */
static void
dispatch(void)
{
	while (free_n > 0 && started < requests)
	{
		int64_t now = now_ns();
		int64_t at = due(started);
		Conn *conn;

		if (at > now)
			return;
		conn = free_conns[free_head];
		free_head = (free_head + 1) % nconns;
		free_n--;
		request_set_id(&conn->request, started++);
		conn->started = rate > 0 && conn->freed > at ? at : now;
		if (conn->state == CONN_FREE)
		{
			take_result(conn, conn_start(conn));
			continue;
		}
		conn->waiting_webhook = true;
		opened++;
		if (!conn_open(conn, &target, epoll))
			take_result(conn, CONN_FAILED);
	}
}

/* When something must be done though no socket has an event. */
static void
set_timer(void)
{
	int64_t at = began + (int64_t) (limit * (double) SECOND);
	struct itimerspec when = {0};

	if (rate > 0 && free_n > 0 && started < requests && due(started) < at)
		at = due(started);
	if (nholders > 0 && now_ns() + SECOND / 20 < at)
		at = now_ns() + SECOND / 20;
	when.it_value.tv_sec = at / SECOND;
	when.it_value.tv_nsec = at % SECOND;
	timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void
wait_events(void)
{
	struct epoll_event events[256];
	int n;
	int i;

	/* Without a rate and holders only the limit is timed, and set once. */
	if (rate > 0 || nholders > 0)
		set_timer();
	n = epoll_wait(epoll, events, 256, (int) (limit * 1000));
	for (i = 0; i < n; i++)
	{
		Conn *conn = events[i].data.ptr;
		/* The timer's expiry and the holders' events carry no connection. */
		if (!conn || conn->state == CONN_CLOSED)
			continue;
		/* One that ends between webhooks stands in the queue, and is opened again from there. */
		if (conn->state == CONN_FREE)
			conn_check(conn);
		else
			take_result(conn, conn_advance(conn));
	}
	if (nholders > 0)
		holders_step(now_ns());
}

/* All connections are open before the clock starts, unless their opening is what is measured. */
static void
open_all(void)
{
	int i;

	if (target.fresh)
	{
		for (i = 0; i < nconns; i++)
			put_free(&conns[i]);
		return;
	}
	for (i = 0; i < nconns; i++)
		if (!conn_open(&conns[i], &target, epoll))
			die("%s", conns[i].failure);
	opened = nconns;
	while (free_n < nconns)
	{
		if (now_ns() - began > (int64_t) (limit * (double) SECOND))
			die("not all connections could be opened");
		wait_events();
		if (failed > 0)
			exit(1);
	}
}

static void
add_to_epoll(int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

static void
prepare(void)
{
	struct rlimit files;
	int i;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (target.tls && gnutls_certificate_allocate_credentials(&target.credentials) < 0)
		die("GnuTLS does not start");
	epoll = epoll_create1(EPOLL_CLOEXEC);
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	add_to_epoll(timer);
	conns = must_alloc((size_t) nconns * sizeof(Conn));
	free_conns = must_alloc((size_t) nconns * sizeof(Conn *));
	for (i = 0; i < nconns; i++)
		request_build(&conns[i].request, &target, prefix, size, (unsigned) i % 16 + 1);
	if (nholders > 0)
	{
		if (!holders_open(&target, nholders, holders))
			die("not all holding connections could be opened");
		add_to_epoll(holders_fd());
	}
}

static void
run(void)
{
	prepare();
	began = now_ns();
	open_all();
	began = now_ns();
	while (finished < requests)
	{
		dispatch();
		if (now_ns() - began > (int64_t) (limit * (double) SECOND))
		{
			fprintf(stderr, "load: %ld of %ld webhooks not answered after %g s\n",
			        requests - finished, requests, limit);
			failed += requests - finished;
			finished = requests;
			ended = now_ns();
			break;
		}
		if (finished < requests)
			wait_events();
	}
}

static void
report(void)
{
	double seconds = (double) (ended - began) / (double) SECOND;

	printf(
		"requests=%ld failed=%ld elapsed_us=%.0f rate=%.0f p50_us=%ld p99_us=%ld max_us=%ld opened=%ld "
		"reopened=%ld\n",
		requests, failed, seconds * 1e6, (double) (finished - failed) / seconds, percentile(50),
		percentile(99), (long) (slowest / 1000), opened, holders_reopened());
}

/* http[s]://host:port/path; an IPv6 address in brackets. */
static void
parse_url(const char *url)
{
	char host[256];
	char port[16];
	char *name = host;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	int error;

	target.tls = strncmp(url, "https://", 8) == 0;
	if (!target.tls && strncmp(url, "http://", 7) != 0)
		die("a URL begins with http:// or https://");
	url += target.tls ? 8 : 7;
	if ((sscanf(url, "[%200[^]]]:%15[0-9]%511s", host, port, target.path) != 3 &&
	     sscanf(url, "%200[^:/]:%15[0-9]%511s", host, port, target.path) != 3) ||
	    target.path[0] != '/')
		die("a URL is http[s]://host:port/path");
	snprintf(target.host, sizeof(target.host), "%.*s", (int) strcspn(url, "/"), url);
	error = getaddrinfo(name, port, &hints, &found);
	if (error)
		die("%s: %s", host, gai_strerror(error));
	memcpy(&target.address, found->ai_addr, found->ai_addrlen);
	target.address_len = found->ai_addrlen;
	freeaddrinfo(found);
}

static void
print_body(void)
{
	Request request;

	request_build(&request, &target, prefix, size, 1);
	request_set_id(&request, 0);
	fwrite(request.bytes + request.head_len, 1, request.len - request.head_len, stdout);
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
		{"connections", required_argument, NULL, 'c'},
		{"requests", required_argument, NULL, 'n'},
		{"rate", required_argument, NULL, 'r'},
		{"size", required_argument, NULL, 's'},
		{"fresh", no_argument, NULL, 'f'},
		{"idle", required_argument, NULL, 'i'},
		{"drip", required_argument, NULL, 'd'},
		{"lines", required_argument, NULL, 'L'},
		{"prefix", required_argument, NULL, 'p'},
		{"limit", required_argument, NULL, 'l'},
		{"body", no_argument, NULL, 'b'},
		{NULL, 0, NULL, 0},
	};
	bool body_only = false;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		switch (option)
		{
			case 'c':
				nconns = atoi(optarg);
				break;
			case 'n':
				requests = atol(optarg);
				break;
			case 'r':
				rate = atof(optarg);
				break;
			case 's':
				size = strtoul(optarg, NULL, 10);
				break;
			case 'f':
				target.fresh = true;
				break;
			case 'i':
				nholders = atoi(optarg);
				break;
			case 'd':
				nholders = atoi(optarg);
				holders = HOLDER_DRIPS;
				break;
			case 'L':
				nholders = atoi(optarg);
				holders = HOLDER_LINES;
				break;
			case 'p':
				prefix = optarg;
				break;
			case 'l':
				limit = atof(optarg);
				break;
			case 'b':
				body_only = true;
				break;
			default:
				die("see the head of bench/load/load.c for the options");
		}
	}
	if (body_only)
	{
		print_body();
		return 0;
	}
	if (optind != argc - 1 || nconns < 1 || requests < 1 || strlen(prefix) > 200)
		die("usage: load [options] URL");
	parse_url(argv[optind]);
	run();
	report();
	return failed > 0 ? 1 : 0;
}
