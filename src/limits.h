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

/* All header lines of one answer together; real ones stay under 4 kB. */
#define KT_MAX_ANSWER_HEADERS (64 * 1024)

/* JSON nesting. The documented answers nest 3 deep; PostgreSQL's parser recurses per level. */
#define KT_MAX_JSON_DEPTH 64

/* A callId: faults.md's rule for a credible one. */
#define KT_MAX_CALL_ID 256

/* The API's own words, as they may stand in a DETAIL or a log line. */
#define KT_MAX_WORDS 256

/* One API key. Keys are some 40 to 200 characters; a key file over this is not a key file. */
#define KT_MAX_KEY 4096

/* The request body: dynamic variables are prompts and names, not documents. */
#define KT_MAX_REQUEST_BODY (1024 * 1024)

/* A transcript speaker's label, in bytes: "Agent", "Dr. Müller (Praxis)". */
#define KT_MAX_SPEAKER 64

/* Requests in the air at a time: kridtech.max_concurrent_requests goes no further. */
#define KT_MAX_CONCURRENT 1024

/* The URL of a recording. Signed ones, with their tokens, are some 2 kB. */
#define KT_MAX_RECORDING_URL 8192

/* A recording's content type as it is kept: "audio/mpeg", perhaps with parameters. */
#define KT_MAX_CONTENT_TYPE 128

/* A recording is stored in pieces of this size: what dialling may have to wait for is the writing of one. */
#define KT_RECORDING_CHUNK (256 * 1024)

/* What libcurl may hand over at once is 16 kB; this much more than a chunk has room. */
#define KT_MAX_RECORDING_BUFFER (KT_RECORDING_CHUNK + 64 * 1024)

#endif /* KT_LIMITS_H */
