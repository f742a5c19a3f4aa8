# Sourced by bench/run: what the dialer does with a queue, on a durable server (fsync is on).
# shellcheck shell=bash disable=SC2034

# Queues so many requests behind a pause, so that what is measured is the dialling alone.
queue_behind_pause()
{
	psql_do "SELECT kridtech_pause(reason => 'benchmark')" >/dev/null
	psql_do "SELECT count(kridtech_queue_call('+4930' || 1000000 + i, '{\"name\": \"Ann\"}', priority => $2)) FROM generate_series(1, $1) i" >/dev/null
}

# Lets them go and waits until the dialer has recorded all of them; in one session, so that the waiting takes no
# processor time from it.
drain()
{
	local target=$(($(stat_of placed) + $1))
	as_server "$PG_BIN/psql" -qXAt -v ON_ERROR_STOP=1 -c "SELECT kridtech_resume()" -c "DO \$\$ BEGIN
		WHILE (SELECT value < $target FROM kridtech.stats WHERE name = 'placed') LOOP
			PERFORM pg_sleep(0.003);
		END LOOP;
	END \$\$"
}

stat_of()
{
	psql_do "SELECT value::bigint FROM kridtech.stats WHERE name = '$1'"
}

setting()
{
	psql_do "ALTER SYSTEM SET $1 = '$2'"
	psql_do "SELECT pg_reload_conf()" >/dev/null
}

simulator_setting()
{
	curl -sS -o /dev/null -X POST "$URL/sim/settings" -d "$1"
}

# Against a bare libcurl multi loop that posts the same calls over as many connections and records nothing.
bench_drain()
{
	local n=${CALLS_TO_DRAIN:-40000}
	drain_beside_multi "draining $n requests" "$n" "$URL"
}

# The same over TLS, against the same over TLS.
bench_drain_tls()
{
	setting kridtech.ca_file "$W/tls.crt"
	setting kridtech.base_url "$TLS_URL"
	drain_beside_multi 'draining over TLS' "${CALLS_TO_DRAIN:-20000}" "$TLS_URL" "$W/tls.crt"
	setting kridtech.base_url "$URL"
}

# drain_beside_multi NAME COUNT URL [CA_FILE]
drain_beside_multi()
{
	local name=$1 n=$2 url=$3 concurrent=256 i
	shift 3
	gcc -O2 -o "$W/multi" "$W/src/bench/multi.c" -lcurl
	setting kridtech.max_concurrent_requests "$concurrent"
	OURS=() THEIRS=()
	for ((i = 0; i < ROUNDS; i++)); do
		queue_behind_pause "$n" 0
		timed OURS drain "$n"
		timed THEIRS "$W/multi" "$url/api/create-call" "$n" "$concurrent" "$@"
	done
	compare "$name" "$n" 'dialer' 'bare libcurl loop'
}

# Against what 256 requests at a time can do when each takes 100 ms (Little's law).
bench_latency_bound()
{
	local n=10000 i
	setting kridtech.max_concurrent_requests 256
	simulator_setting '{"latency": 100}'
	OURS=() THEIRS=()
	for ((i = 0; i < 3; i++)); do
		queue_behind_pause "$n" 0
		timed OURS drain "$n"
		THEIRS+=($((n * 100000 / 256)))
	done
	simulator_setting '{"latency": 0}'
	compare 'draining at 100 ms' "$n" 'dialer' "Little's law"
}

# From just before COMMIT to the request's arrival at the API, one at a time on an idle queue; and pg_net's.
bench_first_byte()
{
	local version ours theirs='pg_net: not installed'
	version=$(extension_version pg_net)
	lone_calls lone.sql "${LONE_CALLS:-200}"
	ours=$(lone_latency)
	if [ -n "$version" ]; then
		create_extension pg_net
		fresh_pg_net
		lone_calls lone_pg_net.sql "${LONE_POSTS:-20}"
		theirs="pg_net $version at rest, $(lone_latency)"
	fi
	row 'COMMIT to first byte' "$ours" "$theirs" ''
}

# lone_calls FILE COUNT: makes them, and has the times of COMMIT in the table lone, those of arrival in arrival.
lone_calls()
{
	curl -sS -o /dev/null -X POST "$URL/sim/reset"
	psql_do "SET client_min_messages = warning; DROP TABLE IF EXISTS lone, arrival; CREATE TABLE lone (number text, at timestamptz)"
	as_server "$PG_BIN/psql" -qXAt -v ON_ERROR_STOP=1 -v n="$2" -v url="$URL/api/create-call" -f "$W/src/bench/$1"
	curl -sS "$URL/sim/ledger" >"$W/ledger.json"
	psql_do "CREATE TABLE arrival AS SELECT e ->> 'toNumber' AS number, (e ->> 'time')::timestamptz AS at
		FROM jsonb_array_elements(pg_read_file('$W/ledger.json')::jsonb) e"
}

lone_latency()
{
	psql_do "SELECT format('p50 %s ms, p99 %s ms (%s calls)',
			round(1000 * (percentile_cont(0.5) WITHIN GROUP (ORDER BY t))::numeric, 2),
			round(1000 * (percentile_cont(0.99) WITHIN GROUP (ORDER BY t))::numeric, 2), count(*))
		FROM (SELECT extract(epoch FROM a.at - l.at) AS t FROM lone l JOIN arrival a USING (number)) d"
}

# A transaction that keeps old versions of rows from being cleaned up, until close_transaction.
open_transaction()
{
	as_server "$PG_BIN/psql" -qXAt -c "BEGIN ISOLATION LEVEL REPEATABLE READ" -c "SELECT 1" -c "SELECT pg_sleep(600)" >/dev/null 2>&1 &
	HOLDER=$!
	until [ "$(psql_do "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%' AND state = 'active'")" = 1 ]; do
		sleep 0.05
	done
}

close_transaction()
{
	psql_do "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%'" >/dev/null
	wait "$HOLDER" || :
}

# The same drain with a million finished requests in the table and a transaction open elsewhere.
bench_old_table()
{
	local n=${CALLS_TO_DRAIN:-40000} i
	setting kridtech.max_concurrent_requests 256
	OURS=() THEIRS=()
	psql_do "TRUNCATE kridtech.call_requests, kridtech.call_attempts"
	for ((i = 0; i < 3; i++)); do
		queue_behind_pause "$n" 0
		timed THEIRS drain "$n"
	done
	psql_do "INSERT INTO kridtech.call_requests (to_number, state, call_id, finished_at)
		SELECT '+14155550123', 'placed', 'old_' || i, now() FROM generate_series(1, 1000000) i"
	# What such a table is like on any day but that of a mass import.
	psql_do "VACUUM (ANALYZE) kridtech.call_requests"
	psql_do "CHECKPOINT"
	open_transaction
	for ((i = 0; i < 3; i++)); do
		queue_behind_pause "$n" 0
		timed OURS drain "$n"
	done
	close_transaction
	compare "1,000,000 finished requests" "$n" 'and an open transaction' 'empty table'
}

# The dialer's memory with 10,000 requests queued and 1,000 on the network; its CPU when idle.
bench_dialer_cost()
{
	local pid before after
	setting kridtech.max_concurrent_requests 1000
	simulator_setting '{"latency": 3000}'
	queue_behind_pause 11000 0
	psql_do "SELECT kridtech_resume()" >/dev/null
	until [ "$(stat_of in_flight)" -ge 1000 ]; do
		sleep 0.02
	done
	pid=$(worker_pid dialer)
	row 'memory of the dialer' "$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status") kB of its own" \
		'10,000 requests queued, 1,000 in flight' ''
	psql_do "SELECT kridtech_pause(reason => 'benchmark')" >/dev/null
	simulator_setting '{"latency": 0}'
	until [ "$(stat_of in_flight)" -eq 0 ]; do
		sleep 0.1
	done
	psql_do "TRUNCATE kridtech.call_requests, kridtech.call_attempts; SELECT kridtech_resume()" >/dev/null
	before=$(idle_figures "$pid")
	sleep 20 # what is measured is time
	after=$(idle_figures "$pid")
	row 'CPU of an idle dialer' "$(awk -v ns=$((${after% *} - ${before% *})) 'BEGIN { printf "%.2f %% of a core", ns / 20 / 1e7 }')" '' ''
}
