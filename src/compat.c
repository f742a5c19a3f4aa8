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

#ifdef KT_HAVE_CRYPTOHASH

#include "common/cryptohash.h"
#include "utils/resowner.h"

struct KtSha256
{
	pg_cryptohash_ctx *context;
	ResourceOwner owner; /* a transaction's own would take the context away at its end */
};

/* The server's build decides whether the context has an owner; it is forgotten there when it is freed. */
KtSha256 *
kt_sha256_begin(void)
{
	ResourceOwner caller = CurrentResourceOwner;
	KtSha256 *sha = MemoryContextAllocZero(TopMemoryContext, sizeof(KtSha256));

	sha->owner = ResourceOwnerCreate(NULL, "kridtech SHA-256");
	CurrentResourceOwner = sha->owner;
	sha->context = pg_cryptohash_create(PG_SHA256);
	CurrentResourceOwner = caller;
	if (sha->context != NULL && pg_cryptohash_init(sha->context) < 0)
	{
		pg_cryptohash_free(sha->context);
		sha->context = NULL;
	}
	return sha;
}

bool
kt_sha256_add(KtSha256 *sha, const void *bytes, size_t len)
{
	return sha->context != NULL && pg_cryptohash_update(sha->context, bytes, len) >= 0;
}

bool
kt_sha256_end(KtSha256 *sha, uint8 *digest)
{
	bool done = sha->context != NULL &&
	            (digest == NULL || pg_cryptohash_final(sha->context, digest, KT_SHA256_SIZE) >= 0);

	if (sha->context != NULL)
		pg_cryptohash_free(sha->context);
	ResourceOwnerDelete(sha->owner);
	pfree(sha);
	return done;
}

#else

#include "common/sha2.h"

struct KtSha256
{
	pg_sha256_ctx context;
};

KtSha256 *
kt_sha256_begin(void)
{
	KtSha256 *sha = MemoryContextAllocZero(TopMemoryContext, sizeof(KtSha256));

	pg_sha256_init(&sha->context);
	return sha;
}

bool
kt_sha256_add(KtSha256 *sha, const void *bytes, size_t len)
{
	pg_sha256_update(&sha->context, bytes, len);
	return true;
}

bool
kt_sha256_end(KtSha256 *sha, uint8 *digest)
{
	if (digest != NULL)
		pg_sha256_final(&sha->context, digest);
	pfree(sha);
	return true;
}

#endif
