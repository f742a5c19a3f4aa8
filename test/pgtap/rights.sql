-- Who may do what: four roles, and a caller's hostile objects.
\ir lib/begin.sql
SELECT plan(91);

CREATE ROLE pgtap_nobody;
CREATE ROLE pgtap_caller;
CREATE ROLE pgtap_reader;
CREATE ROLE pgtap_owner SUPERUSER;
GRANT USAGE ON SCHEMA test TO PUBLIC;
GRANT EXECUTE ON FUNCTION kridtech_create_call(text, jsonb, text), kridtech_create_web_call(jsonb, text, text), kridtech_calls(text, integer, text),
    kridtech_calls_total(text, text), kridtech_sync_calls(text), kridtech_variables(jsonb), kridtech_transcript_turns(text), kridtech_replay_webhook(bigint) TO pgtap_caller;
GRANT USAGE ON SCHEMA kridtech TO pgtap_reader;
GRANT SELECT ON kridtech.call_requests TO pgtap_reader;
GRANT pg_monitor TO pgtap_reader;

-- functions: nobody and the reader run none, the caller and the owner run all
SELECT is(test.state_for(role, statement), state, role || ' who tries ' || statement || ' gets ' || state)
  FROM (VALUES ('SELECT kridtech_create_call(''+14155550123'')'), ('SELECT kridtech_create_web_call()'), ('SELECT kridtech_calls()'), ('SELECT kridtech_calls_total()'), ('SELECT kridtech_sync_calls()'),
               ('SELECT kridtech_variables(''[]'')'), ('SELECT kridtech_transcript_turns('''')'), ('SELECT kridtech_replay_webhook(0)')) AS f(statement),
       (VALUES ('pgtap_nobody', '42501'), ('pgtap_caller', '00000'), ('pgtap_reader', '42501'), ('pgtap_owner', '00000')) AS r(role, state);
-- whatever functions there will be: none for nobody
SELECT is((SELECT count(*) FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
            JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'kridtech' WHERE has_function_privilege('pgtap_nobody', p.oid, 'EXECUTE')), 0::bigint,
          'a role without a grant may execute no function of the extension');
SELECT is((SELECT count(*) FROM pg_class c WHERE c.relnamespace = 'kridtech'::regnamespace AND c.relkind IN ('r', 'v', 'p', 'm')
            AND has_table_privilege('pgtap_nobody', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')), 0::bigint,
          'nor touch a table or view');
SELECT is(has_schema_privilege('pgtap_nobody', 'kridtech', 'USAGE') OR has_schema_privilege('pgtap_nobody', 'kridtech', 'CREATE'), false, 'nor use the schema');
SELECT is(has_sequence_privilege('pgtap_nobody', 'kridtech.call_requests_id_seq', 'USAGE, SELECT, UPDATE'), false, 'nor the sequence');

-- tables
SELECT is(test.state_for(role, statement), state, role || ' who tries ' || statement || ' gets ' || state)
  FROM (VALUES ('SELECT FROM kridtech.call_requests', 1), ('INSERT INTO kridtech.call_requests (to_number) VALUES (''+14155550123'')', 2), ('UPDATE kridtech.call_requests SET state = ''queued''', 2),
               ('DELETE FROM kridtech.call_requests WHERE false', 2), ('TRUNCATE kridtech.call_requests', 2), ('SELECT nextval(''kridtech.call_requests_id_seq'')', 2),
               ('SELECT FROM kridtech.accounts', 2), ('INSERT INTO kridtech.accounts VALUES (''x'', ''/etc/shadow'')', 2), ('SELECT FROM kridtech.webhook_events', 2), ('SELECT FROM kridtech.webhook_inbox', 2),
               ('SELECT FROM kridtech.calls', 2), ('DELETE FROM kridtech.calls', 2), ('SELECT FROM kridtech.call_history', 2), ('SELECT FROM kridtech.missing_webhooks', 2)) AS t(statement, level),
       (VALUES ('pgtap_nobody', 0), ('pgtap_caller', 0), ('pgtap_reader', 1)) AS r(role, may),
       LATERAL (SELECT CASE WHEN may >= level THEN '00000' ELSE '42501' END) AS x(state);

-- EXECUTE is enough: the record is made by the tables' owner, for the caller
SET ROLE pgtap_caller;
SELECT kridtech_create_call('+14155550130') \g /dev/null
RESET ROLE;
SELECT is((SELECT created_by::text FROM kridtech.call_requests WHERE to_number = '+14155550130'), 'pgtap_caller', 'created_by is the caller, though the tables'' owner wrote the row');
SET ROLE pgtap_caller;
SELECT is(current_user::text, 'pgtap_caller', 'the caller is the caller again afterwards');
SELECT is(test.state_of('SELECT kridtech_create_call(''+15550100222''), kridtech_create_call(''+15550100222'')'), '08007', 'an error on the way out is the caller''s');
SELECT is(current_user::text, 'pgtap_caller', 'and he is himself after an error too');
SELECT is(test.state_of('SELECT count(*) FROM kridtech.accounts'), '42501', 'having called gives no right to the tables');
RESET ROLE;
-- within a SECURITY DEFINER function the function's owner is who calls
CREATE FUNCTION test.call_for_me(number text) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT call_id FROM kridtech_create_call(number)';
ALTER FUNCTION test.call_for_me(text) OWNER TO pgtap_caller;
GRANT EXECUTE ON FUNCTION test.call_for_me(text) TO pgtap_nobody;
SELECT is(test.state_for('pgtap_nobody', 'SELECT test.call_for_me(''+14155550131'')'), '00000', 'a function may lend the right to call');
SELECT is((SELECT created_by::text FROM kridtech.call_requests WHERE to_number = '+14155550131'), 'pgtap_caller', 'and its owner answers for it');

-- a hostile search_path: everything the extension might name, in the caller's own version, each of which raises
CREATE SCHEMA evil AUTHORIZATION pgtap_caller;
SET ROLE pgtap_caller;
CREATE FUNCTION evil.raise(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''hijacked as %'', current_user; END';
CREATE FUNCTION evil.raise8(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''hijacked as %'', current_user; END';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.raise);
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.raise8);
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE ''hijacked as %'', current_user; END';
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE ''hijacked as %'', current_user; END';
CREATE FUNCTION evil.nextval(regclass) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE ''hijacked as %'', current_user; END';
CREATE TEMP TABLE call_requests (id bigint);
CREATE TEMP TABLE accounts (account_id text, api_key_file text);
SET search_path = evil, pg_temp, pg_catalog, public;
SELECT test.state_of('SELECT ''a''::text = ''b''::text') AS compared, test.state_of('SELECT now()') AS timed \gset
SELECT test.state_of('SELECT public.kridtech_create_call(''+14155550132'', account_id => ''acct-1'')') AS called \gset
SELECT test.state_of('SELECT public.kridtech_calls_total(account_id => ''acct-1'')') AS listed, current_setting('search_path') AS path \gset
RESET search_path;
SELECT is((:'compared', :'timed')::text, '(P0001,P0001)', 'the caller''s own operators and functions are found first');
SELECT is(:'called'::text, '00000', 'a call is placed all the same, by the server''s');
SELECT is(:'listed'::text, '00000', 'and so is a list read');
SELECT is(:'path'::text, 'evil, pg_temp, pg_catalog, public', 'the caller''s path is his own again afterwards');
RESET ROLE;
SELECT is((SELECT count(*) FROM kridtech.call_requests WHERE to_number = '+14155550132'), 1::bigint, 'and the record stands in the true table');
SELECT is(pg_catalog.count(*), 0::bigint, 'not in the caller''s') FROM pg_temp.call_requests;

DROP OWNED BY pgtap_nobody, pgtap_caller, pgtap_reader;
DROP ROLE pgtap_nobody, pgtap_caller, pgtap_reader, pgtap_owner;
SELECT * FROM finish();
