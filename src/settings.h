/*
 * The settings: kridtech.* of postgresql.conf. Defined once per process by kt_settings_define().
 *
 * None can be set by an ordinary role: all are PGC_SIGHUP or PGC_POSTMASTER, so that they can neither be SET
 * nor stand in ALTER DATABASE or ALTER ROLE.
 */
#ifndef KT_SETTINGS_H
#define KT_SETTINGS_H

extern char *kt_base_url;      /* judged by kt_url_judge() already */
extern char *kt_api_key_file;  /* '' : none */
extern char *kt_account_id;    /* '' : none */
extern char *kt_ca_file;       /* '' : none */
extern int kt_connect_timeout; /* milliseconds */
extern int kt_request_timeout; /* milliseconds */

/* The dialer's. */
extern char *kt_databases;                /* read by kt_settings_databases() */
extern int kt_max_concurrent_requests;    /* 1 to 1024 */
extern double kt_calls_per_second;        /* 0: no limit */
extern int kt_max_unknown;                /* 0: no breaker */
extern bool kt_correlate;                 /* a kridtech_ref goes along */
extern int kt_max_queued_per_transaction; /* 0: no limit */
extern int kt_settle_time;                /* milliseconds */
extern int kt_sync_interval;              /* milliseconds; 0: no polling */
extern int kt_webhook_grace;              /* milliseconds */
extern int kt_retention;                  /* seconds; 0: everything is kept */
extern bool kt_notify; /* NOTIFY kridtech_calls on final states, kridtech_webhooks for events */
extern int kt_probe_interval; /* milliseconds */
extern int kt_retry_limit;    /* attempts that provably sent nothing */

/* Bounds on what webhooks may fill, in kB; 0: none. */
extern int kt_webhook_max_unverified;
extern int kt_webhook_max_inbox;

/* The receiver's. */
extern char *kt_webhook_listen;     /* read by listen.c, once, in the postmaster */
extern char *kt_webhook_path;       /* begins with a slash */
extern char *kt_webhook_token_file; /* '' : the path alone */
extern char *kt_webhook_tls_cert_file;
extern char *kt_webhook_tls_key_file;
extern int kt_webhook_max_body; /* bytes */
extern int kt_webhook_max_connections;
extern int kt_webhook_max_per_address;   /* connections; 0: no limit */
extern char *kt_webhook_trusted_proxies; /* judged by kt_netaddr_next_network() already */
extern int kt_webhook_header_timeout;    /* milliseconds, as the next two */
extern int kt_webhook_body_timeout;
extern int kt_webhook_idle_timeout;

/* The recordings'. */
extern bool kt_recordings;        /* they are fetched */
extern char *kt_recording_hosts;  /* found good by kt_fetchurl_check_hosts() */
extern int kt_recording_max_size; /* kilobytes */
extern int kt_recording_timeout;  /* milliseconds, for one download */
extern int kt_recording_max_age;  /* seconds after the event came in */

/* The names in kridtech.databases: a list of palloc'd strings, each once. */
extern struct List *kt_settings_databases(void);

/* Whether kridtech.databases has that name. */
extern bool kt_settings_list_database(const char *name);

extern void kt_settings_define(void);

/* False while kridtech.base_url holds its default only because the configured value was refused. */
extern bool kt_settings_usable(void);

#endif /* KT_SETTINGS_H */
