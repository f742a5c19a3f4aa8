-- What messages say and what they never say: contract section 3.
\ir lib/begin.sql
SELECT plan(40);

SELECT alike(e.message, '%(' || endpoint || ', HTTP status ' || status || ')', 'the message for HTTP ' || status || ' names ' || endpoint || ' and the status')
  FROM (VALUES ('create-call', 'POST /api/create-call'), ('create-web-call', 'POST /api/create-web-call'), ('calls', 'GET /api/calls')) AS r(request, endpoint),
       (VALUES (400), (401), (429), (500)) AS s(status), LATERAL test.ending_with(request, jsonb_build_object('fault', 'status', 'status', status)) e;
SELECT alike(e.message, '%(POST /api/create-call)', 'the message for an answer that never came names the endpoint') FROM test.ending_with('create-call', '{"fault": "drop"}') e;
SELECT alike(e.hint, '%3 seconds%', 'a 429 tells how long the API asks to wait') FROM test.ending_with('calls', '{"fault": "status", "status": 429, "retry_after": "3"}') e;
SELECT alike(e.hint, '%kridtech_calls()%', 'an unknown outcome tells where to look') FROM test.ending_with('create-call', '{"fault": "status", "status": 500}') e;
SELECT alike(e.message, '%to another request%', 'a callId that is bound already is told as such')
  FROM test.ending_of('SELECT kridtech_create_call(''+15550100222''), kridtech_create_call(''+15550100222'')') e;

-- hostile words: they hold the key, the number in several forms, control characters, and go on for ever
CREATE TABLE test.endings (n int GENERATED ALWAYS AS IDENTITY, e test.ending);
CREATE FUNCTION test.hostile_words(body jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    request text;
    status int;
BEGIN
    FOREACH request IN ARRAY ARRAY['create-call', 'create-web-call', 'calls', 'total'] LOOP
        FOREACH status IN ARRAY ARRAY[200, 400, 401, 402, 404, 429, 500, 503] LOOP
            INSERT INTO test.endings (e) SELECT test.ending_with(request, jsonb_build_object('fault', 'body', 'status', status, 'body', body::text));
        END LOOP;
    END LOOP;
END
$$;
SELECT test.hostile_words('{"success": false, "message": "key pgtap-key-1 may not call +14155550123, nor (+1) 415-555-0123, nor 14155550123 pgtap-key-1pgtap-key-1"}');
SELECT test.hostile_words('{"success": false, "error": {"message": "+1.415.555.0123 x-api-key: pgtap-key-1"}}');
SELECT test.hostile_words(jsonb_build_object('success', false, 'detail', repeat('pgtap-key-1 ', 10000)));
SELECT test.hostile_words(jsonb_build_object('success', false, 'message', E'line one\nERROR:  forged\e[2J\u202E\u0085 %s %n %d', 'callId', 'pgtap-key-1'));
SELECT is(count(*), 128::bigint, 'hostile words were said 128 times') FROM test.endings WHERE (e).state <> '00000';
SELECT cmp_ok(count(*), '>', 80::bigint, 'and repeated in a DETAIL most times') FROM test.endings WHERE (e).detail LIKE 'The API says: %';
SELECT is(count(*), 0::bigint, 'no message, detail, hint or context holds the key') FROM test.endings WHERE e::text LIKE '%pgtap-key-1%';
SELECT is(count(*), 0::bigint, 'nor a phone number, with or without punctuation')
  FROM test.endings WHERE regexp_replace((e).message || (e).detail || (e).hint, '[^0-9]', '', 'g') LIKE '%4155550123%';
SELECT is(count(*), 0::bigint, 'nor so much of one as could be called') FROM test.endings WHERE regexp_replace((e).detail, '[ .()-]', '', 'g') ~ '[0-9]{6}';
SELECT is(count(*), 0::bigint, 'nor a character that acts on a terminal or forges a line') FROM test.endings WHERE (e).message || (e).detail || (e).hint ~ E'[\x01-\x1f\x7f\u0080-\u009f\u202a-\u202e]';
SELECT cmp_ok(max(length((e).detail)), '<=', 280, 'nor words without end') FROM test.endings;
SELECT cmp_ok(count(*), '>', 0::bigint, 'percent signs are text') FROM test.endings WHERE (e).detail LIKE '%\%s \%n \%d%';

-- the caller's own mistake is not repeated with the number in it
SELECT unalike(test.session('SELECT kridtech_create_call(''+1415555012345678'')'), E'%ERROR%1415555012345678%HINT%', 'a refused number is not shown in the message');
SELECT is((test.ending_of(statement)).message, message, 'nor in that of ' || statement)
  FROM (VALUES ('SELECT kridtech_calls(''+14155550123'')', 'the call status is not one the API filters by'),
               ('SELECT kridtech_calls_total(''+14155550123'')', 'the call status is not one the API filters by'),
               ('SELECT kridtech_resolve_call(1, ''+14155550123'')', 'the outcome is not one a request can have')) AS v(statement, message);
INSERT INTO kridtech.call_requests (id, to_number, state, unique_key) VALUES (100001, '+14155550123', 'failed', '+14155550123'), (100002, '+14155550123', 'placed', '+14155550123');
SELECT is((test.ending_of('SELECT kridtech_resolve_call(100001, ''placed'')')).message, 'the unique key of call request 100001 already belongs to call request 100002', 'nor is one that is a unique_key');
-- what violates a constraint of somebody's is not shown, which PostgreSQL does
ALTER TABLE kridtech.call_requests ADD CONSTRAINT mine CHECK (to_number <> '+14155550151' AND NOT (id = 100003 AND state = 'cancelled')) NOT VALID;
CREATE UNIQUE INDEX mine_too ON kridtech.call_requests (to_number) WHERE to_number = '+14155550152';
ALTER TABLE kridtech.webhook_events ADD CONSTRAINT mine CHECK (transcript <> '+14155550153');
INSERT INTO kridtech.call_requests (id, to_number, not_before) VALUES (100003, '+14155550154', 'infinity'), (100004, '+14155550152', 'infinity');
INSERT INTO kridtech.webhook_inbox (id, body, reason) VALUES (7, '{"callId": "call_shown", "transcript": "+14155550153"}', 'late');
CREATE TABLE test.leads (id int PRIMARY KEY, phone text);
CREATE TRIGGER call AFTER INSERT ON test.leads FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
SELECT is(concat_ws(' ', e.state, e.message ~ '"mine(_too)?"', concat(e.message, e.detail, e.hint, e.context) ~ '41555501'), expected || ' t f', 'nor the row that violates a constraint: ' || statement)
  FROM (VALUES ('SELECT kridtech_queue_call(''+14155550151'')', '23514'), ('SELECT kridtech_queue_call(''+14155550151'', unique_key => ''k'')', '23514'), ('SELECT kridtech_create_call(''+14155550151'')', '23514'),
               ('SELECT kridtech_queue_call(''+14155550152'')', '23505'), ('SELECT kridtech_queue_call(''+14155550152'', unique_key => ''k'')', '23505'), ('SELECT kridtech_cancel_call(100003)', '23514'),
               ('INSERT INTO test.leads VALUES (1, ''+1 41 5555 0155''), (2, ''+14155550152'')', '23505'), ('INSERT INTO test.leads VALUES (1, ''+14155550151'')', '23514'), ('SELECT kridtech_replay_webhook(7)', '23514')) AS v(statement, expected),
       LATERAL test.ending_of(replace(replace(statement, '+14155550151', '+1 41 5555 0151'), '+14155550152', '+1 41 5555 0152')) e;
-- a call placed by its callId is not a secret, its token is: it stands in the result and nowhere else
SELECT token AS token FROM (SELECT access_token AS token FROM kridtech_create_web_call()) x \gset
SELECT ok(length(:'token') > 20, 'create-web-call returns a token');
SELECT is((SELECT count(*) FROM kridtech.call_requests r WHERE r::text LIKE '%' || :'token' || '%'), 0::bigint, 'which is recorded nowhere');

SELECT * FROM finish();
