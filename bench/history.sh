# Sourced by bench/run: what analytics ask of kridtech.call_history, on ROWS calls (1,000,000) of a year with
# transcripts of 2 kB.
#
# The figures are of reading. So the rows are loaded in the quickest way there is: into unlogged tables, by two
# sessions, without indexes, which are built afterwards exactly as the extension has them. ROWS=10000000 takes
# 56 GB; the space is looked for first.
# shellcheck shell=bash

HISTORY_TABLES='kridtech.call_requests kridtech.calls kridtech.webhook_events'

# Bytes on disk for a call, as measured, and a tenth more.
HISTORY_CALL_BYTES=6200

# Calls that a session loads in one transaction.
HISTORY_CHUNK=50000

# A database of its own: the dialer has no business with a year's calls.
history_psql()
{
	as_server "$PG_BIN/psql" -qXAt -v ON_ERROR_STOP=1 -d history "$@"
}

# A disk that fills up in the middle would take other work on the machine with it.
check_history_space()
{
	local rows=$1 free need
	free=$(df --output=avail -B1 "$W" | tail -n 1)
	need=$((rows * HISTORY_CALL_BYTES + (2 << 30)))
	[ "$free" -ge "$need" ] ||
		fail "history: $rows calls take $((need >> 30)) GB below $W, and $((free >> 30)) GB are free: set ROWS lower, or TMPDIR to another disk"
}

# A command for each of the tables, which stand where @ does.
history_tables()
{
	local table
	for table in $HISTORY_TABLES; do
		printf '%s;\n' "${1//@/$table}"
	done
}

# The tables, without indexes; and what to load them from. Nothing is flushed or vacuumed before all is there.
prepare_history()
{
	local rows=$1
	psql_do 'CREATE DATABASE history'
	psql_do 'ALTER SYSTEM SET fsync = off'
	psql_do 'SELECT pg_reload_conf()' >/dev/null
	history_psql <<-SQL
		CREATE EXTENSION kridtech;
		$(history_tables 'ALTER TABLE @ SET UNLOGGED')
		$(history_tables 'ALTER TABLE @ SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)')
		CREATE UNLOGGED TABLE leads AS SELECT n AS id, 'lead ' || n AS name, '+49' || 3000000000 + n AS phone
			FROM generate_series(0, $rows::bigint / 3) AS n;
		ALTER TABLE leads ADD PRIMARY KEY (id);
		$(history_words 2000)
		CREATE VIEW indexes AS SELECT i.indrelid::regclass AS of, i.indexrelid::regclass::text AS name, c.conname,
				pg_get_indexdef(i.indexrelid) AS definition, pg_get_constraintdef(c.oid) AS key
			FROM pg_index AS i LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid
			WHERE i.indrelid IN (SELECT unnest(string_to_array('$HISTORY_TABLES', ' '))::regclass);
		CREATE TABLE indexes_before AS SELECT * FROM indexes;
		SELECT CASE WHEN key IS NULL THEN 'DROP INDEX ' || name
			ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', of, conname) END FROM indexes_before
		\gexec
	SQL
}

# A table of so many transcripts, 14 turns of random words each, which compress like words. They are compressed here,
# once: what is inserted from it stays as it is.
history_words()
{
	cat <<-SQL
		CREATE TABLE words (id int PRIMARY KEY, text text, raw bytea) WITH (toast_tuple_target = 8160);
		INSERT INTO words SELECT id, text, convert_to(text, 'UTF8') FROM (
			SELECT id, left(string_agg(CASE n % 50 WHEN 0 THEN E'\nUser: ' WHEN 25 THEN E'\nAgent: ' ELSE ' ' END
				|| substr(md5((random() * 3000)::int::text), 1, 2 + n % 7), '' ORDER BY n), 2000) AS text
			FROM generate_series(1, $1) AS id, generate_series(25, 374) AS n GROUP BY id) AS t;
	SQL
}

# Every other chunk, from the first or the second on: what one of two sessions loads. Three calls a lead; a call in ten
# has no webhook.
history_share()
{
	local rows=$1 from=$(($2 * HISTORY_CHUNK)) chunk
	printf 'SET session_replication_role = replica;\n'
	for (( ; from < rows; from += 2 * HISTORY_CHUNK)); do
		chunk="(SELECT n, n % ($rows / 3) AS lead, timestamptz '2025-01-01' + interval '365 days' * (n::float8 / $rows) AS at
			FROM generate_series($from, least($from + $HISTORY_CHUNK, $rows) - 1) AS n) AS c"
		cat <<-SQL
			INSERT INTO kridtech.call_requests (id, account_id, to_number, dynamic_variables, reference, state, attempts, call_id,
				call_status, http_status, created_at, finished_at)
			SELECT n + 1, 'acct-1', '+49' || 3000000000 + lead, '{"first_name": "James"}', lead, 'placed', 1, 'call_' || n,
				'registered', 200, at, at FROM $chunk;
			INSERT INTO kridtech.calls
			SELECT 'call_' || n, 'acct-1', 'outbound', '+49' || 3000000000 + lead,
				CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'completed' END, n % 200, n % 70, at, 'James', at FROM $chunk;
			INSERT INTO kridtech.webhook_events (call_id, status, duration_ms, transcript, variables, raw, request_id, verified_by,
				received_at)
			SELECT 'call_' || n, 'completed', n % 200 * 1000, w.text, '{"first_name": "James"}', w.raw, n + 1, 'request', at
				FROM $chunk JOIN words AS w ON w.id = n % 2000 + 1 WHERE n % 10 <> 0;
		SQL
	done
}

load_history_rows()
{
	local rows=$1 session sessions=()
	for session in 0 1; do
		history_psql < <(history_share "$rows" "$session") &
		sessions+=($!)
	done
	for session in "${sessions[@]}"; do
		wait "$session" || fail 'history: the rows cannot be loaded'
	done
	history_psql -c "SELECT setval('kridtech.call_requests_id_seq', $rows)" >/dev/null
}

# The extension's indexes as they were, and those that doc/analytics.md says to create.
build_history_indexes()
{
	history_psql <<-'SQL'
		SET maintenance_work_mem = '1GB';
		SET max_parallel_maintenance_workers = 2;
		SELECT CASE WHEN key IS NULL THEN definition
			ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', of, conname, key) END FROM indexes_before
		\gexec
		CREATE INDEX ON kridtech.call_requests (reference, id);
		CREATE INDEX ON kridtech.call_requests (to_number, id);
	SQL
	[ "$(history_psql -c 'SELECT count(*) FROM (SELECT * FROM indexes_before EXCEPT SELECT * FROM indexes) AS i')" = 0 ] ||
		fail 'history: an index was not built as it was'
}

# The transcripts themselves need no vacuum: nothing of theirs was ever deleted. The restart writes out what an unlogged
# table has in shared buffers, so that no query does it.
settle_history()
{
	local options='ANALYZE'
	[ "$PG_MAJOR" -lt 14 ] || options='ANALYZE, PROCESS_TOAST false'
	history_psql < <(history_tables "VACUUM ($options) @")
	history_psql -c 'VACUUM ANALYZE leads'
	psql_do 'ALTER SYSTEM RESET fsync'
	logged "$W/restart.log" as_server "$PG_BIN/pg_ctl" -D "$W/server/data" -l "$PG_LOG" -m fast -w -t 600 restart
	sync -f "$W"
}

load_history()
{
	local rows=$1 began=$SECONDS at
	check_history_space "$rows"
	prepare_history "$rows"
	load_history_rows "$rows"
	at=$SECONDS
	build_history_indexes
	say "history: rows in $((at - began)) s, indexes in $((SECONDS - at)) s"
	settle_history
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

ask_history()
{
	measure 'a call by call_id' 2000 '\set n random(0, :rows - 1)
		SELECT * FROM kridtech.call_history WHERE call_id = concat('"'call_'"', :n::int);'
	measure 'a call by request_id' 2000 '\set n random(1, :rows)
		SELECT * FROM kridtech.call_history WHERE request_id = :n;'
	measure 'calls by reference' 2000 '\set n random(0, :rows / 3 - 1)
		SELECT created_at, state, call_status, duration_ms, cost FROM kridtech.call_history WHERE reference = :n::text;'
	measure 'calls by number' 2000 '\set n random(0, :rows / 3 - 1)
		SELECT created_at, direction, call_status, duration_ms FROM kridtech.call_history WHERE to_number = concat('"'+49'"', 3000000000 + :n);'
	measure 'the same with transcripts' 2000 '\set n random(0, :rows / 3 - 1)
		SELECT * FROM kridtech.call_history WHERE to_number = concat('"'+49'"', 3000000000 + :n);'
	measure 'last call of 100 leads' 200 '\set n random(0, :rows / 3 - 101)
		SELECT l.id, l.name, h.state, h.call_status, h.created_at FROM (SELECT * FROM leads WHERE id >= :n ORDER BY id LIMIT 100) AS l
		LEFT JOIN LATERAL (SELECT * FROM kridtech.call_history AS c WHERE c.request_id = (SELECT r.id FROM kridtech.call_requests AS r
			WHERE r.reference = l.id::text ORDER BY r.id DESC LIMIT 1) LIMIT 1) AS h ON true ORDER BY l.id;'
	measure 'totals of a day by status' 200 '\set n random(0, 364)
		SELECT c.call_status, count(*), sum(c.duration), sum(c.cost) FROM kridtech.calls AS c
		WHERE c.created_at >= timestamptz '"'2025-01-01'"' + :n * interval '"'1 day'"' AND c.created_at < timestamptz '"'2025-01-02'"' + :n * interval '"'1 day'"' GROUP BY 1;'
	measure 'missing webhooks of a day' 50 '\set n random(0, 364)
		SELECT count(*) FROM kridtech.missing_webhooks AS m
		WHERE m.created_at >= timestamptz '"'2025-01-01'"' + :n * interval '"'1 day'"' AND m.created_at < timestamptz '"'2025-01-02'"' + :n * interval '"'1 day'"';'
	measure 'a list that says nothing new' 50 'SELECT kridtech_sync_calls();'
}

bench_history()
{
	local ROWS=${ROWS:-1000000} began=$SECONDS size
	load_history "$ROWS"
	size=$(history_psql -c 'SELECT pg_size_pretty(pg_database_size(current_database()))')
	say "history: $ROWS calls, $size, loaded in $((SECONDS - began)) s"
	ask_history
	psql_do 'DROP DATABASE history'
}
