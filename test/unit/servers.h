/*
 * Servers that misbehave, a client against them, and a hostile environment, for the tests of the HTTP client.
 *
 * A server here is a thread with a raw listening socket that serves one connection after the other by a
 * script of its test. The process is given a hostile environment (proxies, netrc, SSLKEYLOGFILE) before
 * anything else, so that every test also shows that it has no effect. Names are resolved by this
 * program's own getaddrinfo(), and connect() is watched: no packet may leave the machine.
 */
#ifndef KT_SERVERS_H
#define KT_SERVERS_H

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

static inline int
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

static inline void
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

static inline void
hold_resolver(void)
{
	resolver_released = false;
}

static inline void
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
	atomic_int closed;     /* connections */
	atomic_int requests;   /* whole ones */
	atomic_bool released;  /* the script may go on */
	atomic_llong received; /* bytes */
	char seen[MAX_SEEN];   /* the last request, whole or not */
};

static inline bool
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

static inline bool
send_text(int fd, const char *text)
{
	return send_all(fd, text, strlen(text));
}

/* Bytes a request has in all, 0 while its header is not in. */
static inline size_t
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
static inline bool
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

/* Waits until the server has closed so many connections: on loopback their ends are there then, with what came before. */
static inline void
await_closed(Server *server, int n)
{
	while (atomic_load(&server->closed) < n)
		usleep(1000);
}

/* Waits for the client to close, counting what still comes. */
static inline void
drain(Server *server, int fd)
{
	char bytes[4096];
	ssize_t n;

	while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
		atomic_fetch_add(&server->received, n);
}

static inline void
reset_connection(int fd)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

static inline void *
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
		atomic_fetch_add(&server->closed, 1);
	}
	return NULL;
}

static inline int
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

static inline int
listen_locally(int backlog, int *port)
{
	struct sockaddr_storage address = {0};
	struct sockaddr_in *in4 = (struct sockaddr_in *) &address;

	in4->sin_family = AF_INET;
	in4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return listen_on(&address, sizeof(*in4), backlog, port);
}

static inline Server *
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

static inline Server *
start_with_text(Script script, const char *text)
{
	Server *server = start(script);

	server->text = text;
	server->text_len = strlen(text);
	return server;
}

/* Returns how many requests it got, when nothing more can come. */
static inline int
stop_server(Server *server)
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
static inline void
answer_all(Server *server, int fd, int nth)
{
	(void) nth;
	while (read_request(server, fd))
		if (!send_all(fd, server->text != NULL ? server->text : OK_ANSWER,
		              server->text != NULL ? server->text_len : strlen(OK_ANSWER)))
			return;
}

/* Closes after the first answer, which promised to keep the connection. */
static inline void
close_after_answer(Server *server, int fd, int nth)
{
	(void) nth;
	if (read_request(server, fd))
		send_text(fd, OK_ANSWER);
}

static inline void
answer_once(Server *server, int fd, int nth)
{
	(void) nth;
	if (read_request(server, fd))
		send_text(fd, server->text);
}

/* Takes the request and says nothing. */
static inline void
hang(Server *server, int fd, int nth)
{
	(void) nth;
	if (read_request(server, fd))
		drain(server, fd);
}

/* Takes the connection and reads whatever comes: a TLS server that never answers a ClientHello. */
static inline void
stall(Server *server, int fd, int nth)
{
	(void) nth;
	drain(server, fd);
}

/* Half an answer, then silence. */
static inline void
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

static inline Client *
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

static inline Client *
client_of(const Server *server)
{
	return client_for("http", "127.0.0.1", server->port);
}

static inline void
client_free(Client *client)
{
	kt_http_destroy(client->http);
	free(client);
}

static inline void
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
static inline void
wait_for_work(Client *client, int max_ms)
{
	struct pollfd pollfd = {.fd = kt_http_fd(client->http), .events = POLLIN};
	int64_t deadline = kt_http_deadline(client->http);
	int64_t left_ms = deadline < 0 ? max_ms : (deadline - kt_http_now() + 999) / 1000;

	if (left_ms > max_ms)
		left_ms = max_ms;
	poll(&pollfd, 1, left_ms > 0 ? (int) left_ms : 0);
}

static inline KtHttpTransfer *
submit(Client *client)
{
	KtHttpTransfer *transfer = kt_http_submit(client->http, &client->request);

	assert_non_null(transfer);
	return transfer;
}

static inline KtHttpTransfer *
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

static inline void
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
static inline KtHttpAnswer
answer_to_text(const char *text)
{
	Server *server = start_with_text(answer_once, text);
	Client *client = client_of(server);
	Result result;

	perform(client, &result);
	free(result.body);
	client_free(client);
	stop_server(server);
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

static inline bool
under_valgrind(void)
{
	const char *preload = getenv("LD_PRELOAD");

	return preload != NULL && strstr(preload, "vgpreload") != NULL;
}

static inline void
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

static inline size_t
heap_in_use(void)
{
#if __GLIBC_PREREQ(2, 33)
	return mallinfo2().uordblks;
#else
	return (size_t) mallinfo().uordblks;
#endif
}

/* ---- scripts and holes that several programs use ---- */

/* ---- sent once ------------------------------------------------------------------------------------------- */

/* Reading from the connection ends after so long without a byte. */
static inline void
be_patient_for(int fd, int ms)
{
	struct timeval patience = {.tv_usec = ms * 1000};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

/* Reads the request and resets or closes, as the text says, after some of an answer. */
static inline void
break_off(Server *server, int fd, int nth)
{
	(void) nth;
	if (!read_request(server, fd))
		return;
	send_text(fd, server->text + 1);
	if (server->text[0] == 'R')
		reset_connection(fd);
}

/* A listening socket whose queue is full: further SYNs are dropped. */
typedef struct Blackhole
{
	int listener;
	int port;
	int fillers[8];
} Blackhole;

static inline void
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

static inline void
blackhole_close(Blackhole *hole)
{
	size_t i;

	for (i = 0; i < lengthof(hole->fillers); i++)
		close(hole->fillers[i]);
	close(hole->listener);
}

/* ---- the environment ------------------------------------------------------------------------------------------------------ */

static char environment_dir[] = "/tmp/kt_http_XXXXXX";
static char keylog_file[64];
static Server *proxy; /* what the proxy variables point to */

static inline int
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

static inline int
remove_hostile_environment(void **state)
{
	char path[80];

	(void) state;
	stop_server(proxy);
	snprintf(path, sizeof(path), "%s/.netrc", environment_dir);
	(void) unlink(path);
	return rmdir(environment_dir);
}

/* Whatever a test does, nothing may have been sent off this machine. */
static inline int
begin_test(void **state)
{
	(void) state;
	alarm(TEST_SECONDS);
	return 0;
}

static inline int
end_test(void **state)
{
	(void) state;
	alarm(0);
	release_resolver();
	return atomic_load(&connects_elsewhere);
}

#define http_test(test) cmocka_unit_test_setup_teardown(test, begin_test, end_test)

#endif /* KT_SERVERS_H */
