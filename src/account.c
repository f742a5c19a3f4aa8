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
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "extension.h"
#include "keyfile.h"
#include "limits.h"
#include "settings.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

typedef struct AccountFile
{
	char *account_id;
	char *file;
} AccountFile;

struct KtAccountFiles
{
	AccountFile *rows;
	int n;
	int size;
};

static int
compare(const void *a, const void *b)
{
	return strcmp(((const AccountFile *) a)->account_id, ((const AccountFile *) b)->account_id);
}

static void
add(KtAccountFiles *files, char *account_id, char *file)
{
	if (files->n == files->size)
	{
		files->size *= 2;
		files->rows = repalloc_huge(files->rows, files->size * sizeof(AccountFile));
	}
	files->rows[files->n++] = (AccountFile){account_id, file};
}

/*
 * The key files that kridtech.accounts names; of one account, or of all for NULL.
 *
 * The table is read directly: it has a handful of rows, and the caller needs no right on it.
 */
static KtAccountFiles *
registered_files(const char *account_id)
{
	Relation table = kt_extension_table("accounts");
	TupleDesc desc = RelationGetDescr(table);
	AttrNumber id_column = kt_extension_column(table, "account_id", TEXTOID);
	AttrNumber file_column = kt_extension_column(table, "api_key_file", TEXTOID);
	KtAccountFiles *files = palloc0(sizeof(KtAccountFiles));
	TableScanDesc scan;
	HeapTuple tuple;

	if (table->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
		                errmsg("kridtech.accounts must be a plain table")));
	files->size = 16;
	files->rows = palloc(files->size * sizeof(AccountFile));
	scan = table_beginscan(table, GetActiveSnapshot(), 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		bool no_id;
		bool no_file;
		Datum id = heap_getattr(tuple, id_column, desc, &no_id);
		Datum path = heap_getattr(tuple, file_column, desc, &no_file);

		if (!no_id && !no_file &&
		    (account_id == NULL || strcmp(TextDatumGetCString(id), account_id) == 0))
			add(files, TextDatumGetCString(id), TextDatumGetCString(path));
	}
	table_endscan(scan);
	table_close(table, AccessShareLock);
	qsort(files->rows, files->n, sizeof(AccountFile), compare);
	return files;
}

KtAccountFiles *
kt_account_files(void)
{
	return registered_files(NULL);
}

const char *
kt_account_file(const KtAccountFiles *files, const char *account_id)
{
	AccountFile wanted = {unconstify(char *, account_id), NULL};
	const AccountFile *found =
		bsearch(&wanted, files->rows, files->n, sizeof(AccountFile), compare);

	if (found != NULL)
		return found->file;
	return kt_api_key_file[0] != '\0' ? kt_api_key_file : NULL;
}

char *
kt_account_read_file(const char *file, char **problem)
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
	const char *found = NULL;

	if (account_id != NULL)
		found = kt_account_file(registered_files(account_id), account_id);
	else if (kt_api_key_file[0] != '\0')
		found = kt_api_key_file;
	*file = found != NULL ? pstrdup(found) : NULL;
	if (*file != NULL)
		return kt_account_read_file(*file, problem);
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
