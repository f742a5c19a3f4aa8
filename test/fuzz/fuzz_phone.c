/* A normalised number has E.164's form, holds the input's digits in order, and is never shown by its mask. */
#include "fuzz.h"

#include "phone.h"

static void
check_number(const char *number, const uint8_t *data, size_t size)
{
	size_t len = strlen(number);
	char again[KT_PHONE_SIZE];
	size_t n = 0;
	size_t i;

	MUST(len >= 8 && len <= 16 && number[0] == '+' && number[1] != '0');
	MUST(strspn(number + 1, "0123456789") == len - 1);
	for (i = 0; i < size; i++)
	{
		if (data[i] == '+' || (data[i] >= '0' && data[i] <= '9'))
			MUST(n < len && number[n++] == (char) data[i]);
	}
	MUST(n == len);
	MUST(kt_phone_normalize(number, len, again) && strcmp(again, number) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char number[KT_PHONE_SIZE] = "untouched";
	char mask[KT_PHONE_SIZE];
	char *string = string_of(data, size);

	if (kt_phone_normalize((const char *) data, size, number))
	{
		check_number(number, data, size);
		kt_phone_mask(number, mask);
		MUST(strlen(mask) == strlen(number) && memcmp(mask, number, 3) == 0);
		MUST(strspn(mask + 3, "*") == strlen(number) - 5);
	}
	else
		MUST(strcmp(number, "untouched") == 0);
	kt_phone_mask(string, mask);
	MUST(strspn(mask, "+*0123456789") == strlen(mask) && strchr(mask, '*') != NULL);
	free(string);
	return 0;
}
