-- One truth per call: call_history and missing_webhooks, and the recipes of doc/analytics.md.
\ir lib/begin.sql
SELECT plan(40);
SET timezone = 'UTC';

-- every combination of request, API record and webhook
INSERT INTO kridtech.call_requests (id, account_id, to_number, dynamic_variables, reference, state, call_id, call_status, created_at) VALUES
    (1, 'acct-1', '+4930000001', '{"name": "Ann"}', 'lead-1', 'placed', 'rcw', 'registered', '2026-01-01 10:00+00'),
    (2, 'acct-1', '+4930000002', NULL, 'lead-2', 'placed', 'rc', 'registered', '2026-01-01 11:00+00'),
    (3, 'acct-1', '+4930000003', NULL, 'lead-3', 'placed', 'rw', 'registered', '2026-01-01 12:00+00'),
    (4, 'acct-1', '+4930000004', '{"name": "Dan"}', 'lead-4', 'placed', 'r', 'registered', '2026-01-01 13:00+00'),
    (5, 'acct-1', '+4930000001', NULL, 'lead-1', 'unknown', NULL, NULL, '2026-01-02 10:00+00'),
    (6, 'acct-1', '+4930000006', NULL, NULL, 'cancelled', NULL, NULL, '2026-01-02 11:00+00');
INSERT INTO kridtech.calls (call_id, account_id, direction, to_number, call_status, duration, cost, created_at, first_name, synced_at) VALUES
    ('rcw', 'acct-1', 'outbound', '+4930000001', 'ongoing', 12, 4.5, '2026-01-01 10:00:05+00', NULL, '2026-01-01 10:01+00'),
    ('rc', 'acct-1', 'outbound', '+4930000002', 'completed', 94, 34, '2026-01-01 11:00:05+00', NULL, '2026-01-01 11:10+00'),
    ('cw', 'acct-1', 'inbound', '+4930000007', 'completed', 30, 11, '2026-01-03 10:00+00', 'Eve', '2026-01-03 10:10+00'),
    ('c', 'acct-1', 'inbound', '+4930000008', 'failed', 0, 0, '2026-01-03 11:00+00', NULL, '2026-01-03 11:10+00');
INSERT INTO kridtech.webhook_events (call_id, status, duration_ms, transcript, recording_url, dynamic_variables, variables, raw, verified_by, received_at) VALUES
    ('rcw', 'completed', 94321, 'Agent: Hi Ann', 'https://storage.kridtech.com/rcw.mp3', '[{"variable": "name", "value": "Anna"}]', '{"name": "Anna"}', '{}', 'request', '2026-01-01 10:05+00'),
    ('rw', 'completed', 1000, 'Agent: Hi Cy', NULL, NULL, NULL, '{}', 'request', '2026-01-01 12:05+00'),
    ('cw', 'completed', 30500, NULL, NULL, NULL, '{"name": "Eve"}', '{}', 'api', '2026-01-03 10:05+00'),
    ('w', 'completed', NULL, 'forged', NULL, NULL, NULL, '{}', NULL, '2026-01-04 10:00+00');

SELECT is(columns::text, 'call_id text, request_id bigint, reference text, to_number text, state text, call_status text, direction text, duration_ms bigint, cost numeric, created_at timestamp with time zone, transcript text, recording_url text, variables jsonb, verified_by text',
          'call_history has its columns')
  FROM (SELECT string_agg(attname || ' ' || format_type(atttypid, NULL), ', ' ORDER BY attnum) AS columns FROM pg_attribute
         WHERE attrelid = 'kridtech.call_history'::regclass AND attnum > 0) AS a;
SELECT is((SELECT h::text FROM kridtech.call_history h WHERE coalesce(call_id, request_id::text) = key), shown, what)
  FROM (VALUES
    ('rcw', '(rcw,1,lead-1,+4930000001,placed,completed,outbound,94321,4.5,"2026-01-01 10:00:05+00","Agent: Hi Ann",https://storage.kridtech.com/rcw.mp3,"{""name"": ""Anna""}",request)', 'request, record and webhook are one row, the webhook''s word first'),
    ('rc', '(rc,2,lead-2,+4930000002,placed,completed,outbound,94000,34,"2026-01-01 11:00:05+00",,,,)', 'without a webhook the API''s record tells'),
    ('rw', '(rw,3,lead-3,+4930000003,placed,completed,outbound,1000,,"2026-01-01 12:00:00+00","Agent: Hi Cy",,,request)', 'not listed, but with a webhook'),
    ('r', '(r,4,lead-4,+4930000004,placed,registered,outbound,,,"2026-01-01 13:00:00+00",,,"{""name"": ""Dan""}",)', 'a request alone'),
    ('5', '(,5,lead-1,+4930000001,unknown,,outbound,,,"2026-01-02 10:00:00+00",,,,)', 'a request that has no call is a row too'),
    ('cw', '(cw,,,+4930000007,,completed,inbound,30500,11,"2026-01-03 10:00:00+00",,,"{""name"": ""Eve""}",api)', 'a call that nobody here asked for'),
    ('c', '(c,,,+4930000008,,failed,inbound,0,0,"2026-01-03 11:00:00+00",,,,)', 'of which only the list tells'),
    ('w', '(w,,,,,completed,,,,"2026-01-04 10:00:00+00",forged,,,)', 'and one of which only a webhook does, with nothing to vouch for it')) AS v(key, shown, what);
SELECT is((SELECT count(*) FROM kridtech.call_history), 9::bigint, 'and no row beside these');

-- lookups go down to the indexes, whatever the statistics say
CREATE INDEX ON kridtech.call_requests (reference, id);
CREATE INDEX ON kridtech.call_requests (to_number, id);
CREATE FUNCTION test.plan_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text;
    plan text := '';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query LOOP
        plan := plan || line || E'\n';
    END LOOP;
    RETURN plan;
END
$$;
BEGIN;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SELECT is((SELECT string_agg(i, ' ' ORDER BY i COLLATE "C") FROM (SELECT DISTINCT (regexp_matches(test.plan_of('SELECT * FROM kridtech.call_history WHERE ' || condition), 'Index (?:Only )?Scan using (\S+)', 'g'))[1] AS i) AS x),
          indexes, 'a look-up by ' || condition || ' uses indexes')
  FROM (VALUES ('call_id = ''rc''', 'call_requests_call_id_key calls_pkey webhook_events_pkey'), ('request_id = 1', 'call_requests_pkey calls_pkey webhook_events_pkey'),
               ('reference = ''lead-1''', 'call_requests_reference_id_idx calls_pkey webhook_events_pkey'),
               ('to_number = ''+4930000001''', 'call_requests_call_id_key call_requests_to_number_id_idx calls_number_idx calls_pkey webhook_events_pkey')) AS v(condition, indexes);
SELECT unalike(test.plan_of('SELECT * FROM kridtech.call_history WHERE ' || condition), '%Seq Scan%', 'and reads no table from end to end: ' || condition)
  FROM (VALUES ('call_id = ''rc'''), ('request_id = 1'), ('reference = ''lead-1'''), ('to_number = ''+4930000001''')) AS v(condition);
COMMIT;

-- missing webhooks
SELECT is((SELECT string_agg(call_id || ' ' || coalesce(request_id::text, '-') || ' ' || coalesce(reference, '-'), ',') FROM kridtech.missing_webhooks), 'rc 2 lead-2', 'a completed call without a webhook is missing one');
INSERT INTO kridtech.calls (call_id, call_status, duration, created_at, synced_at) VALUES
    ('m1', 'completed', 10, clock_timestamp() - interval '14 min', clock_timestamp() - interval '13 min'),
    ('m2', 'completed', 10, clock_timestamp() - interval '16 min', clock_timestamp()),
    ('m3', 'completed', 7200, clock_timestamp() - interval '16 min', clock_timestamp() - interval '16 min'),
    ('m4', 'completed', NULL, NULL, clock_timestamp() - interval '16 min'),
    ('m5', 'completed', NULL, NULL, clock_timestamp() - interval '1 min'),
    ('m6', 'ongoing', 10, clock_timestamp() - interval '1 day', clock_timestamp() - interval '1 day'),
    ('m7', 'failed', 0, clock_timestamp() - interval '1 day', clock_timestamp() - interval '1 day');
SELECT is((SELECT string_agg(call_id, ' ' ORDER BY call_id) FROM kridtech.missing_webhooks WHERE call_id LIKE 'm_'), 'm2 m3 m4', 'but only after the grace time');
SELECT test.configure('kridtech.webhook_grace', '10min');
SELECT is(test.session('SELECT string_agg(call_id, '' '' ORDER BY call_id) FROM kridtech.missing_webhooks WHERE call_id LIKE ''m_'''), 'm1 m2 m3 m4', 'which is kridtech.webhook_grace');
SELECT test.configure_as_before();
DELETE FROM kridtech.calls WHERE call_id LIKE 'm_';

-- rights: the views are enough, and the tables stay shut
CREATE ROLE pgtap_analyst;
GRANT USAGE ON SCHEMA kridtech TO pgtap_analyst;
GRANT USAGE ON SCHEMA test TO pgtap_analyst;
SET ROLE pgtap_analyst;
SELECT test.state_of('SELECT FROM kridtech.call_history') AS history, test.state_of('SELECT FROM kridtech.missing_webhooks') AS missing, test.state_of('SELECT FROM kridtech.calls') AS calls \gset
RESET ROLE;
SELECT is((:'history', :'missing', :'calls')::text, '(42501,42501,42501)', 'without a grant nobody reads them');
GRANT SELECT ON kridtech.call_history, kridtech.missing_webhooks TO pgtap_analyst;
SET ROLE pgtap_analyst;
SELECT test.state_of('SELECT FROM kridtech.call_history') AS history, test.state_of('SELECT FROM kridtech.missing_webhooks') AS missing, test.state_of('SELECT FROM kridtech.calls') AS calls,
       test.state_of('SELECT FROM kridtech.call_requests') AS requests, test.state_of('DELETE FROM kridtech.call_history') AS deletion \gset
RESET ROLE;
SELECT is((:'history', :'missing')::text, '(00000,00000)', 'SELECT on the views is enough to read them');
SELECT is((:'calls', :'requests')::text, '(42501,42501)', 'and gives no right to the tables');
SELECT is(:'deletion'::text, '55000', 'nor can anything be written through them');
DROP OWNED BY pgtap_analyst;
DROP ROLE pgtap_analyst;

-- the recipes of doc/analytics.md
CREATE FUNCTION test.recipe(heading text, n int DEFAULT 1) RETURNS text LANGUAGE sql AS $$
    SELECT rtrim((regexp_match(part, '(?:```sql\n[^`]*```[^`]*){' || n - 1 || '}```sql\n([^`]*)```'))[1], E';\n')
      FROM regexp_split_to_table(pg_read_file(current_setting('test.tls_dir') || '/../src/doc/analytics.md'), '\n## ') AS part
     WHERE part LIKE heading || E'\n%'
$$;
CREATE TABLE leads (id bigint PRIMARY KEY, name text, phone text, campaign text, created_at timestamptz);
INSERT INTO leads VALUES (1, 'Ann', '+4930000001', 'spring', '2026-01-01 09:00+00'), (2, 'Bob', '+4930000002', 'spring', '2026-01-01 10:30+00'),
    (3, 'Cy', '+4930000003', 'autumn', '2026-01-01 11:00+00'), (14, 'Zoe', '+4930000009', 'autumn', '2026-01-01 11:00+00');
UPDATE kridtech.call_requests SET reference = substr(reference, 6);
UPDATE kridtech.webhook_events SET transcript = E'Agent: The appointment is at two.\nUser: Fine!' WHERE call_id = 'rcw';
SELECT lives_ok(test.recipe('Indexes to create'), 'the indexes can be created');
SELECT lives_ok(test.recipe('Searching transcripts'), 'the one for transcripts too');
SELECT lives_ok($$INSERT INTO kridtech.webhook_events (call_id, raw, transcript) SELECT 'long', '', string_agg(md5(n::text), ' ') FROM generate_series(1, 40000) AS n$$,
                'which stops no transcript, however long');
DELETE FROM kridtech.webhook_events WHERE call_id = 'long';
SELECT results_eq(test.recipe('A lead''s calls'), $$VALUES ('2026-01-02 10:00+00'::timestamptz, 'unknown', NULL, NULL::bigint, NULL::numeric), ('2026-01-01 10:00:05+00', 'placed', 'completed', 94321, 4.5)$$,
                  'a lead''s calls by reference');
SELECT results_eq(test.recipe('A lead''s calls', 2), $$VALUES ('2026-01-02 10:00+00'::timestamptz, 'outbound', NULL, NULL::bigint), ('2026-01-01 10:00:05+00', 'outbound', 'completed', 94321)$$,
                  'and by number');
BEGIN;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SELECT alike(test.plan_of(test.recipe('A lead''s calls', 2)), '%call_requests_number on call_requests%Index Cond: (to_number = %calls_number_idx%Index Cond: (to_number = %', 'which goes by the indexes on the number');
SELECT alike(test.plan_of(test.recipe('The last call of each lead on a page')), '%call_requests_reference on call_requests%Index Cond: (reference = %call_requests_pkey on call_requests%Index Cond: (id = %', 'the last call of each lead is looked up first, and its history read then');
COMMIT;
SELECT results_eq(test.recipe('The last call of each lead on a page'), $$VALUES (1::bigint, 'Ann', 'unknown', NULL, '2026-01-02 10:00+00'::timestamptz), (2, 'Bob', 'placed', 'completed', '2026-01-01 11:00:05+00'),
                  (3, 'Cy', 'placed', 'completed', '2026-01-01 12:00+00'), (14, 'Zoe', NULL, NULL, NULL)$$, 'the last call of each lead on a page');
CREATE ROLE pgtap_pages;
GRANT USAGE ON SCHEMA kridtech, test TO pgtap_pages;
GRANT SELECT ON leads, kridtech.call_history TO pgtap_pages;
GRANT SELECT (id, reference) ON kridtech.call_requests TO pgtap_pages;
GRANT SELECT ON ALL TABLES IN SCHEMA test TO pgtap_pages;
SELECT test.recipe('The last call of each lead on a page') AS page \gset
SELECT is(test.state_for('pgtap_pages', :'page'), '00000', 'for which the rights that are named are enough');
DROP OWNED BY pgtap_pages;
DROP ROLE pgtap_pages;
SELECT results_eq(test.recipe('A day''s totals'), $$VALUES ('completed', 1::bigint, 94::bigint, 34::numeric), ('ongoing', 1, 12, 4.5)$$, 'a day''s totals');
SELECT results_eq(test.recipe('Searching transcripts', 2), $$VALUES ('rcw', E'Agent: The <b>appointment</b> is at two.\nUser: Fine')$$, 'a search in transcripts');
SELECT results_eq(test.recipe('Talk ratio'), $$VALUES ('rcw', 'Agent', 1::bigint, 0.84), ('rcw', 'User', 1, 0.16)$$, 'the talk ratio');
SELECT results_eq(test.recipe('Funnel and cost of a campaign'), $$VALUES ('autumn', 1::bigint, 1::bigint, 1::bigint, 0::bigint, NULL::numeric, NULL::numeric), ('spring', 3, 2, 2, 2, 38.5, 19.25)$$, 'funnel and cost of a campaign');
SELECT results_eq(test.recipe('Speed to lead'), $$VALUES ('autumn', 2::bigint, 1::bigint, '01:00:00'::interval, '01:00:00'::interval), ('spring', 2, 2, '00:45:05', '00:57:05')$$, 'speed to lead');
SELECT results_eq(test.recipe('Webhooks that did not come'), $$VALUES ('rc', '2', '2026-01-01 11:00:05+00'::timestamptz)$$, 'webhooks that did not come');
SELECT * FROM finish();
