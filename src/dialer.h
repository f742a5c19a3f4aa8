/*
 * The dialer: the worker that places what is queued. One per database.
 */
#ifndef KT_DIALER_H
#define KT_DIALER_H

/* The background worker's main function; its argument is the database's OID. */
extern PGDLLEXPORT void kridtech_dialer_main(Datum argument);

#endif /* KT_DIALER_H */
