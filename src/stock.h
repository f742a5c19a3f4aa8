/*
 * The dialer's stock of candidates: ids of requests that a scan saw ready, in their order.
 *
 * A scan passes over what finished requests left behind in the index, which a long transaction elsewhere
 * keeps vacuum from removing: so one scan serves many claims. What is in stock is a hint; a claim looks at
 * each row again.
 */
#ifndef KT_STOCK_H
#define KT_STOCK_H

#include "datatype/timestamp.h"
#include "gate.h"

/* Requests that one scan brings at most. */
#define KT_STOCK_SIZE 10000

/* Requests that are set aside at most; beyond, the oldest is let in again. */
#define KT_STOCK_ASIDE 64

typedef struct KtStock
{
	int64 aside[KT_STOCK_ASIDE];
	int64 aside_until[KT_STOCK_ASIDE]; /* on kt_http_now()'s clock */
	int naside;

	int64 *ids;
	int *gates; /* the index of each one's gate */
	int n;
	int next;
	bool full;        /* the last scan brought as many as it may: there are more */
	bool foreign;     /* nothing is ready but what came from elsewhere */
	int64 scanned_at; /* on kt_http_now()'s clock */
} KtStock;

extern void kt_stock_init(KtStock *stock, MemoryContext context);

static inline bool
kt_stock_has(const KtStock *stock)
{
	return stock->next < stock->n;
}

/* Fills the stock anew. In a unit of work. */
extern void kt_stock_scan(KtStock *stock, KtGates *gates, TimestampTz born);

/* A request that cannot be claimed is left out of the scans for a minute. */
extern void kt_stock_set_aside(KtStock *stock, int64 id);

/* Takes up to want ids that their gates let through; what a gate holds back is left to a later scan. */
extern int kt_stock_pick(KtStock *stock, const KtGates *gates, int want, int64 *ids);

#endif /* KT_STOCK_H */
