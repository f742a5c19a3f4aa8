/* Addresses as the settings name them: lists of places to listen at, and of networks. */
#include "unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "netaddr.h"

/* The entries of a list, each as "database address" or "! fault", joined by " | ". */
static void
expect_endpoints(const char *list, const char *expected)
{
	char found[1024] = "";
	KtEndpoint endpoint;

	while (kt_netaddr_next_endpoint(&list, &endpoint))
	{
		size_t len = strlen(found);
		char text[KT_NETADDR_TEXT] = "";

		if (endpoint.fault == NULL)
			kt_netaddr_print(&endpoint.address, text, sizeof(text));
		snprintf(found + len, sizeof(found) - len, "%s%s%s%s", len > 0 ? " | " : "",
		         endpoint.fault != NULL ? "! " : endpoint.database,
		         endpoint.fault != NULL ? endpoint.fault : " ", text);
	}
	assert_string_equal(found, expected);
}

static void
an_empty_list_has_no_entries(void **state)
{
	(void) state;
	expect_endpoints("", "");
	expect_endpoints("  \t\n", "");
}

static void
addresses_are_read(void **state)
{
	(void) state;
	expect_endpoints("127.0.0.1:8443", " 127.0.0.1:8443");
	expect_endpoints(" 127.0.0.1 : 8443 ,[::1]:0,0.0.0.0:65535",
	                 " 127.0.0.1:8443 |  [::1]:0 |  0.0.0.0:65535");
	expect_endpoints("[2001:db8::1]:443,", " [2001:db8::1]:443");
}

static void
a_database_is_read_as_an_identifier(void **state)
{
	(void) state;
	expect_endpoints("crm@127.0.0.1:1, CRM@127.0.0.1:2", "crm 127.0.0.1:1 | crm 127.0.0.1:2");
	expect_endpoints("\"CRM\"@127.0.0.1:1", "CRM 127.0.0.1:1");
	expect_endpoints("\"a, \"\"b\"\"@c\"@[::1]:1,d@127.0.0.1:2",
	                 "a, \"b\"@c [::1]:1 | d 127.0.0.1:2");
}

static void
a_faulty_entry_does_not_touch_the_others(void **state)
{
	(void) state;
	expect_endpoints("localhost:1, 127.0.0.1:2",
	                 "! its address is not a numeric IPv4 or IPv6 address |  127.0.0.1:2");
	expect_endpoints("127.0.0.1,127.0.0.1:2", "! it has no port |  127.0.0.1:2");
	expect_endpoints(",127.0.0.1:2", "! it has no port |  127.0.0.1:2");
}

static void
what_can_be_read_in_two_ways_is_refused(void **state)
{
	(void) state;
	expect_endpoints("::1:80", "! an IPv6 address stands in brackets");
	expect_endpoints("[127.0.0.1]:80", "! only an IPv6 address stands in brackets");
	expect_endpoints("127.0.0.1:", "! its port is no number from 0 to 65535");
	expect_endpoints("127.0.0.1:65536", "! its port is no number from 0 to 65535");
	expect_endpoints("127.0.0.1:+80", "! its port is no number from 0 to 65535");
	expect_endpoints("127.0.0.1:8x", "! its port is no number from 0 to 65535");
	expect_endpoints("127.1:80", "! its address is not a numeric IPv4 or IPv6 address");
	expect_endpoints("@127.0.0.1:80", "! the database's name is empty");
	expect_endpoints("\"\"@127.0.0.1:80", "! the database's name is empty");
	expect_endpoints("\"a\"b\"@127.0.0.1:80", "! its double quotes are not in order");
	expect_endpoints("a\"b@127.0.0.1:80", "! its double quotes are not in order");
	expect_endpoints("\"@127.0.0.1:80", "! its double quotes are not in order");
}

static void
a_name_that_is_too_long_is_refused(void **state)
{
	char name[KT_NETADDR_NAME];
	char list[KT_NETADDR_NAME * 2];
	KtEndpoint endpoint;
	const char *rest;

	(void) state;
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	snprintf(list, sizeof(list), "%s@127.0.0.1:1", name);
	rest = list;
	assert_true(kt_netaddr_next_endpoint(&rest, &endpoint));
	assert_null(endpoint.fault);
	assert_string_equal(endpoint.database, name);
	snprintf(list, sizeof(list), "%sx@127.0.0.1:1", name);
	rest = list;
	assert_true(kt_netaddr_next_endpoint(&rest, &endpoint));
	assert_string_equal(endpoint.fault, "the database's name is too long");
}

static void
expect_networks(const char *list, const char *expected)
{
	struct sockaddr_storage address;
	char found[256] = "";
	int prefix;

	while (kt_netaddr_next_network(&list, &address, &prefix))
	{
		size_t len = strlen(found);
		char text[INET6_ADDRSTRLEN] = "?";

		if (prefix >= 0)
			inet_ntop(address.ss_family,
			          address.ss_family == AF_INET
			              ? (void *) &((struct sockaddr_in *) &address)->sin_addr
			              : (void *) &((struct sockaddr_in6 *) &address)->sin6_addr,
			          text, sizeof(text));
		snprintf(found + len, sizeof(found) - len, "%s%s/%d", len > 0 ? " " : "", text, prefix);
	}
	assert_string_equal(found, expected);
}

static void
networks_are_read(void **state)
{
	(void) state;
	expect_networks("", "");
	expect_networks("10.0.0.0/8, 192.0.2.1,::1, 2001:db8::/32",
	                "10.0.0.0/8 192.0.2.1/32 ::1/128 2001:db8::/32");
	expect_networks("10.0.0.0/0", "10.0.0.0/0");
	expect_networks("10.0.0.0/33", "?/-1");
	expect_networks("2001:db8::/129", "?/-1");
	expect_networks("10.0.0.0/, x, 10.0.0.0/-1, [::1]", "?/-1 ?/-1 ?/-1 ?/-1");
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_list_has_no_entries),
		cmocka_unit_test(addresses_are_read),
		cmocka_unit_test(a_database_is_read_as_an_identifier),
		cmocka_unit_test(a_faulty_entry_does_not_touch_the_others),
		cmocka_unit_test(what_can_be_read_in_two_ways_is_refused),
		cmocka_unit_test(a_name_that_is_too_long_is_refused),
		cmocka_unit_test(networks_are_read),
	};

	return cmocka_run_group_tests_name("netaddr", tests, NULL, NULL);
}
