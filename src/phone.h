/*
 * Phone numbers: the E.164 form the API recommends, and the masked form that messages may show.
 */
#ifndef KT_PHONE_H
#define KT_PHONE_H

#include <stdbool.h>
#include <stddef.h>

/* '+', 15 digits (ITU-T E.164), NUL. */
#define KT_PHONE_SIZE 17

/*
 * Drops spaces, dots, hyphens and parentheses, then demands '+' and 7 to 15 ASCII digits, the first not
 * 0 (no country code begins with it). False, and out untouched, for anything else.
 */
extern bool kt_phone_normalize(const char *in, size_t len, char out[KT_PHONE_SIZE]);

/* "+12*****90": the first three and the last two characters of a normalized number. */
extern void kt_phone_mask(const char *number, char out[KT_PHONE_SIZE]);

#endif /* KT_PHONE_H */
