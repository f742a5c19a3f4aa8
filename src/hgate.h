/*
 * The gate: what is done with a request, judged by its parsed head before any byte of its body is kept.
 *
 * Pure functions, so that they can be tested and fuzzed without a connection. The library's parser has
 * been before; the gate refuses what a parser of that age lets through (see the .c).
 */
#ifndef KT_HGATE_H
#define KT_HGATE_H

#include <stdbool.h>
#include <stddef.h>

/* What has been seen of a request's header lines. */
typedef struct KtHgate
{
	bool malformed; /* a line that no sender of sound mind writes */
	int hosts;
	int lengths;
	int encodings;
	bool chunked;  /* the last Transfer-Encoding was exactly that */
	size_t length; /* the last Content-Length */
} KtHgate;

/* The one route there is. */
typedef struct KtHgateRoute
{
	const char *path; /* without a slash at its end; "" stands for "/" */
	const char *const *tokens;
	int ntokens;
	size_t max_body;
} KtHgateRoute;

typedef enum KtHgateVerdict
{
	KT_HGATE_DELIVERY,    /* a POST on the route: take its body */
	KT_HGATE_HEALTH,      /* a question after our health, without a body */
	KT_HGATE_FRAMING,     /* 400: two parties could read it differently */
	KT_HGATE_NOT_FOUND,   /* 404: another path, no token or a wrong one */
	KT_HGATE_METHOD,      /* 405 on the route, which takes POST */
	KT_HGATE_HEALTH_ONLY, /* 405 on /healthz, which takes GET and HEAD */
	KT_HGATE_TOO_LARGE    /* 413: it says that its body is over the limit */
} KtHgateVerdict;

/* True when a request says nothing of a body: whatever follows it is not to be read as the next one. */
extern bool kt_hgate_is_bare(const KtHgate *gate);

/* Begins with a request. */
extern void kt_hgate_begin(KtHgate *gate);

/* Takes in one header line, as it was parsed. */
extern void kt_hgate_header(KtHgate *gate, const char *name, size_t name_len, const char *value,
                            size_t value_len);

/* Judges, once all lines were taken in. target is the request's, undecoded and without its query. */
extern KtHgateVerdict kt_hgate_judge(const KtHgate *gate, const KtHgateRoute *route,
                                     const char *method, const char *target, const char *version);

#endif /* KT_HGATE_H */
