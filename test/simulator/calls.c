/*
 * The calls: made, moved registered -> ongoing -> completed or failed by monotonic time, listed.
 *
 * A roll holds calls in the order of createdAt; there is one of all calls and one for each account.
 * Appending is the ordinary case, so listing newest first never sorts; a call made with a createdAt of the
 * past is moved to its place. Each roll counts its calls by status, so "total" is never counted anew.
 * A call takes some 400 bytes and what its dynamic variables take.
 */
#include "simulator.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct Roll
{
	char *account; /* NULL: all */
	SimCall **calls;
	size_t len;
	size_t cap;
	size_t counts[SIM_STATUSES];
} Roll;

struct SimCall
{
	SimTimer timer;   /* next change of state */
	SimTimer listing; /* when it enters the rolls */
	Roll *roll;
	char *id;
	char *to_number;
	char *first_name;
	char *variables; /* compact JSON, or NULL */
	int64_t created;
	int64_t duration; /* what it will be once completed */
	int64_t cost;
	SimStatus status;
	SimFate fate;
	bool listed;
	const char *direction;
	SimCall *older; /* made before this one */
};

const char *const sim_status_names[SIM_STATUSES] = {"registered", "ongoing", "completed", "failed"};

static Roll everything;
static SimHash rolls;
static SimHash by_id;
static SimCall *youngest;

static Roll *
roll_of(const char *account)
{
	Roll *roll = sim_hash_get(&rolls, account);

	if (roll == NULL)
	{
		roll = sim_alloc(sizeof(*roll));
		roll->account = sim_strdup(account);
		sim_hash_put(&rolls, roll->account, roll);
	}
	return roll;
}

static void
roll_insert(Roll *roll, SimCall *call)
{
	size_t low = 0;
	size_t high = roll->len;

	if (roll->len == roll->cap)
	{
		size_t cap = roll->cap ? roll->cap * 2 : 64;
		SimCall **bigger = sim_alloc(cap * sizeof(*bigger));

		if (roll->len > 0)
			memcpy(bigger, roll->calls, roll->len * sizeof(*bigger));
		free(roll->calls);
		roll->calls = bigger;
		roll->cap = cap;
	}
	if (roll->len == 0 || roll->calls[roll->len - 1]->created <= call->created)
		low = high;
	while (low < high)
	{
		size_t middle = (low + high) / 2;

		if (roll->calls[middle]->created <= call->created)
			low = middle + 1;
		else
			high = middle;
	}
	memmove(roll->calls + low + 1, roll->calls + low, (roll->len - low) * sizeof(*roll->calls));
	roll->calls[low] = call;
	roll->len++;
	roll->counts[call->status]++;
}

static void
call_list(SimCall *call)
{
	roll_insert(&everything, call);
	roll_insert(call->roll, call);
	call->listed = true;
}

static void
listing_due(SimTimer *timer)
{
	call_list((SimCall *) ((char *) timer - offsetof(SimCall, listing)));
}

static void
put_variables(SimText *out, const SimCall *call)
{
	json_t *variables = call->variables ? json_loads(call->variables, JSON_ALLOW_NUL, NULL) : NULL;
	const char *separator = "";
	const char *name;
	json_t *value;

	if (!json_is_object(variables))
		sim_text_put_json(out, variables);
	else
	{
		sim_text_puts(out, "[");
		json_object_foreach(variables, name, value)
		{
			sim_text_puts(out, separator);
			sim_text_puts(out, "{\"variable\":");
			sim_text_put_string(out, name, strlen(name));
			sim_text_puts(out, ",\"value\":");
			sim_text_put_json(out, value);
			sim_text_puts(out, "}");
			separator = ",";
		}
		sim_text_puts(out, "]");
	}
	json_decref(variables);
}

static void
put_transcript(SimText *out, const SimCall *call)
{
	SimText words = {0};
	const char *name = call->first_name ? call->first_name : "there";

	sim_text_putf(&words, "Agent: Hi %s, this is Sarah from %s. Do you have a minute?\n", name,
	              call->roll->account);
	sim_text_puts(&words, "User: Hey, yes, I was expecting your call.\n");
	sim_text_puts(&words, "Agent: Great. Does the appointment still suit you?\n");
	sim_text_puts(&words, "User: Yes, it does. Thank you.\n");
	sim_text_putf(&words, "Agent: Wonderful. Goodbye, %s!", name);
	sim_text_put_string(out, words.data, words.len);
	sim_text_free(&words);
}

static void
send_webhook(const SimCall *call)
{
	SimText body = {0};

	if (sim_webhook_url() == NULL)
		return;
	sim_text_puts(&body, "{\"callId\":");
	sim_text_put_string(&body, call->id, strlen(call->id));
	if (call->fate == SIM_FATE_NULLS)
		sim_text_puts(&body, ",\"status\":\"completed\",\"durationMs\":null,\"transcript\":null,"
		                     "\"recordingUrl\":null,\"dynamicVariables\":null}");
	else
	{
		sim_text_putf(&body, ",\"status\":\"completed\",\"durationMs\":%lld,\"transcript\":",
		              (long long) call->duration * 1000);
		put_transcript(&body, call);
		sim_text_puts(&body, ",\"recordingUrl\":\"https://storage.kridtech.com/recordings/");
		/* Ids that would need escaping come from test scenarios only and lack a recording's name. */
		sim_text_putf(&body, "%s.mp3\"", strpbrk(call->id, "\"\\") ? "unnamed" : call->id);
		sim_text_puts(&body, ",\"dynamicVariables\":");
		put_variables(&body, call);
		sim_text_puts(&body, "}");
	}
	sim_webhook_send(call->id, &body);
}

static void
move(SimCall *call, SimStatus status)
{
	if (call->listed)
	{
		everything.counts[call->status]--;
		everything.counts[status]++;
		call->roll->counts[call->status]--;
		call->roll->counts[status]++;
	}
	call->status = status;
}

void
sim_call_finish(SimCall *call, SimStatus status)
{
	sim_timer_clear(&call->timer);
	move(call, status);
	if (status != SIM_COMPLETED || call->fate == SIM_FATE_UNHOOKED)
		return;
	send_webhook(call);
	if (call->fate == SIM_FATE_TWICE)
		send_webhook(call);
}

static void
state_due(SimTimer *timer)
{
	SimCall *call = (SimCall *) timer;
	bool unlucky = call->fate == SIM_FATE_BROKEN || call->fate == SIM_FATE_BUSY ||
	               (call->fate == SIM_FATE_ORDINARY &&
	                (int64_t) (sim_random() % 100) < sim_settings.fail_percent);

	if (call->status == SIM_REGISTERED && call->fate == SIM_FATE_BUSY)
		sim_call_finish(call, SIM_FAILED);
	else if (call->status == SIM_ONGOING)
		sim_call_finish(call, unlucky ? SIM_FAILED : SIM_COMPLETED);
	else
	{
		move(call, SIM_ONGOING);
		if (call->fate != SIM_FATE_TALKS)
			sim_timer_set(timer, timer->due + sim_settings.talk_ms * 1000);
	}
}

static void
begin(SimCall *call, bool settled)
{
	int64_t now = sim_now();

	if (sim_settings.list_delay_ms > 0 && !settled)
	{
		call->listing.fire = listing_due;
		sim_timer_set(&call->listing, now + sim_settings.list_delay_ms * 1000);
	}
	else
		call_list(call);
	call->timer.fire = state_due;
	if (settled || call->fate == SIM_FATE_RINGS)
		return;
	if (call->fate == SIM_FATE_AT_ONCE)
		sim_call_finish(call, SIM_COMPLETED);
	else
		sim_timer_set(&call->timer, now + sim_settings.ring_ms * 1000);
}

static char *
variables_text(const json_t *variables)
{
	SimText text = {0};
	char *exact;

	if (variables == NULL || json_is_null(variables))
		return NULL;
	sim_text_put_json(&text, variables);
	exact = sim_strdup(text.data);
	sim_text_free(&text);
	return exact;
}

SimCall *
sim_call_create(const SimCallSpec *spec)
{
	SimCall *call = sim_alloc(sizeof(*call));
	char fresh[SIM_ID_SIZE];

	sim_random_id(fresh, spec->prefix ? spec->prefix : "call_");
	call->id = sim_strdup(spec->id ? spec->id : fresh);
	call->roll = roll_of(spec->account);
	call->to_number = sim_strdup(spec->to_number);
	call->first_name = sim_strdup(spec->first_name);
	call->direction = spec->direction;
	call->variables = variables_text(spec->variables);
	call->created = spec->created ? spec->created : (int64_t) time(NULL);
	call->duration = spec->duration >= 0 ? spec->duration : 20 + (int64_t) (sim_random() % 180);
	call->cost = spec->cost >= 0 ? spec->cost : (call->duration * 36 + 99) / 100;
	call->status = spec->status;
	call->fate = spec->fate;
	sim_hash_put(&by_id, call->id, call);
	call->older = youngest;
	youngest = call;
	begin(call, spec->settled);
	return call;
}

SimCall *
sim_call_find(const char *id)
{
	return sim_hash_get(&by_id, id);
}

const char *
sim_call_id(const SimCall *call)
{
	return call->id;
}

static void
put_text_or_null(SimText *out, const char *str)
{
	if (str == NULL)
		sim_text_puts(out, "null");
	else
		sim_text_put_string(out, str, strlen(str));
}

static void
put_field(SimText *out, const SimCall *call, int field)
{
	bool over = call->status == SIM_COMPLETED;
	char iso[24];

	switch (field)
	{
		case 0:
			put_text_or_null(out, call->id);
			break;
		case 1:
			put_text_or_null(out, call->roll->account);
			break;
		case 2:
			put_text_or_null(out, call->direction);
			break;
		case 3:
			put_text_or_null(out, call->to_number);
			break;
		case 4:
			put_text_or_null(out, sim_status_names[call->status]);
			break;
		case 5:
			sim_text_putf(out, "%lld", (long long) (over ? call->duration : 0));
			break;
		case 6:
			sim_text_putf(out, "%lld", (long long) (over ? call->cost : 0));
			break;
		case 7:
			sim_time_iso(iso, call->created);
			sim_text_putf(out, "\"%s\"", iso);
			break;
		case 8:
			put_text_or_null(out, call->first_name);
			break;
	}
}

/* The nth row of a list: its oddity, if the rows are to be odd, is in its (n modulo 9)th field. */
void
sim_call_put(SimText *out, const SimCall *call, SimRows rows, size_t nth)
{
	static const char *const names[] = {"callId",   "accountId",  "direction",
	                                    "toNumber", "callStatus", "duration",
	                                    "cost",     "createdAt",  "firstName"};
	const char *separator = "{";

	for (int field = 0; field < 9; field++)
	{
		bool odd = nth % 9 == (size_t) field;

		if (odd && rows == SIM_ROWS_MISSING)
			continue;
		sim_text_putf(out, "%s\"%s\":", separator, names[field]);
		separator = ",";
		if (odd && rows == SIM_ROWS_MISTYPED)
			sim_text_puts(out, field % 2 == 0 ? "[1,{}]" : "true");
		else if (odd && rows == SIM_ROWS_NULLS)
			sim_text_puts(out, "null");
		else
			put_field(out, call, field);
	}
	if (rows == SIM_ROWS_EXTRA)
		sim_text_puts(out, ",\"agentId\":\"agent_1\",\"tags\":[\"a\",{\"b\":null}]");
	sim_text_puts(out, "}");
}

/* Fills newest with at most limit calls of the roll, newest first; status -1: any. */
static size_t
newest_of(const Roll *roll, int status, size_t limit, const SimCall **newest, size_t *total)
{
	size_t found = 0;

	*total = status < 0 ? roll->len : roll->counts[status];
	if (limit > *total)
		limit = *total;
	for (size_t i = roll->len; i > 0 && found < limit; i--)
		if (status < 0 || roll->calls[i - 1]->status == (SimStatus) status)
			newest[found++] = roll->calls[i - 1];
	return found;
}

void
sim_calls_list(SimText *out, const char *account, int status, size_t limit)
{
	static const Roll nothing;
	const SimCall *newest[100];
	const Roll *roll = account == NULL ? &everything : sim_hash_get(&rolls, account);
	SimRows rows = sim_settings.rows;
	size_t total;
	size_t found = newest_of(roll ? roll : &nothing, status, limit, newest, &total);

	sim_text_puts(out, "{\"success\":true,\"calls\":[");
	for (size_t i = 0; i < found; i++)
	{
		size_t pick = rows == SIM_ROWS_UNSORTED && (i ^ 1) < found ? i ^ 1 : i;

		if (i > 0)
			sim_text_puts(out, ",");
		sim_call_put(out, newest[pick], rows, pick);
		if (rows == SIM_ROWS_DUPLICATE)
		{
			sim_text_puts(out, ",");
			sim_call_put(out, newest[pick], rows, pick);
		}
	}
	sim_text_putf(out, "],\"total\":%zu}", total);
}

void
sim_calls_count(size_t counts[SIM_STATUSES])
{
	memcpy(counts, everything.counts, sizeof(everything.counts));
}

static void
call_free(SimCall *call)
{
	sim_timer_clear(&call->timer);
	sim_timer_clear(&call->listing);
	free(call->id);
	free(call->to_number);
	free(call->first_name);
	free(call->variables);
	free(call);
}

static void
roll_free(void *value)
{
	Roll *roll = value;

	free(roll->account);
	free(roll->calls);
	free(roll);
}

void
sim_calls_reset(void)
{
	while (youngest != NULL)
	{
		SimCall *call = youngest;

		youngest = call->older;
		call_free(call);
	}
	free(everything.calls);
	everything = (Roll){0};
	sim_hash_clear(&by_id, NULL);
	sim_hash_clear(&rolls, roll_free);
}
