/*
 * The HTTP client: signals, addresses, and many transfers at once or one after the other.
 */
#include "servers.h"

/* ---- signals, addresses ------------------------------------------------------------------------------------------ */

static void
a_resolver_thread_has_every_signal_blocked_and_the_owner_its_own_mask(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_for("http", "here.test", server->port);
	sigset_t before;
	sigset_t after;
	Result result;
	int threads = atomic_load(&resolver_threads);
	int sig;

	(void) state;
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	perform(client, &result);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	assert_int_equal(result.answer.curl_code, 0);
	assert_true(atomic_load(&resolver_threads) > threads);
	assert_int_equal(atomic_load(&signals_open_in_resolver), 0);
	for (sig = 1; sig < NSIG; sig++)
		assert_int_equal(sigismember(&before, sig), sigismember(&after, sig));
	free(result.body);
	client_free(client);
	stop_server(server);
}

static void
loopback_only_refuses_any_other_address_before_connecting(void **state)
{
	static const char *const hosts[] = {
		"elsewhere.test", "192.0.2.1",          "[2001:db8::1]", "elsewhere6.test",
		"0.0.0.0",        "[::ffff:192.0.2.1]", "[::]"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(hosts); i++)
	{
		Client *client = client_for("http", hosts[i], 80);

		expect_failure(client, false);
		client_free(client);
	}
	assert_int_equal(atomic_load(&connects_elsewhere), 0);
}

static void
without_loopback_only_another_address_is_tried(void **state)
{
	Client *client = client_for("http", "elsewhere.test", 80);

	(void) state;
	client->request.loopback_only = false;
	expect_failure(client, false);
	assert_int_equal(atomic_exchange(&connects_elsewhere, 0), 1);
	client_free(client);
}

static void
no_socket_is_left_to_a_child(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	Result result;
	int fd;

	(void) state;
	perform(client, &result);
	for (fd = 3; fd < 256; fd++)
	{
		struct sockaddr_storage peer;
		socklen_t len = sizeof(peer);

		if (getpeername(fd, (struct sockaddr *) &peer, &len) == 0 && peer.ss_family == AF_INET &&
		    ((struct sockaddr_in *) &peer)->sin_port == htons((uint16_t) server->port))
			assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	}
	assert_true(fcntl(kt_http_fd(client->http), F_GETFD) & FD_CLOEXEC);
	free(result.body);
	client_free(client);
	stop_server(server);
}

/* ---- many ---------------------------------------------------------------------------------------------------------- */

#define CONCURRENT 1000

/* Holds the first connection until all the others are in, then answers every one of them. */
static void
answer_all_at_once(Server *server, int fd, int nth)
{
	static int fds[CONCURRENT];
	int i;

	(void) nth;
	fds[0] = dup(fd);
	for (i = 1; i < CONCURRENT; i++)
		fds[i] = accept(server->listener, NULL, NULL);
	for (i = 0; i < CONCURRENT; i++)
		(void) read_request(server, fds[i]);
	for (i = 0; i < CONCURRENT; i++)
	{
		send_text(fds[i], server->text != NULL ? server->text : OK_ANSWER);
		close(fds[i]);
	}
}

static void
run_all_at_once(Client *client)
{
	int i;

	for (i = 0; i < CONCURRENT; i++)
		submit(client);
	assert_int_equal(kt_http_active(client->http), CONCURRENT);
	for (i = 0; i < CONCURRENT; i++)
	{
		KtHttpAnswer answer;
		KtHttpTransfer *transfer = finish(client, &answer);

		assert_int_equal(answer.curl_code, 0);
		assert_int_equal(answer.status, 200);
		kt_http_release(client->http, transfer);
	}
	assert_int_equal(kt_http_active(client->http), 0);
}

static void
a_thousand_transfers_run_at_once(void **state)
{
	Server *server = start(answer_all_at_once);
	Client *client = client_of(server);

	(void) state;
	run_all_at_once(client);
	client_free(client);
	assert_int_equal(stop_server(server), CONCURRENT);
}

/* A list's answer is large, and any of the idle transfers may be the one that asks for it. */
static void
a_transfer_does_not_keep_the_memory_of_a_large_answer(void **state)
{
	char text[30100];
	Server *server;
	Client *client;
	size_t small;

	(void) state;
	server = start(answer_all_at_once);
	client = client_of(server);
	kt_http_keep(client->http, CONCURRENT);
	run_all_at_once(client);
	small = heap_in_use();
	stop_server(server);
	snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n%030000d", 0);
	server = start_with_text(answer_all_at_once, text);
	snprintf(client->url, sizeof(client->url), "http://127.0.0.1:%d/api/calls", server->port);
	run_all_at_once(client);
	assert_true(heap_in_use() < small + CONCURRENT * 1000);
	client_free(client);
	stop_server(server);
}

static void
a_thousand_time_outs_end_in_one_step(void **state)
{
	Blackhole hole;
	Client *client;
	int i;

	(void) state;
	blackhole_open(&hole);
	client = client_for("http", "127.0.0.1", hole.port);
	client->request.connect_timeout_ms = 500;
	for (i = 0; i < CONCURRENT; i++)
		submit(client);
	for (i = 0; i < CONCURRENT; i++)
	{
		KtHttpAnswer answer;
		KtHttpTransfer *transfer = finish(client, &answer);

		assert_int_equal(answer.curl_code, 28);
		assert_int_equal(answer.bytes_sent, 0);
		kt_http_release(client->http, transfer);
	}
	if (!under_valgrind())
		assert_true(client->longest_step < PROMPT_US);
	client_free(client);
	blackhole_close(&hole);
}

static void
memory_is_flat_over_twenty_thousand_transfers(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	int total = under_valgrind() ? 1000 : 20000;
	size_t warm = 0;
	int i;

	(void) state;
	for (i = 0; i < total; i++)
	{
		KtHttpAnswer answer;

		if (i == total / 10)
			warm = heap_in_use();
		submit(client);
		kt_http_release(client->http, finish(client, &answer));
		assert_int_equal(answer.curl_code, 0);
	}
	assert_true(heap_in_use() <= warm + 16384);
	assert_int_equal(atomic_load(&server->connections), 1);
	client_free(client);
	stop_server(server);
}

static void
memory_is_flat_over_transfers_that_fail(void **state)
{
	Server *server = start_with_text(break_off, "R");
	Client *client = client_of(server);
	int total = under_valgrind() ? 200 : 2000;
	size_t warm = 0;
	int i;

	(void) state;
	for (i = 0; i < total; i++)
	{
		KtHttpAnswer answer;

		if (i == total / 2)
			warm = heap_in_use();
		submit(client);
		kt_http_release(client->http, finish(client, &answer));
		assert_int_not_equal(answer.curl_code, 0);
	}
	assert_true(heap_in_use() <= warm + 16384);
	client_free(client);
	stop_server(server);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		http_test(a_resolver_thread_has_every_signal_blocked_and_the_owner_its_own_mask),
		http_test(loopback_only_refuses_any_other_address_before_connecting),
		http_test(without_loopback_only_another_address_is_tried),
		http_test(no_socket_is_left_to_a_child),
		http_test(a_thousand_transfers_run_at_once),
		http_test(a_transfer_does_not_keep_the_memory_of_a_large_answer),
		http_test(a_thousand_time_outs_end_in_one_step),
		http_test(memory_is_flat_over_twenty_thousand_transfers),
		http_test(memory_is_flat_over_transfers_that_fail),
	};

	main_thread = pthread_self();
	(void) signal(SIGPIPE, SIG_IGN); /* as in a server process */
	return cmocka_run_group_tests_name("http", tests, set_hostile_environment,
	                                   remove_hostile_environment);
}
