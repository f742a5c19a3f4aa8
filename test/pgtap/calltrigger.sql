-- kridtech_call_trigger(): the forms it is created in, the tables it stands on, the types it reads. No dialer runs here.
\ir lib/begin.sql
SELECT no_plan();
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- What the statement queued: number, variables, reference of each request, in order.
CREATE FUNCTION test.queued_by(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := (SELECT coalesce(max(id), 0) FROM kridtech.call_requests);
BEGIN
    EXECUTE statement;
    RETURN (SELECT string_agg(concat_ws(' ', to_number, dynamic_variables, coalesce(reference, 'NULL')), '; ' ORDER BY id) FROM kridtech.call_requests WHERE id > before);
END
$$;
-- A trigger on test.leads, afresh, with these arguments.
CREATE FUNCTION test.trigger_with(arguments text, form text DEFAULT 'AFTER INSERT ON test.leads FOR EACH ROW') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    DROP TRIGGER IF EXISTS call ON test.leads;
    EXECUTE format('CREATE TRIGGER call %s EXECUTE FUNCTION kridtech_call_trigger(%s)', form, arguments);
    RETURN arguments;
END
$$;
CREATE TABLE test.leads (id int PRIMARY KEY, name text, phone text, "Odd name" text, "a=b" text, b text, added timestamptz DEFAULT '2026-01-02 03:04:05Z');

-- arguments
CREATE FUNCTION test.queued_with(arguments text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.trigger_with(arguments);
    TRUNCATE test.leads;
    RETURN test.queued_by('INSERT INTO test.leads VALUES (7, ''Ann'', ''+1 415 555 0100'', ''odd'', ''ab'', ''bee'')');
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT is(test.queued_with(arguments), expected, 'arguments (' || arguments || ')')
  FROM (VALUES ($$'phone'$$, '+14155550100 7'), ($$'phone', 'name'$$, '+14155550100 {"name": "Ann"} 7'), ($$'phone', 'first_name=name', 'b'$$, '+14155550100 {"b": "bee", "first_name": "Ann"} 7'),
               ($$'phone', 'Odd name', 'x y=Odd name'$$, '+14155550100 {"x y": "odd", "Odd name": "odd"} 7'), ($$'phone', 'a=b'$$, '+14155550100 {"a=b": "ab"} 7'),
               ($$'phone', 'v=a=b'$$, '+14155550100 {"v": "ab"} 7'), ($$'phone', 'n=name', 'm=name'$$, '+14155550100 {"m": "Ann", "n": "Ann"} 7'), ($$phone, name$$, '+14155550100 {"name": "Ann"} 7'),
               ($$'phone', 'added', 'id'$$, '+14155550100 {"id": 7, "added": "2026-01-02 03:04:05+00"} 7'),
               ($$$$, '22023 kridtech_call_trigger() needs the phone column as its argument'), ($$'telephone'$$, '42703 column "telephone" of table "leads" does not exist'),
               ($$'Phone'$$, '42703 column "Phone" of table "leads" does not exist'), ($$'phone', 'first_name=nam'$$, '42703 column "nam" of table "leads" does not exist'),
               ($$'phone', 'ctid'$$, '42703 column "ctid" of table "leads" does not exist'), ($$'phone', ''$$, '22023 argument "" of kridtech_call_trigger() names no variable'),
               ($$'phone', '=name'$$, '22023 argument "=name" of kridtech_call_trigger() names no variable'), ($$'phone', 'x='$$, '42703 column "" of table "leads" does not exist'),
               ($$'phone', 'name', 'name=b'$$, '22023 variable "name" is given twice to kridtech_call_trigger()')) AS v(arguments, expected);

-- forms
CREATE FUNCTION test.form(form text, statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.trigger_with('phone', form);
    RETURN test.state_of(statement);
END
$$;
SELECT is(test.form(form || ' ON test.leads FOR EACH ' || level, statement), '39P01', form || ' FOR EACH ' || level || ' is refused')
  FROM (VALUES ('BEFORE INSERT', 'ROW', 'INSERT INTO test.leads VALUES (1)'), ('AFTER INSERT', 'STATEMENT', 'INSERT INTO test.leads VALUES (1)'), ('AFTER DELETE', 'ROW', 'DELETE FROM test.leads'),
               ('AFTER INSERT OR DELETE', 'ROW', 'DELETE FROM test.leads'), ('BEFORE UPDATE', 'ROW', 'UPDATE test.leads SET b = ''x'''), ('AFTER TRUNCATE', 'STATEMENT', 'TRUNCATE test.leads')) AS v(form, level, statement);
CREATE VIEW test.leads_view AS SELECT * FROM test.leads;
CREATE TRIGGER call INSTEAD OF INSERT ON test.leads_view FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
SELECT is(test.state_of('INSERT INTO test.leads_view (id) VALUES (1)'), '39P01', 'INSTEAD OF is refused');
DROP VIEW test.leads_view;
SELECT is(test.state_of('SELECT kridtech_call_trigger()'), '39P01', 'it is no function to be called');
SELECT test.trigger_with('phone, name') \g /dev/null
TRUNCATE test.leads;
SELECT is(test.queued_by('INSERT INTO test.leads VALUES (1, ''Ann'', NULL), (2, ''Bob'', ''+14155550102''), (3, NULL, ''+14155550103'')'), '+14155550102 {"name": "Bob"} 2; +14155550103 {"name": null} 3', 'a NULL phone queues nothing, a NULL column is null');
SELECT ok(e.state = '22023' AND e.context LIKE '%trigger "call" on table "leads"%' AND concat(e.message, e.detail, e.hint) NOT LIKE '%98765%', 'what is no number is refused, naming the trigger and not the number') FROM test.ending_of('INSERT INTO test.leads VALUES (4, ''Cid'', ''98765'')') e;
SELECT is((SELECT count(*) FROM test.leads WHERE id = 4), 0::bigint, 'and so is its row');
SELECT is(test.queued_by('INSERT INTO test.leads VALUES (2, ''x'', ''+14155550109'') ON CONFLICT DO NOTHING'), NULL, 'ON CONFLICT DO NOTHING queues nothing');
SELECT is(test.queued_by('UPDATE test.leads SET name = ''x'''), NULL, 'an UPDATE does not fire an INSERT trigger');
SELECT test.trigger_with('phone, name', 'AFTER INSERT OR UPDATE OF phone ON test.leads FOR EACH ROW') \g /dev/null
SELECT is(test.queued_by('UPDATE test.leads SET name = ''y'''), NULL, 'UPDATE OF another column queues nothing');
SELECT is(test.queued_by('UPDATE test.leads SET phone = ''+14155550110'', name = ''z'' WHERE id = 2'), '+14155550110 {"name": "z"} 2', 'UPDATE OF the phone queues the new row');
SELECT is(test.queued_by('INSERT INTO test.leads VALUES (2, ''x'', ''+14155550109'') ON CONFLICT (id) DO UPDATE SET phone = ''+14155550111'', name = excluded.name'), '+14155550111 {"name": "x"} 2', 'so does ON CONFLICT DO UPDATE');
SELECT test.trigger_with('phone', 'AFTER UPDATE ON test.leads FOR EACH ROW WHEN (OLD.phone IS DISTINCT FROM NEW.phone)') \g /dev/null
SELECT is(test.queued_by('UPDATE test.leads SET phone = ''+14155550112'' WHERE id IN (1, 2)'), '+14155550112 1; +14155550112 2', 'WHEN lets changed rows through');
SELECT is(test.queued_by('UPDATE test.leads SET phone = phone WHERE id IN (1, 2)'), NULL, 'and no others');

-- COPY
SELECT test.trigger_with('phone, name') \g /dev/null
TRUNCATE test.leads;
COPY test.leads (id, name, phone) FROM stdin;
11	Ann	+14155550111
12	Bob	\N
13	Cid	+14155550113
\.
SELECT is((SELECT string_agg(reference, ' ' ORDER BY id) FROM kridtech.call_requests WHERE to_number IN ('+14155550111', '+14155550113') AND reference IN ('11', '12', '13')), '11 13', 'COPY queues its rows');

-- many rows at once, and what they hold
TRUNCATE kridtech.call_requests, test.leads;
INSERT INTO test.leads SELECT i, 'Ann ' || i, CASE WHEN i % 10 > 0 THEN '+1415555' || 1000 + i END FROM generate_series(1, 3000) i;
SELECT is((SELECT concat_ws(' ', count(*), count(DISTINCT r.id), count(DISTINCT r.reference)) FROM kridtech.call_requests r JOIN test.leads l ON r.reference = l.id::text AND r.to_number = l.phone AND r.dynamic_variables = jsonb_build_object('name', l.name)
            AND r.state = 'queued' AND r.created_by = current_user), '2700 2700 2700', 'every row of a large INSERT has its own request');
SELECT is((SELECT array_agg(reference::int ORDER BY r.id) FROM kridtech.call_requests r), (SELECT array_agg(id ORDER BY id) FROM test.leads WHERE phone IS NOT NULL), 'in the order of the rows');
SET enable_seqscan = off;
SELECT is((SELECT count(*) FROM test.leads l WHERE EXISTS (SELECT FROM kridtech.call_requests r WHERE r.reference = l.id::text)), 2700::bigint, 'found by its reference');
SELECT is((SELECT count(*) FROM (SELECT FROM kridtech.call_requests WHERE state = 'queued' AND next_attempt_at IS NULL ORDER BY priority DESC, id) s), 2700::bigint, 'and among what is ready');
RESET enable_seqscan;
SELECT is(test.state_of('INSERT INTO test.leads SELECT i, ''x'', ''+14155550100'' FROM generate_series(10001, 20001) i'), '54000', 'a statement that queues too many is refused');
SELECT is((SELECT count(*) FROM kridtech.call_requests), 2700::bigint, 'and leaves nothing');
SELECT is(test.state_of('INSERT INTO test.leads SELECT i, ''x'', CASE WHEN i = 20300 THEN ''bad'' ELSE ''+14155550100'' END FROM generate_series(20001, 20600) i'), '22023', 'one bad number refuses its statement');
SELECT is((SELECT count(*) FROM kridtech.call_requests), 2700::bigint, 'which leaves nothing either');
SELECT is(test.queued_by('INSERT INTO test.leads VALUES (30001, repeat(''long '', 200000), ''+14155550100'')'), '+14155550100 {"name": "' || repeat('long ', 200000) || '"} 30001', 'a long value is kept whole');
SELECT is(test.state_of('INSERT INTO test.leads SELECT i, repeat(md5(i::text), 3000), ''+14155550100'' FROM generate_series(30002, 30102) i'), '00000', 'many long values are queued');
SELECT is((SELECT count(*) FROM kridtech.call_requests r JOIN test.leads l ON r.reference = l.id::text WHERE l.id BETWEEN 30002 AND 30102 AND r.dynamic_variables ->> 'name' = l.name), 101::bigint, 'each with its own');

-- what somebody has added to the table holds for each of many rows
CREATE FUNCTION test.leads_with(ddl text, leads text DEFAULT 'SELECT i, ''x'', ''+14155550100'' FROM generate_series(70001, 70300) i') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE ddl;
    result := test.state_of('INSERT INTO test.leads ' || leads);
    IF result = '00000' THEN
        PERFORM set_config('enable_seqscan', 'off', true);
        SELECT count(*) INTO result FROM kridtech.call_requests WHERE reference LIKE '7000%';
    END IF;
    RAISE 'undo' USING ERRCODE = 'KT001', DETAIL = result;
EXCEPTION
    WHEN SQLSTATE 'KT001' THEN
        GET STACKED DIAGNOSTICS result = PG_EXCEPTION_DETAIL;
        RETURN result;
END
$$;
SELECT is(test.leads_with(ddl), expected, ddl)
  FROM (VALUES ('SELECT', '9'), ('ALTER TABLE kridtech.call_requests ADD CHECK (reference <> ''70299'') NOT VALID', '23514'), ('ALTER TABLE kridtech.call_requests ADD CHECK (id < 0) NOT VALID', '23514'),
               ('ALTER TABLE kridtech.call_requests ADD CHECK (priority = 1 OR reference <> ''70299'') NOT VALID', '23514'), ('ALTER TABLE kridtech.call_requests ADD CHECK (call_requests IS NOT NULL OR call_requests.reference <> ''70299'') NOT VALID', '23514'),
               ('CREATE UNIQUE INDEX ON kridtech.call_requests ((reference::int % 299)) WHERE reference >= ''70001'' AND reference <= ''70300''', '23505'),
               ('CREATE UNIQUE INDEX ON kridtech.call_requests (priority) WHERE reference IN (''70002'', ''70299'')', '23505'),
               ('CREATE INDEX ON kridtech.call_requests (reference text_pattern_ops) WHERE reference LIKE ''7000%''', '9'),
               ('CREATE UNIQUE INDEX ON kridtech.call_requests (created_at) WHERE priority = 1', '9')) AS v(ddl, expected);
SELECT is(test.leads_with('ALTER TABLE kridtech.call_requests ADD CHECK (jsonb_typeof(dynamic_variables -> ''name'') = ''string'') NOT VALID', 'SELECT i, CASE WHEN i < 70300 THEN ''x'' END, ''+14155550100'' FROM generate_series(70001, 70300) i'), '23514', 'a constraint on a variable');
SELECT is(test.leads_with('ALTER TABLE kridtech.call_requests DROP CONSTRAINT call_requests_to_number_check, ADD CONSTRAINT call_requests_to_number_check CHECK (to_number ~ ''^\+1[0-9]*$'') NOT VALID',
                          'SELECT i, ''x'', CASE WHEN i < 70300 THEN ''+14155550100'' ELSE ''+4930123456'' END FROM generate_series(70001, 70300) i'), '23514', 'one of the table''s own that was altered');
BEGIN;
CREATE TABLE test.keyless (phone text);
CREATE TRIGGER call AFTER INSERT ON test.keyless FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
DELETE FROM kridtech.call_requests;
ALTER TABLE kridtech.call_requests ALTER reference SET NOT NULL;
INSERT INTO test.leads SELECT i, 'x', '+14155550100' FROM generate_series(70001, 70002) i;
SELECT is(test.state_of('INSERT INTO test.keyless VALUES (''+14155550100'')'), '23502', 'a NOT NULL that was added holds for the next row of the same kind');
ALTER TABLE kridtech.call_requests ALTER reference DROP NOT NULL, ADD CHECK (current_setting('test.open', true) IS DISTINCT FROM 'no');
INSERT INTO test.keyless VALUES ('+14155550100');
SET LOCAL test.open = 'no';
SELECT is(test.state_of('INSERT INTO test.keyless VALUES (''+14155550100'')'), '23514', 'a constraint that depends on more than the row is asked again');
ROLLBACK;
BEGIN;
ALTER TABLE kridtech.call_requests ADD CHECK (created_by <> 'pgtap_t_other') NOT VALID, ADD CHECK (priority < 5) NOT VALID, ADD CHECK (not_after IS NULL OR not_after < '2998-01-01') NOT VALID, ADD CHECK (account_id <> 'closed') NOT VALID;
CREATE ROLE pgtap_t_other;
CREATE FUNCTION test.mixed() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(test.state_of(call), ' ') FROM unnest(ARRAY['SELECT kridtech_queue_call(''+14155550100'')', 'SELECT kridtech_queue_call(''+14155550100'', priority => 5)', 'SELECT kridtech_queue_call(''+14155550100'', priority => 4)',
        'SELECT kridtech_queue_call(''+14155550100'', not_after => ''2999-01-01'')', 'SELECT kridtech_queue_call(''+14155550100'', account_id => ''open'')', 'SELECT kridtech_queue_call(''+14155550100'', account_id => ''closed'')',
        'SELECT kridtech_queue_call(''+14155550100'')']) call
$$;
SELECT is(test.mixed(), '00000 23514 00000 23514 00000 23514 00000', 'constraints on what most rows have alike hold when it changes');
GRANT EXECUTE ON FUNCTION kridtech_queue_call TO pgtap_t_other;
GRANT USAGE ON SCHEMA test TO pgtap_t_other;
SELECT kridtech_queue_call('+14155550100') \g /dev/null
SET LOCAL ROLE pgtap_t_other;
SELECT is(test.state_of('SELECT kridtech_queue_call(''+14155550100'')'), '23514', 'another role''s rows are asked by themselves');
ROLLBACK;

-- what only an INSERT does right is left to it
BEGIN;
CREATE DOMAIN test.tenant AS text DEFAULT 'main' NOT NULL;
ALTER TABLE kridtech.call_requests ADD COLUMN tenant test.tenant;
SELECT kridtech_queue_call('+14155550100') AS id \gset
SELECT is((SELECT tenant::text FROM kridtech.call_requests WHERE id = :id), 'main', 'an added column has its domain''s default');
ROLLBACK;
BEGIN;
ALTER TABLE kridtech.call_requests ALTER not_after TYPE timestamptz(0);
SELECT kridtech_queue_call('+14155550100', not_after => '2999-01-01 00:00:00.7+00') AS id \gset
SELECT is((SELECT not_after FROM kridtech.call_requests WHERE id = :id), '2999-01-01 00:00:01+00'::timestamptz, 'a column''s modifier holds');
ROLLBACK;
BEGIN;
DELETE FROM kridtech.call_requests;
ALTER TABLE kridtech.call_requests ADD CHECK (tableoid = 'kridtech.call_requests'::regclass);
SELECT is(test.state_of('SELECT kridtech_queue_call(''+14155550100'')'), '00000', 'a constraint sees the table''s OID');
ALTER TABLE kridtech.call_requests ADD CHECK (tableoid = 0) NOT VALID;
SELECT is(test.state_of('SELECT kridtech_queue_call(''+14155550100'')'), '23514', 'and no other');
ROLLBACK;
BEGIN;
DELETE FROM kridtech.call_requests;
CREATE TABLE test.all_requests (LIKE kridtech.call_requests) PARTITION BY RANGE (priority);
ALTER TABLE test.all_requests ATTACH PARTITION kridtech.call_requests FOR VALUES FROM (0) TO (5);
SELECT is(test.state_of('SELECT kridtech_queue_call(''+14155550100'', priority => 9)'), '23514', 'a partition''s bound holds');
ROLLBACK;
-- a built-in function that queues a call itself
BEGIN;
ALTER TABLE kridtech.call_requests ADD CHECK (reference = 'inner' OR query_to_xml('SELECT public.kridtech_queue_call(''+14155550101'', reference => ''inner'')', true, true, '') IS NOT NULL) NOT VALID;
SELECT is(test.state_of('SELECT kridtech_queue_call(''+14155550100'', reference => ''outer'')'), '00000', 'a constraint that queues a call does so');
SELECT is((SELECT string_agg(to_number, ' ' ORDER BY to_number) FROM kridtech.call_requests WHERE reference IN ('inner', 'outer')), '+14155550100 +14155550101', 'and both rows are whole');
ROLLBACK;

-- who may look at the end of a statement sees the rows
BEGIN;
CREATE TABLE test.parent (id int PRIMARY KEY, phone text) PARTITION BY LIST (id);
CREATE TABLE test.part PARTITION OF test.parent DEFAULT;
CREATE TABLE test.other (n int);
CREATE TABLE test.seen (calls bigint);
CREATE FUNCTION test.look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO test.seen SELECT count(*) FROM kridtech.call_requests WHERE to_number = '+14155550177';
    RETURN NULL;
END
$$;
CREATE TRIGGER call AFTER INSERT ON test.parent FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
CREATE TRIGGER look AFTER INSERT ON test.parent FOR EACH STATEMENT EXECUTE FUNCTION test.look();
INSERT INTO test.parent SELECT i, '+14155550177' FROM generate_series(1, 10) i;
SELECT is((SELECT calls FROM test.seen), 10::bigint, 'a trigger of a partitioned table sees the calls of its partitions');
DROP TRIGGER look ON test.parent;
CREATE TRIGGER look AFTER INSERT ON test.other FOR EACH STATEMENT EXECUTE FUNCTION test.look();
DELETE FROM test.seen;
CREATE TABLE test.plain (id int PRIMARY KEY, phone text);
CREATE TRIGGER call AFTER INSERT ON test.plain FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
WITH rows AS (INSERT INTO test.plain VALUES (1, '+14155550177') RETURNING id) INSERT INTO test.other SELECT id FROM rows;
SELECT is((SELECT calls FROM test.seen), 11::bigint, 'a trigger of another table of the statement sees them too');
-- an UPDATE goes on to the tables that inherit: the child's calls, looked for from above; the parent's, from below
DROP TRIGGER look ON test.other;
CREATE TABLE test.elder (id int PRIMARY KEY, phone text);
CREATE TABLE test.heir (PRIMARY KEY (id)) INHERITS (test.elder);
INSERT INTO test.elder VALUES (1, '+14155550177');
INSERT INTO test.heir SELECT i, '+14155550177' FROM generate_series(2, 11) i;
CREATE TRIGGER call AFTER UPDATE ON test.heir FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
CREATE TRIGGER look AFTER UPDATE ON test.elder FOR EACH STATEMENT EXECUTE FUNCTION test.look();
DELETE FROM test.seen;
UPDATE test.elder SET phone = phone;
SELECT is((SELECT calls FROM test.seen), 21::bigint, 'a trigger of a parent sees the calls of those that inherit');
DROP TRIGGER call ON test.heir;
DROP TRIGGER look ON test.elder;
CREATE TRIGGER call AFTER UPDATE ON test.elder FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
CREATE TRIGGER look AFTER UPDATE ON test.heir FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION test.look();
DELETE FROM test.seen;
UPDATE test.elder SET phone = phone;
SELECT is((SELECT calls FROM test.seen), 22::bigint, 'and the other way round');
-- a row that takes others along: the calls of one table, looked for from another
CREATE TABLE test.firm (id int PRIMARY KEY);
CREATE TABLE test.person (firm int REFERENCES test.firm ON UPDATE CASCADE ON DELETE SET NULL, phone text);
CREATE TABLE test.paper (firm int REFERENCES test.firm ON UPDATE CASCADE ON DELETE CASCADE);
INSERT INTO test.firm VALUES (1), (2);
INSERT INTO test.person VALUES (1, '+14155550177'), (2, '+14155550177');
INSERT INTO test.paper VALUES (1), (2);
CREATE TRIGGER call AFTER UPDATE ON test.person FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
CREATE TRIGGER look AFTER UPDATE OR DELETE ON test.paper FOR EACH ROW EXECUTE FUNCTION test.look();
DELETE FROM test.seen;
UPDATE test.firm SET id = id + 10;
DELETE FROM test.firm;
SELECT is((SELECT string_agg(calls::text, ' ' ORDER BY calls) FROM test.seen), '23 24 25 26', 'a trigger of a table behind a foreign key sees those of another');
-- a row that ON CONFLICT DO UPDATE or MERGE changes beside those it inserts takes others along
CREATE TABLE test.shop (id int PRIMARY KEY, phone text);
CREATE TABLE test.stock (shop int REFERENCES test.shop ON UPDATE CASCADE ON DELETE CASCADE);
INSERT INTO test.shop VALUES (1), (2), (3);
INSERT INTO test.stock VALUES (1), (2), (3);
CREATE TRIGGER call AFTER INSERT ON test.shop FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
CREATE TRIGGER look AFTER UPDATE OR DELETE ON test.stock FOR EACH ROW EXECUTE FUNCTION test.look();
DELETE FROM test.seen;
INSERT INTO test.shop VALUES (11, '+14155550177'), (1, NULL) ON CONFLICT (id) DO UPDATE SET id = 101;
SELECT is((SELECT calls FROM test.seen), 27::bigint, 'a trigger behind a foreign key sees the calls that ON CONFLICT DO UPDATE queued');
DELETE FROM test.seen;
SELECT current_setting('server_version_num')::int >= 150000 AS can_merge \gset
\if :can_merge
MERGE INTO test.shop USING (VALUES (12), (2)) AS v(n) ON id = n WHEN MATCHED THEN UPDATE SET id = 102 WHEN NOT MATCHED THEN INSERT VALUES (n, '+14155550177');
MERGE INTO test.shop USING (VALUES (13), (3)) AS v(n) ON id = n WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (n, '+14155550177');
SELECT is((SELECT string_agg(calls::text, ' ' ORDER BY calls) FROM test.seen), '28 29', 'and those of MERGE');
\endif
ROLLBACK;

-- rolled back
SELECT count(*) AS before FROM kridtech.call_requests \gset
BEGIN;
INSERT INTO test.leads VALUES (40001, 'x', '+14155550100');
SAVEPOINT s;
INSERT INTO test.leads VALUES (40002, 'x', '+14155550100');
ROLLBACK TO s;
SELECT count(*) AS within FROM kridtech.call_requests \gset
INSERT INTO test.leads VALUES (40003, 'x', '+14155550100');
PREPARE TRANSACTION 'pgtap_calltrigger';
SELECT is(:within::bigint, :before::bigint + 1, 'a savepoint takes its requests back');
SELECT is((SELECT count(*) FROM kridtech.call_requests), :before::bigint, 'prepared requests are not seen');
ROLLBACK PREPARED 'pgtap_calltrigger';
SELECT is((SELECT count(*) FROM kridtech.call_requests), :before::bigint, 'and go with ROLLBACK PREPARED');
CREATE FUNCTION test.insert_and_fail(n int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO test.leads SELECT i, 'x', '+14155550100' FROM generate_series(n, n + 9) i;
    RAISE 'back';
EXCEPTION WHEN raise_exception THEN
    INSERT INTO test.leads VALUES (n, 'kept', '+14155550100');
END
$$;
SELECT is(test.queued_by('SELECT test.insert_and_fail(41000) FROM generate_series(1, 1)'), '+14155550100 {"name": "kept"} 41000', 'an exception block takes back its own');

-- deferred
CREATE TABLE test.later (id int PRIMARY KEY, phone text);
CREATE CONSTRAINT TRIGGER call AFTER INSERT ON test.later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
SELECT count(*) AS before FROM kridtech.call_requests \gset
BEGIN;
INSERT INTO test.later SELECT i, '+14155550100' FROM generate_series(1, 300) i;
SELECT is((SELECT count(*) FROM kridtech.call_requests), :before::bigint, 'a deferred trigger queues nothing yet');
COMMIT;
SELECT is((SELECT count(*) FROM kridtech.call_requests), :before::bigint + 300, 'but at commit');
BEGIN;
INSERT INTO test.later SELECT i, '+14155550100' FROM generate_series(301, 600) i;
SET CONSTRAINTS ALL IMMEDIATE;
SELECT is((SELECT count(*) FROM kridtech.call_requests), :before::bigint + 600, 'or when it is made immediate');
COMMIT;

-- another trigger on the same rows sees what this one queued
CREATE TABLE test.watched (id int PRIMARY KEY, phone text);
CREATE TABLE test.seen (id int, requests bigint);
CREATE FUNCTION test.watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO test.seen SELECT NEW.id, count(*) FROM kridtech.call_requests WHERE to_number = '+14155550166';
    RETURN NULL;
END
$$;
CREATE TRIGGER a AFTER INSERT ON test.watched FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
CREATE TRIGGER b AFTER INSERT ON test.watched FOR EACH ROW EXECUTE FUNCTION test.watch();
INSERT INTO test.watched SELECT i, '+14155550166' FROM generate_series(1, 5) i;
SELECT is((SELECT string_agg(requests::text, ' ' ORDER BY id) FROM test.seen), '1 2 3 4 5', 'a trigger after it sees each request at once');
-- a trigger that inserts into another table with a trigger
CREATE FUNCTION test.pass_on() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO test.leads SELECT 50000 + NEW.id * 10 + i, ''inner'', NEW.phone FROM generate_series(1, 3) i; RETURN NULL; END';
CREATE TABLE test.outer (id int PRIMARY KEY, phone text);
CREATE TRIGGER a AFTER INSERT ON test.outer FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
CREATE TRIGGER b AFTER INSERT ON test.outer FOR EACH ROW EXECUTE FUNCTION test.pass_on();
SELECT is(regexp_replace(test.queued_by('INSERT INTO test.outer VALUES (1, ''+14155550167''), (2, ''+14155550168'')'), '\+1415555| {"name": "inner"}', '', 'g'), '0167 1; 0167 50011; 0167 50012; 0167 50013; 0168 2; 0168 50021; 0168 50022; 0168 50023', 'nested triggers queue in order');
SELECT is(test.queued_by('WITH a AS (INSERT INTO test.leads VALUES (60001, ''a'', ''+14155550169'') RETURNING id) INSERT INTO test.later SELECT id, ''+14155550169'' FROM a'), '+14155550169 {"name": "a"} 60001', 'one statement on two tables');

-- keys
CREATE DOMAIN test.code AS char(4);
CREATE FUNCTION test.key_of(definition text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE 'CREATE TABLE test.keyed (' || definition || ', phone text DEFAULT ''+14155550100'')';
    CREATE TRIGGER call AFTER INSERT ON test.keyed FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
    EXECUTE 'INSERT INTO test.keyed VALUES (' || value || ')';
    SELECT reference INTO result FROM kridtech.call_requests ORDER BY id DESC LIMIT 1;
    DROP TABLE test.keyed;
    RETURN coalesce(result, 'NULL');
END
$$;
SELECT is(test.key_of(definition, value), expected, 'a key of ' || definition)
  FROM (VALUES ('id bigint PRIMARY KEY', '7', '7'), ('id uuid PRIMARY KEY', '''6ba7b810-9dad-11d1-80b4-00c04fd430c8''', '6ba7b810-9dad-11d1-80b4-00c04fd430c8'), ('id text PRIMARY KEY', '''a, "b"''', 'a, "b"'),
               ('id char(4) PRIMARY KEY', '''ab''', 'ab'), ('id boolean PRIMARY KEY', 'true', 'true'), ('id inet PRIMARY KEY', '''10.0.0.1''', '10.0.0.1/32'), ('id test.code PRIMARY KEY', '''ab''', 'ab'), ('id "char" PRIMARY KEY', '''x''', 'x'),
               ('id name PRIMARY KEY', '''x''', 'x'), ('id cidr PRIMARY KEY', '''10.0.0.0/8''', '10.0.0.0/8'), ('id numeric PRIMARY KEY', '1.50', '1.50'), ('id date PRIMARY KEY', '''2026-01-02''', '2026-01-02'), ('id int', '7', 'NULL'), ('id int UNIQUE NOT NULL', '7', 'NULL'),
               ('a int, b text, PRIMARY KEY (a, b)', '7, ''x y''', '(7,"x y")'), ('a int, b text, PRIMARY KEY (b, a)', '7, ''x,"y''', '("x,""y",7)'), ('a int, b int, id int PRIMARY KEY', '1, 2, 3', '3'),
               ('a int, b int, PRIMARY KEY (a) INCLUDE (b)', '1, 2', '1'), ('id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED', '7', '7')) AS v(definition, value, expected);
SELECT is((SELECT count(*) FROM (VALUES (7, 'x y')) AS t(a, b) WHERE ROW(t.a, t.b)::text = '(7,"x y")'), 1::bigint, 'a key of several columns joins as ROW(...)::text');

-- partitions
CREATE TABLE test.parted (id int, region text, name text, phone text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE test.parted_eu PARTITION OF test.parted FOR VALUES IN ('eu');
CREATE TABLE test.parted_us (phone text, junk int, name text, region text NOT NULL, id int NOT NULL);
ALTER TABLE test.parted_us DROP COLUMN junk;
ALTER TABLE test.parted ATTACH PARTITION test.parted_us FOR VALUES IN ('us');
CREATE TRIGGER call AFTER INSERT OR UPDATE OF phone ON test.parted FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone', 'name');
SELECT is(test.queued_by('INSERT INTO test.parted VALUES (1, ''eu'', ''Ann'', ''+14155550121''), (2, ''us'', ''Bob'', ''+14155550122''), (3, ''eu'', ''Cid'', ''+14155550123'')'),
          '+14155550121 {"name": "Ann"} (eu,1); +14155550122 {"name": "Bob"} (us,2); +14155550123 {"name": "Cid"} (eu,3)', 'rows of all partitions, whatever the order of their columns');
SELECT is(test.queued_by('UPDATE test.parted SET phone = ''+14155550124'' WHERE id = 2'), '+14155550124 {"name": "Bob"} (us,2)', 'an UPDATE in a partition');
SELECT is(test.queued_by('INSERT INTO test.parted_us (id, region, phone) VALUES (9, ''us'', ''+14155550125'')'), '+14155550125 {"name": null} (us,9)', 'an INSERT into the partition itself');

SELECT is(test.queued_by('UPDATE test.parted SET region = ''eu'' WHERE id = 2'), '+14155550124 {"name": "Bob"} (eu,2)', 'an UPDATE that moves a row is an INSERT into its new partition');
DROP TRIGGER call ON test.parted;
CREATE FUNCTION test.call_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM kridtech_queue_call(NEW.phone, reference => NEW.id::text, unique_key => 'parted ' || NEW.id);
    RETURN NULL;
END
$$;
CREATE TRIGGER call AFTER INSERT ON test.parted FOR EACH ROW WHEN (NEW.phone IS NOT NULL) EXECUTE FUNCTION test.call_once();
SELECT is(test.queued_by('INSERT INTO test.parted VALUES (11, ''eu'', ''Dan'', ''+14155550126''); UPDATE test.parted SET region = ''us'' WHERE id = 11'), '+14155550126 11', 'with a unique_key the moved row queues nothing');

-- the table altered between two statements
TRUNCATE test.leads;
SELECT test.trigger_with('phone, name') \g /dev/null
CREATE FUNCTION test.lead(n int) RETURNS text LANGUAGE sql AS $$ SELECT test.queued_by(format('INSERT INTO test.leads (id, name, phone) VALUES (%s, ''Ann'', ''+14155550100'')', n)) $$;
SELECT is(test.lead(1), '+14155550100 {"name": "Ann"} 1', 'before');
ALTER TABLE test.leads DROP COLUMN b;
ALTER TABLE test.leads ALTER phone TYPE varchar(40);
SELECT is(test.lead(2), '+14155550100 {"name": "Ann"} 2', 'a dropped column and a changed type change nothing');
ALTER TABLE test.leads DROP CONSTRAINT leads_pkey;
SELECT is(test.lead(3), '+14155550100 {"name": "Ann"} NULL', 'a dropped key is noticed');
ALTER TABLE test.leads ADD COLUMN k serial PRIMARY KEY;
SELECT is(test.lead(4), '+14155550100 {"name": "Ann"} 4', 'and so is a new one');
ALTER TABLE test.leads RENAME name TO full_name;
SELECT is(test.state_of('INSERT INTO test.leads (id, phone) VALUES (5, ''+14155550100'')'), '42703', 'a renamed column is missed');
ALTER TABLE test.leads DROP COLUMN full_name;
SELECT is(test.state_of('INSERT INTO test.leads (id, phone) VALUES (6, ''+14155550100'')'), '42703', 'a dropped one too');
ALTER TABLE test.leads ADD COLUMN name int;
SELECT is(test.queued_by('INSERT INTO test.leads (id, name, phone) VALUES (7, 5, ''+14155550100'')'), '+14155550100 {"name": 5} 7', 'and read by its new type when it is back');

-- types
CREATE TYPE test.mood AS ENUM ('sad', 'happy');
CREATE TYPE test.pair AS (a int, b text);
CREATE DOMAIN test.phone AS text CHECK (VALUE LIKE '+%');
CREATE DOMAIN test.amount AS numeric(10, 2);
CREATE FUNCTION test.value_of(type text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format('CREATE TABLE test.typed (phone test.phone, v %s)', type);
    CREATE TRIGGER call AFTER INSERT ON test.typed FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone', 'v');
    EXECUTE format('INSERT INTO test.typed VALUES (''+14155550100'', %s)', value);
    SELECT (dynamic_variables -> 'v')::text INTO result FROM kridtech.call_requests ORDER BY id DESC LIMIT 1;
    DROP TABLE test.typed;
    RETURN result;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;
SELECT is(test.value_of(type, value), expected, type || ' ' || value || ' is ' || expected)
  FROM (VALUES ('text', 'NULL', 'null'), ('text', '''''', '""'), ('text', '''"\ü'||chr(10)||'''', '"\"\\ü\n"'), ('varchar(9)', '''x''', '"x"'), ('char(3)', '''x''', '"x  "'), ('name', '''x''', '"x"'), ('"char"', '''x''', '"x"'),
               ('smallint', '-32768', '-32768'), ('integer', '2147483647', '2147483647'), ('bigint', '-9223372036854775808', '-9223372036854775808'), ('numeric', '1.50', '1.50'), ('numeric', '''NaN''', '"NaN"'),
               ('numeric', '1e-30', '0.000000000000000000000000000001'), ('test.amount', '12', '12.00'), ('real', '0.1', '0.1'), ('double precision', '0.1', '0.1'), ('double precision', '1e300', '1' || repeat('0', 300)), ('double precision', '''NaN''', '"NaN"'), ('double precision', '''-Infinity''', '"-Infinity"'),
               ('boolean', 'true', 'true'), ('json', '''{"a": [1, null]}''', '{"a": [1, null]}'), ('json', '''"x"''', '"x"'), ('json', '''null''', 'null'), ('jsonb', '''{"a": {"b": []}}''', '{"a": {"b": []}}'), ('jsonb', '''[]''', '[]'), ('jsonb', '''7''', '7'), ('jsonb', '''"x"''', '"x"'), ('jsonb', '''null''', 'null'),
               ('json', '''"\u0000"''', '22P05'), ('date', '''2026-01-02''', '"2026-01-02"'), ('timestamptz', '''2026-01-02 03:04:05Z''', '"2026-01-02 03:04:05+00"'), ('interval', '''1 day''', '"1 day"'), ('uuid', '''6BA7B810-9dad-11d1-80b4-00c04fd430c8''', '"6ba7b810-9dad-11d1-80b4-00c04fd430c8"'),
               ('inet', '''10.0.0.1''', '"10.0.0.1"'), ('bytea', '''\x0001''', '"\\x0001"'), ('int[]', '''{1,2}''', '"{1,2}"'), ('test.mood', '''sad''', '"sad"'), ('test.pair', 'ROW(1, ''x y'')', '"(1,\"x y\")"'), ('int4range', '''[1,5)''', '"[1,5)"'),
               ('text GENERATED ALWAYS AS (''n '' || phone) STORED', 'DEFAULT', '"n +14155550100"'), ('int GENERATED ALWAYS AS IDENTITY', 'DEFAULT', '1')) AS v(type, value, expected);
CREATE FUNCTION test.phone_as(type text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format('CREATE TABLE test.typed (phone %s)', type);
    CREATE TRIGGER call AFTER INSERT ON test.typed FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
    EXECUTE format('INSERT INTO test.typed VALUES (%s)', value);
    SELECT to_number INTO result FROM kridtech.call_requests ORDER BY id DESC LIMIT 1;
    DROP TABLE test.typed;
    RETURN result;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;
SELECT is(test.phone_as(type, value), expected, 'a phone of type ' || type || ': ' || expected)
  FROM (VALUES ('varchar(30)', '''+14155550141''', '+14155550141'), ('char(30)', '''+14155550142''', '+14155550142'), ('test.phone', '''+14155550143''', '+14155550143'), ('name', '''+14155550144''', '+14155550144'),
               ('bigint', '14155550145', '22023'), ('jsonb', '''"+14155550146"''', '22023')) AS v(type, value, expected);

-- who inserts
CREATE ROLE pgtap_t_user;
GRANT USAGE ON SCHEMA test TO pgtap_t_user;
CREATE TABLE test.granted (id int PRIMARY KEY, phone text);
GRANT INSERT ON test.granted TO pgtap_t_user;
CREATE TRIGGER call AFTER INSERT ON test.granted FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
SET ROLE pgtap_t_user;
INSERT INTO test.granted SELECT i, '+14155550150' FROM generate_series(1, 300) i;
RESET ROLE;
SELECT is((SELECT concat_ws(' ', count(*), min(created_by::text), max(created_by::text)) FROM kridtech.call_requests WHERE to_number = '+14155550150'), '300 pgtap_t_user pgtap_t_user', 'who may insert into the table needs no other right, and is who asked');
GRANT CREATE ON SCHEMA test TO pgtap_t_user;
SET ROLE pgtap_t_user;
CREATE TABLE test.his (id int, phone text);
SELECT is(test.state_of('CREATE TRIGGER call AFTER INSERT ON test.his FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger(''phone'')'), '42501', 'but without EXECUTE he makes no such trigger of his own');
RESET ROLE;
ALTER TABLE kridtech.call_requests ADD CHECK (to_number <> '+14155550151'), ADD COLUMN mine text DEFAULT 'x';
SELECT is(test.state_of('INSERT INTO test.granted VALUES (1001, ''+14155550151'')'), '23514', 'a constraint that was added holds');
SELECT is(test.queued_by('INSERT INTO test.granted SELECT i, ''+14155550152'' FROM generate_series(1002, 1003) i'), '+14155550152 1002; +14155550152 1003', 'and an altered table takes rows');
SELECT is((SELECT count(*) FROM kridtech.call_requests WHERE mine = 'x' AND to_number = '+14155550152'), 2::bigint, 'with their defaults');
SELECT is(test.state_of('SET LOCAL transaction_read_only = on; INSERT INTO test.granted VALUES (1004, ''+14155550151'')'), '25006', 'a read-only transaction');
CREATE TEMP TABLE temporary (id int PRIMARY KEY, phone text);
CREATE TRIGGER call AFTER INSERT ON temporary FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone');
SELECT is(test.state_of('SET LOCAL transaction_read_only = on; INSERT INTO temporary VALUES (1, ''+14155550151'')'), '25006', 'queues nothing from a temporary table either');
DROP OWNED BY pgtap_t_user;
DROP ROLE pgtap_t_user;
SELECT * FROM finish();
