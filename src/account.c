/*
 * Accounts and their API keys.
 *
 * A key lives in a file and, for the time of one request, in this process's memory: no setting, table,
 * function result or message ever holds it. The file is read for every request (some 10 microseconds
 * beside a request's milliseconds), so a new key is used as soon as it is in place.
 */
#include "postgres.h"

#include "account.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "extension.h"
#include "keyfile.h"
#include "limits.h"
#include "settings.h"
#include "utils/builtins.h"

/* The key file that kridtech.accounts names for an account, palloc'd in the caller's context, or NULL. */
static char *
registered_key_file(const char *account_id)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid types[] = {TEXTOID};
	Datum values[] = {CStringGetTextDatum(account_id)};
	char *file = NULL;
	KtOwner owner;

	kt_owner_begin(&owner);
	if (SPI_execute_with_args("SELECT api_key_file FROM kridtech.accounts WHERE account_id = $1", 1,
	                          types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read kridtech.accounts");
	if (SPI_processed == 1)
		file = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (file != NULL)
		file = MemoryContextStrdup(caller, file);
	kt_owner_end(&owner);
	return file;
}

static void
fail_key_file(const char *file, KtKeyFault fault, int err)
{
	static const char *const problem[] = {
		[KT_KEY_OK] = "",
		[KT_KEY_MISSING] = "does not exist",
		[KT_KEY_UNREADABLE] = "cannot be read",
		[KT_KEY_NOT_A_FILE] = "is not a regular file",
		[KT_KEY_OWNER] = "does not belong to the server's user",
		[KT_KEY_MODE] = "has permissions other than 0600 and 0400",
		[KT_KEY_EMPTY] = "is empty",
		[KT_KEY_TOO_LONG] = "is too long for an API key",
		[KT_KEY_CHARACTERS] = "holds a character that no API key has",
	};

	errno = err;
	ereport(ERROR, (errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
	                errmsg("API key file \"%s\" %s", file, problem[fault]),
	                fault == KT_KEY_UNREADABLE ? errdetail("%m.") : 0,
	                errhint("The file must hold the key alone, belong to the server's user, and "
	                        "have permissions 0600 or 0400.")));
}

static char *
read_key(const char *file)
{
	KtBuf buf;
	KtKeyFault fault;
	char *key;
	int err = 0;

	kt_buf_init(&buf, KT_MAX_KEY);
	fault = kt_keyfile_read(file, &buf, &err);
	if (fault != KT_KEY_OK)
	{
		kt_buf_free(&buf);
		fail_key_file(file, fault, err);
	}
	key = pnstrdup(buf.data, buf.len);
	kt_buf_free(&buf);
	return key;
}

void
kt_account_open(const char *account_id, KtAccount *account)
{
	char *file = NULL;

	if (account_id == NULL && kt_account_id[0] != '\0')
		account_id = kt_account_id;
	account->account_id = account_id != NULL ? pstrdup(account_id) : NULL;
	if (account_id != NULL)
		file = registered_key_file(account_id);
	if (file == NULL)
		file = kt_api_key_file;
	if (file[0] == '\0')
		ereport(ERROR,
		        (errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
		         errmsg("no API key file is set"),
		         errhint("Set kridtech.api_key_file in postgresql.conf and reload, or name the "
		                 "account's file in kridtech.accounts.")));
	account->key = read_key(file);
}

void
kt_account_forget(KtAccount *account)
{
	if (account->key != NULL)
		explicit_bzero(account->key, strlen(account->key));
	account->key = NULL;
}
