/*
 * The HTTP server on loopback: time, places, ends, memory, certificates. What it answers to which bytes is in
 * test_httpd_requests.c.
 *
 * accept4() is this program's own: it can lie about the client's address, since all of loopback is excepted from
 * the limit per address, and can run out of descriptors.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "httpd_harness.h"

#include <dirent.h>
#include <dlfcn.h>
#include <malloc.h>
#include <sys/stat.h>

#define BODY_2 "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nContent-Length: 2\r\n\r\n"

static bool disguise; /* 127.0.0.x comes as 192.0.2.x */
static bool exhausted;
static int accepts;

int
accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
	static int (*real)(int, struct sockaddr *, socklen_t *, int);
	struct sockaddr_in *in = (struct sockaddr_in *) address;
	int result;

	if (real == NULL)
		*(void **) &real = dlsym(RTLD_NEXT, "accept4");
	accepts++;
	if (exhausted)
	{
		errno = EMFILE;
		return -1;
	}
	result = real(fd, address, len, flags);
	if (result >= 0 && disguise)
		in->sin_addr.s_addr = htonl(0xC0000200u | (ntohl(in->sin_addr.s_addr) & 0xFF));
	return result;
}

/* ---- time ------------------------------------------------------------------------------------------------ */

static void
a_head_that_does_not_come_is_answered_408_and_closed(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;
	int64_t begin;

	(void) state;
	options.header_us = 50 * MS;
	begin_server(&options);
	begin = kt_httpd_now();
	client = connect_plain();
	say(client, "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\n");
	UNTIL(client->ended);
	assert_int_equal(last_answer(client), 408);
	assert_true(kt_httpd_now() - begin >= 50 * MS);
	assert_int_equal(counters().timeouts, 1);
	UNTIL(counters().connections == 0);
	assert_true(kt_httpd_deadline(server.httpd) == -1);
	end_server();
}

/* Sends a byte each 10 ms until the server closes. How long that took. */
static int64_t
drip(Client *client, const char *bytes)
{
	int64_t begin = kt_httpd_now();

	while (!client->ended && *bytes != '\0')
	{
		if (!send_bytes(client, bytes++, 1))
			break;
		let_pass(10 * MS);
	}
	UNTIL(client->ended);
	return kt_httpd_now() - begin;
}

static void
bytes_that_drip_gain_no_time_for_a_head(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;
	int64_t took;

	(void) state;
	options.header_us = 200 * MS;
	begin_server(&options);
	client = connect_plain();
	took = drip(client, "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nX-Very-Long-Name: "
	                    "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopq"
	                    "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopq");
	assert_true(took >= 190 * MS);
	assert_int_equal(server.total, 0);
	assert_int_equal(counters().timeouts, 1);
	end_server();
}

static void
bytes_that_drip_gain_no_time_for_a_body(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;

	(void) state;
	options.body_us = 200 * MS;
	begin_server(&options);
	client = connect_plain();
	say(client, "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nContent-Length: 900\r\n\r\n");
	drip(client, "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"
	             "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz");
	assert_int_equal(server.total, 0);
	assert_int_equal(counters().timeouts, 1);
	end_server();
}

static void
a_body_that_stops_is_answered_408_and_closed(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;

	(void) state;
	options.body_us = 50 * MS;
	begin_server(&options);
	client = connect_plain();
	say(client, BODY_2 "{");
	UNTIL(client->ended);
	assert_int_equal(last_answer(client), 408);
	assert_int_equal(server.total, 0);
	end_server();
}

static void
an_idle_connection_is_closed_without_a_word(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;

	(void) state;
	options.idle_us = 50 * MS;
	begin_server(&options);
	client = connect_plain();
	post(client, "{}");
	UNTIL(client->ended);
	assert_int_equal(count_answers(client), 1);
	assert_int_equal(last_answer(client), 200);
	assert_int_equal(counters().timeouts, 0);
	end_server();
}

static void
a_second_head_has_its_own_time(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;

	(void) state;
	options.header_us = 50 * MS;
	begin_server(&options);
	client = connect_plain();
	post(client, "{}");
	UNTIL(count_answers(client) == 1);
	let_pass(100 * MS);
	assert_false(client->ended);
	say(client, "POST /webhook/secret HTTP/1.1\r\n");
	UNTIL(client->ended);
	assert_int_equal(last_answer(client), 408);
	end_server();
}

static void
a_held_delivery_has_no_deadline(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;

	(void) state;
	options.header_us = options.body_us = options.idle_us = 20 * MS;
	begin_server(&options);
	server.answer = 0;
	client = connect_plain();
	post(client, "{}");
	UNTIL(server.nheld == 1);
	assert_true(let_pass(100 * MS) <= 2);
	assert_false(client->ended);
	kt_httpd_answer(server.httpd, server.held[0], 200, NULL);
	UNTIL(count_answers(client) == 1);
	end_server();
}

static void
a_deadline_that_is_changed_holds_for_open_connections(void **state)
{
	KtHttpdOptions options = default_options();
	char error[256];
	Client *client;

	(void) state;
	begin_server(&options);
	client = connect_plain();
	UNTIL(counters().connections == 1);
	options.header_us = 30 * MS;
	assert_true(kt_httpd_configure(server.httpd, &options, error, sizeof(error)));
	UNTIL(client->ended);
	end_server();
}

/* ---- requests -------------------------------------------------------------------------------------------- */

static void
a_hundred_requests_on_one_connection_are_served(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;
	char body[16];
	int i;

	(void) state;
	begin_server(&options);
	client = connect_plain();
	for (i = 0; i < 100; i++)
	{
		snprintf(body, sizeof(body), "%d", i);
		post(client, body);
		UNTIL(count_answers(client) == i + 1);
		assert_string_equal(server.bodies[i].data, body);
	}
	assert_int_equal(counters().accepted, 1);
	assert_int_equal(counters().requests, 100);
	assert_int_equal(counters().answers_2xx, 100);
	assert_int_equal(counters().bytes_received, 190);
	end_server();
}

static void
a_hundred_pipelined_requests_are_served_in_order(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;
	char body[16];
	int i;

	(void) state;
	begin_server(&options);
	client = connect_plain();
	for (i = 0; i < 100; i++)
	{
		snprintf(body, sizeof(body), "%d", i);
		post(client, body);
	}
	UNTIL(count_answers(client) == 100);
	for (i = 0; i < 100; i++)
		assert_int_equal(atoi(server.bodies[i].data), i);
	end_server();
}

static void
a_client_that_waits_for_100_gets_it_before_its_body(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;

	(void) state;
	begin_server(&options);
	client = connect_plain();
	say(client, "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nExpect: 100-continue\r\n"
	            "Content-Length: 2\r\n\r\n");
	UNTIL(last_answer(client) == 100);
	say(client, "{}");
	UNTIL(last_answer(client) == 200);
	assert_string_equal(server.bodies[0].data, "{}");
	end_server();
}

static void
a_client_that_is_refused_in_the_middle_of_a_large_body_reads_why(void **state)
{
	KtHttpdOptions options = default_options();
	char *body = calloc(1, 4000000);
	Client *client;

	(void) state;
	begin_server(&options);
	client = connect_plain();
	say(client, "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nContent-Length: 4000000\r\n\r\n");
	client->ended = true; /* reads nothing before it has sent all */
	assert_true(send_bytes(client, body, 4000000));
	client->ended = false;
	UNTIL(client->ended);
	assert_int_equal(last_answer(client), 413);
	forget_client(client);
	UNTIL(counters().connections == 0);
	free(body);
	end_server();
}

static void
deliveries_are_answered_as_their_owner_says(void **state)
{
	static const int statuses[] = {200, 400, 503, 500};
	KtHttpdOptions options = default_options();
	Client *client;
	size_t i;

	(void) state;
	begin_server(&options);
	server.answer = 0;
	client = connect_plain();
	for (i = 0; i < lengthof(statuses); i++)
	{
		post(client, "{}");
		UNTIL(server.nheld == 1);
		assert_int_equal(kt_httpd_waiting(server.httpd), 1);
		kt_httpd_answer(server.httpd, server.held[--server.nheld], statuses[i], NULL);
		assert_int_equal(kt_httpd_waiting(server.httpd), 0);
		assert_int_equal(kt_httpd_leaving(server.httpd), 1);
		UNTIL(count_answers(client) == (int) i + 1);
		assert_int_equal(last_answer(client), statuses[i]);
		assert_int_equal(kt_httpd_leaving(server.httpd), 0);
	}
	assert_int_equal(counters().answers_2xx, 1);
	assert_int_equal(counters().answers_4xx, 1);
	assert_int_equal(counters().answers_5xx, 2);
	end_server();
}

static void
deliveries_are_answered_in_any_order(void **state)
{
	KtHttpdOptions options = default_options();
	Client *all[10];
	int i;

	(void) state;
	begin_server(&options);
	server.answer = 0;
	for (i = 0; i < 10; i++)
	{
		all[i] = connect_plain();
		post(all[i], "{}");
		UNTIL(server.nheld == i + 1);
	}
	assert_int_equal(kt_httpd_waiting(server.httpd), 10);
	for (i = 9; i >= 0; i--)
	{
		server.held[i]->owner = all[i];
		kt_httpd_answer(server.httpd, server.held[i], 200 + i, NULL);
	}
	for (i = 0; i < 10; i++)
	{
		UNTIL(count_answers(all[i]) == 1);
		assert_int_equal(last_answer(all[i]), 200 + i);
	}
	end_server();
}

static void
a_client_that_hangs_up_takes_nothing_away(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;
	KtBuf kept = {0};

	(void) state;
	begin_server(&options);
	server.answer = 0;
	client = connect_plain();
	post(client, "{\"callId\":\"gone\"}");
	UNTIL(server.nheld == 1);
	forget_client(client);
	settle();
	assert_bytes("body", server.held[0]->body, server.held[0]->len, BYTES("{\"callId\":\"gone\"}"));
	kt_httpd_answer(server.httpd, server.held[0], 503, &kept);
	UNTIL(counters().connections == 0);
	assert_buf_and_free("kept", &kept, BYTES("{\"callId\":\"gone\"}"));
	assert_int_equal(kt_httpd_leaving(server.httpd), 0);
	end_server();
}

static void
a_client_that_hangs_up_with_its_last_byte_is_delivered(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;

	(void) state;
	begin_server(&options);
	client = connect_plain();
	post(client, "{}");
	forget_client(client);
	UNTIL(server.total == 1);
	UNTIL(counters().connections == 0);
	end_server();
}

static void
a_client_that_hangs_up_before_is_not_delivered(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;

	(void) state;
	begin_server(&options);
	client = connect_plain();
	say(client, BODY_2 "{");
	settle();
	forget_client(client);
	UNTIL(counters().connections == 0);
	assert_int_equal(server.total, 0);
	end_server();
}

static void
health_is_what_the_owner_says(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;

	(void) state;
	begin_server(&options);
	client = connect_plain();
	kt_httpd_set_healthy(server.httpd, false);
	say(client, "GET /healthz HTTP/1.1\r\nHost: kt\r\n\r\n");
	UNTIL(last_answer(client) == 503);
	kt_httpd_set_healthy(server.httpd, true);
	say(client, "GET /healthz HTTP/1.1\r\nHost: kt\r\n\r\n");
	UNTIL(last_answer(client) == 200);
	end_server();
}

static void
a_refused_method_is_told_the_right_one(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;

	(void) state;
	begin_server(&options);
	client = connect_plain();
	say(client, "GET /webhook/secret HTTP/1.1\r\nHost: kt\r\n\r\n");
	UNTIL(client->ended);
	assert_non_null(strstr(client->got.data, "\r\nAllow: POST\r\n"));
	assert_null(strcasestr(client->got.data, "\r\nServer:"));
	end_server();
}

static void
path_and_tokens_can_be_changed(void **state)
{
	static const char *const tokens[] = {"third"};
	KtHttpdOptions options = default_options();
	char error[256];
	Client *client;

	(void) state;
	begin_server(&options);
	client = connect_plain();
	UNTIL(counters().connections == 1);
	options.path = "/other/";
	options.tokens = tokens;
	options.ntokens = 1;
	assert_true(kt_httpd_configure(server.httpd, &options, error, sizeof(error)));
	say(client, "POST /other/third HTTP/1.1\r\nHost: kt\r\nContent-Length: 2\r\n\r\n{}");
	UNTIL(last_answer(client) == 200);
	post(client, "{}");
	UNTIL(last_answer(client) == 404);
	options.ntokens = 0;
	options.path = "/";
	assert_true(kt_httpd_configure(server.httpd, &options, error, sizeof(error)));
	client = connect_plain();
	say(client, "POST / HTTP/1.1\r\nHost: kt\r\nContent-Length: 2\r\n\r\n{}");
	UNTIL(last_answer(client) == 200);
	end_server();
}

static void
a_trusted_proxy_names_the_client(void **state)
{
	KtHttpdNetwork loopback = {.prefix = 8};
	KtHttpdOptions options = default_options();
	struct sockaddr_in *in = (struct sockaddr_in *) &loopback.address;
	struct sockaddr_in *seen = (struct sockaddr_in *) &server.last_client;
	Client *client;

	(void) state;
	in->sin_family = AF_INET;
	in->sin_addr.s_addr = htonl(0x7F000000);
	begin_server(&options);
	client = connect_plain();
	say(client, "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nX-Forwarded-For: 192.0.2.1\r\n"
	            "Content-Length: 2\r\n\r\n{}");
	UNTIL(count_answers(client) == 1);
	assert_int_equal(ntohl(seen->sin_addr.s_addr), INADDR_LOOPBACK);

	options.proxies = &loopback;
	options.nproxies = 1;
	assert_true(kt_httpd_configure(server.httpd, &options, (char[256]){0}, 256));
	say(client, "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nX-Forwarded-For: 198.51.100.7\r\n"
	            "X-Forwarded-For: 192.0.2.1, 127.0.0.9\r\nContent-Length: 2\r\n\r\n{}");
	UNTIL(count_answers(client) == 2);
	assert_int_equal(ntohl(seen->sin_addr.s_addr), 0xC0000201);
	end_server();
}

/* ---- places ------------------------------------------------------------------------------------------------- */

static void
one_address_gets_no_more_than_its_share(void **state)
{
	KtHttpdOptions options = default_options();
	Client *all[4];
	int i;

	(void) state;
	options.max_per_address = 2;
	begin_server(&options);
	disguise = true;
	for (i = 0; i < 3; i++)
		all[i] = connect_from("127.0.0.7");
	all[3] = connect_from("127.0.0.8");
	UNTIL(all[2]->ended);
	post(all[3], "{}");
	UNTIL(count_answers(all[3]) == 1);
	assert_false(all[0]->ended || all[1]->ended);
	assert_int_equal(counters().refused, 1);
	forget_client(all[0]);
	UNTIL(counters().connections == 2);
	all[0] = connect_from("127.0.0.7");
	post(all[0], "{}");
	UNTIL(count_answers(all[0]) == 1);
	disguise = false;
	end_server();
}

static void
a_trusted_proxy_and_loopback_have_no_share(void **state)
{
	KtHttpdNetwork proxy = {.prefix = 32};
	KtHttpdOptions options = default_options();
	struct sockaddr_in *in = (struct sockaddr_in *) &proxy.address;
	int i;

	(void) state;
	in->sin_family = AF_INET;
	in->sin_addr.s_addr = htonl(0xC0000207);
	options.max_per_address = 2;
	options.proxies = &proxy;
	options.nproxies = 1;
	begin_server(&options);
	for (i = 0; i < 5; i++)
		connect_from("127.0.0.7");
	UNTIL(counters().connections == 5);
	disguise = true;
	for (i = 0; i < 5; i++)
		connect_from("127.0.0.7");
	UNTIL(counters().connections == 10);
	disguise = false;
	assert_int_equal(counters().refused, 0);
	end_server();
}

static void
without_descriptors_the_server_pauses_and_recovers(void **state)
{
	KtHttpdOptions options = default_options();
	Client *open;
	Client *client;

	(void) state;
	begin_server(&options);
	open = connect_plain();
	post(open, "{}");
	UNTIL(count_answers(open) == 1);
	exhausted = true;
	accepts = 0;
	client = connect_plain();
	post(client, "{}");
	assert_true(let_pass(450 * MS) <= 12);
	assert_in_range(accepts, 2, 6);
	post(open, "{}");
	UNTIL(count_answers(open) == 2);
	exhausted = false;
	UNTIL(count_answers(client) == 1);
	end_server();
}

static void
bodies_are_held_up_to_a_total(void **state)
{
	KtHttpdOptions options = default_options();
	char kilobyte[1001];
	Client *all[3];
	int i;

	(void) state;
	memset(kilobyte, 'b', 1000);
	kilobyte[1000] = '\0';
	options.max_bodies = 2000;
	begin_server(&options);
	server.answer = 0;
	for (i = 0; i < 3; i++)
	{
		all[i] = connect_plain();
		post(all[i], kilobyte);
		settle();
	}
	UNTIL(all[2]->ended);
	assert_int_equal(last_answer(all[2]), 503);
	assert_int_equal(server.nheld, 1);
	server.answer = 200;
	kt_httpd_answer(server.httpd, server.held[0], 200, NULL);
	all[2] = connect_plain();
	post(all[2], kilobyte);
	UNTIL(last_answer(all[2]) == 200);
	end_server();
}

/* ---- ends ---------------------------------------------------------------------------------------------------- */

static void
the_next_server_serves_who_waits_at_the_socket(void **state)
{
	KtHttpdOptions options = default_options();
	Client *open;
	Client *waiting;
	char error[256];

	(void) state;
	begin_server(&options);
	open = connect_plain();
	post(open, "{}");
	UNTIL(count_answers(open) == 1);
	kt_httpd_quiesce(server.httpd);
	waiting = connect_plain();
	post(waiting, "{}");
	assert_true(let_pass(50 * MS) <= 2);
	post(open, "{}");
	UNTIL(open->ended);
	assert_int_equal(count_answers(open), 2);
	assert_int_equal(count_answers(waiting), 0);
	assert_int_equal(counters().connections, 0);

	kt_httpd_destroy(server.httpd);
	server.httpd = kt_httpd_create(&options, &server.socket, 1, error, sizeof(error));
	assert_non_null(server.httpd);
	UNTIL(count_answers(waiting) == 1);
	assert_int_equal(last_answer(waiting), 200);
	end_server();
}

static void
destroying_a_busy_server_leaves_its_socket_listening(void **state)
{
	KtHttpdOptions options = default_options();
	Client *client;
	char error[256];
	int i;

	(void) state;
	begin_server(&options);
	server.answer = 0;
	for (i = 0; i < 5; i++)
		post(connect_plain(), "{}");
	UNTIL(server.nheld == 5);
	say(connect_plain(), "POST /webhook/wrong HTTP/1.1\r\nHost: kt\r\nContent-Length: 9\r\n\r\n");
	say(connect_plain(), BODY_2 "{");
	connect_plain();
	settle();
	assert_int_equal(counters().connections, 8);
	kt_httpd_destroy(server.httpd);
	server.answer = 200;
	server.httpd = kt_httpd_create(&options, &server.socket, 1, error, sizeof(error));
	client = connect_plain();
	post(client, "{}");
	UNTIL(count_answers(client) == 1);
	end_server();
}

static int
count_entries(const char *path)
{
	DIR *dir = opendir(path);
	int count = 0;

	assert_non_null(dir);
	while (readdir(dir) != NULL)
		count++;
	closedir(dir);
	return count;
}

static void
a_server_leaves_neither_thread_nor_handler_nor_descriptor_behind(void **state)
{
	KtHttpdOptions options = default_options();
	struct sigaction before[32] = {0};
	struct sigaction after;
	int descriptors;
	int threads;
	int i;

	(void) state;
	begin_server(&options);
	end_server();
	descriptors = count_entries("/proc/self/fd");
	threads = count_entries("/proc/self/task");
	for (i = 1; i < 32; i++)
		sigaction(i, NULL, &before[i]);
	begin_server(&options);
	post(connect_plain(), "{}");
	UNTIL(server.total == 1);
	assert_int_equal(count_entries("/proc/self/task"), threads);
	for (i = 1; i < 32; i++)
	{
		if (i == SIGALRM || sigaction(i, NULL, &after) != 0)
			continue;
		assert_ptr_equal(after.sa_handler, before[i].sa_handler);
	}
	end_server();
	assert_int_equal(count_entries("/proc/self/fd"), descriptors);
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static bool
memory_can_be_measured(void)
{
#if defined(__SANITIZE_ADDRESS__)
	return false;
#else
	const char *preload = getenv("LD_PRELOAD");

	return preload == NULL || strstr(preload, "vgpreload") == NULL;
#endif
}

static long
resident_kb(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	long pages = 0;

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%*d %ld", &pages), 1);
	fclose(file);
	return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void
memory_of_large_bodies_goes_back(void **state)
{
	enum
	{
		COUNT = 20,
		SIZE = 6 * 1024 * 1024
	};
	KtHttpdOptions options = default_options();
	char *body;
	long base;
	int round;
	int i;

	(void) state;
	if (!memory_can_be_measured())
		skip();
	body = malloc(SIZE + 1);
	assert_non_null(body);
	memset(body, 'b', SIZE);
	body[SIZE] = '\0';
	options.max_body = 16 * 1024 * 1024;
	begin_server(&options);
	base = resident_kb();
	for (round = 0; round < 2; round++)
	{
		server.answer = 0;
		for (i = 0; i < COUNT; i++)
			post(connect_plain(), body);
		UNTIL(server.nheld == COUNT);
		assert_true(resident_kb() - base >= COUNT * (SIZE / 1024));
		while (server.nheld > 0)
			kt_httpd_answer(server.httpd, server.held[--server.nheld], 200, NULL);
		while (nclients > 0)
		{
			UNTIL(count_answers(clients[0]) == 1);
			forget_client(clients[0]);
		}
		UNTIL(counters().connections == 0);
		assert_true(resident_kb() - base < 4096);
	}
	free(body);
	end_server();
}

static void
an_announced_body_takes_no_memory(void **state)
{
	KtHttpdOptions options = default_options();
	long base;
	int i;

	(void) state;
	if (!memory_can_be_measured())
		skip();
	options.max_body = 16 * 1024 * 1024;
	begin_server(&options);
	base = resident_kb();
	for (i = 0; i < 50; i++)
		say(connect_plain(),
		    "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nContent-Length: 16000000\r\n\r\n{");
	UNTIL(counters().bytes_received == 50);
	assert_true(resident_kb() - base < 50 * 64);
	end_server();
}

/* ---- TLS --------------------------------------------------------------------------------------------------------- */

static Pair first_pair;
static Pair second_pair;

/* The name on the certificate that the server has shown. */
static void
shown_name(const Client *client, char *name, size_t size)
{
	unsigned int n;
	const gnutls_datum_t *shown = gnutls_certificate_get_peers(client->tls, &n);
	gnutls_x509_crt_t cert;

	assert_non_null(shown);
	gnutls_x509_crt_init(&cert);
	assert_int_equal(gnutls_x509_crt_import(cert, shown, GNUTLS_X509_FMT_DER), 0);
	gnutls_x509_crt_get_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &size);
	gnutls_x509_crt_deinit(cert);
}

static void
a_new_certificate_is_shown_to_new_connections_only(void **state)
{
	KtHttpdOptions options = tls_options(&first_pair);
	Client *old;
	Client *halfway;
	Client *new;
	char name[64];
	char error[256];

	(void) state;
	begin_server(&options);
	old = connect_tls();
	shown_name(old, name, sizeof(name));
	assert_string_equal(name, "first.test");
	halfway = connect_plain(); /* accepted before the change, shakes hands after it */
	UNTIL(counters().connections == 2);

	options = tls_options(&second_pair);
	assert_true(kt_httpd_configure(server.httpd, &options, error, sizeof(error)));
	new = connect_tls();
	shown_name(new, name, sizeof(name));
	assert_string_equal(name, "second.test");
	assert_true(begin_tls(halfway, NULL));
	shown_name(halfway, name, sizeof(name));
	assert_string_equal(name, "first.test");
	post(old, "1");
	post(halfway, "2");
	post(new, "3");
	UNTIL(count_answers(old) == 1 && count_answers(halfway) == 1 && count_answers(new) == 1);
	end_server();
}

static void
a_bad_pair_is_refused_with_words_and_the_old_one_stays(void **state)
{
	static const char *const bad[][2] = {
		{"", ""},
		{"no PEM at all", "no PEM at all"},
		{first_pair.cert, second_pair.key},
		{first_pair.cert, first_pair.cert},
		{first_pair.key, first_pair.key},
		{first_pair.cert, NULL},
		{first_pair.cert, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}};
	KtHttpdOptions options = tls_options(&first_pair);
	Client *client;
	char name[64];
	char error[256];
	int64_t end;
	size_t i;

	(void) state;
	begin_server(&options);
	for (i = 0; i < lengthof(bad); i++)
	{
		options.tls_cert = bad[i][0];
		options.tls_key = bad[i][1];
		error[0] = '\0';
		assert_false(kt_httpd_configure(server.httpd, &options, error, sizeof(error)));
		assert_true(error[0] != '\0');
		error[0] = '\0';
		assert_false(kt_httpd_judge_pair(bad[i][0], bad[i][1], &end, error, sizeof(error)));
		assert_true(error[0] != '\0');
		assert_null(kt_httpd_create(&options, &server.socket, 1, error, sizeof(error)));
	}
	client = connect_tls();
	shown_name(client, name, sizeof(name));
	assert_string_equal(name, "first.test");
	end_server();
}

static void
the_end_of_a_certificate_is_known(void **state)
{
	KtHttpdOptions options = default_options();
	time_t end = time(NULL) + 20 * 86400;
	Pair pair;
	char error[256];
	int64_t judged = 0;

	(void) state;
	make_pair(&pair, "end.test", end);
	assert_true(kt_httpd_judge_pair(pair.cert, pair.key, &judged, error, sizeof(error)));
	assert_true(judged == end);
	begin_server(&options);
	assert_true(kt_httpd_certificate_end(server.httpd) == -1);
	end_server();
	options = tls_options(&pair);
	begin_server(&options);
	assert_true(kt_httpd_certificate_end(server.httpd) == end);
	end_server();
}

static void
tls_is_not_turned_on_or_off_in_a_running_server(void **state)
{
	KtHttpdOptions plain = default_options();
	KtHttpdOptions tls = tls_options(&first_pair);
	char error[256];

	(void) state;
	begin_server(&plain);
	assert_false(kt_httpd_configure(server.httpd, &tls, error, sizeof(error)));
	end_server();
	begin_server(&tls);
	assert_false(kt_httpd_configure(server.httpd, &plain, error, sizeof(error)));
	end_server();
}

static void
nothing_older_than_tls_1_2_is_spoken(void **state)
{
	KtHttpdOptions options = tls_options(&first_pair);

	(void) state;
	begin_server(&options);
	assert_true(begin_tls(connect_plain(), "NORMAL:-VERS-ALL:+VERS-TLS1.3"));
	assert_true(begin_tls(connect_plain(), "NORMAL:-VERS-ALL:+VERS-TLS1.2"));
	assert_false(begin_tls(connect_plain(), "NORMAL:-VERS-ALL:+VERS-TLS1.1:%COMPAT"));
	assert_false(begin_tls(connect_plain(), "NORMAL:-VERS-ALL:+VERS-TLS1.0:%COMPAT"));
	end_server();
}

static void
a_client_that_stalls_in_the_handshake_costs_no_processor_and_is_cut(void **state)
{
	KtHttpdOptions options = tls_options(&first_pair);
	Client *stalled;
	Client *honest;

	(void) state;
	options.header_us = 400 * MS;
	begin_server(&options);
	stalled = connect_plain();
	say_hello(stalled);
	settle();
	assert_true(stalled->got.len > 0);
	assert_true(let_pass(100 * MS) <= 3);
	honest = connect_tls();
	post(honest, "{}");
	UNTIL(count_answers(honest) == 1);
	assert_true(let_pass(50 * MS) <= 3);
	UNTIL(stalled->ended);
	assert_false(honest->ended);
	assert_int_equal(counters().timeouts, 1);
	end_server();
}

/* Before 1.0 the library wants turn upon turn then, until the body's time is up; 1.0 refuses. */
static void
send_long_chunk_line(const KtHttpdOptions *options, bool tls)
{
	char line[30000];
	Client *client;
	Client *honest;

	memset(line, 'a', sizeof(line));
	begin_server(options);
	client = tls ? connect_tls() : connect_plain();
	say(client,
	    "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nTransfer-Encoding: chunked\r\n\r\n5;");
	send_bytes(client, line, sizeof(line));
	let_pass(100 * MS);
	assert_true(let_pass(300 * MS) <= 60);
	honest = tls ? connect_tls() : connect_plain();
	post(honest, "{}");
	UNTIL(count_answers(honest) == 1);
	UNTIL(client->ended);
	end_server();
}

static void
a_chunk_line_that_does_not_fit_costs_no_processor(void **state)
{
	KtHttpdOptions options = default_options();

	(void) state;
	options.body_us = 600 * MS;
	send_long_chunk_line(&options, false);
	options = tls_options(&first_pair);
	options.body_us = 600 * MS;
	send_long_chunk_line(&options, true);
}

static void
a_slow_head_over_tls_is_answered_408(void **state)
{
	KtHttpdOptions options = tls_options(&first_pair);
	Client *client;

	(void) state;
	options.header_us = 300 * MS;
	begin_server(&options);
	client = connect_tls();
	say(client, "POST /webhook/secret HTTP/1.1\r\n");
	UNTIL(client->ended);
	assert_int_equal(last_answer(client), 408);
	end_server();
}

/* The client's kernel holds a small segment back until the one before it is acknowledged. */
static void
a_first_request_over_tls_waits_for_no_delayed_acknowledgement(void **state)
{
	KtHttpdOptions options = tls_options(&first_pair);
	Client *client;

	(void) state;
	begin_server(&options);
	client = connect_tls();
	post(client, "{}");
	settle();
	assert_int_equal(server.total, 1);
	end_server();
}

static void
a_large_body_over_tls_is_whole(void **state)
{
	KtHttpdOptions options = tls_options(&first_pair);
	char *body = malloc(900001);
	Client *client;
	int i;

	(void) state;
	for (i = 0; i < 900000; i++)
		body[i] = (char) ('a' + i % 23);
	body[900000] = '\0';
	options.max_body = 1000000;
	begin_server(&options);
	client = connect_tls();
	post(client, body);
	UNTIL(count_answers(client) == 1);
	assert_string_equal(server.bodies[0].data, body);
	free(body);
	end_server();
}

static void
secrets_are_not_written_to_the_file_that_the_environment_names(void **state)
{
	KtHttpdOptions options = tls_options(&first_pair);
	const char *name = getenv("SSLKEYLOGFILE");
	struct stat st;
	Client *client;

	(void) state;
	assert_non_null(name);
	begin_server(&options);
	client = connect_tls();
	post(client, "{}");
	UNTIL(count_answers(client) == 1);
	end_server();
	if (stat(name, &st) == 0)
		fail_msg("%s was written", name);
}

/* ---- main --------------------------------------------------------------------------------------------------------- */

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_head_that_does_not_come_is_answered_408_and_closed),
		cmocka_unit_test(bytes_that_drip_gain_no_time_for_a_head),
		cmocka_unit_test(bytes_that_drip_gain_no_time_for_a_body),
		cmocka_unit_test(a_body_that_stops_is_answered_408_and_closed),
		cmocka_unit_test(an_idle_connection_is_closed_without_a_word),
		cmocka_unit_test(a_second_head_has_its_own_time),
		cmocka_unit_test(a_held_delivery_has_no_deadline),
		cmocka_unit_test(a_deadline_that_is_changed_holds_for_open_connections),
		cmocka_unit_test(a_hundred_requests_on_one_connection_are_served),
		cmocka_unit_test(a_hundred_pipelined_requests_are_served_in_order),
		cmocka_unit_test(a_client_that_waits_for_100_gets_it_before_its_body),
		cmocka_unit_test(a_client_that_is_refused_in_the_middle_of_a_large_body_reads_why),
		cmocka_unit_test(deliveries_are_answered_as_their_owner_says),
		cmocka_unit_test(deliveries_are_answered_in_any_order),
		cmocka_unit_test(a_client_that_hangs_up_takes_nothing_away),
		cmocka_unit_test(a_client_that_hangs_up_with_its_last_byte_is_delivered),
		cmocka_unit_test(a_client_that_hangs_up_before_is_not_delivered),
		cmocka_unit_test(health_is_what_the_owner_says),
		cmocka_unit_test(a_refused_method_is_told_the_right_one),
		cmocka_unit_test(path_and_tokens_can_be_changed),
		cmocka_unit_test(a_trusted_proxy_names_the_client),
		cmocka_unit_test(one_address_gets_no_more_than_its_share),
		cmocka_unit_test(a_trusted_proxy_and_loopback_have_no_share),
		cmocka_unit_test(without_descriptors_the_server_pauses_and_recovers),
		cmocka_unit_test(bodies_are_held_up_to_a_total),
		cmocka_unit_test(the_next_server_serves_who_waits_at_the_socket),
		cmocka_unit_test(destroying_a_busy_server_leaves_its_socket_listening),
		cmocka_unit_test(a_server_leaves_neither_thread_nor_handler_nor_descriptor_behind),
		cmocka_unit_test(memory_of_large_bodies_goes_back),
		cmocka_unit_test(an_announced_body_takes_no_memory),
		cmocka_unit_test(a_new_certificate_is_shown_to_new_connections_only),
		cmocka_unit_test(a_bad_pair_is_refused_with_words_and_the_old_one_stays),
		cmocka_unit_test(the_end_of_a_certificate_is_known),
		cmocka_unit_test(tls_is_not_turned_on_or_off_in_a_running_server),
		cmocka_unit_test(nothing_older_than_tls_1_2_is_spoken),
		cmocka_unit_test(a_client_that_stalls_in_the_handshake_costs_no_processor_and_is_cut),
		cmocka_unit_test(a_chunk_line_that_does_not_fit_costs_no_processor),
		cmocka_unit_test(a_slow_head_over_tls_is_answered_408),
		cmocka_unit_test(a_first_request_over_tls_waits_for_no_delayed_acknowledgement),
		cmocka_unit_test(a_large_body_over_tls_is_whole),
		cmocka_unit_test(secrets_are_not_written_to_the_file_that_the_environment_names),
	};
	char keylog[64];

	/* before GnuTLS asks for it; the clients' side is told in begin_tls() not to write */
	snprintf(keylog, sizeof(keylog), "/tmp/kt_test_httpd_keylog.%d", (int) getpid());
	setenv("SSLKEYLOGFILE", keylog, 1);
	make_pair(&first_pair, "first.test", time(NULL) + 86400);
	make_pair(&second_pair, "second.test", time(NULL) + 86400);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
