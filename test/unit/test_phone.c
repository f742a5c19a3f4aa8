/* E.164: what is a number, how it is normalised, and that a mask never shows one. */
#include "unit.h"

#include "phone.h"

typedef struct PhoneCase
{
	const char *in;
	size_t len;
	const char *out; /* NULL: refused */
} PhoneCase;

static const PhoneCase cases[] = {
	{BYTES("+1234567890"), "+1234567890"},
	{BYTES("+1 (234) 567-8.90"), "+1234567890"},
	{BYTES("  +49 30 123456  "), "+4930123456"},
	{BYTES("(+49) 30 123456"), "+4930123456"},
	/* 7 and 15 digits are the edges */
	{BYTES("+1234567"), "+1234567"},
	{BYTES("+123456"), NULL},
	{BYTES("+123456789012345"), "+123456789012345"},
	{BYTES("+1234567890123456"), NULL},
	{BYTES("+12345678901234567890123456789012345678901234567890"), NULL},
	/* a plus, and it comes first, once */
	{BYTES("1234567890"), NULL},
	{BYTES("001234567890"), NULL},
	{BYTES("++1234567890"), NULL},
	{BYTES("1+234567890"), NULL},
	{BYTES("+1234567+890"), NULL},
	/* no country code begins with 0 */
	{BYTES("+0123456789"), NULL},
	{BYTES("+ 0 123456789"), NULL},
	{BYTES("+1000000"), "+1000000"},
	/* nothing but the separators is dropped */
	{BYTES("+1/234567890"), NULL},
	{BYTES("+1\t234567890"), NULL},
	{BYTES("+1234567890\n"), NULL},
	{BYTES("+1234567890x12"), NULL},
	{BYTES("+12345678\0"
           "90"),
     NULL},
	{BYTES("+1234567890\0"), NULL},
	{BYTES("+12345678\xC2\xA0"
           "90"),
     NULL},
	{BYTES("\xEF\xBC\x8B"
           "1234567890"),
     NULL},
	{BYTES("+\xD9\xA1\xD9\xA2\xD9\xA3\xD9\xA4\xD9\xA5\xD9\xA6\xD9\xA7"), NULL},
	{BYTES("+"), NULL},
	{BYTES(""), NULL},
	{BYTES(" .-()"), NULL},
	{BYTES("tel:+1234567890"), NULL},
};

static void
numbers_are_normalised_or_refused(void **state)
{
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		char *in = exact_copy(cases[i].in, cases[i].len);
		char out[KT_PHONE_SIZE] = "untouched";
		bool ok = kt_phone_normalize(in, cases[i].len, out);

		if (ok != (cases[i].out != NULL))
			fail_msg("\"%s\" was %s", cases[i].in, ok ? "accepted" : "refused");
		assert_string_equal(out, ok ? cases[i].out : "untouched");
		free(in);
	}
}

static void
normalising_a_normalised_number_changes_nothing(void **state)
{
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		char out[KT_PHONE_SIZE];

		if (cases[i].out == NULL)
			continue;
		assert_true(kt_phone_normalize(cases[i].out, strlen(cases[i].out), out));
		assert_string_equal(out, cases[i].out);
	}
}

static void
a_million_separators_are_no_number_and_no_harm(void **state)
{
	size_t len = 1000000;
	char *in = malloc(len);
	char out[KT_PHONE_SIZE];

	(void) state;
	memset(in, '-', len);
	assert_false(kt_phone_normalize(in, len, out));
	free(in);
}

static void
a_mask_shows_the_first_three_and_the_last_two_characters(void **state)
{
	static const char *const masks[][2] = {
		{"+1234567890", "+12******90"},
		{"+1234567", "+12***67"},
		{"+123456789012345", "+12***********45"},
	};
	char out[KT_PHONE_SIZE];
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(masks); i++)
	{
		kt_phone_mask(masks[i][0], out);
		assert_string_equal(out, masks[i][1]);
	}
}

static void
what_is_no_number_is_masked_whole(void **state)
{
	static const char *const others[] = {
		"",
		"+",
		"12",
		"+12345",
		"1234567890",
		"call me at midnight, please",
		"+12345678901234567890",
		"\n\x1b[2J",
	};
	char out[KT_PHONE_SIZE];
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(others); i++)
	{
		kt_phone_mask(others[i], out);
		assert_string_equal(out, "***");
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_normalised_or_refused),
		cmocka_unit_test(normalising_a_normalised_number_changes_nothing),
		cmocka_unit_test(a_million_separators_are_no_number_and_no_harm),
		cmocka_unit_test(a_mask_shows_the_first_three_and_the_last_two_characters),
		cmocka_unit_test(what_is_no_number_is_masked_whole),
	};

	return cmocka_run_group_tests_name("phone", tests, NULL, NULL);
}
