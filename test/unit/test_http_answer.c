/*
 * The HTTP client: what is made of answers, of hostile ones above all.
 */
#include "servers.h"

/* ---- what comes back ----------------------------------------------------------------------------------------- */

static void
an_answer_is_given_with_status_body_date_and_time(void **state)
{
	Server *server = start_with_text(
		answer_once, "HTTP/1.1 201 Created\r\nDate: Wed, 05 Aug 2026 10:11:12 GMT\r\n"
					 "Content-Length: 7\r\n\r\n{\"a\":1}");
	Client *client = client_of(server);
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_int_equal(result.answer.status, 201);
	assert_bytes("body", result.body, result.answer.body_len, BYTES("{\"a\":1}"));
	assert_int_equal(result.answer.date, 1785924672);
	assert_int_equal(result.answer.retry_after, -1);
	assert_false(result.answer.too_large);
	assert_true(result.answer.total_us > 0);
	free(result.body);
	client_free(client);
	stop_server(server);
}

static void
a_date_that_is_none_reads_as_absent(void **state)
{
	static const char *const dates[] = {"",
	                                    "Date:\r\n",
	                                    "Date: yesterday\r\n",
	                                    "Date: 0\r\n",
	                                    "Date: Wed, 99 Xxx 2026 99:99:99 GMT\r\n",
	                                    "Date: 9999999999999999999999999999999999999\r\n"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(dates); i++)
	{
		char text[256];

		snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\n%sContent-Length: 0\r\n\r\n", dates[i]);
		assert_int_equal(answer_to_text(text).date, -1);
	}
}

/* The one is the answer's fault, the other the network's. */
static void
an_answer_that_is_no_http_is_told_from_one_that_broke_off(void **state)
{
	KtHttpAnswer no_http = answer_to_text("SSH-2.0-nope\r\n");
	KtHttpAnswer no_gzip = answer_to_text("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"
	                                      "Content-Length: 4\r\n\r\nabcd");
	KtHttpAnswer cut = answer_to_text("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabcd");
	KtHttpAnswer whole = answer_to_text("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");

	(void) state;
	assert_true(no_http.curl_code != 0 && no_http.bytes_sent > 0 && no_http.unreadable);
	assert_true(no_gzip.curl_code != 0 && no_gzip.unreadable);
	assert_true(cut.curl_code != 0 && !cut.unreadable);
	assert_true(whole.curl_code == 0 && !whole.unreadable);
}

static void
an_interim_answer_is_passed_over(void **state)
{
	KtHttpAnswer answer =
		answer_to_text("HTTP/1.1 100 Continue\r\nDate: Wed, 05 Aug 2026 10:11:12 GMT\r\n\r\n"
	                   "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
	                   "HTTP/1.1 402 Payment Required\r\nContent-Length: 0\r\n\r\n");

	(void) state;
	assert_int_equal(answer.curl_code, 0);
	assert_int_equal(answer.status, 402);
	assert_int_equal(answer.date, -1);
}

static int64_t
retry_after_of(const char *value)
{
	char text[512];
	KtHttpAnswer answer;

	snprintf(text, sizeof(text),
	         "HTTP/1.1 429 Slow Down\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n", value);
	answer = answer_to_text(text);
	assert_int_equal(answer.curl_code, 0);
	assert_int_equal(answer.status, 429);
	return answer.retry_after;
}

static const char *
http_date(time_t at)
{
	static char text[64];
	struct tm tm;

	gmtime_r(&at, &tm);
	strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &tm);
	return text;
}

static void
retry_after_is_read_as_seconds_or_date_and_never_negative(void **state)
{
	int64_t seconds;

	(void) state;
	assert_int_equal(retry_after_of("7"), 7);
	assert_int_equal(retry_after_of("  120 "), 120);
	seconds = retry_after_of(http_date(time(NULL) + 60));
	assert_in_range(seconds, 50, 61);
	assert_int_equal(retry_after_of(http_date(time(NULL) - 3600)), 0);
	assert_int_equal(retry_after_of("0"), 0);
	assert_int_equal(retry_after_of("000"), 0);
	assert_int_equal(retry_after_of("-5"), -1);
	assert_int_equal(retry_after_of("soon"), -1);
	assert_int_equal(retry_after_of(""), -1);
	assert_int_equal(retry_after_of("1e9"), -1);
	assert_true(retry_after_of("99999999999999999999999999") > 3600);
	assert_true(retry_after_of("9223372036854775807") > 3600);
}

/* The API's clock is an hour behind ours: its date means a minute all the same. */
static void
a_retry_after_date_is_read_against_the_apis_own_clock(void **state)
{
	char text[512];
	char date[64];

	(void) state;
	snprintf(date, sizeof(date), "%s", http_date(time(NULL) - 3600));
	snprintf(text, sizeof(text),
	         "HTTP/1.1 429 Slow Down\r\nRetry-After: %s\r\nDate: %s\r\nContent-Length: 0\r\n\r\n",
	         http_date(time(NULL) - 3540), date);
	assert_in_range(answer_to_text(text).retry_after, 59, 61);
}

/* The first answer has a Retry-After, the second on the same handle has not. */
static void
retry_once(Server *server, int fd, int nth)
{
	(void) nth;
	if (read_request(server, fd) &&
	    send_text(fd,
	              "HTTP/1.1 429 Slow Down\r\nDate: Wed, 05 Aug 2026 10:11:12 GMT\r\nRetry-After: "
	              "33\r\nContent-Length: 3\r\n\r\nabc") &&
	    read_request(server, fd))
		send_text(fd, "HTTP/1.1 429 Slow Down\r\nContent-Length: 0\r\n\r\n");
}

static void
nothing_of_an_answer_remains_for_the_next(void **state)
{
	Server *server = start(retry_once);
	Client *client = client_of(server);
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_equal(result.answer.retry_after, 33);
	free(result.body);
	perform(client, &result);
	assert_true(result.answer.reused);
	assert_int_equal(result.answer.retry_after, -1);
	assert_int_equal(result.answer.date, -1);
	assert_int_equal(result.answer.body_len, 0);
	free(result.body);
	client_free(client);
	stop_server(server);
}

/* Sends the text, then the same block for as long as the client takes it. */
static void
answer_without_end(Server *server, int fd, int nth)
{
	static const char block[] =
		"X-Endless: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";

	(void) nth;
	if (!read_request(server, fd) || !send_all(fd, server->text, server->text_len))
		return;
	while (send_all(fd, block, sizeof(block) - 1))
		;
}

static void
an_endless_answer_is_cut_and_takes_bounded_memory(void **state)
{
	static const struct
	{
		const char *text;
		bool ours; /* cut by a limit of ours, not one of libcurl's */
	} answers[] = {
		{"HTTP/1.1 200 OK\r\n\r\n", true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", true},
		{"HTTP/1.1 200 OK\r\n", true},
		{"HTTP/1.1 100 Continue\r\n", true},
		{"HTTP/1.1 200 OK\r\nX-One-Line: \r\n", true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", true},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(answers); i++)
	{
		Server *server = start_with_text(answer_without_end, answers[i].text);
		Client *client = client_of(server);
		size_t before = heap_in_use();
		Result result;

		client->request.max_answer = 1000;
		perform(client, &result);
		assert_int_not_equal(result.answer.curl_code, 0);
		assert_int_equal(result.answer.too_large, answers[i].ours);
		assert_true(result.answer.unreadable);
		assert_true(result.answer.bytes_sent > 0);
		assert_true(result.answer.body_len <= 1000);
		assert_true(heap_in_use() <= before + (size_t) 1024 * 1024);
		free(result.body);
		client_free(client);
		stop_server(server);
	}
}

/* One header line that never ends: libcurl's own limit on a line. */
static void
one_line_without_end(Server *server, int fd, int nth)
{
	char block[4096];

	(void) nth;
	memset(block, 'a', sizeof(block));
	if (!read_request(server, fd) || !send_text(fd, "HTTP/1.1 200 OK\r\nX-Endless: "))
		return;
	while (send_all(fd, block, sizeof(block)))
		;
}

static void
an_endless_header_line_is_an_error(void **state)
{
	Server *server = start(one_line_without_end);
	Client *client = client_of(server);

	(void) state;
	expect_failure(client, true);
	client_free(client);
	stop_server(server);
}

static void
an_answer_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(void **state)
{
	Server *server =
		start_with_text(answer_all, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde");
	Client *client = client_of(server);
	Result result;

	(void) state;
	client->request.max_answer = 5;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_int_equal(result.answer.body_len, 5);
	free(result.body);
	client->request.max_answer = 4;
	perform(client, &result);
	assert_int_not_equal(result.answer.curl_code, 0);
	assert_true(result.answer.too_large);
	free(result.body);
	client_free(client);
	stop_server(server);
}

/* The output of a shell command as the body of an answer with Content-Encoding: gzip. */
static Server *
start_gzipped(const char *command, char **text)
{
	size_t size = 1024 * 1024;
	FILE *pipe_end = popen(command, "r");
	Server *server;
	size_t header;
	size_t n;

	*text = malloc(size);
	assert_non_null(pipe_end);
	n = fread(*text + 1024, 1, size - 1024, pipe_end);
	assert_int_equal(pclose(pipe_end), 0);
	assert_true(n > 0);
	header = (size_t) snprintf(
		*text, 1024, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %zu\r\n\r\n", n);
	memmove(*text + header, *text + 1024, n);
	server = start(answer_all);
	server->text_len = header + n;
	server->text = *text;
	return server;
}

static void
gzip_is_decoded_though_it_was_not_offered(void **state)
{
	char *text;
	Server *server = start_gzipped("printf '{\"a\":1}' | gzip -c", &text);
	Client *client = client_of(server);
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_bytes("body", result.body, result.answer.body_len, BYTES("{\"a\":1}"));
	free(result.body);
	client_free(client);
	stop_server(server);
	free(text);
}

static void
a_gzip_bomb_is_cut(void **state)
{
	char *text;
	Server *server = start_gzipped("head -c 100000000 /dev/zero | gzip -c", &text);
	Client *client = client_of(server);
	size_t before = heap_in_use();
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_not_equal(result.answer.curl_code, 0);
	assert_true(result.answer.too_large);
	assert_true(result.answer.body_len <= 65536);
	assert_true(heap_in_use() <= before + (size_t) 2 * 1024 * 1024);
	free(result.body);
	client_free(client);
	stop_server(server);
	free(text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		http_test(an_answer_is_given_with_status_body_date_and_time),
		http_test(a_date_that_is_none_reads_as_absent),
		http_test(an_answer_that_is_no_http_is_told_from_one_that_broke_off),
		http_test(an_interim_answer_is_passed_over),
		http_test(retry_after_is_read_as_seconds_or_date_and_never_negative),
		http_test(a_retry_after_date_is_read_against_the_apis_own_clock),
		http_test(nothing_of_an_answer_remains_for_the_next),
		http_test(an_endless_answer_is_cut_and_takes_bounded_memory),
		http_test(an_endless_header_line_is_an_error),
		http_test(an_answer_of_exactly_the_limit_is_taken_and_one_byte_more_is_not),
		http_test(gzip_is_decoded_though_it_was_not_offered),
		http_test(a_gzip_bomb_is_cut),
	};

	main_thread = pthread_self();
	(void) signal(SIGPIPE, SIG_IGN); /* as in a server process */
	return cmocka_run_group_tests_name("http", tests, set_hostile_environment,
	                                   remove_hostile_environment);
}
