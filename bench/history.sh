# Sourced by bench/run: what analytics ask of kridtech.call_history, on ROWS calls (1,000,000) of a year with
# transcripts of 2 kB. ROWS=10000000 takes some 40 GB and an hour.
# shellcheck shell=bash

# A database of its own: the dialer has no business with a year's calls.
history_psql()
{
	as_server "$PG_BIN/psql" -qXAt -v ON_ERROR_STOP=1 -d history -c "$1"
}

# Three calls a lead; a call in ten has no webhook. The transcripts are random words, and compress like
# them.
load_history()
{
	local rows=$1 from
	psql_do 'CREATE DATABASE history'
	history_psql "CREATE EXTENSION kridtech;
		CREATE TABLE leads (id bigint PRIMARY KEY, name text, phone text);
		CREATE TABLE words AS SELECT id, left(string_agg(substr(md5((random() * 3000)::int::text), 1, 2 + n % 7), ' '), 2000) AS text
			FROM generate_series(0, 1999) AS id, generate_series(1, 350) AS n GROUP BY id;
		CREATE UNIQUE INDEX ON words (id);
		INSERT INTO leads SELECT n, 'lead ' || n, '+49' || 3000000000 + n FROM generate_series(0, $rows / 3) AS n"
	for ((from = 0; from < rows; from += 100000)); do
		history_psql "SET session_replication_role = replica;
			CREATE TEMP TABLE n AS SELECT n, timestamptz '2025-01-01' + interval '365 days' * n / $rows AS at
				FROM generate_series($from, least($from + 100000, $rows) - 1) AS n;
			INSERT INTO kridtech.call_requests (account_id, to_number, dynamic_variables, reference, state, attempts, call_id,
				call_status, http_status, created_at, finished_at) SELECT 'acct-1', '+49' || 3000000000 + n % ($rows / 3),
				'{\"first_name\": \"James\"}', n % ($rows / 3), 'placed', 1, 'call_' || n, 'registered', 200, at, at FROM n;
			INSERT INTO kridtech.calls SELECT 'call_' || n, 'acct-1', 'outbound', '+49' || 3000000000 + n % ($rows / 3),
				CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'completed' END, n % 200, n % 70, at, 'James', at FROM n;
			INSERT INTO kridtech.webhook_events (call_id, status, duration_ms, transcript, variables, raw, request_id, verified_by,
				received_at) SELECT 'call_' || n, 'completed', n % 200 * 1000, t, '{\"first_name\": \"James\"}', convert_to(t, 'UTF8'),
				n + 1, 'request', at FROM (SELECT n.*, words.text AS t FROM n JOIN words ON words.id = n % 2000
				WHERE n % 10 <> 0) AS x"
	done
	history_psql 'CREATE INDEX ON kridtech.call_requests (reference, id); CREATE INDEX ON kridtech.call_requests (to_number, id)'
	history_psql 'VACUUM ANALYZE'
}

# measure NAME TIMES SCRIPT: the mean of so many runs with random keys, by pgbench.
measure()
{
	local name=$1 times=$2
	printf '%s\n' "$3" >"$W/history.sql"
	as_server "$PG_BIN/pgbench" -n -M prepared -D rows="$ROWS" -t "$times" -f "$W/history.sql" history >"$W/bench.out" 2>&1 ||
		{ cat "$W/bench.out" >&2; fail "$name failed"; }
	awk -v name="$name" '/^latency average/ { printf "%-28s %.2f ms\n", name, $4 }' "$W/bench.out"
}

bench_history()
{
	local ROWS=${ROWS:-1000000} began=$SECONDS size
	load_history "$ROWS"
	size=$(history_psql 'SELECT pg_size_pretty(pg_database_size(current_database()))')
	say "history: $ROWS calls, $size, loaded in $((SECONDS - began)) s"
	measure 'a call by call_id' 2000 '\set n random(0, :rows - 1)
		SELECT * FROM kridtech.call_history WHERE call_id = concat('"'call_'"', :n::int);'
	measure 'a call by request_id' 2000 '\set n random(1, :rows)
		SELECT * FROM kridtech.call_history WHERE request_id = :n;'
	measure 'calls by reference' 2000 '\set n random(0, :rows / 3 - 1)
		SELECT * FROM kridtech.call_history WHERE reference = :n::text;'
	measure 'calls by number' 2000 '\set n random(0, :rows / 3 - 1)
		SELECT * FROM kridtech.call_history WHERE to_number = concat('"'+49'"', 3000000000 + :n);'
	measure 'last call of 100 leads' 200 '\set n random(0, :rows / 3 - 101)
		SELECT l.id, l.name, h.state, h.call_status, h.created_at FROM (SELECT * FROM leads WHERE id >= :n ORDER BY id LIMIT 100) AS l
		LEFT JOIN LATERAL (SELECT * FROM kridtech.call_history AS c WHERE c.reference = l.id::text ORDER BY c.request_id DESC LIMIT 1) AS h ON true;'
	measure 'totals of a day by status' 200 '\set n random(0, 364)
		SELECT c.call_status, count(*), sum(c.duration), sum(c.cost) FROM kridtech.calls AS c
		WHERE c.created_at >= timestamptz '"'2025-01-01'"' + :n * interval '"'1 day'"' AND c.created_at < timestamptz '"'2025-01-02'"' + :n * interval '"'1 day'"' GROUP BY 1;'
	measure 'missing webhooks of a day' 50 '\set n random(0, 364)
		SELECT count(*) FROM kridtech.missing_webhooks AS m
		WHERE m.created_at >= timestamptz '"'2025-01-01'"' + :n * interval '"'1 day'"' AND m.created_at < timestamptz '"'2025-01-02'"' + :n * interval '"'1 day'"';'
	measure 'a list that says nothing new' 50 'SELECT kridtech_sync_calls();'
}
