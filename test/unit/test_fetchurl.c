/* Which URLs of strangers may be fetched, from which addresses, and which lists of hosts are lists. */
#include "addresses.h"
#include "fetchurl.h"
#include "limits.h"

#define HOSTS                                                                                       \
	"storage.kridtech.com, .cdn.example.net,media.example.org:8443,.a.example:444, 127.0.0.1:9443," \
	"[::1]:9443,localhost,Mixed.Example.COM"

typedef struct Case
{
	const char *url;
	KtFetchFault fault;
} Case;

/* From a block of its own size, so that a byte read beyond the URL is seen. */
static KtFetchFault
judge(const char *url, const char *hosts, KtFetchTarget *target)
{
	char *copy = exact_copy(url, strlen(url) + 1);
	KtFetchFault fault = kt_fetchurl_judge(copy, hosts, target);

	free(copy);
	return fault;
}

static void
check(const Case *cases, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
	{
		KtFetchTarget target;
		KtFetchFault fault = judge(cases[i].url, HOSTS, &target);

		if (fault != cases[i].fault)
			fail_msg("%s: %d, not %d", cases[i].url, fault, cases[i].fault);
	}
}

static void
https_to_a_listed_host_is_good(void **state)
{
	static const Case cases[] = {
		{"https://storage.kridtech.com/recordings/call_abc123.mp3", KT_FETCH_OK},
		{"https://storage.kridtech.com", KT_FETCH_OK},
		{"https://storage.kridtech.com:443/", KT_FETCH_OK},
		{"HTTPS://Storage.Kridtech.COM/x", KT_FETCH_OK},
		{"https://mixed.example.com/x", KT_FETCH_OK},
		{"https://storage.kridtech.com?X-Amz-Signature=ab%2Fcd&x=1", KT_FETCH_OK},
		{"https://storage.kridtech.com/a@b/c:d/../e", KT_FETCH_OK},
		{"https://x.cdn.example.net/1", KT_FETCH_OK},
		{"https://a.b_c.cdn.example.net/1", KT_FETCH_OK},
		{"https://media.example.org:8443/1", KT_FETCH_OK},
		{"https://x.a.example:444/", KT_FETCH_OK},
		{"https://127.0.0.1:9443/1", KT_FETCH_OK},
		{"https://[::1]:9443/1", KT_FETCH_OK},
		/* a listed name; where it leads is judged when it connects */
		{"https://localhost/1", KT_FETCH_OK},
	};

	(void) state;
	check(cases, lengthof(cases));
}

static void
another_scheme_is_refused(void **state)
{
	static const Case cases[] = {
		{"http://storage.kridtech.com/x", KT_FETCH_SCHEME},
		{"ftp://storage.kridtech.com/x", KT_FETCH_SCHEME},
		{"file:///etc/passwd", KT_FETCH_SCHEME},
		{"gopher://storage.kridtech.com/_x", KT_FETCH_SCHEME},
		{"httpss://storage.kridtech.com/x", KT_FETCH_SCHEME},
		{"http+https://storage.kridtech.com/x", KT_FETCH_SCHEME},
		{"data:text/plain,x", KT_FETCH_MALFORMED},
		{"javascript:alert(1)", KT_FETCH_MALFORMED},
		{"//storage.kridtech.com/x", KT_FETCH_MALFORMED},
		{"storage.kridtech.com/x", KT_FETCH_MALFORMED},
		{"https:storage.kridtech.com/x", KT_FETCH_MALFORMED},
		{"https:/storage.kridtech.com/x", KT_FETCH_MALFORMED},
		{"://storage.kridtech.com/x", KT_FETCH_MALFORMED},
		{"https", KT_FETCH_MALFORMED},
		{"", KT_FETCH_MALFORMED},
	};

	(void) state;
	check(cases, lengthof(cases));
}

static void
credentials_are_refused(void **state)
{
	static const Case cases[] = {
		{"https://user@storage.kridtech.com/x", KT_FETCH_CREDENTIALS},
		{"https://user:word@storage.kridtech.com/x", KT_FETCH_CREDENTIALS},
		{"https://@storage.kridtech.com/x", KT_FETCH_CREDENTIALS},
		{"https://storage.kridtech.com@169.254.169.254/x", KT_FETCH_CREDENTIALS},
		{"https://storage.kridtech.com:443@evil.example/x", KT_FETCH_CREDENTIALS},
		{"https://evil.example:@storage.kridtech.com/x", KT_FETCH_CREDENTIALS},
	};

	(void) state;
	check(cases, lengthof(cases));
}

static void
a_host_that_is_not_listed_is_refused(void **state)
{
	static const Case cases[] = {
		{"https://evil.example/x", KT_FETCH_HOST},
		{"https://storage.kridtech.com.evil.example/x", KT_FETCH_HOST},
		{"https://xstorage.kridtech.com/x", KT_FETCH_HOST},
		{"https://x.storage.kridtech.com/x", KT_FETCH_HOST},
		{"https://kridtech.com/x", KT_FETCH_HOST},
		{"https://evil.example/?https://storage.kridtech.com/", KT_FETCH_HOST},
		{"https://evil.example?@storage.kridtech.com/", KT_FETCH_HOST},
		{"https://evil.example/@storage.kridtech.com/", KT_FETCH_HOST},
		{"https://cdn.example.net/x", KT_FETCH_HOST},
		{"https://xcdn.example.net/x", KT_FETCH_HOST},
		{"https://evilcdn.example.net/x", KT_FETCH_HOST},
		{"https://x.cdn.example.net.evil/x", KT_FETCH_HOST},
		{"https://media.example.org/x", KT_FETCH_HOST},
		{"https://media.example.org:443/x", KT_FETCH_HOST},
		{"https://storage.kridtech.com:8443/x", KT_FETCH_HOST},
		{"https://x.a.example/", KT_FETCH_HOST},
		{"https://127.0.0.1/x", KT_FETCH_HOST},
		{"https://127.0.0.1:9444/x", KT_FETCH_HOST},
		{"https://127.0.0.2:9443/x", KT_FETCH_HOST},
		{"https://169.254.169.254/latest/meta-data/", KT_FETCH_HOST},
		{"https://10.0.0.1/x", KT_FETCH_HOST},
		{"https://[fd00:ec2::254]/x", KT_FETCH_HOST},
		{"https://[::ffff:127.0.0.1]:9443/x", KT_FETCH_HOST},
		{"https://localhost.localdomain/x", KT_FETCH_HOST},
		{"https://x.localhost/x", KT_FETCH_HOST},
		/* looks like a listed one, and is another name */
		{"https://xn--storage-kridtech.com/x", KT_FETCH_HOST},
	};

	(void) state;
	check(cases, lengthof(cases));
}

static void
what_parsers_differ_about_is_malformed(void **state)
{
	static const Case cases[] = {
		/* other ways of writing 127.0.0.1 */
		{"https://2130706433:9443/x", KT_FETCH_MALFORMED},
		{"https://0x7f000001:9443/x", KT_FETCH_MALFORMED},
		{"https://0x7f.1:9443/x", KT_FETCH_MALFORMED},
		{"https://127.1:9443/x", KT_FETCH_MALFORMED},
		{"https://0177.0.0.1:9443/x", KT_FETCH_MALFORMED},
		{"https://127.000.000.001:9443/x", KT_FETCH_MALFORMED},
		{"https://127.0.0.1.:9443/x", KT_FETCH_MALFORMED},
		{"https://[::0001]:9443/x", KT_FETCH_MALFORMED},
		{"https://[0:0:0:0:0:0:0:1]:9443/x", KT_FETCH_MALFORMED},
		{"https://[::1%25lo]:9443/x", KT_FETCH_MALFORMED},
		{"https://[::1%lo]:9443/x", KT_FETCH_MALFORMED},
		{"https://::1:9443/x", KT_FETCH_MALFORMED},
		{"https://[::1/x", KT_FETCH_MALFORMED},
		{"https://[::1]x:9443/x", KT_FETCH_MALFORMED},
		{"https://[]/x", KT_FETCH_MALFORMED},
		{"https://[storage.kridtech.com]/x", KT_FETCH_MALFORMED},
		{"https://[127.0.0.1]:9443/x", KT_FETCH_MALFORMED},
		{"https://\xe2\x91\xa0"
	     "27.0.0.1:9443/x",
	     KT_FETCH_MALFORMED},
		/* hosts */
		{"https:///x", KT_FETCH_MALFORMED},
		{"https://", KT_FETCH_MALFORMED},
		{"https:////storage.kridtech.com/x", KT_FETCH_MALFORMED},
		{"https://.storage.kridtech.com/x", KT_FETCH_MALFORMED},
		{"https://.cdn.example.net/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com./x", KT_FETCH_MALFORMED},
		{"https://storage..kridtech.com/x", KT_FETCH_MALFORMED},
		{"https://-x.cdn.example.net/x", KT_FETCH_MALFORMED},
		{"https://x-.cdn.example.net/x", KT_FETCH_MALFORMED},
		{"https://storage%2ekridtech.com/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com%00.evil.example/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com%2f@evil.example/x", KT_FETCH_CREDENTIALS},
		{"https://storage.kridtech.com&evil.example/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com;evil.example/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com,evil.example/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.c\xc3\xb6m/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com\xef\xbc\x8f.evil.example/x", KT_FETCH_MALFORMED},
		/* ports */
		{"https://storage.kridtech.com:/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com:0443/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com:0/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com:65979/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com:4294967739/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com:+443/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com:-1/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com:443:80/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com:x/x", KT_FETCH_MALFORMED},
		/* bytes */
		{"https://storage.kridtech.com\\@evil.example/x", KT_FETCH_MALFORMED},
		{"https:\\\\storage.kridtech.com\\x", KT_FETCH_MALFORMED},
		{"https://evil.example\\.cdn.example.net/x", KT_FETCH_MALFORMED},
		{"https://evil.example#.cdn.example.net/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com/x#y", KT_FETCH_MALFORMED},
		{"https://evil.example#@storage.kridtech.com/", KT_FETCH_MALFORMED},
		{" https://storage.kridtech.com/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com/x ", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com/x y", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com/x\r\nHost: evil.example", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com/\tx", KT_FETCH_MALFORMED},
		{"ht\ttps://storage.kridtech.com/x", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com/\x7f", KT_FETCH_MALFORMED},
		{"https://storage.kridtech.com/\xef\xbf\xbd", KT_FETCH_MALFORMED},
	};

	(void) state;
	check(cases, lengthof(cases));
}

static void
a_url_has_a_greatest_length(void **state)
{
	static const char start[] = "https://storage.kridtech.com/";
	char url[KT_MAX_RECORDING_URL + 2];
	KtFetchTarget target;

	(void) state;
	memset(url, 'x', sizeof(url));
	memcpy(url, start, strlen(start));
	url[KT_MAX_RECORDING_URL] = '\0';
	assert_int_equal(judge(url, HOSTS, &target), KT_FETCH_OK);
	url[KT_MAX_RECORDING_URL] = 'x';
	url[KT_MAX_RECORDING_URL + 1] = '\0';
	assert_int_equal(judge(url, HOSTS, &target), KT_FETCH_MALFORMED);
}

static void
an_empty_list_lets_nothing_pass(void **state)
{
	KtFetchTarget target;

	(void) state;
	assert_int_equal(judge("https://storage.kridtech.com/", "", &target), KT_FETCH_HOST);
	assert_int_equal(judge("https://storage.kridtech.com/", " ", &target), KT_FETCH_HOST);
}

/* ---- lists ------------------------------------------------------------------------------------------------ */

static void
a_list_is_names_domains_and_addresses(void **state)
{
	static const char *const good[] = {
		"",
		"  ",
		HOSTS,
		"a",
		"a.b.c:1, .b.c:65535",
		"192.0.2.1,192.0.2.1:8443,[2001:db8::1],[2001:DB8::1]:8443",
		"xn--mller-kva.example",
	};
	static const char *const bad[] = {
		",",
		"a,",
		",a",
		"a b",
		"a,,b",
		"https://a.example",
		"a/b",
		"user@a",
		".",
		".com",
		"..a.b",
		".192.0.2.1",
		"*.a.b",
		"*",
		"a:0",
		"a:",
		"a:443x",
		"a:65536",
		"1.2.3",
		"0x7f.0.0.1",
		"1.2.3.4.5",
		"256.1.1.1",
		"::1",
		"[::1",
		"[1.2.3.4]",
		".[::1]",
		"a..b",
		"m\xc3\xbcller.example",
		"a.b.",
		"-a.b",
		"[fe80::1%lo]",
		"a\nb",
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(good); i++)
		if (kt_fetchurl_check_hosts(good[i]) != NULL)
			fail_msg("\"%s\" is refused", good[i]);
	for (i = 0; i < lengthof(bad); i++)
		if (kt_fetchurl_check_hosts(bad[i]) == NULL)
			fail_msg("\"%s\" is taken", bad[i]);
}

/* ---- addresses -------------------------------------------------------------------------------------------- */

static void
a_name_leads_to_public_addresses_only(void **state)
{
	KtFetchTarget target;
	struct sockaddr_storage inner = address_of("127.0.0.1");
	struct sockaddr_storage outer = address_of("8.8.8.8");
	struct sockaddr_storage inner6 = address_of("::1");
	struct sockaddr_storage outer6 = address_of("2a00:1450::1");

	(void) state;
	assert_int_equal(judge("https://localhost/", HOSTS, &target), KT_FETCH_OK);
	assert_false(kt_fetchurl_allows(&target, ANY(inner)));
	assert_false(kt_fetchurl_allows(&target, ANY(inner6)));
	assert_true(kt_fetchurl_allows(&target, ANY(outer)));
	assert_true(kt_fetchurl_allows(&target, ANY(outer6)));
}

static void
a_listed_address_leads_to_itself_only(void **state)
{
	KtFetchTarget target;
	struct sockaddr_storage itself = address_of("127.0.0.1");
	struct sockaddr_storage other = address_of("127.0.0.2");
	struct sockaddr_storage outer = address_of("8.8.8.8");
	struct sockaddr_storage itself6 = address_of("::1");
	struct sockaddr_storage mapped = address_of("::ffff:127.0.0.1");
	struct sockaddr_storage outer6 = address_of("2a00:1450::1");

	(void) state;
	assert_int_equal(judge("https://127.0.0.1:9443/", HOSTS, &target), KT_FETCH_OK);
	assert_true(kt_fetchurl_allows(&target, ANY(itself)));
	assert_false(kt_fetchurl_allows(&target, ANY(other)));
	assert_false(kt_fetchurl_allows(&target, ANY(outer)));
	assert_false(kt_fetchurl_allows(&target, ANY(itself6)));
	assert_false(kt_fetchurl_allows(&target, ANY(mapped)));
	/* an address of the other family that holds the same bytes at the same place */
	((struct sockaddr_in6 *) &outer6)->sin6_flowinfo =
		((struct sockaddr_in *) &itself)->sin_addr.s_addr;
	assert_false(kt_fetchurl_allows(&target, ANY(outer6)));
	assert_int_equal(judge("https://[::1]:9443/", HOSTS, &target), KT_FETCH_OK);
	assert_true(kt_fetchurl_allows(&target, ANY(itself6)));
	assert_false(kt_fetchurl_allows(&target, ANY(itself)));
	assert_false(kt_fetchurl_allows(&target, ANY(mapped)));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(https_to_a_listed_host_is_good),
		cmocka_unit_test(another_scheme_is_refused),
		cmocka_unit_test(credentials_are_refused),
		cmocka_unit_test(a_host_that_is_not_listed_is_refused),
		cmocka_unit_test(what_parsers_differ_about_is_malformed),
		cmocka_unit_test(a_url_has_a_greatest_length),
		cmocka_unit_test(an_empty_list_lets_nothing_pass),
		cmocka_unit_test(a_list_is_names_domains_and_addresses),
		cmocka_unit_test(a_name_leads_to_public_addresses_only),
		cmocka_unit_test(a_listed_address_leads_to_itself_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
