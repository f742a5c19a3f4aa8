-- kridtech_queue_call(), what cancels, resolves, pauses, and rows that are inserted directly. No dialer runs here.
\ir lib/begin.sql
SELECT no_plan();
SET timezone = 'UTC';

CREATE FUNCTION test.request(id bigint) RETURNS kridtech.call_requests LANGUAGE sql AS $$
    SELECT r FROM kridtech.call_requests r WHERE r.id = $1
$$;
CREATE FUNCTION test.ending_for(role name, statement text) RETURNS test.ending LANGUAGE plpgsql AS $$
DECLARE
    e test.ending;
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role);
    e := test.ending_of(statement);
    RESET ROLE;
    RETURN e;
END
$$;

-- what is queued
SELECT kridtech_queue_call('+1 (415) 555-0100') AS id \gset
SELECT is(row((test.request(:id)).*)::text, format('(%s,,+14155550100,,,,0,,,queued,0,,,,,,postgres,"%s",)', :id, (test.request(:id)).created_at), 'a bare number is queued with the defaults, normalised');
SELECT kridtech_queue_call('+14155550101', '{"name": "Ann", "n": 1}', 'acct-2', 'lead 7', '2001-01-01', '2999-01-01', 5, 'key 1') AS id \gset
SELECT is(row((test.request(:id)).*)::text, format('(%s,acct-2,+14155550101,"{""n"": 1, ""name"": ""Ann""}","lead 7","key 1",5,"2001-01-01 00:00:00+00","2999-01-01 00:00:00+00",queued,0,,,,,,postgres,"%s",)', :id, (test.request(:id)).created_at),
          'every argument is kept, and a not_before that is past delays nothing');
SELECT is((test.request(kridtech_queue_call('+14155550102', not_before => '2999-01-01'))).next_attempt_at, '2999-01-01'::timestamptz, 'one that lies ahead is when it is tried');
SELECT is((test.request(kridtech_queue_call('+14155550102', not_before => '2999-01-01', unique_key => 'later'))).next_attempt_at, '2999-01-01'::timestamptz, 'with a unique_key too');
SELECT is((test.request(kridtech_queue_call('+14155550102', priority => NULL))).priority, 0, 'a NULL priority is 0');
SELECT is((test.request(kridtech_queue_call('+14155550102', not_after => 'infinity'))).not_after, 'infinity'::timestamptz, 'not_after may be infinity');
BEGIN;
SELECT kridtech_queue_call('+14155550102') AS id \gset
SELECT is((test.request(:id)).created_at, now(), 'created_at is the transaction''s start');
SELECT ok(kridtech_cancel_call(:id), 'what a transaction queued it sees, and may cancel');
COMMIT;
SELECT is((test.request(kridtech_queue_call('+14155550102', jsonb_build_object('long', repeat('x', 100000))))).dynamic_variables ->> 'long', repeat('x', 100000), 'long variables are kept whole');

-- what is refused
SELECT is(test.state_of(format('SELECT kridtech_queue_call(%s)', arguments)), '22023', 'refused: ' || arguments)
  FROM (VALUES ('NULL'), (''''''), ('''14155550123'''), ('''+0415555012'''), ('''+141555'''), ('''+1415555012345678'''), ('''+1415555012x'''), ('''+１４１５５５５０１２３'''),
               ('''+14155550123'', ''[]'''), ('''+14155550123'', ''null'''), ('''+14155550123'', ''"x"'''), ('''+14155550123'', account_id => '''''),
               ('''+14155550123'', not_before => ''2999-01-01'', not_after => ''2999-01-01'''), ('''+14155550123'', not_before => ''2999-01-02'', not_after => ''2999-01-01''')) AS v(arguments);
SELECT ok(concat(e.message, e.detail, e.hint) !~ '999888', 'the message does not show the number') FROM test.ending_of('SELECT kridtech_queue_call(''+1999888777x'')') e;
SELECT is(test.state_of(format('SET LOCAL transaction_read_only = on; SELECT kridtech_queue_call(''+14155550123''%s)', key)), '25006', 'a read-only transaction queues nothing' || key)
  FROM (VALUES (''), (', unique_key => ''ro''')) AS v(key);

-- rolled back, prepared
SELECT count(*) AS before FROM kridtech.call_requests \gset
BEGIN;
SELECT kridtech_queue_call('+14155550109') \g /dev/null
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT kridtech_queue_call('+14155550109'), kridtech_queue_call('+14155550109', unique_key => 'rolled back') \g /dev/null
ROLLBACK TO s;
COMMIT;
SELECT is((SELECT count(*) FROM kridtech.call_requests), :before::bigint, 'a rolled back transaction or savepoint leaves nothing');
BEGIN;
SELECT kridtech_queue_call('+14155550109') \g /dev/null
PREPARE TRANSACTION 'pgtap_queue';
SELECT is((SELECT count(*) FROM kridtech.call_requests), :before::bigint, 'a prepared transaction''s request is not seen');
COMMIT PREPARED 'pgtap_queue';
SELECT is((SELECT count(*) FROM kridtech.call_requests), :before::bigint + 1, 'until it is committed');

-- unique_key
SELECT kridtech_queue_call('+14155550110', unique_key => 'k') AS first \gset
SELECT is(kridtech_queue_call('+14155550111', unique_key => 'k'), :first::bigint, 'a key that is held returns the holder');
SELECT is((SELECT count(*) FROM kridtech.call_requests WHERE unique_key = 'k'), 1::bigint, 'and adds nothing');
SELECT isnt(kridtech_queue_call('+14155550110', unique_key => 'K'), :first::bigint, 'another key is another request');
SELECT is((SELECT count(DISTINCT id) FROM (SELECT kridtech_queue_call('+14155550110', unique_key => 'same') AS id FROM generate_series(1, 5)) AS s), 1::bigint, 'five of one key in one statement are one request');
CREATE FUNCTION test.after_state(state text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    first bigint := kridtech_queue_call('+14155550112', unique_key => 'state ' || state);
BEGIN
    UPDATE kridtech.call_requests r SET state = after_state.state WHERE id = first;
    RETURN kridtech_queue_call('+14155550112', unique_key => 'state ' || state) = first;
END
$$;
SELECT is(test.after_state(state), held, 'a request that is ' || state || CASE WHEN held THEN ' holds' ELSE ' has given up' END || ' its key')
  FROM (VALUES ('queued', true), ('placing', true), ('placed', true), ('unknown', true), ('failed', false), ('cancelled', false), ('expired', false)) AS v(state, held);

-- too many
SELECT test.configure('kridtech.max_queued_per_transaction', '3') \g /dev/null
SELECT is((test.ending_of('SELECT kridtech_queue_call(''+14155550113'') FROM generate_series(1, 3)')).state, '00000', 'as many as may be are queued');
SELECT ok(e.state = '54000' AND e.hint LIKE '%kridtech.max_queued_per_transaction%', 'one more is refused, with a hint') FROM test.ending_of('SELECT kridtech_queue_call(''+14155550113'') FROM generate_series(1, 4)') e;
SELECT is(test.state_of('SELECT kridtech_queue_call(''+14155550113'', unique_key => ''once'') FROM generate_series(1, 9)'), '00000', 'a key that is held counts once');
SELECT is(test.state_of('SELECT kridtech_queue_call(''+14155550113'', unique_key => i::text) FROM generate_series(101, 104) i'), '54000', 'new keys count');
SELECT is(test.state_of($x$ DO $$ BEGIN
    FOR i IN 1..3 LOOP
        BEGIN
            PERFORM kridtech_queue_call('+14155550113') FROM generate_series(1, 3);
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
    END LOOP;
    PERFORM kridtech_queue_call('+14155550113') FROM generate_series(1, 3);
END $$ $x$), '00000', 'what was rolled back to a savepoint does not count');
SELECT is(test.state_of($x$ DO $$ BEGIN
    BEGIN
        PERFORM kridtech_queue_call('+14155550113') FROM generate_series(1, 2);
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
    PERFORM kridtech_queue_call('+14155550113') FROM generate_series(1, 2);
END $$ $x$), '54000', 'what a savepoint keeps does');
SELECT test.configure('kridtech.max_queued_per_transaction', '0') \g /dev/null
SELECT is(test.state_of('SELECT kridtech_queue_call(''+14155550113'') FROM generate_series(1, 20000)'), '00000', '0 lifts the limit');
SELECT test.configure_as_before() \g /dev/null
SELECT is(test.state_of('SELECT kridtech_queue_call(''+14155550113'') FROM generate_series(1, 10001)'), '54000', 'the default is 10000');

-- the table as somebody has changed it: the row goes the ordinary way, with the same result
CREATE FUNCTION test.queue_with(ddl text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE ddl;
    SELECT row(r.to_number, r.reference, r.state, r.created_by)::text INTO result
      FROM test.request(kridtech_queue_call('+14155550114', '{"a": 1}', reference => 'changed')) r;
    RAISE 'undo' USING ERRCODE = 'KT001', DETAIL = coalesce(result, 'nothing');
EXCEPTION
    WHEN SQLSTATE 'KT001' THEN
        GET STACKED DIAGNOSTICS result = PG_EXCEPTION_DETAIL;
        RETURN result;
    WHEN OTHERS THEN
        RETURN SQLSTATE;
END
$$;
CREATE FUNCTION test.passes() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION test.swallows() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION test.is_fine(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 IS DISTINCT FROM ''bad''';
SELECT is(test.queue_with('ALTER TABLE kridtech.call_requests ' || ddl), expected, ddl)
  FROM (VALUES ('ADD COLUMN mine text', '(+14155550114,changed,queued,postgres)'), ('ADD COLUMN mine text DEFAULT ''x''', '(+14155550114,changed,queued,postgres)'),
               ('ADD COLUMN mine text GENERATED ALWAYS AS (reference) STORED', '(+14155550114,changed,queued,postgres)'),
               ('ADD CHECK (reference <> ''changed'')', '23514'), ('ADD CHECK (test.is_fine(reference))', '(+14155550114,changed,queued,postgres)'),
               ('ADD CHECK (created_by <> ''postgres'') NOT VALID', '23514'),
               ('ENABLE ROW LEVEL SECURITY', '(+14155550114,changed,queued,postgres)'),
               ('DROP CONSTRAINT call_requests_to_number_check', '(+14155550114,changed,queued,postgres)')) AS v(ddl, expected);
SELECT is(test.queue_with(ddl), expected, ddl)
  FROM (VALUES ('CREATE UNIQUE INDEX ON kridtech.call_requests (reference) WHERE reference = ''changed''', '(+14155550114,changed,queued,postgres)'),
               ('CREATE INDEX ON kridtech.call_requests (upper(reference))', '(+14155550114,changed,queued,postgres)'), ('CREATE INDEX ON kridtech.call_requests USING gin (dynamic_variables)', '(+14155550114,changed,queued,postgres)'),
               ('CREATE INDEX ON kridtech.call_requests (id) WHERE test.is_fine(reference)', '(+14155550114,changed,queued,postgres)'),
               ('DROP INDEX kridtech.call_requests_expiring_idx', '(+14155550114,changed,queued,postgres)'),
               ('CREATE TRIGGER t BEFORE INSERT ON kridtech.call_requests FOR EACH ROW EXECUTE FUNCTION test.passes()', '(+14155550114,changed,queued,postgres)'),
               ('CREATE TRIGGER t BEFORE INSERT ON kridtech.call_requests FOR EACH ROW EXECUTE FUNCTION test.swallows()', '55000'),
               ('CREATE RULE r AS ON INSERT TO kridtech.call_requests DO INSTEAD NOTHING', '0A000'),
               ('ALTER TABLE kridtech.call_requests ADD UNIQUE (reference) DEFERRABLE INITIALLY DEFERRED', '(+14155550114,changed,queued,postgres)')) AS v(ddl, expected);
SELECT is(test.queue_with('SELECT'), '(+14155550114,changed,queued,postgres)', 'and afterwards all is as before');
BEGIN;
CREATE UNIQUE INDEX mine ON kridtech.call_requests (reference) WHERE reference LIKE 'twice%';
SELECT kridtech_queue_call('+14155550114', reference => 'twice') \g /dev/null
SELECT is(test.state_of('SELECT kridtech_queue_call(''+14155550114'', reference => ''twice'')'), '23505', 'a unique index made in the same transaction is obeyed');
SET LOCAL enable_seqscan = off;
SELECT is((SELECT count(*) FROM kridtech.call_requests WHERE reference = 'twice'), 1::bigint, 'and holds the row');
ROLLBACK;
CREATE TABLE test.indexed AS SELECT kridtech_queue_call('+14155550115', reference => 'by index ' || i, priority => i % 3, not_before => CASE WHEN i % 2 = 0 THEN '2999-01-01'::timestamptz END,
                                                        not_after => CASE WHEN i % 5 = 0 THEN '2999-02-01'::timestamptz END) AS id FROM generate_series(1, 500) i;
CREATE FUNCTION test.counts() RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', (SELECT count(*) FROM kridtech.call_requests WHERE id BETWEEN (SELECT min(id) FROM test.indexed) AND (SELECT max(id) FROM test.indexed)),
        (SELECT count(*) FROM test.indexed i JOIN kridtech.call_requests r ON r.reference = 'by index ' || (i.id - (SELECT min(id) - 1 FROM test.indexed))),
        (SELECT count(*) FROM (SELECT FROM kridtech.call_requests WHERE state = 'queued' AND next_attempt_at IS NULL ORDER BY priority DESC, id) AS s),
        (SELECT count(*) FROM kridtech.call_requests WHERE state = 'queued' AND next_attempt_at > '2998-01-01'),
        (SELECT count(*) FROM kridtech.call_requests WHERE state = 'queued' AND not_after > '2998-01-01'))
$$;
SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
SELECT test.counts() AS by_scan \gset
RESET enable_indexscan; RESET enable_bitmapscan; RESET enable_indexonlyscan; SET enable_seqscan = off;
SELECT is(test.counts(), :'by_scan', 'every index finds what a scan of the table finds');
RESET enable_seqscan;

-- cancel
SELECT kridtech_queue_call('+14155550120') AS id \gset
SELECT ok(kridtech_cancel_call(:id), 'a queued request is cancelled');
SELECT is(r.state || ' ' || (r.finished_at IS NOT NULL), 'cancelled true', 'and is so') FROM test.request(:id) r;
SELECT ok(NOT kridtech_cancel_call(:id), 'a second time it is not');
SELECT ok(NOT kridtech_cancel_call(-1), 'nor is one that does not exist');
SELECT is(kridtech_cancel_call(NULL), NULL, 'NULL is NULL');
SELECT ok(test.state_of(format('UPDATE kridtech.call_requests SET state = %L WHERE id = %s', state, :id)) = '00000' AND NOT kridtech_cancel_call(:id), 'one that is ' || state || ' is not cancelled')
  FROM unnest(ARRAY['placing', 'placed', 'failed', 'unknown', 'expired']) state;
SELECT is(test.state_of('SET LOCAL transaction_read_only = on; SELECT kridtech_cancel_call(1)'), '25006', 'a read-only transaction cancels nothing');

-- resolve
CREATE FUNCTION test.left_as(state text, live boolean DEFAULT true) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    request bigint := kridtech_queue_call('+14155550121');
BEGIN
    UPDATE kridtech.call_requests r SET state = left_as.state, attempts = 1, error = 'timeout', http_status = 500, finished_at = now() WHERE id = request;
    INSERT INTO kridtech.call_attempts (request_id, epoch, live, finished_at, outcome, detail) VALUES (request, 1, live, now(), 'unknown', 'timeout');
    RETURN request;
END
$$;
CREATE FUNCTION test.shows(id bigint) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' | ', r.state, r.attempts, coalesce(r.call_id, '-'), r.finished_at IS NOT NULL, a.live, regexp_replace(a.detail, ' at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ', ' at then', 'g'))
      FROM kridtech.call_requests r LEFT JOIN kridtech.call_attempts a ON a.request_id = r.id WHERE r.id = $1
$$;
SELECT test.left_as('unknown') AS id \gset
SET enable_seqscan = off;
CREATE FUNCTION test.scans_of_attempts(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    scans constant text := 'SELECT coalesce(sum(seq_scan), 0)::bigint FROM pg_stat_xact_user_tables WHERE relid = ''kridtech.call_attempts''::regclass';
    before bigint;
    after bigint;
BEGIN
    EXECUTE scans INTO before;
    EXECUTE statement;
    EXECUTE scans INTO after;
    RETURN after - before;
END
$$;
SELECT is(test.scans_of_attempts(format('SELECT kridtech_resolve_call(%s, ''placed'', ''call-r1'')', :id)), 0::bigint, 'no attempt but the request''s own is read');
RESET enable_seqscan;
SELECT is(test.shows(:id), 'placed | 1 | call-r1 | t | t | timeout; resolved as placed by postgres at then', 'unknown resolved as placed, with its call');
SELECT is((test.ending_of(format('SELECT kridtech_resolve_call(%s, ''placed'', ''call-r2'')', :id))).state, '55000', 'what is placed is not resolved again');
SELECT test.left_as('unknown') AS id \gset
SELECT ok(e.state = '23505' AND e.message LIKE '%call-r1%request%', 'a call of another request is refused by name') FROM test.ending_of(format('SELECT kridtech_resolve_call(%s, ''placed'', ''call-r1'')', :id)) e;
SELECT kridtech_resolve_call(:id, 'placed') \g /dev/null
SELECT is(test.shows(:id), 'placed | 1 | - | t | t | timeout; resolved as placed by postgres at then', 'the call may be unknown');
SELECT test.left_as('unknown') AS id \gset
SELECT kridtech_resolve_call(:id, 'not_placed') \g /dev/null
SELECT is(test.shows(:id), 'failed | 1 | - | t | f | timeout; resolved as not_placed by postgres at then', 'unknown resolved as not placed is failed');
SELECT kridtech_resolve_call(:id, 'redial') \g /dev/null
SELECT is(test.shows(:id), 'queued | 0 | - | f | f | timeout; resolved as not_placed by postgres at then; resolved as redial by postgres at then', 'and may be redialled then');
SELECT test.left_as('unknown') AS id \gset
SELECT kridtech_resolve_call(:id, 'redial') \g /dev/null
SELECT is(test.shows(:id), 'queued | 0 | - | f | f | timeout; resolved as redial by postgres at then', 'unknown is redialled with its live attempt put aside');
SELECT lives_ok(format('INSERT INTO kridtech.call_attempts (request_id, epoch) VALUES (%s, 2)', :id), 'so that the next attempt can begin');
SELECT test.left_as('failed', false) AS id \gset
SELECT kridtech_resolve_call(:id, 'placed', 'call-r3') \g /dev/null
SELECT is(test.shows(:id), 'placed | 1 | call-r3 | t | f | timeout; resolved as placed by postgres at then', 'failed resolved as placed');
SELECT kridtech_queue_call('+14155550121') AS id \gset
UPDATE kridtech.call_requests SET state = 'unknown' WHERE id = :id;
SELECT kridtech_resolve_call(:id, 'not_placed') \g /dev/null
SELECT is(test.shows(:id), 'failed | 0 | - | t | f | resolved as not_placed by postgres at then', 'a request without an attempt gets a record too');
SELECT is(test.state_of(format('SELECT kridtech_resolve_call(%s, ''redial'')', test.left_as(state))), '55000', 'what is ' || state || ' cannot be resolved') FROM unnest(ARRAY['queued', 'placing', 'placed', 'cancelled', 'expired']) state;
SELECT is(test.state_of('SELECT kridtech_resolve_call(' || arguments || ')'), '22023', 'refused: ' || arguments)
  FROM (VALUES ('-1, ''redial'''), ('NULL, ''redial'''), (':id, ''maybe'''), (':id, NULL'), (':id, ''redial'', ''call-x'''), (':id, ''not_placed'', ''call-x'''), (':id, ''placed'', '''''), (':id, ''placed'', E''a\nb'''), (':id, ''placed'', repeat(''x'', 257)')) AS v(template),
       LATERAL (SELECT replace(template, ':id', test.left_as('unknown')::text)) AS x(arguments);
SELECT test.left_as('unknown') AS id \gset
UPDATE kridtech.call_requests SET not_after = now() - interval '1 minute' WHERE id = :id;
SELECT is(test.state_of(format('SELECT kridtech_resolve_call(%s, ''redial'')', :id)), '55000', 'nothing is redialled after its time');
UPDATE kridtech.call_requests SET not_after = NULL, not_before = '2999-01-01' WHERE id = :id;
SELECT kridtech_resolve_call(:id, 'redial') \g /dev/null
SELECT is((test.request(:id)).next_attempt_at, '2999-01-01'::timestamptz, 'nor before it');
-- a failed request's unique_key may have passed to another one
SELECT test.left_as('failed') AS id \gset
UPDATE kridtech.call_requests SET unique_key = 'passed on' WHERE id = :id;
SELECT kridtech_queue_call('+14155550121', unique_key => 'passed on') AS holder \gset
SELECT ok(e.state = '23505' AND e.message = format('the unique key of call request %s already belongs to call request %s', :id, :holder), 'whose key is held is not resolved as ' || word)
  FROM unnest(ARRAY['placed', 'redial']) word, LATERAL test.ending_of(format('SELECT kridtech_resolve_call(%s, %L)', :id, word)) e;
SELECT is(test.state_of(format('SELECT kridtech_resolve_call(%s, ''not_placed'')', :id)), '00000', 'but as not placed');
SELECT ok(kridtech_cancel_call(:holder), 'the holder is cancelled');
SELECT is(test.state_of(format('SELECT kridtech_resolve_call(%s, ''redial'')', :id)), '00000', 'then it is redialled');

-- pause and resume
CREATE FUNCTION test.pauses() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(concat_ws('|', account_id, cause, coalesce(reason, '-'), coalesce(until::text, '-'), created_by), ' ' ORDER BY account_id, cause) FROM kridtech.pauses
$$;
SELECT kridtech_pause(), kridtech_pause('acct-1', 'test', '2999-01-01') \g /dev/null
SELECT is(test.pauses(), '|manual|-|-|postgres acct-1|manual|test|2999-01-01 00:00:00+00|postgres', 'all accounts and one of them are paused');
SELECT kridtech_pause('acct-1', 'again') \g /dev/null
SELECT is(test.pauses(), '|manual|-|-|postgres acct-1|manual|again|-|postgres', 'pausing again changes reason and until');
INSERT INTO kridtech.pauses (account_id, cause) VALUES ('acct-1', 'credits'), ('acct-2', 'rate');
SELECT kridtech_resume('acct-1') \g /dev/null
SELECT is(test.pauses(), '|manual|-|-|postgres acct-2|rate|-|-|postgres', 'resuming an account ends its pauses of every cause');
SELECT kridtech_resume() \g /dev/null
SELECT is(test.pauses(), NULL, 'resuming without an account ends all');
SELECT is(test.state_of('SELECT ' || call), '22023', 'refused: ' || call) FROM unnest(ARRAY['kridtech_pause('''')', 'kridtech_resume('''')', 'kridtech_pause(until => now())', 'kridtech_pause(until => ''2001-01-01'')', 'kridtech_pause(until => ''-infinity'')']) call;
SELECT lives_ok('SELECT kridtech_pause(until => ''infinity'')', 'a pause may be for ever');

-- rights: four roles
CREATE ROLE pgtap_q_nobody;
CREATE ROLE pgtap_q_caller;
CREATE ROLE pgtap_q_inserter;
CREATE ROLE pgtap_q_owner SUPERUSER;
GRANT USAGE ON SCHEMA test TO PUBLIC;
GRANT EXECUTE ON FUNCTION kridtech_queue_call(text, jsonb, text, text, timestamptz, timestamptz, integer, text), kridtech_cancel_call(bigint), kridtech_resolve_call(bigint, text, text),
    kridtech_pause(text, text, timestamptz), kridtech_resume(text) TO pgtap_q_caller;
GRANT USAGE ON SCHEMA kridtech TO pgtap_q_inserter;
GRANT INSERT, SELECT ON kridtech.call_requests TO pgtap_q_inserter;
GRANT USAGE ON SEQUENCE kridtech.call_requests_id_seq TO pgtap_q_inserter;
SELECT is((test.ending_for(role, statement)).state, state, role || ' who tries ' || statement || ' gets ' || state)
  FROM (VALUES ('SELECT kridtech_queue_call(''+14155550130'')'), ('SELECT kridtech_queue_call(''+14155550130'', unique_key => ''rights'')'), ('SELECT kridtech_cancel_call(-1)'),
               ('SELECT kridtech_resolve_call(test.left_as(''unknown''), ''placed'')'), ('SELECT kridtech_pause()'), ('SELECT kridtech_resume()')) AS f(statement),
       (VALUES ('pgtap_q_nobody', '42501'), ('pgtap_q_inserter', '42501'), ('pgtap_q_owner', '00000')) AS r(role, state);
SELECT test.left_as('unknown') AS id \gset
SELECT is((test.ending_for('pgtap_q_caller', statement)).state, '00000', 'a caller with EXECUTE alone may ' || statement)
  FROM (VALUES ('SELECT kridtech_queue_call(''+14155550131'')'), ('SELECT kridtech_queue_call(''+14155550131'', unique_key => ''rights'')'), ('SELECT kridtech_cancel_call(-1)'),
               (format('SELECT kridtech_resolve_call(%s, ''placed'')', :id)), ('SELECT kridtech_pause()'), ('SELECT kridtech_resume()')) AS f(statement);
SELECT is((SELECT string_agg(DISTINCT created_by::text, ' ') FROM kridtech.call_requests WHERE to_number = '+14155550131'), 'pgtap_q_caller', 'created_by is the caller');
SELECT ok((SELECT detail LIKE '%by postgres at %' FROM kridtech.call_attempts WHERE request_id = :id), 'a resolution names who logged in');

-- a direct INSERT
SELECT is((test.ending_for('pgtap_q_inserter', 'INSERT INTO kridtech.call_requests (to_number, dynamic_variables, reference, priority, not_before, not_after, unique_key) VALUES (''+14155550132'', ''{}'', ''r'', 3, ''2998-01-01'', ''2999-01-01'', ''direct'')')).state,
          '00000', 'a granted role may insert a request');
SELECT is(concat_ws('|', state, created_by, next_attempt_at), 'queued|pgtap_q_inserter|2998-01-01 00:00:00+00', 'it is his, and waits for its time') FROM kridtech.call_requests WHERE to_number = '+14155550132';
SELECT is((test.ending_for('pgtap_q_inserter', format('INSERT INTO kridtech.call_requests (to_number, %s) VALUES (''+14155550133'', %s)', name, value))).state, state, 'a granted role that gives ' || name || ' as ' || value || ' gets ' || state)
  FROM (VALUES ('state', '''placed''', '42501'), ('state', '''placing''', '42501'), ('state', '''queued''', '00000'), ('attempts', '1', '42501'), ('attempts', '0', '00000'), ('call_id', '''x''', '42501'), ('call_status', '''x''', '42501'),
               ('http_status', '200', '42501'), ('error', '''x''', '42501'), ('finished_at', 'now()', '42501'), ('created_by', '''postgres''', '42501'), ('created_by', 'current_user', '00000'), ('created_by', 'NULL', '42501'),
               ('created_at', '''2001-01-01''', '42501'), ('created_at', 'now()', '00000'), ('next_attempt_at', '''2999-01-01''', '42501')) AS v(name, value, state);
SELECT is((test.ending_for('pgtap_q_inserter', format('INSERT INTO kridtech.call_requests (to_number) VALUES (%L)', number))).state, '23514', 'a direct INSERT of ' || number || ' is refused')
  FROM unnest(ARRAY['14155550123', '+04155550123', '+141555', '+1415555012345678', '+1 4155550123', '', E'+14155550123\n', '+1415555012x', 'x+14155550123']) number;
SELECT is((test.ending_for('pgtap_q_inserter', format('INSERT INTO kridtech.call_requests (to_number) VALUES (%L)', number))).state, '00000', 'a direct INSERT of ' || number || ' is taken') FROM unnest(ARRAY['+1234567', '+123456789012345']) number;
-- an account that could not be paused, for it fits no index, would be refused for ever
SELECT is((test.ending_for('pgtap_q_inserter', format('INSERT INTO kridtech.call_requests (to_number, account_id) VALUES (''+14155550136'', repeat(''x'', %s))', n))).state, state, 'a direct INSERT for an account of ' || n || ' bytes gets ' || state)
  FROM (VALUES (0, '23514'), (1, '00000'), (256, '00000'), (257, '23514')) AS v(n, state);
SELECT is(test.state_of(format('SELECT kridtech_queue_call(''+14155550136'', account_id => repeat(''x'', %s))', n)), state, 'kridtech_queue_call() gets ' || state)
  FROM (VALUES (0, '22023'), (1, '00000'), (256, '00000'), (257, '22023')) AS v(n, state);
SELECT is((test.ending_for('pgtap_q_inserter', 'INSERT INTO kridtech.call_requests (to_number) SELECT ''+14155550134'' FROM generate_series(1, 10001)')).state, '54000', 'his rows count');
SELECT is(test.state_of('INSERT INTO kridtech.call_requests (to_number) SELECT ''+14155550134'' FROM generate_series(1, 10001)'), '00000', 'those of a superuser do not: a restore has many');
SELECT is(test.state_of('INSERT INTO kridtech.call_requests (to_number, state, attempts, call_id, finished_at, created_by, created_at) VALUES (''+14155550135'', ''placed'', 1, ''loaded'', now(), ''somebody'', ''2001-01-01'')'), '00000', 'and he may load any state');
SELECT is(concat_ws('|', state, created_by, created_at), 'placed|somebody|2001-01-01 00:00:00+00', 'which is kept as it was') FROM kridtech.call_requests WHERE call_id = 'loaded';
SELECT is((test.ending_for('pgtap_q_inserter', statement)).state, '42501', 'INSERT gives no right to ' || statement) FROM (VALUES ('UPDATE kridtech.call_requests SET state = ''queued'''), ('DELETE FROM kridtech.call_requests')) AS v(statement);
SELECT is(test.state_of('CREATE TABLE test.t (id int); CREATE TRIGGER t AFTER INSERT ON test.t FOR EACH ROW EXECUTE FUNCTION kridtech_check_request(); INSERT INTO test.t VALUES (1)'), '39P01', 'the table''s own trigger is nobody else''s');
CREATE TABLE test.lookalike (LIKE kridtech.call_requests INCLUDING DEFAULTS);
ALTER TABLE test.lookalike ALTER attempts DROP DEFAULT, ALTER attempts TYPE text;
CREATE TRIGGER t BEFORE INSERT ON test.lookalike FOR EACH ROW EXECUTE FUNCTION kridtech_check_request();
SELECT is(test.state_of('INSERT INTO test.lookalike (to_number, attempts) VALUES (''+14155550123'', repeat(''x'', 100))'), '39P01', 'nor of a table that looks like it');
SELECT is(test.state_of('ALTER TABLE kridtech.call_requests DROP CONSTRAINT call_requests_attempts_check, ALTER attempts DROP DEFAULT, ALTER attempts TYPE text; INSERT INTO kridtech.call_requests (to_number, attempts) VALUES (''+14155550123'', ''0'')'),
          '42804', 'a column that was given another type is refused');

-- in a WHERE it comes behind what is to choose the rows, wherever it is written
CREATE FUNCTION test.wanted(i int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN i = 7; END';
SELECT is((SELECT count(i) FROM generate_series(1, 20) i WHERE kridtech_queue_call('+14155559136', reference => i::text) > 0 AND test.wanted(i)), 1::bigint, 'a row that a condition leaves out');
SELECT is(array_agg(reference), '{7}', 'is not called') FROM kridtech.call_requests WHERE to_number = '+14155559136';
SELECT is((WITH chosen AS MATERIALIZED (SELECT i FROM generate_series(1, 20) i WHERE NOT EXISTS (SELECT FROM generate_series(1, 19) AS optout (i) WHERE optout.i = i.i))
	SELECT count(*) FROM chosen WHERE kridtech_queue_call('+14155559137', reference => i::text) > 0), 1::bigint, 'of rows that are chosen first by NOT EXISTS');
SELECT is(array_agg(reference), '{20}', 'no other is called') FROM kridtech.call_requests WHERE to_number = '+14155559137';
SELECT is(array_agg(p.oid::regprocedure ORDER BY p.oid), NULL, 'so it is with all that write or ask the API')
  FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'kridtech'
 WHERE p.provolatile = 'v' AND p.prorettype <> 'trigger'::regtype AND p.proname NOT IN ('kridtech_health', 'kridtech_stats') AND p.procost < 1000;

DROP OWNED BY pgtap_q_nobody, pgtap_q_caller, pgtap_q_inserter, pgtap_q_owner;
DROP ROLE pgtap_q_nobody, pgtap_q_caller, pgtap_q_inserter, pgtap_q_owner;
SELECT * FROM finish();
