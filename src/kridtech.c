/*
 * The library's entrance: what happens when PostgreSQL loads kridtech.
 *
 * It is loaded by shared_preload_libraries, or by the first call of one of its functions; the
 * synchronous functions work either way. Workers, and the memory they share, are for the first way only.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "directinsert.h"
#include "listen.h"
#include "settings.h"
#include "shmem.h"
#include "worker.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	kt_settings_define();
	if (!process_shared_preload_libraries_in_progress)
		return;
	kt_shmem_install();
	kt_directinsert_install();

	/*
	 * A worker's connection would make pg_upgrade fail, and a call placed by it belongs to nobody; and a
	 * server without workers (single-user mode) has no use for sockets.
	 */
	if (IsBinaryUpgrade)
		return;
	kt_worker_register_launcher();
	if (IsPostmasterEnvironment)
		kt_listen_install();
}
