-- The tables of recordings: their columns, what they refuse, how content is read, who may.
\ir lib/begin.sql
SELECT plan(68);

SELECT has_pk('kridtech', 'recordings', 'recordings has a primary key');
SELECT col_is_pk('kridtech', 'recordings', 'call_id', 'a call has one recording');
SELECT col_type_is('kridtech', 'recordings', column_name, type, 'recordings.' || column_name || ' is ' || type)
  FROM (VALUES ('call_id', 'text'), ('state', 'text'), ('content_type', 'text'), ('bytes', 'bigint'), ('sha256', 'bytea'),
    ('fetched_at', 'timestamp with time zone'), ('error', 'text'), ('attempts', 'integer'),
    ('next_attempt_at', 'timestamp with time zone'), ('received_at', 'timestamp with time zone')) AS c(column_name, type);
SELECT col_is_pk('kridtech', 'recording_chunks', ARRAY['call_id', 'seq'], 'a piece is known by its call and number');
SELECT col_type_is('kridtech', 'recording_chunks', 'data', 'bytea', 'recording_chunks.data is bytea');
SELECT is((SELECT attstorage FROM pg_attribute WHERE attrelid = 'kridtech.recording_chunks'::regclass AND attname = 'data'), 'e',
          'and stored without trying to compress it');
SELECT has_function('public', 'kridtech_recording', ARRAY['text'], 'kridtech_recording takes a call_id');
SELECT function_returns('public', 'kridtech_recording', ARRAY['text'], 'bytea', 'and returns bytea');
SELECT volatility_is('public', 'kridtech_recording', ARRAY['text'], 'stable', 'it is stable');

-- a row is complete or not, nothing between
INSERT INTO kridtech.recordings (call_id) VALUES ('call_1');
SELECT is((state, attempts, next_attempt_at <= clock_timestamp())::text, '(waiting,0,t)', 'a row that is inserted by hand waits, and is due') FROM kridtech.recordings;
SELECT throws_ok(statement, '23514', NULL, statement || ' is refused')
  FROM (VALUES ('INSERT INTO kridtech.recordings (call_id) VALUES ('''')'),
               ('UPDATE kridtech.recordings SET state = ''lost'''),
               ('UPDATE kridtech.recordings SET state = ''fetched'', next_attempt_at = NULL'),
               ('UPDATE kridtech.recordings SET state = ''fetched'', next_attempt_at = NULL, bytes = 1, fetched_at = now()'),
               ('UPDATE kridtech.recordings SET state = ''fetched'', next_attempt_at = NULL, bytes = 1, sha256 = sha256('''')'),
               ('UPDATE kridtech.recordings SET state = ''fetched'', next_attempt_at = NULL, sha256 = sha256(''''), fetched_at = now()'),
               ('UPDATE kridtech.recordings SET state = ''fetched'', next_attempt_at = NULL, bytes = 1, fetched_at = now(), sha256 = ''x'''),
               ('UPDATE kridtech.recordings SET state = ''fetched'', next_attempt_at = NULL, bytes = 0, fetched_at = now(), sha256 = sha256('''')'),
               ('UPDATE kridtech.recordings SET bytes = 1'),
               ('UPDATE kridtech.recordings SET sha256 = sha256('''')'),
               ('UPDATE kridtech.recordings SET content_type = ''audio/mpeg'''),
               ('UPDATE kridtech.recordings SET next_attempt_at = NULL'),
               ('UPDATE kridtech.recordings SET state = ''failed'''),
               ('UPDATE kridtech.recordings SET attempts = -1'),
               ('INSERT INTO kridtech.recording_chunks VALUES (''call_1'', -1, ''x'')'),
               ('INSERT INTO kridtech.recording_chunks VALUES (''call_1'', 0, '''')')) AS s(statement);
-- pg_restore -j may bring it so
SELECT lives_ok('INSERT INTO kridtech.recording_chunks VALUES (''early'', 0, ''x'')', 'a piece may come before its recording');
SELECT is(kridtech_recording('early'), NULL, 'and is no content until then');
INSERT INTO kridtech.recordings (call_id) VALUES ('early');
DELETE FROM kridtech.recordings WHERE call_id = 'early';
SELECT is((SELECT count(*) FROM kridtech.recording_chunks), 0::bigint, 'with which it goes');

-- reading: what is whole, in its order, and nothing else
INSERT INTO kridtech.recording_chunks
SELECT 'call_1', n, convert_to(lpad(n::text, 3, '0'), 'UTF8') FROM generate_series(11, 0, -1) n;
SELECT is(kridtech_recording('call_1'), NULL, 'while it waits there is no content, whatever pieces are there');
UPDATE kridtech.recordings SET state = 'fetching', next_attempt_at = NULL;
SELECT is(kridtech_recording('call_1'), NULL, 'nor while it is fetched');
UPDATE kridtech.recordings SET state = 'failed';
SELECT is(kridtech_recording('call_1'), NULL, 'nor when it has failed');
UPDATE kridtech.recordings SET state = 'fetched', bytes = 36, fetched_at = now(), sha256 = sha256('000001002003004005006007008009010011');
SELECT is(convert_from(kridtech_recording('call_1'), 'UTF8'), '000001002003004005006007008009010011', 'what is fetched has its pieces in the order of their numbers');
SELECT ok(sha256(kridtech_recording('call_1')) = sha256, 'and its hash') FROM kridtech.recordings;
SELECT is(kridtech_recording('nobody'), NULL, 'a call without a recording has none');
SELECT is(kridtech_recording(NULL), NULL, 'nor has NULL');
DELETE FROM kridtech.recordings;
SELECT is((SELECT count(*) FROM kridtech.recording_chunks), 0::bigint, 'the content goes with its row');

-- rights
CREATE ROLE recordings_nobody;
CREATE ROLE recordings_listener;
CREATE ROLE recordings_reader;
GRANT USAGE ON SCHEMA test TO PUBLIC;
GRANT EXECUTE ON FUNCTION kridtech_recording(text) TO recordings_listener, recordings_reader;
GRANT USAGE ON SCHEMA kridtech TO recordings_reader;
GRANT SELECT ON kridtech.recordings, kridtech.recording_chunks TO recordings_reader;
SELECT is(test.state_for(role, statement), CASE WHEN may >= level THEN '00000' ELSE '42501' END, role || ' who tries ' || statement)
  FROM (VALUES ('SELECT kridtech_recording(''x'')', 1), ('SELECT FROM kridtech.recordings', 1), ('SELECT FROM kridtech.recording_chunks', 1),
               ('INSERT INTO kridtech.recordings (call_id) VALUES (''x'')', 2), ('DELETE FROM kridtech.recordings', 2)) AS t(statement, level),
       (VALUES ('recordings_nobody', 0), ('recordings_listener', 0), ('recordings_reader', 1)) AS r(role, may);

-- a caller's own operators and functions are not used
CREATE SCHEMA evil AUTHORIZATION recordings_reader;
INSERT INTO kridtech.recordings (call_id, state, next_attempt_at, bytes, fetched_at, sha256) VALUES ('call_2', 'fetched', NULL, 1, now(), sha256('x'));
INSERT INTO kridtech.recording_chunks VALUES ('call_2', 0, 'x');
SET ROLE recordings_reader;
CREATE FUNCTION evil.raise(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''hijacked''; END';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.raise);
SET search_path = evil, pg_catalog, public;
SELECT test.state_of('SELECT ''a''::text = ''b''::text') AS compared, public.kridtech_recording('call_2') AS content \gset
RESET search_path;
RESET ROLE;
SELECT is((:'compared', :'content')::text, '(P0001,"\\x78")', 'a hostile search_path has no effect');

DROP OWNED BY recordings_nobody, recordings_listener, recordings_reader;
DROP ROLE recordings_nobody, recordings_listener, recordings_reader;

-- the walk through the events and the claim go by an index, however many there are
SELECT has_index('kridtech', 'webhook_events', 'webhook_events_recording_idx', ARRAY['received_at', 'call_id'], 'events with a recording have an index by time');

-- health, where no dialer fetches: what it counts, and that it reads no more than it shows
DELETE FROM kridtech.recordings;
SELECT is((SELECT count(*) FROM kridtech.health WHERE component = 'recordings'), 0::bigint, 'while kridtech.recordings is off health has no row for recordings');
SELECT test.configure('kridtech.recordings', 'on');
SELECT is(h::text, '(recordings,f,"no dialer runs, which fetches them: 0 waiting, 0 being fetched; of the last day''s 0 fetched, 0 failed",)', 'while it is on there is one, which says that nobody fetches')
  FROM kridtech.health AS h WHERE component = 'recordings';
INSERT INTO kridtech.recordings (call_id, state, attempts, received_at, next_attempt_at, error, bytes, sha256, fetched_at) VALUES
    ('waits', 'waiting', 1, now() - interval '3 hours', now() + interval '1 hour', 'an error', NULL, NULL, NULL),
    ('waits longer', 'waiting', 0, now() - interval '5 hours', now() + interval '2 hours', NULL, NULL, NULL, NULL),
    ('is fetched', 'fetching', 1, now(), NULL, NULL, NULL, NULL, NULL),
    ('was fetched', 'fetched', 1, now(), NULL, NULL, 1, sha256('x'), now()),
    ('failed', 'failed', 1, now() - interval '1 hour', NULL, 'the last error', NULL, NULL, NULL),
    ('failed long ago', 'failed', 1, now() - interval '25 hours', NULL, 'an old one', NULL, NULL, NULL);
SELECT alike(detail, '%: 2 waiting (the oldest since %, the next attempt from %), 1 being fetched; of the last day''s 1 fetched, 1 failed; last error: the last error', 'it counts what waits, and what came of the last day''s')
  FROM kridtech.health WHERE component = 'recordings';
SELECT is((since = (SELECT min(received_at) FROM kridtech.recordings WHERE state = 'waiting'), strpos(detail, 'since ' || date_trunc('second', since)::timestamp) > 0)::text, '(t,t)', 'and says since when the oldest waits') FROM kridtech.health WHERE component = 'recordings';
INSERT INTO kridtech.recordings (call_id, received_at, next_attempt_at) SELECT 'many ' || n, now() - interval '2 days', now() + interval '1 day' FROM generate_series(1, 20000) n;
INSERT INTO kridtech.recordings (call_id, state, next_attempt_at, received_at) SELECT 'many failed ' || n, 'failed', NULL, now() FROM generate_series(1, 20000) n;
ANALYZE kridtech.recordings;
SELECT alike(detail, '%: at least 10000 waiting %, at least 10000 failed%', 'beyond ten thousand it does not count')
  FROM kridtech.health WHERE component = 'recordings';
SELECT test.configure_as_before();

SELECT * FROM finish();
