/* Client addresses: networks, what is counted as one, and how far X-Forwarded-For is believed. */
#include "addresses.h"

#include "haddress.h"

static const char *
text_of(const struct sockaddr_storage *address, char *text)
{
	const void *bytes = address->ss_family == AF_INET
	                        ? (const void *) &((const struct sockaddr_in *) address)->sin_addr
	                        : (const void *) &((const struct sockaddr_in6 *) address)->sin6_addr;

	return inet_ntop(address->ss_family, bytes, text, INET6_ADDRSTRLEN);
}

static void
a_network_holds_the_addresses_with_its_leading_bits(void **state)
{
	static const struct
	{
		const char *network;
		int prefix;
		const char *address;
		bool held;
	} cases[] = {
		{"10.0.0.0", 8, "10.255.255.255", true},
		{"10.0.0.0", 8, "11.0.0.0", false},
		{"192.0.2.128", 25, "192.0.2.128", true},
		{"192.0.2.128", 25, "192.0.2.127", false},
		{"192.0.2.1", 32, "192.0.2.1", true},
		{"192.0.2.1", 32, "192.0.2.0", false},
		{"0.0.0.0", 0, "203.0.113.9", true},
		{"0.0.0.0", 0, "2001:db8::1", false},
		{"192.0.2.1", 33, "192.0.2.1", false},
		{"192.0.2.1", -1, "192.0.2.1", false},
		{"2001:db8::", 33, "2001:db8:7fff::1", true},
		{"2001:db8::", 33, "2001:db8:8000::1", false},
		{"2001:db8::1", 128, "2001:db8::1", true},
		{"2001:db8::1", 128, "2001:db8::2", false},
		{"::", 0, "2001:db8::2", true},
		{"::", 0, "192.0.2.1", false},
		{"nothing", 0, "192.0.2.1", false},
		{"::", 0, "nothing", false},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		KtHttpdNetwork networks[2] = {{address_of("198.51.100.0"), 24},
		                              {address_of(cases[i].network), cases[i].prefix}};
		struct sockaddr_storage address = address_of(cases[i].address);

		if (kt_haddress_within(&address, networks, 2) != cases[i].held)
			fail_msg("%s/%d and %s", cases[i].network, cases[i].prefix, cases[i].address);
		assert_false(kt_haddress_within(&address, networks, 0));
	}
}

static void
a_mapped_address_is_the_ipv4_address(void **state)
{
	struct sockaddr_storage address = address_of("::ffff:192.0.2.7");
	struct sockaddr_storage plain = address_of("192.0.2.7");
	struct sockaddr_storage other = address_of("::fffe:192.0.2.7");
	char text[INET6_ADDRSTRLEN];

	(void) state;
	kt_haddress_unmap(&address);
	assert_memory_equal(&address, &plain, sizeof(plain));
	kt_haddress_unmap(&other);
	assert_string_equal(text_of(&other, text), "::fffe:c000:207");
}

static bool
count_as_one(const char *a, const char *b)
{
	struct sockaddr_storage first = address_of(a);
	struct sockaddr_storage second = address_of(b);
	KtHaddressKey first_key;
	KtHaddressKey second_key;

	kt_haddress_key(&first, &first_key);
	kt_haddress_key(&second, &second_key);
	return memcmp(&first_key, &second_key, sizeof(first_key)) == 0;
}

static void
an_ipv4_address_and_an_ipv6_network_count_as_one(void **state)
{
	(void) state;
	assert_true(count_as_one("192.0.2.1", "192.0.2.1"));
	assert_false(count_as_one("192.0.2.1", "192.0.2.2"));
	assert_true(count_as_one("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"));
	assert_false(count_as_one("2001:db8::1", "2001:db8:0:1::1"));
	assert_false(count_as_one("192.0.2.1", "2001:db8::1"));
}

static void
forwarded_is_believed_from_the_right_as_far_as_proxies_go(void **state)
{
	static const struct
	{
		const char *peer;
		const char *list;
		const char *client;
	} cases[] = {
		/* nobody else's word counts */
		{"192.0.2.1", "203.0.113.5", "192.0.2.1"},
		{"10.0.0.1", "203.0.113.5", "203.0.113.5"},
		{"10.0.0.1", "", "10.0.0.1"},
		{"10.0.0.1", "198.51.100.1, 203.0.113.5", "203.0.113.5"},
		{"10.0.0.1", "198.51.100.1, 203.0.113.5, 10.0.0.2", "203.0.113.5"},
		{"10.0.0.1", "198.51.100.1,10.0.0.3,203.0.113.5\t,  10.0.0.2 ", "203.0.113.5"},
		/* all of them are ours: the left-most */
		{"10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"},
		/* behind what cannot be read nothing is known */
		{"10.0.0.1", "203.0.113.5, unknown", "10.0.0.1"},
		{"10.0.0.1", "203.0.113.5, unknown, 10.0.0.2", "10.0.0.2"},
		{"10.0.0.1", "203.0.113.5, 10.0.0.2, 300.1.1.1", "10.0.0.1"},
		/* an empty place is no place */
		{"10.0.0.1", "203.0.113.5,, 10.0.0.2,", "203.0.113.5"},
		/* other spellings of an address */
		{"10.0.0.1", "203.0.113.5:1234", "203.0.113.5"},
		{"10.0.0.1", "[2001:db8::5]:1234", "2001:db8::5"},
		{"10.0.0.1", "[2001:db8::5]", "2001:db8::5"},
		{"10.0.0.1", "2001:db8::5", "2001:db8::5"},
		{"10.0.0.1", "::ffff:203.0.113.5", "203.0.113.5"},
		{"10.0.0.1", "[2001:db8::5", "10.0.0.1"},
		{"10.0.0.1", "[2001:db8::5]x", "10.0.0.1"},
		{"fd00::1", "203.0.113.5, fd00::2", "203.0.113.5"},
		{"10.0.0.1", "0000000000000000000000000000000000000000000000000000000000000001",
	     "10.0.0.1"},
	};
	KtHttpdNetwork proxies[2] = {{address_of("10.0.0.0"), 24}, {address_of("fd00::"), 8}};
	char text[INET6_ADDRSTRLEN];
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		struct sockaddr_storage client = address_of(cases[i].peer);
		char *list = exact_copy(cases[i].list, strlen(cases[i].list));

		kt_haddress_forwarded(&client, list, strlen(cases[i].list), proxies, 2);
		free(list);
		if (strcmp(text_of(&client, text), cases[i].client) != 0)
			fail_msg("%s says \"%s\": %s", cases[i].peer, cases[i].list, text);
	}
}

static void
a_nul_in_a_forwarded_address_ends_belief(void **state)
{
	KtHttpdNetwork proxy = {address_of("10.0.0.0"), 24};
	struct sockaddr_storage client = address_of("10.0.0.1");
	char text[INET6_ADDRSTRLEN];

	(void) state;
	kt_haddress_forwarded(&client, BYTES("203.0.113.5\0"), &proxy, 1);
	assert_string_equal(text_of(&client, text), "10.0.0.1");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_network_holds_the_addresses_with_its_leading_bits),
		cmocka_unit_test(a_mapped_address_is_the_ipv4_address),
		cmocka_unit_test(an_ipv4_address_and_an_ipv6_network_count_as_one),
		cmocka_unit_test(forwarded_is_believed_from_the_right_as_far_as_proxies_go),
		cmocka_unit_test(a_nul_in_a_forwarded_address_ends_belief),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
