/* Which base URLs a key may be sent to, and the addresses made of them. */
#include "unit.h"

#include <curl/curl.h>

#include "url.h"

typedef struct JudgeCase
{
	const char *base;
	KtUrlFault fault;
} JudgeCase;

static void
check_cases(const JudgeCase *cases, size_t n, bool loopback)
{
	size_t i;

	for (i = 0; i < n; i++)
	{
		char *base = exact_copy(cases[i].base, strlen(cases[i].base) + 1);
		bool loopback_only = !loopback;
		KtUrlFault fault = kt_url_judge(base, &loopback_only);

		if (fault != cases[i].fault || loopback_only != loopback)
			fail_msg("%s: fault %d, loopback %d", cases[i].base, fault, loopback_only);
		free(base);
	}
}

static void
https_to_any_host_is_good(void **state)
{
	static const JudgeCase cases[] = {
		{"https://backend.kridtech.com", KT_URL_OK},
		{"https://backend.kridtech.com/", KT_URL_OK},
		{"https://host/v1/", KT_URL_OK},
		{"https://host:8443/a/b", KT_URL_OK},
		{"HTTPS://Host", KT_URL_OK},
		{"https://xn--mller-kva.example", KT_URL_OK},
		{"https://192.0.2.1", KT_URL_OK},
		{"https://[2001:db8::1]:8443/", KT_URL_OK},
		{"https://localhost", KT_URL_OK},
		{"https://127.0.0.1", KT_URL_OK},
		/* an at sign in the path is no user */
		{"https://host/@v1", KT_URL_OK},
		{"https://a_b.example", KT_URL_OK},
	};

	(void) state;
	check_cases(cases, lengthof(cases), false);
}

static void
http_is_good_to_a_loopback_address_only(void **state)
{
	static const JudgeCase good[] = {
		{"http://localhost", KT_URL_OK},       {"http://localhost:8080", KT_URL_OK},
		{"http://LocalHost/v1", KT_URL_OK},    {"http://127.0.0.1", KT_URL_OK},
		{"http://127.255.255.254", KT_URL_OK}, {"http://[::1]:8080", KT_URL_OK},
		{"http://[::1]", KT_URL_OK},           {"http://[0:0:0:0:0:0:0:1]/x", KT_URL_OK},
	};
	static const JudgeCase bad[] = {
		{"http://host", KT_URL_PLAIN_HTTP},
		{"HTTP://host", KT_URL_PLAIN_HTTP},
		{"http://127.0.0.1.evil.com", KT_URL_PLAIN_HTTP},
		{"http://localhost.evil.com", KT_URL_PLAIN_HTTP},
		{"http://evil.com/127.0.0.1", KT_URL_PLAIN_HTTP},
		{"http://localhost.", KT_URL_PLAIN_HTTP},
		{"http://xlocalhost", KT_URL_PLAIN_HTTP},
		{"http://128.0.0.1", KT_URL_PLAIN_HTTP},
		{"http://126.255.255.255", KT_URL_PLAIN_HTTP},
		{"http://0.0.0.0", KT_URL_PLAIN_HTTP},
		{"http://10.127.0.1", KT_URL_PLAIN_HTTP},
		{"http://[::2]", KT_URL_PLAIN_HTTP},
		{"http://[::]", KT_URL_PLAIN_HTTP},
		{"http://[2001:db8::1]", KT_URL_PLAIN_HTTP},
		{"http://[::ffff:192.0.2.1]", KT_URL_PLAIN_HTTP},
		{"http://192.0.2.1:80/", KT_URL_PLAIN_HTTP},
	};

	(void) state;
	check_cases(good, lengthof(good), true);
	check_cases(bad, lengthof(bad), false);
}

/* libcurl reads 127.1 as an address from 7.77 on; before, it is a name like any other. */
static void
odd_spellings_of_numbers_are_judged_as_libcurl_reads_them(void **state)
{
	static const char *const loopback[] = {"http://127.1", "http://2130706433", "http://0x7f.0.0.1",
	                                       "http://0177.0.0.1"};
	static const char *const other[] = {"http://128.1", "http://2147483648", "http://0x80000001",
	                                    "http://10.1"};
	bool normalises = curl_version_info(CURLVERSION_NOW)->version_num >= 0x074D00;
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(loopback); i++)
	{
		JudgeCase good = {loopback[i], normalises ? KT_URL_OK : KT_URL_PLAIN_HTTP};
		JudgeCase bad = {other[i], KT_URL_PLAIN_HTTP};

		check_cases(&good, 1, normalises);
		check_cases(&bad, 1, false);
	}
}

static void
what_is_no_absolute_http_url_with_a_host_is_malformed(void **state)
{
	static const JudgeCase cases[] = {
		{"", KT_URL_MALFORMED},
		{"backend.kridtech.com", KT_URL_MALFORMED},
		{"localhost:8080", KT_URL_MALFORMED},
		{"//host", KT_URL_MALFORMED},
		{"/path", KT_URL_MALFORMED},
		{"https:", KT_URL_MALFORMED},
		{"https:/host", KT_URL_MALFORMED},
		{"https://", KT_URL_MALFORMED},
		{"https:///x", KT_URL_MALFORMED},
		{"https:////host", KT_URL_MALFORMED},
		{"https://:443", KT_URL_MALFORMED},
		{"https://?x", KT_URL_MALFORMED},
		{"://host", KT_URL_MALFORMED},
		{"ht tp://host", KT_URL_MALFORMED},
		{"x/https://host", KT_URL_MALFORMED},
		{"https://host:99999", KT_URL_MALFORMED},
		{"https://host:80x", KT_URL_MALFORMED},
		{"https://host:1:2", KT_URL_MALFORMED},
		{"https://[::1", KT_URL_MALFORMED},
		{"https://::1]", KT_URL_MALFORMED},
		{"https://[::1]evil.com", KT_URL_MALFORMED},
		{"https://[evil.com]", KT_URL_MALFORMED},
		{"https://[fe80::1%25eth0]", KT_URL_MALFORMED},
		{"https://ho%73t", KT_URL_MALFORMED},
		{"https://127.0.0.1%00.evil.com", KT_URL_MALFORMED},
		{"https://host,other", KT_URL_MALFORMED},
		{"https://host;other", KT_URL_MALFORMED},
		{"https://ho*st", KT_URL_MALFORMED},
	};

	(void) state;
	check_cases(cases, lengthof(cases), false);
}

static void
backslashes_white_space_and_bytes_outside_ascii_are_malformed_wherever_they_stand(void **state)
{
	static const JudgeCase cases[] = {
		{" https://host", KT_URL_MALFORMED},
		{"https://host ", KT_URL_MALFORMED},
		{"https://host\n", KT_URL_MALFORMED},
		{"https://host\r\nX-Evil: 1", KT_URL_MALFORMED},
		{"https://ho st", KT_URL_MALFORMED},
		{"https://host/a b", KT_URL_MALFORMED},
		{"https://host\t/", KT_URL_MALFORMED},
		{"https://host/\x7f", KT_URL_MALFORMED},
		{"https://host/\x01", KT_URL_MALFORMED},
		{"https:\\\\host", KT_URL_MALFORMED},
		{"https://good\\@evil.com", KT_URL_MALFORMED},
		{"https://host/a\\b", KT_URL_MALFORMED},
		{"https://m\xC3\xBCller.example", KT_URL_MALFORMED},
		{"https://host/\xff", KT_URL_MALFORMED},
		{"https://evil\xEF\xBC\x8E"
	     "com",
	     KT_URL_MALFORMED},
	};

	(void) state;
	check_cases(cases, lengthof(cases), false);
}

static void
another_scheme_a_user_and_a_query_are_named_as_such(void **state)
{
	static const JudgeCase cases[] = {
		{"ftp://host", KT_URL_SCHEME},
		{"file:///etc/passwd", KT_URL_SCHEME},
		{"httpss://host", KT_URL_SCHEME},
		{"http+unix://host", KT_URL_SCHEME},
		{"httpx://127.0.0.1", KT_URL_SCHEME},
		{"https://user@host", KT_URL_CREDENTIALS},
		{"https://user:pass@host", KT_URL_CREDENTIALS},
		{"https://@host", KT_URL_CREDENTIALS},
		{"https://:@host", KT_URL_CREDENTIALS},
		{"http://127.0.0.1@evil.com", KT_URL_CREDENTIALS},
		{"http://localhost:80@evil.com/", KT_URL_CREDENTIALS},
		{"https://a@b@c", KT_URL_CREDENTIALS},
		{"https://host?", KT_URL_QUERY},
		{"https://host?a=b", KT_URL_QUERY},
		{"https://host/v1?a", KT_URL_QUERY},
		{"https://host#f", KT_URL_QUERY},
		{"https://host/#", KT_URL_QUERY},
		{"http://evil.com#@127.0.0.1", KT_URL_QUERY},
		{"http://127.0.0.1?@evil.com", KT_URL_QUERY},
	};

	(void) state;
	check_cases(cases, lengthof(cases), false);
}

typedef struct BuildCase
{
	const char *base;
	const char *path;
	KtUrlParam params[3];
	int nparams;
	const char *url;
} BuildCase;

static void
addresses_are_base_and_path_and_encoded_query(void **state)
{
	static const BuildCase cases[] = {
		{"https://host", "/api/calls", {{0}}, 0, "https://host/api/calls"},
		{"https://host/", "/api/calls", {{0}}, 0, "https://host/api/calls"},
		{"https://host/v1", "/api/calls", {{0}}, 0, "https://host/v1/api/calls"},
		{"https://host/v1/", "/api/calls", {{0}}, 0, "https://host/v1/api/calls"},
		{"https://host/v1///", "/x", {{0}}, 0, "https://host/v1/x"},
		{"http://[::1]:8080", "/x", {{0}}, 0, "http://[::1]:8080/x"},
		{"https://h", "/x", {{"a", "1"}, {"b", "2"}}, 2, "https://h/x?a=1&b=2"},
		{"https://h", "/x", {{"a", NULL}, {"b", "2"}}, 2, "https://h/x?b=2"},
		{"https://h", "/x", {{"a", "1"}, {"b", NULL}, {"c", "3"}}, 3, "https://h/x?a=1&c=3"},
		{"https://h", "/x", {{"a", NULL}}, 1, "https://h/x"},
		{"https://h", "/x", {{"a", ""}}, 1, "https://h/x?a="},
		{"https://h",
	     "/x",
	     {{"a", "+&=?#/%;:@ \"\\"}},
	     1,
	     "https://h/x?a=%2B%26%3D%3F%23%2F%25%3B%3A%40%20%22%5C"},
		{"https://h", "/x", {{"a", "AZaz09-._~"}}, 1, "https://h/x?a=AZaz09-._~"},
		{"https://h", "/x", {{"a", "\xC3\xA4\xff\x01\r\n"}}, 1, "https://h/x?a=%C3%A4%FF%01%0D%0A"},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		KtBuf out;

		kt_buf_init(&out, 1000);
		kt_buf_append_str(&out, "what was there before goes");
		assert_true(
			kt_url_build(cases[i].base, cases[i].path, cases[i].params, cases[i].nparams, &out));
		assert_buf_and_free(cases[i].url, &out, cases[i].url, strlen(cases[i].url));
	}
}

static void
libcurl_reads_back_the_value_that_was_encoded(void **state)
{
	KtUrlParam param = {"a", NULL};
	char value[256];
	KtBuf out;
	int decoded_len;
	char *decoded;
	int i;

	(void) state;
	for (i = 1; i < 256; i++)
		value[i - 1] = (char) i;
	value[255] = '\0';
	param.value = value;
	kt_buf_init(&out, 2000);
	assert_true(kt_url_build("https://h", "/x", &param, 1, &out));
	decoded = curl_easy_unescape(NULL, strchr(out.data, '=') + 1, 0, &decoded_len);
	assert_non_null(decoded);
	assert_bytes("decoded", decoded, (size_t) decoded_len, value, 255);
	curl_free(decoded);
	kt_buf_free(&out);
}

static void
no_address_is_made_of_a_faulty_base_or_beyond_the_maximum(void **state)
{
	static const char *const bases[] = {"",
	                                    "host",
	                                    "ftp://host",
	                                    "https://user@host",
	                                    "https://host?q",
	                                    "https://host/#f",
	                                    "http://host",
	                                    "https:///"};
	KtUrlParam param = {"a", "value"};
	KtBuf out;
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(bases); i++)
	{
		kt_buf_init(&out, 1000);
		assert_false(kt_url_build(bases[i], "/x", &param, 1, &out));
		assert_buf_and_free(bases[i], &out, BYTES(""));
	}
	kt_buf_init(&out, 1000);
	assert_false(kt_url_build("https://host", "x", NULL, 0, &out));
	assert_false(kt_url_build("https://host", "", NULL, 0, &out));
	assert_false(kt_url_build("https://host", ".evil.com/", NULL, 0, &out));
	kt_buf_free(&out);

	kt_buf_init(&out, strlen("https://h/x?a=value"));
	assert_true(kt_url_build("https://h", "/x", &param, 1, &out));
	kt_buf_free(&out);
	kt_buf_init(&out, strlen("https://h/x?a=value") - 1);
	assert_false(kt_url_build("https://h", "/x", &param, 1, &out));
	assert_buf_and_free("too long", &out, BYTES(""));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(https_to_any_host_is_good),
		cmocka_unit_test(http_is_good_to_a_loopback_address_only),
		cmocka_unit_test(odd_spellings_of_numbers_are_judged_as_libcurl_reads_them),
		cmocka_unit_test(what_is_no_absolute_http_url_with_a_host_is_malformed),
		cmocka_unit_test(
			backslashes_white_space_and_bytes_outside_ascii_are_malformed_wherever_they_stand),
		cmocka_unit_test(another_scheme_a_user_and_a_query_are_named_as_such),
		cmocka_unit_test(addresses_are_base_and_path_and_encoded_query),
		cmocka_unit_test(libcurl_reads_back_the_value_that_was_encoded),
		cmocka_unit_test(no_address_is_made_of_a_faulty_base_or_beyond_the_maximum),
	};

	return cmocka_run_group_tests_name("url", tests, NULL, NULL);
}
