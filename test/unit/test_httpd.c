/*
 * The HTTP server on loopback: requests, deliveries and their answers. What it answers to which bytes is in
 * test_httpd_requests.c.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "httpd_harness.h"

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

int
main(void)
{
	const struct CMUnitTest tests[] = {
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
	};
	return cmocka_run_group_tests_name("httpd", tests, NULL, NULL);
}
