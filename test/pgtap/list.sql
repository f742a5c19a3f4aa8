-- GET /api/calls: the documented list, and lists that are not.
\ir lib/begin.sql
SELECT plan(58);

CREATE FUNCTION test.list_is(body text) RETURNS void LANGUAGE sql AS $$
    SELECT test.next_answer('calls', jsonb_build_object('fault', 'body', 'status', 200, 'body', body))
$$;
CREATE FUNCTION test.row_for(fields text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.list_is('{"success":true,"calls":[{' || fields || '}],"total":1}');
    RETURN (SELECT string_agg(coalesce(c::text, 'null'), ';') FROM kridtech_calls() c);
END
$$;
SET timezone = 'UTC';

SELECT is(test.row_for('"callId":"call_abc123","accountId":"your-account-id","direction":"outbound","toNumber":"+1234567890","callStatus":"completed","duration":125,"cost":45,"createdAt":"2025-02-14T10:30:00Z","firstName":"John"'),
          '(call_abc123,your-account-id,outbound,+1234567890,completed,125,45,"2025-02-14 10:30:00+00",John)', 'the documented row becomes a row');
SELECT is(test.row_for(''), '(,,,,,,,,)', 'a row without fields is a row of NULLs');
SELECT is(test.row_for('"callId":1,"accountId":[],"direction":{},"toNumber":14155550123,"callStatus":true,"duration":"125","cost":"45","createdAt":1739529000,"firstName":false'),
          '(,,,,,,,,)', 'fields of other types are NULL');
SELECT is(test.row_for('"callId":null,"accountId":null,"direction":null,"toNumber":null,"callStatus":null,"duration":null,"cost":null,"createdAt":null,"firstName":null'),
          '(,,,,,,,,)', 'null is NULL');
SELECT is(test.row_for('"callId":"a","unknown":{"deep":[1]},"recordingUrl":"https://x/"'), '(a,,,,,,,,)', 'fields the documentation does not know are passed over');
SELECT is(test.row_for('"callId":"a","direction":""'), '(a,,"""",,,,,,)', 'an empty string is an empty string')
  WHERE false UNION ALL SELECT is(test.row_for('"callId":"a","direction":""'), '(a,,"",,,,,,)', 'an empty string is an empty string');
SELECT is(test.row_for('"callId":"a","firstName":"J\u00f6rg \ud83d\ude42"'), '(a,,,,,,,,"Jörg 🙂")', 'escapes become characters');
SELECT is(test.row_for('"callId":"a","firstName":"x\u0000y\ud800z"'), E'(a,,,,,,,,x\uFFFDy\uFFFDz)', 'NUL and lone surrogates become U+FFFD');
SELECT is(test.row_for('"callId":"a","toNumber":"' || repeat('1', n) || '"'), '(a,,,' || shown || ',,,,,)', 'a number of ' || n || ' characters is ' || coalesce(nullif(left(shown, 1), '') || '...', 'NULL'))
  FROM (VALUES (256, repeat('1', 256)), (257, '')) AS v(n, shown);
SELECT is(test.row_for('"callId":"a","callStatus":"' || repeat('s', 257) || '"'), '(a,,,,,,,,)', 'and so is a status');
SELECT is(test.row_for('"callId":"a","duration":' || number), '(a,,,,,' || coalesce(shown, '') || ',,,)', 'a duration of ' || number || ' is ' || coalesce(shown, 'NULL'))
  FROM (VALUES ('0', '0'), ('-1', '-1'), ('12.6', '13'), ('2147483647', '2147483647'), ('2147483648', NULL), ('1e999999', NULL), ('1e3', '1000')) AS v(number, shown);
SELECT is(test.row_for('"callId":"a","cost":' || number), '(a,,,,,,' || coalesce(shown, '') || ',,)', 'a cost of ' || number || ' is ' || coalesce(shown, 'NULL'))
  FROM (VALUES ('0.125', '0.125'), ('-3', '-3'), ('12345678901234567890.5', '12345678901234567890.5'), ('1e999999', NULL), ('1e-999999', NULL), ('1e-99999999999999999999', NULL)) AS v(number, shown);
SELECT is(test.row_for('"callId":"a","createdAt":"' || iso || '"'), '(a,,,,,,,' || coalesce('"' || shown || '"', '') || ',)', 'createdAt ' || iso || ' is ' || coalesce(shown, 'NULL'))
  FROM (VALUES ('2025-02-14T10:30:00.123456Z', '2025-02-14 10:30:00.123456+00'), ('2025-02-14T10:30:00+02:00', '2025-02-14 08:30:00+00'), ('2025-02-14T10:30:00', NULL),
               ('now', NULL), ('infinity', NULL), ('2025-02-30T10:30:00Z', NULL), ('4713-01-01T00:00:00+00 BC', NULL), ('yesterday', NULL), ('', NULL)) AS v(iso, shown);

-- whole lists
SELECT test.list_is('{"success":true,"calls":[],"total":0}') \g /dev/null
SELECT is((SELECT count(*) FROM kridtech_calls()), 0::bigint, 'an empty list is no rows');
SELECT test.list_is('{"success":true,"calls":[{"callId":"b"},{"callId":"a"},{"callId":"b"}],"total":3}') \g /dev/null
SELECT is((SELECT string_agg(call_id, ',') FROM kridtech_calls()), 'b,a,b', 'rows come in the API''s order, and all of them');
SELECT test.list_is('{"success":true,"calls":[{"callId":"a"}]}') \g /dev/null
SELECT is((SELECT count(*) FROM kridtech_calls()), 1::bigint, 'the list needs no total');
SELECT is(test.state_with('calls', jsonb_build_object('fault', 'body', 'status', 200, 'body', body)), state, 'a list that is ' || what || ' ends with ' || state)
  FROM (VALUES ('{"success":true}', '08P01', 'not there'), ('{"success":true,"calls":{}}', '08P01', 'an object'), ('{"success":true,"calls":null}', '08P01', 'null'),
    ('{"success":true,"calls":[' || repeat('{},', 1000) || '{}]}', '08P01', 'of ten times as many rows as there may be'), ('{"success":true,"calls":[' || repeat('{},', 999) || '{}]}', '00000', 'longer than what was asked for'),
    ('{"success":true,"calls":[1]}', '08P01', 'of numbers'), ('{"success":true,"calls":[[]]}', '08P01', 'of arrays'), ('[]', '08P01', 'the whole answer'),
    ('{"success":true,"calls":[{"callId":"a"}', '08P01', 'broken off'), ('{"calls":[]}', '00000', 'there though success is not')) AS v(body, state, what);

-- the total
SELECT is(test.state_with('total', jsonb_build_object('fault', 'body', 'status', 200, 'body', '{"success":true,"calls":[]' || total || '}')), '08P01', 'a total that is ' || what || ' ends with 08P01')
  FROM (VALUES ('', 'missing'), (',"total":"1"', 'a string'), (',"total":null', 'null'), (',"total":-1', 'negative'), (',"total":1e99', 'beyond bigint'), (',"total":1.5', 'no whole number'), (',"total":0.4', 'none either')) AS v(total, what);
SELECT test.list_is('{"success":true,"calls":[],"total":4294967296}') \g /dev/null
SELECT is(kridtech_calls_total(), 4294967296, 'the total is a bigint');
SELECT test.list_is('{"success":true,"calls":[],"total":1.2e2}') \g /dev/null
SELECT is(kridtech_calls_total(), 120::bigint, 'however it is written');

-- what is asked for
SELECT kridtech_create_call('+15550100001') FROM generate_series(1, 3) \g /dev/null
SELECT test.await('SELECT count(*) FROM kridtech_calls(''completed'')', '3') \g /dev/null
SELECT is((SELECT count(*) FROM kridtech_calls('completed', 2)), 2::bigint, 'status and limit reach the API');
SELECT is(test.state_of('SELECT ' || list), '22023', 'an empty account is no account: ' || list)
  FROM (VALUES ('kridtech_calls(account_id => '''')'), ('kridtech_calls_total(account_id => '''')')) AS v(list);
SELECT * FROM finish();
