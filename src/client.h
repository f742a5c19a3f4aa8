/*
 * One request to the API in the caller's own backend: sent now, cancellable, its failure an SQL error.
 */
#ifndef KT_CLIENT_H
#define KT_CLIENT_H

#include "account.h"
#include "api.h"

/* An answer that was judged usable. Text is palloc'd, in UTF-8. */
typedef struct KtClientAnswer
{
	KtApiAnswer fields;
	int http_status;
	bool flagged; /* a callId, though "success" is missing or of another type */
} KtClientAnswer;

/*
 * Sends the request and waits for the answer. Returns only with an answer as documented (or flagged);
 * everything else throws with the SQLSTATE of the contract's section 3. A cancel takes effect at once,
 * whatever the network does, and ends the request. Either way the account's key is overwritten.
 */
extern void kt_client_perform(const KtApiRequest *request, KtAccount *account,
                              KtClientAnswer *answer);

#endif /* KT_CLIENT_H */
