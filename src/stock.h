/*
 * The dialer's stock of candidates: ids of requests that a scan saw ready, in their order.
 *
 * A scan passes over what finished requests left behind in the index, which a long transaction elsewhere
 * keeps vacuum from removing: so one scan serves many claims. What is in stock is a hint; a claim looks at
 * each row again.
 */
#ifndef KT_STOCK_H
#define KT_STOCK_H

#include "gate.h"
#include "queue.h"

/* Requests that one scan brings at most. */
#define KT_STOCK_SIZE 10000

/* Heavy requests that are picked at a time: what a claim takes in memory is a multiple of them. */
#define KT_STOCK_HEAVY 16

/* Requests that are set aside at most. */
#define KT_STOCK_ASIDE 64

/*
 * The way through a long queue of what cannot be claimed.
 *
 * Where the last scan of everything took long and had accounts to pass over, those that follow begin where it found
 * the first candidate. What may be ready before that now is what was committed late, or came back from waiting: a scan
 * of everything finds it, which is due again after a time in proportion to what the last one took.
 *
 * Where a whole stock could hardly be claimed, since somebody has it locked, the next scan goes on behind it, and for
 * some seconds those that follow begin there.
 */
typedef struct KtPath
{
	KtMark from;    /* where scans of a part begin */
	uint32 skipped; /* what accounts the last scan of everything passed over */
	int64
		whole_due; /* when everything is to be scanned again, on kt_http_now()'s clock; 0: each time */
	KtMark last; /* the last candidate of the stock */
	int tried;   /* how many of the stock claims were about */
	int claimed; /* and how many they got */
} KtPath;

typedef struct KtStock
{
	int64 aside[KT_STOCK_ASIDE];
	int64 aside_until[KT_STOCK_ASIDE]; /* on kt_http_now()'s clock */
	int naside;

	int64 *ids;
	int *gates;  /* the index of each one's gate */
	bool *heavy; /* a megabyte, perhaps */
	int n;
	int next;
	bool full;        /* the last scan brought as many as it may: there are more */
	bool foreign;     /* nothing is ready but what came from elsewhere */
	int64 scanned_at; /* on kt_http_now()'s clock */
	KtPath path;
} KtStock;

extern void kt_stock_init(KtStock *stock, MemoryContext context);

static inline bool
kt_stock_has(const KtStock *stock)
{
	return stock->next < stock->n;
}

/* Fills the stock anew. In a unit of work. */
extern void kt_stock_scan(KtStock *stock, KtGates *gates, TimestampTz born);

/* A request that cannot be claimed is left out of the scans for a minute. False: the oldest was let in for it. */
extern bool kt_stock_set_aside(KtStock *stock, int64 id);

/* A claim was about so many of the stock and got so many. */
extern void kt_stock_note(KtStock *stock, int tried, int claimed);

/* Hardly any of what was tried could be claimed: another scan before the stock is used up would only bring it again. */
extern bool kt_stock_is_stuck(const KtStock *stock);

/* The stock is used up, there is more, and hardly any of it could be claimed. */
extern bool kt_stock_is_fruitless(const KtStock *stock);

/* Takes up to want ids that their gates let through; what a gate holds back is left to a later scan. */
extern int kt_stock_pick(KtStock *stock, const KtGates *gates, int want, int64 *ids);

#endif /* KT_STOCK_H */
