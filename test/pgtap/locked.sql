-- health says what it can while tables are locked, or are no more what they were. A prepared transaction holds the locks.
\ir lib/begin.sql
SELECT plan(10);

CREATE FUNCTION test.locked(names text) RETURNS text LANGUAGE sql AS $$
    SELECT test.session(format('BEGIN; LOCK TABLE %s; PREPARE TRANSACTION ''pgtap_locks''', names))
$$;
CREATE FUNCTION test.unknowns() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(component, ', ' ORDER BY component) FROM kridtech.health WHERE NOT ok AND detail LIKE 'not known: somebody has locked%'
$$;

SELECT is(test.unknowns(), NULL, 'without a lock everything is known');
SELECT is(test.locked('kridtech.call_requests'), '', 'with the requests locked');
SELECT is(test.unknowns(), 'queue', 'the queue is not');
SELECT is((SELECT count(*) FROM kridtech.health), 5::bigint, 'but what else there is');
SELECT is(current_setting('lock_timeout'), '0', 'and the caller''s lock_timeout is his own again');
ROLLBACK PREPARED 'pgtap_locks';
SELECT is(test.locked('kridtech.accounts, kridtech.pauses'), '', 'with accounts and pauses locked');
SELECT is(test.unknowns(), 'all accounts, credentials, queue', 'neither the credentials nor the pauses are known');
SELECT alike(test.session('SET statement_timeout = 300; SELECT component FROM kridtech.health'), 'ERROR:  57014:%', 'a statement_timeout is the caller''s');
ROLLBACK PREPARED 'pgtap_locks';
SELECT is(test.unknowns(), NULL, 'and all is known again');
ALTER TABLE kridtech.accounts RENAME COLUMN account_id TO id;
SELECT is((SELECT detail FROM kridtech.health WHERE component = 'credentials'), 'not known: column "account_id" of kridtech.accounts does not exist', 'an altered table is told');
SELECT * FROM finish();
