/*
 * One request to the API in the caller's own backend: sent now, cancellable, its failure an SQL error.
 *
 * Owns the backend's HTTP client, made at the first request and kept to the backend's end so that
 * connections stay open between calls. The wait is the backend's own kind: a latch, the client's one
 * fd, its deadline, and CHECK_FOR_INTERRUPTS() after every wake, so cancel, statement_timeout and
 * termination work as in any other statement. What leaves the wait by an error aborts the transfer on
 * its way out: nothing is sent after the statement has ended.
 */
#include "postgres.h"

#include "client.h"

#include "compat.h"
#include "convert.h"
#include "miscadmin.h"
#include "storage/latch.h"

/* A backend talks to one API host, and one request at a time. */
#define KEPT_CONNECTIONS 2

static KtHttp *backend_http = NULL;

static KtHttp *
get_http(void)
{
	if (backend_http == NULL)
		backend_http = kt_http_create(KEPT_CONNECTIONS);
	if (backend_http == NULL)
		ereport(ERROR,
		        (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("could not set up the HTTP client")));
	return backend_http;
}

/* Sleeps until the HTTP client has work, or something happened to this backend. */
static void
wait_for_work(KtHttp *http)
{
	static uint32 wait_event = 0;
	int events = WL_LATCH_SET | WL_SOCKET_READABLE | WL_EXIT_ON_PM_DEATH;
	int64 deadline = kt_http_deadline(http);
	long timeout_ms = -1;

	if (wait_event == 0)
		wait_event = kt_wait_event("KridtechApi");
	if (deadline >= 0)
	{
		events |= WL_TIMEOUT;
		timeout_ms = (long) Max(0, (deadline - kt_http_now() + 999) / 1000);
	}
	(void) WaitLatchOrSocket(MyLatch, events, kt_http_fd(http), timeout_ms, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
wait_for_answer(KtHttp *http, KtHttpAnswer *answer)
{
	for (;;)
	{
		kt_http_step(http);
		if (kt_http_reap(http, answer) != NULL)
			return;
		wait_for_work(http);
	}
}

/* ---- the outcome as an SQL error --------------------------------------------------------------------- */

typedef struct Failure
{
	KtEndpoint endpoint;
	KtOutcome outcome;
	int status;        /* HTTP, 0 when none arrived */
	char *words;       /* the API's or libcurl's, presentable, or NULL */
	bool transfer;     /* the words are about the transfer */
	int64 retry_after; /* seconds, or negative */
} Failure;

static int
sqlstate_of(KtOutcome outcome)
{
	switch (outcome)
	{
		case KT_OUTCOME_NOT_SENT:
			return ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
		case KT_OUTCOME_BAD_ARGUMENT:
			return ERRCODE_INVALID_PARAMETER_VALUE;
		case KT_OUTCOME_UNAUTHORIZED:
			return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
		case KT_OUTCOME_NO_CREDITS:
			return ERRCODE_INSUFFICIENT_RESOURCES;
		case KT_OUTCOME_RATE_LIMITED:
			return ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
		case KT_OUTCOME_BAD_ENDPOINT:
		case KT_OUTCOME_DECLINED:
		case KT_OUTCOME_UNDOCUMENTED:
			return ERRCODE_PROTOCOL_VIOLATION;
		case KT_OUTCOME_LOST:
			return ERRCODE_CONNECTION_FAILURE;
		case KT_OUTCOME_UNKNOWN:
			return ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN;
		case KT_OUTCOME_OK:
		case KT_OUTCOME_OK_FLAGGED:
			break;
	}
	return ERRCODE_INTERNAL_ERROR;
}

static const char *
sentence_of(KtOutcome outcome)
{
	switch (outcome)
	{
		case KT_OUTCOME_NOT_SENT:
			return "could not connect to the Kridtech API";
		case KT_OUTCOME_BAD_ARGUMENT:
			return "the Kridtech API refused the request's parameters";
		case KT_OUTCOME_BAD_ENDPOINT:
			return "the Kridtech API has no such endpoint";
		case KT_OUTCOME_UNAUTHORIZED:
			return "the Kridtech API refused the API key";
		case KT_OUTCOME_NO_CREDITS:
			return "the Kridtech account has insufficient credits";
		case KT_OUTCOME_RATE_LIMITED:
			return "the Kridtech API's rate limit is exceeded";
		case KT_OUTCOME_DECLINED:
			return "the Kridtech API declined the request";
		case KT_OUTCOME_LOST:
			return "lost the connection to the Kridtech API before the answer was complete";
		case KT_OUTCOME_UNDOCUMENTED:
			return "the Kridtech API gave an answer that is not documented";
		case KT_OUTCOME_UNKNOWN:
			return "it is not known whether the Kridtech API applied the request";
		case KT_OUTCOME_OK:
		case KT_OUTCOME_OK_FLAGGED:
			break;
	}
	return "no failure";
}

static int
detail_of(const Failure *failure)
{
	if (failure->words == NULL)
		return 0;
	return failure->transfer ? errdetail("%s.", failure->words)
	                         : errdetail("The API says: %s", failure->words);
}

static int
hint_of(const Failure *failure)
{
	switch (failure->outcome)
	{
		case KT_OUTCOME_NOT_SENT:
			return errhint("Nothing was sent.");
		case KT_OUTCOME_BAD_ENDPOINT:
			return errhint("Check kridtech.base_url.");
		case KT_OUTCOME_UNAUTHORIZED:
			return errhint("Check the account's API key file and kridtech.account_id.");
		case KT_OUTCOME_RATE_LIMITED:
			if (failure->retry_after > 0)
				return errhint("The API asks to wait %lld seconds.",
				               (long long) failure->retry_after);
			return errhint("Nothing was applied: the request can be repeated later.");
		case KT_OUTCOME_UNKNOWN:
			return errhint("Something may have been created: look for it with kridtech_calls() "
			               "before trying again.");
		case KT_OUTCOME_OK:
		case KT_OUTCOME_OK_FLAGGED:
		case KT_OUTCOME_BAD_ARGUMENT:
		case KT_OUTCOME_NO_CREDITS:
		case KT_OUTCOME_DECLINED:
		case KT_OUTCOME_LOST:
		case KT_OUTCOME_UNDOCUMENTED:
			return 0;
	}
	return 0;
}

static void
throw_failure(const Failure *failure)
{
	const char *name = kt_api_name(failure->endpoint);

	if (failure->status != 0)
		ereport(ERROR, (errcode(sqlstate_of(failure->outcome)),
		                errmsg("%s (%s, HTTP status %d)", sentence_of(failure->outcome), name,
		                       failure->status),
		                detail_of(failure), hint_of(failure)));
	ereport(ERROR, (errcode(sqlstate_of(failure->outcome)),
	                errmsg("%s (%s)", sentence_of(failure->outcome), name), detail_of(failure),
	                hint_of(failure)));
}

/* ---- performing ---------------------------------------------------------------------------------------- */

static void
describe(const KtApiRequest *request, const char *key, const KtHttpAnswer *http,
         const KtClientAnswer *answer, Failure *failure)
{
	const char *words = answer->fields.words;

	failure->endpoint = request->endpoint;
	failure->status = http->status;
	failure->retry_after = http->retry_after;
	failure->transfer = http->curl_code != 0;
	if (failure->transfer)
		words = http->too_large ? "The answer is too large" : http->error;
	if (words != NULL)
		failure->words = kt_convert_to_server(kt_api_presentable(words, strlen(words), key));
}

void
kt_client_perform(const KtApiRequest *request, KtAccount *account, KtClientAnswer *answer)
{
	KtHttp *http = get_http();
	KtHttpRequest http_request = {0};
	KtHttpTransfer *volatile transfer = NULL;
	volatile bool reaped = false;
	Failure failure = {0};

	PG_TRY();
	{
		KtHttpAnswer http_answer;

		kt_api_build(request, account->key, &http_request);
		transfer = kt_http_submit(http, &http_request);
		if (transfer == NULL)
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY),
			                errmsg("could not start a request to the Kridtech API"),
			                errhint("Nothing was sent.")));
		wait_for_answer(http, &http_answer);
		reaped = true;
		answer->http_status = http_answer.status;
		failure.outcome = kt_api_judge(request->endpoint, &http_answer, &answer->fields);
		describe(request, account->key, &http_answer, answer, &failure);
	}
	PG_FINALLY();
	{
		kt_api_forget(&http_request);
		kt_account_forget(account);
		if (transfer != NULL && reaped)
			kt_http_release(http, transfer);
		else if (transfer != NULL)
			(void) kt_http_abort(http, transfer);
	}
	PG_END_TRY();
	answer->flagged = failure.outcome == KT_OUTCOME_OK_FLAGGED;
	if (failure.outcome != KT_OUTCOME_OK && failure.outcome != KT_OUTCOME_OK_FLAGGED)
		throw_failure(&failure);
}
