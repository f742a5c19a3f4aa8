/*
 * The launcher: the worker that keeps a dialer, and maybe a receiver, running for each database in
 * kridtech.databases.
 */
#ifndef KT_LAUNCHER_H
#define KT_LAUNCHER_H

/* The background worker's main function. */
extern PGDLLEXPORT void kridtech_launcher_main(Datum argument);

#endif /* KT_LAUNCHER_H */
