/*
 * The dialer's stock of candidates: ids of requests that a scan saw ready, in their order.
 */
#include "postgres.h"

#include "stock.h"

#include "http.h"
#include "queue.h"
#include "settings.h"

/* How long a request that cannot be claimed is left alone. */
#define ASIDE_US INT64CONST(60000000)

void
kt_stock_init(KtStock *stock, MemoryContext context)
{
	memset(stock, 0, sizeof(*stock));
	stock->ids = MemoryContextAlloc(context, KT_STOCK_SIZE * sizeof(int64));
	stock->gates = MemoryContextAlloc(context, KT_STOCK_SIZE * sizeof(int));
}

void
kt_stock_set_aside(KtStock *stock, int64 id)
{
	if (stock->naside == KT_STOCK_ASIDE)
	{
		stock->naside--;
		memmove(stock->aside, stock->aside + 1, stock->naside * sizeof(int64));
		memmove(stock->aside_until, stock->aside_until + 1, stock->naside * sizeof(int64));
	}
	stock->aside[stock->naside] = id;
	stock->aside_until[stock->naside++] = kt_http_now() + ASIDE_US;
}

/* They were set aside in the order of their time. */
static void
let_in_again(KtStock *stock)
{
	int64 now = kt_http_now();
	int n = 0;

	while (n < stock->naside && stock->aside_until[n] <= now)
		n++;
	stock->naside -= n;
	memmove(stock->aside, stock->aside + n, stock->naside * sizeof(int64));
	memmove(stock->aside_until, stock->aside_until + n, stock->naside * sizeof(int64));
}

void
kt_stock_scan(KtStock *stock, KtGates *gates, TimestampTz born)
{
	KtCandidate *found = palloc(KT_STOCK_SIZE * sizeof(KtCandidate));
	const char **skip = palloc((gates->n + 1) * sizeof(char *));
	int known = gates->n;
	int nskip = 0;
	int i;

	for (i = 0; i < gates->n; i++)
		if (kt_gate_allow(&gates->gates[i], 1) == 0)
			skip[nskip++] = gates->gates[i].account_id;
	let_in_again(stock);
	stock->n = kt_queue_scan(kt_account_id, skip, nskip, stock->aside, stock->naside, born, found,
	                         KT_STOCK_SIZE);
	stock->foreign = stock->n == 0 && kt_queue_has_foreign(born);
	stock->next = 0;
	stock->full = stock->n == KT_STOCK_SIZE;
	stock->scanned_at = kt_http_now();
	for (i = 0; i < stock->n; i++)
	{
		stock->ids[i] = found[i].id;
		stock->gates[i] = kt_gate_find(gates, found[i].account_id);
	}
	if (gates->n > known)
		kt_gate_refresh(gates); /* a new account's gate is closed until its key was looked at */
}

int
kt_stock_pick(KtStock *stock, const KtGates *gates, int want, int64 *ids)
{
	int *picked = palloc0(Max(gates->n, 1) * sizeof(int));
	int n = 0;

	while (n < want && kt_stock_has(stock))
	{
		int gate = stock->gates[stock->next];
		int64 id = stock->ids[stock->next++];

		if (kt_gate_allow(&gates->gates[gate], picked[gate] + 1) <= picked[gate])
			continue;
		picked[gate]++;
		ids[n++] = id;
	}
	return n;
}
