/*
 * The control endpoint, /sim/: scenarios, settings, calls made by hand, and what the simulator saw.
 *
 * Needs no key and never suffers a scenario.
 */
#include "simulator.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct Route
{
	const char *method;
	const char *path; /* one that ends in '/' is a prefix */
	void (*answer)(SimRequest *request, const json_t *body, const char *rest);
} Route;

static void
put_ok(SimRequest *request)
{
	sim_text_puts(&request->out, "{\"ok\":true}");
}

static void
put_dump(SimRequest *request, json_t *value)
{
	sim_text_put_json(&request->out, value);
	json_decref(value);
}

static void
scenarios_add(SimRequest *request, const json_t *body, const char *rest)
{
	const char *wrong = NULL;

	(void) rest;
	if (json_is_array(body))
		for (size_t i = 0; i < json_array_size(body) && wrong == NULL; i++)
			wrong = sim_scenario_add(json_array_get(body, i));
	else
		wrong = sim_scenario_add(body);
	if (wrong != NULL)
		sim_answer_error(request, 400, wrong);
	else
		put_ok(request);
}

static void
scenarios_clear(SimRequest *request, const json_t *body, const char *rest)
{
	(void) body;
	(void) rest;
	sim_scenario_clear();
	sim_number_reset();
	put_ok(request);
}

static void
scenarios_show(SimRequest *request, const json_t *body, const char *rest)
{
	(void) body;
	(void) rest;
	put_dump(request, sim_scenario_dump());
}

static void
settings_change(SimRequest *request, const json_t *body, const char *rest)
{
	const char *wrong = sim_settings_apply(body);

	(void) rest;
	if (wrong != NULL)
		sim_answer_error(request, 400, wrong);
	else
		put_dump(request, sim_settings_dump());
}

static void
settings_show(SimRequest *request, const json_t *body, const char *rest)
{
	(void) body;
	(void) rest;
	put_dump(request, sim_settings_dump());
}

static void
ledger_show(SimRequest *request, const json_t *body, const char *rest)
{
	const char *since = sim_request_query(request, "since");

	(void) body;
	(void) rest;
	sim_ledger_read(&request->out, sim_request_query(request, "toNumber"),
	                since ? atoll(since) : 0);
}

static void
k_show(SimRequest *request, const json_t *body, const char *rest)
{
	const char *to_number = sim_request_query(request, "toNumber");

	(void) body;
	(void) rest;
	if (to_number == NULL)
		sim_answer_error(request, 400, "toNumber is wanted");
	else
		sim_ledger_count(&request->out, to_number);
}

static void
webhooks_show(SimRequest *request, const json_t *body, const char *rest)
{
	(void) body;
	(void) rest;
	sim_webhook_results(&request->out, sim_request_query(request, "callId"));
}

static int
status_of(const json_t *value, int otherwise)
{
	for (int i = 0; i < SIM_STATUSES && json_is_string(value); i++)
		if (strcmp(json_string_value(value), sim_status_names[i]) == 0)
			return i;
	return value == NULL ? otherwise : -1;
}

static const char *
direction_of(const json_t *value)
{
	const char *name = json_string_value(value);

	if (name == NULL || strcmp(name, "inbound") == 0)
		return "inbound";
	return strcmp(name, "web") == 0 ? "web" : "outbound";
}

static int64_t
number_of(const json_t *body, const char *name, int64_t otherwise)
{
	const json_t *value = json_object_get(body, name);

	return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

/* NULL, or what is wrong. settled unless the body says false: the status stays as given. */
static const char *
read_spec(const json_t *body, SimCallSpec *spec)
{
	const char *account = json_string_value(json_object_get(body, "accountId"));
	const char *created = json_string_value(json_object_get(body, "createdAt"));
	int status = status_of(json_object_get(body, "status"), SIM_COMPLETED);

	if (status < 0)
		return "status: one of registered, ongoing, completed, failed";
	spec->id = json_string_value(json_object_get(body, "callId"));
	spec->account = account ? account : "sim-account";
	spec->to_number = json_string_value(json_object_get(body, "toNumber"));
	spec->first_name = json_string_value(json_object_get(body, "firstName"));
	spec->direction = direction_of(json_object_get(body, "direction"));
	spec->variables = json_object_get(body, "dynamicVariables");
	spec->status = (SimStatus) status;
	spec->duration = number_of(body, "duration", -1);
	spec->cost = number_of(body, "cost", -1);
	spec->settled = !json_is_false(json_object_get(body, "settled"));
	spec->created = (int64_t) time(NULL);
	if (created != NULL && !sim_time_parse(created, &spec->created))
		return "createdAt: as 2025-02-14T10:30:00Z";
	return NULL;
}

static void
calls_make(SimRequest *request, const json_t *body, const char *rest)
{
	SimCallSpec spec = {0};
	const char *wrong = read_spec(body, &spec);
	int64_t n = number_of(body, "n", 1);
	int64_t spacing = number_of(body, "spacing", 0);

	(void) rest;
	if (wrong != NULL)
	{
		sim_answer_error(request, 400, wrong);
		return;
	}
	sim_text_puts(&request->out, "{\"callIds\":[");
	for (int64_t i = 0; i < n; i++, spec.created += spacing)
	{
		const char *id = sim_call_id(sim_call_create(&spec));

		if (i > 0)
			sim_text_puts(&request->out, ",");
		sim_text_put_string(&request->out, id, strlen(id));
	}
	sim_text_puts(&request->out, "]}");
}

static void
call_show(SimRequest *request, const json_t *body, const char *rest)
{
	const SimCall *call = sim_call_find(rest);

	(void) body;
	if (call == NULL)
		sim_answer_error(request, 404, "No such call");
	else
		sim_call_put(&request->out, call, SIM_ROWS_NORMAL, 0);
}

static void
call_finish(SimRequest *request, const json_t *body, const char *rest)
{
	const char *slash = strchr(rest, '/');
	int status = status_of(json_object_get(body, "status"), SIM_COMPLETED);
	char *id = sim_strdup(rest);
	SimCall *call;

	if (slash != NULL)
		id[slash - rest] = '\0';
	call = sim_call_find(id);
	free(id);
	if (slash == NULL || strcmp(slash, "/finish") != 0 || call == NULL)
		sim_answer_error(request, 404, "No such call");
	else if (status < SIM_COMPLETED)
		sim_answer_error(request, 400, "status: completed or failed");
	else
	{
		sim_call_finish(call, (SimStatus) status);
		put_ok(request);
	}
}

static void
reset_all(SimRequest *request, const json_t *body, const char *rest)
{
	(void) body;
	(void) rest;
	sim_calls_reset();
	sim_scenario_clear();
	sim_number_reset();
	sim_ledger_reset();
	sim_webhook_reset();
	sim_key_reset();
	sim_server_reset();
	put_ok(request);
}

static void
ledger_sync(SimRequest *request, const json_t *body, const char *rest)
{
	(void) body;
	(void) rest;
	if (sim_ledger_sync())
		put_ok(request);
	else
		sim_answer_error(request, 500, "The ledger cannot be synced");
}

static void
stats_show(SimRequest *request, const json_t *body, const char *rest)
{
	size_t counts[SIM_STATUSES];

	(void) body;
	(void) rest;
	sim_calls_count(counts);
	sim_text_puts(&request->out, "{\"calls\":{");
	for (int i = 0; i < SIM_STATUSES; i++)
		sim_text_putf(&request->out, "%s\"%s\":%zu", i > 0 ? "," : "", sim_status_names[i],
		              counts[i]);
	sim_text_puts(&request->out, "},");
	sim_server_stats(&request->out);
	sim_text_puts(&request->out, "}");
}

static void
listeners_show(SimRequest *request, const json_t *body, const char *rest)
{
	(void) body;
	(void) rest;
	sim_listener_dump(&request->out);
}

static const Route routes[] = {
	{"GET", "scenarios", scenarios_show},
	{"POST", "scenarios", scenarios_add},
	{"DELETE", "scenarios", scenarios_clear},
	{"GET", "settings", settings_show},
	{"POST", "settings", settings_change},
	{"GET", "ledger", ledger_show},
	{"GET", "k", k_show},
	{"GET", "webhooks", webhooks_show},
	{"POST", "calls", calls_make},
	{"GET", "calls/", call_show},
	{"POST", "calls/", call_finish},
	{"POST", "reset", reset_all},
	{"POST", "sync", ledger_sync},
	{"GET", "stats", stats_show},
	{"GET", "listeners", listeners_show},
};

static bool
route_fits(const Route *route, const SimRequest *request, const char *rest)
{
	size_t len = strlen(route->path);

	if (strcmp(route->method, request->method) != 0)
		return false;
	return route->path[len - 1] == '/' ? strncmp(rest, route->path, len) == 0
	                                   : strcmp(rest, route->path) == 0;
}

void
sim_control_answer(SimRequest *request)
{
	const char *rest = request->path + strlen("/sim/");
	json_t *body = NULL;

	if (request->body.len > 0)
	{
		body = json_loadb(request->body.data, request->body.len, JSON_ALLOW_NUL, NULL);
		if (body == NULL)
		{
			sim_answer_error(request, 400, "The body is not JSON");
			return;
		}
	}
	for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++)
		if (route_fits(&routes[i], request, rest))
		{
			const char *slash = strchr(routes[i].path, '/');

			routes[i].answer(request, body, slash ? rest + strlen(routes[i].path) : rest);
			json_decref(body);
			return;
		}
	json_decref(body);
	sim_answer_error(request, 404, "No such control");
}
