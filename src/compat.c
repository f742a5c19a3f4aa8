/*
 * What older versions of PostgreSQL lack and compat.h cannot give as an inline function.
 */
#include "postgres.h"

#include "compat.h"

#include "storage/ipc.h"

#ifdef KT_NEED_MATERIALIZED_SRF

void
InitMaterializedSRF(FunctionCallInfo fcinfo, bits32 flags)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext caller;
	TupleDesc desc;

	(void) flags;
	if (result == NULL || !IsA(result, ReturnSetInfo) || !(result->allowedModes & SFRM_Materialize))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
		                errmsg("set-valued function called in context that cannot accept a set")));
	caller = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	result->returnMode = SFRM_Materialize;
	result->setResult = tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0,
	                                          false, work_mem);
	result->setDesc = desc;
	MemoryContextSwitchTo(caller);
}

#endif /* KT_NEED_MATERIALIZED_SRF */

#ifdef KT_HAVE_SHMEM_REQUEST_HOOK

static shmem_request_hook_type previous_request_hook = NULL;
static void (*wanted_request)(void) = NULL;

static void
on_request(void)
{
	if (previous_request_hook != NULL)
		previous_request_hook();
	wanted_request();
}

void
kt_on_shmem_request(void (*request)(void))
{
	wanted_request = request;
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = on_request;
}

#else

void
kt_on_shmem_request(void (*request)(void))
{
	request();
}

#endif
