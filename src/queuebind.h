/*
 * Evidence of what unknown requests have become. In a unit of work (xact.h), between kt_owner_begin() and
 * kt_owner_end(); throws as any statement does.
 */
#ifndef KT_QUEUEBIND_H
#define KT_QUEUEBIND_H

/*
 * Evidence found later (a webhook that brings back a kridtech_ref, the API's list) says which calls requests
 * that are 'unknown' have become: they are 'placed', and so is who was 'placed' without a callId. how, a
 * sentence without a period, goes to the request's error and the attempt's detail. Passed over: a request in
 * any other state, locked by another transaction, or whose callId another request has. Returns how many were
 * bound; they are notified. ids and call_ids (text in the database's encoding) are each without duplicates.
 */
extern int kt_queue_bind(const int64 *ids, const char **call_ids, int n, const char *how);

/* What the API's list says of an attempt whose outcome is unknown; replaces what it said before. */
extern void kt_queue_note(int64 attempt, const char *note);

#endif /* KT_QUEUEBIND_H */
