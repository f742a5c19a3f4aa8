/* The gate over parsed heads: what makes framing sound, which route there is, which token opens it. */
#include "unit.h"

#include "hgate.h"

typedef struct Line
{
	const char *name;
	const char *value;
} Line;

static const char *const tokens[] = {"secret", "a-much-longer-token", "", "x"};

static KtHgateRoute
route_of(const char *path, int ntokens)
{
	return (KtHgateRoute){.path = path, .tokens = tokens, .ntokens = ntokens, .max_body = 1000};
}

static void
take_lines(KtHgate *gate, const Line *lines, size_t n)
{
	size_t i;

	kt_hgate_begin(gate);
	for (i = 0; i < n && lines[i].name != NULL; i++)
	{
		char *name = exact_copy(lines[i].name, strlen(lines[i].name));
		char *value = exact_copy(lines[i].value, strlen(lines[i].value));

		kt_hgate_header(gate, name, strlen(lines[i].name), value, strlen(lines[i].value));
		free(name);
		free(value);
	}
}

static KtHgateVerdict
judge(const char *method, const char *target, const char *version, const Line *lines, size_t n)
{
	KtHgateRoute route = route_of("/webhook", 2);
	KtHgate gate;

	take_lines(&gate, lines, n);
	return kt_hgate_judge(&gate, &route, method, target, version);
}

#define MAX_LINES 4

typedef struct Head
{
	const char *version;
	Line lines[MAX_LINES];
} Head;

static void
sound_framing_is_let_through(void **state)
{
	static const Head heads[] = {
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "0"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "1000"}}},
		{"HTTP/1.1", {{"host", "kt"}, {"CONTENT-LENGTH", "0000000005"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Transfer-Encoding", "chunked"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"transfer-encoding", "CHUNKED"}}},
		{"HTTP/1.1", {{"Host", "kt"}}},
		{"HTTP/1.1", {{"Host", ""}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"X-Any_Name.~!", "a\tb \xc3\xbc"}}},
		{"HTTP/1.0", {{"Content-Length", "5"}}},
		{"HTTP/1.0", {{"Host", "kt"}, {"Content-Length", "5"}}},
		{"HTTP/1.0", {{NULL, NULL}}},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(heads); i++)
	{
		KtHgateVerdict verdict =
			judge("POST", "/webhook/secret", heads[i].version, heads[i].lines, MAX_LINES);

		if (verdict != KT_HGATE_DELIVERY)
			fail_msg("head %zu: %d", i, (int) verdict);
	}
}

static void
framing_that_two_could_read_differently_is_refused(void **state)
{
	static const Head heads[] = {
		{"HTTP/1.1", {{NULL, NULL}}},
		{"HTTP/1.1", {{"Content-Length", "5"}}},
		{"HTTP/1.1", {{"Host", "a"}, {"Host", "b"}}},
		{"HTTP/1.0", {{"Host", "a"}, {"host", "a"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "5"}, {"Content-Length", "5"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "5"}, {"content-length", "6"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", ""}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "+5"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "-5"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", " 5"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "5 "}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "5, 5"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "0x5"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "5.0"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "\xd9\xa5"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "00000000005"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "18446744073709551621"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length ", "5"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Content-Length", "5"}, {"Transfer-Encoding", "chunked"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Transfer-Encoding", "chunked"}, {"Content-Length", "0"}}},
		{"HTTP/1.1",
	     {{"Host", "kt"}, {"Transfer-Encoding", "chunked"}, {"Transfer-Encoding", "chunked"}}},
		{"HTTP/1.1",
	     {{"Host", "kt"}, {"Transfer-Encoding", "identity"}, {"Transfer-Encoding", "chunked"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Transfer-Encoding", ""}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Transfer-Encoding", "identity"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Transfer-Encoding", "gzip, chunked"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Transfer-Encoding", "chunked "}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Transfer-Encoding", "xchunked"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"Transfer-Encoding", "chunke"}}},
		{"HTTP/1.0", {{"Transfer-Encoding", "chunked"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"X Y", "a"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"", "a"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"X(Y)", "a"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"X\xc3\xbc", "a"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"X", "a\x01"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"X", "a\x7f"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"X", "a\nb"}}},
		{"HTTP/1.1", {{"Host", "kt"}, {"X", "a\rb"}}},
		{"HTTP/1.2", {{"Host", "kt"}}},
		{"HTTP/2.0", {{"Host", "kt"}}},
		{"http/1.1", {{"Host", "kt"}}},
		{"", {{"Host", "kt"}}},
	};
	static const char *const targets[] = {"/webhook/secret", "/webhook/wrong", "/healthz"};
	size_t i;
	size_t j;

	(void) state;
	for (i = 0; i < lengthof(heads); i++)
		for (j = 0; j < lengthof(targets); j++)
		{
			KtHgateVerdict verdict =
				judge("POST", targets[j], heads[i].version, heads[i].lines, MAX_LINES);

			if (verdict != KT_HGATE_FRAMING)
				fail_msg("head %zu, %s: %d", i, targets[j], (int) verdict);
		}
}

static void
a_nul_is_refused_wherever_it_stands(void **state)
{
	KtHgateRoute route = route_of("/webhook", 2);
	KtHgate gate;

	(void) state;
	kt_hgate_begin(&gate);
	kt_hgate_header(&gate, BYTES("Host"), BYTES("kt"));
	kt_hgate_header(&gate, BYTES("X"), BYTES("a\0b"));
	assert_int_equal(kt_hgate_judge(&gate, &route, "POST", "/webhook/secret", "HTTP/1.1"),
	                 KT_HGATE_FRAMING);
	kt_hgate_begin(&gate);
	kt_hgate_header(&gate, BYTES("Host"), BYTES("kt"));
	kt_hgate_header(&gate, BYTES("X\0Y"), BYTES("a"));
	assert_int_equal(kt_hgate_judge(&gate, &route, "POST", "/webhook/secret", "HTTP/1.1"),
	                 KT_HGATE_FRAMING);
}

static const Line sound[] = {{"Host", "kt"}, {"Content-Length", "5"}};

static void
only_the_path_with_a_token_is_the_route(void **state)
{
	static const char *const wrong[] = {"",
	                                    "/",
	                                    "/webhook",
	                                    "/webhook/",
	                                    "/webhook/secre",
	                                    "/webhook/secrets",
	                                    "/webhook/secret/",
	                                    "/webhook/Secret",
	                                    "/webhook//secret",
	                                    "/webhooksecret",
	                                    "/webhook/secretsecret",
	                                    "/webhook/a-much-longer-toke",
	                                    "/webhook/a-much-longer-tokenn",
	                                    "/webhook/x",
	                                    "webhook/secret",
	                                    "/Webhook/secret",
	                                    "*",
	                                    "/healthz/",
	                                    "/healthz2"};
	size_t i;

	(void) state;
	assert_int_equal(judge("POST", "/webhook/secret", "HTTP/1.1", sound, 2), KT_HGATE_DELIVERY);
	assert_int_equal(judge("POST", "/webhook/a-much-longer-token", "HTTP/1.1", sound, 2),
	                 KT_HGATE_DELIVERY);
	for (i = 0; i < lengthof(wrong); i++)
	{
		KtHgateVerdict verdict = judge("POST", wrong[i], "HTTP/1.1", sound, 2);

		if (verdict != KT_HGATE_NOT_FOUND)
			fail_msg("%s: %d", wrong[i], (int) verdict);
	}
}

static void
an_empty_token_opens_nothing(void **state)
{
	KtHgateRoute route = route_of("/webhook", 4);
	KtHgate gate;

	(void) state;
	take_lines(&gate, sound, 2);
	assert_int_equal(kt_hgate_judge(&gate, &route, "POST", "/webhook/", "HTTP/1.1"),
	                 KT_HGATE_NOT_FOUND);
	assert_int_equal(kt_hgate_judge(&gate, &route, "POST", "/webhook/x", "HTTP/1.1"),
	                 KT_HGATE_DELIVERY);
}

static void
without_tokens_the_path_alone_is_the_route(void **state)
{
	KtHgateRoute route = route_of("/webhook", 0);
	KtHgateRoute root = route_of("", 0);
	KtHgate gate;

	(void) state;
	take_lines(&gate, sound, 2);
	assert_int_equal(kt_hgate_judge(&gate, &route, "POST", "/webhook", "HTTP/1.1"),
	                 KT_HGATE_DELIVERY);
	assert_int_equal(kt_hgate_judge(&gate, &route, "POST", "/webhook/secret", "HTTP/1.1"),
	                 KT_HGATE_NOT_FOUND);
	assert_int_equal(kt_hgate_judge(&gate, &root, "POST", "/", "HTTP/1.1"), KT_HGATE_DELIVERY);
	assert_int_equal(kt_hgate_judge(&gate, &root, "POST", "", "HTTP/1.1"), KT_HGATE_NOT_FOUND);
}

static void
only_its_own_methods_are_allowed_on_a_path(void **state)
{
	static const char *const others[] = {"GET", "HEAD", "PUT", "OPTIONS", "post", "POSTS", ""};
	static const Line host = {"Host", "kt"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(others); i++)
	{
		assert_int_equal(judge(others[i], "/webhook/secret", "HTTP/1.1", &host, 1),
		                 KT_HGATE_METHOD);
		assert_int_equal(judge(others[i], "/webhook/wrong", "HTTP/1.1", &host, 1),
		                 KT_HGATE_NOT_FOUND);
	}
	assert_int_equal(judge("GET", "/healthz", "HTTP/1.1", &host, 1), KT_HGATE_HEALTH);
	assert_int_equal(judge("HEAD", "/healthz", "HTTP/1.1", &host, 1), KT_HGATE_HEALTH);
	assert_int_equal(judge("POST", "/healthz", "HTTP/1.1", &host, 1), KT_HGATE_HEALTH_ONLY);
}

static void
a_question_after_health_has_no_body(void **state)
{
	static const Line empty[] = {{"Host", "kt"}, {"Content-Length", "0"}};
	static const Line chunked[] = {{"Host", "kt"}, {"Transfer-Encoding", "chunked"}};

	(void) state;
	assert_int_equal(judge("GET", "/healthz", "HTTP/1.1", empty, 2), KT_HGATE_HEALTH);
	assert_int_equal(judge("GET", "/healthz", "HTTP/1.1", sound, 2), KT_HGATE_FRAMING);
	assert_int_equal(judge("GET", "/healthz", "HTTP/1.1", chunked, 2), KT_HGATE_FRAMING);
}

static void
an_announced_body_over_the_limit_is_refused(void **state)
{
	static const Line most[] = {{"Host", "kt"}, {"Content-Length", "1000"}};
	static const Line over[] = {{"Host", "kt"}, {"Content-Length", "1001"}};
	static const Line huge[] = {{"Host", "kt"}, {"Content-Length", "9999999999"}};

	(void) state;
	assert_int_equal(judge("POST", "/webhook/secret", "HTTP/1.1", most, 2), KT_HGATE_DELIVERY);
	assert_int_equal(judge("POST", "/webhook/secret", "HTTP/1.1", over, 2), KT_HGATE_TOO_LARGE);
	assert_int_equal(judge("POST", "/webhook/secret", "HTTP/1.1", huge, 2), KT_HGATE_TOO_LARGE);
	assert_int_equal(judge("POST", "/webhook/wrong", "HTTP/1.1", huge, 2), KT_HGATE_NOT_FOUND);
}

static void
a_bare_head_says_nothing_of_a_body(void **state)
{
	static const Line chunked[] = {{"Host", "kt"}, {"Transfer-Encoding", "chunked"}};
	KtHgate gate;

	(void) state;
	take_lines(&gate, sound, 1);
	assert_true(kt_hgate_is_bare(&gate));
	take_lines(&gate, sound, 2);
	assert_false(kt_hgate_is_bare(&gate));
	take_lines(&gate, chunked, 2);
	assert_false(kt_hgate_is_bare(&gate));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sound_framing_is_let_through),
		cmocka_unit_test(framing_that_two_could_read_differently_is_refused),
		cmocka_unit_test(a_nul_is_refused_wherever_it_stands),
		cmocka_unit_test(only_the_path_with_a_token_is_the_route),
		cmocka_unit_test(an_empty_token_opens_nothing),
		cmocka_unit_test(without_tokens_the_path_alone_is_the_route),
		cmocka_unit_test(only_its_own_methods_are_allowed_on_a_path),
		cmocka_unit_test(a_question_after_health_has_no_body),
		cmocka_unit_test(an_announced_body_over_the_limit_is_refused),
		cmocka_unit_test(a_bare_head_says_nothing_of_a_body),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
