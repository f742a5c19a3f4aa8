/*
 * Units of work that give way: what the dialer's process does beside its calls.
 */
#ifndef KT_BACKGROUND_H
#define KT_BACKGROUND_H

#include "extension.h"

/*
 * Up to kt_owner_end(): statements meet tables of any size, by their indexes. A plan made while a table was
 * small, or had no statistics, would read it from end to end.
 */
extern void kt_background_prefer_indexes(void);

/*
 * kt_owner_begin(), kt_background_prefer_indexes(), and from there on no lock is waited for longer than a tenth of
 * a second.
 */
extern void kt_background_begin(KtOwner *owner);

/*
 * After that: locks the extension's tables as writing them does, without waiting. NULL, or the first that
 * somebody else has locked; then the unit had better do nothing.
 */
extern const char *kt_background_locked(void);

#endif /* KT_BACKGROUND_H */
