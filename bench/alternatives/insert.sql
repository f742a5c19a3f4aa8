-- For pgbench -M prepared, which sends each variable as a parameter: the INSERT of the other alternatives.
\set n random(1, 9000000000000000)
INSERT INTO alternatives.webhook_events
    (call_id, status, duration_ms, transcript, recording_url, dynamic_variables, raw)
  VALUES ('call_' || :n, 'completed', 94000, :transcript, 'https://storage.kridtech.com/recordings/call_' || :n || '.mp3',
    :variables, convert_to(:raw, 'UTF8')) ON CONFLICT DO NOTHING;
