/*
 * Is this database the one that may dial, or a copy of it?
 */
#ifndef KT_IDENTITY_H
#define KT_IDENTITY_H

#include "datatype/timestamp.h"

/*
 * True when every row of kridtech.identity is this database's own. Else *why, palloc'd, says for a human
 * what differs. Inside a transaction with SPI connected, on a primary.
 */
extern bool kt_identity_is_own(char **why);

/*
 * Where a subscription brings the requests, notes it, so that the database stays a copy once the subscription is
 * gone, until it is adopted. Else does nothing. As above.
 */
extern void kt_identity_note_subscription(void);

/*
 * The epoch of the dialer that began last, 0 when none did; and when this database's queue was born: what was
 * queued before comes from elsewhere. As above.
 */
extern int64 kt_identity_epoch(TimestampTz *born);

/* Begins a dialer's run: counts the epoch up and returns it. As above. */
extern int64 kt_identity_next_epoch(void);

#endif /* KT_IDENTITY_H */
