/*
 * From foreign text to SQL values and back. What comes in never throws (but for memory): it is repaired
 * or becomes NULL. What goes out is exact or an error.
 */
#ifndef KT_CONVERT_H
#define KT_CONVERT_H

#include "utils/timestamp.h"

/*
 * Valid UTF-8 in the database's encoding: palloc'd, or the argument itself where nothing is to be done. A
 * character the encoding lacks becomes '?'. NULL stays NULL.
 */
extern char *kt_convert_to_server(const char *utf8);

/* Text of the database as UTF-8, palloc'd; 22021 when it is not valid there (SQL_ASCII). */
extern char *kt_convert_to_utf8(const char *text);

/* JSON numbers, as they stand in the text. False for NULL and for what does not fit. Rounds to even. */
extern bool kt_convert_int32(const char *number, int32 *result);
extern bool kt_convert_int64(const char *number, int64 *result);
extern bool kt_convert_count(const char *number, int64 *result); /* whole, not negative */
extern bool kt_convert_numeric(const char *number, Datum *result);

/* ISO 8601 with a date, a time and a zone. False for NULL and anything else. */
extern bool kt_convert_timestamptz(const char *iso, TimestampTz *result);

#endif /* KT_CONVERT_H */
