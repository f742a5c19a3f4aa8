/*
 * Downloads of the HTTP client: a body that is handed on as it arrives, from a server that is not trusted.
 *
 * A server here is a thread, and one for each connection, that answers with a text and closes.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "unit.h"

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http.h"

#define WRITE_ERROR 23
#define TEST_US 30000000

#define HEADER "HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n"

typedef struct Server
{
	int listener;
	int port;
	pthread_t thread;
	const char *text;
	size_t len;
	bool keeps; /* answers one request after the other on a connection */
	atomic_int connections;
	atomic_int open;
} Server;

typedef struct Connection
{
	Server *server;
	int fd;
} Connection;

static bool
send_text(const Server *server, int fd)
{
	size_t sent = 0;

	while (sent < server->len)
	{
		ssize_t n = send(fd, server->text + sent, server->len - sent, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		sent += (size_t) n;
	}
	return true;
}

static void *
serve_one(void *arg)
{
	Connection *connection = arg;
	Server *server = connection->server;
	char request[4096];

	while (recv(connection->fd, request, sizeof(request), 0) > 0)
		if (!send_text(server, connection->fd) || !server->keeps)
			break;
	shutdown(connection->fd, SHUT_WR);
	while (recv(connection->fd, request, sizeof(request), 0) > 0)
		;
	close(connection->fd);
	free(connection);
	atomic_fetch_sub(&server->open, 1);
	return NULL;
}

static void *
serve(void *arg)
{
	Server *server = arg;
	int fd;

	while ((fd = accept(server->listener, NULL, NULL)) >= 0)
	{
		Connection *connection = malloc(sizeof(Connection));
		pthread_t thread;

		connection->server = server;
		connection->fd = fd;
		atomic_fetch_add(&server->connections, 1);
		atomic_fetch_add(&server->open, 1);
		pthread_create(&thread, NULL, serve_one, connection);
		pthread_detach(thread);
	}
	return NULL;
}

static Server *
start(const char *text, size_t len)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	Server *server = calloc(1, sizeof(Server));

	assert_non_null(server);
	server->text = text;
	server->len = len;
	server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(server->listener, (struct sockaddr *) &address, size), 0);
	assert_int_equal(listen(server->listener, 16), 0);
	assert_int_equal(getsockname(server->listener, (struct sockaddr *) &address, &size), 0);
	server->port = ntohs(address.sin_port);
	assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
	return server;
}

/* The clients have closed their connections, or are about to. */
static void
stop_server(Server *server)
{
	shutdown(server->listener, SHUT_RDWR);
	pthread_join(server->thread, NULL);
	close(server->listener);
	while (atomic_load(&server->open) > 0)
		sched_yield();
	free(server);
}

/* ---- the owner's side ------------------------------------------------------------------------------------- */

typedef struct Owner
{
	KtHttp *http;
	char url[100];
	KtHttpDownload download;
	KtHttpRequest request;
	char *bytes; /* what the sink has taken */
	size_t len;
	size_t room; /* it takes no more until there is more room */
	KtHttpSunk when_full;
	bool waits;
	bool allows;
	int asked; /* how often an address was asked about */
	int ends;
	KtHttpAnswer answer; /* without what it points to */
	char error[200];
	char content_type[100];
} Owner;

static KtHttpSunk
on_bytes(void *argument, const char *bytes, size_t len)
{
	Owner *owner = argument;

	if (owner->len + len > owner->room)
	{
		owner->waits = owner->when_full == KT_HTTP_WAIT;
		return owner->when_full;
	}
	memcpy(owner->bytes + owner->len, bytes, len);
	owner->len += len;
	return KT_HTTP_TAKEN;
}

static bool
on_address(void *argument, const struct sockaddr *address)
{
	Owner *owner = argument;

	owner->asked++;
	assert_int_equal(address->sa_family, AF_INET);
	return owner->allows;
}

static void
on_end(void *argument, const KtHttpAnswer *answer)
{
	Owner *owner = argument;

	owner->ends++;
	owner->answer = *answer;
	snprintf(owner->error, sizeof(owner->error), "%s", answer->error);
	snprintf(owner->content_type, sizeof(owner->content_type), "%s",
	         answer->content_type != NULL ? answer->content_type : "none");
}

#define ROOM (8 * 1024 * 1024)

static Owner *
owner_of(const Server *server)
{
	Owner *owner = calloc(1, sizeof(Owner));

	assert_non_null(owner);
	owner->http = kt_http_create(4);
	assert_non_null(owner->http);
	owner->bytes = malloc(ROOM);
	assert_non_null(owner->bytes);
	owner->room = ROOM;
	owner->allows = true;
	snprintf(owner->url, sizeof(owner->url), "http://127.0.0.1:%d/x", server->port);
	owner->download = (KtHttpDownload){on_bytes, on_address, on_end, ROOM};
	owner->request.url = owner->url;
	owner->request.connect_timeout_ms = 10000;
	owner->request.request_timeout_ms = 20000;
	owner->request.user_agent = "kridtech/test";
	owner->request.max_answer = ROOM;
	owner->request.owner = owner;
	owner->request.download = &owner->download;
	return owner;
}

static void
forget(Owner *owner)
{
	kt_http_destroy(owner->http);
	free(owner->bytes);
	free(owner);
}

/* One turn of an owner's loop; an ordinary transfer that has ended, or NULL. */
static KtHttpTransfer *
turn(Owner *owner, KtHttpAnswer *answer)
{
	struct pollfd pollfd = {.fd = kt_http_fd(owner->http), .events = POLLIN};

	poll(&pollfd, 1, 5);
	kt_http_step(owner->http);
	return kt_http_reap(owner->http, answer);
}

static void
run(Owner *owner)
{
	int64_t end = kt_http_now() + TEST_US;
	KtHttpAnswer answer;

	while (owner->ends == 0 && !owner->waits)
	{
		assert_true(kt_http_now() < end);
		assert_null(turn(owner, &answer));
	}
}

/* One download of that text. The caller forgets the owner. */
static Owner *
download(const char *text, size_t len, int64_t max_bytes)
{
	Server *server = start(text, len);
	Owner *owner = owner_of(server);

	owner->download.max_bytes = max_bytes;
	assert_non_null(kt_http_submit(owner->http, &owner->request));
	run(owner);
	assert_int_equal(owner->ends, 1);
	assert_int_equal(kt_http_active(owner->http), 0);
	stop_server(server); /* a download closes its connection */
	return owner;
}

/* ---- what arrives ------------------------------------------------------------------------------------------ */

static void
a_body_is_handed_on_whole(void **state)
{
	static const char *const texts[] = {
		HEADER "Content-Length: 5\r\n\r\nhello",
		HEADER "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
		HEADER "content-length:5\r\nContent-Encoding: identity\r\n\r\nhello",
		"HTTP/1.1 103 Early Hints\r\nContent-Encoding: gzip\r\n\r\n" HEADER
		"Content-Length: 5\r\n\r\nhello",
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(texts); i++)
	{
		Owner *owner = download(texts[i], strlen(texts[i]), ROOM);

		assert_int_equal(owner->answer.curl_code, 0);
		assert_int_equal(owner->answer.status, 200);
		assert_bytes(texts[i], owner->bytes, owner->len, "hello", 5);
		assert_string_equal(owner->content_type, "audio/mpeg");
		assert_int_equal(owner->answer.body_len, 0);
		forget(owner);
	}
}

static void
nothing_is_taken_of_what_cannot_be_whole_or_is_no_body_of_200(void **state)
{
	static const struct
	{
		const char *text;
		const char *words;
	} cases[] = {
		{HEADER "\r\nhello", "does not say where it ends"},
		{"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" HEADER "\r\nhello",
	     "does not say where it ends"},
		{HEADER "Content-Length: 5\r\nContent-Encoding: gzip\r\n\r\nhello", "content encoding"},
		{HEADER "Content-Length: 5\r\ncontent-encoding:br\r\n\r\nhello", "content encoding"},
		{"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello", "status is not 200"},
		{"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhello", "status is not 200"},
		{"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 5\r\n\r\nhello",
	     "status is not 200"},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(cases); i++)
	{
		Owner *owner = download(cases[i].text, strlen(cases[i].text), ROOM);

		assert_int_equal(owner->answer.curl_code, WRITE_ERROR);
		if (strstr(owner->error, cases[i].words) == NULL)
			fail_msg("%s: \"%s\"", cases[i].text, owner->error);
		assert_int_equal(owner->len, 0);
		forget(owner);
	}
}

static void
a_body_that_breaks_off_is_an_error(void **state)
{
	static const char *const texts[] = {
		HEADER "Content-Length: 6\r\n\r\nhello",
		HEADER "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		HEADER "Transfer-Encoding: chunked\r\n\r\n6\r\nhello",
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(texts); i++)
	{
		Owner *owner = download(texts[i], strlen(texts[i]), ROOM);

		assert_int_not_equal(owner->answer.curl_code, 0);
		forget(owner);
	}
}

static void
a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(void **state)
{
	static const char declared[] = HEADER "Content-Length: 5\r\n\r\nhello";
	static const char chunked[] =
		HEADER "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
	static const char huge[] = HEADER "Content-Length: 9223372036854775807\r\n\r\nhello";
	const char *const texts[] = {declared, chunked};
	Owner *owner;
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(texts); i++)
	{
		owner = download(texts[i], strlen(texts[i]), 5);
		assert_int_equal(owner->answer.curl_code, 0);
		assert_false(owner->answer.too_large);
		forget(owner);
		owner = download(texts[i], strlen(texts[i]), 4);
		assert_int_equal(owner->answer.curl_code, WRITE_ERROR);
		assert_true(owner->answer.too_large);
		assert_true(owner->len <= 4);
		forget(owner);
	}
	owner = download(BYTES(huge), ROOM);
	assert_true(owner->answer.too_large);
	assert_int_equal(owner->len, 0);
	forget(owner);
}

/* ---- back-pressure ----------------------------------------------------------------------------------------- */

/* A body of that many bytes, no two stretches of which are alike, behind its header. The caller frees it. */
static char *
large_text(size_t body, size_t *len, size_t *header)
{
	char *text = malloc(body + 200);
	size_t i;

	assert_non_null(text);
	*header = (size_t) snprintf(text, 200, HEADER "Content-Length: %zu\r\n\r\n", body);
	for (i = 0; i < body; i++)
		text[*header + i] = (char) (i * 2654435761u >> 13);
	*len = *header + body;
	return text;
}

static void
a_sink_that_waits_gets_every_byte_once_and_in_order(void **state)
{
	size_t len;
	size_t header;
	char *text = large_text(4000000, &len, &header);
	Server *server = start(text, len);
	Owner *owner = owner_of(server);
	KtHttpTransfer *transfer;
	int waits = 0;

	(void) state;
	owner->when_full = KT_HTTP_WAIT;
	owner->room = 100000;
	transfer = kt_http_submit(owner->http, &owner->request);
	assert_non_null(transfer);
	for (run(owner); owner->waits; run(owner))
	{
		KtHttpAnswer answer;
		size_t before = owner->len;
		int i;

		/* however often it is stepped meanwhile */
		for (i = 0; i < 3; i++)
			assert_null(turn(owner, &answer));
		assert_int_equal(owner->len, before);
		waits++;
		owner->waits = false;
		owner->room += 100000;
		kt_http_resume(owner->http, transfer);
	}
	assert_int_equal(owner->answer.curl_code, 0);
	assert_true(waits >= 39);
	assert_bytes("the body", owner->bytes, owner->len, text + header, len - header);
	forget(owner);
	stop_server(server);
	free(text);
}

static void
a_waiting_download_ends_by_its_time_out(void **state)
{
	size_t len;
	size_t header;
	char *text = large_text(4000000, &len, &header);
	Server *server = start(text, len);
	Owner *owner = owner_of(server);

	(void) state;
	owner->when_full = KT_HTTP_WAIT;
	owner->room = 100000;
	owner->request.request_timeout_ms = 300;
	assert_non_null(kt_http_submit(owner->http, &owner->request));
	run(owner);
	assert_true(owner->waits);
	owner->waits = false;
	run(owner);
	assert_int_equal(owner->answer.curl_code, 28);
	forget(owner);
	stop_server(server);
	free(text);
}

static void
an_abort_of_a_waiting_download_is_clean(void **state)
{
	size_t len;
	size_t header;
	char *text = large_text(4000000, &len, &header);
	Server *server = start(text, len);
	Owner *owner = owner_of(server);
	KtHttpTransfer *transfer;
	KtHttpAnswer answer;

	(void) state;
	owner->when_full = KT_HTTP_WAIT;
	owner->room = 100000;
	transfer = kt_http_submit(owner->http, &owner->request);
	run(owner);
	assert_true(owner->waits);
	kt_http_abort(owner->http, transfer);
	assert_int_equal(kt_http_active(owner->http), 0);
	assert_null(turn(owner, &answer));
	assert_int_equal(owner->ends, 0);
	forget(owner);
	stop_server(server);
	free(text);
}

static void
a_sink_that_stops_ends_it(void **state)
{
	size_t len;
	size_t header;
	char *text = large_text(1000000, &len, &header);
	Server *server = start(text, len);
	Owner *owner = owner_of(server);

	(void) state;
	owner->when_full = KT_HTTP_STOP;
	owner->room = 100000;
	assert_non_null(kt_http_submit(owner->http, &owner->request));
	run(owner);
	assert_int_equal(owner->answer.curl_code, WRITE_ERROR);
	assert_string_equal(owner->error, "the download was stopped");
	forget(owner);
	stop_server(server);
	free(text);
}

/* ---- addresses and connections ----------------------------------------------------------------------------- */

static void
an_address_that_is_not_allowed_is_not_connected_to(void **state)
{
	static const char text[] = HEADER "Content-Length: 5\r\n\r\nhello";
	Server *server = start(BYTES(text));
	Owner *owner = owner_of(server);

	(void) state;
	owner->allows = false;
	assert_non_null(kt_http_submit(owner->http, &owner->request));
	run(owner);
	assert_int_not_equal(owner->answer.curl_code, 0);
	assert_int_equal(owner->answer.bytes_sent, 0);
	assert_string_equal(owner->error, "the host's address is not one that may be connected to");
	assert_true(owner->asked > 0);
	assert_int_equal(atomic_load(&server->connections), 0);
	forget(owner);
	stop_server(server);
}

/* An ordinary request on the same client, to its end. */
static void
ask(Owner *owner, KtHttpAnswer *answer)
{
	KtHttpRequest request = owner->request;
	KtHttpTransfer *transfer;
	int64_t end = kt_http_now() + TEST_US;

	request.download = NULL;
	assert_non_null(kt_http_submit(owner->http, &request));
	while ((transfer = turn(owner, answer)) == NULL)
		assert_true(kt_http_now() < end);
	answer->body = NULL;
	answer->error = NULL;
	kt_http_release(owner->http, transfer);
}

static void
a_download_shares_no_connection_with_other_requests(void **state)
{
	static const char text[] = HEADER "Content-Length: 5\r\n\r\nhello";
	Server *server = start(BYTES(text));
	Owner *owner = owner_of(server);
	KtHttpAnswer answer;

	(void) state;
	server->keeps = true;
	ask(owner, &answer);
	assert_int_equal(answer.curl_code, 0);
	assert_int_equal(answer.body_len, 5);
	assert_int_equal(owner->asked, 0);
	assert_non_null(kt_http_submit(owner->http, &owner->request));
	run(owner);
	assert_int_equal(owner->answer.curl_code, 0);
	assert_int_equal(owner->asked, 1);
	assert_false(owner->answer.reused);
	/* and what comes after it, perhaps with its handle, is ordinary again */
	ask(owner, &answer);
	assert_int_equal(answer.curl_code, 0);
	assert_int_equal(answer.body_len, 5);
	assert_null(answer.content_type);
	assert_int_equal(owner->len, 5);
	/* the first one's connection was kept for the third; the download had one of its own */
	assert_true(answer.reused);
	assert_int_equal(atomic_load(&server->connections), 2);
	forget(owner);
	stop_server(server);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_body_is_handed_on_whole),
		cmocka_unit_test(nothing_is_taken_of_what_cannot_be_whole_or_is_no_body_of_200),
		cmocka_unit_test(a_body_that_breaks_off_is_an_error),
		cmocka_unit_test(a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not),
		cmocka_unit_test(a_sink_that_waits_gets_every_byte_once_and_in_order),
		cmocka_unit_test(a_waiting_download_ends_by_its_time_out),
		cmocka_unit_test(an_abort_of_a_waiting_download_is_clean),
		cmocka_unit_test(a_sink_that_stops_ends_it),
		cmocka_unit_test(an_address_that_is_not_allowed_is_not_connected_to),
		cmocka_unit_test(a_download_shares_no_connection_with_other_requests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
