/*
 * Calls placed by the caller's own backend, in kridtech.call_requests. Throws.
 */
#ifndef KT_CALLRECORD_H
#define KT_CALLRECORD_H

/*
 * Records a call that this backend is about to place: in its own transaction, as owner of the table.
 * Done before anything is sent, so that a record that cannot be made costs no call. Text is in the
 * database's encoding. Returns the request's id.
 */
extern int64 kt_callrecord_begin(const char *account_id, const char *to_number,
                                 Datum dynamic_variables, bool has_variables);

/*
 * The call was placed; call_status is a text or 0. False when call_id already belongs to another request.
 */
extern bool kt_callrecord_placed(int64 id, Datum call_id, Datum call_status, int http_status,
                                 bool flagged);

#endif /* KT_CALLRECORD_H */
