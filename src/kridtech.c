/*
 * The library's entrance: what happens when PostgreSQL loads kridtech.
 *
 * It is loaded by shared_preload_libraries, or by the first call of one of its functions; the
 * synchronous functions work either way.
 */
#include "postgres.h"

#include "fmgr.h"

#include "settings.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	kt_settings_define();
}
