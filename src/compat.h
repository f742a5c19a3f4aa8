/*
 * The only place that knows PostgreSQL's versions: 13 to 18 look alike to every other file.
 */
#ifndef KT_COMPAT_H
#define KT_COMPAT_H

#if PG_VERSION_NUM < 130000
#error "kridtech needs PostgreSQL 13 or later"
#endif

#include "common/jsonapi.h"

/* Semantic actions of the JSON parser return a result from 16 on. */
#if PG_VERSION_NUM >= 160000
#define KT_JSON_ACTION JsonParseErrorType
#define KT_JSON_GO_ON return JSON_SUCCESS
#else
#define KT_JSON_ACTION void
#define KT_JSON_GO_ON return
#endif

/* 17 lets the caller own the lexer's memory; NULL asks for the old behaviour. */
#if PG_VERSION_NUM >= 170000
#define kt_json_lexer(text, len, escapes) \
	makeJsonLexContextCstringLen(NULL, (text), (len), PG_UTF8, (escapes))
#elif PG_VERSION_NUM >= 130000
#define kt_json_lexer(text, len, escapes) \
	makeJsonLexContextCstringLen((text), (len), PG_UTF8, (escapes))
#endif

#ifndef FRONTEND

#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/datetime.h"
#include "utils/memutils.h"
#include "utils/guc.h"
#if PG_VERSION_NUM >= 140000
#include "utils/wait_event.h"
#else
#include "catalog/indexing.h" /* the catalogs' indexes have their OIDs there */
#include "pgstat.h"
#endif

/* 15 has it under its final name; before, every extension wrote it itself. */
#if PG_VERSION_NUM < 150000
#define KT_NEED_MATERIALIZED_SRF 1
extern void InitMaterializedSRF(FunctionCallInfo fcinfo, bits32 flags);
#endif

/* 16 hands back what a DecodeDateTime() error was about. */
static inline int
kt_decode_datetime(char **field, int *ftype, int nf, int *dtype, struct pg_tm *tm, fsec_t *fsec,
                   int *tz)
{
#if PG_VERSION_NUM >= 160000
	DateTimeErrorExtra extra;

	return DecodeDateTime(field, ftype, nf, dtype, tm, fsec, tz, &extra);
#else
	return DecodeDateTime(field, ftype, nf, dtype, tm, fsec, tz);
#endif
}

/* Room for one character in any server encoding, and its NUL. */
#define KT_CHARACTER_SIZE 16

/*
 * One character from UTF-8 into the database's encoding by that conversion procedure. False when it does
 * not exist there. Before 14 a conversion cannot but throw; what is thrown comes from a pure function
 * that holds nothing, so it is dropped here without a subtransaction.
 */
static inline bool
kt_convert_character(Oid proc, const char *utf8, int len, char result[KT_CHARACTER_SIZE])
{
	unsigned char *source = (unsigned char *) unconstify(char *, utf8);
#if PG_VERSION_NUM >= 140000
	return pg_do_encoding_conversion_buf(proc, PG_UTF8, GetDatabaseEncoding(), source, len,
	                                     (unsigned char *) result, KT_CHARACTER_SIZE, true) == len;
#else
	MemoryContext context = CurrentMemoryContext;
	volatile bool converted = true;

	PG_TRY();
	{
		OidFunctionCall5(proc, Int32GetDatum(PG_UTF8), Int32GetDatum(GetDatabaseEncoding()),
		                 CStringGetDatum(source), CStringGetDatum(result), Int32GetDatum(len));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		converted = false;
	}
	PG_END_TRY();
	return converted;
#endif
}

/* 15 removes placeholders under a prefix that a definition did not claim; before, it only warned. */
static inline void
kt_reserve_guc_prefix(const char *prefix)
{
#if PG_VERSION_NUM >= 150000
	MarkGUCPrefixReserved(prefix);
#else
	EmitWarningsOnPlaceholders(prefix);
#endif
}

/* 17 lets an extension name what it waits for; before, every extension waits for "Extension". */
static inline uint32
kt_wait_event(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	(void) name;
	return PG_WAIT_EXTENSION;
#endif
}

/*
 * Until the caller's GUC nest level ends, values are compressed by lz4, where the server has it (from 14 on, as
 * it was built): a third of pglz's time. A table's or database's own choice of lz4 or pglz for a column stands.
 */
static inline void
kt_compress_fast(void)
{
#if PG_VERSION_NUM >= 140000 && defined(USE_LZ4)
	(void) set_config_option("default_toast_compression", "lz4", PGC_USERSET, PGC_S_SESSION,
	                         GUC_ACTION_SAVE, true, 0, false);
#endif
}

/* A set for the life of the process: 17 has an owner of resources in the place of the memory context. */
static inline WaitEventSet *
kt_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/*
 * Calls request() where shared memory and locks may be asked for: from 15 on in a hook (chained here),
 * before that at once. To be called once, from _PG_init().
 */
#if PG_VERSION_NUM >= 150000
#define KT_HAVE_SHMEM_REQUEST_HOOK 1
#endif
extern void kt_on_shmem_request(void (*request)(void));

/* One entry into an index; 14 asks whether the entry is known to be unchanged by an UPDATE. */
#define kt_index_insert(index, values, nulls, tid, table, info) \
	KT_INDEX_INSERT(index, values, nulls, tid, table,           \
	                (info)->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, info)
#if PG_VERSION_NUM >= 140000
#define KT_INDEX_INSERT(index, values, nulls, tid, table, unique, info) \
	index_insert(index, values, nulls, tid, table, unique, false, info)
#else
#define KT_INDEX_INSERT(index, values, nulls, tid, table, unique, info) \
	index_insert(index, values, nulls, tid, table, unique, info)
#endif

/* Whether a numeric is one that JSON has no word for; 14 has infinities beside NaN. */
#if PG_VERSION_NUM >= 140000
#define kt_numeric_is_special(number) (numeric_is_nan(number) || numeric_is_inf(number))
#else
#define kt_numeric_is_special(number) numeric_is_nan(number)
#endif

#endif /* !FRONTEND */

#endif /* KT_COMPAT_H */
