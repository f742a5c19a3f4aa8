/*
 * The dialer's chore beside dialling: it fetches the recordings of verified webhook events, while kridtech.recordings
 * is on, and removes those that are beyond kridtech.retention.
 *
 * A step does one short unit of work at most, so that a turn of the dialer's loop is
 * never longer for it than one piece of a recording takes to be written.
 */
#ifndef KT_RECORDINGS_H
#define KT_RECORDINGS_H

#include "http.h"
#include "shmem.h"

/*
 * Goes on with what there is to do. epoch is the dialer's run, 0 while it may not work: then every download is given
 * up. With no transaction open; throws nothing but for memory.
 */
extern void kt_recordings_step(KtHttp *http, KtSlot *slot, int64 epoch);

/* When the next step is due, on kt_http_now()'s clock; -1: not before something else happens. */
extern int64 kt_recordings_deadline(void);

#endif /* KT_RECORDINGS_H */
