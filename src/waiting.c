/*
 * Deliveries that are not done with: from the moment a body is in whole until it is stored and answered.
 *
 * Every delivery is answered once, and before its sender gives up. Until then its body is the HTTP server's; a
 * 503 takes the body over, so that it can be stored later. That memory has a bound: beyond it what is refused
 * is dropped, and counted.
 */
#include "postgres.h"

#include "waiting.h"

#include <arpa/inet.h>

#include "http.h"
#include "limits.h"

void
kt_waiting_init(KtWaiting *w, MemoryContext context, KtSlot *slot)
{
	memset(w, 0, sizeof(*w));
	w->context = context;
	w->slot = slot;
	dlist_init(&w->waiting);
	dlist_init(&w->unconfirmed);
}

static void
print_address(const struct sockaddr_storage *address, char *text, size_t size)
{
	const void *source = &((const struct sockaddr_in6 *) address)->sin6_addr;

	if (address->ss_family == AF_INET)
		source = &((const struct sockaddr_in *) address)->sin_addr;
	else if (address->ss_family != AF_INET6)
		return;
	if (inet_ntop(address->ss_family, source, text, (socklen_t) size) == NULL)
		text[0] = '\0';
}

void
kt_waiting_take(KtWaiting *w, KtHttpd *httpd)
{
	KtHttpdDelivery *delivery;

	w->httpd = httpd;
	while ((delivery = kt_httpd_take(httpd)) != NULL)
	{
		KtEntry *entry = MemoryContextAllocZero(w->context, sizeof(KtEntry));

		entry->delivery = delivery;
		entry->body = delivery->body;
		entry->len = delivery->len;
		entry->arrived = delivery->arrived;
		print_address(&delivery->client, entry->address, sizeof(entry->address));
		dlist_push_tail(&w->waiting, &entry->node);
		w->nwaiting++;
		kt_count(w->slot, KT_COUNT_RECEIVED, 1);
		kt_count(w->slot, KT_COUNT_EVENT_BYTES, entry->len);
	}
}

/* kept, unless NULL, gets the body. */
static void
answer(KtWaiting *w, KtEntry *entry, int status, KtBuf *kept)
{
	kt_httpd_answer(w->httpd, entry->delivery, status, kept);
	entry->delivery = NULL;
	w->answered = true;
	kt_count_latency(w->slot, kt_http_now() - entry->arrived);
	if (status == 503)
		kt_count(w->slot, KT_COUNT_REFUSED_503, 1);
}

static void
forget(KtWaiting *w, KtEntry *entry)
{
	if (entry->held.data != NULL)
	{
		w->held_bytes -= entry->held.cap;
		w->nheld--;
		kt_buf_free(&entry->held);
	}
	dlist_delete(&entry->node);
	pfree(entry);
}

void
kt_waiting_end(KtWaiting *w, KtEntry *entry, int status)
{
	if (entry->delivery != NULL)
		answer(w, entry, status, NULL);
	forget(w, entry);
	w->nwaiting--;
}

void
kt_waiting_hold_back(KtWaiting *w, KtEntry *entry)
{
	dlist_delete(&entry->node);
	dlist_push_tail(&w->unconfirmed, &entry->node);
	w->nwaiting--;
	w->nunconfirmed++;
}

void
kt_waiting_confirm(KtWaiting *w)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &w->unconfirmed)
	{
		KtEntry *entry = dlist_container(KtEntry, node, iter.cur);

		answer(w, entry, 200, NULL);
		forget(w, entry);
	}
	w->nunconfirmed = 0;
}

void
kt_waiting_put_last(KtWaiting *w, KtEntry *entry)
{
	dlist_delete(&entry->node);
	dlist_push_tail(&w->waiting, &entry->node);
}

/* ---- refusing -------------------------------------------------------------------------------------------- */

static bool
has_room(const KtWaiting *w, size_t len)
{
	return w->nheld < KT_MAX_HELD && w->held_bytes + len <= KT_MAX_HELD_BYTES;
}

/* 503 to one that is not stored. An empty body is no webhook, and not worth holding. */
static void
refuse(KtWaiting *w, KtEntry *entry)
{
	if (entry->len == 0 || !has_room(w, entry->len))
	{
		kt_count(w->slot, KT_COUNT_DROPPED, 1);
		kt_waiting_end(w, entry, 503);
		return;
	}
	answer(w, entry, 503, &entry->held);
	entry->body = entry->held.data;
	w->held_bytes += entry->held.cap;
	w->nheld++;
}

void
kt_waiting_refuse(KtWaiting *w, int64 age)
{
	int64 late = kt_http_now() - age;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &w->waiting)
	{
		KtEntry *entry = dlist_container(KtEntry, node, iter.cur);

		if (entry->delivery != NULL && entry->arrived <= late)
			refuse(w, entry);
	}
	dlist_foreach_modify(iter, &w->unconfirmed)
	{
		KtEntry *entry = dlist_container(KtEntry, node, iter.cur);

		if (entry->arrived > late)
			continue;
		answer(w, entry, 503, NULL);
		forget(w, entry);
		w->nunconfirmed--;
	}
}

static int64
earliest_of(const dlist_head *list, int64 earliest)
{
	dlist_iter iter;

	dlist_foreach(iter, unconstify(dlist_head *, list))
	{
		const KtEntry *entry = dlist_container(KtEntry, node, iter.cur);

		if (entry->delivery != NULL && (earliest < 0 || entry->arrived < earliest))
			earliest = entry->arrived;
	}
	return earliest;
}

int64
kt_waiting_earliest(const KtWaiting *w)
{
	return earliest_of(&w->unconfirmed, earliest_of(&w->waiting, -1));
}
