/*
 * kridtech: the whole present schema. The extension's functions go to the schema the user picks, its
 * tables to the schema kridtech.
 *
 * Nothing here says IF NOT EXISTS or OR REPLACE: an object of one of these names that is there already
 * is somebody else's, and must stop the installation.
 *
 * The schema the user picks may be one in which others create. So no function or operator here is left to
 * be found by a near match: one of theirs with the very types would go before PostgreSQL's own, and run as
 * whoever reads a view or writes a row. What needs a conversion of an argument, or takes any number of
 * them, says pg_catalog or has its cast written out.
 */
\echo Use "CREATE EXTENSION kridtech" to load this file. \quit

CREATE SCHEMA kridtech;
COMMENT ON SCHEMA kridtech IS 'Call requests, webhooks and accounts of the extension kridtech';

-- ---------------------------------------------------------------------------------------------------
-- Accounts
-- ---------------------------------------------------------------------------------------------------

CREATE TABLE kridtech.accounts (
	account_id   text PRIMARY KEY CHECK (octet_length(account_id) BETWEEN 1 AND 256),
	api_key_file text CHECK (api_key_file <> '')
);
COMMENT ON TABLE kridtech.accounts IS
	'Kridtech accounts besides the default one of kridtech.account_id. Who may write here chooses files that the server reads and sends to kridtech.base_url: grant it like superuser';
COMMENT ON COLUMN kridtech.accounts.account_id IS 'The account''s login ID at Kridtech (accountId)';
COMMENT ON COLUMN kridtech.accounts.api_key_file IS
	'The file that holds the account''s API key: of the server''s user, permissions 0600 or 0400. NULL: the file of kridtech.api_key_file';

-- ---------------------------------------------------------------------------------------------------
-- Call requests
-- ---------------------------------------------------------------------------------------------------

CREATE SEQUENCE kridtech.call_requests_id_seq AS bigint;

CREATE TABLE kridtech.call_requests (
	id                bigint PRIMARY KEY DEFAULT pg_catalog.nextval('kridtech.call_requests_id_seq'::pg_catalog.regclass),
	account_id        text CHECK (octet_length(account_id) BETWEEN 1 AND 256),
	-- The length apart from the pattern: a bounded repetition in it would cost four times as much.
	to_number         text NOT NULL
		CHECK (octet_length(to_number) BETWEEN 8 AND 16 AND to_number ~ '^\+[1-9][0-9]*$'),
	dynamic_variables jsonb CHECK (jsonb_typeof(dynamic_variables) = 'object'),
	reference         text,
	unique_key        text,
	priority          integer NOT NULL DEFAULT 0,
	not_before        timestamptz,
	not_after         timestamptz,
	state             text NOT NULL DEFAULT 'queued'
		CHECK (state IN ('queued', 'placing', 'placed', 'failed', 'unknown', 'cancelled', 'expired')),
	attempts          integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
	next_attempt_at   timestamptz,
	call_id           text,
	call_status       text,
	http_status       integer,
	error             text,
	created_by        name NOT NULL DEFAULT current_user,
	created_at        timestamptz NOT NULL DEFAULT pg_catalog.now(),
	finished_at       timestamptz,
	CHECK (not_after > not_before)
);
ALTER SEQUENCE kridtech.call_requests_id_seq OWNED BY kridtech.call_requests.id;

-- Every index is partial where it can be: a request is updated twice in its life, and each index that
-- does not hold it saves two insertions.
CREATE UNIQUE INDEX call_requests_call_id_key ON kridtech.call_requests (call_id)
	WHERE call_id IS NOT NULL;
CREATE UNIQUE INDEX call_requests_unique_key_key ON kridtech.call_requests (unique_key)
	WHERE unique_key IS NOT NULL AND state NOT IN ('cancelled', 'failed', 'expired');
-- What can be placed now, in the order in which it is; and what waits for its time.
CREATE INDEX call_requests_ready_idx ON kridtech.call_requests (priority DESC, id)
	WHERE state = 'queued' AND next_attempt_at IS NULL;
CREATE INDEX call_requests_waiting_idx ON kridtech.call_requests (next_attempt_at)
	WHERE state = 'queued' AND next_attempt_at IS NOT NULL;
CREATE INDEX call_requests_expiring_idx ON kridtech.call_requests (not_after)
	WHERE state = 'queued' AND not_after IS NOT NULL;
CREATE INDEX call_requests_placing_idx ON kridtech.call_requests (id) WHERE state = 'placing';
CREATE INDEX call_requests_unknown_idx ON kridtech.call_requests (finished_at) WHERE state = 'unknown';
CREATE INDEX call_requests_callless_idx ON kridtech.call_requests (finished_at)
	WHERE state = 'placed' AND call_id IS NULL;
-- There is none on reference: it would cost every queued row. doc/analytics.md has the one to create for joins.

COMMENT ON INDEX kridtech.call_requests_pkey IS 'The request''s number';
COMMENT ON INDEX kridtech.call_requests_call_id_key IS 'A call belongs to one request';
COMMENT ON INDEX kridtech.call_requests_unique_key_key IS 'At most one live request holds a unique_key';
COMMENT ON INDEX kridtech.call_requests_ready_idx IS 'What can be placed now, in its order';
COMMENT ON INDEX kridtech.call_requests_waiting_idx IS 'What waits for its time';
COMMENT ON INDEX kridtech.call_requests_expiring_idx IS 'What expires while it is queued';
COMMENT ON INDEX kridtech.call_requests_placing_idx IS 'What is on the network now';
COMMENT ON INDEX kridtech.call_requests_unknown_idx IS 'What a human or the reconciliation has to resolve';
COMMENT ON INDEX kridtech.call_requests_callless_idx IS 'What a human knows to be placed, but not as which call';
COMMENT ON SEQUENCE kridtech.call_requests_id_seq IS 'Numbers kridtech.call_requests';
COMMENT ON TABLE kridtech.call_requests IS
	'One row per phone call that was asked for, and what became of it';
COMMENT ON COLUMN kridtech.call_requests.id IS 'The request''s number';
COMMENT ON COLUMN kridtech.call_requests.account_id IS 'The Kridtech account that calls (accountId)';
COMMENT ON COLUMN kridtech.call_requests.to_number IS 'The number to call, E.164: + and 7 to 15 digits';
COMMENT ON COLUMN kridtech.call_requests.dynamic_variables IS 'What the AI agent is told: a JSON object';
COMMENT ON COLUMN kridtech.call_requests.reference IS 'The application''s own key, such as the primary key of a lead';
COMMENT ON COLUMN kridtech.call_requests.unique_key IS 'At most one live request may hold it';
COMMENT ON COLUMN kridtech.call_requests.priority IS 'Higher is placed first';
COMMENT ON COLUMN kridtech.call_requests.not_before IS 'Not placed earlier; NULL: at once';
COMMENT ON COLUMN kridtech.call_requests.not_after IS 'Not placed later: it expires; NULL: never';
COMMENT ON COLUMN kridtech.call_requests.state IS
	'queued, placing, placed, failed, unknown (it may have been placed: never sent again), cancelled or expired';
COMMENT ON COLUMN kridtech.call_requests.attempts IS 'How often it was handed to the network. Refusals of the account (401, 402, 403, 407, 429) do not count; a redial begins anew';
COMMENT ON COLUMN kridtech.call_requests.next_attempt_at IS 'When it can be placed, while it waits for not_before or after a failure; NULL: now';
COMMENT ON COLUMN kridtech.call_requests.call_id IS 'The call''s ID at Kridtech (callId); joins with webhooks and kridtech_calls()';
COMMENT ON COLUMN kridtech.call_requests.call_status IS 'The call''s status in the answer (callStatus), such as registered';
COMMENT ON COLUMN kridtech.call_requests.http_status IS 'The HTTP status of the last answer';
COMMENT ON COLUMN kridtech.call_requests.error IS 'Why it is not simply placed';
COMMENT ON COLUMN kridtech.call_requests.created_by IS 'The role that asked for it';
COMMENT ON COLUMN kridtech.call_requests.created_at IS 'Start of the transaction that asked for it';
COMMENT ON COLUMN kridtech.call_requests.finished_at IS 'When it came to a final state';

-- ---------------------------------------------------------------------------------------------------
-- Attempts: the evidence
-- ---------------------------------------------------------------------------------------------------

CREATE SEQUENCE kridtech.call_attempts_id_seq AS bigint;

-- fillfactor: a row is written when the attempt begins (some 100 bytes) and completed once (some 170), on the
-- same page, so that no index is touched again. For that no index may read what the completion sets; live,
-- which stays true when the call was placed, it may.
CREATE TABLE kridtech.call_attempts (
	id           bigint PRIMARY KEY DEFAULT pg_catalog.nextval('kridtech.call_attempts_id_seq'::pg_catalog.regclass),
	request_id   bigint NOT NULL,
	epoch        bigint NOT NULL,
	account_id   text,
	ref          text,
	live         boolean NOT NULL DEFAULT true,
	started_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	finished_at  timestamptz,
	outcome      text,
	curl_code    integer,
	bytes_sent   bigint,
	http_status  integer,
	call_id      text,
	answer_head  text,
	detail       text
) WITH (fillfactor = 35);
ALTER SEQUENCE kridtech.call_attempts_id_seq OWNED BY kridtech.call_attempts.id;

-- The structural guard of "at most one ring": a second attempt while another one may have been applied
-- violates this index, whatever a bug above it does.
CREATE UNIQUE INDEX call_attempts_live_key ON kridtech.call_attempts (request_id) WHERE live;
CREATE INDEX call_attempts_harmless_idx ON kridtech.call_attempts (request_id) WHERE NOT live;

-- To find what a human decided about, and that may have placed a call all the same.
CREATE INDEX call_attempts_ended_idx ON kridtech.call_attempts (started_at) WHERE NOT live;

COMMENT ON SEQUENCE kridtech.call_attempts_id_seq IS 'Numbers kridtech.call_attempts';
COMMENT ON TABLE kridtech.call_attempts IS
	'Every time the dialer handed a request to the network, with the evidence of how it ended. Rows are added and completed, never changed otherwise but by kridtech_resolve_call()';
COMMENT ON INDEX kridtech.call_attempts_pkey IS 'The attempt''s number';
COMMENT ON INDEX kridtech.call_attempts_live_key IS
	'At most one attempt of a request may have been applied: a double dial is a constraint violation';
COMMENT ON INDEX kridtech.call_attempts_harmless_idx IS 'A request''s attempts that proved to have applied nothing';
COMMENT ON INDEX kridtech.call_attempts_ended_idx IS
	'Attempts that proved to have applied nothing, or that a human decided about, by their time';
COMMENT ON COLUMN kridtech.call_attempts.id IS 'The attempt''s number';
COMMENT ON COLUMN kridtech.call_attempts.request_id IS 'The request: kridtech.call_requests.id';
COMMENT ON COLUMN kridtech.call_attempts.epoch IS 'The dialer''s run that made it';
COMMENT ON COLUMN kridtech.call_attempts.account_id IS
	'The default account it was sent with; NULL where the request names its own';
COMMENT ON COLUMN kridtech.call_attempts.ref IS 'The random kridtech_ref that was sent along, or NULL';
COMMENT ON COLUMN kridtech.call_attempts.live IS
	'It may have been applied. False only on proof, or by a human''s decision';
COMMENT ON COLUMN kridtech.call_attempts.started_at IS 'When it was claimed, just before it was sent';
COMMENT ON COLUMN kridtech.call_attempts.finished_at IS 'When its end was recorded; NULL while it is open';
COMMENT ON COLUMN kridtech.call_attempts.outcome IS 'What its end means: see doc/operating.md';
COMMENT ON COLUMN kridtech.call_attempts.curl_code IS 'libcurl''s result (CURLcode); 0: an answer arrived whole';
COMMENT ON COLUMN kridtech.call_attempts.bytes_sent IS 'Bytes of the request known to have left, its head at least; 0 proves that nothing was applied';
COMMENT ON COLUMN kridtech.call_attempts.http_status IS 'The answer''s HTTP status';
COMMENT ON COLUMN kridtech.call_attempts.call_id IS 'The callId the answer held';
COMMENT ON COLUMN kridtech.call_attempts.answer_head IS 'The answer''s beginning, without secrets and full numbers';
COMMENT ON COLUMN kridtech.call_attempts.detail IS 'What else is known: libcurl''s words, a human''s decision with who and when';

-- ---------------------------------------------------------------------------------------------------
-- Webhooks
-- ---------------------------------------------------------------------------------------------------

CREATE TABLE kridtech.webhook_events (
	call_id           text PRIMARY KEY CHECK (call_id <> ''),
	status            text,
	duration_ms       bigint,
	transcript        text,
	recording_url     text,
	dynamic_variables jsonb,
	variables         jsonb,
	raw               bytea NOT NULL,
	request_id        bigint,
	verified_by       text CHECK (verified_by IN ('request', 'correlation', 'api')),
	deliveries        integer NOT NULL DEFAULT 1,
	received_at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	remote_addr       inet
);

-- An event that is verified when it comes is in neither.
CREATE INDEX webhook_events_unverified_idx ON kridtech.webhook_events (received_at, call_id)
	WHERE verified_by IS NULL;
CREATE INDEX webhook_events_correlated_idx ON kridtech.webhook_events (request_id)
	WHERE verified_by = 'correlation';

COMMENT ON INDEX kridtech.webhook_events_pkey IS 'A call has one event';
COMMENT ON INDEX kridtech.webhook_events_unverified_idx IS 'What may still become verified';
COMMENT ON INDEX kridtech.webhook_events_correlated_idx IS 'What may bind a request whose answer was lost';
COMMENT ON TABLE kridtech.webhook_events IS
	'One row per call whose webhook was received. A later delivery with another body does not change it: see kridtech.webhook_inbox';
COMMENT ON COLUMN kridtech.webhook_events.call_id IS 'The call''s ID at Kridtech (callId)';
COMMENT ON COLUMN kridtech.webhook_events.status IS 'The call''s status, such as completed';
COMMENT ON COLUMN kridtech.webhook_events.duration_ms IS 'The call''s duration in milliseconds (durationMs)';
COMMENT ON COLUMN kridtech.webhook_events.transcript IS 'The transcript; what text cannot hold is U+FFFD. See kridtech_transcript_turns()';
COMMENT ON COLUMN kridtech.webhook_events.recording_url IS 'Where the recording can be had for a limited time (recordingUrl)';
COMMENT ON COLUMN kridtech.webhook_events.dynamic_variables IS
	'The variables as they were sent (dynamicVariables); a number that jsonb cannot hold is a string';
COMMENT ON COLUMN kridtech.webhook_events.variables IS 'The same as one object: kridtech_variables(dynamic_variables)';
COMMENT ON COLUMN kridtech.webhook_events.raw IS 'The body, byte for byte';
COMMENT ON COLUMN kridtech.webhook_events.request_id IS 'The request it belongs to: kridtech.call_requests.id';
COMMENT ON COLUMN kridtech.webhook_events.verified_by IS
	'Why to believe it: request (call_id is a request''s), correlation (it brought back a kridtech_ref), api (the API lists the call). NULL: anybody may have sent it';
COMMENT ON COLUMN kridtech.webhook_events.deliveries IS 'How often it was delivered with the same body';
COMMENT ON COLUMN kridtech.webhook_events.received_at IS 'When it was first received';
COMMENT ON COLUMN kridtech.webhook_events.remote_addr IS 'The client that delivered it';

CREATE SEQUENCE kridtech.webhook_inbox_id_seq AS bigint;

CREATE TABLE kridtech.webhook_inbox (
	id              bigint PRIMARY KEY DEFAULT pg_catalog.nextval('kridtech.webhook_inbox_id_seq'::pg_catalog.regclass),
	received_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	remote_addr     inet,
	reason          text NOT NULL,
	detail          text,
	call_id         text,
	body            bytea NOT NULL,
	deliveries      integer NOT NULL DEFAULT 1,
	attempts        integer NOT NULL DEFAULT 0,
	next_attempt_at timestamptz
);
ALTER SEQUENCE kridtech.webhook_inbox_id_seq OWNED BY kridtech.webhook_inbox.id;

CREATE UNIQUE INDEX webhook_inbox_body_key ON kridtech.webhook_inbox (pg_catalog.sha256(body));
CREATE INDEX webhook_inbox_waiting_idx ON kridtech.webhook_inbox (next_attempt_at)
	WHERE next_attempt_at IS NOT NULL;
CREATE INDEX webhook_inbox_bad_idx ON kridtech.webhook_inbox (id) WHERE call_id IS NULL;

COMMENT ON SEQUENCE kridtech.webhook_inbox_id_seq IS 'Numbers kridtech.webhook_inbox';
COMMENT ON INDEX kridtech.webhook_inbox_pkey IS 'The kept delivery''s number';
COMMENT ON INDEX kridtech.webhook_inbox_body_key IS 'A body is kept once';
COMMENT ON INDEX kridtech.webhook_inbox_waiting_idx IS 'What is tried again by itself';
COMMENT ON INDEX kridtech.webhook_inbox_bad_idx IS 'Bodies that can be no event: the oldest go when there are too many';
COMMENT ON TABLE kridtech.webhook_inbox IS
	'Deliveries that could not become an event, to look at and to process again with kridtech_replay_webhook()';
COMMENT ON COLUMN kridtech.webhook_inbox.id IS 'The kept delivery''s number';
COMMENT ON COLUMN kridtech.webhook_inbox.received_at IS 'When it was first received';
COMMENT ON COLUMN kridtech.webhook_inbox.remote_addr IS 'The client that delivered it';
COMMENT ON COLUMN kridtech.webhook_inbox.reason IS
	'bad body (it has no usable callId), conflict (the call''s event has another body), error (the INSERT failed), lock (the table was locked), late (there was no time)';
COMMENT ON COLUMN kridtech.webhook_inbox.detail IS 'More words: what is wrong with the body, the error and its SQLSTATE';
COMMENT ON COLUMN kridtech.webhook_inbox.call_id IS 'The call''s ID at Kridtech (callId); NULL for a bad body';
COMMENT ON COLUMN kridtech.webhook_inbox.body IS 'The body, byte for byte';
COMMENT ON COLUMN kridtech.webhook_inbox.deliveries IS 'How often this body came while it was kept';
COMMENT ON COLUMN kridtech.webhook_inbox.attempts IS 'How often it was tried again by itself';
COMMENT ON COLUMN kridtech.webhook_inbox.next_attempt_at IS 'When it is tried again by itself; NULL: not';

-- ---------------------------------------------------------------------------------------------------
-- Recordings
-- ---------------------------------------------------------------------------------------------------

-- Verified events with a recording, in the order in which they came: what the dialer walks through.
CREATE INDEX webhook_events_recording_idx ON kridtech.webhook_events (received_at, call_id)
	WHERE recording_url IS NOT NULL AND verified_by IS NOT NULL;
COMMENT ON INDEX kridtech.webhook_events_recording_idx IS 'Events whose recording may be fetched';

CREATE TABLE kridtech.recordings (
	call_id         text PRIMARY KEY CHECK (call_id <> ''),
	state           text NOT NULL DEFAULT 'waiting'
		CHECK (state IN ('waiting', 'fetching', 'fetched', 'failed')),
	content_type    text,
	bytes           bigint CHECK (bytes > 0),
	sha256          bytea CHECK (octet_length(sha256) = 32),
	fetched_at      timestamptz,
	error           text,
	attempts        integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
	next_attempt_at timestamptz DEFAULT pg_catalog.clock_timestamp(),
	received_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	CONSTRAINT recordings_whole_check
		CHECK (CASE WHEN state = 'fetched' THEN pg_catalog.num_nulls(bytes, sha256, fetched_at) = 0
			ELSE pg_catalog.num_nonnulls(content_type, bytes, sha256, fetched_at) = 0 END),
	CONSTRAINT recordings_waiting_check CHECK ((state = 'waiting') = (next_attempt_at IS NOT NULL))
);
CREATE INDEX recordings_waiting_idx ON kridtech.recordings (next_attempt_at, call_id)
	WHERE state = 'waiting';
CREATE INDEX recordings_received_idx ON kridtech.recordings (received_at, call_id);
CREATE INDEX recordings_fetching_idx ON kridtech.recordings (call_id) WHERE state = 'fetching';

-- Sound is compressed already: EXTERNAL spares the attempt to compress it again, and lets substr() read a part.
CREATE TABLE kridtech.recording_chunks (
	call_id text NOT NULL REFERENCES kridtech.recordings ON DELETE CASCADE,
	seq     integer NOT NULL CHECK (seq >= 0),
	data    bytea NOT NULL CHECK (octet_length(data) > 0),
	PRIMARY KEY (call_id, seq)
);
ALTER TABLE kridtech.recording_chunks ALTER COLUMN data SET STORAGE EXTERNAL;
-- The key only takes pieces away with their recording. That they have one is not checked when they come in:
-- pg_restore -j brings the two tables in any order. The dialer locks the recording when it adds a piece.
ALTER TABLE kridtech.recording_chunks DISABLE TRIGGER ALL;

COMMENT ON INDEX kridtech.recordings_pkey IS 'A call has one recording';
COMMENT ON INDEX kridtech.recordings_waiting_idx IS 'What is to be fetched, in its order';
COMMENT ON INDEX kridtech.recordings_received_idx IS 'Recordings of a time: what kridtech.retention removes first';
COMMENT ON INDEX kridtech.recordings_fetching_idx IS 'What is being fetched';
COMMENT ON INDEX kridtech.recording_chunks_pkey IS 'The content''s pieces in their order';
COMMENT ON CONSTRAINT recordings_whole_check ON kridtech.recordings IS 'What is said of the content is said only when all of it is there';
COMMENT ON CONSTRAINT recordings_waiting_check ON kridtech.recordings IS 'Only what waits has a time to be tried at';
COMMENT ON TABLE kridtech.recordings IS
	'The recordings of calls, one row per verified webhook event that names one, while kridtech.recordings is on. The content is in kridtech.recording_chunks. Deleting a row deletes the content; while the event is there and young enough, it is fetched anew';
COMMENT ON COLUMN kridtech.recordings.call_id IS 'The call''s ID at Kridtech (callId)';
COMMENT ON COLUMN kridtech.recordings.state IS
	'waiting (until next_attempt_at), fetching, fetched (the content is whole) or failed (it is not tried again by itself)';
COMMENT ON COLUMN kridtech.recordings.content_type IS 'The media type the server gave it (Content-Type), as it stood there';
COMMENT ON COLUMN kridtech.recordings.bytes IS 'The content''s length';
COMMENT ON COLUMN kridtech.recordings.sha256 IS 'The content''s SHA-256; NULL until all of it is there';
COMMENT ON COLUMN kridtech.recordings.fetched_at IS 'When all of it was there';
COMMENT ON COLUMN kridtech.recordings.error IS 'Why it is not fetched, or why the last attempt failed';
COMMENT ON COLUMN kridtech.recordings.attempts IS 'How often it was tried';
COMMENT ON COLUMN kridtech.recordings.next_attempt_at IS
	'When it is tried; at first the time its event came, so that the oldest is fetched first. To try a failed one again: state = ''waiting'', next_attempt_at = now()';
COMMENT ON COLUMN kridtech.recordings.received_at IS
	'When its event came: tried until kridtech.recording_max_age after it, kept for kridtech.retention after it';
COMMENT ON TABLE kridtech.recording_chunks IS
	'The content of recordings in pieces of 256 kB, the last one shorter. Whole only where kridtech.recordings says fetched';
COMMENT ON COLUMN kridtech.recording_chunks.call_id IS 'The call''s ID at Kridtech: kridtech.recordings.call_id';
COMMENT ON COLUMN kridtech.recording_chunks.seq IS 'The piece''s number, from 0';
COMMENT ON COLUMN kridtech.recording_chunks.data IS 'The bytes from 262144 * seq on';

SELECT pg_catalog.pg_extension_config_dump('kridtech.recordings', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.recording_chunks', '');

CREATE FUNCTION kridtech_recording(call_id text)
RETURNS bytea
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(c.data, ''::bytea ORDER BY c.seq)
	  FROM kridtech.recordings AS r JOIN kridtech.recording_chunks AS c ON c.call_id = r.call_id
	 WHERE r.call_id = $1 AND r.state = 'fetched'
$$;
COMMENT ON FUNCTION kridtech_recording(text) IS
	'A recording''s content; NULL unless all of it is there. The caller needs USAGE on the schema kridtech and SELECT on recordings and recording_chunks. Error: 54000 above 1 GB, which can be read from kridtech.recording_chunks only';

-- ---------------------------------------------------------------------------------------------------
-- The mirror: what GET /api/calls has ever said
-- ---------------------------------------------------------------------------------------------------

CREATE TABLE kridtech.calls (
	call_id     text PRIMARY KEY CHECK (call_id <> ''),
	account_id  text,
	direction   text,
	to_number   text,
	call_status text,
	duration    integer,
	cost        numeric,
	created_at  timestamptz,
	first_name  text,
	synced_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
-- A day's totals read the first alone; calls to a number, newest first, come from the second.
CREATE INDEX calls_created_idx ON kridtech.calls (created_at) INCLUDE (call_status, duration, cost);
CREATE INDEX calls_number_idx ON kridtech.calls (to_number, created_at);
COMMENT ON TABLE kridtech.calls IS
	'The local mirror of GET /api/calls: each call that the API has listed, as it listed it last. The API lists the 100 newest; here they stay. Rows are written only when something changed';
COMMENT ON INDEX kridtech.calls_pkey IS 'The call''s ID';
COMMENT ON INDEX kridtech.calls_created_idx IS 'Calls of a time, with what totals need';
COMMENT ON INDEX kridtech.calls_number_idx IS 'Calls to a number by time';
COMMENT ON COLUMN kridtech.calls.call_id IS 'The call''s ID at Kridtech (callId)';
COMMENT ON COLUMN kridtech.calls.account_id IS 'The account (accountId)';
COMMENT ON COLUMN kridtech.calls.direction IS 'outbound, inbound or web (direction)';
COMMENT ON COLUMN kridtech.calls.to_number IS 'The number called, as the API lists it (toNumber)';
COMMENT ON COLUMN kridtech.calls.call_status IS
	'registered, ongoing, completed or failed (callStatus); it never goes back from completed or failed';
COMMENT ON COLUMN kridtech.calls.duration IS 'How long it took, in seconds (duration)';
COMMENT ON COLUMN kridtech.calls.cost IS 'What it cost, in the API''s unit (cost)';
COMMENT ON COLUMN kridtech.calls.created_at IS 'When it was created, by the API''s clock (createdAt)';
COMMENT ON COLUMN kridtech.calls.first_name IS 'The first name the API lists (firstName)';
COMMENT ON COLUMN kridtech.calls.synced_at IS 'When a list last brought something new of it';

-- ---------------------------------------------------------------------------------------------------
-- One truth per call
-- ---------------------------------------------------------------------------------------------------

-- Three branches instead of a FULL JOIN, so that a condition on call_id, request_id, reference or to_number
-- goes down into each of them and meets its index, and a branch that cannot hold it is not run at all.
-- The view reads with its owner's rights, on purpose: SELECT on it alone lets a role read the history.
CREATE VIEW kridtech.call_history AS
SELECT r.call_id, r.id AS request_id, r.reference, r.to_number, r.state,
	coalesce(e.status, c.call_status, r.call_status) AS call_status,
	coalesce(c.direction, 'outbound') AS direction,
	coalesce(e.duration_ms, c.duration * 1000::bigint) AS duration_ms,
	c.cost, coalesce(c.created_at, r.created_at) AS created_at,
	e.transcript, e.recording_url, coalesce(e.variables, r.dynamic_variables) AS variables, e.verified_by
  FROM kridtech.call_requests AS r
  LEFT JOIN kridtech.calls AS c ON c.call_id = r.call_id
  LEFT JOIN kridtech.webhook_events AS e ON e.call_id = r.call_id
UNION ALL
SELECT c.call_id, NULL, NULL, c.to_number, NULL,
	coalesce(e.status, c.call_status), c.direction,
	coalesce(e.duration_ms, c.duration * 1000::bigint),
	c.cost, c.created_at,
	e.transcript, e.recording_url, e.variables, e.verified_by
  FROM kridtech.calls AS c
  LEFT JOIN kridtech.webhook_events AS e ON e.call_id = c.call_id
 WHERE NOT EXISTS (SELECT FROM kridtech.call_requests AS r WHERE r.call_id = c.call_id)
UNION ALL
SELECT e.call_id, NULL, NULL, NULL, NULL,
	e.status, NULL, e.duration_ms, NULL, e.received_at,
	e.transcript, e.recording_url, e.variables, e.verified_by
  FROM kridtech.webhook_events AS e
 WHERE NOT EXISTS (SELECT FROM kridtech.call_requests AS r WHERE r.call_id = e.call_id)
   AND NOT EXISTS (SELECT FROM kridtech.calls AS c WHERE c.call_id = e.call_id);
COMMENT ON VIEW kridtech.call_history IS
	'One row per call that the database knows of: its request, the API''s record and its webhook side by side. A request without a call is a row too. SELECT on it needs no right on the tables';
COMMENT ON COLUMN kridtech.call_history.call_id IS 'The call''s ID at Kridtech; NULL: the request has become no call that is known';
COMMENT ON COLUMN kridtech.call_history.request_id IS 'The request: kridtech.call_requests.id; NULL: the call was not asked for here';
COMMENT ON COLUMN kridtech.call_history.reference IS 'The application''s own key of the request';
COMMENT ON COLUMN kridtech.call_history.to_number IS 'The number called';
COMMENT ON COLUMN kridtech.call_history.state IS 'The request''s state';
COMMENT ON COLUMN kridtech.call_history.call_status IS 'The call''s status: the webhook''s, else the API''s, else the first answer''s';
COMMENT ON COLUMN kridtech.call_history.direction IS 'outbound, inbound or web';
COMMENT ON COLUMN kridtech.call_history.duration_ms IS 'Milliseconds: the webhook''s, else the API''s seconds';
COMMENT ON COLUMN kridtech.call_history.cost IS 'What it cost, in the API''s unit';
COMMENT ON COLUMN kridtech.call_history.created_at IS
	'When the API created the call; not listed yet: when it was asked for, or when its webhook came';
COMMENT ON COLUMN kridtech.call_history.transcript IS 'The webhook''s transcript';
COMMENT ON COLUMN kridtech.call_history.recording_url IS 'Where the recording can be had for a limited time';
COMMENT ON COLUMN kridtech.call_history.variables IS 'The webhook''s variables as one object, else those of the request';
COMMENT ON COLUMN kridtech.call_history.verified_by IS
	'Why to believe the webhook: request, correlation or api; NULL: there is none, or nothing vouches for it';

-- When a call ended is not listed: by the time it was first listed as completed, or its start and its length.
CREATE VIEW kridtech.missing_webhooks AS
SELECT c.call_id, r.id AS request_id, r.reference, c.account_id, c.direction, c.to_number, c.duration, c.cost,
	c.created_at, c.synced_at
  FROM kridtech.calls AS c
  LEFT JOIN kridtech.call_requests AS r ON r.call_id = c.call_id
 WHERE c.call_status = 'completed'
   AND least(c.synced_at, c.created_at + c.duration::double precision * interval '1 second')
		< clock_timestamp() - coalesce(current_setting('kridtech.webhook_grace', true), '15min')::interval
   AND NOT EXISTS (SELECT FROM kridtech.webhook_events AS e WHERE e.call_id = c.call_id);
COMMENT ON VIEW kridtech.missing_webhooks IS
	'Calls that the API has reported completed for longer than kridtech.webhook_grace, and whose webhook has not come. With a condition on created_at it reads that time alone';
COMMENT ON COLUMN kridtech.missing_webhooks.call_id IS 'The call''s ID at Kridtech';
COMMENT ON COLUMN kridtech.missing_webhooks.request_id IS 'The request, if it was asked for here';
COMMENT ON COLUMN kridtech.missing_webhooks.reference IS 'The application''s own key of the request';
COMMENT ON COLUMN kridtech.missing_webhooks.account_id IS 'The account';
COMMENT ON COLUMN kridtech.missing_webhooks.direction IS 'outbound, inbound or web';
COMMENT ON COLUMN kridtech.missing_webhooks.to_number IS 'The number called';
COMMENT ON COLUMN kridtech.missing_webhooks.duration IS 'How long it took, in seconds';
COMMENT ON COLUMN kridtech.missing_webhooks.cost IS 'What it cost, in the API''s unit';
COMMENT ON COLUMN kridtech.missing_webhooks.created_at IS 'When the API created it';
COMMENT ON COLUMN kridtech.missing_webhooks.synced_at IS 'When a list last brought something new of it';

-- ---------------------------------------------------------------------------------------------------
-- The dialer's own state
-- ---------------------------------------------------------------------------------------------------

-- A restored dump brings the rows of its origin along beside the new database's own: a foreign row is
-- what keeps a copy from dialling. The epoch counts the dialer's runs.
CREATE TABLE kridtech.identity (
	system_identifier bigint NOT NULL,
	timeline          integer NOT NULL,
	database_oid      oid NOT NULL,
	directory_inode   bigint NOT NULL,
	directory_birth   timestamptz,
	epoch             bigint NOT NULL DEFAULT 0,
	born_at           timestamptz NOT NULL,
	adopted_at        timestamptz NOT NULL DEFAULT pg_catalog.now(),
	adopted_by        name NOT NULL DEFAULT current_user
);
-- It has no key, since a restore may bring the same row again; so that a publication of all tables takes it:
ALTER TABLE kridtech.identity REPLICA IDENTITY FULL;
COMMENT ON TABLE kridtech.identity IS
	'Which database may dial: it does only while every row here is its own. kridtech_adopt() makes it so';
COMMENT ON COLUMN kridtech.identity.system_identifier IS 'The cluster''s, from its control file';
COMMENT ON COLUMN kridtech.identity.timeline IS 'The WAL''s timeline: a promotion or a point-in-time recovery begins a new one';
COMMENT ON COLUMN kridtech.identity.database_oid IS 'The database''s OID';
COMMENT ON COLUMN kridtech.identity.directory_inode IS 'The inode of the data directory''s PG_VERSION: a copy of the files has another';
COMMENT ON COLUMN kridtech.identity.directory_birth IS
	'When that PG_VERSION was made: another copy may get the same inode. NULL: the file system does not tell';
COMMENT ON COLUMN kridtech.identity.epoch IS 'How often a dialer has started here: fences an older one';
COMMENT ON COLUMN kridtech.identity.born_at IS
	'When the extension was made here: older requests were brought from elsewhere and are not dialled. -infinity after kridtech_adopt()';
COMMENT ON COLUMN kridtech.identity.adopted_at IS 'When it was recorded';
COMMENT ON COLUMN kridtech.identity.adopted_by IS 'Who recorded it';

-- account_id '' stands for all accounts.
CREATE TABLE kridtech.pauses (
	account_id text NOT NULL,
	cause      text NOT NULL
		CHECK (cause IN ('manual', 'credits', 'unauthorized', 'endpoint', 'rate', 'unreachable', 'conflict')),
	reason     text,
	since      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	until      timestamptz,
	probe_at   timestamptz,
	stamp      text,
	created_by name NOT NULL DEFAULT current_user,
	PRIMARY KEY (account_id, cause)
);
COMMENT ON TABLE kridtech.pauses IS 'Accounts whose requests wait, and why. See kridtech_pause() and kridtech_resume()';
COMMENT ON INDEX kridtech.pauses_pkey IS 'One pause of a cause an account';
COMMENT ON COLUMN kridtech.pauses.account_id IS 'The account; the empty string stands for all';
COMMENT ON COLUMN kridtech.pauses.cause IS
	'manual; credits (402), unauthorized (401, 403, 407), endpoint (3xx, 404, 405), rate (429), unreachable (many connections failed), conflict (a callId came twice)';
COMMENT ON COLUMN kridtech.pauses.reason IS 'Words for a human';
COMMENT ON COLUMN kridtech.pauses.since IS 'When it began';
COMMENT ON COLUMN kridtech.pauses.until IS 'When it ends by itself; NULL: not by time';
COMMENT ON COLUMN kridtech.pauses.probe_at IS 'When one request is let through to see whether the cause is gone; NULL: none is';
COMMENT ON COLUMN kridtech.pauses.stamp IS 'The key file''s stamp, or the base URL, that was refused: another one ends the pause';
COMMENT ON COLUMN kridtech.pauses.created_by IS 'The role that paused; the dialer''s own for an automatic pause';

SELECT pg_catalog.pg_extension_config_dump('kridtech.accounts', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.call_requests', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.call_requests_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.call_attempts', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.call_attempts_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.calls', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.identity', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.pauses', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.webhook_events', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.webhook_inbox', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.webhook_inbox_id_seq', '');

-- ---------------------------------------------------------------------------------------------------
-- Functions that call the API now, in the caller's backend
-- ---------------------------------------------------------------------------------------------------

-- COST: of a WHERE's conditions on one table PostgreSQL evaluates the cheapest first, wherever they are written. Were
-- ours as cheap as it takes any function in C for, they would go before a condition in PL/pgSQL (100), and ring whom that
-- leaves out. (Joins come after all of these, whatever they cost: README says how to choose the rows first.)
-- (Those that only write a row say 1000: 10,000 of them in a statement are not dear enough for JIT.)

CREATE FUNCTION kridtech_create_call(
	to_number text,
	dynamic_variables jsonb DEFAULT NULL,
	account_id text DEFAULT NULL,
	OUT call_id text,
	OUT call_status text)
RETURNS record
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000
AS 'MODULE_PATHNAME', 'kridtech_create_call';
COMMENT ON FUNCTION kridtech_create_call(text, jsonb, text) IS
	'Places a phone call now (POST /api/create-call) and records it in kridtech.call_requests by this transaction. A rollback takes back the record, not the call. Errors: 22023, 25006, 28000, 53000, 53400, 55000, 08001, 08007, 08P01';

-- An account_id goes in and one comes out: INOUT, where it stands among the columns of the result.
CREATE FUNCTION kridtech_create_web_call(
	dynamic_variables jsonb DEFAULT NULL,
	first_name text DEFAULT NULL,
	OUT call_id text,
	OUT access_token text,
	INOUT account_id text DEFAULT NULL,
	OUT sample_rate integer)
RETURNS record
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000
AS 'MODULE_PATHNAME', 'kridtech_create_web_call';
COMMENT ON FUNCTION kridtech_create_web_call(jsonb, text, text) IS
	'Opens a web call now (POST /api/create-web-call). The access token is for the Web SDK; it is stored nowhere. sample_rate is in Hz. Errors: 22023, 28000, 53000, 53400, 08001, 08007, 08P01';

CREATE FUNCTION kridtech_calls(
	status text DEFAULT NULL,
	"limit" integer DEFAULT NULL,
	OUT call_id text,
	INOUT account_id text DEFAULT NULL,
	OUT direction text,
	OUT to_number text,
	OUT call_status text,
	OUT duration integer,
	OUT cost numeric,
	OUT created_at timestamptz,
	OUT first_name text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000 ROWS 50
AS 'MODULE_PATHNAME', 'kridtech_calls';
COMMENT ON FUNCTION kridtech_calls(text, integer, text) IS
	'The newest calls of the account''s key as the API has them now (GET /api/calls): status completed, ongoing or failed; limit 1 to 100, 50 where it is NULL. duration is in seconds. A field the API leaves out or gives another type is NULL. Errors: 22023, 28000, 53400, 08001, 08006, 08P01';

CREATE FUNCTION kridtech_calls_total(
	status text DEFAULT NULL,
	account_id text DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000
AS 'MODULE_PATHNAME', 'kridtech_calls_total';
COMMENT ON FUNCTION kridtech_calls_total(text, text) IS
	'How many calls the API counts (the "total" of GET /api/calls). Errors as kridtech_calls()';

CREATE FUNCTION kridtech_sync_calls(account_id text DEFAULT NULL)
RETURNS integer
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000
AS 'MODULE_PATHNAME', 'kridtech_sync_calls';
COMMENT ON FUNCTION kridtech_sync_calls(text) IS
	'Brings the calls that the API lists now into kridtech.calls; returns how many rows were added or changed. Events of kridtech.webhook_events whose call the API lists become verified by api, or by request where it is one of ours. Errors: as kridtech_calls(), and 25006';

-- ---------------------------------------------------------------------------------------------------
-- Functions that queue a call, for the dialer to place after commit
-- ---------------------------------------------------------------------------------------------------

CREATE FUNCTION kridtech_queue_call(
	to_number text,
	dynamic_variables jsonb DEFAULT NULL,
	account_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	not_before timestamptz DEFAULT NULL,
	not_after timestamptz DEFAULT NULL,
	priority integer DEFAULT 0,
	unique_key text DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'kridtech_queue_call';
COMMENT ON FUNCTION kridtech_queue_call(text, jsonb, text, text, timestamptz, timestamptz, integer, text) IS
	'Queues a phone call, placed only after this transaction commits; returns the request''s id. A unique_key that a live request holds (none that was cancelled, failed or expired) returns that request''s id. Errors: 22023, 25006, 54000, 55000';

CREATE FUNCTION kridtech_call_trigger()
RETURNS trigger
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'kridtech_call_trigger';
COMMENT ON FUNCTION kridtech_call_trigger() IS
	'Queues a call for each row, AFTER INSERT OR UPDATE, FOR EACH ROW. Arguments: the phone column, then column or variable=column for each dynamic variable. The primary key as text becomes the reference, one of several columns as ROW(...)::text. A NULL phone queues nothing. Errors: 0A000, 22023, 25006, 39P01, 42703, 54000, 55000';

-- Rows that come by a plain INSERT. A role that was granted INSERT cannot forge a call's outcome by it.
CREATE FUNCTION kridtech_check_request()
RETURNS trigger
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'kridtech_check_request';
COMMENT ON FUNCTION kridtech_check_request() IS
	'The trigger on kridtech.call_requests: keeps the columns of a new request that only its owner may give, counts towards kridtech.max_queued_per_transaction, wakes the dialer at commit';
CREATE TRIGGER call_requests_check BEFORE INSERT ON kridtech.call_requests
	FOR EACH ROW EXECUTE FUNCTION kridtech_check_request();
COMMENT ON TRIGGER call_requests_check ON kridtech.call_requests IS
	'What a granted role inserts is a new request, by itself';

-- ---------------------------------------------------------------------------------------------------
-- Functions for the human who watches over the queue
-- ---------------------------------------------------------------------------------------------------

CREATE FUNCTION kridtech_cancel_call(request_id bigint)
RETURNS boolean
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'kridtech_cancel_call';
COMMENT ON FUNCTION kridtech_cancel_call(bigint) IS
	'Cancels a request; true when it was still queued, and then it is never dialled. Errors: 25006';

CREATE FUNCTION kridtech_resolve_call(
	request_id bigint,
	outcome text,
	call_id text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'kridtech_resolve_call';
COMMENT ON FUNCTION kridtech_resolve_call(bigint, text, text) IS
	'A human''s word on a request that is unknown or failed: placed, not_placed (it becomes failed) or redial (it is queued again). Recorded with who and when in kridtech.call_attempts.detail. Errors: 22023, 23505, 25006, 55000';

CREATE FUNCTION kridtech_pause(
	account_id text DEFAULT NULL,
	reason text DEFAULT NULL,
	until timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'kridtech_pause';
COMMENT ON FUNCTION kridtech_pause(text, text, timestamptz) IS
	'Pauses an account, or all of them: what is queued stays queued. Pausing again changes reason and until. Errors: 22023, 25006';

CREATE FUNCTION kridtech_resume(account_id text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'kridtech_resume';
COMMENT ON FUNCTION kridtech_resume(text) IS
	'Ends every pause of an account, whatever its cause; without an account every pause there is. Errors: 22023, 25006';

CREATE FUNCTION kridtech_adopt()
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'kridtech_adopt';
COMMENT ON FUNCTION kridtech_adopt() IS
	'Lets this database dial after a restore, a clone or a promotion: a copy waits until a human says by this that its origin does not dial any more. Errors: 25006, and 55000 while a subscription fills kridtech.call_requests';

-- The new database's own identity. A restored dump adds its origin's rows to it, and so does not dial.
SELECT kridtech_adopt();

-- ---------------------------------------------------------------------------------------------------
-- Functions on what a webhook brings
-- ---------------------------------------------------------------------------------------------------

CREATE FUNCTION kridtech_variables(dynamic_variables jsonb)
RETURNS jsonb
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kridtech_variables';
COMMENT ON FUNCTION kridtech_variables(jsonb) IS
	'A webhook''s dynamicVariables, an array of {"variable", "value"}, as one object. The last of one name counts, elements of another shape are passed over, an object is returned as it is, anything else gives NULL';

CREATE FUNCTION kridtech_transcript_turns(
	transcript text,
	OUT turn integer,
	OUT speaker text,
	OUT utterance text)
RETURNS SETOF record
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 20
AS 'MODULE_PATHNAME', 'kridtech_transcript_turns';
COMMENT ON FUNCTION kridtech_transcript_turns(text) IS
	'A transcript''s turns, from 1. A line that begins with "Label:" begins a turn; lines without a label belong to the turn before; speaker is NULL where the text names none';

-- In the caller's transaction, with the owner's rights.
CREATE FUNCTION kridtech_replay_webhook(inbox_id bigint)
RETURNS boolean
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'kridtech_replay_webhook';
COMMENT ON FUNCTION kridtech_replay_webhook(bigint) IS
	'Processes a delivery kept in kridtech.webhook_inbox again. True when it has become an event, or an equal one is there: then it has left the inbox. An error that a trigger raises is thrown. Errors: 25006';

-- ---------------------------------------------------------------------------------------------------
-- The workers: their health, their counters, prodding them
-- ---------------------------------------------------------------------------------------------------

CREATE FUNCTION kridtech_health(
	OUT component text,
	OUT ok boolean,
	OUT detail text,
	OUT since timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'kridtech_health';
COMMENT ON FUNCTION kridtech_health() IS 'The rows of the view kridtech.health';

CREATE VIEW kridtech.health AS SELECT component, ok, detail, since FROM @extschema@.kridtech_health();
COMMENT ON VIEW kridtech.health IS
	'What works and what does not, one row each. To monitor with a role of its own: GRANT USAGE ON SCHEMA kridtech, SELECT on this view and EXECUTE on kridtech_health(); it needs no right on the tables';
COMMENT ON COLUMN kridtech.health.component IS
	'dialer, receiver, sync, queue, credentials; recordings, while kridtech.recordings is on; and "account <id>" for each paused account, "all accounts" for a pause of all';
COMMENT ON COLUMN kridtech.health.ok IS 'False when somebody should look; NULL where it does not apply';
COMMENT ON COLUMN kridtech.health.detail IS 'Words for a human; never a key or a full phone number';
COMMENT ON COLUMN kridtech.health.since IS 'Since when it is so, where that is known';

CREATE FUNCTION kridtech_stats(
	OUT name text,
	OUT value double precision)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 20
AS 'MODULE_PATHNAME', 'kridtech_stats';
COMMENT ON FUNCTION kridtech_stats() IS 'The rows of the view kridtech.stats. Error: 55000 where kridtech is not preloaded';

CREATE VIEW kridtech.stats AS SELECT name, value FROM @extschema@.kridtech_stats();
COMMENT ON VIEW kridtech.stats IS
	'Counters of this database''s workers since the server''s start (or its last crash), averages and latency percentiles. Rights as for kridtech.health';
COMMENT ON COLUMN kridtech.stats.name IS 'What is counted: see doc/operating.md';
COMMENT ON COLUMN kridtech.stats.value IS 'The number; NULL where there is nothing to measure yet';

CREATE FUNCTION kridtech_wake()
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'kridtech_wake';
COMMENT ON FUNCTION kridtech_wake() IS
	'Makes this database''s dialer look at the queue now. Error: 55000 where kridtech is not preloaded';

CREATE FUNCTION kridtech_restart_workers()
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'kridtech_restart_workers';
COMMENT ON FUNCTION kridtech_restart_workers() IS
	'Ends this database''s dialer and receiver, once the answers on the way have been awaited briefly, and starts new ones. Error: 55000 where kridtech is not preloaded';

-- ---------------------------------------------------------------------------------------------------
-- Nobody but the owner, until the owner grants it
-- ---------------------------------------------------------------------------------------------------

REVOKE ALL ON SCHEMA kridtech FROM PUBLIC;
REVOKE ALL ON
	kridtech.accounts, kridtech.call_requests, kridtech.call_attempts, kridtech.webhook_events,
	kridtech.webhook_inbox, kridtech.recordings, kridtech.recording_chunks, kridtech.calls,
	kridtech.call_history, kridtech.missing_webhooks, kridtech.identity, kridtech.pauses,
	kridtech.health, kridtech.stats
	FROM PUBLIC;
REVOKE ALL ON SEQUENCE
	kridtech.call_requests_id_seq, kridtech.call_attempts_id_seq, kridtech.webhook_inbox_id_seq
	FROM PUBLIC;
REVOKE ALL ON FUNCTION
	kridtech_recording(text),
	kridtech_create_call(text, jsonb, text),
	kridtech_create_web_call(jsonb, text, text),
	kridtech_calls(text, integer, text),
	kridtech_calls_total(text, text),
	kridtech_sync_calls(text),
	kridtech_queue_call(text, jsonb, text, text, timestamptz, timestamptz, integer, text),
	kridtech_call_trigger(),
	kridtech_check_request(),
	kridtech_cancel_call(bigint),
	kridtech_resolve_call(bigint, text, text),
	kridtech_pause(text, text, timestamptz),
	kridtech_resume(text),
	kridtech_adopt(),
	kridtech_variables(jsonb),
	kridtech_transcript_turns(text),
	kridtech_replay_webhook(bigint),
	kridtech_health(),
	kridtech_stats(),
	kridtech_wake(),
	kridtech_restart_workers()
	FROM PUBLIC;
