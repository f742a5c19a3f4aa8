-- Queues one call at a time on an idle queue and notes the time just before each COMMIT.
CREATE OR REPLACE PROCEDURE pg_temp.queue_lone_calls(n integer) LANGUAGE plpgsql AS $$
DECLARE
	t timestamptz;
	request bigint;
BEGIN
	FOR i IN 1..n LOOP
		request := kridtech_queue_call('+4940' || 1000000 + i);
		t := clock_timestamp();
		COMMIT;
		INSERT INTO lone VALUES ('+4940' || 1000000 + i, t);
		COMMIT;
		WHILE (SELECT state FROM kridtech.call_requests WHERE id = request) <> 'placed' LOOP
			COMMIT;
			PERFORM pg_sleep(0.005);
		END LOOP;
	END LOOP;
END $$;
CALL pg_temp.queue_lone_calls(:n);
