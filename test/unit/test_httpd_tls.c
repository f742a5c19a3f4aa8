/*
 * The HTTP server on loopback: certificates, TLS.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "httpd_harness.h"

#include <sys/stat.h>

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
	assert_true(let_pass(100 * MS) <= 15);
	honest = connect_tls();
	post(honest, "{}");
	UNTIL(count_answers(honest) == 1);
	assert_true(let_pass(50 * MS) <= 10);
	UNTIL(stalled->ended);
	assert_false(honest->ended);
	assert_int_equal(counters().timeouts, 1);
	end_server();
}

/* What the library reads from GnuTLS's own buffer does not show, and more may be left in the socket. */
static void
requests_behind_one_another_are_served_however_long_their_heads_are(void **state)
{
	KtHttpdOptions options = tls_options(&first_pair);
	char bytes[40000];
	int pad;
	int i;

	(void) state;
	options.header_us = options.body_us = options.idle_us = 5000 * MS;
	begin_server(&options);
	for (pad = 1000; pad <= 13000; pad += 250)
	{
		Client *client = connect_tls();
		size_t len = 0;

		for (i = 0; i < 3; i++)
			len += (size_t) snprintf(bytes + len, sizeof(bytes) - len,
			                         "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nX: %0*d\r\n"
			                         "Content-Length: 2\r\n\r\n{}",
			                         pad, 0);
		assert_true(send_bytes(client, bytes, len));
		UNTIL(client->ended || count_answers(client) == 3);
		assert_int_equal(count_answers(client), 3);
		assert_int_equal(last_answer(client), 200);
		forget_client(client);
	}
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

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_certificate_is_shown_to_new_connections_only),
		cmocka_unit_test(a_bad_pair_is_refused_with_words_and_the_old_one_stays),
		cmocka_unit_test(the_end_of_a_certificate_is_known),
		cmocka_unit_test(tls_is_not_turned_on_or_off_in_a_running_server),
		cmocka_unit_test(nothing_older_than_tls_1_2_is_spoken),
		cmocka_unit_test(requests_behind_one_another_are_served_however_long_their_heads_are),
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
	return cmocka_run_group_tests_name("httpd_tls", tests, NULL, NULL);
}
