# Sourced by bench/run (which reads OURS and THEIRS): a bulk load into a table whose trigger queues a call for every row.
# shellcheck shell=bash disable=SC2034

QUEUEING_TABLES=(plain bare pending equal ours)

queueing_round()
{
	local table rows=$1
	psql_do "TRUNCATE kridtech.call_requests, queueing.outbox_bare, queueing.outbox_pending, queueing.outbox_equal"
	for table in "${QUEUEING_TABLES[@]}"; do
		psql_do "TRUNCATE queueing.$table"
		timed "QUEUEING_$table" psql_do "INSERT INTO queueing.$table (name, phone, email)
			SELECT 'Ann ' || i, '+1415555' || 1000 + i % 9000, 'x' || i || '@example.com' FROM generate_series(1, $rows) i"
	done
}

bench_queueing()
{
	local n=${ROWS:-100000} i table
	local -a QUEUEING_plain=() QUEUEING_bare=() QUEUEING_pending=() QUEUEING_equal=() QUEUEING_ours=()
	as_server "$PG_BIN/psql" -qXAt -v ON_ERROR_STOP=1 -f "$W/src/bench/queueing.sql" >/dev/null
	for ((i = 0; i < ROUNDS; i++)); do
		queueing_round "$n"
	done
	# no other row is to dial them
	psql_do "TRUNCATE kridtech.call_requests"
	until [ "$(psql_do "SELECT value::int FROM kridtech.stats WHERE name = 'in_flight'")" = 0 ]; do
		sleep 0.1
	done
	OURS=("${QUEUEING_ours[@]}")
	for table in plain bare pending equal; do
		local -n theirs=QUEUEING_$table
		THEIRS=("${theirs[@]}")
		compare "rows with a call, $table" "$n" 'trigger' "$table"
	done
}
