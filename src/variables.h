/*
 * The variables of a webhook, an array of {"variable": name, "value": anything}, as one object.
 */
#ifndef KT_VARIABLES_H
#define KT_VARIABLES_H

#include "utils/jsonb.h"

/*
 * Of two elements of one name the last counts, elements of another shape are passed over, an element without a
 * value has the value null. An object is returned as it is; anything else gives NULL.
 */
extern Jsonb *kt_variables_object(Jsonb *variables);

/* A member that is a string, palloc'd; NULL where there is none. object may be NULL. */
extern char *kt_variables_string(Jsonb *object, const char *name);

#endif /* KT_VARIABLES_H */
