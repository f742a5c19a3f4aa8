-- kridtech_sync_calls(): the mirror of GET /api/calls.
\ir lib/begin.sql
SELECT plan(50);

CREATE FUNCTION test.list_is(rows text, total text DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
    SELECT test.next_answer('calls', jsonb_build_object('fault', 'body', 'status', 200, 'body',
        '{"success":true,"calls":[' || rows || ']' || coalesce(total, ',"total":' || json_array_length(('[' || rows || ']')::json)) || '}'))
$$;
-- The rows a sync of this list adds or changes.
CREATE FUNCTION test.synced(rows text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.list_is(rows);
    RETURN kridtech_sync_calls();
END
$$;
-- A call's row as text, without synced_at.
CREATE FUNCTION test.call(id text) RETURNS text LANGUAGE sql AS $$
    SELECT format('%s %s %s %s %s %s %s %s', account_id, direction, to_number, call_status, duration, cost, created_at, first_name)
      FROM kridtech.calls WHERE call_id = id
$$;
SET timezone = 'UTC';

-- one list, whole
SELECT is(test.synced('{"callId":"call_abc123","accountId":"your-account-id","direction":"outbound","toNumber":"+1234567890","callStatus":"completed","duration":125,"cost":45,"createdAt":"2025-02-14T10:30:00Z","firstName":"John"}'),
          1, 'a listed call is added');
SELECT is(test.call('call_abc123'), 'your-account-id outbound +1234567890 completed 125 45 2025-02-14 10:30:00+00 John', 'with every field of the list');
SELECT ok(synced_at BETWEEN now() - interval '1 minute' AND clock_timestamp(), 'and when it was listed') FROM kridtech.calls;

-- nothing new: nothing is written
SELECT xmin AS before, synced_at AS synced, ctid AS place FROM kridtech.calls \gset
SELECT is(test.synced('{"callId":"call_abc123","accountId":"your-account-id","direction":"outbound","toNumber":"+1234567890","callStatus":"completed","duration":125,"cost":45.0,"createdAt":"2025-02-14T11:30:00+01:00","firstName":"John"}'),
          0, 'the same call again changes nothing');
SELECT is((xmin, ctid, synced_at)::text, (:'before'::xid, :'place'::tid, :'synced'::timestamptz)::text, 'and its row is not written anew') FROM kridtech.calls;
SELECT is((SELECT xmax::text FROM kridtech.calls), '0', 'nor locked');
SELECT test.list_is('{"callId":"call_abc123","cost":45}') \g /dev/null
BEGIN;
SELECT kridtech_sync_calls() \g /dev/null
SELECT ok(txid_current_if_assigned() IS NULL, 'a sync that brings nothing new does not even take a transaction id');
COMMIT;

-- a field that is not there any more, or has another type, does not erase what was known
SELECT is(test.synced('{"callId":"call_abc123"}'), 0, 'a row without fields changes nothing');
SELECT is(test.synced('{"callId":"call_abc123","accountId":null,"direction":null,"toNumber":null,"callStatus":null,"duration":null,"cost":null,"createdAt":null,"firstName":null}'), 0, 'nor does one of nulls');
SELECT is(test.synced('{"callId":"call_abc123","cost":"free","duration":{},"createdAt":"yesterday"}'), 0, 'nor one of other types');
SELECT is(test.synced('{"callId":"call_abc123","cost":46}'), 1, 'a field that says something else does');
SELECT is(test.call('call_abc123'), 'your-account-id outbound +1234567890 completed 125 46 2025-02-14 10:30:00+00 John', 'and the others stay');

-- what an index would refuse costs its field, not the list
SELECT is(test.synced('{"callId":"sound","callStatus":"failed"},{"callId":"endless","callStatus":"' || repeat(md5('s'), 300) || '","toNumber":"' || repeat(md5('n'), 300) || '","duration":1}'), 2, 'a number and a status beyond measure do not keep the list from being stored');
SELECT is(test.call('endless'), '    1   ', 'they alone are left out');

-- a call does not go back
SELECT is(test.synced('{"callId":"call_abc123","callStatus":"ongoing","duration":0,"cost":0}'), 0, 'a row that is older than what is known changes nothing');
SELECT is(test.synced('{"callId":"a","callStatus":"' || status || '"}'), changed, 'registered, ongoing, failed: ' || status || ' then changes ' || changed)
  FROM (VALUES (1, 'registered', 1), (2, 'ongoing', 1), (3, 'registered', 0), (4, 'failed', 1), (5, 'ongoing', 0), (6, 'registered', 0)) AS v(n, status, changed) ORDER BY n;
SELECT is(test.synced('{"callId":"a","callStatus":"ongoing","firstName":"Ann","duration":7}'), 1, 'an older row still tells what was not known');
SELECT is(test.call('a'), '   failed 7   Ann', 'and no more than that');
SELECT is(test.synced('{"callId":"b","callStatus":"ongoing"},{"callId":"b","callStatus":"completed","duration":3},{"callId":"b","callStatus":"registered"}'), 1, 'a call that is listed several times is one row');
SELECT is(test.call('b'), '   completed 3   ', 'in its furthest state');
SELECT is(test.synced('{"callStatus":"completed"},{"callId":"","toNumber":"x"},{"callId":7}'), 0, 'rows without a callId are passed over');
SELECT is(test.synced(''), 0, 'an empty list is no error');

-- events whose call the API lists are genuine
INSERT INTO kridtech.webhook_events (call_id, raw) VALUES ('inbound', '{}'), ('forged', '{}');
INSERT INTO kridtech.webhook_events (call_id, raw, verified_by) VALUES ('ours', '{}', 'request');
CREATE TABLE test.verified (call_id text, verified_by text);
CREATE FUNCTION test.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO test.verified VALUES (NEW.call_id, NEW.verified_by); RETURN NULL; END $$;
CREATE TRIGGER note AFTER UPDATE OF verified_by ON kridtech.webhook_events FOR EACH ROW EXECUTE FUNCTION test.note();
SELECT is(test.synced('{"callId":"inbound"},{"callId":"ours"}'), 2, 'calls of webhooks that have come are listed');
SELECT results_eq('SELECT call_id, verified_by FROM kridtech.webhook_events ORDER BY 1', $$VALUES ('forged', NULL), ('inbound', 'api'), ('ours', 'request')$$, 'which vouches for those that nothing else has verified');
SELECT is(test.synced('{"callId":"inbound"},{"callId":"ours"}'), 0, 'and once is enough:');
SELECT results_eq('SELECT call_id, verified_by FROM test.verified', $$VALUES ('inbound', 'api')$$, 'a trigger on that fires once');

-- that an event cannot be verified costs the sync nothing; but the caller's cancel is the caller's, and so are its constraints
INSERT INTO kridtech.webhook_events (call_id, raw) VALUES ('hangs', '{}');
CREATE FUNCTION test.hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
CREATE TRIGGER hang AFTER UPDATE OF verified_by ON kridtech.webhook_events FOR EACH ROW WHEN (NEW.call_id = 'hangs') EXECUTE FUNCTION test.hang();
SELECT test.list_is('{"callId":"hangs"}') \g /dev/null
SELECT alike(test.session('SET statement_timeout = ''2s''; SELECT public.kridtech_sync_calls();'), '%57014%', 'statement_timeout ends a sync that hangs in a trigger');
DROP TRIGGER hang ON kridtech.webhook_events;
SELECT test.list_is('{"callId":"hangs"}') \g /dev/null
CREATE TABLE test.later (id int PRIMARY KEY, other int REFERENCES test.later DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO test.later VALUES (1, 2);
SELECT is(kridtech_sync_calls(), 1, 'a sync among statements of the caller''s');
SELECT is((SELECT verified_by FROM kridtech.webhook_events WHERE call_id = 'hangs'), 'api', 'is not kept from verifying by a constraint that the caller has deferred');
INSERT INTO test.later VALUES (2, 1);
COMMIT;
SELECT is((SELECT count(*)::int FROM test.later), 2, 'and leaves that deferred');
DELETE FROM kridtech.webhook_events WHERE call_id = 'hangs';

-- times that none of the views can reckon with
SELECT test.synced('{"callId":"' || year || '","callStatus":"completed","duration":' || duration || ',"createdAt":"' || year || '"}')
  FROM (VALUES ('4713-01-01T00:00:00+00 BC', '-2147483648'), ('0001-01-01T00:00:00Z', '-2147483648'), ('9999-12-31T23:59:59Z', '2147483647')) AS v(year, duration) \g /dev/null
SELECT lives_ok('SELECT * FROM kridtech.missing_webhooks, kridtech.call_history', 'a call of an odd time stops no view');

-- which lists are read
DELETE FROM kridtech.calls;
SELECT test.simulator('reset') \g /dev/null
SELECT test.simulator('calls', '{"n":150,"accountId":"acct-1","toNumber":"+14155550123","direction":"outbound","createdAt":"2025-02-14T10:30:00Z","spacing":1}') \g /dev/null
SELECT test.simulator('calls', '{"n":30,"accountId":"acct-1","toNumber":"+14155550124","direction":"outbound","status":"failed","createdAt":"2025-02-13T10:30:00Z","spacing":1}') \g /dev/null
SELECT test.simulator('calls', '{"n":20,"accountId":"acct-1","toNumber":"+14155550125","direction":"inbound","status":"ongoing","createdAt":"2025-02-12T10:30:00Z","spacing":1}') \g /dev/null
SELECT is(kridtech_sync_calls(), 150, 'more than 100 calls: those of each status are read too');
SELECT is((SELECT string_agg(call_status || ' ' || n, ', ' ORDER BY call_status) FROM (SELECT call_status, count(*) AS n FROM kridtech.calls GROUP BY 1) AS g), 'completed 100, failed 30, ongoing 20', 'up to 100 of each');
SELECT is(kridtech_sync_calls(), 0, 'and nothing of it is new the second time');
SELECT results_eq('SELECT call_id, account_id, direction, to_number, call_status, duration, cost, created_at, first_name FROM kridtech.calls WHERE call_status = ''failed'' ORDER BY 1',
                  'SELECT call_id, account_id, direction, to_number, call_status, duration, cost, created_at, first_name FROM kridtech_calls(''failed'', 100) ORDER BY 1', 'the mirror is what kridtech_calls() shows');
CREATE FUNCTION test.synced_with(total text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM kridtech.calls;
    PERFORM test.list_is('{"callId":"one"}', total);
    RETURN kridtech_sync_calls();
END
$$;
SELECT is(test.synced_with(total), synced, 'a short list whose total is ' || what)
  FROM (VALUES (',"total":1', 1, 'its length is taken for all'), (',"total":7', 151, 'larger is not'), (',"total":0', 151, 'smaller is not'),
    ('', 151, 'missing is not'), (',"total":"1"', 151, 'no number is not')) AS v(total, synced, what);
DELETE FROM kridtech.calls;

-- accounts, errors
INSERT INTO kridtech.accounts VALUES ('acct-9', '/nonexistent');
SELECT is(test.state_of('SELECT kridtech_sync_calls(''acct-9'')'), '28000', 'an account without its key is 28000');
SELECT is(test.state_of('SELECT kridtech_sync_calls('''')'), '22023', 'an empty account is no account');
SELECT is(test.state_of('SET TRANSACTION READ ONLY; SELECT kridtech_sync_calls()'), '25006', 'it is refused in a read-only transaction');
SELECT test.next_answer('calls', '{"fault":"status","status":429}') \g /dev/null
SELECT is(test.state_of('SELECT kridtech_sync_calls()'), '53400', 'a 429 is 53400');
SELECT test.next_answer('calls', '{"fault":"body","status":200,"body":"<html>"}') \g /dev/null
SELECT is(test.state_of('SELECT kridtech_sync_calls()'), '08P01', 'what is no list is 08P01');
SELECT * FROM finish();
