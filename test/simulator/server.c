/*
 * The HTTP server: MHD without threads, one daemon a listener, and a request's life from head to end.
 *
 * A request is read whole, answered by routes.c, and its answer is carried out: at once, or after a wait
 * during which MHD has the connection suspended. After a wait MHD calls the handler again, which then
 * finds the phase changed and lets the answer go out (SIM_DUE) or closes (SIM_OVER).
 */
#include "simulator.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MAX_DAEMONS 64
#define MAX_STATUS 600
#define KEEP_BUFFER 65536

typedef struct Server
{
	SimWatch watch; /* of MHD's epoll fd */
	struct MHD_Daemon *mhd;
	char *cert;
	char *key;
} Server;

static Server servers[MAX_DAEMONS];
static int nservers;
static bool must_run;
static bool stopping;

static SimRequest *waiting; /* the suspended */
static SimRequest *spare;
static uint64_t connections;
static uint64_t open_connections;
static uint64_t answered[SIM_ENDPOINTS][MAX_STATUS]; /* by status; 0: none */

const char *
sim_request_header(const SimRequest *request, const char *name)
{
	return MHD_lookup_connection_value(request->mhd, MHD_HEADER_KIND, name);
}

const char *
sim_request_query(const SimRequest *request, const char *name)
{
	return MHD_lookup_connection_value(request->mhd, MHD_GET_ARGUMENT_KIND, name);
}

static void
resume(SimRequest *request, SimPhase phase)
{
	sim_timer_clear(&request->timer);
	request->minds_client = false;
	if (request->prev != NULL)
		request->prev->next = request->next;
	else
		waiting = request->next;
	if (request->next != NULL)
		request->next->prev = request->prev;
	request->next = request->prev = NULL;
	request->phase = phase;
	MHD_resume_connection(request->mhd);
	must_run = true;
}

static void
suspend(SimRequest *request)
{
	request->phase = SIM_WAITING;
	request->prev = NULL;
	request->next = waiting;
	if (waiting != NULL)
		waiting->prev = request;
	waiting = request;
	MHD_suspend_connection(request->mhd);
}

/* Outside the handler alone: what is suspended in its first call comes back as if its body had ended. */
static void
read_again(SimTimer *timer)
{
	SimRequest *request = (SimRequest *) ((char *) timer - offsetof(SimRequest, timer));

	suspend(request);
	resume(request, SIM_READING);
}

/*
 * MHD (0.9.75, epoll) does not see that the client has left where it reads what the client had sent only after
 * that: it waits for a new edge, and would keep half a request until its time-out. Suspended and resumed it
 * reads again.
 */
static void
look_for_end(SimRequest *request)
{
	request->timer.fire = read_again;
	sim_timer_set(&request->timer, sim_now());
}

/* The client sends nothing more. MHD does not see it either while the connection is suspended. */
static void
client_left(SimWatch *watch)
{
	SimConn *conn = (SimConn *) ((char *) watch - offsetof(SimConn, watch));
	SimRequest *request = conn->request;

	conn->left = true;
	if (request != NULL && request->phase == SIM_WAITING && request->minds_client)
		resume(request, SIM_OVER);
	else if (request != NULL && request->phase == SIM_READING)
		look_for_end(request);
}

/* The request is over when its client leaves. */
static void
mind_client(SimRequest *request)
{
	request->minds_client = true;
	if (request->conn->left)
		resume(request, SIM_OVER);
}

static void
stream_step(SimTimer *timer)
{
	SimRequest *request = (SimRequest *) ((char *) timer - offsetof(SimRequest, timer));
	SimAnswer *answer = &request->answer;
	int64_t step_ms = answer->step_ms > 0 ? answer->step_ms : 1;

	if (sim_fault_stream(request))
	{
		/* A reset right behind the bytes could overtake them in the client. */
		if (request->sent == request->out.len && answer->end == SIM_RESET && step_ms < 20)
			step_ms = 20;
		sim_timer_set(timer, sim_now() + step_ms * 1000);
		return;
	}
	if (answer->end == SIM_HANG)
		return;
	if (answer->end == SIM_RESET)
		sim_fault_reset(request->conn->fd);
	resume(request, SIM_OVER);
}

static enum MHD_Result
send_answer(SimRequest *request)
{
	SimAnswer *answer = &request->answer;
	struct MHD_Response *response;
	enum MHD_Result result;

	if (answer->delivery == SIM_PAD)
		response = sim_fault_padded(request);
	else
		response = MHD_create_response_from_buffer(request->out.len, request->out.data,
		                                           MHD_RESPMEM_MUST_COPY);
	if (response == NULL)
		return MHD_NO;
	MHD_add_response_header(response, "Content-Type", answer->content_type);
	if (answer->retry_after[0] != '\0')
		MHD_add_response_header(response, "Retry-After", answer->retry_after);
	if (answer->location[0] != '\0')
		MHD_add_response_header(response, "Location", answer->location);
	if (answer->allow != NULL)
		MHD_add_response_header(response, "Allow", answer->allow);
	if (answer->gzip)
		MHD_add_response_header(response, "Content-Encoding", "gzip");
	result = MHD_queue_response(request->mhd, (unsigned) answer->status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result
carry_out(SimRequest *request)
{
	request->phase = SIM_DUE;
	switch (request->answer.delivery)
	{
		case SIM_SEND:
		case SIM_PAD:
			return send_answer(request);
		case SIM_CLOSE:
			return MHD_NO;
		case SIM_RESET:
			sim_fault_reset(request->conn->fd);
			return MHD_NO;
		case SIM_HANG:
			suspend(request);
			mind_client(request);
			return MHD_YES;
		case SIM_STREAM:
			suspend(request);
			request->timer.fire = stream_step;
			sim_timer_set(&request->timer, sim_now());
			mind_client(request);
			return MHD_YES;
	}
	return MHD_NO;
}

static void
latency_over(SimTimer *timer)
{
	resume((SimRequest *) ((char *) timer - offsetof(SimRequest, timer)), SIM_DUE);
}

static enum MHD_Result
deliver(SimRequest *request)
{
	int status = request->answer.status;

	sim_timer_clear(&request->timer);
	answered[request->endpoint][status > 0 && status < MAX_STATUS ? status : 0]++;
	if (request->answer.latency_ms <= 0)
		return carry_out(request);
	suspend(request);
	request->timer.fire = latency_over;
	sim_timer_set(&request->timer, sim_now() + request->answer.latency_ms * 1000);
	return MHD_YES;
}

static SimRequest *
request_new(void)
{
	SimRequest *request = spare;
	SimText body;
	SimText out;

	if (request == NULL)
		return sim_alloc(sizeof(*request));
	spare = request->next;
	body = request->body;
	out = request->out;
	*request = (SimRequest){.body = body, .out = out};
	request->body.len = request->out.len = 0;
	return request;
}

static void
request_free(SimRequest *request)
{
	if (request->body.cap > KEEP_BUFFER)
		sim_text_free(&request->body);
	if (request->out.cap > KEEP_BUFFER)
		sim_text_free(&request->out);
	request->next = spare;
	spare = request;
}

static SimRequest *
request_begin(struct MHD_Connection *mhd, const char *path, const char *method)
{
	SimRequest *request = request_new();
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	request->mhd = mhd;
	request->conn = info->socket_context;
	request->conn->request = request;
	request->number = ++request->conn->requests;
	request->path = path;
	request->method = method;
	request->endpoint = sim_route_find(path);
	request->key_state = sim_key_find(sim_request_header(request, "x-api-key"), &request->key);
	request->answer.content_type = "application/json; charset=utf-8";
	return request;
}

/* Whether a scenario strikes before the body was read. If so its answer is under way. */
static bool
strike_early(SimRequest *request, SimWhen when, enum MHD_Result *result)
{
	const SimScenario *scenario;

	if (request->endpoint == SIM_CONTROL || request->endpoint == SIM_ELSEWHERE)
		return false;
	scenario = sim_scenario_pick_early(request->endpoint, when, request->number > 1);
	if (scenario == NULL)
		return false;
	request->answer.status = 200;
	sim_fault_shape(request, scenario);
	sim_route_lost(request, scenario->name);
	*result = deliver(request);
	return true;
}

static enum MHD_Result
take(SimRequest *request, const char *data, size_t *len)
{
	enum MHD_Result result;

	if (request->body.len == 0 && strike_early(request, SIM_MID_BODY, &result))
		return result;
	if (request->body.len + *len > SIM_MAX_BODY)
		request->too_large = true;
	else
		sim_text_put(&request->body, data, *len);
	*len = 0;
	if (request->conn->left)
		look_for_end(request);
	return MHD_YES;
}

static enum MHD_Result
on_request(void *cls, struct MHD_Connection *mhd, const char *path, const char *method,
           const char *version, const char *data, size_t *len, void **slot)
{
	SimRequest *request = *slot;
	enum MHD_Result result;

	(void) cls;
	(void) version;
	if (stopping)
		return MHD_NO;
	if (request == NULL)
	{
		*slot = request = request_begin(mhd, path, method);
		if (strike_early(request, SIM_BEFORE_BODY, &result))
			return result;
		if (request->conn->left)
			look_for_end(request);
		return MHD_YES;
	}
	switch (request->phase)
	{
		case SIM_READING:
			if (*len > 0)
				return take(request, data, len);
			request->whole = true;
			sim_route_answer(request);
			return deliver(request);
		case SIM_WAITING:
			return MHD_YES;
		case SIM_DUE:
			return carry_out(request);
		case SIM_OVER:
			return MHD_NO;
	}
	return MHD_NO;
}

static void
on_completed(void *cls, struct MHD_Connection *mhd, void **slot,
             enum MHD_RequestTerminationCode why)
{
	SimRequest *request = *slot;

	(void) cls;
	(void) mhd;
	(void) why;
	if (request == NULL)
		return;
	if (!request->whole && !request->recorded)
		sim_route_lost(request, NULL);
	sim_timer_clear(&request->timer);
	request->conn->request = NULL;
	request_free(request);
	*slot = NULL;
}

static uint16_t
peer_port(struct MHD_Connection *mhd)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);

	if (info == NULL || info->client_addr == NULL)
		return 0;
	if (info->client_addr->sa_family == AF_INET6)
		return ntohs(((const struct sockaddr_in6 *) (const void *) info->client_addr)->sin6_port);
	return ntohs(((const struct sockaddr_in *) (const void *) info->client_addr)->sin_port);
}

static void
on_connection(void *cls, struct MHD_Connection *mhd, void **slot,
              enum MHD_ConnectionNotificationCode what)
{
	SimConn *conn;

	(void) cls;
	if (what == MHD_CONNECTION_NOTIFY_CLOSED)
	{
		conn = *slot;
		sim_loop_remove(&conn->watch);
		free(conn);
		*slot = NULL;
		open_connections--;
		return;
	}
	*slot = conn = sim_alloc(sizeof(*conn));
	conn->number = ++connections;
	conn->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	conn->peer_port = peer_port(mhd);
	conn->watch = (SimWatch){.fd = conn->fd, .ready = client_left};
	sim_loop_add(&conn->watch, EPOLLRDHUP | EPOLLET);
	open_connections++;
}

static void
mhd_ready(SimWatch *watch)
{
	(void) watch;
	must_run = true;
}

/* A server on a listening socket; with TLS when cert is given. cert and key are PEM texts. */
struct MHD_Daemon *
sim_server_start(int fd, const char *cert, const char *key, const char *priorities)
{
	Server *server = &servers[nservers];
	unsigned flags = MHD_USE_EPOLL | MHD_USE_TURBO | MHD_ALLOW_SUSPEND_RESUME;
	struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *) cert},
	                               {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *) key},
	                               {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *) priorities},
	                               {MHD_OPTION_END, 0, NULL}};
	struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};

	if (nservers == MAX_DAEMONS)
		return NULL;
	if (cert != NULL)
		flags |= MHD_USE_TLS;
	server->mhd = MHD_start_daemon(
		flags, 0, NULL, NULL, on_request, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
		MHD_OPTION_NOTIFY_CONNECTION, on_connection, NULL, MHD_OPTION_NOTIFY_COMPLETED,
		on_completed, NULL, MHD_OPTION_CONNECTION_LIMIT, 60000u, MHD_OPTION_CONNECTION_TIMEOUT,
		120u, MHD_OPTION_ARRAY, cert != NULL ? tls : none, MHD_OPTION_END);
	if (server->mhd == NULL)
		return NULL;
	server->watch.fd = MHD_get_daemon_info(server->mhd, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
	server->watch.ready = mhd_ready;
	sim_loop_add(&server->watch, EPOLLIN);
	return servers[nservers++].mhd;
}

int64_t
sim_server_timeout(void)
{
	int64_t least = -1;

	for (int i = 0; i < nservers; i++)
	{
		unsigned long long ms;

		if (MHD_get_timeout(servers[i].mhd, &ms) != MHD_YES)
			continue;
		if (ms == 0)
			must_run = true;
		if (least < 0 || (int64_t) ms < least)
			least = (int64_t) ms;
	}
	return must_run ? 0 : least;
}

/* Runs again at once where a timer resumed a connection: MHD_get_timeout() of 0.9.75 overlooks those. */
void
sim_server_run(void)
{
	static int64_t last;
	int64_t now = sim_now();

	if (!must_run && now - last < 1000000)
		return;
	last = now;
	must_run = false;
	for (int i = 0; i < nservers; i++)
		MHD_run(servers[i].mhd);
}

void
sim_server_stop(void)
{
	stopping = true;
	while (waiting != NULL)
		resume(waiting, SIM_OVER);
	sim_server_run();
	for (int i = 0; i < nservers; i++)
	{
		sim_loop_remove(&servers[i].watch);
		MHD_stop_daemon(servers[i].mhd);
	}
	while (spare != NULL)
	{
		SimRequest *request = spare;

		spare = request->next;
		sim_text_free(&request->body);
		sim_text_free(&request->out);
		free(request);
	}
}

void
sim_server_stats(SimText *out)
{
	sim_text_putf(out, "\"connections\":%llu,\"openConnections\":%llu,\"requests\":{",
	              (unsigned long long) connections, (unsigned long long) open_connections);
	for (int endpoint = 0; endpoint < SIM_ENDPOINTS; endpoint++)
	{
		const char *separator = "";

		sim_text_putf(out, "%s\"%s\":{", endpoint > 0 ? "," : "", sim_endpoint_names[endpoint]);
		for (int status = 0; status < MAX_STATUS; status++)
		{
			if (answered[endpoint][status] == 0)
				continue;
			sim_text_puts(out, separator);
			if (status == 0)
				sim_text_puts(out, "\"none\"");
			else
				sim_text_putf(out, "\"%d\"", status);
			sim_text_putf(out, ":%llu", (unsigned long long) answered[endpoint][status]);
			separator = ",";
		}
		sim_text_puts(out, "}");
	}
	sim_text_puts(out, "}");
}

void
sim_server_reset(void)
{
	memset(answered, 0, sizeof(answered));
}
