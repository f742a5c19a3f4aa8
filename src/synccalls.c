/*
 * kridtech_sync_calls(): one sync now, in the caller's backend and transaction.
 *
 * The lists are read first, all of them, and stored by one statement: no row of the mirror is locked while
 * the network is waited for. A call that changes meanwhile is listed in two states; mirror.c keeps the one
 * that is further on.
 */
#include "postgres.h"

#include "account.h"
#include "arguments.h"
#include "client.h"
#include "events.h"
#include "extension.h"
#include "fmgr.h"
#include "mirror.h"
#include "miscadmin.h"

PG_FUNCTION_INFO_V1(kridtech_sync_calls);

/* What the lists have shown so far. */
typedef struct Listing
{
	KtListedCall *calls;
	int n;
} Listing;

/* Reads one list and adds it to the others. True when it holds every call there is. */
static bool
read_list(const char *account_id, const char *status, Listing *listing)
{
	KtApiRequest request = {.endpoint = KT_ENDPOINT_CALLS, .limit = KT_LIST_LIMIT};
	KtClientAnswer answer;
	KtAccount account;
	int n;

	request.status = status;
	kt_account_open(account_id, &account);
	kt_client_perform(&request, &account, &answer);
	n = answer.fields.ncalls;
	listing->calls = listing->calls == NULL
	                     ? palloc((n + 1) * sizeof(KtListedCall))
	                     : repalloc(listing->calls, (listing->n + n + 1) * sizeof(KtListedCall));
	memcpy(listing->calls + listing->n, answer.fields.calls, n * sizeof(KtListedCall));
	listing->n += n;
	return status == NULL && kt_mirror_is_whole(&answer.fields);
}

/* What the API lists vouches for events. In the caller's transaction, as the tables' owner. */
static void
verify_events(const Listing *listing)
{
	const char **call_ids = palloc((listing->n + 1) * sizeof(char *));
	int n = 0;
	int i;

	for (i = 0; i < listing->n; i++)
		if (listing->calls[i].call_id != NULL)
			call_ids[n++] = listing->calls[i].call_id;
	(void) kt_events_verify_listed(call_ids, n);
}

/* kridtech_sync_calls(account_id) returns integer, the rows added or changed */
Datum
kridtech_sync_calls(PG_FUNCTION_ARGS)
{
	char *account_id = kt_argument_account(fcinfo, 0);
	Listing listing = {0};
	KtOwner owner;
	int changed;
	int added;
	int i;

	PreventCommandIfReadOnly("kridtech_sync_calls()");
	kt_extension_check();
	if (!read_list(account_id, NULL, &listing))
		for (i = 0; i < KT_LIST_STATUSES; i++)
			(void) read_list(account_id, kt_list_statuses[i], &listing);
	kt_owner_begin(&owner);
	changed = kt_mirror_store(kt_mirror_convert(listing.calls, listing.n), listing.n, &added);
	kt_owner_end(&owner);
	verify_events(&listing);
	PG_RETURN_INT32(changed);
}
