/*
 * The settings: kridtech.* of postgresql.conf. Defined once per process by kt_settings_define().
 *
 * None can be set by an ordinary role: all are PGC_SIGHUP or PGC_POSTMASTER, so that they can neither be SET nor stand in
 * ALTER DATABASE or ALTER ROLE.
 */
#ifndef KT_SETTINGS_H
#define KT_SETTINGS_H

extern char *kt_base_url;      /* judged by kt_url_judge() already */
extern char *kt_api_key_file;  /* '' : none */
extern char *kt_account_id;    /* '' : none */
extern char *kt_ca_file;       /* '' : none */
extern int kt_connect_timeout; /* milliseconds */
extern int kt_request_timeout; /* milliseconds */

extern void kt_settings_define(void);

/* False while kridtech.base_url holds its default only because the configured value was refused. */
extern bool kt_settings_usable(void);

#endif /* KT_SETTINGS_H */
