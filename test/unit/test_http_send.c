/*
 * The HTTP client: what goes out, that it goes out once, and what is known of how much has left.
 */
#include "servers.h"

#include <curl/curl.h>
#include <dlfcn.h>

/* ---- libcurl 8.7, which does not count what of a request has left, in front of whichever there is --------------- */

static bool counts_nothing;

#undef curl_easy_getinfo
CURLcode
curl_easy_getinfo(CURL *easy, CURLINFO info, ...)
{
	CURLcode (*libcurls)(CURL *, CURLINFO, ...);
	void *value;
	va_list list;
	CURLcode code;

	*(void **) &libcurls = dlsym(RTLD_NEXT, "curl_easy_getinfo");
	va_start(list, info);
	value = va_arg(list, void *);
	va_end(list);
	code = libcurls(easy, info, value);
	if (counts_nothing && info == CURLINFO_REQUEST_SIZE)
		*(long *) value = 0;
	return code;
}

curl_version_info_data *
curl_version_info(CURLversion age)
{
	static curl_version_info_data info;
	curl_version_info_data *(*libcurls)(CURLversion);

	*(void **) &libcurls = dlsym(RTLD_NEXT, "curl_version_info");
	info = *libcurls(age);
	if (counts_nothing)
		info.version_num = 0x080701;
	return &info;
}

/* Answers the first request; takes the second whole and closes. A third would be a phone that rings twice. */
static void
die_on_second_request(Server *server, int fd, int nth)
{
	if (nth > 1)
	{
		answer_all(server, fd, nth);
		return;
	}
	if (!read_request(server, fd) || !send_text(fd, OK_ANSWER))
		return;
	be_patient_for(fd, 500);
	if (read_request(server, fd) && server->text != NULL)
		reset_connection(fd);
}

static void
second_request_of(const char *reset, const char *body, Result *second)
{
	Server *server = start(die_on_second_request);
	Client *client = client_of(server);
	Result first;

	server->text = reset;
	client->request.body = body;
	perform(client, &first);
	assert_int_equal(first.answer.curl_code, 0);
	assert_false(first.answer.reused);
	perform(client, second);
	if (body != NULL)
	{
		/* libcurl may open another connection, on which it then finds that it cannot send */
		assert_int_equal(atomic_load(&server->requests), 2);
		assert_int_equal(atomic_load(&server->received), 2 * (long long) strlen(server->seen));
	}
	free(first.body);
	client_free(client);
	stop_server(server);
}

static void
a_post_on_a_reused_connection_that_dies_is_not_sent_again(void **state)
{
	static const char *const ends[] = {NULL, "reset"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(ends); i++)
	{
		Result second;

		second_request_of(ends[i], body_text, &second);
		assert_int_not_equal(second.answer.curl_code, 0);
		assert_true(second.answer.bytes_sent > 0);
		assert_int_equal(second.answer.status, 0);
		free(second.body);
	}
}

/* Answers the first request; resets the connection as soon as the second one's first bytes come. */
static void
reset_at_second_head(Server *server, int fd, int nth)
{
	char bytes[64];

	if (nth > 1)
	{
		answer_all(server, fd, nth);
		return;
	}
	if (!read_request(server, fd) || !send_text(fd, OK_ANSWER))
		return;
	reset_connection(fd);
	(void) recv(fd, bytes, sizeof(bytes), 0);
}

/*
 * When nothing of the body has left yet there is nothing to rewind, and libcurl repeats the POST. What has
 * left is then no proof any more, so it must not. A large body is what libcurl sends apart from the head.
 */
static void
a_post_whose_reused_connection_dies_after_its_head_is_not_sent_again(void **state)
{
	static char large[60000];
	int i;

	(void) state;
	memset(large, 'x', sizeof(large));
	for (i = 0; i < 20; i++)
	{
		Server *server = start(reset_at_second_head);
		Client *client = client_of(server);
		Result result;

		perform(client, &result);
		free(result.body);
		client->request.body = large;
		client->request.body_len = sizeof(large);
		perform(client, &result);
		assert_int_not_equal(result.answer.curl_code, 0);
		assert_true(result.answer.bytes_sent > 0);
		assert_int_equal(atomic_load(&server->requests), 1);
		free(result.body);
		client_free(client);
		stop_server(server);
	}
}

/* Resets a connection while its descriptor stays open. */
static void
break_connection(int fd)
{
	struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

	reset_connection(fd);
	(void) connect(fd, &nowhere, sizeof(nowhere));
}

/*
 * Answers a request on each of two connections, then takes one more whole, on either of them, and ends that
 * connection, as the text says, without an answer. What comes then on the other one it takes.
 */
static void
die_beside_another(Server *server, int fd, int nth)
{
	struct pollfd polls[2] = {{.fd = fd, .events = POLLIN}, {.events = POLLIN}};
	int dying;
	int i;

	if (nth > 1)
	{
		answer_all(server, fd, nth);
		return;
	}
	polls[1].fd = accept(server->listener, NULL, NULL);
	for (i = 0; i < 2; i++)
		if (!read_request(server, polls[i].fd) || !send_text(polls[i].fd, OK_ANSWER))
			return;
	if (poll(polls, 2, TEST_SECONDS * 1000) < 1)
		return;
	dying = polls[0].revents != 0 ? 0 : 1;
	(void) read_request(server, polls[dying].fd);
	if (server->text != NULL)
		break_connection(polls[dying].fd);
	else
		shutdown(polls[dying].fd, SHUT_RDWR);
	be_patient_for(polls[1 - dying].fd, 500);
	if (read_request(server, polls[1 - dying].fd))
		send_text(polls[1 - dying].fd, OK_ANSWER);
	close(polls[1].fd);
}

/* libcurl has another connection at hand, for which it need not ask for a socket. */
static void
a_post_is_not_sent_again_on_another_kept_connection(void **state)
{
	static char large[60000];
	int i;

	(void) state;
	memset(large, 'x', sizeof(large));
	for (i = 0; i < 4; i++)
	{
		Server *server = start_with_text(die_beside_another, "reset");
		Client *client = client_of(server);
		KtHttpAnswer answer;
		Result result;

		if (i % 2 == 0)
			server->text = NULL;
		submit(client);
		submit(client);
		kt_http_release(client->http, finish(client, &answer));
		kt_http_release(client->http, finish(client, &answer));
		assert_int_equal(atomic_load(&server->requests), 2);
		if (i >= 2)
		{
			client->request.body = large;
			client->request.body_len = sizeof(large);
		}
		perform(client, &result);
		assert_int_not_equal(result.answer.curl_code, 0);
		assert_true(result.answer.bytes_sent > 0);
		free(result.body);
		client_free(client);
		assert_int_equal(stop_server(server), 3);
	}
}

/* Its count of the body is set back before it sends once more. */
static void
a_post_is_not_sent_again_by_a_libcurl_that_forgets_what_it_sent(void **state)
{
#if LIBCURL_VERSION_NUM >= 0x075000
	counts_nothing = true;
	a_post_on_a_reused_connection_that_dies_is_not_sent_again(state);
	a_post_is_not_sent_again_on_another_kept_connection(state);
	counts_nothing = false;
#else
	(void) state; /* there it is the read callback that keeps it from being sent again */
	(void) counts_nothing;
#endif
}

static void
an_empty_post_is_not_sent_again_either(void **state)
{
	Result second;
	Client *client;
	Server *server = start(die_on_second_request);

	(void) state;
	client = client_of(server);
	client->request.body = "";
	client->request.body_len = 0;
	perform(client, &second);
	free(second.body);
	perform(client, &second);
	assert_int_equal(atomic_load(&server->requests), 2);
	free(second.body);
	client_free(client);
	stop_server(server);
}

static void
a_get_on_a_reused_connection_that_dies_is_repeated_by_libcurl(void **state)
{
	Result second;

	(void) state;
	second_request_of(NULL, NULL, &second);
	assert_int_equal(second.answer.curl_code, 0);
	free(second.body);
}

static void
a_connection_that_was_closed_while_idle_is_replaced(void **state)
{
	Server *server = start(close_after_answer);
	Client *client = client_of(server);
	Result result;
	int i;

	(void) state;
	for (i = 1; i <= 3; i++)
	{
		perform(client, &result);
		assert_int_equal(result.answer.curl_code, 0);
		assert_false(result.answer.reused);
		free(result.body);
		await_closed(server, i);
	}
	assert_int_equal(atomic_load(&server->requests), 3);
	assert_int_equal(atomic_load(&server->connections), 3);
	client_free(client);
	stop_server(server);
}

static void
a_connection_is_kept_and_said_to_be_reused(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	Result result;
	int i;

	(void) state;
	for (i = 0; i < 5; i++)
	{
		perform(client, &result);
		assert_int_equal(result.answer.curl_code, 0);
		assert_int_equal(result.answer.reused, i > 0);
		free(result.body);
	}
	assert_int_equal(atomic_load(&server->connections), 1);
	assert_int_equal(atomic_load(&server->requests), 5);
	client_free(client);
	stop_server(server);
}

/* ---- bytes_sent: the proof that nothing left ---------------------------------------------------------------- */

static void
nothing_was_sent_to_a_closed_port(void **state)
{
	Client *client;
	int port;
	int fd = listen_locally(1, &port);

	(void) state;
	close(fd);
	client = client_for("http", "127.0.0.1", port);
	expect_failure(client, false);
	client_free(client);
}

static void
nothing_was_sent_to_a_name_that_does_not_exist(void **state)
{
	Client *client = client_for("http", "nowhere.invalid", 80);

	(void) state;
	expect_failure(client, false);
	client_free(client);
}

static void
nothing_was_sent_to_a_url_that_is_none(void **state)
{
	static const char *const urls[] = {"http://",
	                                   "http://127.0.0.1:99999/",
	                                   "ftp://127.0.0.1/",
	                                   "file:///etc/passwd",
	                                   "gopher://127.0.0.1/x",
	                                   "http://a b/"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(urls); i++)
	{
		Client *client = client_for("http", "127.0.0.1", 1);

		client->request.url = urls[i];
		expect_failure(client, false);
		client_free(client);
	}
}

/* Answers a ClientHello with plain HTTP. */
static void
speak_plainly(Server *server, int fd, int nth)
{
	char hello[1024];
	ssize_t n = recv(fd, hello, sizeof(hello), 0);

	(void) nth;
	if (n > 0)
		atomic_fetch_add(&server->received, n);
	send_text(fd, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
}

/* Closes in the middle of the handshake. */
static void
hang_up_on_hello(Server *server, int fd, int nth)
{
	char hello[16];

	(void) nth;
	(void) server;
	if (recv(fd, hello, sizeof(hello), 0) > 0)
		reset_connection(fd);
}

static void
nothing_was_sent_when_tls_fails(void **state)
{
	static const Script scripts[] = {speak_plainly, hang_up_on_hello};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(scripts); i++)
	{
		Server *server = start(scripts[i]);
		Client *client = client_for("https", "127.0.0.1", server->port);

		expect_failure(client, false);
		client_free(client);
		stop_server(server);
	}
}

/* A failure on a handle and a connection that served before: no figure of that time may remain. */
static void
nothing_was_sent_is_said_after_an_earlier_success_too(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	Result result;

	(void) state;
	perform(client, &result);
	assert_true(result.answer.bytes_sent > 0);
	free(result.body);
	client->request.url = "http://nowhere.invalid/";
	perform(client, &result);
	assert_int_not_equal(result.answer.curl_code, 0);
	assert_int_equal(result.answer.bytes_sent, 0);
	assert_int_equal(result.answer.status, 0);
	assert_int_equal(result.answer.body_len, 0);
	assert_false(result.answer.reused);
	free(result.body);
	client_free(client);
	stop_server(server);
}

static void
something_was_sent_when_an_answer_breaks_off(void **state)
{
	static const char *const texts[] = {
		"R",
		"C",
		"CHTTP/1.1 200 OK\r\nContent-Len",
		"CHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
		"RHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
		"CHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
		"CHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
		"CHTTP/1.1 100 Continue\r\n\r\n",
		"Cthese are no header lines at all\r\n\r\n",
		"C{\"success\":true,\"callId\":\"an answer of HTTP/0.9\"}",
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(texts); i++)
	{
		Server *server = start_with_text(break_off, texts[i]);
		Client *client = client_of(server);

		expect_failure(client, true);
		assert_int_equal(atomic_load(&server->requests), 1);
		client_free(client);
		stop_server(server);
	}
}

/* ---- what goes out ------------------------------------------------------------------------------------------ */

static int
compare_lines(const void *a, const void *b)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* The header lines after the first, sorted and joined by '|': their order is libcurl's business. */
static void
sorted_headers(const char *request, char *out, size_t size)
{
	char *copy = strdup(request);
	char *lines[32];
	size_t n = 0;
	size_t i;
	char *line;
	char *end = strstr(copy, "\r\n\r\n");

	assert_non_null(end);
	end[2] = '\0';
	line = strstr(copy, "\r\n") + 2;
	while (*line != '\0')
	{
		char *eol = strstr(line, "\r\n");

		*eol = '\0';
		assert_true(n < lengthof(lines));
		lines[n++] = line;
		line = eol + 2;
	}
	qsort(lines, n, sizeof(lines[0]), compare_lines);
	out[0] = '\0';
	for (i = 0; i < n; i++)
		snprintf(out + strlen(out), size - strlen(out), "%s|", lines[i]);
	free(copy);
}

/* From 8.14 on libcurl takes its first three digits. */
static void
something_was_sent_when_an_answer_has_no_possible_status(void **state)
{
	Server *server = start_with_text(break_off, "CHTTP/1.1 9999999999999999999999 OK\r\n\r\n");
	Client *client = client_of(server);
	Result result;

	(void) state;
	perform(client, &result);
	assert_true(result.answer.curl_code != 0 || result.answer.status > 599);
	assert_true(result.answer.bytes_sent > 0);
	free(result.body);
	client_free(client);
	assert_int_equal(stop_server(server), 1);
}

static void
a_post_is_sent_with_exactly_these_bytes(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	char expected[512];
	char headers[1024];
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_equal(strncmp(server->seen, BYTES("POST /api/create-call HTTP/1.1\r\n")), 0);
	sorted_headers(server->seen, headers, sizeof(headers));
	snprintf(expected, sizeof(expected),
	         "Content-Length: %zu|Content-Type: application/json|Host: 127.0.0.1:%d|"
	         "User-Agent: kridtech/test|x-api-key: secret|",
	         sizeof(body_text) - 1, server->port);
	assert_string_equal(headers, expected);
	assert_string_equal(strstr(server->seen, "\r\n\r\n") + 4, body_text);
	free(result.body);
	client_free(client);
	stop_server(server);
}

static void
a_get_is_sent_with_exactly_these_bytes(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	char expected[512];
	char headers[1024];
	Result result;

	(void) state;
	client->request.body = NULL;
	client->headers[1] = NULL;
	perform(client, &result);
	assert_int_equal(strncmp(server->seen, BYTES("GET /api/create-call HTTP/1.1\r\n")), 0);
	sorted_headers(server->seen, headers, sizeof(headers));
	snprintf(expected, sizeof(expected),
	         "Host: 127.0.0.1:%d|User-Agent: kridtech/test|x-api-key: secret|", server->port);
	assert_string_equal(headers, expected);
	free(result.body);
	client_free(client);
	stop_server(server);
}

/* libcurl asks for Expect: 100-continue from 1 MB on. */
static void
a_large_body_goes_out_whole_and_without_expect(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	size_t len = MAX_SEEN - 1024;
	char *body = malloc(len + 1);
	Result result;

	(void) state;
	memset(body, 'x', len);
	body[len] = '\0';
	body[len - 1] = '!';
	client->request.body = body;
	client->request.body_len = len;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_null(strcasestr(server->seen, "Expect:"));
	assert_string_equal(strstr(server->seen, "\r\n\r\n") + 4, body);
	free(body);
	free(result.body);
	client_free(client);
	stop_server(server);
}

static void
a_request_is_copied_when_it_is_submitted(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	char *body = exact_copy(body_text, sizeof(body_text) - 1);
	char *header = exact_copy(BYTES("x-api-key: secret\0"));
	char *url = strdup(client->url);
	char *agent = strdup("kridtech/test");
	KtHttpAnswer answer;

	(void) state;
	client->headers[0] = header;
	client->request.body = body;
	client->request.url = url;
	client->request.user_agent = agent;
	submit(client);
	memset(body, '#', sizeof(body_text) - 1);
	memset(header, '#', 17);
	memset(url, '#', strlen(url));
	memset(agent, '#', strlen(agent));
	free(body);
	free(header);
	free(url);
	free(agent);
	kt_http_release(client->http, finish(client, &answer));
	assert_non_null(strstr(server->seen, "x-api-key: secret\r\n"));
	assert_non_null(strstr(server->seen, "User-Agent: kridtech/test\r\n"));
	assert_string_equal(strstr(server->seen, "\r\n\r\n") + 4, body_text);
	client_free(client);
	stop_server(server);
}

static void
a_redirect_is_not_followed(void **state)
{
	static const int statuses[] = {301, 302, 303, 307, 308};
	Server *target = start(answer_all);
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(statuses); i++)
	{
		char text[256];
		KtHttpAnswer answer;

		snprintf(text, sizeof(text),
		         "HTTP/1.1 %d Moved\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n",
		         statuses[i], target->port);
		answer = answer_to_text(text);
		assert_int_equal(answer.curl_code, 0);
		assert_int_equal(answer.status, statuses[i]);
	}
	assert_int_equal(atomic_load(&target->connections), 0);
	stop_server(target);
}

static void
the_environment_has_no_effect(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	struct stat st;
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_int_equal(atomic_load(&server->requests), 1);
	assert_null(strcasestr(server->seen, "Authorization"));
	free(result.body);
	client_free(client);

	/* a handshake that fails would still have opened the file, as initialising libcurl would */
	client = client_for("https", "127.0.0.1", server->port);
	client->request.connect_timeout_ms = 200;
	expect_failure(client, false);
	assert_int_equal(stat(keylog_file, &st), -1);
	assert_string_equal(getenv("SSLKEYLOGFILE"), keylog_file);
	assert_int_equal(atomic_load(&proxy->connections), 0);
	client_free(client);
	stop_server(server);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		http_test(a_post_on_a_reused_connection_that_dies_is_not_sent_again),
		http_test(a_post_whose_reused_connection_dies_after_its_head_is_not_sent_again),
		http_test(a_post_is_not_sent_again_on_another_kept_connection),
		http_test(a_post_is_not_sent_again_by_a_libcurl_that_forgets_what_it_sent),
		http_test(an_empty_post_is_not_sent_again_either),
		http_test(a_get_on_a_reused_connection_that_dies_is_repeated_by_libcurl),
		http_test(a_connection_that_was_closed_while_idle_is_replaced),
		http_test(a_connection_is_kept_and_said_to_be_reused),
		http_test(nothing_was_sent_to_a_closed_port),
		http_test(nothing_was_sent_to_a_name_that_does_not_exist),
		http_test(nothing_was_sent_to_a_url_that_is_none),
		http_test(nothing_was_sent_when_tls_fails),
		http_test(nothing_was_sent_is_said_after_an_earlier_success_too),
		http_test(something_was_sent_when_an_answer_breaks_off),
		http_test(something_was_sent_when_an_answer_has_no_possible_status),
		http_test(a_post_is_sent_with_exactly_these_bytes),
		http_test(a_get_is_sent_with_exactly_these_bytes),
		http_test(a_large_body_goes_out_whole_and_without_expect),
		http_test(a_request_is_copied_when_it_is_submitted),
		http_test(a_redirect_is_not_followed),
		http_test(the_environment_has_no_effect),
	};

	main_thread = pthread_self();
	(void) signal(SIGPIPE, SIG_IGN); /* as in a server process */
	return cmocka_run_group_tests_name("http", tests, set_hostile_environment,
	                                   remove_hostile_environment);
}
