/*
 * kridtech: the whole present schema. The extension's functions go to the schema the user picks, its
 * tables to the schema kridtech.
 *
 * Nothing here says IF NOT EXISTS or OR REPLACE: an object of one of these names that is there already
 * is somebody else's, and must stop the installation.
 */
\echo Use "CREATE EXTENSION kridtech" to load this file. \quit

CREATE SCHEMA kridtech;
COMMENT ON SCHEMA kridtech IS 'Call requests, webhooks and accounts of the extension kridtech';

-- ---------------------------------------------------------------------------------------------------
-- Accounts
-- ---------------------------------------------------------------------------------------------------

CREATE TABLE kridtech.accounts (
	account_id   text PRIMARY KEY CHECK (account_id <> ''),
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
	id                bigint PRIMARY KEY DEFAULT nextval('kridtech.call_requests_id_seq'),
	account_id        text CHECK (account_id <> ''),
	to_number         text NOT NULL CHECK (to_number ~ '^\+[1-9][0-9]{6,14}$'),
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
	call_id           text UNIQUE,
	call_status       text,
	http_status       integer,
	error             text,
	created_by        name NOT NULL DEFAULT current_user,
	created_at        timestamptz NOT NULL DEFAULT now(),
	finished_at       timestamptz,
	CHECK (not_after > not_before)
);
ALTER SEQUENCE kridtech.call_requests_id_seq OWNED BY kridtech.call_requests.id;

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
COMMENT ON COLUMN kridtech.call_requests.attempts IS 'How often it was handed to the network';
COMMENT ON COLUMN kridtech.call_requests.next_attempt_at IS 'When it is tried next, while it waits after a failure';
COMMENT ON COLUMN kridtech.call_requests.call_id IS 'The call''s ID at Kridtech (callId); joins with webhooks and kridtech_calls()';
COMMENT ON COLUMN kridtech.call_requests.call_status IS 'The call''s status in the answer (callStatus), such as registered';
COMMENT ON COLUMN kridtech.call_requests.http_status IS 'The HTTP status of the last answer';
COMMENT ON COLUMN kridtech.call_requests.error IS 'Why it is not simply placed';
COMMENT ON COLUMN kridtech.call_requests.created_by IS 'The role that asked for it';
COMMENT ON COLUMN kridtech.call_requests.created_at IS 'Start of the transaction that asked for it';
COMMENT ON COLUMN kridtech.call_requests.finished_at IS 'When it came to a final state';

SELECT pg_catalog.pg_extension_config_dump('kridtech.accounts', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.call_requests', '');
SELECT pg_catalog.pg_extension_config_dump('kridtech.call_requests_id_seq', '');

-- ---------------------------------------------------------------------------------------------------
-- Functions that call the API now, in the caller's backend
-- ---------------------------------------------------------------------------------------------------

CREATE FUNCTION kridtech_create_call(
	to_number text,
	dynamic_variables jsonb DEFAULT NULL,
	account_id text DEFAULT NULL,
	OUT call_id text,
	OUT call_status text)
RETURNS record
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'kridtech_create_call';
COMMENT ON FUNCTION kridtech_create_call(text, jsonb, text) IS
	'Places a phone call now (POST /api/create-call) and records it in kridtech.call_requests by this transaction. A rollback takes back the record, not the call. Errors: 22023, 25006, 28000, 53000, 53400, 08001, 08007, 08P01';

-- An account_id goes in and one comes out: INOUT, where it stands among the columns of the result.
CREATE FUNCTION kridtech_create_web_call(
	dynamic_variables jsonb DEFAULT NULL,
	first_name text DEFAULT NULL,
	OUT call_id text,
	OUT access_token text,
	INOUT account_id text DEFAULT NULL,
	OUT sample_rate integer)
RETURNS record
LANGUAGE C VOLATILE PARALLEL UNSAFE
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
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 50
AS 'MODULE_PATHNAME', 'kridtech_calls';
COMMENT ON FUNCTION kridtech_calls(text, integer, text) IS
	'The newest calls of the account''s key as the API has them now (GET /api/calls): status completed, ongoing or failed; limit 1 to 100, 50 where it is NULL. duration is in seconds. A field the API leaves out or gives another type is NULL. Errors: 22023, 28000, 53400, 08001, 08006, 08P01';

CREATE FUNCTION kridtech_calls_total(
	status text DEFAULT NULL,
	account_id text DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'kridtech_calls_total';
COMMENT ON FUNCTION kridtech_calls_total(text, text) IS
	'How many calls the API counts (the "total" of GET /api/calls). Errors as kridtech_calls()';

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

-- ---------------------------------------------------------------------------------------------------
-- Nobody but the owner, until the owner grants it
-- ---------------------------------------------------------------------------------------------------

REVOKE ALL ON SCHEMA kridtech FROM PUBLIC;
REVOKE ALL ON kridtech.accounts, kridtech.call_requests FROM PUBLIC;
REVOKE ALL ON SEQUENCE kridtech.call_requests_id_seq FROM PUBLIC;
REVOKE ALL ON FUNCTION kridtech_create_call(text, jsonb, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION kridtech_create_web_call(jsonb, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION kridtech_calls(text, integer, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION kridtech_calls_total(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION kridtech_variables(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION kridtech_transcript_turns(text) FROM PUBLIC;
