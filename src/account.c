/*
 * Accounts and their API keys.
 *
 * A key lives in a file and in the memory of the process that uses it (a backend's for one request, the
 * dialer's while it has the account's gate): no setting, table,
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

/* The key in a file, palloc'd, or NULL and *problem, which names the file and never its content. */
static char *
read_key(const char *file, char **problem)
{
	KtBuf buf;
	KtKeyFault fault;
	char *key = NULL;
	int err = 0;

	kt_buf_init(&buf, KT_MAX_KEY);
	fault = kt_keyfile_read(file, &buf, &err);
	if (fault == KT_KEY_OK)
		key = pnstrdup(buf.data, buf.len);
	else if (fault == KT_KEY_UNREADABLE)
		*problem = psprintf("API key file \"%s\" %s: %s", file,
		                    kt_keyfile_words(fault, KT_RULE_SECRET), strerror(err));
	else
		*problem =
			psprintf("API key file \"%s\" %s", file, kt_keyfile_words(fault, KT_RULE_SECRET));
	kt_buf_free(&buf);
	return key;
}

char *
kt_account_read_key(const char *account_id, char **file, char **problem)
{
	*file = account_id != NULL ? registered_key_file(account_id) : NULL;
	if (*file == NULL && kt_api_key_file[0] != '\0')
		*file = pstrdup(kt_api_key_file);
	if (*file != NULL)
		return read_key(*file, problem);
	*problem = pstrdup("no API key file is set");
	return NULL;
}

void
kt_account_open(const char *account_id, KtAccount *account)
{
	char *problem = NULL;
	char *file = NULL;

	if (account_id == NULL && kt_account_id[0] != '\0')
		account_id = kt_account_id;
	account->account_id = account_id != NULL ? pstrdup(account_id) : NULL;
	account->key = kt_account_read_key(account_id, &file, &problem);
	if (account->key != NULL)
		return;
	ereport(
		ERROR,
		(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION), errmsg("%s", problem),
	     file == NULL
	         ? errhint("Set kridtech.api_key_file in postgresql.conf and reload, or name the "
	                   "account's file in kridtech.accounts.")
	         : errhint("The file must hold the key alone, belong to the server's user, and have "
	                   "permissions 0600 or 0400.")));
}

void
kt_account_forget(KtAccount *account)
{
	if (account->key != NULL)
		explicit_bzero(account->key, strlen(account->key));
	account->key = NULL;
}
