/*
 * The settings that the command line begins with and POST /sim/settings changes while it runs.
 */
#include "simulator.h"

#include <string.h>

SimSettings sim_settings = {
	.ring_ms = 50,
	.talk_ms = 100,
	.credits = -1,
};

static const struct
{
	const char *name;
	int64_t *value;
} numbers[] = {
	{"ring_time", &sim_settings.ring_ms},         {"talk_time", &sim_settings.talk_ms},
	{"list_delay", &sim_settings.list_delay_ms},  {"latency", &sim_settings.latency_ms},
	{"rate_limit", &sim_settings.rate_limit},     {"credits", &sim_settings.credits},
	{"fail_percent", &sim_settings.fail_percent},
};

static const char *const rows_names[] = {"normal", "unsorted",  "missing", "mistyped",
                                         "nulls",  "duplicate", "extra"};

#define NNUMBERS (sizeof(numbers) / sizeof(numbers[0]))
#define NROWS (sizeof(rows_names) / sizeof(rows_names[0]))

static const char *
apply_rows(const json_t *value)
{
	for (size_t i = 0; i < NROWS && json_is_string(value); i++)
		if (strcmp(json_string_value(value), rows_names[i]) == 0)
		{
			sim_settings.rows = (SimRows) i;
			return NULL;
		}
	return "rows: one of normal, unsorted, missing, mistyped, nulls, duplicate, extra";
}

static const char *
apply_webhook_url(const json_t *value)
{
	if (!json_is_null(value) && !json_is_string(value))
		return "webhook_url: a string or null";
	if (!sim_webhook_set_url(json_string_value(value)))
		return "webhook_url: must be https:// (http:// to a loopback address is let pass)";
	return NULL;
}

static const char *
apply_one(const char *name, const json_t *value)
{
	if (strcmp(name, "rows") == 0)
		return apply_rows(value);
	if (strcmp(name, "webhook_url") == 0)
		return apply_webhook_url(value);
	if (strcmp(name, "webhook_keepalive") == 0)
	{
		if (!json_is_boolean(value))
			return "webhook_keepalive: true or false";
		sim_webhook_set_keepalive(json_is_true(value));
		return NULL;
	}
	for (size_t i = 0; i < NNUMBERS; i++)
	{
		if (strcmp(name, numbers[i].name) != 0)
			continue;
		if (!json_is_integer(value))
			return "times, limits, credits and percents are whole numbers";
		*numbers[i].value = json_integer_value(value);
		return NULL;
	}
	return "unknown setting";
}

const char *
sim_settings_apply(const json_t *object)
{
	const char *name;
	json_t *value;
	const char *wrong = NULL;

	if (!json_is_object(object))
		return "a JSON object is wanted";
	json_object_foreach((json_t *) object, name, value)
	{
		if (wrong == NULL)
			wrong = apply_one(name, value);
	}
	return wrong;
}

json_t *
sim_settings_dump(void)
{
	json_t *object = json_object();
	const char *url = sim_webhook_url();

	for (size_t i = 0; i < NNUMBERS; i++)
		json_object_set_new(object, numbers[i].name, json_integer(*numbers[i].value));
	json_object_set_new(object, "rows", json_string(rows_names[sim_settings.rows]));
	json_object_set_new(object, "webhook_url", url ? json_string(url) : json_null());
	return object;
}
