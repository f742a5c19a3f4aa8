/*
 * The HTTP client against servers that misbehave: what reaches them, what is made of their answers, and that
 * neither a step nor an abort ever waits.
 *
 * A server here is a thread with a raw listening socket that serves one connection after the other by a
 * script of its test. The process is given a hostile environment (proxies, netrc, SSLKEYLOGFILE) before
 * anything else, so that every test also shows that it has no effect. Names are resolved by this
 * program's own getaddrinfo(), and connect() is watched: no packet may leave the machine.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "unit.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "http.h"
#include "limits.h"

/* A test that hangs is a failed test; under valgrind everything takes its time. */
#define TEST_SECONDS 40

/* How long the operations last that an abort or a step must not wait for, and how long it may take. */
#define STUCK_MS 6000
#define PROMPT_US 1000000

#define OK_ANSWER "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

/* ---- what the process does behind libcurl's back: resolving and connecting -------------------------------- */

static pthread_mutex_t resolver_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t resolver_wake = PTHREAD_COND_INITIALIZER;
static bool resolver_released;
static atomic_int resolver_inside;
static atomic_int resolver_threads;
static atomic_int signals_open_in_resolver; /* in threads that are not the test's own */
static pthread_t main_thread;

static atomic_int connects_elsewhere; /* connect() to an address that is not loopback */

static int
count_open_signals(void)
{
	sigset_t mask;
	int open_signals = 0;
	int sig;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	for (sig = 1; sig < NSIG; sig++)
		if (sig != SIGKILL && sig != SIGSTOP && sig != 32 && sig != 33 && !sigismember(&mask, sig))
			open_signals++;
	return open_signals;
}

static void
stick_until_released(void)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += STUCK_MS / 1000;
	pthread_mutex_lock(&resolver_lock);
	while (!resolver_released)
		if (pthread_cond_timedwait(&resolver_wake, &resolver_lock, &end) != 0)
			break;
	pthread_mutex_unlock(&resolver_lock);
}

/* libcurl.so finds this one before libc's. */
int
getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
            struct addrinfo **result)
{
	int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	const char *address = name;
	int answer;

	*(void **) &real = dlsym(RTLD_NEXT, "getaddrinfo");
	atomic_fetch_add(&resolver_inside, 1);
	if (!pthread_equal(pthread_self(), main_thread))
	{
		atomic_fetch_add(&resolver_threads, 1);
		atomic_fetch_add(&signals_open_in_resolver, count_open_signals());
	}
	if (strcmp(name, "slow.test") == 0)
		stick_until_released();
	if (strcmp(name, "slow.test") == 0 || strcmp(name, "here.test") == 0)
		address = "127.0.0.1";
	else if (strcmp(name, "elsewhere.test") == 0)
		address = "192.0.2.1";
	else if (strcmp(name, "elsewhere6.test") == 0)
		address = "2001:db8::1";
	answer = strstr(name, ".invalid") != NULL ? EAI_NONAME : real(address, service, hints, result);
	atomic_fetch_sub(&resolver_inside, 1);
	return answer;
}

int
connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	int (*real)(int, const struct sockaddr *, socklen_t);

	*(void **) &real = dlsym(RTLD_NEXT, "connect");
	if (addr->sa_family == AF_INET || addr->sa_family == AF_INET6)
	{
		const struct sockaddr_in *in4 = (const struct sockaddr_in *) (const void *) addr;

		if (addr->sa_family == AF_INET6 || ntohl(in4->sin_addr.s_addr) >> 24 != 127)
		{
			atomic_fetch_add(&connects_elsewhere, 1);
			errno = ENETUNREACH;
			return -1;
		}
	}
	return real(fd, addr, len);
}

static void
hold_resolver(void)
{
	resolver_released = false;
}

static void
release_resolver(void)
{
	pthread_mutex_lock(&resolver_lock);
	resolver_released = true;
	pthread_cond_broadcast(&resolver_wake);
	pthread_mutex_unlock(&resolver_lock);
}

/* ---- servers --------------------------------------------------------------------------------------------- */

#define MAX_SEEN 65536

typedef struct Server Server;

/* Serves connection number nth (from 1); the caller closes it. */
typedef void (*Script)(Server *server, int fd, int nth);

struct Server
{
	int listener;
	int port;
	pthread_t thread;
	pthread_mutex_t lock; /* for current: the connection that is served */
	int current;
	Script script;
	const char *text; /* for the script */
	size_t text_len;
	atomic_int connections;
	atomic_int requests;   /* whole ones */
	atomic_bool released;  /* the script may go on */
	atomic_llong received; /* bytes */
	char seen[MAX_SEEN];   /* the last request, whole or not */
};

static bool
send_all(int fd, const char *bytes, size_t len)
{
	while (len > 0)
	{
		ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		bytes += n;
		len -= (size_t) n;
	}
	return true;
}

static bool
send_text(int fd, const char *text)
{
	return send_all(fd, text, strlen(text));
}

/* Bytes a request has in all, 0 while its header is not in. */
static size_t
request_size(const char *bytes)
{
	const char *end = strstr(bytes, "\r\n\r\n");
	const char *length;

	if (end == NULL)
		return 0;
	length = strcasestr(bytes, "\r\nContent-Length:");
	return (size_t) (end - bytes) + 4 +
	       (length != NULL && length < end ? (size_t) atol(length + 17) : 0);
}

/* Reads one request into seen, where it stays until the next one begins; false when the connection ended. */
static bool
read_request(Server *server, int fd)
{
	size_t len = 0;
	size_t size;

	do
	{
		char bytes[4096];
		ssize_t n = recv(fd, bytes, sizeof(bytes), 0);

		if (n <= 0 || len + (size_t) n >= MAX_SEEN)
			return false;
		memcpy(server->seen + len, bytes, (size_t) n);
		len += (size_t) n;
		server->seen[len] = '\0';
		atomic_fetch_add(&server->received, n);
		size = request_size(server->seen);
	} while (size == 0 || len < size);
	atomic_fetch_add(&server->requests, 1);
	return true;
}

/* Waits for the client to close, counting what still comes. */
static void
drain(Server *server, int fd)
{
	char bytes[4096];
	ssize_t n;

	while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
		atomic_fetch_add(&server->received, n);
}

static void
reset_connection(int fd)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

static void *
serve(void *arg)
{
	Server *server = arg;
	int fd;

	while ((fd = accept(server->listener, NULL, NULL)) >= 0)
	{
		int nth = atomic_fetch_add(&server->connections, 1) + 1;

		pthread_mutex_lock(&server->lock);
		server->current = fd;
		pthread_mutex_unlock(&server->lock);
		server->script(server, fd, nth);
		pthread_mutex_lock(&server->lock);
		server->current = -1;
		close(fd);
		pthread_mutex_unlock(&server->lock);
	}
	return NULL;
}

static int
listen_on(struct sockaddr_storage *address, socklen_t len, int backlog, int *port)
{
	int fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *) address, len), 0);
	assert_int_equal(listen(fd, backlog), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *) address, &len), 0);
	*port = ntohs(((struct sockaddr_in *) address)->sin_port);
	return fd;
}

static int
listen_locally(int backlog, int *port)
{
	struct sockaddr_storage address = {0};
	struct sockaddr_in *in4 = (struct sockaddr_in *) &address;

	in4->sin_family = AF_INET;
	in4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return listen_on(&address, sizeof(*in4), backlog, port);
}

static Server *
start(Script script)
{
	Server *server = calloc(1, sizeof(Server));

	assert_non_null(server);
	server->script = script;
	server->current = -1;
	pthread_mutex_init(&server->lock, NULL);
	server->listener = listen_locally(1024, &server->port);
	assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
	return server;
}

static Server *
start_with_text(Script script, const char *text)
{
	Server *server = start(script);

	server->text = text;
	server->text_len = strlen(text);
	return server;
}

/* Returns how many requests it got, when nothing more can come. */
static int
stop(Server *server)
{
	int requests;

	atomic_store(&server->released, true);
	shutdown(server->listener, SHUT_RDWR);
	pthread_mutex_lock(&server->lock);
	if (server->current >= 0)
		shutdown(server->current, SHUT_RDWR);
	pthread_mutex_unlock(&server->lock);
	pthread_join(server->thread, NULL);
	close(server->listener);
	requests = atomic_load(&server->requests);
	free(server);
	return requests;
}

/* The scripts that more than one test uses. */

/* Answers every request with the text, if there is one. */
static void
answer_all(Server *server, int fd, int nth)
{
	(void) nth;
	while (read_request(server, fd))
		if (!send_all(fd, server->text != NULL ? server->text : OK_ANSWER,
		              server->text != NULL ? server->text_len : strlen(OK_ANSWER)))
			return;
}

static void
answer_once(Server *server, int fd, int nth)
{
	(void) nth;
	if (read_request(server, fd))
		send_text(fd, server->text);
}

/* Takes the request and says nothing. */
static void
hang(Server *server, int fd, int nth)
{
	(void) nth;
	if (read_request(server, fd))
		drain(server, fd);
}

/* Takes the connection and reads whatever comes: a TLS server that never answers a ClientHello. */
static void
stall(Server *server, int fd, int nth)
{
	(void) nth;
	drain(server, fd);
}

/* Half an answer, then silence. */
static void
answer_half(Server *server, int fd, int nth)
{
	(void) nth;
	if (read_request(server, fd) &&
	    send_text(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"succ"))
		drain(server, fd);
}

/* ---- the client ------------------------------------------------------------------------------------------- */

/* An answer that outlives its transfer. */
typedef struct Result
{
	KtHttpAnswer answer;
	char error[512];
	char *body;
} Result;

typedef struct Client
{
	KtHttp *http;
	KtHttpRequest request;
	char url[256];
	const char *headers[4];
	int64_t longest_step; /* microseconds */
} Client;

static const char body_text[] = "{\"toNumber\":\"+4930123\"}";

static Client *
client_for(const char *scheme, const char *host, int port)
{
	Client *client = calloc(1, sizeof(Client));

	assert_non_null(client);
	client->http = kt_http_create(4);
	assert_non_null(client->http);
	snprintf(client->url, sizeof(client->url), "%s://%s:%d/api/create-call", scheme, host, port);
	client->headers[0] = "x-api-key: secret";
	client->headers[1] = "Content-Type: application/json";
	client->request.url = client->url;
	client->request.headers = client->headers;
	client->request.body = body_text;
	client->request.body_len = sizeof(body_text) - 1;
	client->request.max_answer = 65536;
	client->request.connect_timeout_ms = 20000;
	client->request.request_timeout_ms = 30000;
	client->request.user_agent = "kridtech/test";
	client->request.loopback_only = true;
	client->request.owner = client;
	return client;
}

static Client *
client_of(const Server *server)
{
	return client_for("http", "127.0.0.1", server->port);
}

static void
client_free(Client *client)
{
	kt_http_destroy(client->http);
	free(client);
}

static void
step(Client *client)
{
	int64_t began = kt_http_now();
	int64_t took;

	kt_http_step(client->http);
	took = kt_http_now() - began;
	if (took > client->longest_step)
		client->longest_step = took;
}

/* Waits as an owner does: for the fd or the deadline, at most so many milliseconds. */
static void
wait_for_work(Client *client, int max_ms)
{
	struct pollfd pollfd = {.fd = kt_http_fd(client->http), .events = POLLIN};
	int64_t deadline = kt_http_deadline(client->http);
	int64_t left_ms = deadline < 0 ? max_ms : (deadline - kt_http_now() + 999) / 1000;

	if (left_ms > max_ms)
		left_ms = max_ms;
	poll(&pollfd, 1, left_ms > 0 ? (int) left_ms : 0);
}

static KtHttpTransfer *
submit(Client *client)
{
	KtHttpTransfer *transfer = kt_http_submit(client->http, &client->request);

	assert_non_null(transfer);
	return transfer;
}

static KtHttpTransfer *
finish(Client *client, KtHttpAnswer *answer)
{
	int64_t end = kt_http_now() + TEST_SECONDS * 1000000LL;
	KtHttpTransfer *transfer;

	for (;;)
	{
		step(client);
		transfer = kt_http_reap(client->http, answer);
		if (transfer != NULL)
			return transfer;
		assert_true(kt_http_now() < end);
		wait_for_work(client, 1000);
	}
}

static void
perform(Client *client, Result *result)
{
	KtHttpTransfer *sent = submit(client);
	KtHttpTransfer *done = finish(client, &result->answer);

	assert_ptr_equal(sent, done);
	assert_ptr_equal(result->answer.owner, client);
	assert_non_null(result->answer.body);
	result->body = exact_copy(result->answer.body, result->answer.body_len + 1);
	snprintf(result->error, sizeof(result->error), "%s",
	         result->answer.error != NULL ? result->answer.error : "");
	kt_http_release(client->http, done);
	assert_int_equal(kt_http_active(client->http), 0);
}

/* One request to a server that answers with a text; the answer's figures only. */
static KtHttpAnswer
answer_to_text(const char *text)
{
	Server *server = start_with_text(answer_once, text);
	Client *client = client_of(server);
	Result result;

	perform(client, &result);
	free(result.body);
	client_free(client);
	stop(server);
	result.answer.body = NULL;
	return result.answer;
}

/* Steps until a condition holds. */
#define STEP_UNTIL(client, condition)                                \
	do                                                               \
	{                                                                \
		int64_t step_end = kt_http_now() + TEST_SECONDS * 1000000LL; \
		while (!(condition))                                         \
		{                                                            \
			assert_true(kt_http_now() < step_end);                   \
			step(client);                                            \
			if (!(condition))                                        \
				wait_for_work(client, 5);                            \
		}                                                            \
	} while (0)

static bool
under_valgrind(void)
{
	const char *preload = getenv("LD_PRELOAD");

	return preload != NULL && strstr(preload, "vgpreload") != NULL;
}

/* ---- sent once ------------------------------------------------------------------------------------------- */

/* Reading from the connection ends after so long without a byte. */
static void
be_patient_for(int fd, int ms)
{
	struct timeval patience = {.tv_usec = ms * 1000};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

/* Answers the first request; takes the second whole and closes. A third would be a phone that rings twice. */
static void
die_on_second_request(Server *server, int fd, int nth)
{
	if (nth > 1)
	{
		answer_all(server, fd, nth);
		return;
	}
	if (!read_request(server, fd) || !send_text(fd, OK_ANSWER))
		return;
	be_patient_for(fd, 500);
	if (read_request(server, fd) && server->text != NULL)
		reset_connection(fd);
}

static void
second_request_of(const char *reset, const char *body, Result *second)
{
	Server *server = start(die_on_second_request);
	Client *client = client_of(server);
	Result first;

	server->text = reset;
	client->request.body = body;
	perform(client, &first);
	assert_int_equal(first.answer.curl_code, 0);
	assert_false(first.answer.reused);
	perform(client, second);
	if (body != NULL)
	{
		/* libcurl may open another connection, on which it then finds that it cannot send */
		assert_int_equal(atomic_load(&server->requests), 2);
		assert_int_equal(atomic_load(&server->received), 2 * (long long) strlen(server->seen));
	}
	free(first.body);
	client_free(client);
	stop(server);
}

static void
a_post_on_a_reused_connection_that_dies_is_not_sent_again(void **state)
{
	static const char *const ends[] = {NULL, "reset"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(ends); i++)
	{
		Result second;

		second_request_of(ends[i], body_text, &second);
		assert_int_not_equal(second.answer.curl_code, 0);
		assert_true(second.answer.bytes_sent > 0);
		assert_int_equal(second.answer.status, 0);
		free(second.body);
	}
}

/* Answers the first request; resets the connection as soon as the second one's first bytes come. */
static void
reset_at_second_head(Server *server, int fd, int nth)
{
	char bytes[64];

	if (nth > 1)
	{
		answer_all(server, fd, nth);
		return;
	}
	if (!read_request(server, fd) || !send_text(fd, OK_ANSWER))
		return;
	reset_connection(fd);
	(void) recv(fd, bytes, sizeof(bytes), 0);
}

/*
 * When nothing of the body has left yet there is nothing to rewind, and libcurl repeats the POST. What has
 * left is then no proof any more, so it must not. A large body is what libcurl sends apart from the head.
 */
static void
a_post_whose_reused_connection_dies_after_its_head_is_not_sent_again(void **state)
{
	static char large[60000];
	int i;

	(void) state;
	memset(large, 'x', sizeof(large));
	for (i = 0; i < 20; i++)
	{
		Server *server = start(reset_at_second_head);
		Client *client = client_of(server);
		Result result;

		perform(client, &result);
		free(result.body);
		client->request.body = large;
		client->request.body_len = sizeof(large);
		perform(client, &result);
		assert_int_not_equal(result.answer.curl_code, 0);
		assert_true(result.answer.bytes_sent > 0);
		assert_int_equal(atomic_load(&server->requests), 1);
		free(result.body);
		client_free(client);
		stop(server);
	}
}

/* Resets a connection while its descriptor stays open. */
static void
break_connection(int fd)
{
	struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

	reset_connection(fd);
	(void) connect(fd, &nowhere, sizeof(nowhere));
}

/*
 * Answers a request on each of two connections, then takes one more whole, on either of them, and ends that
 * connection, as the text says, without an answer. What comes then on the other one it takes.
 */
static void
die_beside_another(Server *server, int fd, int nth)
{
	struct pollfd polls[2] = {{.fd = fd, .events = POLLIN}, {.events = POLLIN}};
	int dying;
	int i;

	if (nth > 1)
	{
		answer_all(server, fd, nth);
		return;
	}
	polls[1].fd = accept(server->listener, NULL, NULL);
	for (i = 0; i < 2; i++)
		if (!read_request(server, polls[i].fd) || !send_text(polls[i].fd, OK_ANSWER))
			return;
	if (poll(polls, 2, TEST_SECONDS * 1000) < 1)
		return;
	dying = polls[0].revents != 0 ? 0 : 1;
	(void) read_request(server, polls[dying].fd);
	if (server->text != NULL)
		break_connection(polls[dying].fd);
	else
		shutdown(polls[dying].fd, SHUT_RDWR);
	be_patient_for(polls[1 - dying].fd, 500);
	if (read_request(server, polls[1 - dying].fd))
		send_text(polls[1 - dying].fd, OK_ANSWER);
	close(polls[1].fd);
}

/* libcurl has another connection at hand, for which it need not ask for a socket. */
static void
a_post_is_not_sent_again_on_another_kept_connection(void **state)
{
	static char large[60000];
	int i;

	(void) state;
	memset(large, 'x', sizeof(large));
	for (i = 0; i < 4; i++)
	{
		Server *server = start_with_text(die_beside_another, "reset");
		Client *client = client_of(server);
		KtHttpAnswer answer;
		Result result;

		if (i % 2 == 0)
			server->text = NULL;
		submit(client);
		submit(client);
		kt_http_release(client->http, finish(client, &answer));
		kt_http_release(client->http, finish(client, &answer));
		assert_int_equal(atomic_load(&server->requests), 2);
		if (i >= 2)
		{
			client->request.body = large;
			client->request.body_len = sizeof(large);
		}
		perform(client, &result);
		assert_int_not_equal(result.answer.curl_code, 0);
		assert_true(result.answer.bytes_sent > 0);
		free(result.body);
		client_free(client);
		assert_int_equal(stop(server), 3);
	}
}

static void
an_empty_post_is_not_sent_again_either(void **state)
{
	Result second;
	Client *client;
	Server *server = start(die_on_second_request);

	(void) state;
	client = client_of(server);
	client->request.body = "";
	client->request.body_len = 0;
	perform(client, &second);
	free(second.body);
	perform(client, &second);
	assert_int_equal(atomic_load(&server->requests), 2);
	free(second.body);
	client_free(client);
	stop(server);
}

static void
a_get_on_a_reused_connection_that_dies_is_repeated_by_libcurl(void **state)
{
	Result second;

	(void) state;
	second_request_of(NULL, NULL, &second);
	assert_int_equal(second.answer.curl_code, 0);
	free(second.body);
}

/* Closes after the first answer, which promised to keep the connection. */
static void
close_after_answer(Server *server, int fd, int nth)
{
	(void) nth;
	if (read_request(server, fd))
		send_text(fd, OK_ANSWER);
}

static void
a_connection_that_was_closed_while_idle_is_replaced(void **state)
{
	Server *server = start(close_after_answer);
	Client *client = client_of(server);
	Result result;
	int i;

	(void) state;
	for (i = 1; i <= 3; i++)
	{
		perform(client, &result);
		assert_int_equal(result.answer.curl_code, 0);
		assert_false(result.answer.reused);
		free(result.body);
		/* the close has arrived when the next connection can be counted on */
		usleep(50000);
	}
	assert_int_equal(atomic_load(&server->requests), 3);
	assert_int_equal(atomic_load(&server->connections), 3);
	client_free(client);
	stop(server);
}

static void
a_connection_is_kept_and_said_to_be_reused(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	Result result;
	int i;

	(void) state;
	for (i = 0; i < 5; i++)
	{
		perform(client, &result);
		assert_int_equal(result.answer.curl_code, 0);
		assert_int_equal(result.answer.reused, i > 0);
		free(result.body);
	}
	assert_int_equal(atomic_load(&server->connections), 1);
	assert_int_equal(atomic_load(&server->requests), 5);
	client_free(client);
	stop(server);
}

/* ---- bytes_sent: the proof that nothing left ---------------------------------------------------------------- */

static void
expect_failure(Client *client, bool sent)
{
	Result result;

	perform(client, &result);
	assert_int_not_equal(result.answer.curl_code, 0);
	if (sent)
		assert_true(result.answer.bytes_sent > 0);
	else
		assert_int_equal(result.answer.bytes_sent, 0);
	assert_true(result.error[0] != '\0');
	assert_null(strstr(result.error, "secret"));
	assert_null(strstr(result.error, "4930123"));
	free(result.body);
}

static void
nothing_was_sent_to_a_closed_port(void **state)
{
	Client *client;
	int port;
	int fd = listen_locally(1, &port);

	(void) state;
	close(fd);
	client = client_for("http", "127.0.0.1", port);
	expect_failure(client, false);
	client_free(client);
}

static void
nothing_was_sent_to_a_name_that_does_not_exist(void **state)
{
	Client *client = client_for("http", "nowhere.invalid", 80);

	(void) state;
	expect_failure(client, false);
	client_free(client);
}

static void
nothing_was_sent_to_a_url_that_is_none(void **state)
{
	static const char *const urls[] = {"http://",
	                                   "http://127.0.0.1:99999/",
	                                   "ftp://127.0.0.1/",
	                                   "file:///etc/passwd",
	                                   "gopher://127.0.0.1/x",
	                                   "http://a b/"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(urls); i++)
	{
		Client *client = client_for("http", "127.0.0.1", 1);

		client->request.url = urls[i];
		expect_failure(client, false);
		client_free(client);
	}
}

/* Answers a ClientHello with plain HTTP. */
static void
speak_plainly(Server *server, int fd, int nth)
{
	char hello[1024];
	ssize_t n = recv(fd, hello, sizeof(hello), 0);

	(void) nth;
	if (n > 0)
		atomic_fetch_add(&server->received, n);
	send_text(fd, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
}

/* Closes in the middle of the handshake. */
static void
hang_up_on_hello(Server *server, int fd, int nth)
{
	char hello[16];

	(void) nth;
	(void) server;
	if (recv(fd, hello, sizeof(hello), 0) > 0)
		reset_connection(fd);
}

static void
nothing_was_sent_when_tls_fails(void **state)
{
	static const Script scripts[] = {speak_plainly, hang_up_on_hello};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(scripts); i++)
	{
		Server *server = start(scripts[i]);
		Client *client = client_for("https", "127.0.0.1", server->port);

		expect_failure(client, false);
		client_free(client);
		stop(server);
	}
}

/* A failure on a handle and a connection that served before: no figure of that time may remain. */
static void
nothing_was_sent_is_said_after_an_earlier_success_too(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	Result result;

	(void) state;
	perform(client, &result);
	assert_true(result.answer.bytes_sent > 0);
	free(result.body);
	client->request.url = "http://nowhere.invalid/";
	perform(client, &result);
	assert_int_not_equal(result.answer.curl_code, 0);
	assert_int_equal(result.answer.bytes_sent, 0);
	assert_int_equal(result.answer.status, 0);
	assert_int_equal(result.answer.body_len, 0);
	assert_false(result.answer.reused);
	free(result.body);
	client_free(client);
	stop(server);
}

/* Reads the request and resets or closes, as the text says, after some of an answer. */
static void
break_off(Server *server, int fd, int nth)
{
	(void) nth;
	if (!read_request(server, fd))
		return;
	send_text(fd, server->text + 1);
	if (server->text[0] == 'R')
		reset_connection(fd);
}

static void
something_was_sent_when_an_answer_breaks_off(void **state)
{
	static const char *const texts[] = {
		"R",
		"C",
		"CHTTP/1.1 200 OK\r\nContent-Len",
		"CHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
		"RHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
		"CHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
		"CHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
		"CHTTP/1.1 100 Continue\r\n\r\n",
		"Cthese are no header lines at all\r\n\r\n",
		"C{\"success\":true,\"callId\":\"an answer of HTTP/0.9\"}",
		"CHTTP/1.1 9999999999999999999999 OK\r\n\r\n",
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(texts); i++)
	{
		Server *server = start_with_text(break_off, texts[i]);
		Client *client = client_of(server);

		expect_failure(client, true);
		assert_int_equal(atomic_load(&server->requests), 1);
		client_free(client);
		stop(server);
	}
}

/* ---- what goes out ------------------------------------------------------------------------------------------ */

static int
compare_lines(const void *a, const void *b)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* The header lines after the first, sorted and joined by '|': their order is libcurl's business. */
static void
sorted_headers(const char *request, char *out, size_t size)
{
	char *copy = strdup(request);
	char *lines[32];
	size_t n = 0;
	size_t i;
	char *line;
	char *end = strstr(copy, "\r\n\r\n");

	assert_non_null(end);
	end[2] = '\0';
	line = strstr(copy, "\r\n") + 2;
	while (*line != '\0')
	{
		char *eol = strstr(line, "\r\n");

		*eol = '\0';
		assert_true(n < lengthof(lines));
		lines[n++] = line;
		line = eol + 2;
	}
	qsort(lines, n, sizeof(lines[0]), compare_lines);
	out[0] = '\0';
	for (i = 0; i < n; i++)
		snprintf(out + strlen(out), size - strlen(out), "%s|", lines[i]);
	free(copy);
}

static void
a_post_is_sent_with_exactly_these_bytes(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	char expected[512];
	char headers[1024];
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_equal(strncmp(server->seen, BYTES("POST /api/create-call HTTP/1.1\r\n")), 0);
	sorted_headers(server->seen, headers, sizeof(headers));
	snprintf(expected, sizeof(expected),
	         "Content-Length: %zu|Content-Type: application/json|Host: 127.0.0.1:%d|"
	         "User-Agent: kridtech/test|x-api-key: secret|",
	         sizeof(body_text) - 1, server->port);
	assert_string_equal(headers, expected);
	assert_string_equal(strstr(server->seen, "\r\n\r\n") + 4, body_text);
	free(result.body);
	client_free(client);
	stop(server);
}

static void
a_get_is_sent_with_exactly_these_bytes(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	char expected[512];
	char headers[1024];
	Result result;

	(void) state;
	client->request.body = NULL;
	client->headers[1] = NULL;
	perform(client, &result);
	assert_int_equal(strncmp(server->seen, BYTES("GET /api/create-call HTTP/1.1\r\n")), 0);
	sorted_headers(server->seen, headers, sizeof(headers));
	snprintf(expected, sizeof(expected),
	         "Host: 127.0.0.1:%d|User-Agent: kridtech/test|x-api-key: secret|", server->port);
	assert_string_equal(headers, expected);
	free(result.body);
	client_free(client);
	stop(server);
}

/* libcurl asks for Expect: 100-continue from 1 MB on. */
static void
a_large_body_goes_out_whole_and_without_expect(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	size_t len = MAX_SEEN - 1024;
	char *body = malloc(len + 1);
	Result result;

	(void) state;
	memset(body, 'x', len);
	body[len] = '\0';
	body[len - 1] = '!';
	client->request.body = body;
	client->request.body_len = len;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_null(strcasestr(server->seen, "Expect:"));
	assert_string_equal(strstr(server->seen, "\r\n\r\n") + 4, body);
	free(body);
	free(result.body);
	client_free(client);
	stop(server);
}

static void
a_request_is_copied_when_it_is_submitted(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	char *body = exact_copy(body_text, sizeof(body_text) - 1);
	char *header = exact_copy(BYTES("x-api-key: secret\0"));
	char *url = strdup(client->url);
	char *agent = strdup("kridtech/test");
	KtHttpAnswer answer;

	(void) state;
	client->headers[0] = header;
	client->request.body = body;
	client->request.url = url;
	client->request.user_agent = agent;
	submit(client);
	memset(body, '#', sizeof(body_text) - 1);
	memset(header, '#', 17);
	memset(url, '#', strlen(url));
	memset(agent, '#', strlen(agent));
	free(body);
	free(header);
	free(url);
	free(agent);
	kt_http_release(client->http, finish(client, &answer));
	assert_non_null(strstr(server->seen, "x-api-key: secret\r\n"));
	assert_non_null(strstr(server->seen, "User-Agent: kridtech/test\r\n"));
	assert_string_equal(strstr(server->seen, "\r\n\r\n") + 4, body_text);
	client_free(client);
	stop(server);
}

static void
a_redirect_is_not_followed(void **state)
{
	static const int statuses[] = {301, 302, 303, 307, 308};
	Server *target = start(answer_all);
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(statuses); i++)
	{
		char text[256];
		KtHttpAnswer answer;

		snprintf(text, sizeof(text),
		         "HTTP/1.1 %d Moved\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n",
		         statuses[i], target->port);
		answer = answer_to_text(text);
		assert_int_equal(answer.curl_code, 0);
		assert_int_equal(answer.status, statuses[i]);
	}
	assert_int_equal(atomic_load(&target->connections), 0);
	stop(target);
}

static char environment_dir[] = "/tmp/kt_http_XXXXXX";
static char keylog_file[64];
static Server *proxy; /* what the proxy variables point to */

static void
the_environment_has_no_effect(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	struct stat st;
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_int_equal(atomic_load(&server->requests), 1);
	assert_null(strcasestr(server->seen, "Authorization"));
	free(result.body);
	client_free(client);

	/* a handshake that fails would still have opened the file, as initialising libcurl would */
	client = client_for("https", "127.0.0.1", server->port);
	client->request.connect_timeout_ms = 200;
	expect_failure(client, false);
	assert_int_equal(stat(keylog_file, &st), -1);
	assert_string_equal(getenv("SSLKEYLOGFILE"), keylog_file);
	assert_int_equal(atomic_load(&proxy->connections), 0);
	client_free(client);
	stop(server);
}

/* ---- what comes back ----------------------------------------------------------------------------------------- */

static void
an_answer_is_given_with_status_body_date_and_time(void **state)
{
	Server *server = start_with_text(
		answer_once, "HTTP/1.1 201 Created\r\nDate: Wed, 05 Aug 2026 10:11:12 GMT\r\n"
					 "Content-Length: 7\r\n\r\n{\"a\":1}");
	Client *client = client_of(server);
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_int_equal(result.answer.status, 201);
	assert_bytes("body", result.body, result.answer.body_len, BYTES("{\"a\":1}"));
	assert_int_equal(result.answer.date, 1785924672);
	assert_int_equal(result.answer.retry_after, -1);
	assert_false(result.answer.too_large);
	assert_true(result.answer.total_us > 0);
	free(result.body);
	client_free(client);
	stop(server);
}

static void
a_date_that_is_none_reads_as_absent(void **state)
{
	static const char *const dates[] = {"",
	                                    "Date:\r\n",
	                                    "Date: yesterday\r\n",
	                                    "Date: 0\r\n",
	                                    "Date: Wed, 99 Xxx 2026 99:99:99 GMT\r\n",
	                                    "Date: 9999999999999999999999999999999999999\r\n"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(dates); i++)
	{
		char text[256];

		snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\n%sContent-Length: 0\r\n\r\n", dates[i]);
		assert_int_equal(answer_to_text(text).date, -1);
	}
}

static void
an_interim_answer_is_passed_over(void **state)
{
	KtHttpAnswer answer =
		answer_to_text("HTTP/1.1 100 Continue\r\nDate: Wed, 05 Aug 2026 10:11:12 GMT\r\n\r\n"
	                   "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
	                   "HTTP/1.1 402 Payment Required\r\nContent-Length: 0\r\n\r\n");

	(void) state;
	assert_int_equal(answer.curl_code, 0);
	assert_int_equal(answer.status, 402);
	assert_int_equal(answer.date, -1);
}

static int64_t
retry_after_of(const char *value)
{
	char text[512];
	KtHttpAnswer answer;

	snprintf(text, sizeof(text),
	         "HTTP/1.1 429 Slow Down\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n", value);
	answer = answer_to_text(text);
	assert_int_equal(answer.curl_code, 0);
	assert_int_equal(answer.status, 429);
	return answer.retry_after;
}

static const char *
http_date(time_t at)
{
	static char text[64];
	struct tm tm;

	gmtime_r(&at, &tm);
	strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &tm);
	return text;
}

static void
retry_after_is_read_as_seconds_or_date_and_never_negative(void **state)
{
	int64_t seconds;

	(void) state;
	assert_int_equal(retry_after_of("7"), 7);
	assert_int_equal(retry_after_of("  120 "), 120);
	seconds = retry_after_of(http_date(time(NULL) + 60));
	assert_in_range(seconds, 50, 61);
	assert_true(retry_after_of(http_date(time(NULL) - 3600)) < 0);
	assert_true(retry_after_of("0") < 0);
	assert_true(retry_after_of("-5") < 0);
	assert_true(retry_after_of("soon") < 0);
	assert_true(retry_after_of("") < 0);
	/* whatever libcurl makes of these, it is an absent value or a wait */
	assert_true(retry_after_of("99999999999999999999999999") != 0);
	assert_true(retry_after_of("9223372036854775807") != 0);
	assert_true(retry_after_of("1e9") != 0);
}

/* The first answer has a Retry-After, the second on the same handle has not. */
static void
retry_once(Server *server, int fd, int nth)
{
	(void) nth;
	if (read_request(server, fd) &&
	    send_text(fd,
	              "HTTP/1.1 429 Slow Down\r\nDate: Wed, 05 Aug 2026 10:11:12 GMT\r\nRetry-After: "
	              "33\r\nContent-Length: 3\r\n\r\nabc") &&
	    read_request(server, fd))
		send_text(fd, "HTTP/1.1 429 Slow Down\r\nContent-Length: 0\r\n\r\n");
}

static void
nothing_of_an_answer_remains_for_the_next(void **state)
{
	Server *server = start(retry_once);
	Client *client = client_of(server);
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_equal(result.answer.retry_after, 33);
	free(result.body);
	perform(client, &result);
	assert_true(result.answer.reused);
	assert_int_equal(result.answer.retry_after, -1);
	assert_int_equal(result.answer.date, -1);
	assert_int_equal(result.answer.body_len, 0);
	free(result.body);
	client_free(client);
	stop(server);
}

/* Sends the text, then the same block for as long as the client takes it. */
static void
answer_without_end(Server *server, int fd, int nth)
{
	static const char block[] =
		"X-Endless: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";

	(void) nth;
	if (!read_request(server, fd) || !send_all(fd, server->text, server->text_len))
		return;
	while (send_all(fd, block, sizeof(block) - 1))
		;
}

static size_t
heap_in_use(void)
{
#if __GLIBC_PREREQ(2, 33)
	return mallinfo2().uordblks;
#else
	return (size_t) mallinfo().uordblks;
#endif
}

static void
an_endless_answer_is_cut_and_takes_bounded_memory(void **state)
{
	static const struct
	{
		const char *text;
		bool ours; /* cut by a limit of ours, not one of libcurl's */
	} answers[] = {
		{"HTTP/1.1 200 OK\r\n\r\n", true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", true},
		{"HTTP/1.1 200 OK\r\n", true},
		{"HTTP/1.1 100 Continue\r\n", true},
		{"HTTP/1.1 200 OK\r\nX-One-Line: \r\n", true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", true},
	};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(answers); i++)
	{
		Server *server = start_with_text(answer_without_end, answers[i].text);
		Client *client = client_of(server);
		size_t before = heap_in_use();
		Result result;

		client->request.max_answer = 1000;
		perform(client, &result);
		assert_int_not_equal(result.answer.curl_code, 0);
		assert_int_equal(result.answer.too_large, answers[i].ours);
		assert_true(result.answer.bytes_sent > 0);
		assert_true(result.answer.body_len <= 1000);
		assert_true(heap_in_use() <= before + (size_t) 1024 * 1024);
		free(result.body);
		client_free(client);
		stop(server);
	}
}

/* One header line that never ends: libcurl's own limit on a line. */
static void
one_line_without_end(Server *server, int fd, int nth)
{
	char block[4096];

	(void) nth;
	memset(block, 'a', sizeof(block));
	if (!read_request(server, fd) || !send_text(fd, "HTTP/1.1 200 OK\r\nX-Endless: "))
		return;
	while (send_all(fd, block, sizeof(block)))
		;
}

static void
an_endless_header_line_is_an_error(void **state)
{
	Server *server = start(one_line_without_end);
	Client *client = client_of(server);

	(void) state;
	expect_failure(client, true);
	client_free(client);
	stop(server);
}

static void
an_answer_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(void **state)
{
	Server *server =
		start_with_text(answer_all, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde");
	Client *client = client_of(server);
	Result result;

	(void) state;
	client->request.max_answer = 5;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_int_equal(result.answer.body_len, 5);
	free(result.body);
	client->request.max_answer = 4;
	perform(client, &result);
	assert_int_not_equal(result.answer.curl_code, 0);
	assert_true(result.answer.too_large);
	free(result.body);
	client_free(client);
	stop(server);
}

/* The output of a shell command as the body of an answer with Content-Encoding: gzip. */
static Server *
start_gzipped(const char *command, char **text)
{
	size_t size = 1024 * 1024;
	FILE *pipe_end = popen(command, "r");
	Server *server;
	size_t header;
	size_t n;

	*text = malloc(size);
	assert_non_null(pipe_end);
	n = fread(*text + 1024, 1, size - 1024, pipe_end);
	assert_int_equal(pclose(pipe_end), 0);
	assert_true(n > 0);
	header = (size_t) snprintf(
		*text, 1024, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %zu\r\n\r\n", n);
	memmove(*text + header, *text + 1024, n);
	server = start(answer_all);
	server->text_len = header + n;
	server->text = *text;
	return server;
}

static void
gzip_is_decoded_though_it_was_not_offered(void **state)
{
	char *text;
	Server *server = start_gzipped("printf '{\"a\":1}' | gzip -c", &text);
	Client *client = client_of(server);
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_bytes("body", result.body, result.answer.body_len, BYTES("{\"a\":1}"));
	free(result.body);
	client_free(client);
	stop(server);
	free(text);
}

static void
a_gzip_bomb_is_cut(void **state)
{
	char *text;
	Server *server = start_gzipped("head -c 100000000 /dev/zero | gzip -c", &text);
	Client *client = client_of(server);
	size_t before = heap_in_use();
	Result result;

	(void) state;
	perform(client, &result);
	assert_int_not_equal(result.answer.curl_code, 0);
	assert_true(result.answer.too_large);
	assert_true(result.answer.body_len <= 65536);
	assert_true(heap_in_use() <= before + (size_t) 2 * 1024 * 1024);
	free(result.body);
	client_free(client);
	stop(server);
	free(text);
}

/* ---- giving up: at every moment, at once, for good -------------------------------------------------------------- */

static int64_t
abort_promptly(Client *client, KtHttpTransfer *transfer)
{
	int64_t began = kt_http_now();
	int64_t sent = kt_http_abort(client->http, transfer);

	assert_true(kt_http_now() - began < PROMPT_US);
	assert_int_equal(kt_http_active(client->http), 0);
	return sent;
}

/* Another request on the same client works. */
static void
expect_works_after(Client *client)
{
	Server *good = start(answer_all);
	char url[128];
	Result result;

	snprintf(url, sizeof(url), "http://127.0.0.1:%d/", good->port);
	client->request.url = url;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 0);
	assert_int_equal(atomic_load(&good->requests), 1);
	free(result.body);
	client->request.url = client->url;
	stop(good);
}

/* Steps for a while, during which nothing is to happen. */
static void
step_for(Client *client, int ms)
{
	int64_t end = kt_http_now() + ms * 1000LL;
	KtHttpAnswer answer;

	while (kt_http_now() < end)
	{
		step(client);
		assert_null(kt_http_reap(client->http, &answer));
		wait_for_work(client, 5);
	}
}

static void
an_abort_before_the_first_step_sends_nothing(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	Result result;

	(void) state;
	/* once on a new handle, once on one that has the figures of a transfer before */
	assert_int_equal(abort_promptly(client, submit(client)), 0);
	step_for(client, 50);
	assert_int_equal(atomic_load(&server->connections), 0);
	perform(client, &result);
	free(result.body);
	assert_int_equal(abort_promptly(client, submit(client)), 0);
	step_for(client, 50);
	assert_int_equal(atomic_load(&server->requests), 1);
	expect_works_after(client);
	client_free(client);
	stop(server);
}

static void
an_abort_while_resolving_returns_at_once_and_sends_nothing_later(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_for("http", "slow.test", server->port);
	KtHttpTransfer *transfer;

	(void) state;
	hold_resolver();
	transfer = submit(client);
	STEP_UNTIL(client, atomic_load(&resolver_inside) == 1);
	assert_int_equal(abort_promptly(client, transfer), 0);
	expect_works_after(client);
	assert_int_equal(atomic_load(&resolver_inside), 1);
	release_resolver();
	STEP_UNTIL(client, atomic_load(&resolver_inside) == 0);
	step_for(client, 700); /* libcurl asks its resolver each 250 ms at the latest */
	assert_int_equal(atomic_load(&server->connections), 0);
	assert_true(client->longest_step < PROMPT_US);
	client_free(client);
	stop(server);
}

/* The name is resolved and a connection to it kept: the parked transfer must not take that one either. */
static void
an_abort_while_resolving_does_not_use_a_kept_connection_later(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_for("http", "slow.test", server->port);
	KtHttpTransfer *transfer;
	char url[128];
	Result result;

	(void) state;
	hold_resolver();
	transfer = submit(client);
	STEP_UNTIL(client, atomic_load(&resolver_inside) == 1);
	(void) abort_promptly(client, transfer);
	/* while that one is stuck, a connection to the same port comes into being */
	snprintf(url, sizeof(url), "http://127.0.0.1:%d/", server->port);
	client->request.url = url;
	perform(client, &result);
	free(result.body);
	release_resolver();
	STEP_UNTIL(client, atomic_load(&resolver_inside) == 0);
	step_for(client, 700);
	assert_int_equal(atomic_load(&server->requests), 1);
	assert_int_equal(atomic_load(&server->connections), 1);
	client_free(client);
	stop(server);
}

/* A listening socket whose queue is full: further SYNs are dropped. */
typedef struct Blackhole
{
	int listener;
	int port;
	int fillers[8];
} Blackhole;

static void
blackhole_open(Blackhole *hole)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	size_t i;

	hole->listener = listen_locally(0, &hole->port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons((uint16_t) hole->port);
	for (i = 0; i < lengthof(hole->fillers); i++)
	{
		hole->fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void) connect(hole->fillers[i], (struct sockaddr *) &address, sizeof(address));
	}
}

static void
blackhole_close(Blackhole *hole)
{
	size_t i;

	for (i = 0; i < lengthof(hole->fillers); i++)
		close(hole->fillers[i]);
	close(hole->listener);
}

static void
an_abort_while_connecting_returns_at_once(void **state)
{
	Blackhole hole;
	Client *client;
	KtHttpTransfer *transfer;

	(void) state;
	blackhole_open(&hole);
	client = client_for("http", "127.0.0.1", hole.port);
	transfer = submit(client);
	step_for(client, 50);
	assert_int_equal(abort_promptly(client, transfer), 0);
	expect_works_after(client);
	client_free(client);
	blackhole_close(&hole);
}

static void
an_abort_in_the_tls_handshake_returns_at_once_and_sends_no_request(void **state)
{
	Server *server = start(stall);
	Client *client = client_for("https", "127.0.0.1", server->port);
	KtHttpTransfer *transfer = submit(client);

	(void) state;
	STEP_UNTIL(client, atomic_load(&server->received) > 0); /* a ClientHello */
	assert_int_equal(abort_promptly(client, transfer), 0);
	expect_works_after(client);
	assert_int_equal(atomic_load(&server->connections), 1);
	client_free(client);
	stop(server);
}

static void
abort_after_sending(Script script, size_t wanted)
{
	Server *server = start(script);
	Client *client = client_of(server);
	KtHttpTransfer *transfer = submit(client);
	int64_t received;

	STEP_UNTIL(client, atomic_load(&server->requests) == 1);
	if (wanted > 0)
		step_for(client, 100);
	assert_true(abort_promptly(client, transfer) > 0);
	received = atomic_load(&server->received);
	expect_works_after(client);
	step_for(client, 50);
	assert_int_equal(atomic_load(&server->received), received);
	assert_int_equal(atomic_load(&server->connections), 1);
	client_free(client);
	stop(server);
}

static void
an_abort_after_the_request_says_that_something_was_sent(void **state)
{
	(void) state;
	abort_after_sending(hang, 0);
}

static void
an_abort_in_the_middle_of_an_answer_says_that_something_was_sent(void **state)
{
	(void) state;
	abort_after_sending(answer_half, 1);
}

static void
an_abort_of_a_finished_transfer_that_was_not_reaped_is_clean(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	KtHttpTransfer *transfer = submit(client);
	KtHttpAnswer answer;

	(void) state;
	STEP_UNTIL(client, atomic_load(&server->requests) == 1);
	usleep(50000);
	step(client);
	assert_true(abort_promptly(client, transfer) > 0);
	assert_null(kt_http_reap(client->http, &answer));
	expect_works_after(client);
	client_free(client);
	stop(server);
}

static void
an_abort_of_an_expired_transfer_that_was_not_reaped_is_clean(void **state)
{
	Server *server = start(hang);
	Client *client = client_of(server);
	KtHttpTransfer *first;
	KtHttpTransfer *second;
	KtHttpAnswer answer;

	(void) state;
	client->request.request_timeout_ms = 100;
	first = submit(client);
	second = submit(client);
	usleep(150000);
	step(client);
	step(client);
	(void) kt_http_abort(client->http, first);
	(void) kt_http_abort(client->http, second);
	assert_int_equal(kt_http_active(client->http), 0);
	assert_null(kt_http_reap(client->http, &answer));
	client->request.request_timeout_ms = 30000;
	expect_works_after(client);
	client_free(client);
	stop(server);
}

/* ---- time-outs -------------------------------------------------------------------------------------------------- */

static void
expect_timeout(Client *client, long connect_ms, long request_ms, const char *words, bool sent)
{
	int64_t began = kt_http_now();
	Result result;

	client->request.connect_timeout_ms = connect_ms;
	client->request.request_timeout_ms = request_ms;
	perform(client, &result);
	assert_int_equal(result.answer.curl_code, 28);
	assert_string_equal(result.error, words);
	assert_int_equal(result.answer.bytes_sent > 0, sent);
	assert_true(kt_http_now() - began >=
	            (connect_ms < request_ms ? connect_ms : request_ms) * 1000);
	assert_true(kt_http_now() - began < STUCK_MS * 1000LL - PROMPT_US);
	assert_true(client->longest_step < PROMPT_US);
	free(result.body);
}

static void
resolving_times_out_without_blocking_and_the_next_transfer_works(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_for("http", "slow.test", server->port);

	(void) state;
	hold_resolver();
	expect_timeout(client, 150, 30000, "timed out while resolving the host's name", false);
	expect_timeout(client, 30000, 150, "timed out while resolving the host's name", false);
	expect_works_after(client);
	release_resolver();
	STEP_UNTIL(client, atomic_load(&resolver_inside) == 0);
	step_for(client, 700);
	assert_int_equal(atomic_load(&server->connections), 0);
	assert_true(client->longest_step < PROMPT_US);
	/* and now that the resolver answers at once */
	client->request.request_timeout_ms = client->request.connect_timeout_ms = 30000;
	expect_works_after(client);
	client_free(client);
	stop(server);
}

static void
connecting_times_out(void **state)
{
	Blackhole hole;
	Client *client;

	(void) state;
	blackhole_open(&hole);
	client = client_for("http", "127.0.0.1", hole.port);
	expect_timeout(client, 200, 30000, "timed out while connecting", false);
	expect_timeout(client, 30000, 200, "timed out while connecting", false);
	expect_works_after(client);
	client_free(client);
	blackhole_close(&hole);
}

static void
the_tls_handshake_times_out(void **state)
{
	Server *server = start(stall);
	Client *client = client_for("https", "127.0.0.1", server->port);

	(void) state;
	expect_timeout(client, 200, 30000, "timed out in the TLS handshake", false);
	client_free(client);
	stop(server);
}

static void
waiting_for_an_answer_times_out_by_the_request_timeout_only(void **state)
{
	Server *server = start(hang);
	Client *client = client_of(server);
	int64_t began = kt_http_now();

	(void) state;
	expect_timeout(client, 100, 500, "timed out while waiting for the answer", true);
	assert_true(kt_http_now() - began >= 500000);
	assert_int_equal(atomic_load(&server->requests), 1);
	client_free(client);
	stop(server);
}

static void
reading_an_answer_times_out(void **state)
{
	Server *server = start(answer_half);
	Client *client = client_of(server);

	(void) state;
	expect_timeout(client, 30000, 300, "timed out while reading the answer", true);
	client_free(client);
	stop(server);
}

/* A byte now and then keeps nothing alive. */
static void
drip(Server *server, int fd, int nth)
{
	(void) nth;
	if (!read_request(server, fd) ||
	    !send_text(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"))
		return;
	while (!atomic_load(&server->released) && send_text(fd, "x"))
		usleep(10000);
}

static void
a_dripping_answer_times_out(void **state)
{
	Server *server = start(drip);
	Client *client = client_of(server);

	(void) state;
	expect_timeout(client, 30000, 400, "timed out while reading the answer", true);
	client_free(client);
	stop(server);
}

/* The owner was away (stopped, swapped out) until after the deadline; the answer had come in time. */
static void
an_answer_that_is_there_when_the_deadline_is_noticed_counts(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	Result result;
	KtHttpTransfer *transfer;

	(void) state;
	client->request.request_timeout_ms = 300;
	transfer = submit(client);
	STEP_UNTIL(client, atomic_load(&server->requests) == 1);
	usleep(500000);
	assert_ptr_equal(finish(client, &result.answer), transfer);
	assert_int_equal(result.answer.curl_code, 0);
	assert_int_equal(result.answer.status, 200);
	kt_http_release(client->http, transfer);
	client_free(client);
	stop(server);
}

static void
the_deadline_told_is_the_nearest_one(void **state)
{
	Server *server = start(hang);
	Client *client = client_of(server);
	KtHttpTransfer *transfers[3];
	int64_t now;
	size_t i;

	(void) state;
	assert_int_equal(kt_http_deadline(client->http), -1);
	client->request.request_timeout_ms = 5000;
	transfers[0] = submit(client);
	client->request.request_timeout_ms = 2000;
	transfers[1] = submit(client);
	client->request.request_timeout_ms = 9000;
	transfers[2] = submit(client);
	now = kt_http_now();
	assert_true(kt_http_deadline(client->http) <= now);
	step_for(client, 300);
	assert_in_range(kt_http_deadline(client->http), 0, now + 2000000);
	for (i = 0; i < lengthof(transfers); i++)
		(void) kt_http_abort(client->http, transfers[i]);
	assert_int_equal(kt_http_active(client->http), 0);
	client_free(client);
	stop(server);
}

/* An owner that waits as told neither spins nor sleeps past anything. */
static void
waiting_takes_no_processor_time(void **state)
{
	Server *server = start(hang);
	Client *client = client_of(server);
	struct rusage before;
	struct rusage after;
	int64_t spent;

	(void) state;
	(void) getrusage(RUSAGE_THREAD, &before);
	expect_timeout(client, 30000, 1500, "timed out while waiting for the answer", true);
	(void) getrusage(RUSAGE_THREAD, &after);
	spent = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000LL + after.ru_utime.tv_usec -
	        before.ru_utime.tv_usec;
	if (!under_valgrind())
		assert_true(spent < 500000);
	client_free(client);
	stop(server);
}

/* ---- signals, addresses ------------------------------------------------------------------------------------------ */

static void
a_resolver_thread_has_every_signal_blocked_and_the_owner_its_own_mask(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_for("http", "here.test", server->port);
	sigset_t before;
	sigset_t after;
	Result result;
	int threads = atomic_load(&resolver_threads);
	int sig;

	(void) state;
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	perform(client, &result);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	assert_int_equal(result.answer.curl_code, 0);
	assert_true(atomic_load(&resolver_threads) > threads);
	assert_int_equal(atomic_load(&signals_open_in_resolver), 0);
	for (sig = 1; sig < NSIG; sig++)
		assert_int_equal(sigismember(&before, sig), sigismember(&after, sig));
	free(result.body);
	client_free(client);
	stop(server);
}

static void
loopback_only_refuses_any_other_address_before_connecting(void **state)
{
	static const char *const hosts[] = {
		"elsewhere.test", "192.0.2.1",          "[2001:db8::1]", "elsewhere6.test",
		"0.0.0.0",        "[::ffff:192.0.2.1]", "[::]"};
	size_t i;

	(void) state;
	for (i = 0; i < lengthof(hosts); i++)
	{
		Client *client = client_for("http", hosts[i], 80);

		expect_failure(client, false);
		client_free(client);
	}
	assert_int_equal(atomic_load(&connects_elsewhere), 0);
}

static void
without_loopback_only_another_address_is_tried(void **state)
{
	Client *client = client_for("http", "elsewhere.test", 80);

	(void) state;
	client->request.loopback_only = false;
	expect_failure(client, false);
	assert_int_equal(atomic_exchange(&connects_elsewhere, 0), 1);
	client_free(client);
}

static void
no_socket_is_left_to_a_child(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	Result result;
	int fd;

	(void) state;
	perform(client, &result);
	for (fd = 3; fd < 256; fd++)
	{
		struct sockaddr_storage peer;
		socklen_t len = sizeof(peer);

		if (getpeername(fd, (struct sockaddr *) &peer, &len) == 0 && peer.ss_family == AF_INET &&
		    ((struct sockaddr_in *) &peer)->sin_port == htons((uint16_t) server->port))
			assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	}
	assert_true(fcntl(kt_http_fd(client->http), F_GETFD) & FD_CLOEXEC);
	free(result.body);
	client_free(client);
	stop(server);
}

/* ---- many ---------------------------------------------------------------------------------------------------------- */

#define CONCURRENT 1000

/* Holds the first connection until all the others are in, then answers every one of them. */
static void
answer_all_at_once(Server *server, int fd, int nth)
{
	static int fds[CONCURRENT];
	int i;

	(void) nth;
	fds[0] = dup(fd);
	for (i = 1; i < CONCURRENT; i++)
		fds[i] = accept(server->listener, NULL, NULL);
	for (i = 0; i < CONCURRENT; i++)
		(void) read_request(server, fds[i]);
	for (i = 0; i < CONCURRENT; i++)
	{
		send_text(fds[i], OK_ANSWER);
		close(fds[i]);
	}
}

static void
a_thousand_transfers_run_at_once(void **state)
{
	Server *server = start(answer_all_at_once);
	Client *client = client_of(server);
	int i;

	(void) state;
	for (i = 0; i < CONCURRENT; i++)
		submit(client);
	assert_int_equal(kt_http_active(client->http), CONCURRENT);
	for (i = 0; i < CONCURRENT; i++)
	{
		KtHttpAnswer answer;
		KtHttpTransfer *transfer = finish(client, &answer);

		assert_int_equal(answer.curl_code, 0);
		assert_int_equal(answer.status, 200);
		kt_http_release(client->http, transfer);
	}
	assert_int_equal(kt_http_active(client->http), 0);
	assert_int_equal(atomic_load(&server->requests), CONCURRENT);
	client_free(client);
	stop(server);
}

static void
a_thousand_time_outs_end_in_one_step(void **state)
{
	Blackhole hole;
	Client *client;
	int i;

	(void) state;
	blackhole_open(&hole);
	client = client_for("http", "127.0.0.1", hole.port);
	client->request.connect_timeout_ms = 500;
	for (i = 0; i < CONCURRENT; i++)
		submit(client);
	for (i = 0; i < CONCURRENT; i++)
	{
		KtHttpAnswer answer;
		KtHttpTransfer *transfer = finish(client, &answer);

		assert_int_equal(answer.curl_code, 28);
		assert_int_equal(answer.bytes_sent, 0);
		kt_http_release(client->http, transfer);
	}
	if (!under_valgrind())
		assert_true(client->longest_step < PROMPT_US);
	client_free(client);
	blackhole_close(&hole);
}

static void
memory_is_flat_over_twenty_thousand_transfers(void **state)
{
	Server *server = start(answer_all);
	Client *client = client_of(server);
	int total = under_valgrind() ? 1000 : 20000;
	size_t warm = 0;
	int i;

	(void) state;
	for (i = 0; i < total; i++)
	{
		KtHttpAnswer answer;

		if (i == total / 10)
			warm = heap_in_use();
		submit(client);
		kt_http_release(client->http, finish(client, &answer));
		assert_int_equal(answer.curl_code, 0);
	}
	assert_true(heap_in_use() <= warm + 16384);
	assert_int_equal(atomic_load(&server->connections), 1);
	client_free(client);
	stop(server);
}

static void
memory_is_flat_over_transfers_that_fail(void **state)
{
	Server *server = start_with_text(break_off, "R");
	Client *client = client_of(server);
	int total = under_valgrind() ? 200 : 2000;
	size_t warm = 0;
	int i;

	(void) state;
	for (i = 0; i < total; i++)
	{
		KtHttpAnswer answer;

		if (i == total / 2)
			warm = heap_in_use();
		submit(client);
		kt_http_release(client->http, finish(client, &answer));
		assert_int_not_equal(answer.curl_code, 0);
	}
	assert_true(heap_in_use() <= warm + 16384);
	client_free(client);
	stop(server);
}

/* ---- the whole ------------------------------------------------------------------------------------------------------ */

static int
set_hostile_environment(void **state)
{
	struct rlimit files;
	char path[80];
	char url[64];
	FILE *netrc;

	(void) state;
	if (mkdtemp(environment_dir) == NULL)
		return -1;
	proxy = start(answer_all);
	snprintf(url, sizeof(url), "http://127.0.0.1:%d", proxy->port);
	setenv("http_proxy", url, 1);
	setenv("https_proxy", url, 1);
	setenv("HTTPS_PROXY", url, 1);
	setenv("ALL_PROXY", url, 1);
	setenv("all_proxy", url, 1);
	setenv("NO_PROXY", "*.example", 1);
	setenv("HOME", environment_dir, 1);
	snprintf(keylog_file, sizeof(keylog_file), "%s/keylog", environment_dir);
	setenv("SSLKEYLOGFILE", keylog_file, 1);
	snprintf(path, sizeof(path), "%s/.netrc", environment_dir);
	netrc = fopen(path, "w");
	if (netrc == NULL)
		return -1;
	fputs("default login thief password thief\n", netrc);
	fclose(netrc);
	if (getrlimit(RLIMIT_NOFILE, &files) != 0)
		return -1;
	files.rlim_cur = files.rlim_max < 8192 ? files.rlim_max : 8192;
	return setrlimit(RLIMIT_NOFILE, &files);
}

static int
remove_hostile_environment(void **state)
{
	char path[80];

	(void) state;
	stop(proxy);
	snprintf(path, sizeof(path), "%s/.netrc", environment_dir);
	(void) unlink(path);
	return rmdir(environment_dir);
}

/* Whatever a test does, nothing may have been sent off this machine. */
static int
begin_test(void **state)
{
	(void) state;
	alarm(TEST_SECONDS);
	return 0;
}

static int
end_test(void **state)
{
	(void) state;
	alarm(0);
	release_resolver();
	return atomic_load(&connects_elsewhere);
}

#define http_test(test) cmocka_unit_test_setup_teardown(test, begin_test, end_test)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		http_test(a_post_on_a_reused_connection_that_dies_is_not_sent_again),
		http_test(a_post_whose_reused_connection_dies_after_its_head_is_not_sent_again),
		http_test(a_post_is_not_sent_again_on_another_kept_connection),
		http_test(an_empty_post_is_not_sent_again_either),
		http_test(a_get_on_a_reused_connection_that_dies_is_repeated_by_libcurl),
		http_test(a_connection_that_was_closed_while_idle_is_replaced),
		http_test(a_connection_is_kept_and_said_to_be_reused),
		http_test(nothing_was_sent_to_a_closed_port),
		http_test(nothing_was_sent_to_a_name_that_does_not_exist),
		http_test(nothing_was_sent_to_a_url_that_is_none),
		http_test(nothing_was_sent_when_tls_fails),
		http_test(nothing_was_sent_is_said_after_an_earlier_success_too),
		http_test(something_was_sent_when_an_answer_breaks_off),
		http_test(a_post_is_sent_with_exactly_these_bytes),
		http_test(a_get_is_sent_with_exactly_these_bytes),
		http_test(a_large_body_goes_out_whole_and_without_expect),
		http_test(a_request_is_copied_when_it_is_submitted),
		http_test(a_redirect_is_not_followed),
		http_test(the_environment_has_no_effect),
		http_test(an_answer_is_given_with_status_body_date_and_time),
		http_test(a_date_that_is_none_reads_as_absent),
		http_test(an_interim_answer_is_passed_over),
		http_test(retry_after_is_read_as_seconds_or_date_and_never_negative),
		http_test(nothing_of_an_answer_remains_for_the_next),
		http_test(an_endless_answer_is_cut_and_takes_bounded_memory),
		http_test(an_endless_header_line_is_an_error),
		http_test(an_answer_of_exactly_the_limit_is_taken_and_one_byte_more_is_not),
		http_test(gzip_is_decoded_though_it_was_not_offered),
		http_test(a_gzip_bomb_is_cut),
		http_test(an_abort_before_the_first_step_sends_nothing),
		http_test(an_abort_while_resolving_returns_at_once_and_sends_nothing_later),
		http_test(an_abort_while_resolving_does_not_use_a_kept_connection_later),
		http_test(an_abort_while_connecting_returns_at_once),
		http_test(an_abort_in_the_tls_handshake_returns_at_once_and_sends_no_request),
		http_test(an_abort_after_the_request_says_that_something_was_sent),
		http_test(an_abort_in_the_middle_of_an_answer_says_that_something_was_sent),
		http_test(an_abort_of_a_finished_transfer_that_was_not_reaped_is_clean),
		http_test(an_abort_of_an_expired_transfer_that_was_not_reaped_is_clean),
		http_test(resolving_times_out_without_blocking_and_the_next_transfer_works),
		http_test(connecting_times_out),
		http_test(the_tls_handshake_times_out),
		http_test(waiting_for_an_answer_times_out_by_the_request_timeout_only),
		http_test(reading_an_answer_times_out),
		http_test(a_dripping_answer_times_out),
		http_test(an_answer_that_is_there_when_the_deadline_is_noticed_counts),
		http_test(the_deadline_told_is_the_nearest_one),
		http_test(waiting_takes_no_processor_time),
		http_test(a_resolver_thread_has_every_signal_blocked_and_the_owner_its_own_mask),
		http_test(loopback_only_refuses_any_other_address_before_connecting),
		http_test(without_loopback_only_another_address_is_tried),
		http_test(no_socket_is_left_to_a_child),
		http_test(a_thousand_transfers_run_at_once),
		http_test(a_thousand_time_outs_end_in_one_step),
		http_test(memory_is_flat_over_twenty_thousand_transfers),
		http_test(memory_is_flat_over_transfers_that_fail),
	};

	main_thread = pthread_self();
	(void) signal(SIGPIPE, SIG_IGN); /* as in a server process */
	return cmocka_run_group_tests_name("http", tests, set_hostile_environment,
	                                   remove_hostile_environment);
}
