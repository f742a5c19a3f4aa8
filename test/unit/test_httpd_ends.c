/*
 * The HTTP server on loopback: what is left of it when it ends, and of its memory.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "httpd_harness.h"

#include <dirent.h>
#include <malloc.h>

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

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_next_server_serves_who_waits_at_the_socket),
		cmocka_unit_test(destroying_a_busy_server_leaves_its_socket_listening),
		cmocka_unit_test(a_server_leaves_neither_thread_nor_handler_nor_descriptor_behind),
		cmocka_unit_test(memory_of_large_bodies_goes_back),
		cmocka_unit_test(an_announced_body_takes_no_memory),
	};
	return cmocka_run_group_tests_name("httpd_ends", tests, NULL, NULL);
}
