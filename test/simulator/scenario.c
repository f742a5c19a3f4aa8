/*
 * Scenarios: named faults that the control endpoint sets, by number, by endpoint or for all requests.
 *
 * For a request the oldest scenario for its number that has not been used up applies, else the oldest for
 * its endpoint, else the magic number's. So several with "times" make a sequence. A scenario's strings
 * stand in the JSON object it came as, which it keeps.
 */
#include "simulator.h"

#include <stdlib.h>
#include <string.h>

typedef struct Owned
{
	SimScenario scenario; /* must be first */
	int endpoint;         /* negative: any */
	const char *to_number;
	json_t *source;
	char *raw;
	struct Owned *next; /* in the order they were added */
	struct Owned *next_same_number;
} Owned;

typedef struct Kind
{
	const char *name;
	SimFault fault;
	bool applied;
	bool only_reused;
	int status;
} Kind;

static const Kind kinds[] = {
	{"none", SIM_FAULT_NONE, true, false, 0},
	{"latency", SIM_FAULT_NONE, true, false, 0},
	{"fate", SIM_FAULT_NONE, true, false, 0},
	{"same_call_id", SIM_FAULT_NONE, true, false, 0},
	{"status", SIM_FAULT_STATUS, false, false, 500},
	{"error_after_create", SIM_FAULT_STATUS, true, false, 500},
	{"body", SIM_FAULT_BODY, false, false, 0},
	{"reset", SIM_FAULT_RESET, false, false, 0},
	{"drop", SIM_FAULT_DROP, false, false, 0},
	{"drop_reused", SIM_FAULT_DROP, false, true, 0},
	{"no_reply_after_create", SIM_FAULT_DROP, true, false, 0},
	{"hang", SIM_FAULT_HANG, false, false, 0},
	{"truncate", SIM_FAULT_TRUNCATE, true, false, 0},
	{"drip", SIM_FAULT_DRIP, true, false, 0},
	{"huge", SIM_FAULT_HUGE, true, false, 0},
	{"redirect", SIM_FAULT_REDIRECT, false, false, 302},
	{"raw", SIM_FAULT_RAW, false, false, 0},
	{"gzip_unasked", SIM_FAULT_GZIP_UNASKED, true, false, 0},
	{"gzip_bomb", SIM_FAULT_GZIP_BOMB, true, false, 0},
};

static const char *const when_names[] = {"after_body", "before_body", "mid_body", "mid_answer"};
static const char *const fate_names[] = {"ordinary", "completed", "busy",     "broken", "rings",
                                         "talks",    "at_once",   "unhooked", "twice",  "nulls"};
const char *const sim_endpoint_names[SIM_ENDPOINTS] = {"create-call", "create-web-call", "calls",
                                                       "control", "elsewhere"};

#define COUNT(array) ((int) (sizeof(array) / sizeof((array)[0])))

static Owned *all;
static Owned **all_tail = &all;
static SimHash by_number;

static const struct
{
	const char *name;
	size_t offset;
} string_fields[] =
	{
		{"name", offsetof(SimScenario, name)},
		{"retry_after", offsetof(SimScenario, retry_after)},
		{"content_type", offsetof(SimScenario, content_type)},
		{"body", offsetof(SimScenario, body)},
		{"data", offsetof(SimScenario, body)},
		{"location", offsetof(SimScenario, location)},
		{"callId", offsetof(SimScenario, call_id)},
},
  number_fields[] = {
	  {"latency", offsetof(SimScenario, latency_ms)},
	  {"bytes", offsetof(SimScenario, bytes)},
	  {"ms", offsetof(SimScenario, ms)},
	  {"times", offsetof(SimScenario, times)},
};

static int
index_of(const char *const *names, int count, const json_t *value)
{
	for (int i = 0; i < count && json_is_string(value); i++)
		if (strcmp(names[i], json_string_value(value)) == 0)
			return i;
	return -1;
}

static const Kind *
kind_of(const json_t *value)
{
	for (int i = 0; i < COUNT(kinds) && json_is_string(value); i++)
		if (strcmp(kinds[i].name, json_string_value(value)) == 0)
			return &kinds[i];
	return NULL;
}

static const char *
set_choice(Owned *owned, const char *name, const json_t *value)
{
	SimScenario *scenario = &owned->scenario;
	int choice;

	if (strcmp(name, "when") == 0)
	{
		if ((choice = index_of(when_names, COUNT(when_names), value)) < 0)
			return "when: one of after_body, before_body, mid_body, mid_answer";
		scenario->when = (SimWhen) choice;
	}
	else if (strcmp(name, "fate") == 0)
	{
		if ((choice = index_of(fate_names, COUNT(fate_names), value)) < 0)
			return "unknown fate";
		scenario->fate = (SimFate) choice;
	}
	else
	{
		if ((choice = index_of(sim_endpoint_names, SIM_CALLS + 1, value)) < 0)
			return "endpoint: one of create-call, create-web-call, calls";
		owned->endpoint = choice;
	}
	return NULL;
}

static const char *
set_field(Owned *owned, const char *name, const json_t *value)
{
	char *scenario = (char *) &owned->scenario;

	if (strcmp(name, "fault") == 0)
		return NULL;
	if (strcmp(name, "when") == 0 || strcmp(name, "fate") == 0 || strcmp(name, "endpoint") == 0)
		return set_choice(owned, name, value);
	if (strcmp(name, "toNumber") == 0 && json_is_string(value))
		owned->to_number = json_string_value(value);
	else if (strcmp(name, "applied") == 0 && json_is_boolean(value))
		owned->scenario.applied = json_is_true(value);
	else if (strcmp(name, "only_reused") == 0 && json_is_boolean(value))
		owned->scenario.only_reused = json_is_true(value);
	else if (strcmp(name, "status") == 0 && json_is_integer(value) &&
	         json_integer_value(value) >= 200 && json_integer_value(value) <= 599)
		owned->scenario.status = (int) json_integer_value(value);
	else
	{
		for (int i = 0; i < COUNT(string_fields); i++)
			if (strcmp(name, string_fields[i].name) == 0 && json_is_string(value))
			{
				*(const char **) (scenario + string_fields[i].offset) = json_string_value(value);
				return NULL;
			}
		for (int i = 0; i < COUNT(number_fields); i++)
			if (strcmp(name, number_fields[i].name) == 0 && json_is_integer(value))
			{
				*(int64_t *) (scenario + number_fields[i].offset) = json_integer_value(value);
				return NULL;
			}
		return "a field is unknown or of the wrong type";
	}
	return NULL;
}

/* The code points of raw data are bytes: "\u00ff" is ff. */
static void
set_raw(Owned *owned)
{
	const unsigned char *in = (const unsigned char *) owned->scenario.body;
	size_t len = 0;

	if (in == NULL)
		in = (const unsigned char *) "";
	owned->raw = sim_alloc(strlen((const char *) in) + 1);
	for (; *in != '\0'; in++)
	{
		if ((*in == 0xC2 || *in == 0xC3) && in[1] != '\0')
		{
			owned->raw[len++] = (char) ((*in & 3) << 6 | (in[1] & 0x3F));
			in++;
		}
		else
			owned->raw[len++] = (char) *in;
	}
	owned->scenario.body = owned->raw;
	owned->scenario.body_len = len;
}

static void
owned_free(Owned *owned)
{
	json_decref(owned->source);
	free(owned->raw);
	free(owned);
}

static void
enter(Owned *owned)
{
	Owned *first;

	*all_tail = owned;
	all_tail = &owned->next;
	if (owned->to_number == NULL)
		return;
	first = sim_hash_get(&by_number, owned->to_number);
	if (first == NULL)
	{
		sim_hash_put(&by_number, owned->to_number, owned);
		return;
	}
	while (first->next_same_number != NULL)
		first = first->next_same_number;
	first->next_same_number = owned;
}

const char *
sim_scenario_add(const json_t *object)
{
	const Kind *kind = kind_of(json_object_get(object, "fault"));
	const char *wrong = NULL;
	const char *name;
	json_t *value;
	Owned *owned;

	if (kind == NULL)
		return "fault: missing or unknown";
	owned = sim_alloc(sizeof(*owned));
	owned->source = json_incref((json_t *) object);
	owned->endpoint = -1;
	owned->scenario.name = kind->name;
	owned->scenario.fault = kind->fault;
	owned->scenario.applied = kind->applied;
	owned->scenario.only_reused = kind->only_reused;
	owned->scenario.status = kind->status;
	json_object_foreach(owned->source, name, value)
	{
		if (wrong == NULL)
			wrong = set_field(owned, name, value);
	}
	if (wrong != NULL)
	{
		owned_free(owned);
		return wrong;
	}
	if (owned->scenario.when == SIM_MID_ANSWER && json_object_get(object, "applied") == NULL)
		owned->scenario.applied = true;
	if (owned->scenario.fault == SIM_FAULT_RAW)
		set_raw(owned);
	enter(owned);
	return NULL;
}

void
sim_scenario_clear(void)
{
	sim_hash_clear(&by_number, NULL);
	while (all != NULL)
	{
		Owned *owned = all;

		all = owned->next;
		owned_free(owned);
	}
	all_tail = &all;
}

json_t *
sim_scenario_dump(void)
{
	json_t *list = json_array();

	for (const Owned *owned = all; owned != NULL; owned = owned->next)
	{
		json_t *row = json_copy(owned->source);

		json_object_set_new(row, "used", json_integer(owned->scenario.used));
		json_array_append_new(list, row);
	}
	return list;
}

static bool
has_use(const SimScenario *scenario, bool reused)
{
	if (scenario->only_reused && !reused)
		return false;
	return scenario->times <= 0 || scenario->used < scenario->times;
}

static bool
is_early(const SimScenario *scenario)
{
	return scenario->when == SIM_BEFORE_BODY || scenario->when == SIM_MID_BODY;
}

static SimScenario *
find_general(SimEndpoint endpoint, bool reused)
{
	for (Owned *owned = all; owned != NULL; owned = owned->next)
		if (owned->to_number == NULL && !is_early(&owned->scenario) &&
		    (owned->endpoint < 0 || owned->endpoint == (int) endpoint) &&
		    has_use(&owned->scenario, reused))
			return &owned->scenario;
	return NULL;
}

const SimScenario *
sim_scenario_pick(SimEndpoint endpoint, const char *to_number, bool reused)
{
	SimScenario *found = NULL;
	Owned *owned = to_number && by_number.size ? sim_hash_get(&by_number, to_number) : NULL;

	for (; owned != NULL && found == NULL; owned = owned->next_same_number)
		if (has_use(&owned->scenario, reused))
			found = &owned->scenario;
	if (found == NULL)
		found = find_general(endpoint, reused);
	if (found == NULL && to_number != NULL)
	{
		found = sim_number_find(to_number);
		if (found != NULL && !has_use(found, reused))
			found = NULL;
	}
	if (found != NULL)
		found->used++;
	return found;
}

const SimScenario *
sim_scenario_pick_early(SimEndpoint endpoint, SimWhen when, bool reused)
{
	for (Owned *owned = all; owned != NULL; owned = owned->next)
		if (owned->to_number == NULL && owned->scenario.when == when &&
		    (owned->endpoint < 0 || owned->endpoint == (int) endpoint) &&
		    has_use(&owned->scenario, reused))
		{
			owned->scenario.used++;
			return &owned->scenario;
		}
	return NULL;
}
