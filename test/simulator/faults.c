/*
 * Bends an ordinary answer to a scenario, and does to a connection what an HTTP server would not.
 *
 * Whatever HTTP can say goes through MHD. What it cannot (a truncated or dripping answer, raw bytes) is a
 * stream: bytes that are sent on the connection's socket, or its TLS session, while MHD has it suspended.
 */
#include "simulator.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <zlib.h>

/* Disconnecting a TCP socket sends RST at once and leaves the descriptor to MHD, who closes it. */
void
sim_fault_reset(int fd)
{
	const struct sockaddr nobody = {.sa_family = AF_UNSPEC};

	connect(fd, &nobody, sizeof(nobody));
}

static void
deflate_some(z_stream *z, SimText *out, int flush)
{
	char chunk[65536];

	do
	{
		z->next_out = (Bytef *) chunk;
		z->avail_out = sizeof(chunk);
		deflate(z, flush);
		sim_text_put(out, chunk, sizeof(chunk) - z->avail_out);
	} while (z->avail_out == 0);
}

static bool
gzip_with_blanks(SimText *text, int64_t blanks)
{
	static char space[1024 * 1024];
	z_stream z = {0};
	SimText out = {0};

	if (deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		return false;
	memset(space, ' ', sizeof(space));
	z.next_in = (Bytef *) text->data;
	z.avail_in = (uInt) text->len;
	deflate_some(&z, &out, Z_NO_FLUSH);
	for (; blanks > 0; blanks -= (int64_t) sizeof(space))
	{
		z.next_in = (Bytef *) space;
		z.avail_in = blanks < (int64_t) sizeof(space) ? (uInt) blanks : (uInt) sizeof(space);
		deflate_some(&z, &out, Z_NO_FLUSH);
	}
	deflate_some(&z, &out, Z_FINISH);
	deflateEnd(&z);
	sim_text_free(text);
	*text = out;
	return true;
}

bool
sim_fault_gzip(SimText *text)
{
	return gzip_with_blanks(text, 0);
}

/* A bomb takes a third of a second to make, so it is kept; its callId is always call_bomb. */
static void
make_bomb(SimRequest *request, int64_t bytes)
{
	static SimText bomb;
	static int64_t bomb_bytes = -1;

	if (bomb_bytes != bytes)
	{
		sim_text_free(&bomb);
		sim_text_puts(&bomb,
		              "{\"success\":true,\"callId\":\"call_bomb\",\"callStatus\":\"registered\"}");
		gzip_with_blanks(&bomb, bytes);
		bomb_bytes = bytes;
	}
	request->out.len = 0;
	sim_text_put(&request->out, bomb.data, bomb.len);
	request->answer.gzip = true;
}

static void
set_retry_after(SimAnswer *answer, const char *value)
{
	time_t when;
	struct tm parts;

	answer->retry_after[0] = '\0';
	if (value == NULL)
		return;
	if (strncmp(value, "date", 4) != 0)
	{
		snprintf(answer->retry_after, sizeof(answer->retry_after), "%s", value);
		return;
	}
	when = time(NULL) + atol(value + 4);
	gmtime_r(&when, &parts);
	strftime(answer->retry_after, sizeof(answer->retry_after), "%a, %d %b %Y %H:%M:%S GMT", &parts);
}

static const char *
words_for(int status)
{
	switch (status)
	{
		case 400:
			return "Missing required parameters";
		case 401:
			return "Invalid API key";
		case 402:
			return "Insufficient credits";
		case 429:
			return "Too Many Requests";
		case 500:
			return "Internal server error";
		default:
			return "Simulated error";
	}
}

/* Puts a head before the body: the answer is a stream from here on. keep: bytes of the body to send. */
static void
make_stream(SimRequest *request, size_t keep, SimDelivery end)
{
	SimAnswer *answer = &request->answer;
	SimText whole = {0};

	sim_text_putf(&whole,
	              "HTTP/1.1 %d Simulated\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
	              "Connection: close\r\n\r\n",
	              answer->status, answer->content_type, request->out.len);
	sim_text_put(&whole, request->out.data, keep);
	sim_text_free(&request->out);
	request->out = whole;
	answer->delivery = SIM_STREAM;
	answer->end = end;
}

static void
set_body(SimRequest *request, const char *body, size_t len)
{
	request->out.len = 0;
	sim_text_put(&request->out, body ? body : "", len > 0 || body == NULL ? len : strlen(body));
}

static void
no_answer(SimAnswer *answer, SimDelivery delivery)
{
	answer->delivery = delivery;
	answer->status = 0;
}

static void
redirect(SimRequest *request, const SimScenario *scenario)
{
	snprintf(request->answer.location, sizeof(request->answer.location), "%s",
	         scenario->location ? scenario->location : "https://redirect.invalid/");
	request->answer.content_type = "text/html";
	set_body(request, "<html><body>Moved</body></html>", 0);
}

static void
truncate_answer(SimRequest *request, const SimScenario *scenario)
{
	size_t keep = scenario->bytes > 0 ? (size_t) scenario->bytes : request->out.len / 2;

	make_stream(request, keep < request->out.len ? keep : request->out.len, SIM_CLOSE);
}

void
sim_fault_shape(SimRequest *request, const SimScenario *scenario)
{
	SimAnswer *answer = &request->answer;

	answer->latency_ms +=
		scenario->latency_ms + (scenario->fault == SIM_FAULT_NONE ? scenario->ms : 0);
	if (scenario->status != 0)
		answer->status = scenario->status;
	if (scenario->content_type != NULL)
		answer->content_type = scenario->content_type;
	switch (scenario->fault)
	{
		case SIM_FAULT_NONE:
			break;
		case SIM_FAULT_STATUS:
			sim_answer_error(request, scenario->status, words_for(scenario->status));
			if (scenario->body != NULL)
				set_body(request, scenario->body, scenario->body_len);
			set_retry_after(answer, scenario->retry_after);
			break;
		case SIM_FAULT_BODY:
			set_body(request, scenario->body, scenario->body_len);
			set_retry_after(answer, scenario->retry_after);
			break;
		case SIM_FAULT_RESET:
			if (scenario->when == SIM_MID_ANSWER)
				make_stream(request, request->out.len / 2, SIM_RESET);
			else
				no_answer(answer, SIM_RESET);
			break;
		case SIM_FAULT_DROP:
			no_answer(answer, SIM_CLOSE);
			break;
		case SIM_FAULT_HANG:
			no_answer(answer, SIM_HANG);
			break;
		case SIM_FAULT_TRUNCATE:
			truncate_answer(request, scenario);
			break;
		case SIM_FAULT_DRIP:
			make_stream(request, request->out.len, SIM_CLOSE);
			answer->step_bytes = scenario->bytes > 0 ? scenario->bytes : 1;
			answer->step_ms = scenario->ms > 0 ? scenario->ms : 100;
			break;
		case SIM_FAULT_HUGE:
			answer->delivery = SIM_PAD;
			answer->pad = scenario->bytes > 0 ? scenario->bytes : -1;
			break;
		case SIM_FAULT_REDIRECT:
			redirect(request, scenario);
			break;
		case SIM_FAULT_RAW:
			no_answer(answer, SIM_STREAM);
			answer->end = scenario->when == SIM_MID_ANSWER ? SIM_HANG : SIM_CLOSE;
			set_body(request, scenario->body, scenario->body_len);
			break;
		case SIM_FAULT_GZIP_UNASKED:
			answer->gzip = answer->gzip || sim_fault_gzip(&request->out);
			break;
		case SIM_FAULT_GZIP_BOMB:
			make_bomb(request, scenario->bytes > 0 ? scenario->bytes : 100 * 1024 * 1024);
			break;
	}
}

static ssize_t
send_bytes(SimRequest *request, const char *data, size_t len)
{
	const union MHD_ConnectionInfo *tls =
		MHD_get_connection_info(request->mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);
	ssize_t sent;

	if (tls != NULL && tls->tls_session != NULL)
	{
		sent = gnutls_record_send((gnutls_session_t) tls->tls_session, data, len);
		return sent == GNUTLS_E_AGAIN || sent == GNUTLS_E_INTERRUPTED ? 0 : sent;
	}
	sent = send(request->conn->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	return sent < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : sent;
}

bool
sim_fault_stream(SimRequest *request)
{
	size_t len = request->out.len - request->sent;
	ssize_t sent;

	if (len == 0)
		return false;
	if (request->answer.step_bytes > 0 && len > (size_t) request->answer.step_bytes)
		len = (size_t) request->answer.step_bytes;
	sent = send_bytes(request, request->out.data + request->sent, len);
	if (sent < 0)
		return false;
	request->sent += (size_t) sent;
	return true;
}

static ssize_t
read_padded(void *arg, uint64_t pos, char *buf, size_t max)
{
	SimRequest *request = arg;

	if (pos < request->out.len)
	{
		size_t len = request->out.len - pos;

		if (len > max)
			len = max;
		memcpy(buf, request->out.data + pos, len);
		return (ssize_t) len;
	}
	memset(buf, ' ', max);
	return (ssize_t) max;
}

struct MHD_Response *
sim_fault_padded(SimRequest *request)
{
	uint64_t size = request->answer.pad < 0 ? MHD_SIZE_UNKNOWN
	                                        : request->out.len + (uint64_t) request->answer.pad;

	return MHD_create_response_from_callback(size, 65536, read_padded, request, NULL);
}
