/*
 * Every raw request of requests.txt gets the answer that stands there: plain, over TLS, and however its bytes
 * are cut.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "httpd_harness.h"

#include <ctype.h>
#include <microhttpd.h>

#define CASES "requests.txt"
#define MAX_ANSWERS 16

typedef struct Case
{
	char name[256];
	KtBuf bytes;
	char want[64];
	KtBuf deliver[MAX_ANSWERS];
	int ndeliver;
	bool own_deliver; /* those of this version have replaced the others */
} Case;

typedef enum Way
{
	PLAIN,
	TLS,
	BYTES
} Way;

static Pair pair;
static Way way;
static int failures;
static int cases;

/* ---- the data file ----------------------------------------------------------------------------------- */

static int
hex(char c)
{
	return c <= '9' ? c - '0' : (tolower((unsigned char) c) - 'a') + 10;
}

/* Appends text with its escapes undone. */
static void
unescape(KtBuf *out, const char *text, const char *end)
{
	while (text < end)
	{
		if (*text != '\\')
		{
			kt_buf_append_char(out, *text++);
			continue;
		}
		text++;
		switch (*text++)
		{
			case 'r':
				kt_buf_append_char(out, '\r');
				break;
			case 'n':
				kt_buf_append_char(out, '\n');
				break;
			case 't':
				kt_buf_append_char(out, '\t');
				break;
			case '0':
				kt_buf_append_char(out, '\0');
				break;
			case '\\':
				kt_buf_append_char(out, '\\');
				break;
			case 'x':
				kt_buf_append_char(out, (char) (hex(text[0]) << 4 | hex(text[1])));
				text += 2;
				break;
			case '{':
			{
				char *what;
				long times = strtol(text, &what, 10);
				const char *stop = strchr(what, '}');

				assert_non_null(stop);
				while (times-- > 0)
					unescape(out, what + 1, stop);
				text = stop + 1;
				break;
			}
			default:
				fail_msg("%s: unknown escape \\%c", CASES, text[-1]);
		}
	}
}

static void
begin_case(Case *test, const char *name)
{
	memset(test, 0, sizeof(*test));
	snprintf(test->name, sizeof(test->name), "%s", name);
	kt_buf_init(&test->bytes, 1000000);
}

static void
end_case(Case *test)
{
	kt_buf_free(&test->bytes);
	while (test->ndeliver > 0)
		kt_buf_free(&test->deliver[--test->ndeliver]);
}

static void
add_delivery(Case *test, const char *text)
{
	KtBuf *body = &test->deliver[test->ndeliver++];

	assert_true(test->ndeliver <= MAX_ANSWERS);
	kt_buf_init(body, 1000000);
	unescape(body, text, text + strlen(text));
}

/* Whether what stands behind a key, "-1.0" and the like, is for the library's version that runs. */
static bool
is_own(const char *suffix)
{
	int major = 0;
	int minor = 0;
	int patch = 0;
	int version;

	assert_true(sscanf(MHD_get_version(), "%d.%d.%d", &major, &minor, &patch) >= 2);
	version = (major * 100 + minor) * 100 + patch;
	if (strcmp(suffix, "-0.9.72") == 0)
		return version < 975;
	if (strcmp(suffix, "-1.0") == 0)
		return version >= 10000;
	return strcmp(suffix, "-1.0.10") == 0 && version >= 10010;
}

/* One line of a case. */
static void
add_line(Case *test, const char *key, const char *value)
{
	const char *suffix = strchr(key, '-') != NULL ? strchr(key, '-') : "";
	size_t len = strlen(key) - strlen(suffix);
	bool own = is_own(suffix);

	if (strcmp(key, "send") == 0)
		unescape(&test->bytes, value, value + strlen(value));
	else if (len == 4 && strncmp(key, "want", 4) == 0)
	{
		if (suffix[0] == '\0' || own)
			snprintf(test->want, sizeof(test->want), "%s", value);
	}
	else if (len != 7 || strncmp(key, "deliver", 7) != 0)
		fail_msg("%s: unknown line \"%s\"", CASES, key);
	else if (own && !test->own_deliver)
	{
		while (test->ndeliver > 0)
			kt_buf_free(&test->deliver[--test->ndeliver]);
		test->own_deliver = true;
		if (strcmp(value, "none") != 0)
			add_delivery(test, value);
	}
	else if (own || (suffix[0] == '\0' && !test->own_deliver))
		add_delivery(test, value);
}

/* ---- one case ------------------------------------------------------------------------------------------- */

/* libmicrohttpd 0.9.75 says the head of some refusals of its own twice, so what follows before a close counts not. */
static void
describe(const Client *client, char *words, size_t size)
{
	int statuses[MAX_ANSWERS];
	bool closes = false;
	const char *rest;
	int n = read_answers(client, statuses, MAX_ANSWERS, &rest, &closes);
	size_t len = 0;
	int i;

	words[0] = '\0';
	for (i = 0; i < n; i++)
	{
		/* 1.0 spares itself the 100 when the body is there already */
		if (statuses[i] != 100)
			len += (size_t) snprintf(words + len, size - len, "%d ", statuses[i]);
	}
	if (client->ended && n > 0 && statuses[n - 1] >= 400 && !closes)
		len += (size_t) snprintf(words + len, size - len, "(without a word of closing) ");
	snprintf(words + len, size - len, "%s%s",
	         client->ended ? "close"
	         : n > 0       ? "open"
	                       : "waits",
	         *rest != '\0' && !client->ended ? " (and more)" : "");
}

/* A connection that is said to be open serves the next request. */
static bool
still_serves(Client *client)
{
	int before = count_answers(client);

	say(client, "GET /healthz HTTP/1.1\r\nHost: kt\r\n\r\n");
	UNTIL(client->ended || count_answers(client) > before);
	return !client->ended && last_answer(client) == 200;
}

static void
send_case(Client *client, const Case *test)
{
	size_t i;

	if (way != BYTES)
	{
		send_bytes(client, test->bytes.data, test->bytes.len);
		return;
	}
	for (i = 0; i < test->bytes.len && !client->ended; i++)
	{
		send_bytes(client, test->bytes.data + i, 1);
		settle();
	}
}

/* How many final answers a case wants, and whether the connection is closed after them. */
static bool
is_all_there(const Client *client, const Case *test)
{
	char words[256];

	describe(client, words, sizeof(words));
	return client->ended || strcmp(words, test->want) == 0;
}

static void
complain(const Case *test, const char *what, const char *got, const char *wanted)
{
	failures++;
	print_error("%s: %s: got \"%s\", wanted \"%s\"\n", test->name, what, got, wanted);
}

static void
check_case(Client *client, const Case *test, int before)
{
	char words[256];
	int i;

	describe(client, words, sizeof(words));
	if (strcmp(words, test->want) != 0)
		complain(test, "answers", words, test->want);
	else if (strstr(words, "open") != NULL && !still_serves(client))
		complain(test, "the next request", "no 200", "200");
	if (server.total - before != test->ndeliver)
	{
		snprintf(words, sizeof(words), "%d", server.total - before);
		complain(test, "deliveries", words, "another number");
		return;
	}
	for (i = 0; i < test->ndeliver; i++)
	{
		const KtBuf *got = &server.bodies[before + i];
		const KtBuf *wanted = &test->deliver[i];

		if (got->len != wanted->len ||
		    (got->len > 0 && memcmp(got->data, wanted->data, got->len) != 0))
			complain(test, "body", got->data, wanted->data);
	}
}

static void
run_case(const Case *test)
{
	int before = server.total;
	int64_t patience = kt_httpd_now() + 3000000;
	Client *client;

	cases++;
	if (strcmp(test->want, "not tried") == 0)
		return;
	client = way == TLS ? connect_tls() : connect_plain();
	send_case(client, test);
	settle();
	while (!is_all_there(client, test) && kt_httpd_now() < patience)
		turn(100);
	settle();
	check_case(client, test, before);
	forget_client(client);
	UNTIL(counters().connections == 0);
	assert_int_equal(kt_httpd_waiting(server.httpd), 0);
	assert_int_equal(kt_httpd_leaving(server.httpd), 0);
	while (server.total > 0)
		kt_buf_free(&server.bodies[--server.total]);
}

static void
run_all(void)
{
	KtHttpdOptions options = default_options();
	FILE *file = fopen(CASES, "re");
	char line[4096];
	Case test;
	bool any = false;

	assert_non_null(file);
	if (way == TLS)
	{
		options.tls_cert = pair.cert;
		options.tls_key = pair.key;
	}
	begin_server(&options);
	failures = cases = 0;
	while (fgets(line, sizeof(line), file) != NULL)
	{
		char *value = strchr(line, ':');

		line[strcspn(line, "\n")] = '\0';
		if (line[0] == '#' || line[0] == '\0')
			continue;
		assert_non_null(value);
		*value++ = '\0';
		value += *value == ' ';
		if (strcmp(line, "case") != 0)
		{
			add_line(&test, line, value);
			continue;
		}
		if (any)
		{
			run_case(&test);
			end_case(&test);
		}
		begin_case(&test, value);
		any = true;
	}
	run_case(&test);
	end_case(&test);
	fclose(file);
	end_server();
	assert_true(cases > 80);
	assert_int_equal(failures, 0);
}

static void
every_request_of_the_list_gets_its_answer(void **state)
{
	(void) state;
	way = PLAIN;
	run_all();
}

static void
the_same_over_tls(void **state)
{
	(void) state;
	way = TLS;
	run_all();
}

static void
the_same_with_every_byte_a_segment_of_its_own(void **state)
{
	(void) state;
	way = BYTES;
	run_all();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_request_of_the_list_gets_its_answer),
		cmocka_unit_test(the_same_over_tls),
		cmocka_unit_test(the_same_with_every_byte_a_segment_of_its_own),
	};

	make_pair(&pair, "kt.test", time(NULL) + 86400);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
