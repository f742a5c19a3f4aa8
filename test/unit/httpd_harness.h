/*
 * A real HTTP server and its clients on loopback, in one thread: a turn waits for any of them, gives the server
 * a step and reads what has come for the clients. So a test sees one order of events, and waits for conditions
 * with UNTIL(); a condition that does not come is ended by the alarm of begin_server().
 */
#ifndef KT_HTTPD_HARNESS_H
#define KT_HTTPD_HARNESS_H

#include "unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "httpd.h"

/* A test that hangs is a failed test; under valgrind everything takes its time. */
#define TEST_SECONDS 60

#define MS 1000

/* The head of a request whose body has two bytes. */
#define BODY_2 "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nContent-Length: 2\r\n\r\n"

#define MAX_CLIENTS 128
#define MAX_DELIVERIES 256

typedef struct Client
{
	int fd;
	gnutls_session_t tls;
	gnutls_certificate_credentials_t credentials;
	KtBuf got;
	bool ended; /* the server has closed, or the connection is broken */
} Client;

/* What a test may look at. */
static struct
{
	KtHttpd *httpd;
	int socket;
	uint16_t port;
	uint64_t steps;

	int answer;    /* what deliveries are answered at once; 0: they are held */
	int total;     /* deliveries */
	KtBuf *bodies; /* of them, MAX_DELIVERIES */
	KtHttpdDelivery *held[MAX_DELIVERIES];
	int nheld;
	struct sockaddr_storage last_client;
} server;

static Client *clients[MAX_CLIENTS];
static int nclients;

/* ---- the server ------------------------------------------------------------------------------------- */

static inline int
listen_on_loopback(uint16_t *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 511), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *) &address, &len), 0);
	*port = ntohs(address.sin_port);
	return fd;
}

static const char *const default_tokens[] = {"secret", "second"};

static inline KtHttpdOptions
default_options(void)
{
	return (KtHttpdOptions){.path = "/webhook",
	                        .tokens = default_tokens,
	                        .ntokens = 2,
	                        .max_body = 1000,
	                        .max_connections = 100,
	                        .header_us = 60000000,
	                        .body_us = 60000000,
	                        .idle_us = 60000000};
}

static inline void
begin_server(const KtHttpdOptions *options)
{
	char error[256] = "";

	signal(SIGPIPE, SIG_IGN);
	alarm(TEST_SECONDS);
	memset(&server, 0, sizeof(server));
	server.bodies = calloc(MAX_DELIVERIES, sizeof(KtBuf));
	server.socket = listen_on_loopback(&server.port);
	server.answer = 200;
	server.httpd = kt_httpd_create(options, &server.socket, 1, error, sizeof(error));
	if (server.httpd == NULL)
		fail_msg("%s", error);
}

static inline void
forget_client(Client *client)
{
	int i;

	if (client->tls != NULL)
	{
		gnutls_deinit(client->tls);
		gnutls_certificate_free_credentials(client->credentials);
	}
	if (client->fd >= 0)
		close(client->fd);
	kt_buf_free(&client->got);
	for (i = 0; clients[i] != client; i++)
		;
	clients[i] = clients[--nclients];
	free(client);
}

static inline void
end_server(void)
{
	int i;

	while (nclients > 0)
		forget_client(clients[0]);
	if (server.httpd != NULL)
		kt_httpd_destroy(server.httpd);
	close(server.socket);
	for (i = 0; i < MAX_DELIVERIES; i++)
		kt_buf_free(&server.bodies[i]);
	free(server.bodies);
	alarm(0);
}

static inline void
take_deliveries(void)
{
	KtHttpdDelivery *delivery;

	while ((delivery = kt_httpd_take(server.httpd)) != NULL)
	{
		KtBuf *body = &server.bodies[server.total];

		assert_true(server.total < MAX_DELIVERIES);
		kt_buf_init(body, 64 * 1024 * 1024);
		if (delivery->len <= 1000000) /* larger ones are counted only */
			kt_buf_append(body, delivery->body, delivery->len);
		server.total++;
		server.last_client = delivery->client;
		if (server.answer != 0)
			kt_httpd_answer(server.httpd, delivery, server.answer, NULL);
		else
			server.held[server.nheld++] = delivery;
	}
}

/* ---- turns ------------------------------------------------------------------------------------------- */

static inline void
read_client(Client *client)
{
	char bytes[4096];
	ssize_t n;

	do
	{
		n = client->tls != NULL ? gnutls_record_recv(client->tls, bytes, sizeof(bytes))
		                        : recv(client->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		if (n > 0)
			kt_buf_append(&client->got, bytes, (size_t) n);
	} while (n > 0);
	if (client->tls != NULL)
		client->ended = n == 0 || gnutls_error_is_fatal((int) n);
	else
		client->ended = n == 0 || (errno != EAGAIN && errno != EINTR);
}

static inline int
milliseconds_left(int max_ms)
{
	int64_t deadline = kt_httpd_deadline(server.httpd);
	int64_t left = deadline - kt_httpd_now();

	if (deadline < 0 || left / 1000 >= max_ms)
		return max_ms;
	return left <= 0 ? 0 : (int) (left / 1000) + 1;
}

/* True when anything happened within that time. */
static inline bool
turn(int max_ms)
{
	struct pollfd fds[MAX_CLIENTS + 1];
	Client *polled[MAX_CLIENTS];
	int timeout = milliseconds_left(max_ms);
	bool due;
	int n = 0;
	int ready;
	int i;

	fds[MAX_CLIENTS] = (struct pollfd){.fd = -1};
	for (i = 0; i < nclients; i++)
	{
		if (clients[i]->ended)
			continue;
		polled[n] = clients[i];
		fds[n++] = (struct pollfd){.fd = clients[i]->fd, .events = POLLIN};
	}
	fds[n] = (struct pollfd){.fd = kt_httpd_fd(server.httpd), .events = POLLIN};
	ready = poll(fds, (nfds_t) n + 1, timeout);
	due = milliseconds_left(1) == 0;
	if (fds[n].revents != 0 || due)
	{
		kt_httpd_step(server.httpd);
		server.steps++;
		take_deliveries();
	}
	for (i = 0; i < n; i++)
	{
		if (fds[i].revents != 0)
			read_client(polled[i]);
	}
	return ready > 0 || due;
}

#define UNTIL(condition) \
	while (!(condition)) \
	turn(1000)

/* Lets happen what can happen without a byte more or time going by. */
static inline void
settle(void)
{
	while (turn(0))
		;
}

/* Lets so much time go by, with all that happens in it. Returns how many steps the server was woken for. */
static inline uint64_t
let_pass(int64_t us)
{
	int64_t end = kt_httpd_now() + us;
	uint64_t before = server.steps;
	int64_t left;

	while ((left = end - kt_httpd_now()) > 0)
		turn((int) (left / MS) + 1);
	return server.steps - before;
}

/* ---- clients ------------------------------------------------------------------------------------------- */

/* Connects from an address of 127/8, or from the kernel's choice. Does not wait to be accepted. */
static inline Client *
connect_from(const char *from)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	Client *client = calloc(1, sizeof(Client));

	assert_non_null(client);
	assert_true(nclients < MAX_CLIENTS);
	kt_buf_init(&client->got, 1000000);
	client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(client->fd >= 0);
	if (from != NULL)
	{
		assert_int_equal(inet_pton(AF_INET, from, &address.sin_addr), 1);
		assert_int_equal(bind(client->fd, (struct sockaddr *) &address, sizeof(address)), 0);
	}
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons(server.port);
	assert_int_equal(connect(client->fd, (struct sockaddr *) &address, sizeof(address)), 0);
	fcntl(client->fd, F_SETFL, O_NONBLOCK);
	clients[nclients++] = client;
	return client;
}

static inline Client *
connect_plain(void)
{
	return connect_from(NULL);
}

/* SSLKEYLOGFILE is for the server to ignore, so the client must not write the file either. */
static inline int
keep_no_log(gnutls_session_t session, const char *label, const gnutls_datum_t *secret)
{
	(void) session;
	(void) label;
	(void) secret;
	return 0;
}

/* Begins TLS; priority NULL is GnuTLS's own. True when the handshake ended well. */
static inline bool
begin_tls(Client *client, const char *priority)
{
	int result;

	gnutls_certificate_allocate_credentials(&client->credentials);
	gnutls_init(&client->tls, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
	gnutls_priority_set_direct(client->tls, priority != NULL ? priority : "NORMAL", NULL);
	gnutls_credentials_set(client->tls, GNUTLS_CRD_CERTIFICATE, client->credentials);
	gnutls_transport_set_int(client->tls, client->fd);
	gnutls_session_set_keylog_function(client->tls, keep_no_log);
	client->ended = true; /* keeps turns off it */
	while ((result = gnutls_handshake(client->tls)) < 0 && !gnutls_error_is_fatal(result))
		turn(10);
	client->ended = result < 0;
	return result >= 0;
}

static inline Client *
connect_tls(void)
{
	Client *client = connect_plain();

	assert_true(begin_tls(client, NULL));
	return client;
}

/* Sends as much as the server lets through. False when it has closed the connection. */
static inline bool
send_bytes(Client *client, const char *bytes, size_t len)
{
	while (len > 0)
	{
		ssize_t n = client->tls != NULL ? gnutls_record_send(client->tls, bytes, len)
		                                : send(client->fd, bytes, len, MSG_NOSIGNAL);

		if (n > 0)
		{
			bytes += n;
			len -= (size_t) n;
		}
		else if (client->tls != NULL ? gnutls_error_is_fatal((int) n) : errno != EAGAIN)
			return false;
		else
			turn(10);
	}
	return true;
}

static inline bool
say(Client *client, const char *text)
{
	return send_bytes(client, text, strlen(text));
}

static inline void
post(Client *client, const char *body)
{
	char head[128];

	snprintf(head, sizeof(head),
	         "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nContent-Length: %zu\r\n\r\n",
	         strlen(body));
	say(client, head);
	say(client, body);
}

/*
 * Reads the answers in what came: statuses to *statuses, at most max. Returns how many are whole; *rest, unless
 * NULL, is what follows them, and *closes is whether the last one says so.
 */
static inline int
read_answers(const Client *client, int *statuses, int max, const char **rest, bool *closes)
{
	const char *at = client->got.data != NULL ? client->got.data : "";
	int n = 0;

	for (;;)
	{
		const char *end = strstr(at, "\r\n\r\n");
		const char *length = strcasestr(at, "\r\nContent-Length: ");
		size_t body = 0;

		if (rest != NULL)
			*rest = at;
		if (end == NULL || n == max || strncmp(at, "HTTP/1.", 7) != 0)
			return n;
		statuses[n] = atoi(at + 9);
		if (length != NULL && length < end)
			body = (size_t) atol(length + 18);
		if (strlen(end + 4) < body)
			return n;
		if (closes != NULL)
		{
			const char *close_line = strcasestr(at, "\r\nConnection: close\r\n");

			*closes = close_line != NULL && close_line < end + 2;
		}
		at = end + 4 + body;
		n++;
	}
}

static inline int
count_answers(const Client *client)
{
	int statuses[256];

	return read_answers(client, statuses, 256, NULL, NULL);
}

/* The last answer's status, 0: none came. */
static inline int
last_answer(const Client *client)
{
	int statuses[256];
	int n = read_answers(client, statuses, 256, NULL, NULL);

	return n > 0 ? statuses[n - 1] : 0;
}

static inline KtHttpdCounters
counters(void)
{
	KtHttpdCounters now;

	kt_httpd_counters(server.httpd, &now);
	return now;
}

/* ---- certificates ---------------------------------------------------------------------------------------- */

typedef struct Pair
{
	char cert[4096];
	char key[4096];
} Pair;

/* A self-signed certificate that ends then. */
static inline void
make_pair(Pair *pair, const char *name, time_t end)
{
	gnutls_x509_privkey_t key;
	gnutls_x509_crt_t cert;
	size_t size = sizeof(pair->cert) - 1;
	unsigned char serial[1] = {1};

	memset(pair, 0, sizeof(*pair));
	assert_int_equal(gnutls_x509_privkey_init(&key), 0);
	assert_int_equal(gnutls_x509_privkey_generate(
						 key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
	                 0);
	assert_int_equal(gnutls_x509_crt_init(&cert), 0);
	gnutls_x509_crt_set_version(cert, 3);
	gnutls_x509_crt_set_serial(cert, serial, sizeof(serial));
	gnutls_x509_crt_set_activation_time(cert, end - 1000000);
	gnutls_x509_crt_set_expiration_time(cert, end);
	gnutls_x509_crt_set_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0, name,
	                              (unsigned int) strlen(name));
	gnutls_x509_crt_set_key(cert, key);
	assert_int_equal(gnutls_x509_crt_sign2(cert, cert, key, GNUTLS_DIG_SHA256, 0), 0);
	assert_int_equal(gnutls_x509_crt_export(cert, GNUTLS_X509_FMT_PEM, pair->cert, &size), 0);
	size = sizeof(pair->key) - 1;
	assert_int_equal(gnutls_x509_privkey_export(key, GNUTLS_X509_FMT_PEM, pair->key, &size), 0);
	gnutls_x509_crt_deinit(cert);
	gnutls_x509_privkey_deinit(key);
}

static inline KtHttpdOptions
tls_options(const Pair *pair)
{
	KtHttpdOptions options = default_options();

	options.tls_cert = pair->cert;
	options.tls_key = pair->key;
	return options;
}

/* Collects a client's first flight instead of sending it. */
static inline ssize_t
collect(gnutls_transport_ptr_t ptr, const void *bytes, size_t len)
{
	kt_buf_append(ptr, bytes, len);
	return (ssize_t) len;
}

static inline ssize_t
receive_nothing(gnutls_transport_ptr_t ptr, void *bytes, size_t len)
{
	(void) ptr;
	(void) bytes;
	(void) len;
	errno = EAGAIN;
	return -1;
}

/* Sends TLS's first message, and goes no further. */
static inline void
say_hello(Client *client)
{
	gnutls_certificate_credentials_t credentials;
	gnutls_session_t session;
	KtBuf hello;

	kt_buf_init(&hello, 10000);
	gnutls_certificate_allocate_credentials(&credentials);
	gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NONBLOCK);
	gnutls_set_default_priority(session);
	gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
	gnutls_transport_set_ptr(session, &hello);
	gnutls_transport_set_push_function(session, collect);
	gnutls_transport_set_pull_function(session, receive_nothing);
	assert_int_equal(gnutls_handshake(session), GNUTLS_E_AGAIN);
	gnutls_deinit(session);
	gnutls_certificate_free_credentials(credentials);
	send_bytes(client, hello.data, hello.len);
	kt_buf_free(&hello);
}

#endif /* KT_HTTPD_HARNESS_H */
