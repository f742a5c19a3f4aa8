/*
 * The HTTP client: giving up and time-outs, at every moment, without ever waiting.
 */
#include "servers.h"

/* ---- giving up: at every moment, at once, for good -------------------------------------------------------------- */

static int64_t
abort_promptly(Client *client, KtHttpTransfer *transfer)
{
	int64_t began = kt_http_now();
	int64_t sent = kt_http_abort(client->http, transfer);

	assert_true(kt_http_now() - began < PROMPT_US);
	assert_int_equal(kt_http_active(client->http), 0);
	return sent;
}

/* Another request on the same client works. */
static void
expect_works_after(Client *client)
{
	Server *good = start(answer_all);
	char url[128];
	Result result;

	snprintf(url, sizeof(url), "http://127.0.0.1:%d/", good->port);
	client->request.url = url;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_int_equal(atomic_load(&good->requests), 1);
	free(result.body);
	client->request.url = client->url;
	stop_server(good);
}

/* Steps for a while, during which nothing is to happen. */
static void
step_for(Client *client, int ms)
{
	int64_t end = kt_http_now() + ms * 1000LL;
	KtHttpAnswer answer;

	while (kt_http_now() < end)
	{
		step(client);
		assert_null(kt_http_reap(client->http, &answer));
		wait_for_work(client, 5);
	}
}

static void
an_abort_before_the_first_step_sends_nothing(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	Result result;

	(void) state;
	/* once on a new handle, once on one that has the figures of a transfer before */
	assert_int_equal(abort_promptly(client, submit(client)), 0);
	step_for(client, 50);
	assert_int_equal(atomic_load(&server->connections), 0);
	perform(client, &result);
	free(result.body);
	assert_int_equal(abort_promptly(client, submit(client)), 0);
	step_for(client, 50);
	assert_int_equal(atomic_load(&server->requests), 1);
	expect_works_after(client);
	client_free(client);
	stop_server(server);
}

static void
an_abort_while_resolving_returns_at_once_and_sends_nothing_later(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_for("http", "slow.test", server->port);
	KtHttpTransfer *transfer;

	(void) state;
	hold_resolver();
	transfer = submit(client);
	STEP_UNTIL(client, atomic_load(&resolver_inside) >= 1);
	assert_int_equal(abort_promptly(client, transfer), 0);
	expect_works_after(client);
	assert_true(atomic_load(&resolver_inside) >= 1);
	release_resolver();
	STEP_UNTIL(client, atomic_load(&resolver_inside) == 0);
	step_for(client, 700); /* libcurl asks its resolver each 250 ms at the latest */
	assert_int_equal(atomic_load(&server->connections), 0);
	assert_true(client->longest_step < PROMPT_US);
	client_free(client);
	stop_server(server);
}

/* The name is resolved and a connection to it kept: the parked transfer must not take that one either. */
static void
an_abort_while_resolving_does_not_use_a_kept_connection_later(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_for("http", "slow.test", server->port);
	KtHttpTransfer *transfer;
	char url[128];
	Result result;

	(void) state;
	hold_resolver();
	transfer = submit(client);
	STEP_UNTIL(client, atomic_load(&resolver_inside) >= 1);
	(void) abort_promptly(client, transfer);
	/* while that one is stuck, a connection to the same port comes into being */
	snprintf(url, sizeof(url), "http://127.0.0.1:%d/", server->port);
	client->request.url = url;
	perform(client, &result);
	free(result.body);
	release_resolver();
	STEP_UNTIL(client, atomic_load(&resolver_inside) == 0);
	step_for(client, 700);
	assert_int_equal(atomic_load(&server->requests), 1);
	assert_int_equal(atomic_load(&server->connections), 1);
	client_free(client);
	stop_server(server);
}

static void
an_abort_while_connecting_returns_at_once(void **state)
{
	Blackhole hole;
	Client *client;
	KtHttpTransfer *transfer;

	(void) state;
	blackhole_open(&hole);
	client = client_for("http", "127.0.0.1", hole.port);
	transfer = submit(client);
	step_for(client, 50);
	assert_int_equal(abort_promptly(client, transfer), 0);
	expect_works_after(client);
	client_free(client);
	blackhole_close(&hole);
}

static void
an_abort_in_the_tls_handshake_returns_at_once_and_sends_no_request(void **state)
{
	Server *server = start(stall);
	Client *client = client_for("https", "127.0.0.1", server->port);
	KtHttpTransfer *transfer = submit(client);

	(void) state;
	STEP_UNTIL(client, atomic_load(&server->received) > 0); /* a ClientHello */
	assert_int_equal(abort_promptly(client, transfer), 0);
	expect_works_after(client);
	assert_int_equal(atomic_load(&server->connections), 1);
	client_free(client);
	stop_server(server);
}

static void
abort_after_sending(Script script, size_t wanted)
{
	Server *server = start(script);
	Client *client = client_of(server);
	KtHttpTransfer *transfer = submit(client);
	int64_t received;

	STEP_UNTIL(client, atomic_load(&server->requests) == 1);
	if (wanted > 0)
		step_for(client, 100);
	assert_true(abort_promptly(client, transfer) > 0);
	received = atomic_load(&server->received);
	expect_works_after(client);
	step_for(client, 50);
	assert_int_equal(atomic_load(&server->received), received);
	assert_int_equal(atomic_load(&server->connections), 1);
	client_free(client);
	stop_server(server);
}

static void
an_abort_after_the_request_says_that_something_was_sent(void **state)
{
	(void) state;
	abort_after_sending(hang, 0);
}

static void
an_abort_in_the_middle_of_an_answer_says_that_something_was_sent(void **state)
{
	(void) state;
	abort_after_sending(answer_half, 1);
}

static void
an_abort_of_a_finished_transfer_that_was_not_reaped_is_clean(void **state)
{
	Server *server = start(close_after_answer);
	Client *client = client_of(server);
	KtHttpTransfer *transfer = submit(client);
	KtHttpAnswer answer;

	(void) state;
	STEP_UNTIL(client, atomic_load(&server->requests) == 1);
	await_closed(server, 1);
	step(client);
	assert_true(abort_promptly(client, transfer) > 0);
	assert_null(kt_http_reap(client->http, &answer));
	expect_works_after(client);
	client_free(client);
	stop_server(server);
}

static void
an_abort_of_an_expired_transfer_that_was_not_reaped_is_clean(void **state)
{
	Server *server = start(hang);
	Client *client = client_of(server);
	KtHttpTransfer *first;
	KtHttpTransfer *second;
	KtHttpAnswer answer;

	(void) state;
	client->request.request_timeout_ms = 100;
	first = submit(client);
	second = submit(client);
	usleep(150000);
	step(client);
	step(client);
	(void) kt_http_abort(client->http, first);
	(void) kt_http_abort(client->http, second);
	assert_int_equal(kt_http_active(client->http), 0);
	assert_null(kt_http_reap(client->http, &answer));
	client->request.request_timeout_ms = 30000;
	expect_works_after(client);
	client_free(client);
	stop_server(server);
}

/* ---- time-outs -------------------------------------------------------------------------------------------------- */

static void
expect_timeout(Client *client, long connect_ms, long request_ms, const char *words, bool sent)
{
	int64_t began = kt_http_now();
	Result result;

	client->request.connect_timeout_ms = connect_ms;
	client->request.request_timeout_ms = request_ms;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 28);
	assert_string_equal(result.error, words);
	assert_int_equal(result.answer.bytes_sent > 0, sent);
	assert_true(kt_http_now() - began >=
	            (connect_ms < request_ms ? connect_ms : request_ms) * 1000);
	assert_true(kt_http_now() - began < STUCK_MS * 1000LL - PROMPT_US);
	assert_true(client->longest_step < PROMPT_US);
	free(result.body);
}

static void
resolving_times_out_without_blocking_and_the_next_transfer_works(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_for("http", "slow.test", server->port);

	(void) state;
	hold_resolver();
	expect_timeout(client, 150, 30000, "timed out while resolving the host's name", false);
	expect_timeout(client, 30000, 150, "timed out while resolving the host's name", false);
	expect_works_after(client);
	release_resolver();
	STEP_UNTIL(client, atomic_load(&resolver_inside) == 0);
	step_for(client, 700);
	assert_int_equal(atomic_load(&server->connections), 0);
	assert_true(client->longest_step < PROMPT_US);
	/* and now that the resolver answers at once */
	client->request.request_timeout_ms = client->request.connect_timeout_ms = 30000;
	expect_works_after(client);
	client_free(client);
	stop_server(server);
}

static void
connecting_times_out(void **state)
{
	Blackhole hole;
	Client *client;

	(void) state;
	blackhole_open(&hole);
	client = client_for("http", "127.0.0.1", hole.port);
	expect_timeout(client, 200, 30000, "timed out while connecting", false);
	expect_timeout(client, 30000, 200, "timed out while connecting", false);
	expect_works_after(client);
	client_free(client);
	blackhole_close(&hole);
}

static void
the_tls_handshake_times_out(void **state)
{
	Server *server = start(stall);
	Client *client = client_for("https", "127.0.0.1", server->port);

	(void) state;
	expect_timeout(client, 200, 30000, "timed out in the TLS handshake", false);
	client_free(client);
	stop_server(server);
}

static void
waiting_for_an_answer_times_out_by_the_request_timeout_only(void **state)
{
	Server *server = start(hang);
	Client *client = client_of(server);
	int64_t began = kt_http_now();

	(void) state;
	expect_timeout(client, 100, 500, "timed out while waiting for the answer", true);
	assert_true(kt_http_now() - began >= 500000);
	assert_int_equal(atomic_load(&server->requests), 1);
	client_free(client);
	stop_server(server);
}

static void
reading_an_answer_times_out(void **state)
{
	Server *server = start(answer_half);
	Client *client = client_of(server);

	(void) state;
	expect_timeout(client, 30000, 300, "timed out while reading the answer", true);
	client_free(client);
	stop_server(server);
}

/* A byte now and then keeps nothing alive. */
static void
drip(Server *server, int fd, int nth)
{
	(void) nth;
	if (!read_request(server, fd) ||
	    !send_text(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"))
		return;
	while (!atomic_load(&server->released) && send_text(fd, "x"))
		usleep(10000);
}

static void
a_dripping_answer_times_out(void **state)
{
	Server *server = start(drip);
	Client *client = client_of(server);

	(void) state;
	expect_timeout(client, 30000, 400, "timed out while reading the answer", true);
	client_free(client);
	stop_server(server);
}

/* The owner was away (stopped, swapped out) until after the deadline; the answer had come in time. */
static void
an_answer_that_is_there_when_the_deadline_is_noticed_counts(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	Result result;
	KtHttpTransfer *transfer;

	(void) state;
	client->request.request_timeout_ms = 300;
	transfer = submit(client);
	STEP_UNTIL(client, atomic_load(&server->requests) == 1);
	usleep(500000);
	assert_ptr_equal(finish(client, &result.answer), transfer);
	assert_int_equal(result.answer.curl_code, 0);
	assert_int_equal(result.answer.status, 200);
	kt_http_release(client->http, transfer);
	client_free(client);
	stop_server(server);
}

static void
the_deadline_told_is_the_nearest_one(void **state)
{
	Server *server = start(hang);
	Client *client = client_of(server);
	KtHttpTransfer *transfers[3];
	int64_t now;
	size_t i;

	(void) state;
	assert_int_equal(kt_http_deadline(client->http), -1);
	client->request.request_timeout_ms = 5000;
	transfers[0] = submit(client);
	client->request.request_timeout_ms = 2000;
	transfers[1] = submit(client);
	client->request.request_timeout_ms = 9000;
	transfers[2] = submit(client);
	now = kt_http_now();
	assert_true(kt_http_deadline(client->http) <= now);
	step_for(client, 300);
	assert_in_range(kt_http_deadline(client->http), 0, now + 2000000);
	for (i = 0; i < lengthof(transfers); i++)
		(void) kt_http_abort(client->http, transfers[i]);
	assert_int_equal(kt_http_active(client->http), 0);
	client_free(client);
	stop_server(server);
}

/* An owner that waits as told neither spins nor sleeps past anything. */
static void
waiting_takes_no_processor_time(void **state)
{
	Server *server = start(hang);
	Client *client = client_of(server);
	struct rusage before;
	struct rusage after;
	int64_t spent;

	(void) state;
	(void) getrusage(RUSAGE_THREAD, &before);
	expect_timeout(client, 30000, 1500, "timed out while waiting for the answer", true);
	(void) getrusage(RUSAGE_THREAD, &after);
	spent = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000LL + after.ru_utime.tv_usec -
	        before.ru_utime.tv_usec;
	if (!under_valgrind())
		assert_true(spent < 500000);
	client_free(client);
	stop_server(server);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		http_test(an_abort_before_the_first_step_sends_nothing),
		http_test(an_abort_while_resolving_returns_at_once_and_sends_nothing_later),
		http_test(an_abort_while_resolving_does_not_use_a_kept_connection_later),
		http_test(an_abort_while_connecting_returns_at_once),
		http_test(an_abort_in_the_tls_handshake_returns_at_once_and_sends_no_request),
		http_test(an_abort_after_the_request_says_that_something_was_sent),
		http_test(an_abort_in_the_middle_of_an_answer_says_that_something_was_sent),
		http_test(an_abort_of_a_finished_transfer_that_was_not_reaped_is_clean),
		http_test(an_abort_of_an_expired_transfer_that_was_not_reaped_is_clean),
		http_test(resolving_times_out_without_blocking_and_the_next_transfer_works),
		http_test(connecting_times_out),
		http_test(the_tls_handshake_times_out),
		http_test(waiting_for_an_answer_times_out_by_the_request_timeout_only),
		http_test(reading_an_answer_times_out),
		http_test(a_dripping_answer_times_out),
		http_test(an_answer_that_is_there_when_the_deadline_is_noticed_counts),
		http_test(the_deadline_told_is_the_nearest_one),
		http_test(waiting_takes_no_processor_time),
	};

	main_thread = pthread_self();
	(void) signal(SIGPIPE, SIG_IGN); /* as in a server process */
	return cmocka_run_group_tests_name("http", tests, set_hostile_environment,
	                                   remove_hostile_environment);
}
