/*
 * Accounts and their API keys.
 *
 * A key lives in a file and, for the time of one request, in this process's memory: no setting, table,
 * function result or message ever holds it. The file is read for every request (some 10 microseconds
 * beside a request's milliseconds), so a new key is used as soon as it is in place.
 */
#include "postgres.h"

#include "account.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "extension.h"
#include "keyfile.h"
#include "limits.h"
#include "settings.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/*
 * The key file that kridtech.accounts names for an account, palloc'd, or NULL.
 *
 * The table is read directly: it has a handful of rows, and the caller needs no right on it.
 */
static char *
registered_key_file(const char *account_id)
{
	Relation table = kt_extension_table("accounts");
	TupleDesc desc = RelationGetDescr(table);
	AttrNumber id_column = get_attnum(RelationGetRelid(table), "account_id");
	AttrNumber file_column = get_attnum(RelationGetRelid(table), "api_key_file");
	TableScanDesc scan = table_beginscan(table, GetActiveSnapshot(), 0, NULL);
	char *file = NULL;
	HeapTuple tuple;

	while (file == NULL && (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		bool no_id;
		bool no_file;
		Datum id = heap_getattr(tuple, id_column, desc, &no_id);
		Datum path = heap_getattr(tuple, file_column, desc, &no_file);

		if (!no_id && !no_file && strcmp(TextDatumGetCString(id), account_id) == 0)
			file = TextDatumGetCString(path);
	}
	table_endscan(scan);
	table_close(table, AccessShareLock);
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
