/*
 * Requests of the HTTP server: the library's callbacks, from a request's line to its answer.
 *
 * Owns the bodies' total. A request goes: its line (kt_hrequest_line), its head (first call of
 * kt_hrequest_handle, where the gate judges), parts of its body, its end. There a delivery is suspended, and
 * the library does not look at the connection until the owner has answered; so a client that hangs up
 * meanwhile takes nothing away: the delivery lives in the connection, and the connection until then.
 *
 * What is refused at its head is answered before any body byte is read, and the connection closed; the
 * library never takes what follows for another request.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "hserver.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "limits.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

#define OK 200
#define BAD_REQUEST 400
#define NOT_FOUND 404
#define METHOD_NOT_ALLOWED 405
#define CONTENT_TOO_LARGE 413
#define UNAVAILABLE 503

KtHconn *
kt_hrequest_conn(struct MHD_Connection *mhd)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info != NULL ? info->socket_context : NULL;
}

void
kt_hrequest_count(KtHttpd *httpd, int status)
{
	if (status >= 500)
		httpd->counters.answers_5xx++;
	else if (status >= 400)
		httpd->counters.answers_4xx++;
	else
		httpd->counters.answers_2xx++;
}

void
kt_hrequest_release_body(KtHttpd *httpd, KtHconn *conn, KtBuf *kept)
{
	httpd->body_memory -= conn->counted;
	conn->counted = 0;
	if (kept != NULL)
	{
		*kept = conn->body;
		kt_buf_init(&conn->body, 0);
	}
	else
		kt_buf_free(&conn->body);
}

/* Hands an answer to the library. */
static enum MHD_Result
answer(KtHttpd *httpd, KtHconn *conn, int status, KtHserverReply reply)
{
	if (reply == KT_HSERVER_KEEP &&
	    (httpd->quiescing || conn->last || kt_haccept_is_crowded(httpd)))
		reply = KT_HSERVER_CLOSE;
	if (conn->phase != KT_HCONN_LEAVING)
		kt_hconn_move(&httpd->conns, conn, KT_HCONN_LEAVING, kt_httpd_now());
	kt_hrequest_count(httpd, status);
	return MHD_queue_response(conn->mhd, (unsigned int) status, httpd->replies[reply]);
}

/* ---- the head ------------------------------------------------------------------------------------------ */

typedef struct Head
{
	KtHgate gate;
	KtBuf forwarded; /* X-Forwarded-For: all its lines as one list */
} Head;

/*
 * 1.0 refuses a folded line. Before, the library appends the fold to the line's name, so that "Transfer-Encoding:", a
 * fold, "chunked" hides what a proxy reads, and "Content-: 5", a fold, "Length" makes up what it does not. It moves the
 * name behind all that it has read for that, or where the buffer ends there lets it grow over the value. Else a name,
 * with the zero behind it, ends before its value.
 */
static bool
is_folded(const char *name, size_t name_len, const char *value)
{
	return MHD_get_version()[0] == '0' && (uintptr_t) value <= (uintptr_t) name + name_len;
}

static enum MHD_Result
on_header(void *cls, enum MHD_ValueKind kind, const char *name, size_t name_len, const char *value,
          size_t value_len)
{
	static const char forwarded[] = "X-Forwarded-For";
	Head *head = cls;

	(void) kind;
	if (value != NULL && is_folded(name, name_len, value))
		head->gate.malformed = true;
	if (value == NULL)
	{
		value = "";
		value_len = 0;
	}
	kt_hgate_header(&head->gate, name, name_len, value, value_len);
	if (name_len == sizeof(forwarded) - 1 && strncasecmp(name, forwarded, name_len) == 0)
	{
		if (head->forwarded.len > 0)
			kt_buf_append_char(&head->forwarded, ',');
		kt_buf_append(&head->forwarded, value, value_len);
	}
	return MHD_YES;
}

/* Where a proxy's list was cut short, for want of memory, the proxy's own address stands. */
static void
set_client(const KtHttpd *httpd, KtHconn *conn, const KtBuf *forwarded)
{
	conn->delivery.client = conn->peer;
	if (forwarded->len > 0 && !forwarded->failed)
		kt_haddress_forwarded(&conn->delivery.client, forwarded->data, forwarded->len,
		                      httpd->options.proxies, httpd->options.nproxies);
}

/* Answers before the body is read, and closes. */
static enum MHD_Result
refuse(KtHttpd *httpd, KtHconn *conn, int status, KtHserverReply reply)
{
	conn->lingers = true;
	return answer(httpd, conn, status, reply);
}

/* Makes ready for the body. Its announced length is only that: memory is taken as bytes come. */
static enum MHD_Result
begin_body(KtHttpd *httpd, KtHconn *conn)
{
	if (httpd->body_memory >= httpd->options.max_bodies)
		return refuse(httpd, conn, UNAVAILABLE, KT_HSERVER_CLOSE);
	kt_buf_init(&conn->body, httpd->options.max_body);
	kt_hconn_move(&httpd->conns, conn, KT_HCONN_BODY, kt_httpd_now());
	return MHD_YES;
}

/*
 * Before 0.9.75 the library stalls on a line feed that is left before a request, and leaves one itself when the last
 * CRLF of a chunked body comes in two segments. A connection that closes loses no next request there.
 */
static bool
is_old_library(void)
{
	return strcmp(MHD_get_version(), "0.9.75") < 0;
}

static enum MHD_Result
judge_head(KtHttpd *httpd, KtHconn *conn, const char *target, const char *method,
           const char *version)
{
	Head head;
	KtHgateVerdict verdict;

	kt_hgate_begin(&head.gate);
	kt_buf_init(&head.forwarded, KT_HTTPD_POOL);
	MHD_get_connection_values_n(conn->mhd, MHD_HEADER_KIND, on_header, &head);
	verdict = kt_hgate_judge(&head.gate, &httpd->route, method, target, version);
	set_client(httpd, conn, &head.forwarded);
	kt_buf_free(&head.forwarded);
	httpd->counters.requests++;
	conn->whole = conn->met = true;
	switch (verdict)
	{
		case KT_HGATE_DELIVERY:
			/* 0.9.75 ends a head early at a line without a name: the length may have stood behind it */
			conn->last = kt_hgate_is_bare(&head.gate) || (head.gate.chunked && is_old_library());
			return begin_body(httpd, conn);
		case KT_HGATE_HEALTH:
			/* answered at the request's end, or the library would close the connection */
			conn->health = true;
			kt_hconn_move(&httpd->conns, conn, KT_HCONN_BODY, kt_httpd_now());
			return MHD_YES;
		case KT_HGATE_FRAMING:
			return refuse(httpd, conn, BAD_REQUEST, KT_HSERVER_CLOSE);
		case KT_HGATE_NOT_FOUND:
			return refuse(httpd, conn, NOT_FOUND, KT_HSERVER_CLOSE);
		case KT_HGATE_METHOD:
			return refuse(httpd, conn, METHOD_NOT_ALLOWED, KT_HSERVER_ALLOW_POST);
		case KT_HGATE_HEALTH_ONLY:
			return refuse(httpd, conn, METHOD_NOT_ALLOWED, KT_HSERVER_ALLOW_HEALTH);
		case KT_HGATE_TOO_LARGE:
			return refuse(httpd, conn, CONTENT_TOO_LARGE, KT_HSERVER_CLOSE);
	}
	return MHD_NO;
}

/* ---- the body -------------------------------------------------------------------------------------------- */

/* Ends a request in the middle of its body, where the library takes no answer: MHD_NO closes. */
static enum MHD_Result
break_off(KtHttpd *httpd, KtHconn *conn, int status)
{
	kt_hconn_say(conn, status);
	kt_hrequest_count(httpd, status);
	conn->lingers = true;
	return MHD_NO;
}

static enum MHD_Result
take_bytes(KtHttpd *httpd, KtHconn *conn, const char *bytes, size_t len)
{
	bool whole;

	httpd->counters.bytes_received += len;
	if (len > conn->body.max - conn->body.len)
		return break_off(httpd, conn, CONTENT_TOO_LARGE);
	whole = kt_buf_append(&conn->body, bytes, len);
	httpd->body_memory += conn->body.cap - conn->counted;
	conn->counted = conn->body.cap;
	if (httpd->body_memory > httpd->body_peak)
		httpd->body_peak = httpd->body_memory;
	if (!whole || httpd->body_memory > httpd->options.max_bodies)
		return break_off(httpd, conn, UNAVAILABLE);
	return MHD_YES;
}

static enum MHD_Result
hand_up(KtHttpd *httpd, KtHconn *conn)
{
	int64_t now = kt_httpd_now();

	conn->delivery.body = conn->body.data != NULL ? conn->body.data : "";
	conn->delivery.len = conn->body.len;
	conn->delivery.arrived = kt_hconn_last_bytes(conn);
	conn->delivery.owner = NULL;
	kt_hconn_move(&httpd->conns, conn, KT_HCONN_WAITING, now);
	if (httpd->untaken == NULL)
		httpd->untaken = conn;
	MHD_suspend_connection(conn->mhd);
	return MHD_YES;
}

/* ---- the library's callbacks -------------------------------------------------------------------------------- */

/* A request's line has come: of a later request on the connection, this is the first we hear. */
void
kt_hrequest_line(void *cls, struct MHD_Connection *mhd)
{
	KtHttpd *httpd = cls;
	KtHconn *conn = kt_hrequest_conn(mhd);

	if (conn != NULL && conn->phase == KT_HCONN_IDLE)
		kt_hconn_move(&httpd->conns, conn, KT_HCONN_HEADERS, kt_httpd_now());
}

enum MHD_Result
kt_hrequest_handle(void *cls, struct MHD_Connection *mhd, const char *target, const char *method,
                   const char *version, const char *bytes, size_t *len, void **request)
{
	KtHttpd *httpd = cls;
	KtHconn *conn = kt_hrequest_conn(mhd);

	httpd->moved++;
	if (conn == NULL || conn->phase == KT_HCONN_CUT)
		return MHD_NO;
	*request = conn;
	if (!conn->whole)
		return judge_head(httpd, conn, target, method, version);
	if (*len > 0)
	{
		enum MHD_Result result = take_bytes(httpd, conn, bytes, *len);

		*len = 0;
		return result;
	}
	if (conn->health)
		return answer(httpd, conn, httpd->healthy ? OK : UNAVAILABLE, KT_HSERVER_KEEP);
	if (conn->status != 0)
		return answer(httpd, conn, conn->status, KT_HSERVER_KEEP);
	return hand_up(httpd, conn);
}

/* The answer is with the kernel, or the request came to an end without one. */
void
kt_hrequest_completed(void *cls, struct MHD_Connection *mhd, void **request,
                      enum MHD_RequestTerminationCode how)
{
	KtHttpd *httpd = cls;
	KtHconn *conn = kt_hrequest_conn(mhd);

	(void) how;
	httpd->moved++;
	*request = NULL;
	if (conn == NULL)
		return;
	kt_hrequest_release_body(httpd, conn, NULL);
	conn->whole = conn->health = conn->last = false;
	conn->status = 0;
	if (conn->phase != KT_HCONN_CUT)
		kt_hconn_move(&httpd->conns, conn, KT_HCONN_IDLE, kt_httpd_now());
}
