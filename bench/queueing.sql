-- A trigger that queues a call for every row, against what people write by hand: a PL/pgSQL trigger that
-- inserts into an outbox. Three outboxes: the barest; one whose pending rows a worker can find; and one that
-- guarantees what kridtech.call_requests does (checked numbers, variables and states, found by reference).
CREATE SCHEMA queueing;
CREATE TABLE queueing.plain (id bigserial PRIMARY KEY, name text, phone text, email text);
CREATE TABLE queueing.ours (LIKE queueing.plain INCLUDING ALL);
CREATE TABLE queueing.bare (LIKE queueing.plain INCLUDING ALL);
CREATE TABLE queueing.pending (LIKE queueing.plain INCLUDING ALL);
CREATE TABLE queueing.equal (LIKE queueing.plain INCLUDING ALL);
CREATE TABLE queueing.outbox_bare (
	id bigserial PRIMARY KEY,
	to_number text NOT NULL,
	dynamic_variables jsonb,
	reference text,
	state text NOT NULL DEFAULT 'queued',
	created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE queueing.outbox_pending (LIKE queueing.outbox_bare INCLUDING ALL);
CREATE INDEX ON queueing.outbox_pending (id) WHERE state = 'queued';
CREATE TABLE queueing.outbox_equal (
	LIKE queueing.outbox_pending INCLUDING ALL,
	CHECK (to_number ~ '^\+[1-9][0-9]{6,14}$'),
	CHECK (jsonb_typeof(dynamic_variables) = 'object'),
	CHECK (state IN ('queued', 'placing', 'placed', 'failed'))
);

CREATE FUNCTION queueing.to_bare() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO queueing.outbox_bare (to_number, dynamic_variables, reference)
		VALUES (NEW.phone, jsonb_build_object('name', NEW.name, 'email', NEW.email), NEW.id::text);
	RETURN NULL;
END
$$;
CREATE FUNCTION queueing.to_pending() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO queueing.outbox_pending (to_number, dynamic_variables, reference)
		VALUES (NEW.phone, jsonb_build_object('name', NEW.name, 'email', NEW.email), NEW.id::text);
	RETURN NULL;
END
$$;
CREATE FUNCTION queueing.to_equal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO queueing.outbox_equal (to_number, dynamic_variables, reference)
		VALUES (NEW.phone, jsonb_build_object('name', NEW.name, 'email', NEW.email), NEW.id::text);
	RETURN NULL;
END
$$;
CREATE TRIGGER outbox AFTER INSERT ON queueing.bare FOR EACH ROW EXECUTE FUNCTION queueing.to_bare();
CREATE TRIGGER outbox AFTER INSERT ON queueing.pending FOR EACH ROW EXECUTE FUNCTION queueing.to_pending();
CREATE TRIGGER outbox AFTER INSERT ON queueing.equal FOR EACH ROW EXECUTE FUNCTION queueing.to_equal();
CREATE TRIGGER call AFTER INSERT ON queueing.ours FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone', 'name', 'email');

ALTER SYSTEM SET kridtech.max_queued_per_transaction = 0;
SELECT pg_reload_conf();
SELECT pg_sleep(0.5);
