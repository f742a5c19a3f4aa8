/*
 * The API's three endpoints: where they are, and the exact request each one takes.
 */
#ifndef KT_API_H
#define KT_API_H

#include "answer.h"
#include "http.h"
#include "lib/stringinfo.h"

/* What a caller wants. All text is UTF-8; NULL leaves an optional field out. */
typedef struct KtApiRequest
{
	KtEndpoint endpoint;
	const char *account_id;
	const char *to_number;         /* create-call: E.164 */
	const char *first_name;        /* create-web-call */
	const char *dynamic_variables; /* a JSON object */
	const char *ref;               /* create-call: value of the variable kridtech_ref, or NULL */
	const char *status;            /* calls */
	int limit;                     /* calls; 0 leaves it out */
} KtApiRequest;

/* "POST /api/create-call": how messages name an endpoint. */
extern const char *kt_api_name(KtEndpoint endpoint);

/* True when the endpoint creates something, so that a lost answer leaves its outcome unknown. */
extern bool kt_api_creates(KtEndpoint endpoint);

/*
 * Fills an HTTP request for that key; what it points to is palloc'd. The header with the key is the one
 * kt_api_forget() overwrites. Throws 22023 when the body exceeds KT_MAX_REQUEST_BODY.
 */
extern void kt_api_build(const KtApiRequest *request, const char *key, KtHttpRequest *http);

extern void kt_api_forget(KtHttpRequest *http);

/* Reads an answer and judges what it proves. Throws only for memory; needs no transaction. */
extern KtOutcome kt_api_judge(KtEndpoint endpoint, const KtHttpAnswer *http, KtApiAnswer *answer);

/* Foreign words made fit for a message: UTF-8, palloc'd; NULL when there are none. Needs no transaction. */
extern char *kt_api_presentable(const char *words, size_t len, const char *key);

#endif /* KT_API_H */
