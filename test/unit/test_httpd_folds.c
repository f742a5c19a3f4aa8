/*
 * The HTTP server on loopback: lines that are folded, and lines that are not, wherever in the library's buffer they
 * stand.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "httpd_harness.h"

#include "limits.h"

/* So long a line leaves the library room for the rest of a head and a body. */
#define LONGEST (KT_HTTPD_POOL - 1000)

/* Sends a head whose line before lines is so long, and a body of two bytes. The answer's status, 0: none. */
static int
ask(Client *client, int pad, const char *lines)
{
	static char bytes[2 * KT_HTTPD_POOL];
	int before = count_answers(client);
	int n = snprintf(bytes, sizeof(bytes),
	                 "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nContent-Length: 2\r\nX: %0*d\r\n"
	                 "%s\r\n\r\n{}",
	                 pad, 0, lines);

	send_bytes(client, bytes, (size_t) n);
	UNTIL(client->ended || count_answers(client) > before);
	return count_answers(client) > before ? last_answer(client) : 0;
}

/* Whether the answer is 200 with these lines behind a line of any length. */
static void
ask_with_every_length(const char *lines, bool taken)
{
	KtHttpdOptions options = default_options();
	int pad;

	begin_server(&options);
	for (pad = 1; pad < LONGEST; pad++)
	{
		Client *client = connect_plain();

		assert_int_equal(ask(client, pad, lines) == 200, taken);
		forget_client(client);
		while (server.total > 0)
			kt_buf_free(&server.bodies[--server.total]);
	}
	end_server();
}

static void
a_folded_line_is_refused_wherever_it_stands(void **state)
{
	(void) state;
#if defined(__SANITIZE_ADDRESS__)
	skip(); /* 0.9.75 copies within its buffer by memcpy(), over a few bytes of the line itself */
#endif
	ask_with_every_length("Transfer-Encoding:\r\n chunked", false);
}

static void
a_line_that_is_not_folded_is_not_taken_for_one(void **state)
{
	(void) state;
	ask_with_every_length("Y:\r\nZ: a", true);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_folded_line_is_refused_wherever_it_stands),
		cmocka_unit_test(a_line_that_is_not_folded_is_not_taken_for_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
