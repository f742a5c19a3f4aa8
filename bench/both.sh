# Sourced by bench/run: both workers in one server, doing nothing, and doing all at once.
# shellcheck shell=bash disable=SC2034

# idle_figures PID: CPU time in nanoseconds and the times it went to sleep.
idle_figures()
{
	local cpu sleeps
	read -r cpu _ <"/proc/$1/schedstat"
	sleeps=$(awk '/^voluntary_ctxt_switches/ { print $2 }' "/proc/$1/status")
	printf '%s %s\n' "$cpu" "$sleeps"
}

# Waits until what went before has been counted: processes report their transactions when they come to rest.
settle()
{
	local before now
	now=$(psql_do "SELECT sum(xact_commit) FROM pg_stat_database")
	before=0
	while [ $((now - before)) -gt 100 ]; do
		sleep 12 # twice the receiver's longest rest
		before=$now
		now=$(psql_do "SELECT sum(xact_commit) FROM pg_stat_database")
	done
}

# Each worker's CPU and wake-ups in 20 s in which nothing happens; and the transactions and statements of all of them.
bench_idle()
{
	local seconds=20 pid type before statements
	local -A began=()
	prepare_receiving
	receiver_serves http
	psql_do "SELECT pid, replace(backend_type, 'kridtech ', '') FROM pg_stat_activity WHERE backend_type LIKE 'kridtech %'" |
		tr '|' ' ' >"$W/workers"
	settle
	statements=$(psql_do "SELECT sum(xact_commit) FROM pg_stat_database")
	while read -r pid type; do
		began[$pid]=$(idle_figures "$pid")
	done <"$W/workers"
	sleep "$seconds" # what is measured is time
	while read -r pid type; do
		read -r -a before <<<"${began[$pid]}"
		idle_figures "$pid" | awk -v cpu="${before[0]}" -v sleeps="${before[1]}" -v s="$seconds" \
			'{ printf "%.3f %% of a core, %.1f wake-ups/s\n", ($1 - cpu) / s / 1e7, ($2 - sleeps) / s }' >"$W/idle"
		row "an idle $type" "$(<"$W/idle")" '' ''
	done <"$W/workers"
	# Less this session's own.
	row 'all idle workers' "$(psql_do "SELECT sum(xact_commit) - $statements - 1 FROM pg_stat_database" |
		awk -v s="$seconds" '{ printf "%.1f transactions/s", $1 / s }')" '' ''
	idle_statements "$seconds"
}

# Counted after the rest is measured, since counting costs. Only plans made while it is on are counted, hence new workers.
idle_statements()
{
	local seconds=$1 dialer before
	if ! counts_statements; then
		row '' '' 'their statements: pg_stat_statements: not installed' ''
		return
	fi
	create_extension pg_stat_statements
	[ "$PG_MAJOR" -lt 14 ] || setting compute_query_id on
	setting pg_stat_statements.track all
	dialer=$(worker_pid dialer)
	psql_do "SELECT kridtech_restart_workers()" >/dev/null
	until [ -n "$(worker_pid dialer)" ] && [ "$(worker_pid dialer)" != "$dialer" ]; do
		sleep 0.1
	done
	receiver_serves http
	settle
	before=$(psql_do "$WORKERS_STATEMENTS")
	sleep "$seconds" # what is measured is time
	row '' "$(psql_do "$WORKERS_STATEMENTS" | awk -v before="$before" -v s="$seconds" \
		'{ printf "%.1f statements/s", ($1 - before) / s }')" '' ''
	setting pg_stat_statements.track none
	[ "$PG_MAJOR" -lt 14 ] || setting compute_query_id off
}

# The question itself apart.
WORKERS_STATEMENTS="SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'"

# Webhooks at an even rate while the dialer works through a queue.
bench_mixed()
{
	local n=${CALLS_TO_DRAIN:-20000} rate=1000 ours load i
	prepare_receiving
	ours=http://127.0.0.1:$RECEIVING_PORT/webhook
	receiver_serves http
	setting kridtech.max_concurrent_requests 256
	OURS=() THEIRS=()
	for ((i = 0; i < (ROUNDS < 3 ? ROUNDS : 3); i++)); do
		clear_events
		queue_behind_pause "$n" 0
		timed THEIRS drain "$n"
		queue_behind_pause "$n" 0
		load_round mixed kridtech "$((rate * 10))" "$ours" --connections 16 --rate "$rate" &
		load=$!
		timed OURS drain "$n"
		wait "$load"
	done
	must_not_fail mixed
	compare 'dialling beside 1,000 webhooks/s' "$n" 'dialer' 'without webhooks'
	row 'webhooks meanwhile' "$(latency_of mixed)" '' ''
}
