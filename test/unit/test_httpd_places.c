/*
 * The HTTP server on loopback: the share of an address, descriptors, room for bodies. Who makes room when all places
 * are taken is in test_httpd_room.c.
 *
 * accept4() is this program's own: it can lie about the client's address, since all of loopback is excepted from
 * the limit per address, and can run out of descriptors.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "httpd_harness.h"

#include <dlfcn.h>

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

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_address_gets_no_more_than_its_share),
		cmocka_unit_test(a_trusted_proxy_and_loopback_have_no_share),
		cmocka_unit_test(without_descriptors_the_server_pauses_and_recovers),
		cmocka_unit_test(bodies_are_held_up_to_a_total),
	};
	return cmocka_run_group_tests_name("httpd_places", tests, NULL, NULL);
}
