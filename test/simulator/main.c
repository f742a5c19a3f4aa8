/*
 * kridtech-simulator: a faithful fake of the Kridtech API for tests and development. See README.md.
 *
 * main() reads the command line, starts the listeners, says "ready" on stdout and turns the loop until
 * SIGTERM or SIGINT.
 */
#include "simulator.h"

#include <curl/curl.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define MAX_LISTENS 64

static const char usage[] =
	"Usage: kridtech-simulator [OPTION]...\n"
	"A faithful fake of the Kridtech API. Prints one JSON line on stdout once it listens.\n"
	"\n"
	"  --listen ADDRESS:PORT[,cert=FILE,key=FILE][,tls-fault=stall|reset|old]\n"
	"                           where to listen; repeatable; port 0 is any free one; TLS with cert\n"
	"                           (default 127.0.0.1:0)\n"
	"  --key [ACCOUNT=]KEY      an API key, for one account or for any; repeatable (default sim-key)\n"
	"  --ledger FILE            append every create-call to FILE (default: a temporary file)\n"
	"  --webhook-url URL        where webhooks go: https, or http to a loopback address\n"
	"  --webhook-ca FILE        CA certificates to check the webhook's receiver with\n"
	"  --webhook-timeout SEC    time-out of a webhook (default 10; may be fractional)\n"
	"  --ring-time MS           how long a call stays registered (default 50)\n"
	"  --talk-time MS           how long a call stays ongoing (default 100)\n"
	"  --fail-percent N         how many of the ordinary calls end failed (default 0)\n"
	"  --list-delay MS          how long until a call appears in the list (default 0)\n"
	"  --latency MS             how long every answer takes (default 0)\n"
	"  --rate-limit N           requests per second and key, 429 beyond (default 0: no limit)\n"
	"  --credits N              calls that can be paid for, 402 beyond (default -1: no limit)\n"
	"  --ready-file FILE        write the ready line to FILE too\n"
	"  --seed N                 make callIds and durations the same in every run\n"
	"  --die-with-parent        end when the process that started this one ends\n"
	"  --help-numbers[=markdown]  print the magic phone numbers and exit\n"
	"  --help                   print this and exit\n";

typedef struct Options
{
	const char *listens[MAX_LISTENS];
	int nlistens;
	const char *ledger;
	const char *webhook_url;
	const char *webhook_ca;
	long webhook_timeout_ms;
	const char *ready_file;
	uint64_t seed;
	bool die_with_parent;
} Options;

static const struct option long_options[] = {
	{"listen", required_argument, NULL, 'l'},
	{"key", required_argument, NULL, 'k'},
	{"ledger", required_argument, NULL, 'L'},
	{"webhook-url", required_argument, NULL, 'w'},
	{"webhook-ca", required_argument, NULL, 'C'},
	{"webhook-timeout", required_argument, NULL, 'T'},
	{"ring-time", required_argument, NULL, 'r'},
	{"talk-time", required_argument, NULL, 't'},
	{"fail-percent", required_argument, NULL, 'f'},
	{"list-delay", required_argument, NULL, 'd'},
	{"latency", required_argument, NULL, 'a'},
	{"rate-limit", required_argument, NULL, 'R'},
	{"credits", required_argument, NULL, 'c'},
	{"ready-file", required_argument, NULL, 'F'},
	{"seed", required_argument, NULL, 's'},
	{"die-with-parent", no_argument, NULL, 'D'},
	{"help-numbers", optional_argument, NULL, 'n'},
	{"help", no_argument, NULL, 'h'},
	{NULL, 0, NULL, 0},
};

static bool stopping;

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "kridtech-simulator: %s%s%s\n", what, why ? ": " : "", why ? why : "");
	exit(1);
}

static int64_t
whole_number(const char *text)
{
	char *end;
	int64_t value = strtoll(text, &end, 10);

	if (end == text || *end != '\0')
		fail("not a whole number", text);
	return value;
}

static void
read_option(Options *options, int option, const char *value)
{
	switch (option)
	{
		case 'l':
			if (options->nlistens == MAX_LISTENS)
				fail("too many --listen", NULL);
			options->listens[options->nlistens++] = value;
			break;
		case 'k':
			sim_key_add(value);
			break;
		case 'L':
			options->ledger = value;
			break;
		case 'w':
			options->webhook_url = value;
			break;
		case 'C':
			options->webhook_ca = value;
			break;
		case 'T':
			options->webhook_timeout_ms = (long) (atof(value) * 1000);
			break;
		case 'r':
			sim_settings.ring_ms = whole_number(value);
			break;
		case 't':
			sim_settings.talk_ms = whole_number(value);
			break;
		case 'f':
			sim_settings.fail_percent = whole_number(value);
			break;
		case 'd':
			sim_settings.list_delay_ms = whole_number(value);
			break;
		case 'a':
			sim_settings.latency_ms = whole_number(value);
			break;
		case 'R':
			sim_settings.rate_limit = whole_number(value);
			break;
		case 'c':
			sim_settings.credits = whole_number(value);
			break;
		case 'F':
			options->ready_file = value;
			break;
		case 's':
			options->seed = (uint64_t) whole_number(value);
			break;
		case 'D':
			options->die_with_parent = true;
			break;
		case 'n':
			sim_number_help(value != NULL && strcmp(value, "markdown") == 0);
			exit(0);
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs("Try kridtech-simulator --help\n", stderr);
			exit(2);
	}
}

static void
read_options(Options *options, int argc, char **argv)
{
	int option;

	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		read_option(options, option, optarg);
	if (optind < argc)
		fail("unexpected argument", argv[optind]);
	if (options->nlistens == 0)
		options->listens[options->nlistens++] = "127.0.0.1:0";
	if (sim_key_count() == 0)
		sim_key_add("sim-key");
}

static void
on_signal(SimWatch *watch)
{
	(void) watch;
	stopping = true;
}

/* Before any thread is started, so that all of them have the signals blocked. */
static void
prepare_process(const Options *options)
{
	static SimWatch signals = {.ready = on_signal};
	struct rlimit files;
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (!sim_loop_init() || signals.fd < 0 || !sim_loop_add(&signals, EPOLLIN))
		fail("epoll or signalfd", strerror(errno));
	if (options->die_with_parent)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0)
	{
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static void
start(const Options *options)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
	sim_random_seed(options->seed);
	if (!sim_ledger_open(options->ledger))
		fail("the ledger cannot be opened", strerror(errno));
	if (!sim_webhook_start(options->webhook_ca, options->webhook_timeout_ms))
		fail("webhooks cannot be started", NULL);
	if (options->webhook_url != NULL && !sim_webhook_set_url(options->webhook_url))
		fail("--webhook-url must be https:// (http:// to a loopback address is let pass)", NULL);
	for (int i = 0; i < options->nlistens; i++)
	{
		const char *wrong = sim_listener_add(options->listens[i]);

		if (wrong != NULL)
			fail(options->listens[i], wrong);
	}
}

static void
say_ready(const char *ready_file)
{
	SimText line = {0};
	FILE *file;

	sim_text_puts(&line, "{\"ready\":true,\"listeners\":");
	sim_listener_dump(&line);
	sim_text_putf(&line, ",\"pid\":%d}\n", (int) getpid());
	if (ready_file != NULL)
	{
		file = fopen(ready_file, "we");
		if (file == NULL || fputs(line.data, file) < 0 || fclose(file) != 0)
			fail(ready_file, strerror(errno));
	}
	fputs(line.data, stdout);
	fflush(stdout);
	sim_text_free(&line);
}

int
main(int argc, char **argv)
{
	Options options = {.webhook_timeout_ms = 10000};

	if (getrandom(&options.seed, sizeof(options.seed), 0) < 0)
		options.seed = (uint64_t) sim_now();
	read_options(&options, argc, argv);
	prepare_process(&options);
	start(&options);
	say_ready(options.ready_file);
	while (!stopping)
	{
		sim_loop_turn(sim_server_timeout());
		sim_server_run();
	}
	sim_server_stop();
	sim_webhook_stop();
	sim_ledger_close();
	sim_scenario_clear();
	sim_calls_reset();
	curl_global_cleanup();
	return 0;
}
