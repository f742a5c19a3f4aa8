/* Whose files are read, what a key looks like, and that nothing but a regular file is ever read. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "keyfile.h"
#include "limits.h"

static char dir[] = "/tmp/kt_keyfile_XXXXXX";
static char path[64];

static int
make_directory(void **state)
{
	(void) state;
	if (mkdtemp(dir) == NULL)
		return -1;
	snprintf(path, sizeof(path), "%s/key", dir);
	return 0;
}

static int
remove_directory(void **state)
{
	(void) state;
	return rmdir(dir);
}

static int
remove_file(void **state)
{
	(void) state;
	(void) remove(path);
	return 0;
}

static void
write_file(const char *bytes, size_t len, mode_t mode)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, len, file), len);
	assert_int_equal(fclose(file), 0);
	assert_int_equal(chmod(path, mode), 0);
}

/* Reads path into a buffer that held something; checks that a fault leaves it empty, then frees it. */
static void
expect(KtKeyFault fault, const char *key)
{
	KtKeyFault actual;
	KtBuf out;
	int err = -1;

	kt_buf_init(&out, (size_t) 2 * KT_MAX_KEY);
	kt_buf_append_str(&out, "the old key");
	actual = kt_keyfile_read(path, &out, &err);
	if (actual != fault)
		fail_msg("fault %d (errno %d), expected %d", actual, err, fault);
	if (fault == KT_KEY_OK)
		assert_int_equal(err, 0);
	assert_buf_and_free("key", &out, key, strlen(key));
}

static void
a_key_is_read_without_the_white_space_around_it(void **state)
{
	static const char *const files[] = {"sk_live-123.abc~!", "sk_live-123.abc~!\n",
	                                    "sk_live-123.abc~!\r\n",
	                                    " \t\r\n sk_live-123.abc~! \v\f\n\n"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(files); i++)
	{
		write_file(files[i], strlen(files[i]), 0600);
		expect(KT_KEY_OK, "sk_live-123.abc~!");
		(void) remove(path);
	}
}

static void
only_the_modes_0600_and_0400_are_read(void **state)
{
	mode_t mode;

	(void) state;
	write_file(BYTES("key\n"), 0600);
	for (mode = 0; mode <= 07777; mode++)
	{
		KtKeyFault fault = KT_KEY_MODE;

		/* an ordinary user cannot open what it may not read; root can */
		if ((mode & 0400) == 0 && geteuid() != 0)
			fault = KT_KEY_UNREADABLE;
		if (mode == 0600 || mode == 0400)
			fault = KT_KEY_OK;
		assert_int_equal(chmod(path, mode), 0);
		expect(fault, fault == KT_KEY_OK ? "key" : "");
	}
}

static void
a_missing_file_is_missing(void **state)
{
	(void) state;
	expect(KT_KEY_MISSING, "");
	snprintf(path, sizeof(path), "%s/no/key", dir);
	expect(KT_KEY_MISSING, "");
	snprintf(path, sizeof(path), "%s/key", dir);
}

static void
a_name_that_is_a_file_and_not_a_directory_is_missing(void **state)
{
	char file[64];

	(void) state;
	write_file(BYTES("key"), 0600);
	memcpy(file, path, sizeof(path));
	snprintf(path, sizeof(path), "%s/key/key", dir);
	expect(KT_KEY_MISSING, "");
	memcpy(path, file, sizeof(path));
}

static void
a_link_in_a_circle_is_unreadable_with_its_errno(void **state)
{
	KtBuf out;
	int err;

	(void) state;
	assert_int_equal(symlink(path, path), 0);
	kt_buf_init(&out, KT_MAX_KEY);
	assert_int_equal(kt_keyfile_read(path, &out, &err), KT_KEY_UNREADABLE);
	assert_int_equal(err, ELOOP);
	kt_buf_free(&out);
}

static void
a_directory_a_device_a_socket_and_a_pipe_are_not_files_and_never_block(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char file[64];
	int fd;

	(void) state;
	memcpy(file, path, sizeof(path));
	snprintf(path, sizeof(path), "%s", dir);
	expect(KT_KEY_NOT_A_FILE, "");
	snprintf(path, sizeof(path), "/dev/zero");
	expect(KT_KEY_NOT_A_FILE, "");
	memcpy(path, file, sizeof(path));

	alarm(10);
	assert_int_equal(mkfifo(path, 0600), 0);
	expect(KT_KEY_NOT_A_FILE, "");
	alarm(0);
	(void) remove(path);

	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	memcpy(address.sun_path, path, sizeof(path));
	assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
	expect(KT_KEY_NOT_A_FILE, "");
	close(fd);
}

static void
a_file_of_another_user_is_refused(void **state)
{
	(void) state;
	if (geteuid() != 0)
		skip();
	write_file(BYTES("key"), 0600);
	assert_int_equal(chown(path, 12345, (gid_t) -1), 0);
	expect(KT_KEY_OWNER, "");
}

static void
a_link_to_a_good_file_is_followed(void **state)
{
	char target[80];

	(void) state;
	write_file(BYTES("key"), 0600);
	snprintf(target, sizeof(target), "%s/target", dir);
	assert_int_equal(rename(path, target), 0);
	assert_int_equal(symlink(target, path), 0);
	expect(KT_KEY_OK, "key");
	(void) remove(target);
}

static void
a_file_with_nothing_but_white_space_is_empty(void **state)
{
	(void) state;
	write_file(BYTES(""), 0600);
	expect(KT_KEY_EMPTY, "");
	write_file(BYTES(" \r\n\t\n"), 0600);
	expect(KT_KEY_EMPTY, "");
}

static void
a_key_of_the_greatest_length_is_read_and_a_longer_is_not(void **state)
{
	char *bytes = malloc(1 << 20);

	(void) state;
	memset(bytes, 'k', 1 << 20);
	bytes[KT_MAX_KEY] = '\n';
	write_file(bytes, KT_MAX_KEY + 1, 0600);
	bytes[KT_MAX_KEY] = '\0';
	expect(KT_KEY_OK, bytes);
	memset(bytes, 'k', 1 << 20);
	write_file(bytes, KT_MAX_KEY + 1, 0600);
	expect(KT_KEY_TOO_LONG, "");
	write_file(bytes, 1 << 20, 0600);
	expect(KT_KEY_TOO_LONG, "");
	free(bytes);
}

static void
a_key_longer_than_the_buffer_may_hold_is_too_long(void **state)
{
	KtBuf out;
	int err;

	(void) state;
	write_file(BYTES("12345"), 0600);
	kt_buf_init(&out, 4);
	assert_int_equal(kt_keyfile_read(path, &out, &err), KT_KEY_TOO_LONG);
	assert_int_equal(out.len, 0);
	assert_false(out.failed);
	kt_buf_free(&out);
}

static void
bytes_that_cannot_stand_in_a_header_are_refused(void **state)
{
	int c;

	(void) state;
	for (c = 0; c < 256; c++)
	{
		char bytes[3] = {'a', (char) c, 'b'};
		bool good = c > ' ' && c < 0x7F;
		char key[4] = {'a', (char) c, 'b', '\0'};

		write_file(bytes, sizeof(bytes), 0600);
		expect(good ? KT_KEY_OK : KT_KEY_CHARACTERS, good ? key : "");
	}
	write_file(BYTES("key\0"), 0600);
	expect(KT_KEY_CHARACTERS, "");
	write_file(BYTES("\xEF\xBB\xBFkey"), 0600);
	expect(KT_KEY_CHARACTERS, "");
	write_file(BYTES("key1\nkey2\n"), 0600);
	expect(KT_KEY_CHARACTERS, "");
	write_file(BYTES("key\r\nX-Evil: 1"), 0600);
	expect(KT_KEY_CHARACTERS, "");
}

/* ---- whole files ---- */

static void
expect_whole(KtKeyRule rule, size_t max, KtKeyFault fault, const char *bytes, size_t len)
{
	KtBuf out;
	int err = -1;

	kt_buf_init(&out, max);
	assert_int_equal(kt_keyfile_read_whole(path, rule, &out, &err), fault);
	assert_buf_and_free("file", &out, bytes, len);
}

static void
a_whole_file_is_read_as_it_is(void **state)
{
	(void) state;
	write_file(BYTES("-----BEGIN\n\0x\n"), 0600);
	expect_whole(KT_RULE_SECRET, 1000, KT_KEY_OK, BYTES("-----BEGIN\n\0x\n"));
	expect_whole(KT_RULE_SECRET, 14, KT_KEY_OK, BYTES("-----BEGIN\n\0x\n"));
	expect_whole(KT_RULE_SECRET, 13, KT_KEY_TOO_LONG, "", 0);
	write_file(BYTES(" \n\t\r\n"), 0600);
	expect_whole(KT_RULE_SECRET, 1000, KT_KEY_EMPTY, "", 0);
	write_file("", 0, 0600);
	expect_whole(KT_RULE_SECRET, 1000, KT_KEY_EMPTY, "", 0);
}

static void
a_rule_says_who_else_may_read_a_whole_file(void **state)
{
	static const struct
	{
		mode_t mode;
		KtKeyFault secret;
		KtKeyFault tls_key;
	} cases[] = {
		{0600, KT_KEY_OK, KT_KEY_OK},     {0400, KT_KEY_OK, KT_KEY_OK},
		{0700, KT_KEY_MODE, KT_KEY_OK},   {0640, KT_KEY_MODE, KT_KEY_MODE},
		{0604, KT_KEY_MODE, KT_KEY_MODE}, {0644, KT_KEY_MODE, KT_KEY_MODE},
		{0620, KT_KEY_MODE, KT_KEY_MODE},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		bool secret = cases[i].secret == KT_KEY_OK;
		bool tls_key = cases[i].tls_key == KT_KEY_OK;

		write_file(BYTES("x"), cases[i].mode);
		expect_whole(KT_RULE_SECRET, 9, cases[i].secret, "x", secret ? 1 : 0);
		expect_whole(KT_RULE_TLS_KEY, 9, cases[i].tls_key, "x", tls_key ? 1 : 0);
		expect_whole(KT_RULE_PUBLIC, 9, KT_KEY_OK, "x", 1);
	}
}

/* ---- several secrets ---- */

/* Cuts the bytes into at most two secrets of at most eight bytes; compares them, joined by commas. */
static void
expect_split(const char *bytes, size_t len, KtKeyFault fault, const char *expected)
{
	const char *secrets[2];
	char joined[64] = "";
	KtBuf buf;
	int n = -1;
	int i;

	kt_buf_init(&buf, 1000);
	assert_true(kt_buf_append(&buf, bytes, len));
	assert_int_equal(kt_keyfile_split(&buf, secrets, 2, 8, &n), fault);
	for (i = 0; fault == KT_KEY_OK && i < n; i++)
		snprintf(joined + strlen(joined), sizeof(joined) - strlen(joined), "%s%s", i > 0 ? "," : "",
		         secrets[i]);
	assert_string_equal(joined, expected);
	kt_buf_free(&buf);
}

static void
secrets_stand_one_a_line(void **state)
{
	(void) state;
	expect_split(BYTES("old"), KT_KEY_OK, "old");
	expect_split(BYTES("old\nnew\n"), KT_KEY_OK, "old,new");
	expect_split(BYTES("\n  old \r\n\n\tnew\n\n"), KT_KEY_OK, "old,new");
	expect_split(BYTES("12345678"), KT_KEY_OK, "12345678");
	expect_split(BYTES("a/b+c==\n~a!$&()"), KT_KEY_OK, "a/b+c==,~a!$&()");
	expect_split(BYTES("a..b\n.../a."), KT_KEY_OK, "a..b,.../a.");
}

static void
what_is_no_list_of_secrets_is_refused(void **state)
{
	const char *c;

	(void) state;
	expect_split(BYTES("a\nb\nc"), KT_KEY_TOO_LONG, "");
	expect_split(BYTES("123456789"), KT_KEY_TOO_LONG, "");
	expect_split(BYTES("a b"), KT_KEY_CHARACTERS, "");
	expect_split(BYTES("a\n\x80"), KT_KEY_CHARACTERS, "");
	expect_split(BYTES("a\0b"), KT_KEY_CHARACTERS, "");
	for (c = "?#%\"<>\\^`{|}"; *c != '\0'; c++)
		expect_split((char[]){'a', *c}, 2, KT_KEY_CHARACTERS, "");
	expect_split(BYTES(".."), KT_KEY_CHARACTERS, "");
	expect_split(BYTES("./a"), KT_KEY_CHARACTERS, "");
	expect_split(BYTES("a/../b"), KT_KEY_CHARACTERS, "");
	expect_split(BYTES("a/."), KT_KEY_CHARACTERS, "");
	expect_split(BYTES("\n \n"), KT_KEY_EMPTY, "");
	expect_split("", 0, KT_KEY_EMPTY, "");
}

static void
every_fault_has_words(void **state)
{
	int fault;

	(void) state;
	for (fault = KT_KEY_OK; fault <= KT_KEY_CHARACTERS; fault++)
	{
		assert_int_equal(kt_keyfile_words((KtKeyFault) fault, KT_RULE_SECRET) == NULL,
		                 fault == KT_KEY_OK);
		assert_int_equal(kt_keyfile_words((KtKeyFault) fault, KT_RULE_TLS_KEY) == NULL,
		                 fault == KT_KEY_OK);
	}
}

static void
no_file_descriptor_is_left_open(void **state)
{
	int before = dup(0);
	int after;

	(void) state;
	close(before);
	write_file(BYTES("key"), 0600);
	expect(KT_KEY_OK, "key");
	assert_int_equal(chmod(path, 0644), 0);
	expect(KT_KEY_MODE, "");
	after = dup(0);
	close(after);
	assert_int_equal(after, before);
}

#define file_test(test) cmocka_unit_test_teardown(test, remove_file)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		file_test(a_key_is_read_without_the_white_space_around_it),
		file_test(only_the_modes_0600_and_0400_are_read),
		file_test(a_missing_file_is_missing),
		file_test(a_name_that_is_a_file_and_not_a_directory_is_missing),
		file_test(a_link_in_a_circle_is_unreadable_with_its_errno),
		file_test(a_directory_a_device_a_socket_and_a_pipe_are_not_files_and_never_block),
		file_test(a_file_of_another_user_is_refused),
		file_test(a_link_to_a_good_file_is_followed),
		file_test(a_file_with_nothing_but_white_space_is_empty),
		file_test(a_key_of_the_greatest_length_is_read_and_a_longer_is_not),
		file_test(a_key_longer_than_the_buffer_may_hold_is_too_long),
		file_test(bytes_that_cannot_stand_in_a_header_are_refused),
		file_test(a_whole_file_is_read_as_it_is),
		file_test(a_rule_says_who_else_may_read_a_whole_file),
		cmocka_unit_test(secrets_stand_one_a_line),
		cmocka_unit_test(what_is_no_list_of_secrets_is_refused),
		cmocka_unit_test(every_fault_has_words),
		file_test(no_file_descriptor_is_left_open),
	};

	return cmocka_run_group_tests_name("keyfile", tests, make_directory, remove_directory);
}
