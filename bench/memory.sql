-- One backend's memory of its own (shared buffers not counted) while it makes many calls: flat after the first thousands.
-- Each batch is a transaction of its own, as an application's calls are.
CREATE TEMP TABLE rss (calls integer, kb integer);
CREATE FUNCTION pg_temp.rss_kb() RETURNS integer LANGUAGE sql AS
	$$ SELECT (regexp_match(pg_read_file('/proc/self/status'), 'RssAnon:\s+(\d+)'))[1]::integer $$;
CREATE PROCEDURE pg_temp.make_calls(n integer) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		PERFORM kridtech_create_call('+14155550123', '{"name": "Ann"}');
		IF i % 1000 = 0 THEN
			COMMIT;
		END IF;
		IF i % (n / 10) = 0 THEN
			INSERT INTO rss VALUES (i, pg_temp.rss_kb());
		END IF;
	END LOOP;
END $$;
CALL pg_temp.make_calls(:n);
SELECT format('%s kB after %s calls, %s kB after %s', a.kb, a.calls, b.kb, b.calls)
FROM rss a, rss b
WHERE a.calls = (SELECT min(calls) FROM rss) AND b.calls = (SELECT max(calls) FROM rss);
