/* Which addresses are of the public Internet, and which lead back to this machine. */
#include "addresses.h"

#include "address.h"

/* The first and last address of each block, and the neighbours outside it where those are public. */
static const char *const refused[] = {
	"0.0.0.0",
	"0.255.255.255",
	"10.0.0.0",
	"10.255.255.255",
	"100.64.0.0",
	"100.127.255.255",
	"100.100.100.200",
	"127.0.0.0",
	"127.0.0.1",
	"127.255.255.255",
	"168.63.129.16",
	"169.254.0.0",
	"169.254.169.254",
	"169.254.255.255",
	"172.16.0.0",
	"172.31.255.255",
	"192.0.0.0",
	"192.0.0.192",
	"192.0.0.255",
	"192.0.2.0",
	"192.0.2.255",
	"192.88.99.0",
	"192.88.99.255",
	"192.168.0.0",
	"192.168.255.255",
	"198.18.0.0",
	"198.19.255.255",
	"198.51.100.0",
	"198.51.100.255",
	"203.0.113.0",
	"203.0.113.255",
	"224.0.0.0",
	"239.255.255.255",
	"240.0.0.0",
	"255.255.255.254",
	"255.255.255.255",
	"::",
	"::1",
	"::2",
	"::127.0.0.1",
	"::8.8.8.8",
	"::ffff:127.0.0.1",
	"::ffff:10.0.0.1",
	"::ffff:8.8.8.8",
	"::ffff:0:8.8.8.8",
	"64:ff9b::7f00:1",
	"64:ff9b::8.8.8.8",
	"64:ff9b:1::1",
	"100::1",
	"1fff:ffff::",
	"2001::1",
	"2001:0:4136:e378:8000:63bf:3fff:fdd2",
	"2001:2::1",
	"2001:10::1",
	"2001:20::1",
	"2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
	"2001:db8::",
	"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
	"2002:7f00:1::",
	"2002:808:808::1",
	"3fff::",
	"3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
	"4000::",
	"5f00::1",
	"fc00::",
	"fd00:ec2::254",
	"fdff::1",
	"fe80::1",
	"febf::1",
	"fec0::1",
	"ff00::",
	"ff02::1",
	"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
};

static const char *const public[] = {
	"1.0.0.0",          "1.1.1.1",        "8.8.8.8",        "9.255.255.255",
	"11.0.0.0",         "100.63.255.255", "100.128.0.0",    "126.255.255.255",
	"128.0.0.0",        "168.63.129.15",  "168.63.129.17",  "169.253.255.255",
	"169.255.0.0",      "172.15.255.255", "172.32.0.0",     "191.255.255.255",
	"192.0.1.0",        "192.0.3.0",      "192.88.98.255",  "192.88.100.0",
	"192.167.255.255",  "192.169.0.0",    "198.17.255.255", "198.20.0.0",
	"198.51.99.255",    "198.51.101.0",   "203.0.112.255",  "203.0.114.0",
	"223.255.255.255",  "2000::1",        "2001:200::1",    "2001:4860:4860::8888",
	"2001:db7:ffff::1", "2001:db9::1",    "2003::1",        "2a00:1450::1",
	"3ffe::1",          "3fff:1000::1",
};

static void
only_public_addresses_are_public(void **state)
{
	struct sockaddr_storage other = {.ss_family = AF_UNIX};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(refused); i++)
	{
		struct sockaddr_storage address = address_of(refused[i]);

		if (kt_address_is_public(ANY(address)))
			fail_msg("%s is taken for public", refused[i]);
	}
	for (i = 0; i < lengthof(public); i++)
	{
		struct sockaddr_storage address = address_of(public[i]);

		if (!kt_address_is_public(ANY(address)))
			fail_msg("%s is not taken for public", public[i]);
	}
	assert_false(kt_address_is_public(ANY(other)));
}

static void
loopback_addresses_are_known(void **state)
{
	static const char *const loopback[] = {"127.0.0.1", "127.255.255.254", "::1",
	                                       "::ffff:127.0.0.1"};
	static const char *const other[] = {
		"0.0.0.0", "126.0.0.1",   "128.0.0.1", "10.0.0.1",        "::",     "::2",
		"1::1",    "2001:db8::1", "::7f00:1",  "::ffff:10.0.0.1", "nothing"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(loopback); i++)
	{
		struct sockaddr_storage address = address_of(loopback[i]);

		if (!kt_address_is_loopback(ANY(address)))
			fail_msg("%s is not taken for loopback", loopback[i]);
	}
	for (i = 0; i < lengthof(other); i++)
	{
		struct sockaddr_storage address = address_of(other[i]);

		if (kt_address_is_loopback(ANY(address)))
			fail_msg("%s is taken for loopback", other[i]);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_public_addresses_are_public),
		cmocka_unit_test(loopback_addresses_are_known),
	};

	return cmocka_run_group_tests_name("address", tests, NULL, NULL);
}
