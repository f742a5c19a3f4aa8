-- What kridtech.call_requests holds of a call that was placed at once.
\ir lib/begin.sql
SELECT plan(32);

-- after success
SELECT call_id, call_status FROM kridtech_create_call('+1 (415) 555-0100', '{"first_name": "James", "n": 1.50}') \gset
SELECT is((SELECT count(*) FROM kridtech.call_requests), 1::bigint, 'a call that was placed is one record');
SELECT is((account_id, to_number, dynamic_variables, state, attempts, call_id, call_status, http_status, error, created_by)::text,
          ('acct-1'::text, '+14155550100'::text, '{"first_name": "James", "n": 1.50}'::jsonb, 'placed'::text, 1, :'call_id'::text, :'call_status'::text, 200, NULL::text, current_user)::text,
          'with account, number, variables, state, attempts, the answer, and who asked')
  FROM kridtech.call_requests WHERE call_id = :'call_id';
SELECT ok(created_at <= finished_at AND finished_at <= clock_timestamp() AND next_attempt_at IS NULL, 'and when') FROM kridtech.call_requests WHERE call_id = :'call_id';
SELECT is(jsonb_path_query_first(test.simulator_says('ledger'), '$[0].dynamicVariables'), '{"first_name": "James", "n": 1.50}', 'the API was sent the variables');
SELECT is(test.simulator_says('ledger') -> 0 ->> 'toNumber', '+14155550100', 'and the number in E.164');
SELECT is(test.simulator_says('ledger') -> 0 ->> 'accountId', 'acct-1', 'and the account');
SELECT is(test.simulator_says('ledger') -> 0 ->> 'callId', :'call_id', 'and its callId is what the caller got');
-- no variables
SELECT kridtech_create_call('+14155550101') \g /dev/null
SELECT is((SELECT dynamic_variables FROM kridtech.call_requests WHERE to_number = '+14155550101'), NULL, 'a call without variables is recorded without');
SELECT is(test.simulator_says('ledger?toNumber=%2B14155550101') -> 0 ->> 'dynamicVariables', NULL, 'and sent without');
-- flagged
SET client_min_messages = error;
SELECT kridtech_create_call('+15550100219') \g /dev/null
RESET client_min_messages;
SELECT is((state, error IS NOT NULL)::text, '(placed,t)', 'a call placed without "success": true is recorded as placed, and why it is odd')
  FROM kridtech.call_requests WHERE to_number = '+15550100219';

-- after a rollback: the record goes, the call does not
BEGIN;
SELECT kridtech_create_call('+14155550102') \g /dev/null
ROLLBACK;
SELECT is((SELECT count(*) FROM kridtech.call_requests WHERE to_number = '+14155550102'), 0::bigint, 'a rollback takes back the record');
SELECT is((test.simulator_says('k?toNumber=%2B14155550102') ->> 'k')::int, 1, 'but not the call');
BEGIN;
SAVEPOINT s;
SELECT kridtech_create_call('+14155550103') \g /dev/null
ROLLBACK TO s;
SELECT kridtech_create_call('+14155550104') \g /dev/null
COMMIT;
SELECT is((SELECT string_agg(to_number, ',') FROM kridtech.call_requests WHERE to_number IN ('+14155550103', '+14155550104')), '+14155550104', 'a savepoint takes back its own');

-- after a failure nothing stays, and nobody can have seen it
SELECT test.state_of('SELECT kridtech_create_call(''+15550100400'')') \g /dev/null
SELECT test.state_of('SELECT kridtech_create_call(''+15550100500'')') \g /dev/null
SELECT is((SELECT count(*) FROM kridtech.call_requests WHERE to_number IN ('+15550100400', '+15550100500')), 0::bigint, 'a call that failed leaves no record');
SELECT is((SELECT count(*) FROM kridtech.call_requests WHERE state <> 'placed'), 0::bigint, 'no record is left in another state than placed');

-- a table that refuses the record: nothing is sent
CREATE FUNCTION test.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER refuse BEFORE INSERT ON kridtech.call_requests FOR EACH ROW EXECUTE FUNCTION test.refuse();
SELECT is(test.state_of('SELECT kridtech_create_call(''+14155550105'')'), '55000', 'a call whose record is suppressed by a trigger ends with 55000');
DROP TRIGGER refuse ON kridtech.call_requests;
SELECT is((test.simulator_says('k?toNumber=%2B14155550105') ->> 'k')::int, 0, 'and was not sent');

-- a table that refuses the record's end, when the call is placed: an error that nobody takes for one to be tried again
CREATE FUNCTION test.raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'in the way' USING ERRCODE = TG_ARGV[0]; END $$;
CREATE FUNCTION test.ending_raising(state text) RETURNS test.ending LANGUAGE plpgsql AS $$
DECLARE
    e test.ending;
BEGIN
    EXECUTE format('CREATE TRIGGER refuse BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW EXECUTE FUNCTION test.raise(%L)', state);
    e := test.ending_of('SELECT kridtech_create_call(''+14155550107'')');
    DROP TRIGGER refuse ON kridtech.call_requests;
    RETURN e;
EXCEPTION WHEN query_canceled THEN
    e.state := SQLSTATE;
    RETURN e;
END
$$;
SELECT is(concat_ws(' ', e.state, e.detail), '08007 in the way', 'the call is placed, its record raises ' || raised) FROM (VALUES ('40001'), ('P0001'), ('23505')) v(raised), test.ending_raising(raised) e;
SELECT is((test.ending_raising('57014')).state, '57014', 'a cancelling stays one');
CREATE TRIGGER refuse BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW EXECUTE FUNCTION test.refuse();
SELECT test.ending_of('SELECT kridtech_create_call(''+14155550107'')') AS e \gset
DROP TRIGGER refuse ON kridtech.call_requests;
SELECT is(concat_ws(' ', (:'e'::test.ending).state, (:'e'::test.ending).detail), '08007 a trigger or rule on kridtech.call_requests suppressed the row', 'so it is when a trigger suppresses the record');
SELECT alike((:'e'::test.ending).message, '%placed call "' || (test.simulator_says('ledger?toNumber=%2B14155550107') -> -1 ->> 'callId') || '"%', 'and the call is named, not said to be another''s');
ALTER TABLE kridtech.call_requests ADD CONSTRAINT mine CHECK (call_status <> 'registered') NOT VALID;
SELECT test.ending_of('SELECT kridtech_create_call(''+14155550107'')') AS e \gset
ALTER TABLE kridtech.call_requests DROP CONSTRAINT mine;
SELECT is((:'e'::test.ending).state, '08007', 'and so when a constraint refuses the record');
SELECT alike((:'e'::test.ending).detail, '%constraint "mine"%', 'which is named');
SELECT unalike(concat((:'e'::test.ending).message, (:'e'::test.ending).detail, (:'e'::test.ending).hint), '%4155550107%', 'but not the number');
SELECT alike((:'e'::test.ending).message, '%"' || (test.simulator_says('ledger?toNumber=%2B14155550107') -> -1 ->> 'callId') || '"%', 'the call is named');

-- of several calls in one statement each is its own
SELECT is((SELECT count(DISTINCT call_id) FROM generate_series(1, 5) i, LATERAL kridtech_create_call('+1415555020' || i)), 5::bigint, 'five calls in one statement are five calls');
SELECT is((SELECT count(*) FROM kridtech.call_requests WHERE to_number LIKE '+1415555020_'), 5::bigint, 'and five records');
-- one that fails among them takes the statement's records back, as any error does
SELECT is(test.state_of('SELECT kridtech_create_call(n) FROM unnest(ARRAY[''+14155550301'', ''+15550100400'']) n'), '22023', 'a statement ends at the first call that fails');
SELECT is((SELECT count(*) FROM kridtech.call_requests WHERE to_number = '+14155550301'), 0::bigint, 'and its earlier records are rolled back');
-- wide variables
SELECT is(test.state_of('SELECT kridtech_create_call(''+14155550106'', jsonb_build_object(''a'', repeat(''x'', 1100000)))'), '22023', 'variables beyond the limit are refused');
SELECT * FROM finish();
