/*
 * The HTTP server on loopback: how long a client has for each part of a request.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "httpd_harness.h"

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
	};
	return cmocka_run_group_tests_name("httpd_time", tests, NULL, NULL);
}
