-- Accounts and the files that hold their keys.
\ir lib/begin.sql
SELECT plan(30);

-- a directory of the server's user for the key files
CREATE TABLE test.dir AS SELECT test.shell('mktemp -d') AS path;
CREATE FUNCTION test.file(name text) RETURNS text LANGUAGE sql AS 'SELECT path || ''/'' || name FROM test.dir';
CREATE FUNCTION test.write(name text, content text, mode text DEFAULT '600') RETURNS void LANGUAGE sql AS $$
    SELECT test.shell(format('umask 077; rm -f %1$s; printf %2$s > %1$s; chmod %3$s %1$s', test.file(name), test.quote_shell(content), mode))
$$;

-- without a row the default key is used: the simulator refuses it for another account
SELECT is(test.state_of('SELECT kridtech_create_call(''+14155550123'', account_id => ''acct-2'')'), '28000', 'an account without a row uses the default key, which the API refuses');
SELECT test.write('two', E'pgtap-key-2\n') \g /dev/null
INSERT INTO kridtech.accounts SELECT 'acct-2', test.file('two');
SELECT is(test.state_of('SELECT kridtech_create_call(''+14155550140'', account_id => ''acct-2'')'), '00000', 'an account with a row calls with its own key');
SELECT is(test.simulator_says('ledger?toNumber=%2B14155550140') -> 0 ->> 'accountId', 'acct-2', 'in its own name');
SELECT is((SELECT account_id FROM kridtech.call_requests WHERE to_number = '+14155550140'), 'acct-2', 'and is recorded so');
SELECT is((SELECT count(*) FROM kridtech_calls(account_id => 'acct-2')), 1::bigint, 'it lists its own calls');
SELECT is(kridtech_calls_total(), 0::bigint, 'and no other account''s');
SELECT is((SELECT account_id FROM kridtech_create_web_call(account_id => 'acct-2')), 'acct-2', 'it opens web calls');

-- a row of the default account stands before the default file; one without a file leaves it
INSERT INTO kridtech.accounts VALUES ('acct-1', NULL);
SELECT is(test.state_of('SELECT kridtech_calls_total()'), '00000', 'a row without a file leaves the default one');
UPDATE kridtech.accounts SET api_key_file = test.file('missing') WHERE account_id = 'acct-1';
SELECT is(test.state_of('SELECT kridtech_calls_total()'), '28000', 'a row of the default account stands before the default file');
DELETE FROM kridtech.accounts WHERE account_id = 'acct-1';

-- a new key is used as soon as it is in place
SELECT test.write('two', 'wrong-key') \g /dev/null
SELECT is(test.state_of('SELECT kridtech_calls_total(account_id => ''acct-2'')'), '28000', 'a changed key is used at once');
SELECT test.write('two', 'pgtap-key-2') \g /dev/null
SELECT is(test.state_of('SELECT kridtech_calls_total(account_id => ''acct-2'')'), '00000', 'and so is the next');

-- files
UPDATE kridtech.accounts SET api_key_file = test.file('file') WHERE account_id = 'acct-2';
CREATE FUNCTION test.file_is(content text, mode text, expected text, about text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.write('file', content, mode);
    RETURN is(test.state_of('SELECT kridtech_calls_total(account_id => ''acct-2'')'), expected, about);
END
$$;
SELECT test.file_is('pgtap-key-2', '600', '00000', 'a key file of mode 0600 is used');
SELECT test.file_is('pgtap-key-2', '400', '00000', 'a key file of mode 0400 is used');
SELECT test.file_is(E'\n pgtap-key-2 \r\n\n', '600', '00000', 'white space around the key is no part of it');
SELECT test.file_is('pgtap-key-2', mode, '28000', 'a key file of mode 0' || mode || ' is refused') FROM unnest(ARRAY['644', '640', '604', '660', '700', '000']) mode;
SELECT test.file_is('', '600', '28000', 'an empty key file is refused');
SELECT test.file_is(E' \n', '600', '28000', 'a blank key file is refused');
SELECT test.file_is(E'pgtap-key-2\nX-Injected: yes', '600', '28000', 'a key that would add a header is refused');
SELECT test.file_is('two words', '600', '28000', 'a key with a blank is refused');
SELECT test.file_is('schlüssel', '600', '28000', 'a key that is not ASCII is refused');
SELECT test.file_is(repeat('k', 5000), '600', '28000', 'a key without end is refused');
UPDATE kridtech.accounts SET api_key_file = (SELECT path FROM test.dir) WHERE account_id = 'acct-2';
SELECT is(test.state_of('SELECT kridtech_calls_total(account_id => ''acct-2'')'), '28000', 'a directory is refused');
SELECT test.shell('mkfifo -m 600 ' || test.file('pipe')) \g /dev/null
UPDATE kridtech.accounts SET api_key_file = test.file('pipe') WHERE account_id = 'acct-2';
SELECT is(test.state_of('SELECT kridtech_calls_total(account_id => ''acct-2'')'), '28000', 'a pipe is refused, without waiting for its writer');

-- the message names the file and the reason, and shows nothing of its content
SELECT test.write('file', 'secret content', '600') \g /dev/null
UPDATE kridtech.accounts SET api_key_file = test.file('file') WHERE account_id = 'acct-2';
SELECT ok(e.message LIKE '%' || test.file('file') || '%' AND e::text NOT LIKE '%secret content%', 'the message names the file and shows nothing of it')
  FROM test.ending_of('SELECT kridtech_calls_total(account_id => ''acct-2'')') e;
-- without an account ID nothing can be called in its name
SELECT test.configure('kridtech.account_id', '') \g /dev/null
SELECT alike(test.session('SELECT kridtech_create_call(''+14155550123'')'), 'ERROR:  22023:%kridtech.account_id%', 'a call without an account ends with 22023');
SELECT test.configure_as_before() \g /dev/null
SELECT test.shell('rm -r ' || path) FROM test.dir \g /dev/null
SELECT * FROM finish();
