-- What is refused before anything is sent. Needs a server whose kridtech.api_key_file and
-- kridtech.account_id are empty, which is their default: then nothing can be sent at all.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION kridtech;
LOAD 'kridtech';
SELECT current_setting('kridtech.api_key_file') = '' AS no_key_file, current_setting('kridtech.account_id') = '' AS no_account;

-- the SQLSTATE a statement ends with; an argument that is accepted ends with 28000: there is no key file
CREATE FUNCTION state_of(statement text, OUT state text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    state := 'ok';
EXCEPTION WHEN OTHERS THEN
    state := SQLSTATE;
END
$$;

-- phone numbers: E.164 with a little punctuation, nothing else
SELECT to_json(number) AS number, state_of(format('SELECT kridtech_create_call(%L)', number))
  FROM (VALUES
    (1, '+14155550123'), (2, '+1 415 555-0123'), (3, '+1 (415) 555.0123'), (4, ' +14155550123 '), (5, '+1234567'),
    (6, '+123456789012345'), (7, '+ 4930123456'), (8, '(+49) 30 123456'),
    (20, ''), (21, ' '), (22, '+'), (23, '14155550123'), (24, '0014155550123'), (25, '+04155550123'), (26, '+123456'),
    (27, '+1234567890123456'), (28, '++14155550123'), (29, '+1415555012a'), (30, '+1415555O123'), (31, '+14155550123 ext 4'),
    (32, '+14155550123,,4'), (33, '+1/415/5550123'), (34, E'+14155550123\n'), (35, E'+1\t4155550123'), (36, '+１４１５５５５０１２３'),
    (37, E'+1\u00a04155550123'), (38, 'tel:+14155550123'), (39, '+14155550123;+14155550124'), (40, '+1415 555 0123 +'),
    (41, '+' || repeat('1', 100000)), (42, repeat(' ', 100000)), (43, '"},{"toNumber":"+14155550123'), (44, '+-14155550123')
  ) AS t(n, number) WHERE length(number) < 100 ORDER BY n;
SELECT state_of('SELECT kridtech_create_call(''+'' || repeat(''1'', 1000000))'),
       state_of('SELECT kridtech_create_call(repeat('' '', 1000000))');
SELECT state_of('SELECT kridtech_create_call(NULL)');

-- dynamic variables: an object or NULL
SELECT variables, state_of(format('SELECT kridtech_create_call(%L, %L)', '+14155550123', variables)) AS create_call,
       state_of(format('SELECT kridtech_create_web_call(%L)', variables)) AS create_web_call
  FROM (VALUES (1, NULL), (2, '{}'), (3, '{"a": {"b": [null, 1.5, "ü"]}}'), (4, '{"": ""}'),
    (20, '[]'), (21, '[{"variable": "a", "value": 1}]'), (22, 'null'), (23, '"text"'), (24, '1'), (25, 'true')) AS t(n, variables) ORDER BY n;

-- account: not the empty string
SELECT state_of('SELECT kridtech_create_call(''+14155550123'', NULL, '''')') AS create_call,
       state_of('SELECT kridtech_create_web_call(account_id => '''')') AS create_web_call;

-- status and limit of the list
SELECT status, state_of(format('SELECT kridtech_calls(%L)', status)) AS calls, state_of(format('SELECT kridtech_calls_total(%L)', status)) AS total
  FROM (VALUES (1, NULL), (2, 'completed'), (3, 'ongoing'), (4, 'failed'),
    (20, ''), (21, 'Completed'), (22, 'completed '), (23, 'registered'), (24, 'completed&limit=1'), (25, 'all')) AS t(n, status) ORDER BY n;
SELECT l AS "limit", state_of(format('SELECT kridtech_calls("limit" => %L)', l))
  FROM unnest(ARRAY[NULL, 1, 50, 100, 0, -1, 101, 2147483647, -2147483648]) l;

-- no key file, and one that is not there: by name, with a hint
\set VERBOSITY default
SELECT kridtech_create_call('+14155550123');
SELECT kridtech_create_web_call();
SELECT * FROM kridtech_calls();
SELECT kridtech_calls_total();
SELECT kridtech_create_call('+14155550123', account_id => 'elsewhere');
INSERT INTO kridtech.accounts VALUES ('missing', '/nonexistent/kridtech/key'), ('directory', '/'), ('device', '/dev/null');
SELECT kridtech_create_call('+14155550123', account_id => 'missing');
SELECT kridtech_create_web_call(account_id => 'directory');
SELECT * FROM kridtech_calls(account_id => 'device');
SELECT kridtech_calls_total(account_id => 'missing');
-- the words: what is wrong, and never the number
SELECT kridtech_create_call('0415 5550123');
SELECT kridtech_create_call(NULL);
SELECT kridtech_create_call('+14155550123', '[]');
SELECT kridtech_create_call('+14155550123', account_id => '');
SELECT kridtech_create_call('+14155550123', account_id => repeat('x', 257));
SELECT kridtech_calls('registered');
SELECT kridtech_calls("limit" => 0);

-- a read-only transaction places no call, whatever else is wrong; reading is no writing
BEGIN READ ONLY;
SELECT kridtech_create_call('+14155550123');
ROLLBACK;
SET default_transaction_read_only = on;
SELECT kridtech_create_call(NULL);
SELECT state_of('SELECT kridtech_calls()');
RESET default_transaction_read_only;
-- nor does a transaction that became read-only within the statement
SELECT state_of('SELECT kridtech_create_call(''+14155550123'')') FROM (SELECT set_config('transaction_read_only', 'on', true)) x;

-- in another role's hands without EXECUTE nothing is even looked at
CREATE ROLE regress_kridtech_nobody;
SET ROLE regress_kridtech_nobody;
SELECT kridtech_create_call('nonsense');
SELECT kridtech_create_web_call();
SELECT kridtech_calls('nonsense');
SELECT kridtech_calls_total();
SELECT kridtech_variables('[]');
SELECT kridtech_transcript_turns('');
RESET ROLE;
DROP ROLE regress_kridtech_nobody;

-- none of this left a record
SELECT count(*) FROM kridtech.call_requests;

-- without the extension's objects the library says so
CREATE FUNCTION orphan(status text, account_id text) RETURNS bigint LANGUAGE C AS 'kridtech', 'kridtech_calls_total';
DROP EXTENSION kridtech;
SELECT orphan(NULL, NULL);
DROP FUNCTION orphan(text, text);
DROP FUNCTION state_of(text);
