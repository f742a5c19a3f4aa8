-- Tables that belong to an ordinary role, who has altered them: an error, or words less, but never the server's end.
\ir lib/begin.sql
SELECT plan(18);

CREATE ROLE pgtap_boss;
GRANT ALL ON SCHEMA kridtech TO pgtap_boss;
SELECT format('ALTER TABLE %s OWNER TO pgtap_boss', oid::regclass) FROM pg_class WHERE relnamespace = 'kridtech'::regnamespace AND relkind = 'r' \gexec
CREATE FUNCTION test.as_boss(statements text) RETURNS text LANGUAGE sql AS $$
    SELECT test.session('SET ROLE pgtap_boss; ' || statements)
$$;

-- a column that may be NULL now, and is
SELECT is(test.as_boss($$ALTER TABLE kridtech.call_requests ALTER state DROP NOT NULL; INSERT INTO kridtech.call_requests (id, to_number, state) VALUES (7, '+14155550123', NULL)$$), '', 'a request without a state');
SELECT is(test.state_of('SELECT kridtech_resolve_call(7, ''placed'')'), '55000', 'cannot be resolved');
SELECT is(kridtech_cancel_call(7), false, 'nor cancelled');
SELECT is(test.as_boss($$ALTER TABLE kridtech.webhook_inbox ALTER reason DROP NOT NULL, ALTER body DROP NOT NULL; INSERT INTO kridtech.webhook_inbox (id, reason, body, call_id) VALUES (1, NULL, '{"callId": "call_odd"}', 'call_odd'), (2, 'late', NULL, NULL)$$), '', 'kept deliveries without a reason or a body');
SELECT is(kridtech_replay_webhook(1), true, 'that without a reason becomes an event');
SELECT is(kridtech_replay_webhook(2), false, 'that without a body does not');
SELECT is(test.as_boss($$ALTER TABLE kridtech.pauses DROP CONSTRAINT pauses_pkey, ALTER account_id DROP NOT NULL, ALTER cause DROP NOT NULL; INSERT INTO kridtech.pauses (account_id, cause, reason) VALUES (NULL, 'manual', 'odd'), ('acct-1', NULL, 'odder')$$), '', 'pauses without an account or a cause');
SELECT is((SELECT string_agg(component, ', ' ORDER BY component) FROM kridtech.health WHERE detail LIKE '%odd%'), 'account acct-1, all accounts', 'stand in health all the same');

-- a column of another type
SELECT is(test.as_boss('DROP INDEX kridtech.webhook_inbox_body_key; ALTER TABLE kridtech.webhook_inbox ALTER body TYPE date USING now()'), '', 'a body that is none');
SELECT is(test.state_of('SELECT kridtech_replay_webhook(2)'), '42804', 'is not read as one');
SELECT is(test.as_boss('ALTER TABLE kridtech.accounts DROP CONSTRAINT accounts_account_id_check, ALTER account_id TYPE bigint USING 1; INSERT INTO kridtech.accounts VALUES (4711, ''/etc/passwd'')'), '', 'an account that is a number');
SELECT is(test.state_of('SELECT kridtech_calls_total()'), '42804', 'is not read as text');
SELECT is(test.as_boss('ALTER TABLE kridtech.accounts ALTER account_id TYPE varchar(100)'), '', 'one of a type like text');
SELECT is(test.state_of('SELECT kridtech_calls_total()'), '00000', 'is read');
SELECT is(test.as_boss('ALTER TABLE kridtech.accounts RENAME COLUMN account_id TO id'), '', 'a column of another name');
SELECT is(test.state_of('SELECT kridtech_calls_total()'), '42703', 'is missed');
SELECT is(test.as_boss('ALTER TABLE kridtech.accounts RENAME TO elsewhere; CREATE VIEW kridtech.accounts AS SELECT ''acct-1''::text AS account_id, NULL::text AS api_key_file'), '', 'a view in the place of the table');
SELECT is(test.state_of('SELECT kridtech_calls_total()'), '42809', 'is not scanned as one');

REASSIGN OWNED BY pgtap_boss TO CURRENT_USER;
DROP OWNED BY pgtap_boss;
DROP ROLE pgtap_boss;
SELECT * FROM finish();
