/*
 * httpd.c on loopback: who makes room when all places are taken, and who does not.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "httpd_harness.h"

#include <netinet/tcp.h>
#include <sys/syscall.h>

#define BEGUN "POST /webhook/secret HTTP/1.1\r\nX-Slow: "

static Pair pair;

/* How often the kernel was asked about a connection. */
static int looks;

/* Called instead of the C library's. */
int
getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict size)
{
	looks += level == IPPROTO_TCP && name == TCP_INFO;
	return (int) syscall(SYS_getsockopt, fd, level, name, value, size);
}

/* Begins a head that fills its segment; more of it may be on its way. */
static void
begin_large(Client *client)
{
	char text[2100];

	memset(text, 'a', sizeof(text));
	memcpy(text, BEGUN, sizeof(BEGUN) - 1);
	send_bytes(client, text, sizeof(text));
}

static void
beyond_the_limit_clients_wait_in_the_kernel(void **state)
{
	KtHttpdOptions options = default_options();
	Client *all[3];
	int i;

	(void) state;
	options.max_connections = 2;
	begin_server(&options);
	server.answer = 0;
	for (i = 0; i < 3; i++)
	{
		all[i] = connect_plain();
		post(all[i], "{}");
	}
	UNTIL(server.nheld == 2);
	assert_true(let_pass(50 * MS) <= 2);
	assert_int_equal(counters().connections, 2);
	assert_int_equal(counters().refused, 0);
	server.answer = 200;
	kt_httpd_answer(server.httpd, server.held[0], 200, NULL);
	kt_httpd_answer(server.httpd, server.held[1], 200, NULL);
	/* while somebody waits, an answer says that its connection closes */
	UNTIL(count_answers(all[2]) == 1);
	UNTIL(all[0]->ended);
	assert_int_equal(last_answer(all[0]), 200);
	assert_int_equal(last_answer(all[1]), 200);
	assert_non_null(strstr(all[0]->got.data, "Connection: close"));
	end_server();
}

static void
a_connection_that_has_just_been_answered_is_not_closed_for_room(void **state)
{
	KtHttpdOptions options = default_options();
	Client *regular;
	Client *next;
	int64_t answered;

	(void) state;
	options.max_connections = 1;
	begin_server(&options);
	regular = connect_plain();
	post(regular, "{}");
	UNTIL(count_answers(regular) == 1);
	answered = kt_httpd_now();
	assert_null(strstr(regular->got.data, "Connection: close"));
	next = connect_plain();
	post(next, "{}");
	UNTIL(count_answers(next) == 1);
	assert_true(regular->ended);
	assert_true(kt_httpd_now() - answered >= 990 * MS);
	assert_true(server.steps < 30);
	end_server();
}

/* What it has sent of it is with the library, and no more in the kernel. */
static void
who_has_begun_its_next_request_is_waited_for(void **state)
{
	KtHttpdOptions options = default_options();
	Client *regular;
	Client *next;

	(void) state;
	options.max_connections = 1;
	begin_server(&options);
	regular = connect_plain();
	post(regular, "{}");
	UNTIL(count_answers(regular) == 1);
	let_pass(900 * MS);
	say(regular, "POST /webhook/se");
	settle();
	next = connect_plain();
	post(next, "{}");
	assert_true(let_pass(400 * MS) < 60);
	assert_false(regular->ended);
	say(regular, "cret HTTP/1.1\r\nHost: kt\r\nContent-Length: 2\r\n\r\n{}");
	UNTIL(count_answers(regular) == 2);
	UNTIL(count_answers(next) == 1);
	assert_int_equal(server.total, 3);
	end_server();
}

static void
nobody_makes_room_for_none(void **state)
{
	KtHttpdOptions options = default_options();
	Client *all[2];
	int i;

	(void) state;
	options.max_connections = 2;
	begin_server(&options);
	for (i = 0; i < 2; i++)
	{
		all[i] = connect_plain();
		post(all[i], "{}");
		UNTIL(count_answers(all[i]) == 1);
	}
	assert_true(let_pass(50 * MS) <= 2);
	assert_false(all[0]->ended || all[1]->ended);
	end_server();
}

static void
when_all_places_are_taken_the_slowest_head_makes_room(void **state)
{
	KtHttpdOptions options = default_options();
	Client *slow[2];
	Client *honest;

	(void) state;
	options.max_connections = 2;
	begin_server(&options);
	slow[0] = connect_plain();
	slow[1] = connect_plain();
	say(slow[0], "POST /webhook/secret HTTP/1.1\r\nX-Slow: ");
	say(slow[1], "POST");
	UNTIL(counters().connections == 2);
	honest = connect_plain();
	post(honest, "{}");
	UNTIL(count_answers(honest) == 1);
	UNTIL(slow[0]->ended);
	assert_false(slow[1]->ended);
	assert_true(server.steps < 30);
	end_server();
}

static void
who_has_said_nothing_makes_room_before_who_has_begun(void **state)
{
	KtHttpdOptions options = default_options();
	Client *slow;
	Client *mute;
	Client *honest;

	(void) state;
	options.max_connections = 2;
	begin_server(&options);
	slow = connect_plain();
	begin_large(slow);
	settle();
	mute = connect_plain();
	UNTIL(counters().connections == 2);
	honest = connect_plain();
	post(honest, "{}");
	UNTIL(count_answers(honest) == 1);
	UNTIL(mute->ended);
	assert_false(slow->ended);
	assert_true(server.steps < 30);
	end_server();
}

static void
a_body_on_its_way_is_never_given_up_for_room(void **state)
{
	KtHttpdOptions options = default_options();
	Client *first;
	Client *second;

	(void) state;
	options.max_connections = 1;
	begin_server(&options);
	first = connect_plain();
	say(first, BODY_2 "{");
	UNTIL(counters().bytes_received == 1);
	second = connect_plain();
	post(second, "{}");
	assert_true(let_pass(1200 * MS) <= 3);
	say(first, "}");
	UNTIL(count_answers(first) == 1);
	UNTIL(count_answers(second) == 1);
	end_server();
}

/* ---- who only trickles ------------------------------------------------------------------------------------------ */

/* Sends a webhook that waits for a place, which so many of the others make for it, and kept does not. */
static void
expect_room(const Client *kept, uint64_t others, bool tls)
{
	uint64_t before = server.steps;
	Client *honest = tls ? connect_tls() : connect_plain();

	post(honest, "{}");
	UNTIL(count_answers(honest) == 1);
	assert_int_equal(last_answer(honest), 200);
	settle();
	assert_false(kept->ended);
	assert_int_equal(counters().cut_for_room, others);
	assert_true(server.steps - before < 60 + 4 * others);
}

static void
who_lets_a_head_trickle_makes_room_before_who_may_have_lost_a_part(void **state)
{
	KtHttpdOptions options = default_options();
	Client *large;
	Client *slow;

	(void) state;
	options.max_connections = 2;
	begin_server(&options);
	large = connect_plain();
	begin_large(large);
	settle();
	slow = connect_plain();
	say(slow, BEGUN);
	UNTIL(counters().connections == 2);
	expect_room(large, 1, false);
	UNTIL(slow->ended);
	end_server();
}

/* Each is counted from its own last byte, and not from when it got its place. */
static void
however_many_trickle_who_comes_behind_them_waits_for_one_round(void **state)
{
	KtHttpdOptions options = default_options();
	Client *large;
	int i;

	(void) state;
	options.max_connections = 2;
	begin_server(&options);
	large = connect_plain();
	begin_large(large);
	settle();
	for (i = 0; i < 20; i++)
		say(connect_plain(), i % 2 != 0 ? "P" : BEGUN);
	expect_room(large, 20, false);
	end_server();
}

static void
however_many_say_nothing_who_comes_behind_them_waits_for_one_round(void **state)
{
	KtHttpdOptions options = default_options();
	Client *large;
	int i;

	(void) state;
	options.max_connections = 2;
	begin_server(&options);
	large = connect_plain();
	begin_large(large);
	settle();
	for (i = 0; i < 20; i++)
		connect_plain();
	expect_room(large, 20, false);
	end_server();
}

static void
who_has_sent_a_request_before_does_not_trickle(void **state)
{
	KtHttpdOptions options = default_options();
	Client *known;

	(void) state;
	options.max_connections = 2;
	begin_server(&options);
	known = connect_plain();
	post(known, "{}");
	UNTIL(count_answers(known) == 1);
	say(known, BEGUN);
	settle();
	say(connect_plain(), BEGUN);
	UNTIL(counters().connections == 2);
	expect_room(known, 1, false);
	end_server();
}

static void
a_trusted_proxy_does_not_trickle(void **state)
{
	KtHttpdNetwork network = {.prefix = 32};
	struct sockaddr_in *in = (struct sockaddr_in *) &network.address;
	KtHttpdOptions options = default_options();
	Client *proxy;

	(void) state;
	in->sin_family = AF_INET;
	in->sin_addr.s_addr = htonl(0x7F000009);
	options.max_connections = 2;
	options.proxies = &network;
	options.nproxies = 1;
	begin_server(&options);
	proxy = connect_from("127.0.0.9");
	say(proxy, BEGUN);
	settle();
	say(connect_plain(), BEGUN);
	UNTIL(counters().connections == 2);
	expect_room(proxy, 1, false);
	end_server();
}

static void
a_client_that_waits_for_a_handshake_does_not_trickle(void **state)
{
	KtHttpdOptions options = tls_options(&pair);
	Client *waiting;
	Client *slow;

	(void) state;
	options.max_connections = 2;
	begin_server(&options);
	waiting = connect_plain();
	say_hello(waiting);
	UNTIL(waiting->got.len > 0);
	slow = connect_plain();
	send_bytes(slow, "\x16\x03\x01\x02", 4);
	UNTIL(counters().connections == 2);
	expect_room(waiting, 1, true);
	UNTIL(slow->ended);
	end_server();
}

/* All are due in the same moment, and each of those behind them needs one to make room. */
static void
however_many_are_slow_at_once_each_is_looked_at_a_few_times(void **state)
{
	enum
	{
		PLACES = 60
	};
	KtHttpdOptions options = default_options();
	int i;

	(void) state;
	options.max_connections = PLACES;
	begin_server(&options);
	for (i = 0; i < PLACES; i++)
		begin_large(connect_plain());
	UNTIL(counters().connections == PLACES);
	looks = 0;
	for (i = 0; i < PLACES; i++)
		begin_large(connect_plain());
	UNTIL(counters().cut_for_room == PLACES);
	assert_in_range(looks, PLACES, 20 * PLACES);
	end_server();
}

/* The rest came while the server was busy elsewhere, and waits in the kernel. */
static void
a_slow_head_whose_end_has_come_is_not_given_up(void **state)
{
	KtHttpdOptions options = default_options();
	Client *slow;
	Client *next;
	int64_t busy_until;

	(void) state;
	options.max_connections = 1;
	begin_server(&options);
	slow = connect_plain();
	say(slow, "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\n");
	UNTIL(counters().connections == 1);
	settle();
	next = connect_plain();
	post(next, "{}");
	say(slow, "Content-Length: 2\r\n\r\n{}");
	busy_until = kt_httpd_now() + 1100 * MS;
	while (kt_httpd_now() < busy_until)
		poll(NULL, 0, 10);
	UNTIL(count_answers(next) == 1);
	assert_int_equal(last_answer(slow), 200);
	assert_int_equal(server.total, 2);
	end_server();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(beyond_the_limit_clients_wait_in_the_kernel),
		cmocka_unit_test(a_connection_that_has_just_been_answered_is_not_closed_for_room),
		cmocka_unit_test(who_has_begun_its_next_request_is_waited_for),
		cmocka_unit_test(nobody_makes_room_for_none),
		cmocka_unit_test(when_all_places_are_taken_the_slowest_head_makes_room),
		cmocka_unit_test(who_has_said_nothing_makes_room_before_who_has_begun),
		cmocka_unit_test(a_body_on_its_way_is_never_given_up_for_room),
		cmocka_unit_test(who_lets_a_head_trickle_makes_room_before_who_may_have_lost_a_part),
		cmocka_unit_test(however_many_trickle_who_comes_behind_them_waits_for_one_round),
		cmocka_unit_test(however_many_say_nothing_who_comes_behind_them_waits_for_one_round),
		cmocka_unit_test(who_has_sent_a_request_before_does_not_trickle),
		cmocka_unit_test(a_trusted_proxy_does_not_trickle),
		cmocka_unit_test(a_client_that_waits_for_a_handshake_does_not_trickle),
		cmocka_unit_test(however_many_are_slow_at_once_each_is_looked_at_a_few_times),
		cmocka_unit_test(a_slow_head_whose_end_has_come_is_not_given_up),
	};

	gnutls_global_init();
	make_pair(&pair, "room.test", time(NULL) + 86400);
	return cmocka_run_group_tests_name("httpd_room", tests, NULL, NULL);
}
