/*
 * Turns foreign bytes into text that PostgreSQL's parsers and types accept, losing as little as can be.
 *
 * jsonb and text refuse things that legal (or nearly legal) JSON holds: \u0000, lone surrogates,
 * invalid UTF-8. A transcript is sent once and never again, so they are replaced by U+FFFD, never
 * refused.
 */
#ifndef KT_REPAIR_H
#define KT_REPAIR_H

#include "buf.h"

typedef struct KtRepair
{
	size_t replaced; /* how many U+FFFD were put in */
	int depth;       /* the deepest nesting of { and [ outside strings */
} KtRepair;

/*
 * JSON text: a leading BOM is dropped, invalid UTF-8 becomes U+FFFD, and so do the escapes of NUL and of
 * lone surrogates; every other escape of a character above U+007F becomes the character itself, so that
 * the result never needs a conversion of escapes. Escapes of ASCII stay as they are. A NUL byte becomes
 * U+FFFD. Whether the text is JSON is not judged. False when out of memory or over out's maximum.
 */
extern bool kt_repair_json(const char *in, size_t len, KtBuf *out, KtRepair *report);

/* True when kt_repair_json() would give back what it is given: then report->depth is the text's. */
extern bool kt_repair_json_is_needless(const char *in, size_t len, KtRepair *report);

/* Plain text: invalid UTF-8 and NUL bytes become U+FFFD. */
extern bool kt_repair_text(const char *in, size_t len, KtBuf *out, KtRepair *report);

#endif /* KT_REPAIR_H */
