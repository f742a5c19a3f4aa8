/*
 * The three documented endpoints, to the letter of the documentation.
 *
 * A request is judged in this order: API key (401), rate limit (429), parameters (400), then the scenario,
 * then credits (402). The ordinary answer is made first and then bent by the scenario, so a truncated or
 * dripping answer is one that would have been right.
 */
#include "simulator.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

SimEndpoint
sim_route_find(const char *path)
{
	if (strcmp(path, "/api/create-call") == 0)
		return SIM_CREATE_CALL;
	if (strcmp(path, "/api/create-web-call") == 0)
		return SIM_CREATE_WEB_CALL;
	if (strcmp(path, "/api/calls") == 0)
		return SIM_CALLS;
	return strncmp(path, "/sim/", 5) == 0 ? SIM_CONTROL : SIM_ELSEWHERE;
}

void
sim_answer_error(SimRequest *request, int status, const char *words)
{
	request->answer.status = status;
	request->answer.gzip = false;
	request->out.len = 0;
	sim_text_puts(&request->out, "{\"success\":false,\"error\":");
	sim_text_put_string(&request->out, words, strlen(words));
	sim_text_puts(&request->out, "}");
}

static bool
admit(SimRequest *request)
{
	if (request->key_state != SIM_KEY_VALID)
	{
		sim_answer_error(request, 401, "Invalid API key");
		return false;
	}
	if (!sim_key_admit(request->key))
	{
		sim_answer_error(request, 429, "Too Many Requests");
		strcpy(request->answer.retry_after, "1");
		return false;
	}
	return true;
}

static bool
is_filled(const json_t *value)
{
	return json_is_string(value) && json_string_length(value) > 0;
}

static bool
check_parameters(SimRequest *request, const json_t *body, const SimLedgerEntry *entry)
{
	const char *wrong = NULL;

	if (!json_is_object(body))
		wrong = "The body is not a JSON object";
	else if (!is_filled(entry->account))
		wrong = "Missing required parameters: accountId";
	else if (request->endpoint == SIM_CREATE_CALL && !is_filled(entry->to_number))
		wrong = "Missing required parameters: toNumber";
	else if (entry->variables != NULL && !json_is_object(entry->variables) &&
	         !json_is_null(entry->variables))
		wrong = "dynamicVariables must be an object";
	if (wrong != NULL)
		sim_answer_error(request, 400, wrong);
	else if (request->key->account != NULL &&
	         strcmp(request->key->account, json_string_value(entry->account)) != 0)
	{
		sim_answer_error(request, 401, "Invalid API key");
		return false;
	}
	return wrong == NULL;
}

static const char *
first_name_in(const json_t *body, const json_t *variables)
{
	const char *name = json_string_value(json_object_get(body, "firstName"));

	if (name == NULL)
		name = json_string_value(json_object_get(variables, "first_name"));
	return name ? name : json_string_value(json_object_get(variables, "firstName"));
}

static void
put_base64url(SimText *out, const unsigned char *in, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

	for (size_t i = 0; i < len; i += 3)
	{
		size_t left = len - i;
		unsigned bits = (unsigned) in[i] << 16 | (left > 1 ? (unsigned) in[i + 1] << 8 : 0) |
		                (left > 2 ? (unsigned) in[i + 2] : 0);
		char four[4] = {digits[bits >> 18], digits[bits >> 12 & 63], digits[bits >> 6 & 63],
		                digits[bits & 63]};

		sim_text_put(out, four, left > 2 ? 4 : left + 1);
	}
}

/* Looks like a JWT and is signed with nothing. */
static void
put_token(SimText *out, const char *call_id)
{
	static const char head[] = "{\"alg\":\"HS256\",\"typ\":\"JWT\"}";
	SimText claims = {0};
	uint64_t signature[4];

	sim_text_puts(&claims, "{\"callId\":");
	sim_text_put_string(&claims, call_id, strlen(call_id));
	sim_text_putf(&claims, ",\"iat\":%lld,\"exp\":%lld}", (long long) time(NULL),
	              (long long) time(NULL) + 3600);
	put_base64url(out, (const unsigned char *) head, sizeof(head) - 1);
	sim_text_puts(out, ".");
	put_base64url(out, (const unsigned char *) claims.data, claims.len);
	sim_text_puts(out, ".");
	for (int i = 0; i < 4; i++)
		signature[i] = sim_random();
	put_base64url(out, (const unsigned char *) signature, sizeof(signature));
	sim_text_free(&claims);
}

static void
put_created(SimRequest *request, const char *call_id, const json_t *account)
{
	SimText *out = &request->out;

	out->len = 0;
	if (request->endpoint == SIM_CREATE_CALL)
	{
		sim_text_puts(out, "{\"success\":true,\"callId\":");
		sim_text_put_string(out, call_id, strlen(call_id));
		sim_text_puts(out, ",\"callStatus\":\"registered\"}");
		return;
	}
	sim_text_puts(out, "{\"success\":true,\"accessToken\":\"");
	put_token(out, call_id);
	sim_text_puts(out, "\",\"callId\":");
	sim_text_put_string(out, call_id, strlen(call_id));
	sim_text_puts(out, ",\"accountId\":");
	sim_text_put_json(out, account);
	sim_text_puts(out, ",\"sampleRate\":24000}");
}

/* Fills entry with what the call became, if one came to be. fresh is room for its callId. */
static void
create(SimRequest *request, const json_t *body, SimLedgerEntry *entry, char *fresh)
{
	const char *to_number = json_string_value(entry->to_number);
	const SimScenario *scenario =
		sim_scenario_pick(request->endpoint, to_number, request->number > 1);
	bool web = request->endpoint == SIM_CREATE_WEB_CALL;

	entry->scenario = scenario ? scenario->name : NULL;
	entry->applied = scenario == NULL || scenario->applied || scenario->fault == SIM_FAULT_NONE;
	if (entry->applied && sim_settings.credits == 0)
	{
		entry->applied = false;
		sim_answer_error(request, 402, "Insufficient credits");
		return;
	}
	sim_random_id(fresh, web ? "webcall_" : "call_");
	entry->call_id = scenario && scenario->call_id ? scenario->call_id : fresh;
	put_created(request, entry->call_id, entry->account);
	if (entry->applied)
	{
		SimCallSpec spec = {
			.id = entry->call_id,
			.account = json_string_value(entry->account),
			.to_number = to_number,
			.first_name = first_name_in(body, entry->variables),
			.direction = web ? "web" : "outbound",
			.variables = entry->variables,
			.duration = -1,
			.cost = -1,
			.fate = scenario ? scenario->fate : SIM_FATE_ORDINARY,
		};

		sim_call_create(&spec);
		if (sim_settings.credits > 0)
			sim_settings.credits--;
	}
	if (scenario != NULL)
		sim_fault_shape(request, scenario);
	if (!entry->applied)
		entry->call_id = NULL;
}

static void
answer_create(SimRequest *request)
{
	json_t *body = json_loadb(request->body.data ? request->body.data : "", request->body.len,
	                          JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
	SimLedgerEntry entry = {
		.to_number = json_object_get(body, "toNumber"),
		.account = json_object_get(body, "accountId"),
		.variables = json_object_get(body, "dynamicVariables"),
	};
	char fresh[SIM_ID_SIZE];

	if (request->too_large)
		sim_answer_error(request, 413, "Payload too large");
	else if (admit(request) && check_parameters(request, body, &entry))
		create(request, body, &entry, fresh);
	entry.status = request->answer.status;
	sim_ledger_record(request, &entry);
	json_decref(body);
}

static int
status_wanted(const char *name)
{
	if (name == NULL)
		return -1;
	for (int i = SIM_ONGOING; i < SIM_STATUSES; i++)
		if (strcmp(name, sim_status_names[i]) == 0)
			return i;
	return -2;
}

static long
limit_wanted(const char *text)
{
	char *end;
	long limit;

	if (text == NULL)
		return 50;
	limit = strtol(text, &end, 10);
	return end == text || *end != '\0' || limit < 1 || limit > 100 ? -1 : limit;
}

static void
answer_calls(SimRequest *request)
{
	int status = status_wanted(sim_request_query(request, "status"));
	long limit = limit_wanted(sim_request_query(request, "limit"));
	const char *encodings = sim_request_header(request, "Accept-Encoding");
	const SimScenario *scenario;

	if (!admit(request))
		return;
	if (status == -2 || limit < 0)
	{
		sim_answer_error(request, 400,
		                 limit < 0 ? "limit must be a number from 1 to 100"
		                           : "status must be one of completed, ongoing, failed");
		return;
	}
	scenario = sim_scenario_pick(SIM_CALLS, NULL, request->number > 1);
	request->answer.status = 200;
	sim_calls_list(&request->out, request->key->account, status, (size_t) limit);
	if (scenario != NULL)
		sim_fault_shape(request, scenario);
	if (request->answer.delivery == SIM_SEND && !request->answer.gzip && encodings != NULL &&
	    strstr(encodings, "gzip") != NULL)
		request->answer.gzip = sim_fault_gzip(&request->out);
}

void
sim_route_answer(SimRequest *request)
{
	bool get = strcmp(request->method, "GET") == 0;
	bool post = strcmp(request->method, "POST") == 0;

	request->answer.status = 200;
	request->answer.latency_ms = sim_settings.latency_ms;
	switch (request->endpoint)
	{
		case SIM_CREATE_CALL:
		case SIM_CREATE_WEB_CALL:
			if (post)
			{
				answer_create(request);
				return;
			}
			request->answer.allow = "POST";
			break;
		case SIM_CALLS:
			if (get)
			{
				answer_calls(request);
				return;
			}
			request->answer.allow = "GET";
			break;
		case SIM_CONTROL:
			request->answer.latency_ms = 0;
			sim_control_answer(request);
			return;
		case SIM_ELSEWHERE:
			sim_answer_error(request, 404, "Not found");
			return;
	}
	sim_answer_error(request, 405, "Method not allowed");
}

void
sim_route_lost(SimRequest *request, const char *scenario)
{
	SimLedgerEntry entry = {.scenario = scenario, .status = request->answer.status};

	if (strcmp(request->method, "POST") == 0 &&
	    (request->endpoint == SIM_CREATE_CALL || request->endpoint == SIM_CREATE_WEB_CALL))
		sim_ledger_record(request, &entry);
}
