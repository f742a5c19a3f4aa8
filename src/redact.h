/*
 * Makes foreign words fit to stand in a message or a log: short, printable, and without secrets.
 */
#ifndef KT_REDACT_H
#define KT_REDACT_H

#include "buf.h"

/*
 * Appends to out the first bytes of in, up to out's maximum and cut at a character's boundary ("..." says
 * so): control bytes (also C1 and the bidirectional overrides) become '?', each occurrence of secret
 * becomes "[redacted]", and in each run of 7 or more digits (single spaces, dots, hyphens and parentheses
 * between digits do not end a run) all but the last two digits become '*'. in must be valid UTF-8 (see
 * repair.h); secret may be NULL or empty.
 */
extern void kt_redact(const char *in, size_t len, const char *secret, KtBuf *out);

#endif /* KT_REDACT_H */
