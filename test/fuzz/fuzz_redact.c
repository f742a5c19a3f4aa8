/*
 * Neither the secret nor a run of seven or more digits comes out, whatever the maximum; valid UTF-8
 * stays valid; no control byte comes out. Input: the maximum, the secret's length, the secret, the words.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif

#include "fuzz.h"

#include "redact.h"
#include "repair.h"

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The longest run of digits, counting across one separator of each kind as redact.h describes. */
static int
longest_run(const char *text, size_t len)
{
	int longest = 0;
	int digits = 0;
	size_t i;

	for (i = 0; i < len; i++)
	{
		if (is_digit(text[i]))
			digits++;
		else if (text[i] == '\0' || strchr(" .-()", text[i]) == NULL ||
		         (i > 0 && text[i] == text[i - 1]))
			digits = 0;
		if (digits > longest)
			longest = digits;
	}
	return longest;
}

static void
check(const char *words, size_t len, const char *secret, size_t max)
{
	KtBuf out;
	size_t i;

	kt_buf_init(&out, max);
	kt_redact(words, len, secret, &out);
	MUST(!out.failed && out.len <= max);
	MUST(*secret == '\0' || out.len == 0 ||
	     memmem(out.data, out.len, secret, strlen(secret)) == NULL);
	MUST(longest_run(out.data, out.len) < 7);
	for (i = 0; i < out.len; i++)
		MUST((unsigned char) out.data[i] >= ' ' && out.data[i] != 0x7F);
	if (is_valid_utf8_without_nul(words, len) && is_valid_utf8_without_nul(secret, strlen(secret)))
		MUST(is_valid_utf8_without_nul(out.data, out.len));
	kt_buf_free(&out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	KtRepair report;
	KtBuf repaired;
	size_t secret_len;
	size_t max;
	char *secret;

	if (size < 2)
		return 0;
	max = data[0];
	secret_len = data[1] % 32;
	if (secret_len > size - 2)
		secret_len = size - 2;
	secret = string_of(data + 2, secret_len);
	data += 2 + secret_len;
	size -= 2 + secret_len;

	check((const char *) data, size, secret, max);
	kt_buf_init(&repaired, 3 * size + 1);
	MUST(kt_repair_text((const char *) data, size, &repaired, &report));
	check(repaired.data, repaired.len, secret, max);
	kt_buf_free(&repaired);
	free(secret);
	return 0;
}
