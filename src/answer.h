/*
 * What an answer of the API says: bytes in, fields and evidence out. See kridtech-api: the documented
 * answers of the three endpoints.
 *
 * Together with api.c the only place that knows the API's field names. Compiles for the server and for
 * the fuzzers. Throws only for memory. All text is UTF-8, palloc'd.
 */
#ifndef KT_ANSWER_H
#define KT_ANSWER_H

#include "outcome.h"

typedef enum KtEndpoint
{
	KT_ENDPOINT_CREATE_CALL,
	KT_ENDPOINT_CREATE_WEB_CALL,
	KT_ENDPOINT_CALLS
} KtEndpoint;

/* One call of a list. A field that is missing or of another type is NULL. */
typedef struct KtListedCall
{
	char *call_id;
	char *account_id;
	char *direction;
	char *to_number;
	char *call_status;
	char *duration; /* a JSON number as it stands: seconds */
	char *cost;     /* a JSON number as it stands */
	char *created_at;
	char *first_name;
} KtListedCall;

typedef struct KtApiAnswer
{
	/* evidence for kt_outcome_judge() */
	bool is_object;
	KtSuccess success;
	KtCallId call_id_kind;
	bool has_all_fields;

	char *words; /* the API's own explanation, or NULL: foreign text, see kt_redact() */

	/* create-call, create-web-call */
	char *call_id; /* NULL unless credible */
	char *call_status;
	char *access_token;
	char *account_id;
	char *sample_rate; /* a JSON number as it stands */

	/* calls */
	KtListedCall *calls;
	int ncalls;
	char *total; /* a JSON number as it stands */
} KtApiAnswer;

extern void kt_answer_read(KtEndpoint endpoint, const char *body, size_t len, KtApiAnswer *answer);

#endif /* KT_ANSWER_H */
