/*
 * Accounts and their API keys: which account a request is for, and the key that speaks for it.
 */
#ifndef KT_ACCOUNT_H
#define KT_ACCOUNT_H

typedef struct KtAccount
{
	char *account_id; /* palloc'd; NULL when none was given and there is no default */
	char *key;        /* palloc'd; kt_account_forget() overwrites it */
} KtAccount;

/*
 * The account asked for, or the default one where account_id is NULL, with its key read afresh from its
 * file. Throws 28000 when the key cannot be had, naming the file's problem and never its content.
 */
extern void kt_account_open(const char *account_id, KtAccount *account);

/*
 * The key of an account, or NULL with *problem saying why. *file gets the key file's name, where one is
 * named. All palloc'd. In a transaction; does not throw for what is wrong with the file.
 */
extern char *kt_account_read_key(const char *account_id, char **file, char **problem);

/* The key in a file, palloc'd, or NULL and *problem, which names the file and never its content. */
extern char *kt_account_read_file(const char *file, char **problem);

/* The key files of all accounts, read once for many of them. palloc'd. In a transaction. */
typedef struct KtAccountFiles KtAccountFiles;

extern KtAccountFiles *kt_account_files(void);

/* The key file of an account, the default one if need be, or NULL where none is named. */
extern const char *kt_account_file(const KtAccountFiles *files, const char *account_id);

extern void kt_account_forget(KtAccount *account);

#endif /* KT_ACCOUNT_H */
