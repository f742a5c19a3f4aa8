-- What test/demo runs: each chapter begins with \echo lines that say what is shown. Run by psql -e.
\set QUIET on
\pset footer off
\pset null '(null)'

\echo
\echo '=== 1. The extension, and a CRM of the usual kind'
\echo
CREATE EXTENSION kridtech;

\echo
CREATE TABLE leads (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name    text NOT NULL,
    company text NOT NULL,
    phone   text,
    call_id text UNIQUE
);

\echo
INSERT INTO leads (name, company, phone) VALUES
    ('Ada',   'Engines Ltd',   '+442071234567'),
    ('Grace', 'Compilers Inc', '+12025550123'),
    ('Edith', 'No Phone Co',   NULL);

\echo
\echo '=== 2. Call a lead now. What the agent knows of her are the dynamic variables'
\echo
WITH called AS MATERIALIZED (
    SELECT l.id, c.call_id, c.call_status
      FROM leads l,
           kridtech_create_call(l.phone, jsonb_build_object('name', l.name, 'company', l.company)) c
     WHERE l.name = 'Ada')
UPDATE leads l
   SET call_id = called.call_id
  FROM called
 WHERE l.id = called.id
RETURNING l.id, l.name, called.call_id, called.call_status;

\echo
\echo '    Every call that this database asks for stands in kridtech.call_requests:'
\echo
SELECT id, account_id, to_number, dynamic_variables, state, call_id
  FROM kridtech.call_requests;

\echo
\echo '=== 3. A call in the browser: the token goes to the web page'
\echo
SELECT call_id, left(access_token, 12) || '...' AS access_token, account_id, sample_rate
  FROM kridtech_create_web_call('{"topic": "a demo"}', first_name => 'Grace');

\echo
\echo '=== 4. A little later: the calls as the API tells them, beside the leads'
\echo
\set ECHO none
SELECT pg_sleep(1) \g /dev/null
\set ECHO queries
SELECT l.name, l.company, c.call_status, c.duration, c.cost, c.created_at
  FROM kridtech_calls("limit" => 10) c
  JOIN leads l USING (call_id);

SELECT kridtech_calls_total() AS calls, kridtech_calls_total('completed') AS completed;

\echo
\echo '=== 5. What a webhook brings, as values and rows'
\echo
SELECT kridtech_variables('[{"variable": "interested", "value": "yes"},
                            {"variable": "call_back",  "value": "Monday"}]');

SELECT * FROM kridtech_transcript_turns(
    E'Agent: Hello Ada, is this a good time?\nUser: It is.\nAgent: Shall we talk on Monday?\nUser: Please do.');
