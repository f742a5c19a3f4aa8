/*
 * Arguments of the SQL functions, checked: what is wrong is refused with 22023 before anything is done.
 */
#include "postgres.h"

#include "arguments.h"

#include "limits.h"
#include "utils/builtins.h"

char *
kt_argument_text(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* The message shows no number: what was typed may be nearly one. */
static void
refuse_phone(const char *message)
{
	ereport(ERROR,
	        (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s", message),
	         errhint("Write '+', the country code and the number, 7 to 15 digits in all, such as "
	                 "+14155550123; spaces, dots, hyphens and parentheses may stand between.")));
}

void
kt_phone_check(const char *text, size_t len, char number[KT_PHONE_SIZE])
{
	if (!kt_phone_normalize(text, len, number))
		refuse_phone("phone number is not in E.164 form");
}

void
kt_argument_phone(FunctionCallInfo fcinfo, int n, char number[KT_PHONE_SIZE])
{
	text *value;

	if (PG_ARGISNULL(n))
		refuse_phone("phone number must not be null");
	value = PG_GETARG_TEXT_PP(n);
	kt_phone_check(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), number);
}

Jsonb *
kt_argument_variables(FunctionCallInfo fcinfo, int n)
{
	Jsonb *jsonb;

	if (PG_ARGISNULL(n))
		return NULL;
	jsonb = PG_GETARG_JSONB_P(n);
	if (!JB_ROOT_IS_OBJECT(jsonb))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("dynamic variables must be a JSON object"),
		                errhint("For example {\"first_name\": \"James\"}.")));
	return jsonb;
}

char *
kt_argument_account(FunctionCallInfo fcinfo, int n)
{
	char *account_id = kt_argument_text(fcinfo, n);

	if (account_id != NULL && account_id[0] == '\0')
		ereport(ERROR,
		        (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("account ID must not be empty")));
	if (account_id != NULL && strlen(account_id) > KT_MAX_ACCOUNT_ID)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("account ID is longer than %d bytes", KT_MAX_ACCOUNT_ID)));
	return account_id;
}
