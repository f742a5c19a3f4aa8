-- What test/demo runs: each chapter begins with \echo lines that say what is shown. Run by psql -e.
\set QUIET on
\pset footer off
\pset null '(null)'
SET client_min_messages = warning;
\unset QUIET

\echo
\echo '=== 1. The extension, and a CRM of the usual kind'
\echo
CREATE EXTENSION kridtech;

CREATE TABLE leads (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name    text NOT NULL,
    company text NOT NULL,
    phone   text,
    call_id text UNIQUE
);

INSERT INTO leads (name, company, phone) VALUES
    ('Ada',   'Engines Ltd',   '+442071234567'),
    ('Grace', 'Compilers Inc', '+12025550123'),
    ('Edith', 'No Phone Co',   NULL);

\echo
\echo '=== 2. Call a lead now. What the agent knows of her are the dynamic variables'
\echo
UPDATE leads l
   SET call_id = c.call_id
  FROM kridtech_create_call('+442071234567', '{"name": "Ada", "company": "Engines Ltd"}') c
 WHERE l.phone = '+442071234567'
RETURNING l.id, l.name, c.call_id, c.call_status;

\echo
\echo '=== 3. A call in the browser: the token goes to the web page'
\echo
SELECT call_id, left(access_token, 12) || '...' AS access_token, account_id, sample_rate
  FROM kridtech_create_web_call('{"topic": "a demo"}', first_name => 'Grace');

\echo
\echo '=== 4. A little later: the calls as the API tells them, beside the leads'
\echo
SELECT pg_sleep(1) \g /dev/null

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
