/*
 * A webhook as the parameters of the INSERT that makes an event of it: from UTF-8 to the database's encoding and
 * types.
 */
#include "postgres.h"

#include "newevent.h"

#include "catalog/pg_type.h"
#include "convert.h"
#include "kept.h"
#include "queue.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "variables.h"

const Oid kt_event_types[KT_NPARAMETERS] = {
	[KT_P_CALL_ID] = TEXTOID,
	[KT_P_STATUS] = TEXTOID,
	[KT_P_DURATION_MS] = INT8OID,
	[KT_P_TRANSCRIPT] = TEXTOID,
	[KT_P_RECORDING_URL] = TEXTOID,
	[KT_P_DYNAMIC_VARIABLES] = JSONBOID,
	[KT_P_VARIABLES] = JSONBOID,
	[KT_P_RAW] = BYTEAOID,
	[KT_P_REMOTE_ADDR] = TEXTOID,
	[KT_P_DELIVERIES] = INT4OID,
	[KT_P_RECEIVED_AT] = TIMESTAMPTZOID,
	[KT_P_REF] = TEXTOID,
	[KT_P_NAMED] = INT8OID,
};

static void
set_text(KtParameter *parameter, const char *utf8)
{
	parameter->isnull = utf8 == NULL;
	if (utf8 != NULL)
		parameter->value = CStringGetTextDatum(kt_convert_to_server(utf8));
}

static void
set_variables(KtParameter *parameters, const char *json)
{
	Jsonb *sent;
	Jsonb *object;

	parameters[KT_P_DYNAMIC_VARIABLES].isnull = json == NULL;
	parameters[KT_P_VARIABLES].isnull = true;
	parameters[KT_P_REF].isnull = parameters[KT_P_NAMED].isnull = true;
	if (json == NULL)
		return;
	sent =
		DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(kt_convert_to_server(json))));
	parameters[KT_P_DYNAMIC_VARIABLES].value = JsonbPGetDatum(sent);
	object = kt_variables_object(sent);
	if (object != NULL)
	{
		char *ref = kt_variables_string(object, "kridtech_ref");
		int64 named = ref == NULL ? 0 : kt_queue_read_ref(ref);

		parameters[KT_P_VARIABLES].isnull = false;
		parameters[KT_P_VARIABLES].value = JsonbPGetDatum(object);
		if (named != 0)
		{
			parameters[KT_P_NAMED].isnull = false;
			parameters[KT_P_NAMED].value = Int64GetDatum(named);
			parameters[KT_P_REF].isnull = false;
			parameters[KT_P_REF].value = CStringGetTextDatum(ref);
		}
	}
}

void
kt_newevent_fill(KtNewEvent *event)
{
	const KtWebhook *webhook = event->webhook;
	KtParameter *parameters = event->parameters;
	int64 duration;

	event->call_id = kt_convert_to_server(webhook->call_id);
	memset(parameters, 0, sizeof(event->parameters));
	parameters[KT_P_CALL_ID].value = CStringGetTextDatum(event->call_id);
	set_text(&parameters[KT_P_STATUS], webhook->status);
	parameters[KT_P_DURATION_MS].isnull = !kt_convert_int64(webhook->duration_ms, &duration);
	if (!parameters[KT_P_DURATION_MS].isnull)
		parameters[KT_P_DURATION_MS].value = Int64GetDatum(duration);
	set_text(&parameters[KT_P_TRANSCRIPT], webhook->transcript);
	set_text(&parameters[KT_P_RECORDING_URL], webhook->recording_url);
	set_variables(parameters, webhook->dynamic_variables);
	parameters[KT_P_RAW].value =
		PointerGetDatum(cstring_to_text_with_len(webhook->raw, (int) webhook->raw_len));
	set_text(&parameters[KT_P_REMOTE_ADDR], kt_kept_address(webhook));
	parameters[KT_P_DELIVERIES].value = Int32GetDatum(event->deliveries);
	parameters[KT_P_RECEIVED_AT].value = TimestampTzGetDatum(event->received_at);
}

Datum
kt_newevent_array(KtNewEvent **events, int n, KtEventParameter column)
{
	KtParameter *elements = palloc(n * sizeof(KtParameter));
	int i;

	for (i = 0; i < n; i++)
		elements[i] = events[i]->parameters[column];
	return kt_statement_array(kt_event_types[column], elements, n);
}
