/*
 * What comes out is valid UTF-8 without NUL; in JSON's strings no escape is left that jsonb refuses or
 * would have to convert; a second repair changes nothing.
 */
#include "fuzz.h"

#include "repair.h"

/* A reader of strings and escapes of its own, with sscanf instead of repair.c's arithmetic. */
static void
check_escapes(const char *json, size_t len)
{
	bool in_string = false;
	size_t i;

	for (i = 0; i < len; i++)
	{
		unsigned code;
		char digits[5] = "";

		if (json[i] == '"')
			in_string = !in_string;
		if (json[i] != '\\' || !in_string)
			continue;
		i++;
		if (i + 4 >= len || json[i] != 'u')
			continue;
		memcpy(digits, json + i + 1, 4);
		if (strspn(digits, "0123456789abcdefABCDEF") != 4)
			continue;
		MUST(sscanf(digits, "%4x", &code) == 1);
		MUST(code != 0 && code < 0x80);
	}
}

static void
check(const char *in, size_t size, bool (*repair)(const char *, size_t, KtBuf *, KtRepair *),
      bool json)
{
	KtRepair report;
	KtRepair again;
	KtBuf once;
	KtBuf twice;

	kt_buf_init(&once, 3 * size + 16);
	kt_buf_init(&twice, 3 * size + 16);
	MUST(repair(in, size, &once, &report));
	MUST(is_valid_utf8_without_nul(once.data, once.len));
	if (json)
	{
		check_escapes(once.data, once.len);
		MUST(kt_repair_json_is_needless(in, size, &again) ==
		     (once.len == size && (size == 0 || memcmp(once.data, in, size) == 0)));
		MUST(report.replaced > 0 || once.len != size || again.depth == report.depth);
	}
	MUST(repair(once.data, once.len, &twice, &again));
	MUST(twice.len == once.len && memcmp(twice.data, once.data, once.len) == 0);
	MUST(again.replaced == 0 && again.depth == report.depth);
	MUST(report.depth >= 0 && (size_t) report.depth <= size);
	if (!json && report.replaced == 0)
		MUST(once.len == size && memcmp(once.data, in, size) == 0);
	kt_buf_free(&once);
	kt_buf_free(&twice);

	/* a maximum that is too small fails, and never writes past it */
	kt_buf_init(&once, size / 2);
	(void) repair(in, size, &once, &report);
	MUST(once.len <= size / 2);
	kt_buf_free(&once);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check((const char *) data, size, kt_repair_json, true);
	check((const char *) data, size, kt_repair_text, false);
	return 0;
}
