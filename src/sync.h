/*
 * Polling GET /api/calls into the mirror: by the dialer, and now, by kridtech_sync_calls().
 */
#ifndef KT_SYNC_H
#define KT_SYNC_H

#endif /* KT_SYNC_H */
