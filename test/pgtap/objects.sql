-- The functions and columns that applications rely on: contract section 1.
\ir lib/begin.sql
SELECT plan(102);

SELECT has_schema('kridtech', 'tables stand in the schema kridtech');

-- functions: name, arguments, result, volatility, parallel safety, set or not
CREATE TABLE test.functions (n int GENERATED ALWAYS AS IDENTITY, name text, arguments text[], result text, volatility text, parallel "char", is_set boolean);
INSERT INTO test.functions (name, arguments, result, volatility, parallel, is_set) VALUES
    ('kridtech_create_call', '{text,jsonb,text}', 'record', 'volatile', 'u', false),
    ('kridtech_create_web_call', '{jsonb,text,text}', 'record', 'volatile', 'u', false),
    ('kridtech_calls', '{text,integer,text}', 'setof record', 'volatile', 'u', true),
    ('kridtech_calls_total', '{text,text}', 'bigint', 'volatile', 'u', false),
    ('kridtech_sync_calls', '{text}', 'integer', 'volatile', 'u', false),
    ('kridtech_replay_webhook', '{bigint}', 'boolean', 'volatile', 'u', false),
    ('kridtech_variables', '{jsonb}', 'jsonb', 'immutable', 's', false),
    ('kridtech_transcript_turns', '{text}', 'setof record', 'immutable', 's', true);
SELECT has_function('public', name, arguments, name || ' takes ' || arguments::text) FROM test.functions ORDER BY n;
SELECT function_returns('public', name, arguments, result, name || ' returns ' || result) FROM test.functions ORDER BY n;
SELECT volatility_is('public', name, arguments, volatility, name || ' is ' || volatility) FROM test.functions ORDER BY n;
SELECT is(p.proparallel, f.parallel, f.name || ' is parallel ' || CASE f.parallel WHEN 's' THEN 'safe' ELSE 'unsafe' END)
  FROM test.functions f JOIN pg_proc p ON p.proname = f.name AND p.pronamespace = 'public'::regnamespace ORDER BY n;

-- names: what an application writes in name => value, and the columns it gets
CREATE FUNCTION test.parameters(name text, modes text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(a || ' ' || format_type(t, NULL), ', ' ORDER BY i)
      FROM pg_proc p, unnest(coalesce(proallargtypes, proargtypes::oid[]), proargnames, coalesce(proargmodes, array_fill('i'::"char", ARRAY[pronargs]))) WITH ORDINALITY x(t, a, m, i)
     WHERE p.proname = name AND p.pronamespace = 'public'::regnamespace AND strpos(modes, m::text) > 0
$$;
SELECT is(test.parameters('kridtech_create_call', 'ib'), 'to_number text, dynamic_variables jsonb, account_id text', 'the parameters of kridtech_create_call have their names');
SELECT is(test.parameters('kridtech_create_call', 'ob'), 'call_id text, call_status text', 'the columns of kridtech_create_call have their names and types');
SELECT is(test.parameters('kridtech_create_web_call', 'ib'), 'dynamic_variables jsonb, first_name text, account_id text', 'the parameters of kridtech_create_web_call have their names');
SELECT is(test.parameters('kridtech_create_web_call', 'ob'), 'call_id text, access_token text, account_id text, sample_rate integer', 'the columns of kridtech_create_web_call have their names and types');
SELECT is(test.parameters('kridtech_calls', 'ib'), 'status text, limit integer, account_id text', 'the parameters of kridtech_calls have their names');
SELECT is(test.parameters('kridtech_calls', 'ob'), 'call_id text, account_id text, direction text, to_number text, call_status text, duration integer, cost numeric, created_at timestamp with time zone, first_name text', 'the columns of kridtech_calls have their names and types');
SELECT is(test.parameters('kridtech_calls_total', 'ib'), 'status text, account_id text', 'the parameters of kridtech_calls_total have their names');
SELECT is(test.parameters('kridtech_sync_calls', 'i'), 'account_id text', 'the parameter of kridtech_sync_calls has its name');
SELECT is(test.parameters('kridtech_variables', 'i'), 'dynamic_variables jsonb', 'the parameter of kridtech_variables has its name');
SELECT is(test.parameters('kridtech_replay_webhook', 'i'), 'inbox_id bigint', 'the parameter of kridtech_replay_webhook has its name');
SELECT is(test.parameters('kridtech_transcript_turns', 'o'), 'turn integer, speaker text, utterance text', 'the columns of kridtech_transcript_turns have their names and types');

-- call_requests: these columns exist with these types; more may stand beside them
SELECT has_pk('kridtech', 'call_requests', 'call_requests has a primary key');
SELECT col_is_pk('kridtech', 'call_requests', 'id', 'which is id');
SELECT throws_ok($$INSERT INTO kridtech.call_requests (to_number, state, call_id) VALUES ('+14155550123', 'placed', 'call_same'), ('+14155550124', 'placed', 'call_same')$$, '23505', NULL, 'a callId belongs to one request');
SELECT col_type_is('kridtech', 'call_requests', column_name, type, 'call_requests.' || column_name || ' is ' || type)
  FROM (VALUES ('id', 'bigint'), ('account_id', 'text'), ('to_number', 'text'), ('dynamic_variables', 'jsonb'), ('reference', 'text'),
    ('unique_key', 'text'), ('priority', 'integer'), ('not_before', 'timestamp with time zone'), ('not_after', 'timestamp with time zone'),
    ('state', 'text'), ('attempts', 'integer'), ('next_attempt_at', 'timestamp with time zone'), ('call_id', 'text'), ('call_status', 'text'),
    ('http_status', 'integer'), ('error', 'text'), ('created_by', 'name'), ('created_at', 'timestamp with time zone'),
    ('finished_at', 'timestamp with time zone')) AS c(column_name, type);
-- these two hold for every number and object that the functions have checked; src/requesttable.c knows them by their words and leaves them out
SELECT set_has($$SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conrelid = 'kridtech.call_requests'::regclass AND contype = 'c'$$,
    $$VALUES ('(((octet_length(to_number) >= 8) AND (octet_length(to_number) <= 16)) AND (to_number ~ ''^\+[1-9][0-9]*$''::text))'), ('(jsonb_typeof(dynamic_variables) = ''object''::text)')$$,
    'the constraints on number and variables are printed as the library expects');
-- so do these
SELECT col_is_pk('kridtech', 'webhook_events', 'call_id', 'a call has one event');
SELECT col_type_is('kridtech', table_name, column_name, type, table_name || '.' || column_name || ' is ' || type)
  FROM (VALUES ('webhook_events', 'call_id', 'text'), ('webhook_events', 'status', 'text'), ('webhook_events', 'duration_ms', 'bigint'), ('webhook_events', 'transcript', 'text'),
    ('webhook_events', 'recording_url', 'text'), ('webhook_events', 'dynamic_variables', 'jsonb'), ('webhook_events', 'variables', 'jsonb'), ('webhook_events', 'raw', 'bytea'),
    ('webhook_events', 'request_id', 'bigint'), ('webhook_events', 'verified_by', 'text'), ('webhook_events', 'deliveries', 'integer'),
    ('webhook_events', 'received_at', 'timestamp with time zone'),
    ('webhook_inbox', 'id', 'bigint'), ('webhook_inbox', 'received_at', 'timestamp with time zone'), ('webhook_inbox', 'remote_addr', 'inet'), ('webhook_inbox', 'reason', 'text'),
    ('webhook_inbox', 'call_id', 'text'), ('webhook_inbox', 'body', 'bytea'),
    ('calls', 'call_id', 'text'), ('calls', 'account_id', 'text'), ('calls', 'direction', 'text'), ('calls', 'to_number', 'text'), ('calls', 'call_status', 'text'), ('calls', 'duration', 'integer'),
    ('calls', 'cost', 'numeric'), ('calls', 'created_at', 'timestamp with time zone'), ('calls', 'first_name', 'text'), ('calls', 'synced_at', 'timestamp with time zone')) AS c(table_name, column_name, type);
SELECT has_table('kridtech', 'accounts', 'there is a table of accounts');
SELECT col_type_is('kridtech', 'accounts', 'account_id', 'text', 'accounts.account_id is text');
SELECT col_type_is('kridtech', 'accounts', 'api_key_file', 'text', 'accounts.api_key_file is text');
SELECT col_is_pk('kridtech', 'accounts', 'account_id', 'an account has one row');

-- rows inserted directly are picked up with sensible defaults
INSERT INTO kridtech.call_requests (to_number) VALUES ('+14155550123');
SELECT is((state, priority, attempts, created_by, created_at <= now(), finished_at)::text, '(queued,0,0,' || current_user || ',t,)', 'a row inserted by hand is a queued request of its inserter')
  FROM kridtech.call_requests;
-- an attempt's end, as it is recorded of a call that was placed
BEGIN;
INSERT INTO kridtech.call_attempts (request_id, epoch) VALUES (1, 1);
UPDATE kridtech.call_attempts SET finished_at = clock_timestamp(), outcome = 'ok', curl_code = 0, bytes_sent = 300, http_status = 200, call_id = 'call_1', live = true;
SELECT is(pg_stat_get_xact_tuples_hot_updated('kridtech.call_attempts'::regclass), 1::bigint, 'completing an attempt touches no index');
ROLLBACK;
SELECT * FROM finish();
