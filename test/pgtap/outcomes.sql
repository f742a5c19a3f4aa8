-- What each answer of the API becomes: contract section 3 and faults.md section 1, endpoint by endpoint.
\ir lib/begin.sql
SELECT plan(161);

-- HTTP statuses. create-call and create-web-call: what proves nothing leaves it unknown; a read is never unknown
SELECT is(test.state_with(request, jsonb_build_object('fault', 'status', 'status', status)), CASE WHEN request LIKE 'create%' THEN creation ELSE reading END,
          'HTTP ' || status || ' to ' || request || ' ends with ' || CASE WHEN request LIKE 'create%' THEN creation ELSE reading END)
  FROM (VALUES (400, '22023', '22023'), (401, '28000', '28000'), (402, '53000', '53000'), (403, '28000', '28000'), (404, '08P01', '08P01'),
               (405, '08P01', '08P01'), (407, '28000', '28000'), (408, '08007', '08P01'), (409, '08007', '08P01'), (410, '08P01', '08P01'), (413, '22023', '22023'), (415, '08P01', '08P01'),
               (418, '08007', '08P01'), (422, '22023', '22023'), (425, '08007', '08P01'), (429, '53400', '53400'), (431, '22023', '22023'), (500, '08007', '08P01'),
               (502, '08007', '08P01'), (503, '08007', '08P01'), (504, '08007', '08P01')) AS s(status, creation, reading),
       (VALUES ('create-call'), ('create-web-call'), ('calls'), ('total')) AS r(request);

-- redirects: not followed, and nothing is known
SELECT is(test.state_with(request, jsonb_build_object('fault', 'redirect', 'status', status, 'location', 'http://127.0.0.1:' || test.port(0) || '/api/redirected')), state,
          'HTTP ' || status || ' to ' || request || ' ends with ' || state)
  FROM (VALUES (301), (302), (303), (307), (308)) AS s(status), (VALUES ('create-call', '08007'), ('create-web-call', '08007'), ('calls', '08P01')) AS r(request, state);
-- the ledger holds create-calls only, whatever came to them; a followed 307 would be one more
SELECT test.simulator('reset') \g /dev/null
SELECT test.state_with('create-call', jsonb_build_object('fault', 'redirect', 'status', 307, 'location', 'http://127.0.0.1:' || test.port(0) || '/api/create-call')) \g /dev/null
SELECT is(jsonb_array_length(test.simulator_says('ledger')), 1, 'a redirect is not followed, though it leads back to the API');

-- bodies of a 200 to create-call, by the simulator's magic numbers
SELECT is(test.state_of(format('SELECT kridtech_create_call(%L)', '+1555010' || number)), state, 'create-call answered with ' || what || ' ends with ' || state)
  FROM (VALUES ('0001', '00000', 'the documented answer'), ('0200', '08P01', 'success false and no callId'), ('0201', '00000', '201'), ('0202', '00000', '202'),
    ('0204', '08007', '204'), ('0210', '08007', 'an HTML page'), ('0211', '08007', 'an empty body'), ('0212', '08007', 'truncated JSON'),
    ('0213', '08007', 'an array'), ('0214', '08007', 'null'), ('0215', '08007', 'no callId'), ('0216', '08007', 'a number as callId'),
    ('0217', '08007', 'an empty callId'), ('0218', '08007', 'a callId of 10,000 characters'), ('0221', '08007', 'two different callIds'),
    ('0222', '00000', 'a callId for the first time'), ('0222', '08007', 'a callId that is bound already'), ('0223', '08007', 'JSON nested 100,000 deep'),
    ('0226', '00000', 'a byte order mark before the JSON'),
    ('0227', '08007', 'success false and a callId'), ('0228', '08007', 'garbage after the JSON'), ('0229', '08007', 'callId null')) AS m(number, state, what);

-- what the repair of the answer's bytes hides: the callId that is recorded is not the one that was sent
SELECT is(test.state_of(format('SELECT kridtech_create_call(%L)', '+1555010' || number)), '08007', 'create-call answered with ' || what || ' ends with 08007')
  FROM (VALUES ('0224', 'a callId that is not UTF-8'), ('0225', 'a callId with NUL')) AS m(number, what);

-- and what no number stands for
SET client_min_messages = error;
SELECT is(test.state_with('create-call', jsonb_build_object('fault', 'body', 'status', 200, 'body', body)), state, 'create-call answered with ' || what || ' ends with ' || state)
  FROM (VALUES ('{"success":true,"callId":"' || repeat('x', 256) || '","callStatus":"registered"}', '00000', 'a callId of 256 bytes'),
    ('{"success":true,"callId":"' || repeat('x', 257) || '"}', '08007', 'a callId of 257 bytes'),
    ('{"success":true,"callId":"call_\u0007bell"}', '08007', 'an unprintable callId'),
    (E'{"success":true,"callId":"call_\u0085next"}', '08007', 'a callId with a C1 control character'),
    ('{"success":true,"callId":["call_a"]}', '08007', 'an array as callId'),
    ('{"success":true,"callId":{"callId":"call_a"}}', '08007', 'an object as callId'),
    ('{"success":true,"callId":true}', '08007', 'true as callId'),
    ('{"success":true,"callid":"call_a"}', '08007', 'a field that only looks like callId'),
    ('{"success":true,"data":{"callId":"call_a"}}', '08007', 'a callId deeper down'),
    ('{"success":true,"callId":"call_twin","callId":"call_twin"}', '00000', 'one callId said twice'),
    ('{"success":false,"success":true,"callId":"call_both"}', '00000', 'success that contradicts itself, and a callId'),
    ('{"success":true,"callId":"call_nostatus"}', '00000', 'no callStatus'),
    ('{"success":true,"callId":"call_oddstatus","callStatus":7}', '00000', 'a callStatus of another type'),
    ('{success:true,callId:"call_a"}', '08007', 'JavaScript instead of JSON'),
    ('{"success":"false"}', '08007', 'success "false" as a string'),
    ('{}', '08007', 'an empty object'),
    ('true', '08007', 'a scalar'),
    ('"call_a"', '08007', 'a string'),
    (repeat(' ', 70000) || '{"success":true,"callId":"call_a"}', '08007', 'more bytes than an answer may have')) AS b(body, state, what);

RESET client_min_messages;
-- create-web-call
SELECT is(test.state_with('create-web-call', jsonb_build_object('fault', 'body', 'status', 200, 'body', body)), state, 'create-web-call answered with ' || what || ' ends with ' || state)
  FROM (VALUES ('{"success":true,"accessToken":"eyJ","callId":"webcall_1","accountId":"acct-1","sampleRate":24000}', '00000', 'the documented answer'),
    ('{"success":true,"accessToken":"eyJ","callId":"webcall_1"}', '00000', 'only token and callId'),
    ('{"success":true,"callId":"webcall_1","sampleRate":24000}', '08007', 'no token'),
    ('{"success":true,"accessToken":"","callId":"webcall_1"}', '08007', 'an empty token'),
    ('{"success":true,"accessToken":7,"callId":"webcall_1"}', '08007', 'a number as token'),
    ('{"success":true,"accessToken":"eyJ"}', '08007', 'no callId'),
    ('{"success":false,"message":"No agent"}', '08P01', 'success false'),
    ('<html></html>', '08007', 'an HTML page'),
    ('', '08007', 'an empty body')) AS b(body, state, what);
SELECT test.next_answer('create-web-call', '{"fault": "body", "status": 200, "body": "{\"success\":true,\"accessToken\":\"eyJ\",\"callId\":\"webcall_2\",\"sampleRate\":\"24000\"}"}') \g /dev/null
SELECT is(w::text, '(webcall_2,eyJ,,)', 'what create-web-call leaves out or gives another type is NULL') FROM kridtech_create_web_call(account_id => 'acct-1') w;

-- an answer without "success": true, but with a callId, is a placed call, and says so
SELECT alike(test.session('SELECT kridtech_create_call(''+15550100219'')'), 'WARNING: %"success": true%call_%registered%', 'a placed call whose answer lacks success is placed with a WARNING');
SELECT alike(test.session('SELECT kridtech_create_call(''+15550100220'')'), 'WARNING: %"success": true%call_%registered%', 'a placed call whose success is a string is placed with a WARNING');
SELECT unalike(test.session('SELECT kridtech_create_call(''+15550100001'')'), '%WARNING%', 'the documented answer is placed without one');

-- success false: the API's own words
SELECT is(e.detail, 'The API says: the agent is asleep', 'success false brings the API''s words as DETAIL')
  FROM test.ending_with('create-call', '{"fault": "body", "status": 200, "body": "{\"success\":false,\"message\":\"the agent is asleep\"}"}') e;
SELECT is(e.detail, 'The API says: ' || words, 'the API''s words are found in ' || what)
  FROM (VALUES ('error', '"error":"from error"', 'from error'), ('error.message', '"error":{"message":"from inside"}', 'from inside'),
               ('message before error', '"error":"second","message":"first"', 'first')) AS v(what, field, words),
       LATERAL test.ending_with('calls', jsonb_build_object('fault', 'status', 'status', 400, 'body', '{"success":false,' || field || '}')) e;
SELECT is(e.detail, '', 'words of another type are no words')
  FROM test.ending_with('calls', '{"fault": "status", "status": 400, "body": "{\"message\":[\"a\"]}"}') e;
SELECT * FROM finish();
