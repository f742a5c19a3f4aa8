/*
 * Arguments of the SQL functions, checked: what is wrong is refused with 22023 before anything is done.
 */
#ifndef KT_ARGUMENTS_H
#define KT_ARGUMENTS_H

#include "fmgr.h"
#include "phone.h"
#include "utils/jsonb.h"

/* The nth argument as a palloc'd string; NULL for NULL. */
extern char *kt_argument_text(FunctionCallInfo fcinfo, int n);

/* The number in E.164. NULL and what is no number throw; no message shows what was typed. */
extern void kt_argument_phone(FunctionCallInfo fcinfo, int n, char number[KT_PHONE_SIZE]);

/* The same for a text that is not an argument. */
extern void kt_phone_check(const char *text, size_t len, char number[KT_PHONE_SIZE]);

/* The dynamic variables, or NULL. Throws unless they are an object. */
extern Jsonb *kt_argument_variables(FunctionCallInfo fcinfo, int n);

/* An account's ID, palloc'd, or NULL. Throws when it is empty. */
extern char *kt_argument_account(FunctionCallInfo fcinfo, int n);

#endif /* KT_ARGUMENTS_H */
