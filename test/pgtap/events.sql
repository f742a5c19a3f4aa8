-- What becomes of a webhook's body: read, stored as an event, verified, or left in the inbox. Here a delivery is a row put into
-- kridtech.webhook_inbox by hand and replayed, which goes the way that the receiver's go.
\ir lib/begin.sql
SELECT no_plan();

-- A delivery: true when it became an event, or equals one.
CREATE FUNCTION test.deliver(body bytea, remote_addr inet DEFAULT NULL) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    kept bigint;
BEGIN
    INSERT INTO kridtech.webhook_inbox (body, reason, remote_addr) VALUES (body, 'late', remote_addr) RETURNING id INTO kept;
    RETURN kridtech_replay_webhook(kept);
END
$$;
CREATE FUNCTION test.deliver(body text) RETURNS boolean LANGUAGE sql AS $$ SELECT test.deliver(convert_to(body, 'UTF8')) $$;
CREATE FUNCTION test.event(call_id text) RETURNS kridtech.webhook_events LANGUAGE sql AS $$
    SELECT e FROM kridtech.webhook_events e WHERE e.call_id = $1
$$;
CREATE FUNCTION test.kept(body text) RETURNS kridtech.webhook_inbox LANGUAGE sql AS $$
    SELECT i FROM kridtech.webhook_inbox i WHERE i.body = convert_to($1, 'UTF8')
$$;

-- the documented payload
\set payload '{"callId": "call_abc123", "status": "completed", "durationMs": 94000, "transcript": "Agent: Hi, this is Sarah\\nUser: Hey", "recordingUrl": "https://storage.kridtech.com/recordings/call_abc123.mp3", "dynamicVariables": [{"variable": "first_name", "value": "James"}, {"variable": "budget", "value": "$15,000"}]}'
SELECT is(test.deliver(convert_to(:'payload', 'UTF8'), '192.0.2.7'), true, 'the documented payload becomes an event');
SELECT is((e.status, e.duration_ms, e.transcript, e.recording_url)::text,
          ('completed'::text, 94000::bigint, E'Agent: Hi, this is Sarah\nUser: Hey'::text, 'https://storage.kridtech.com/recordings/call_abc123.mp3'::text)::text, 'with its fields')
  FROM test.event('call_abc123') e;
SELECT is(e.dynamic_variables, '[{"variable": "first_name", "value": "James"}, {"variable": "budget", "value": "$15,000"}]'::jsonb, 'its variables as they were sent')
  FROM test.event('call_abc123') e;
SELECT is(e.variables, '{"first_name": "James", "budget": "$15,000"}'::jsonb, 'and as one object') FROM test.event('call_abc123') e;
SELECT is(e.raw, convert_to(:'payload', 'UTF8'), 'and its body, byte for byte') FROM test.event('call_abc123') e;
SELECT is((e.request_id, e.verified_by, e.deliveries, e.remote_addr, e.received_at <= clock_timestamp())::text, '(,,1,192.0.2.7,t)', 'unverified, delivered once, from its client')
  FROM test.event('call_abc123') e;
SELECT is((SELECT count(*) FROM kridtech.webhook_inbox), 0::bigint, 'and the inbox is rid of it');

-- equal and other bodies
SELECT is(test.deliver(:'payload'), true, 'an equal body');
SELECT is((SELECT deliveries FROM test.event('call_abc123')), 2, 'is counted');
SELECT is(test.deliver('{"callId": "call_abc123", "transcript": "forged"}'), false, 'another body for the same call');
SELECT is((SELECT transcript FROM test.event('call_abc123')), E'Agent: Hi, this is Sarah\nUser: Hey', 'does not overwrite the first');
SELECT is((k.reason, k.next_attempt_at)::text, '(conflict,)', 'but stays in the inbox as a conflict') FROM test.kept('{"callId": "call_abc123", "transcript": "forged"}') k;
SELECT is(kridtech_replay_webhook(id), false, 'which it remains when it is replayed') FROM test.kept('{"callId": "call_abc123", "transcript": "forged"}');
DELETE FROM kridtech.webhook_events WHERE call_id = 'call_abc123';
SELECT is(kridtech_replay_webhook(id), true, 'until the event is gone') FROM test.kept('{"callId": "call_abc123", "transcript": "forged"}');
SELECT throws_ok($$INSERT INTO kridtech.webhook_inbox (body, reason) VALUES ('same', 'late'), ('same', 'late')$$, '23505', NULL, 'a body is kept once');
SELECT is(kridtech_replay_webhook(0), false, 'a row that is not there is no event');
SELECT is(kridtech_replay_webhook(NULL), NULL, 'nor is no row');
INSERT INTO kridtech.webhook_inbox (body, reason, received_at, deliveries) VALUES ('{"callId": "call_older"}', 'lock', '2001-01-01 UTC', 7);
SELECT is(kridtech_replay_webhook(id), true, 'a replayed delivery') FROM kridtech.webhook_inbox WHERE reason = 'lock';
SELECT is((received_at = '2001-01-01 UTC', deliveries)::text, '(t,7)', 'keeps the time when it came, and how often') FROM test.event('call_older');

-- what is no event
SELECT is(test.deliver(body), false, 'no event: ' || left(body, 40))
  FROM (VALUES ('null'), ('[]'), ('"callId"'), ('12'), ('{'), ('{}'), ('{"callId": "call_cut"'), ('{"callId": "call_cut"} x'), ('{"callId": 12}'), ('{"callId": ""}'), ('{"callId": null}'),
               ('{"callId": {"callId": "call_inner"}}'), ('{"callid": "call_case"}'), ('{"callId": "' || repeat('x', 10000) || '"}'), ('{"callId": "' || repeat('x', 257) || '"}'),
               ('{"callId": "call_a",}'), ('{callId: "call_a"}'), ('<html>')) AS b(body);
SELECT is(test.deliver(''::bytea), false, 'no event: an empty body');
SELECT is(test.deliver('\x00'::bytea), false, 'no event: a NUL');
SELECT is(count(*) FILTER (WHERE reason <> 'bad body' OR detail IS NULL OR call_id IS NOT NULL), 0::bigint, 'all of them are bad bodies, and say what is wrong') FROM kridtech.webhook_inbox WHERE body <> 'same';
SELECT is((SELECT string_agg(DISTINCT detail, '; ' ORDER BY detail) FROM kridtech.webhook_inbox), 'it has no callId; it is not a JSON object; its callId is empty; its callId is not a string; its callId is too long',
          'in words of ours');
SELECT is((SELECT count(*) FROM kridtech.webhook_events), 2::bigint, 'and no event');
SELECT is(test.deliver('{"callId": "' || repeat('x', 256) || '"}'), true, 'a callId of 256 bytes is one');

-- what is repaired: column, or all of them NULL, never refused
CREATE FUNCTION test.stored(body bytea) RETURNS kridtech.webhook_events LANGUAGE plpgsql AS $$
DECLARE
    call_id text := 'call_' || md5(body);
    whole bytea := overlay(body PLACING convert_to(format('{"callId": "%s", ', call_id), 'UTF8') FROM 1 FOR 1);
    e kridtech.webhook_events;
BEGIN
    IF NOT test.deliver(whole) THEN
        RAISE 'not stored: %', substr(body, 1, 100);
    END IF;
    e := test.event(call_id);
    IF e.raw IS DISTINCT FROM whole THEN
        RAISE 'raw is not the body';
    END IF;
    RETURN e;
END
$$;
CREATE FUNCTION test.stored(body text) RETURNS kridtech.webhook_events LANGUAGE sql AS $$ SELECT test.stored(convert_to(body, 'UTF8')) $$;

SELECT is((test.stored(body)).transcript, transcript, what) FROM (VALUES
    ('{"transcript": "a\u0000b"}', U&'a\FFFDb', 'an escaped NUL in a transcript becomes U+FFFD'),
    ('{"transcript": "a\ud800b"}', U&'a\FFFDb', 'and so does half a surrogate pair'),
    ('{"transcript": "\ud83d\ude00 \u00e4 \u4e2d"}', U&'\+01F600 \00E4 \4E2D', 'a whole pair is its character'),
    ('{"transcript": null}', NULL, 'a null transcript is NULL'),
    ('{"transcript": 12}', NULL, 'a number for a transcript is none'),
    ('{"transcript": {"a": 1}}', NULL, 'nor is an object'),
    ('{"transcript": ""}', '', 'an empty one is empty'),
    ('{"transcript": "one", "transcript": "two"}', 'two', 'of two transcripts the last counts'),
    ('{"TRANSCRIPT": "one", "unknown": [1, {"transcript": "no"}], "transcript": "yes"}', 'yes', 'unknown fields are passed over'),
    ('{"transcript": "yes", "n": 1e999999, "deep": ' || repeat('[', 100000) || repeat(']', 100000) || '}', 'yes', 'whatever number or depth stands in them'),
    ('{"deep": ' || repeat('{"a":[', 50000) || repeat(']}', 50000) || ', "transcript": "behind"}', 'behind', 'before a transcript too')) AS b(body, transcript, what);
SELECT is((test.stored('\x7b227472616e736372697074223a2261fffe62ff227d'::bytea)).transcript, U&'a\FFFD\FFFDb\FFFD', 'bytes that are no UTF-8 become U+FFFD');
SELECT is((test.stored('\x7b227472616e736372697074223a226100 62227d'::bytea)).transcript, U&'a\FFFDb', 'and so does a NUL byte');
SELECT is(test.deliver('\xefbbbf'::bytea || convert_to('{"callId": "call_bom"}', 'UTF8')), true, 'a BOM before the object does no harm');
SELECT is(test.deliver(E' \r\n\t{"callId": "call_blank"}\n'), true, 'nor do blanks around it');
SELECT is(test.deliver('{"callId": "call_first", "callId": "call_last"}'), true, 'of two callIds');
SELECT is((SELECT count(*) FROM test.event('call_last') e WHERE e.call_id IS NOT NULL), 1::bigint, 'the last counts');
SELECT is(test.deliver('{"callId": "call_\u0000"}'), true, 'a callId is repaired as well');
SELECT ok((test.event(U&'call_\FFFD')).raw IS NOT NULL, 'to what text can hold');

SELECT is((test.stored(format('{"durationMs": %s}', given))).duration_ms, expected, 'durationMs ' || left(given, 20))
  FROM (VALUES ('94000', 94000::bigint), ('"94000"', 94000), ('1.5', 2), ('9.4e4', 94000), ('0', 0), ('-1', -1), ('true', NULL), ('null', NULL), ('1e999999', NULL), ('1e-999999', NULL), ('"soon"', NULL), ('"-1"', NULL),
               ('9007199254740992', 9007199254740992), ('9223372036854775808', NULL), ('[94000]', NULL), (repeat('9', 100000), NULL)) AS d(given, expected);

SELECT is((e.dynamic_variables, e.variables)::text, (sent::jsonb, object::jsonb)::text, 'dynamicVariables ' || left(given, 60))
  FROM (VALUES ('null', NULL, NULL), ('[]', '[]', '{}'), ('{}', '{}', '{}'), ('{"a": 1}', '{"a": 1}', '{"a": 1}'), ('"x"', NULL, NULL), ('12', NULL, NULL), ('true', NULL, NULL),
               ('[1, null, {"variable": 2}, [], {"variable": "a"}, {"value": 3}, {"variable": "b", "value": {"c": [1]}}]',
                '[1, null, {"variable": 2}, [], {"variable": "a"}, {"value": 3}, {"variable": "b", "value": {"c": [1]}}]', '{"a": null, "b": {"c": [1]}}'),
               ('[{"variable": "a", "value": 1}, {"variable": "a", "value": 2}]', '[{"variable": "a", "value": 1}, {"variable": "a", "value": 2}]', '{"a": 2}'),
               ('[{"variable": "n", "value": 1e999999}]', '[{"variable": "n", "value": "1e999999"}]', '{"n": "1e999999"}'),
               ('[{"variable": "n", "value": -1.5E-400000}, 1e100, "1e999"]', '[{"variable": "n", "value": "-1.5E-400000"}, 1e100, "1e999"]', '{"n": "-1.5E-400000"}'),
               ('[{"variable": "n\u0000", "value": "\ud800\"\\"}]', U&'[{"variable": "n\FFFD", "value": "\FFFD\\"\\\\"}]', U&'{"n\FFFD": "\FFFD\\"\\\\"}')) AS d(given, sent, object),
       LATERAL test.stored(format('{"dynamicVariables": %s}', given)) e;
SELECT is((test.stored('{"dynamicVariables": [' || repeat('9', 200000) || ']}')).dynamic_variables, jsonb_build_array(repeat('9', 200000)), 'a number of 200,000 digits is a string of them');
SELECT is(jsonb_typeof((test.stored('{"dynamicVariables": ' || repeat('[', 100000) || repeat(']', 100000) || '}')).dynamic_variables), 'array', 'what is nested too deep is cut off there');
SELECT is((test.stored('{"dynamicVariables": ["' || repeat('x', 5000000) || '"], "status": "completed"}')).status, 'completed', 'variables of 5 MB leave the rest alone');

-- large ones, and how long they take
SELECT clock_timestamp() AS begun \gset
SELECT is(length((test.stored('{"transcript": "' || repeat('Agent: Hello.\nUser: Yes \u00e4.\n', 500000) || '"}')).transcript), 13500000, 'a transcript of 16 MB is stored whole');
SELECT ok((test.stored('{"x": [' || repeat('1,', 8000000) || '1]}')).call_id IS NOT NULL, 'so is a body of eight million numbers');
SELECT ok((test.stored('{"dynamicVariables": [' || repeat('1,', 1900000) || '1]}')).variables IS NOT NULL, 'and one of two million variables');
SELECT ok((test.stored('{"x": ' || repeat('{"a":', 3000000) || '1' || repeat('}', 3000000) || '}')).call_id IS NOT NULL, 'and one of three million levels');
SELECT ok(clock_timestamp() - :'begun' < interval '60 s', 'within a time that is not quadratic');

-- verified when it comes; a ref names its request
CREATE FUNCTION test.ref(request_id bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lpad(to_hex(request_id), 12, '0') || repeat('5', 20) $$;
INSERT INTO kridtech.call_requests (id, to_number, state, call_id) OVERRIDING SYSTEM VALUE VALUES
    (1001, '+14155550101', 'placed', 'call_ours'), (1002, '+14155550102', 'placed', NULL), (1003, '+14155550103', 'placed', 'call_answered'), (1004, '+14155550104', 'placed', 'call_of_1004');
INSERT INTO kridtech.call_attempts (request_id, epoch, ref, live, call_id) VALUES
    (1002, 1, test.ref(1002), true, NULL), (1003, 1, test.ref(1003), true, 'call_answered'), (1002, 1, left(test.ref(1002), 31) || '7', false, NULL), (1004, 1, test.ref(1004), true, 'call_of_1004');
CREATE FUNCTION test.echo(call_id text, ref text) RETURNS text LANGUAGE sql AS $$
    SELECT test.deliver(format('{"callId": "%s", "dynamicVariables": [{"variable": "kridtech_ref", "value": %s}]}', call_id, ref));
    SELECT (e.verified_by, e.request_id)::text FROM test.event(call_id) e
$$;
SELECT is(test.deliver('{"callId": "call_ours"}'), true, 'an event whose callId a request has');
SELECT is((verified_by, request_id)::text, '(request,1001)', 'is verified by it, and belongs to it') FROM test.event('call_ours');
SELECT is(test.echo('call_early', to_json(test.ref(1002))::text), '(correlation,1002)', 'one that brings a kridtech_ref back is verified by it');
SELECT is(test.echo('call_answered', to_json(test.ref(1003))::text), '(request,1003)', 'one that does both, by its callId');
SELECT is(test.echo('call_ours_too', to_json(test.ref(1004))::text), '(,)', 'a ref whose attempt was answered with another callId verifies nothing');
SELECT is(test.echo('call_guess', to_json(test.ref(1005))::text), '(,)', 'nor does a ref that nobody sent');
SELECT is(test.echo('call_redialled', to_json(left(test.ref(1002), 31) || '7')::text), '(correlation,1002)', 'but the ref of an attempt that a human has called harmless does');
SELECT is(test.echo('call_near', to_json(left(test.ref(1002), 31) || '6')::text), '(,)', 'nor one that names a request but was not sent for it');
SELECT is(test.echo('call_odd_' || n, ref), '(,)', 'nor ' || ref)
  FROM (VALUES (1, '"2"'), (2, 'null'), (3, '22222222222222222222222222222222'), (4, '["' || test.ref(1002) || '"]'), (5, '"' || test.ref(1002) || '5"'), (6, '""'), (7, '"' || upper(test.ref(1002)) || '"')) AS o(n, ref);
INSERT INTO kridtech.calls (call_id) VALUES ('call_listed'), ('call_ours_listed');
INSERT INTO kridtech.call_requests (id, to_number, state, call_id) VALUES (1005, '+14155550105', 'placed', 'call_ours_listed');
SELECT is(test.echo('call_listed', 'null'), '(api,)', 'a call that the API has listed is verified by that');
SELECT is(test.echo('call_ours_listed', 'null'), '(request,1005)', 'but by its request, where it has one');
SELECT is(test.deliver('{"callId": "call_as_object", "dynamicVariables": {"kridtech_ref": "' || test.ref(1002) || '"}}'), true, 'a ref');
SELECT is((verified_by, request_id)::text, '(correlation,1002)', 'may come as an object''s member') FROM test.event('call_as_object');

-- triggers of the user's
CREATE TABLE test.seen (call_id text, who name, path text);
CREATE FUNCTION test.see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO test.seen VALUES (NEW.call_id, current_user, current_setting('search_path'));
    IF NEW.transcript = 'raise' THEN RAISE 'no such lead'; END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER see AFTER INSERT ON kridtech.webhook_events FOR EACH ROW EXECUTE FUNCTION test.see();
CREATE ROLE pgtap_replayer;
GRANT EXECUTE ON FUNCTION kridtech_replay_webhook(bigint) TO pgtap_replayer;
INSERT INTO kridtech.webhook_inbox (id, body, reason) VALUES (500, '{"callId": "call_seen"}', 'late'), (501, '{"callId": "call_raise", "transcript": "raise"}', 'late');
SELECT kridtech_cancel_call(0) \g /dev/null
SET ROLE pgtap_replayer;
SELECT is(kridtech_replay_webhook(500), true, 'who may replay needs no right on the tables');
RESET ROLE;
SELECT is(s::text, format('(call_seen,%s,"pg_catalog, pg_temp")', current_user), 'and a trigger on events runs as the tables'' owner') FROM test.seen s;
SELECT is((test.ending_of('SELECT kridtech_replay_webhook(501)')).message, 'no such lead', 'what a trigger raises is raised');
SELECT is((SELECT count(*) FROM kridtech.webhook_inbox WHERE id = 501), 1::bigint, 'and the delivery is still kept');
DROP TRIGGER see ON kridtech.webhook_events;
CREATE FUNCTION test.suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER suppress BEFORE INSERT ON kridtech.webhook_events FOR EACH ROW EXECUTE FUNCTION test.suppress();
SELECT is(kridtech_replay_webhook(501), false, 'a trigger that suppresses the event');
SELECT is((reason, detail LIKE '%suppressed%')::text, '(error,t)', 'leaves it in the inbox, and that is said') FROM kridtech.webhook_inbox WHERE id = 501;
UPDATE kridtech.webhook_inbox SET attempts = 7, next_attempt_at = now() WHERE id = 501;
SELECT kridtech_replay_webhook(501) \g /dev/null
SELECT isnt(next_attempt_at, NULL, 'where it is tried again') FROM kridtech.webhook_inbox WHERE id = 501;
UPDATE kridtech.webhook_inbox SET attempts = 8 WHERE id = 501;
SELECT kridtech_replay_webhook(501) \g /dev/null
SELECT is(next_attempt_at, NULL, 'but not for ever') FROM kridtech.webhook_inbox WHERE id = 501;
DROP TRIGGER suppress ON kridtech.webhook_events;
SELECT is(kridtech_replay_webhook(501), true, 'without it the event is stored');
CREATE FUNCTION test.rename() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.call_id := 'renamed_' || NEW.call_id; RETURN NEW; END $$;
CREATE TRIGGER rename BEFORE INSERT ON kridtech.webhook_events FOR EACH ROW EXECUTE FUNCTION test.rename();
INSERT INTO kridtech.webhook_inbox (id, body, reason) VALUES (502, '{"callId": "call_named"}', 'late');
SELECT is(kridtech_replay_webhook(502), true, 'a trigger that gives the event another callId does not keep it in the inbox');
SELECT is((test.event('renamed_call_named')).raw, '{"callId": "call_named"}'::bytea, 'it is an event under that one');
DROP TRIGGER rename ON kridtech.webhook_events;

-- in the caller's transaction
INSERT INTO kridtech.webhook_inbox (id, body, reason) VALUES (510, '{"callId": "call_undone"}', 'late');
BEGIN;
SELECT kridtech_replay_webhook(510) \g /dev/null
ROLLBACK;
SELECT is((SELECT count(*) FROM kridtech.webhook_inbox WHERE id = 510), 1::bigint, 'a rollback takes a replay back');
BEGIN READ ONLY;
SELECT is(test.state_of('SELECT kridtech_replay_webhook(510)'), '25006', 'a read-only transaction replays nothing');
ROLLBACK;

-- notification: the callId, at commit
SELECT is(test.session('LISTEN kridtech_webhooks; SELECT kridtech_replay_webhook(510)') LIKE '%"kridtech_webhooks" with payload "call_undone"%', true, 'a new event is notified by its callId');
INSERT INTO kridtech.webhook_inbox (id, body, reason) VALUES (511, '{"callId": "call_undone"}', 'late');
SELECT is(test.session('LISTEN kridtech_webhooks; SELECT kridtech_replay_webhook(511)'), 't', 'an equal one is not');

-- a request is bound to its callId once
SELECT throws_ok($$INSERT INTO kridtech.webhook_events (call_id, raw, verified_by) VALUES ('call_x', '', 'me')$$, '23514', NULL, 'an event is verified by request, correlation or api');
SELECT throws_ok($$INSERT INTO kridtech.webhook_events (call_id, raw) VALUES ('', '')$$, '23514', NULL, 'an event has a callId');
SELECT * FROM finish();
