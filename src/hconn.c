/*
 * One connection of the HTTP server: where it stands, since when, and the request that it carries.
 *
 * Owns the connections' memory, not their sockets. A deadline is a phase's limit counted from the moment of
 * entering it, and nothing that the client sends moves that moment: bytes that drip in gain no time.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "hconn.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* What any network carries in one segment, with time stamps: whoever has more to say fills it. */
#define LEAST_SEGMENT 500

/* How often one turn reads from a client that is not listened to any more. */
#define DRAINED_AT_ONCE 16

/* ---- the lists ------------------------------------------------------------------------------------ */

static void
list_append(KtHconnList *list, KtHconn *conn)
{
	conn->prev = list->tail;
	conn->next = NULL;
	if (list->tail != NULL)
		list->tail->next = conn;
	else
		list->head = conn;
	list->tail = conn;
	list->count++;
}

static void
list_remove(KtHconnList *list, KtHconn *conn)
{
	if (conn->prev != NULL)
		conn->prev->next = conn->next;
	else
		list->head = conn->next;
	if (conn->next != NULL)
		conn->next->prev = conn->prev;
	else
		list->tail = conn->prev;
	list->count--;
}

/* FNV-1a: who knows it can make his own connections' search slower, up to the limit of connections. */
static unsigned int
bucket_of(const KtHaddressKey *key)
{
	uint32_t hash = 2166136261u;
	size_t i;

	for (i = 0; i < sizeof(key->bytes); i++)
		hash = (hash ^ key->bytes[i]) * 16777619u;
	return (hash ^ hash >> 16) % KT_HCONN_BUCKETS;
}

KtHconn *
kt_hconn_add(KtHconnSet *set, int fd, const struct sockaddr_storage *peer, KtHcert *cert)
{
	KtHconn *conn = calloc(1, sizeof(KtHconn));
	KtHconn **bucket;

	if (conn == NULL)
		return NULL;
	conn->fd = fd;
	conn->peer = *peer;
	conn->cert = kt_hcert_hold(cert);
	kt_haddress_key(peer, &conn->key);
	bucket = &set->buckets[bucket_of(&conn->key)];
	conn->bucket_next = *bucket;
	if (*bucket != NULL)
		(*bucket)->bucket_prev = conn;
	*bucket = conn;
	set->count++;
	conn->phase = KT_HCONN_HEADERS;
	conn->since = kt_httpd_now();
	list_append(&set->phases[conn->phase], conn);
	return conn;
}

void
kt_hconn_remove(KtHconnSet *set, KtHconn *conn)
{
	list_remove(&set->phases[conn->phase], conn);
	if (conn->bucket_prev != NULL)
		conn->bucket_prev->bucket_next = conn->bucket_next;
	else
		set->buckets[bucket_of(&conn->key)] = conn->bucket_next;
	if (conn->bucket_next != NULL)
		conn->bucket_next->bucket_prev = conn->bucket_prev;
	set->count--;
	if (conn->phase == KT_HCONN_LINGERING)
		close(conn->fd);
	kt_buf_free(&conn->body);
	kt_hcert_drop(conn->cert);
	free(conn);
}

void
kt_hconn_move(KtHconnSet *set, KtHconn *conn, KtHconnPhase phase, int64_t now)
{
	list_remove(&set->phases[conn->phase], conn);
	conn->phase = phase;
	conn->since = now;
	list_append(&set->phases[phase], conn);
}

int
kt_hconn_count(const KtHconnSet *set, const struct sockaddr_storage *peer)
{
	KtHaddressKey key;
	const KtHconn *conn;
	int count = 0;

	kt_haddress_key(peer, &key);
	for (conn = set->buckets[bucket_of(&key)]; conn != NULL; conn = conn->bucket_next)
		count += memcmp(&conn->key, &key, sizeof(key)) == 0;
	return count;
}

/* ---- the socket, past the library ---------------------------------------------------------------------- */

/* The kernel's tcp_info, of which a C library has a longer or a shorter part. The last fields came with Linux 5.4. */
typedef struct LongTcpInfo
{
	unsigned char known[104]; /* what every C library has */
	uint64_t pacing_rate;
	uint64_t max_pacing_rate;
	uint64_t bytes_acked;
	uint64_t bytes_received;
	uint32_t segs_out;
	uint32_t segs_in;
	uint32_t notsent_bytes;
	uint32_t min_rtt;
	uint32_t data_segs_in;
	uint32_t data_segs_out;
	uint64_t delivery_rate;
	uint64_t busy_time;
	uint64_t rwnd_limited;
	uint64_t sndbuf_limited;
	uint32_t delivered;
	uint32_t delivered_ce;
	uint64_t bytes_sent;
	uint64_t bytes_retrans;
	uint32_t dsack_dups;
	uint32_t reord_seen;
	uint32_t rcv_ooopack;
	uint32_t snd_wnd;
} LongTcpInfo;

_Static_assert(offsetof(struct tcp_info, tcpi_total_retrans) == 100, "not the kernel's tcp_info");
_Static_assert(offsetof(LongTcpInfo, segs_out) == 136, "not the kernel's tcp_info");
_Static_assert(offsetof(LongTcpInfo, rcv_ooopack) == 224, "not the kernel's tcp_info");

/* How much of it the kernel knows: an old one fills less, the rest is 0. */
static socklen_t
ask_kernel(const KtHconn *conn, void *info, socklen_t size)
{
	memset(info, 0, size);
	return getsockopt(conn->fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0 ? size : 0;
}

/* The kernel counts in its ticks, of up to 10 ms: less than two of them is now. */
static int64_t
when(uint32_t last_data_recv)
{
	int64_t age = (int64_t) last_data_recv * 1000;

	return kt_httpd_now() - (age >= 20000 ? age : 0);
}

int64_t
kt_hconn_last_bytes(const KtHconn *conn)
{
	struct tcp_info info;

	return ask_kernel(conn, &info, sizeof(info)) > 0 ? when(info.tcpi_last_data_recv)
	                                                 : kt_httpd_now();
}

bool
kt_hconn_hear(const KtHconn *conn, KtHconnHeard *heard)
{
	LongTcpInfo info;
	socklen_t known = ask_kernel(conn, &info, sizeof(info));
	struct tcp_info first;

	if (known < offsetof(LongTcpInfo, segs_out))
		return false;
	memset(&first, 0, sizeof(first));
	memcpy(&first, info.known, sizeof(info.known));
	/* before any data some of the older kernels count from nowhere */
	heard->last = known == sizeof(info) ? when(first.tcpi_last_data_recv) : kt_httpd_now();
	heard->trip = first.tcpi_rtt;
	heard->disturbed = first.tcpi_total_retrans > 0;
	heard->nothing = info.bytes_received == 0 && info.data_segs_in == 0;
	heard->trickle = known == sizeof(info) && info.bytes_received > 0 && info.rcv_ooopack == 0 &&
	                 info.bytes_received < (uint64_t) info.data_segs_in * LEAST_SEGMENT;
	return true;
}

bool
kt_hconn_is_silent(const KtHconn *conn)
{
	char byte;

	return recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	       (errno == EAGAIN || errno == EWOULDBLOCK);
}

static gnutls_session_t
session_of(const KtHconn *conn)
{
	const union MHD_ConnectionInfo *info = NULL;

	if (conn->mhd != NULL)
		info = MHD_get_connection_info(conn->mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);
	return info != NULL ? info->tls_session : NULL;
}

static ssize_t
pull(gnutls_transport_ptr_t ptr, void *bytes, size_t len)
{
	KtHconn *conn = ptr;
	ssize_t n = recv(conn->fd, bytes, len, 0);
	int on = 1;

	/*
	 * A client that does not send small segments at once (Nagle) holds its request back until its end of the
	 * handshake is acknowledged, which the kernel would delay by 40 ms.
	 */
	if (n > 0 && !conn->met)
		setsockopt(conn->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
	/* an end or an error moves a connection too */
	if (n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
		++*conn->moved;
	return n;
}

static ssize_t
push(gnutls_transport_ptr_t ptr, const void *bytes, size_t len)
{
	KtHconn *conn = ptr;
	ssize_t n = send(conn->fd, bytes, len, MSG_NOSIGNAL);

	conn->spoken = true;
	if (n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
		++*conn->moved;
	return n;
}

static int
keep_no_log(gnutls_session_t session, const char *label, const gnutls_datum_t *secret)
{
	(void) session;
	(void) label;
	(void) secret;
	return 0;
}

void
kt_hconn_secure(KtHconn *conn, gnutls_session_t session, uint64_t *moved)
{
	conn->moved = moved;
	gnutls_transport_set_ptr(session, conn);
	gnutls_transport_set_pull_function(session, pull);
	gnutls_transport_set_push_function(session, push);
	gnutls_session_set_keylog_function(session, keep_no_log);
}

bool
kt_hconn_is_pending(const KtHconn *conn)
{
	gnutls_session_t session = session_of(conn);

	return session != NULL && gnutls_record_check_pending(session) > 0;
}

static const char *
reason(int status)
{
	switch (status)
	{
		case 408:
			return "Request Timeout";
		case 413:
			return "Content Too Large";
		default:
			return "Service Unavailable";
	}
}

void
kt_hconn_say(KtHconn *conn, int status)
{
	char words[128];
	int len = snprintf(words, sizeof(words),
	                   "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", status,
	                   reason(status));

	if (conn->cert == NULL)
		(void) !send(conn->fd, words, (size_t) len, MSG_DONTWAIT | MSG_NOSIGNAL);
	else
	{
		gnutls_session_t session = session_of(conn);

		/* before the end of the handshake GnuTLS refuses */
		if (session != NULL)
			(void) !gnutls_record_send(session, words, (size_t) len);
	}
}

bool
kt_hconn_linger(KtHconnSet *set, KtHconn *conn, int64_t now)
{
	int fd = fcntl(conn->fd, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return false;
	shutdown(fd, SHUT_WR);
	conn->fd = fd;
	conn->mhd = NULL;
	kt_hconn_move(set, conn, KT_HCONN_LINGERING, now);
	return true;
}

bool
kt_hconn_drain(KtHconn *conn)
{
	char bytes[16 * 1024];
	ssize_t n = 0;
	int i;

	for (i = 0; i < DRAINED_AT_ONCE; i++)
	{
		n = recv(conn->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		if (n <= 0)
			return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
	}
	return true;
}

void
kt_hconn_cut(KtHconnSet *set, KtHconn *conn, int64_t now)
{
	shutdown(conn->fd, SHUT_RDWR);
	kt_hconn_move(set, conn, KT_HCONN_CUT, now);
}
