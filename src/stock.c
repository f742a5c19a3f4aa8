/*
 * The dialer's stock of candidates: ids of requests that a scan saw ready, in their order.
 */
#include "postgres.h"

#include "stock.h"

#include "common/hashfn.h"
#include "http.h"
#include "settings.h"

/* How long a request that cannot be claimed is left alone. */
#define ASIDE_US INT64CONST(60000000)

/* A scan of everything that takes longer is not made each time, but so many times as long afterwards, and at last. */
#define DEAR_US INT64CONST(5000)
#define DEAR_SHARE 20
#define DEAR_LAST_US INT64CONST(30000000)

/* Nor is one after a stock that could hardly be claimed. */
#define FRUITLESS_US INT64CONST(5000000)

void
kt_stock_init(KtStock *stock, MemoryContext context)
{
	memset(stock, 0, sizeof(*stock));
	stock->ids = MemoryContextAlloc(context, KT_STOCK_SIZE * sizeof(int64));
	stock->gates = MemoryContextAlloc(context, KT_STOCK_SIZE * sizeof(int));
	stock->heavy = MemoryContextAlloc(context, KT_STOCK_SIZE * sizeof(bool));
}

bool
kt_stock_set_aside(KtStock *stock, int64 id)
{
	bool has_room = stock->naside < KT_STOCK_ASIDE;

	if (!has_room)
	{
		stock->naside--;
		memmove(stock->aside, stock->aside + 1, stock->naside * sizeof(int64));
		memmove(stock->aside_until, stock->aside_until + 1, stock->naside * sizeof(int64));
	}
	stock->aside[stock->naside] = id;
	stock->aside_until[stock->naside++] = kt_http_now() + ASIDE_US;
	return has_room;
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
kt_stock_note(KtStock *stock, int tried, int claimed)
{
	stock->path.tried += tried;
	stock->path.claimed += claimed;
}

bool
kt_stock_is_stuck(const KtStock *stock)
{
	return stock->path.claimed < stock->path.tried / 10;
}

bool
kt_stock_is_fruitless(const KtStock *stock)
{
	return stock->full && !kt_stock_has(stock) && stock->path.tried >= KT_STOCK_SIZE / 2 &&
	       kt_stock_is_stuck(stock);
}

static void
find_skipped(const KtGates *gates, KtScanRules *rules)
{
	int i;

	rules->skip = palloc((gates->n + 1) * sizeof(char *));
	for (i = 0; i < gates->n; i++)
		if (gates->gates[i].account_id != NULL && kt_gate_allow(&gates->gates[i], 1) == 0)
			rules->skip[rules->nskip++] = gates->gates[i].account_id;
}

/* Of what accounts are passed over, in whatever order: a number that hardly stays the same when they do not. */
static uint32
digest(const KtScanRules *rules)
{
	uint32 sum = hash_bytes((const unsigned char *) rules->default_account,
	                        (int) strlen(rules->default_account));
	int i;

	for (i = 0; i < rules->nskip; i++)
		sum += hash_bytes((const unsigned char *) rules->skip[i], (int) strlen(rules->skip[i]));
	return sum;
}

/* A scan of everything was begun then and brought the stock: where do the next begin? */
static void
find_path(KtStock *stock, const KtScanRules *rules, const KtCandidate *found, int64 begun)
{
	KtPath *path = &stock->path;
	int64 took = kt_http_now() - begun;

	path->whole_due = 0;
	if (took < DEAR_US || (stock->n > 0 && rules->nskip == 0))
		return;
	if (stock->n > 0)
		path->from = (KtMark){found[0].priority, found[0].id, true};
	else if (!kt_queue_last_ready(&path->from))
		return;
	path->skipped = digest(rules);
	path->whole_due = kt_http_now() + Min(took * DEAR_SHARE, DEAR_LAST_US);
}

/* Brings the candidates. fruitless: go on behind the last one. */
static void
fill(KtStock *stock, const KtScanRules *rules, KtCandidate *found, bool fruitless)
{
	KtPath *path = &stock->path;
	int64 begun = kt_http_now();
	bool part = !fruitless && begun < path->whole_due && path->skipped == digest(rules);
	const KtMark *from = fruitless ? &path->last : part ? &path->from : NULL;

	if (fruitless)
	{
		path->from = (KtMark){path->last.priority, path->last.id, true};
		path->skipped = digest(rules);
		path->whole_due = begun + FRUITLESS_US;
	}
	stock->n = kt_queue_scan(rules, from, found, KT_STOCK_SIZE, &stock->full);
	if (stock->n > 0)
		path->last = (KtMark){found[stock->n - 1].priority, found[stock->n - 1].id, false};
	path->tried = path->claimed = 0;
	if (part || fruitless)
		stock->foreign = stock->foreign && stock->n == 0;
	else
	{
		stock->foreign = stock->n == 0 && kt_queue_has_foreign(rules->born);
		find_path(stock, rules, found, begun);
	}
}

void
kt_stock_scan(KtStock *stock, KtGates *gates, TimestampTz born)
{
	KtCandidate *found = palloc(KT_STOCK_SIZE * sizeof(KtCandidate));
	KtScanRules rules = {.default_account = kt_account_id, .born = born};
	bool fruitless = kt_stock_is_fruitless(stock);
	bool new_gate = false;
	int i;

	stock->n = stock->next = 0;
	kt_gate_forget_unused(
		gates); /* which the stock no longer refers to, even if the scan should throw */
	find_skipped(gates, &rules);
	let_in_again(stock);
	rules.aside = stock->aside;
	rules.naside = stock->naside;
	fill(stock, &rules, found, fruitless);
	stock->scanned_at = kt_http_now();
	for (i = 0; i < stock->n; i++)
	{
		stock->ids[i] = found[i].id;
		stock->heavy[i] = found[i].heavy;
		stock->gates[i] = kt_gate_find(gates, found[i].account_id);
		new_gate = new_gate || !gates->gates[stock->gates[i]].looked_at;
	}
	if (new_gate)
		kt_gate_refresh(gates); /* a new account's gate is closed until its key was looked at */
}

int
kt_stock_pick(KtStock *stock, const KtGates *gates, int want, int64 *ids)
{
	int *picked = palloc0(Max(gates->n, 1) * sizeof(int));
	int heavy = 0;
	int n = 0;

	while (n < want && heavy < KT_STOCK_HEAVY && kt_stock_has(stock))
	{
		int gate = stock->gates[stock->next];
		bool is_heavy = stock->heavy[stock->next];
		int64 id = stock->ids[stock->next++];

		if (kt_gate_allow(&gates->gates[gate], picked[gate] + 1) <= picked[gate])
			continue;
		picked[gate]++;
		heavy += is_heavy;
		ids[n++] = id;
	}
	return n;
}
