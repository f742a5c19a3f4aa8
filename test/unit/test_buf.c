/* The growing buffer: its maximum, its sticky failure, its NUL, and that it wipes. */
#include "unit.h"

/* Let malloc() of an impossible size return NULL under AddressSanitizer, as it does without. */
const char *__asan_default_options(void);

const char *
__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}

/* Stands in for libc's, to see that buf.c wipes: reading a freed block to look would be wrong. */
void explicit_bzero(void *block, size_t len);

static size_t wiped_bytes;

void
explicit_bzero(void *block, size_t len)
{
	memset(block, 0, len);
	wiped_bytes += len;
}

static void
a_new_buffer_has_allocated_nothing(void **state)
{
	KtBuf buf;

	(void) state;
	kt_buf_init(&buf, 100);
	assert_null(buf.data);
	assert_int_equal(buf.len, 0);
	assert_int_equal(buf.cap, 0);
	assert_false(buf.failed);
	kt_buf_free(&buf);
}

static void
what_is_appended_stands_there_in_order_and_ends_with_a_nul(void **state)
{
	KtBuf buf;

	(void) state;
	kt_buf_init(&buf, 100);
	assert_true(kt_buf_append(&buf, "a\0b", 3));
	assert_true(kt_buf_append_str(&buf, "cd"));
	assert_true(kt_buf_append_char(&buf, 'e'));
	assert_int_equal(buf.data[buf.len], '\0');
	assert_buf_and_free("three appends", &buf, BYTES("a\0bcde"));
}

static void
appending_nothing_succeeds_even_from_a_null_pointer(void **state)
{
	KtBuf buf;

	(void) state;
	kt_buf_init(&buf, 0);
	assert_true(kt_buf_append(&buf, NULL, 0));
	assert_true(kt_buf_append_str(&buf, ""));
	assert_int_equal(buf.len, 0);
	assert_string_equal(buf.data, "");
	assert_false(buf.failed);
	kt_buf_free(&buf);
}

static void
the_maximum_fits_and_one_byte_more_does_not(void **state)
{
	static const size_t maxima[] = {1, 2, 127, 128, 129, 255, 256, 257, 1000, 65536};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(maxima); i++)
	{
		char *bytes = calloc(1, maxima[i] + 1);
		KtBuf buf;

		memset(bytes, 'x', maxima[i] + 1);
		kt_buf_init(&buf, maxima[i]);
		assert_true(kt_buf_append(&buf, bytes, maxima[i]));
		assert_true(buf.cap <= maxima[i] + 1);
		assert_false(kt_buf_append_char(&buf, 'y'));
		assert_int_equal(buf.len, maxima[i]);
		kt_buf_reset(&buf, 0);
		assert_false(kt_buf_append(&buf, bytes, maxima[i] + 1));
		assert_int_equal(buf.len, 0);
		kt_buf_free(&buf);
		free(bytes);
	}
}

static void
byte_by_byte_growth_reaches_the_maximum_and_never_passes_it(void **state)
{
	KtBuf buf;
	size_t i;

	(void) state;
	kt_buf_init(&buf, 3000);
	for (i = 0; i < 3000; i++)
	{
		assert_true(kt_buf_append_char(&buf, (char) ('a' + i % 26)));
		assert_true(buf.len < buf.cap && buf.cap <= 3001);
		assert_int_equal(buf.data[buf.len], '\0');
	}
	for (i = 0; i < 3000; i++)
		assert_int_equal(buf.data[i], 'a' + i % 26);
	assert_false(kt_buf_append_char(&buf, 'z'));
	kt_buf_free(&buf);
}

static void
an_append_that_does_not_fit_changes_nothing_and_failure_is_sticky_until_reset(void **state)
{
	KtBuf buf;

	(void) state;
	kt_buf_init(&buf, 5);
	assert_true(kt_buf_append_str(&buf, "abc"));
	assert_false(kt_buf_append_str(&buf, "def"));
	assert_true(buf.failed);
	assert_string_equal(buf.data, "abc");
	assert_false(kt_buf_append_char(&buf, 'd'));
	assert_false(kt_buf_append(&buf, "", 0));
	assert_string_equal(buf.data, "abc");
	kt_buf_reset(&buf, 1000);
	assert_false(buf.failed);
	assert_true(kt_buf_append_str(&buf, "de"));
	assert_buf_and_free("after reset", &buf, BYTES("de"));
}

static void
a_length_that_would_wrap_around_is_refused(void **state)
{
	KtBuf buf;

	(void) state;
	kt_buf_init(&buf, SIZE_MAX);
	assert_true(kt_buf_append_str(&buf, "abc"));
	assert_false(kt_buf_append(&buf, "x", SIZE_MAX));
	kt_buf_reset(&buf, SIZE_MAX);
	assert_true(kt_buf_append_str(&buf, "abc"));
	assert_false(kt_buf_append(&buf, "x", SIZE_MAX - 2));
	assert_string_equal(buf.data, "abc");
	kt_buf_free(&buf);
}

static void
memory_that_cannot_be_had_is_a_sticky_failure(void **state)
{
	KtBuf buf;

	(void) state;
	kt_buf_init(&buf, SIZE_MAX);
	assert_true(kt_buf_append_str(&buf, "abc"));
	assert_false(kt_buf_append(&buf, "x", PTRDIFF_MAX - 100));
	assert_true(buf.failed);
	assert_string_equal(buf.data, "abc");
	kt_buf_free(&buf);
}

static void
reset_keeps_memory_up_to_the_given_size_only(void **state)
{
	KtBuf buf;

	(void) state;
	kt_buf_init(&buf, 10000);
	assert_true(kt_buf_append_str(&buf, "small"));
	kt_buf_reset(&buf, buf.cap);
	assert_non_null(buf.data);
	assert_string_equal(buf.data, "");
	assert_true(kt_buf_append_str(&buf, "small"));
	kt_buf_reset(&buf, buf.cap - 1);
	assert_null(buf.data);
	assert_int_equal(buf.cap, 0);
	assert_true(kt_buf_append_str(&buf, "again"));
	assert_buf_and_free("after reset", &buf, BYTES("again"));
}

static void
a_freed_buffer_is_empty_and_may_be_freed_again_or_filled(void **state)
{
	KtBuf buf;

	(void) state;
	kt_buf_init(&buf, 10);
	assert_false(kt_buf_append_str(&buf, "far too long"));
	kt_buf_free(&buf);
	kt_buf_free(&buf);
	assert_false(buf.failed);
	assert_true(kt_buf_append_str(&buf, "short"));
	assert_buf_and_free("filled again", &buf, BYTES("short"));
}

static void
every_block_is_wiped_whole_before_it_is_given_back(void **state)
{
	char bytes[1000] = "secret";
	KtBuf buf;
	size_t first;
	size_t second;

	(void) state;
	wiped_bytes = 0;
	kt_buf_init(&buf, 2000);
	assert_true(kt_buf_append(&buf, bytes, 10));
	first = buf.cap;
	/* outgrown */
	assert_true(kt_buf_append(&buf, bytes, sizeof(bytes)));
	assert_int_equal(wiped_bytes, first);
	second = buf.cap;
	/* kept, then not kept, by a reset */
	kt_buf_reset(&buf, second);
	assert_int_equal(wiped_bytes, first);
	kt_buf_reset(&buf, 0);
	assert_int_equal(wiped_bytes, first + second);
	assert_true(kt_buf_append(&buf, bytes, 10));
	kt_buf_free(&buf);
	assert_int_equal(wiped_bytes, first + second + first);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_buffer_has_allocated_nothing),
		cmocka_unit_test(what_is_appended_stands_there_in_order_and_ends_with_a_nul),
		cmocka_unit_test(appending_nothing_succeeds_even_from_a_null_pointer),
		cmocka_unit_test(the_maximum_fits_and_one_byte_more_does_not),
		cmocka_unit_test(byte_by_byte_growth_reaches_the_maximum_and_never_passes_it),
		cmocka_unit_test(
			an_append_that_does_not_fit_changes_nothing_and_failure_is_sticky_until_reset),
		cmocka_unit_test(a_length_that_would_wrap_around_is_refused),
		cmocka_unit_test(memory_that_cannot_be_had_is_a_sticky_failure),
		cmocka_unit_test(reset_keeps_memory_up_to_the_given_size_only),
		cmocka_unit_test(every_block_is_wiped_whole_before_it_is_given_back),
		cmocka_unit_test(a_freed_buffer_is_empty_and_may_be_freed_again_or_filled),
	};

	return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
