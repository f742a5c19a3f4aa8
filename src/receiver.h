/*
 * The receiver: the worker that takes webhooks over HTTP and HTTPS. One for each database that
 * kridtech.webhook_listen has an entry for.
 */
#ifndef KT_RECEIVER_H
#define KT_RECEIVER_H

/* The background worker's main function; the argument is the database's OID. */
extern PGDLLEXPORT void kridtech_receiver_main(Datum argument);

#endif /* KT_RECEIVER_H */
