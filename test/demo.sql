-- What test/demo runs: each chapter begins with \echo lines that say what is shown. Run by psql -e.
\set QUIET on
\pset footer off
\pset null '(null)'

\echo
\echo '=== 1. The extension, and a CRM of the usual kind'
\echo
CREATE EXTENSION kridtech;

\set ECHO none
DO $$
BEGIN
    WHILE (SELECT count(*) FROM kridtech.health WHERE component IN ('dialer', 'receiver') AND ok) < 2 LOOP
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
\set ECHO queries
\echo
CREATE TABLE leads (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name    text NOT NULL,
    company text NOT NULL,
    phone   text
);

\echo
\echo '    Every new lead is to be called. The agent knows her name and her company:'
\echo
CREATE TRIGGER call_lead AFTER INSERT ON leads
    FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone', 'name', 'employer=company');

\echo
\echo '=== 2. Leads come in. Nothing is dialled before the commit'
\echo
BEGIN;
INSERT INTO leads (name, company, phone) VALUES
    ('Ada',   'Engines Ltd',   '+44 20 7123 4567'),
    ('Grace', 'Compilers Inc', '+1 (202) 555-0123'),
    ('Edith', 'No Phone Co',   NULL);
SELECT id, reference, to_number, state FROM kridtech.call_requests ORDER BY id;
COMMIT;

\echo
\echo '    And one that is taken back: nobody is called for it'
\echo
BEGIN;
INSERT INTO leads (name, company, phone) VALUES ('Nobody', 'Typing Error Ltd', '+442079460000');
ROLLBACK;

\set ECHO none
DO $$
BEGIN
    WHILE EXISTS (SELECT FROM kridtech.call_requests WHERE state IN ('queued', 'placing')) LOOP
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
\set ECHO queries
\echo
\echo '=== 3. The dialer has placed them. The leads and their calls:'
\echo
SELECT l.name, l.company, r.state, r.call_id, r.call_status,
       round(extract(epoch FROM r.finished_at - r.created_at) * 1000) AS ms
  FROM leads l
  LEFT JOIN kridtech.call_requests r ON r.reference = l.id::text
 ORDER BY l.id;

\echo
\echo '    The evidence of each attempt:'
\echo
SELECT a.request_id, a.outcome, a.http_status, a.bytes_sent, a.ref
  FROM kridtech.call_attempts a ORDER BY a.id;

\echo
\echo '=== 4. A call that the statement itself places and waits for'
\echo
SELECT * FROM kridtech_create_call('+1 (415) 555-0123', '{"name": "Katherine"}');

\echo
\echo '=== 5. A call in the browser: the token goes to the web page'
\echo
SELECT call_id, left(access_token, 12) || '...' AS access_token, account_id, sample_rate
  FROM kridtech_create_web_call('{"topic": "a demo"}', first_name => 'Grace');

\set ECHO none
DO $$
BEGIN
    WHILE kridtech_calls_total('completed') < 4 LOOP
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
\set ECHO queries
\echo
\echo '=== 6. When they have been made: the list of calls in the database, and the history of each lead'
\echo
SELECT kridtech_sync_calls() AS rows_changed;

SELECT l.name, h.state, h.call_status, h.duration_ms, h.cost, h.variables
  FROM leads l
  JOIN kridtech.call_history h ON h.reference = l.id::text
 ORDER BY l.id;

SELECT kridtech_calls_total() AS calls, kridtech_calls_total('completed') AS completed;

\set ECHO none
DO $$
BEGIN
    WHILE (SELECT count(*) FROM kridtech.webhook_events WHERE verified_by IS NOT NULL) < 3 LOOP
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
\set ECHO queries
\echo
\echo '=== 7. After each call Kridtech sends one webhook, over TLS, to the receiver in this server'
\echo
SELECT call_id, status, duration_ms, verified_by, length(raw) AS bytes, deliveries
  FROM kridtech.webhook_events ORDER BY received_at, call_id;

\echo
\echo '    verified_by says why to believe it: nothing is signed. Which address did it come to?'
\echo
SELECT ok, detail FROM kridtech.health WHERE component = 'receiver';

\echo
\echo '=== 8. The whole story: the lead, her call, what was said'
\echo
SELECT l.name, l.company, r.call_status AS accepted, e.status, e.duration_ms / 1000 AS seconds,
       e.variables ->> 'employer' AS employer, left(e.transcript, 40) || '...' AS transcript
  FROM leads l
  LEFT JOIN kridtech.call_requests  r ON r.reference = l.id::text
  LEFT JOIN kridtech.webhook_events e ON e.request_id = r.id
 ORDER BY l.id;

SELECT l.name, t.turn, t.speaker, t.utterance
  FROM leads l
  JOIN kridtech.call_requests  r ON r.reference = l.id::text
  JOIN kridtech.webhook_events e ON e.request_id = r.id
 CROSS JOIN LATERAL kridtech_transcript_turns(e.transcript) t
 WHERE l.name = 'Ada' ORDER BY t.turn;

\echo
\echo '=== 9. An answer that is lost: the API says 500, though it has placed the call. And one that was never placed'
\echo
SELECT kridtech_queue_call('+15550100621', '{"name": "Barbara"}', reference => 'placed, then 500'),
       kridtech_queue_call('+15550100600', '{"name": "Radia"}',   reference => 'cut off, no call');

\set ECHO none
DO $$
BEGIN
    WHILE (SELECT count(*) FROM kridtech.call_requests
            WHERE (reference = 'placed, then 500' AND state = 'placed') OR (reference = 'cut off, no call' AND state = 'unknown')) < 2 LOOP
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
\set ECHO queries
\echo
\echo '    Neither is dialled again. The webhook of the one brings back the kridtech_ref of its attempt, which names'
\echo '    the call. Nothing proves what became of the other: it stays unknown, for a human to decide'
\echo
SELECT r.reference, r.attempts, a.http_status, r.state, r.call_id, e.verified_by
  FROM kridtech.call_requests r
  JOIN kridtech.call_attempts a ON a.request_id = r.id
  LEFT JOIN kridtech.webhook_events e ON e.request_id = r.id
 WHERE r.reference IN ('placed, then 500', 'cut off, no call')
 ORDER BY r.id;

SELECT reference, error FROM kridtech.call_requests WHERE reference IN ('placed, then 500', 'cut off, no call') ORDER BY id;

\echo
\echo '=== 10. What the one who watches over it sees'
\echo
SELECT component, ok, detail FROM kridtech.health;
