/*
 * What the simulator's files share. One section a file, in the order of dependence: a file uses only
 * what stands above its own section, except main.c, which uses all.
 *
 * One thread does everything but two jobs: webhook.c sends in a thread of its own, ledger.c syncs its
 * file in another. What crosses to them is copied.
 */
#ifndef SIMULATOR_H
#define SIMULATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>
#include <microhttpd.h>

#define SIM_MAX_BODY (1024 * 1024) /* of a request; beyond it the answer is 413 */
#define SIM_ID_SIZE 32             /* "webcall_" and 20 random characters, NUL */

/* text.c: growing text, JSON pieces, random numbers, ISO times. Out of memory ends the program. */

typedef struct SimText
{
	char *data;
	size_t len;
	size_t cap;
} SimText;

extern void sim_text_put(SimText *text, const void *bytes, size_t len);
extern void sim_text_puts(SimText *text, const char *str);
extern void sim_text_putf(SimText *text, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
extern void sim_text_put_string(SimText *text, const char *str, size_t len); /* as JSON */
extern void sim_text_put_json(SimText *text, const json_t *value);           /* NULL is null */
extern void sim_text_free(SimText *text);
extern void *sim_alloc(size_t size); /* zeroed */
extern char *sim_strdup(const char *str);
extern void sim_random_seed(uint64_t seed);
extern uint64_t sim_random(void);
extern void sim_random_id(char *out, const char *prefix);  /* SIM_ID_SIZE bytes */
extern void sim_time_iso(char *out, int64_t unix_seconds); /* 24 bytes, "2025-02-14T10:30:00Z" */
extern bool sim_time_parse(const char *iso, int64_t *unix_seconds);

/* hash.c: string to pointer. The key belongs to the value and must live as long. */

typedef struct SimHash
{
	const char **keys;
	void **values;
	size_t used;
	size_t size; /* 0 or a power of two */
} SimHash;

extern void *sim_hash_get(const SimHash *hash, const char *key);
extern void sim_hash_put(SimHash *hash, const char *key, void *value);
extern void sim_hash_clear(SimHash *hash, void (*free_value)(void *));

/* loop.c: monotonic time, a heap of timers, file descriptors to watch. */

typedef struct SimTimer
{
	int64_t due; /* microseconds, sim_now()'s clock */
	size_t pos;  /* place in the heap, from 1; 0: not set */
	void (*fire)(struct SimTimer *timer);
} SimTimer;

typedef struct SimWatch
{
	int fd;
	void (*ready)(struct SimWatch *watch);
} SimWatch;

extern int64_t sim_now(void);
extern void sim_timer_set(SimTimer *timer, int64_t due);
extern void sim_timer_clear(SimTimer *timer);
extern bool sim_loop_init(void);
extern bool sim_loop_add(SimWatch *watch, uint32_t epoll_events);
extern void sim_loop_remove(SimWatch *watch);
extern void
sim_loop_turn(int64_t timeout_ms); /* waits, tells watches, fires timers; -1: no limit */

/* settings.c: what the command line and POST /sim/settings set. */

typedef enum SimRows
{
	SIM_ROWS_NORMAL,
	SIM_ROWS_UNSORTED,  /* every second pair of rows swapped */
	SIM_ROWS_MISSING,   /* each row lacks one field, in turn */
	SIM_ROWS_MISTYPED,  /* each row has one field of another type, in turn */
	SIM_ROWS_NULLS,     /* each row has one null, in turn */
	SIM_ROWS_DUPLICATE, /* every row twice */
	SIM_ROWS_EXTRA      /* each row has fields the documentation does not know */
} SimRows;

typedef struct SimSettings
{
	int64_t ring_ms;
	int64_t talk_ms;
	int64_t list_delay_ms;
	int64_t latency_ms;
	int64_t rate_limit;   /* requests per second and key; 0: none */
	int64_t credits;      /* calls left to pay for; negative: endless */
	int64_t fail_percent; /* of ordinary calls */
	SimRows rows;
} SimSettings;

extern SimSettings sim_settings;

extern const char *sim_settings_apply(const json_t *object); /* NULL, or what is wrong */
extern json_t *sim_settings_dump(void);

/* keys.c: API keys and their rate limits. */

typedef struct SimKey
{
	char *secret;
	char *account; /* NULL: the key is good for any accountId and sees all calls */
	int64_t window;
	int64_t used;
} SimKey;

typedef enum SimKeyState
{
	SIM_KEY_ABSENT,
	SIM_KEY_INVALID,
	SIM_KEY_VALID
} SimKeyState;

extern void sim_key_add(const char *spec); /* KEY or ACCOUNT=KEY */
extern int sim_key_count(void);
extern SimKeyState sim_key_find(const char *secret, SimKey **key);
extern bool sim_key_admit(SimKey *key); /* false: over the rate limit */
extern void sim_key_reset(void);

/* webhook.c: sends each webhook once, from a thread of its own. */

extern bool sim_webhook_start(const char *ca_file, long timeout_ms);
extern void sim_webhook_stop(void);
extern bool sim_webhook_set_url(const char *url); /* false: neither https nor http to loopback */
extern const char *sim_webhook_url(void);         /* NULL: none is sent */
extern void sim_webhook_set_keepalive(bool on);
extern void sim_webhook_send(const char *call_id, SimText *body); /* takes the text */
extern void sim_webhook_results(SimText *out, const char *call_id);
extern void sim_webhook_reset(void);

/* calls.c: the calls, their states, the list. */

typedef enum SimStatus
{
	SIM_REGISTERED,
	SIM_ONGOING,
	SIM_COMPLETED,
	SIM_FAILED
} SimStatus;

#define SIM_STATUSES 4

/* What will become of a call, beside the settings. */
typedef enum SimFate
{
	SIM_FATE_ORDINARY,
	SIM_FATE_COMPLETED, /* whatever fail_percent says */
	SIM_FATE_BUSY,      /* registered, then failed */
	SIM_FATE_BROKEN,    /* ongoing, then failed */
	SIM_FATE_RINGS,     /* registered for ever */
	SIM_FATE_TALKS,     /* ongoing for ever */
	SIM_FATE_AT_ONCE,   /* completed as soon as it exists */
	SIM_FATE_UNHOOKED,  /* completed, but its webhook is lost */
	SIM_FATE_TWICE,     /* completed, and its webhook comes twice */
	SIM_FATE_NULLS      /* completed, every webhook field that may be null is null */
} SimFate;

typedef struct SimCallSpec
{
	const char *id; /* NULL: a fresh one */
	const char *prefix;
	const char *account;
	const char *to_number; /* NULL for a web call */
	const char *first_name;
	const char *direction;
	const json_t *variables;
	int64_t created; /* Unix time; 0: now */
	SimStatus status;
	int64_t duration; /* negative: drawn */
	int64_t cost;     /* negative: from the duration */
	SimFate fate;
	bool settled; /* the status never changes by itself */
} SimCallSpec;

typedef struct SimCall SimCall;

extern const char *const sim_status_names[SIM_STATUSES];
extern SimCall *sim_call_create(const SimCallSpec *spec);
extern SimCall *sim_call_find(const char *id);
extern const char *sim_call_id(const SimCall *call);
extern void sim_call_finish(SimCall *call, SimStatus status);
extern void sim_call_put(SimText *out, const SimCall *call, SimRows rows, size_t nth);
extern void sim_calls_list(SimText *out, const char *account, int status, size_t limit);
extern void sim_calls_count(size_t counts[SIM_STATUSES]);
extern void sim_calls_reset(void);

/* scenario.c and numbers.c: which fault applies to a request. */

typedef enum SimEndpoint
{
	SIM_CREATE_CALL,
	SIM_CREATE_WEB_CALL,
	SIM_CALLS,
	SIM_CONTROL,
	SIM_ELSEWHERE
} SimEndpoint;

#define SIM_ENDPOINTS 5

typedef enum SimFault
{
	SIM_FAULT_NONE, /* an ordinary answer: for latency, fates and fixed callIds */
	SIM_FAULT_STATUS,
	SIM_FAULT_BODY,
	SIM_FAULT_RESET,
	SIM_FAULT_DROP,
	SIM_FAULT_HANG,
	SIM_FAULT_TRUNCATE,
	SIM_FAULT_DRIP,
	SIM_FAULT_HUGE,
	SIM_FAULT_REDIRECT,
	SIM_FAULT_RAW,
	SIM_FAULT_GZIP_UNASKED,
	SIM_FAULT_GZIP_BOMB
} SimFault;

typedef enum SimWhen
{
	SIM_AFTER_BODY,
	SIM_BEFORE_BODY, /* only by endpoint: the number is in the body */
	SIM_MID_BODY,    /* likewise */
	SIM_MID_ANSWER
} SimWhen;

/* Strings belong to whoever made the scenario: static in numbers.c, allocated in scenario.c. */
typedef struct SimScenario
{
	const char *name;
	SimFault fault;
	SimWhen when;
	bool applied;     /* the call comes to exist all the same */
	bool only_reused; /* only on a re-used connection */
	int status;       /* 0: 200 */
	int64_t latency_ms;
	int64_t bytes;
	int64_t ms;
	const char *retry_after; /* "date+SECONDS" makes an HTTP date */
	const char *content_type;
	const char *body;
	size_t body_len; /* 0: strlen */
	const char *location;
	const char *call_id;
	SimFate fate;
	int64_t times; /* 0: for ever */
	int64_t used;
} SimScenario;

extern const char *const sim_endpoint_names[SIM_ENDPOINTS];
extern const char *sim_scenario_add(const json_t *object); /* NULL, or what is wrong */
extern void sim_scenario_clear(void);
extern json_t *sim_scenario_dump(void);
/* The scenario for a whole request, or NULL. Counts it as used. */
extern const SimScenario *sim_scenario_pick(SimEndpoint endpoint, const char *to_number,
                                            bool reused);
/* The same before the body was read: only scenarios by endpoint that say so. */
extern const SimScenario *sim_scenario_pick_early(SimEndpoint endpoint, SimWhen when, bool reused);
extern SimScenario *sim_number_find(const char *to_number);
extern void sim_number_reset(void);
extern void sim_number_help(bool markdown);

/* request.c: one request from its headers to its end; what the answer will be. */

typedef enum SimDelivery
{
	SIM_SEND,  /* through MHD */
	SIM_PAD,   /* through MHD, followed by pad blanks (negative: without end) */
	SIM_CLOSE, /* close without a byte */
	SIM_RESET, /* RST without a byte */
	SIM_HANG,  /* never answer, hold the connection */
	SIM_STREAM /* the bytes of out as they are, step by step, then end */
} SimDelivery;

typedef struct SimAnswer
{
	int status; /* 0: none will be seen */
	SimDelivery delivery;
	const char *content_type;
	char retry_after[64];
	char location[512];
	const char *allow;
	bool gzip;
	int64_t latency_ms;
	int64_t pad;
	int64_t step_bytes; /* 0: all at once */
	int64_t step_ms;
	SimDelivery end; /* of a stream: SIM_CLOSE, SIM_RESET or SIM_HANG */
} SimAnswer;

typedef struct SimConn
{
	uint64_t number;
	uint64_t requests;
	int fd;
	uint16_t peer_port;
	bool left;                  /* the client sends nothing more */
	SimWatch watch;             /* for that */
	struct SimRequest *request; /* under way, or NULL */
} SimConn;

typedef enum SimPhase
{
	SIM_READING,
	SIM_WAITING, /* suspended: latency, hang, stream */
	SIM_DUE,     /* the answer may go out */
	SIM_OVER     /* close */
} SimPhase;

typedef struct SimRequest
{
	struct MHD_Connection *mhd;
	SimConn *conn;
	uint64_t number; /* on its connection, from 1 */
	SimEndpoint endpoint;
	const char *method;
	const char *path;
	SimText body;
	bool whole;
	bool too_large;
	bool recorded; /* in the ledger */
	SimKeyState key_state;
	SimKey *key;
	SimPhase phase;
	SimAnswer answer;
	SimText out; /* the answer's body, or a stream's bytes */
	size_t sent;
	SimTimer timer;
	bool minds_client;       /* it is over when the client leaves */
	struct SimRequest *next; /* among the suspended, or the free */
	struct SimRequest *prev;
} SimRequest;

extern const char *sim_request_header(const SimRequest *request, const char *name);
extern const char *sim_request_query(const SimRequest *request, const char *name);

/* ledger.c: what create-calls arrived. */

typedef struct SimLedgerEntry
{
	const json_t *to_number;
	const json_t *account;
	const json_t *variables;
	const char *call_id;
	bool applied;
	const char *scenario;
	int status; /* 0: none */
} SimLedgerEntry;

extern bool sim_ledger_open(const char *file); /* NULL: a temporary one */
extern void sim_ledger_close(void);
extern void sim_ledger_record(SimRequest *request, const SimLedgerEntry *entry);
extern bool sim_ledger_sync(void);
extern void sim_ledger_read(SimText *out, const char *to_number, int64_t since);
extern void sim_ledger_count(SimText *out, const char *to_number);
extern void sim_ledger_reset(void);

/* faults.c: bends an answer to a scenario, and does to a connection what HTTP would not. */

extern void sim_fault_shape(SimRequest *request, const SimScenario *scenario);
extern bool sim_fault_gzip(SimText *text);
extern void sim_fault_reset(int fd); /* RST now; the fd stays open */
/* Sends the next step of a stream. False when it is through, or the client is gone. */
extern bool sim_fault_stream(SimRequest *request);
extern struct MHD_Response *sim_fault_padded(SimRequest *request);

/* routes.c: the three documented endpoints. control.c: /sim/. Both fill request->answer and ->out. */

extern SimEndpoint sim_route_find(const char *path);
extern void sim_route_answer(SimRequest *request);
extern void sim_route_lost(SimRequest *request, const char *scenario); /* its body will not come */
extern void sim_answer_error(SimRequest *request, int status, const char *words);
extern void sim_control_answer(SimRequest *request);

/* server.c: MHD. listener.c: sockets, certificates, listeners that fail at TLS. */

extern struct MHD_Daemon *sim_server_start(int fd, const char *cert, const char *key,
                                           const char *priorities);
extern int64_t sim_server_timeout(void); /* milliseconds, -1: none */
extern void sim_server_run(void);
extern void sim_server_stop(void);
extern void sim_server_stats(SimText *out);
extern void sim_server_reset(void);
extern const char *sim_listener_add(const char *spec); /* NULL, or what is wrong */
extern void sim_listener_dump(SimText *out);

#endif /* SIMULATOR_H */
