/*
 * Every maximum that bounds foreign bytes, with the reason for its number.
 *
 * A foreign buffer without a maximum does not exist in this project: kt_buf_init() demands one.
 */
#ifndef KT_LIMITS_H
#define KT_LIMITS_H

/* An answer to create-call is some 80 bytes, to create-web-call some 700 (a JWT); 64 kB is generous. */
#define KT_MAX_ANSWER_SMALL (64 * 1024)

/* A list holds at most 100 calls of some 250 bytes; a name may be long, 4 MB is 160 times that. */
#define KT_MAX_ANSWER_LIST (4 * 1024 * 1024)

/*
 * Rows of a list. 100 are asked for and documented; what comes of each is done between two turns of dialling, so a list
 * that holds many times as many is none.
 */
#define KT_MAX_LIST_ROWS 1000

/*
 * A listed call's number and status: E.164 has 16 characters, "completed" has 9. The mirror has indexes on them, which
 * take no entry of more than 2.7 kB, and one that is refused would cost the whole list.
 */
#define KT_MAX_LISTED 256

/* All header lines of one answer together; real ones stay under 4 kB. */
#define KT_MAX_ANSWER_HEADERS (64 * 1024)

/* JSON nesting. The documented answers nest 3 deep; PostgreSQL's parser recurses per level. */
#define KT_MAX_JSON_DEPTH 64

/* A callId: faults.md's rule for a credible one. */
#define KT_MAX_CALL_ID 256

/*
 * An account ID: a login name, or an e-mail address (254 at most). The pauses have an index on it, which takes no entry
 * of more than 2.7 kB: an account that could not be paused would be refused again and again.
 */
#define KT_MAX_ACCOUNT_ID 256

/* The API's own words, as they may stand in a DETAIL or a log line. */
#define KT_MAX_WORDS 256

/* One API key. Keys are some 40 to 200 characters; a key file over this is not a key file. */
#define KT_MAX_KEY 4096

/* The request body: dynamic variables are prompts and names, not documents. */
#define KT_MAX_REQUEST_BODY (1024 * 1024)

/*
 * A webhook's dynamic variables, as JSON text: they are prompts and names. A jsonb takes 32 bytes a value while
 * it is made; larger ones stand in the body only.
 */
#define KT_MAX_VARIABLES (4 * 1024 * 1024)

/* A transcript speaker's label, in bytes: "Agent", "Dr. Müller (Praxis)". */
#define KT_MAX_SPEAKER 64

/* Requests in the air at a time: kridtech.max_concurrent_requests goes no further. */
#define KT_MAX_CONCURRENT 1024

/*
 * kridtech.webhook_max_body goes no further. A 16 MB transcript is a week of talk; storing 64 MB takes about a
 * second, and a unit of work has two.
 */
#define KT_MAX_WEBHOOK_BODY (64 * 1024 * 1024)
/* The URL of a recording. Signed ones, with their tokens, are some 2 kB. */
#define KT_MAX_RECORDING_URL 8192

/* A recording's content type as it is kept: "audio/mpeg", perhaps with parameters. */
#define KT_MAX_CONTENT_TYPE 128

/* A recording is stored in pieces of this size: what dialling may have to wait for is the writing of one. */
#define KT_RECORDING_CHUNK (256 * 1024)

/* What libcurl may hand over at once is 16 kB; this much more than a chunk has room. */
#define KT_MAX_RECORDING_BUFFER (KT_RECORDING_CHUNK + 64 * 1024)

/* Tokens in kridtech.webhook_token_file: two are needed for a rotation. And one of them, 40 to 64 characters. */
#define KT_MAX_TOKENS 8
#define KT_MAX_TOKEN 256

/* Networks in kridtech.webhook_trusted_proxies: a few proxies, or a CDN's published list. */
#define KT_MAX_PROXIES 64

/*
 * Deliveries that were answered with 503 and are to be stored yet, counted by their buffers: some 16,000 of 2.4 kB, or
 * four of 16 MB.
 */
#define KT_MAX_HELD_BYTES (64 * 1024 * 1024)
#define KT_MAX_HELD 50000

/*
 * One connection to the receiver, before it has shown the token: the library's pool for its head and its
 * answer. Half of it is the room for one line, which leaves 8 kB for the longest.
 */
#define KT_HTTPD_POOL (16 * 1024)

/* Connections to the receiver: kridtech.webhook_max_connections goes no further. */
#define KT_MAX_CONNECTIONS 65536

/* Memory of all bodies that were received and not answered: 32 of the default limit of one, full. */
#define KT_MAX_BODIES ((size_t) 512 * 1024 * 1024)

/* A certificate's chain, or a key, as PEM: a long chain is some 10 kB. */
#define KT_MAX_PEM (256 * 1024)

#endif /* KT_LIMITS_H */
