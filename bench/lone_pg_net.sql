-- The same as lone.sql by pg_net: one request at a time, when its worker is at rest. (After a batch it does not look at
-- its queue for a second.)
CREATE OR REPLACE PROCEDURE pg_temp.post_lone_calls(n integer, url text) LANGUAGE plpgsql AS $$
DECLARE
	t timestamptz;
	request bigint;
BEGIN
	FOR i IN 1..n LOOP
		WHILE EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'pg_net%' AND state IS DISTINCT FROM 'idle') LOOP
			COMMIT;
			PERFORM pg_sleep(0.02);
		END LOOP;
		request := net.http_post(url, jsonb_build_object('accountId', 'acct-1', 'toNumber', '+4950' || 1000000 + i),
			headers => '{"x-api-key": "sim-key", "Content-Type": "application/json"}');
		t := clock_timestamp();
		COMMIT;
		INSERT INTO lone VALUES ('+4950' || 1000000 + i, t);
		COMMIT;
		WHILE NOT EXISTS (SELECT FROM net._http_response r WHERE r.id = request) LOOP
			COMMIT;
			PERFORM pg_sleep(0.02);
		END LOOP;
	END LOOP;
END $$;
CALL pg_temp.post_lone_calls(:n, :'url');
