/*
 * kridtech_replay_webhook(): a human has a kept delivery processed again.
 */
#include "postgres.h"

#include "events.h"
#include "extension.h"
#include "fmgr.h"
#include "miscadmin.h"

PG_FUNCTION_INFO_V1(kridtech_replay_webhook);

/* kridtech_replay_webhook(inbox_id) returns boolean; strict */
Datum
kridtech_replay_webhook(PG_FUNCTION_ARGS)
{
	char *call_id;
	bool done;

	PreventCommandIfReadOnly("kridtech_replay_webhook()");
	kt_extension_check();
	done = kt_events_retry(PG_GETARG_INT64(0), &call_id);
	if (call_id != NULL)
	{
		const char *const call_ids[] = {call_id};

		kt_events_notify(call_ids, 1);
	}
	PG_RETURN_BOOL(done);
}
