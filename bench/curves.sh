# Sourced by bench/run: how the rates change with what they depend on. Not among the benchmarks that run
# without being named: bench/run curve_drain curve_claim curve_receive. Each cell is one run.
# shellcheck shell=bash disable=SC2034

# cells FIRST REST...: a row of a table as wide as it has to be.
cells()
{
	printf '| %-24s |' "$1"
	shift
	printf ' %9s |' "$@"
	printf '\n'
}

# The line below a table's head.
rule()
{
	printf '| --- |'
	printf ' ---: |%.0s' $(seq "$1")
	printf '\n'
}

# How many requests the dialer places in a second, by how many it may have on the network and by how long the
# API takes for each.
bench_curve_drain()
{
	local latency concurrent n row took
	local -a concurrencies=(1 4 16 64 256)
	cells 'placed/s at' "${concurrencies[@]}"
	rule ${#concurrencies[@]}
	for latency in 0 10 100; do
		simulator_setting "{\"latency\": $latency}"
		row=()
		for concurrent in "${concurrencies[@]}"; do
			# About five seconds' worth where the latency decides.
			n=10000
			if [ "$latency" -gt 0 ] && [ $((concurrent * 5000 / latency)) -lt "$n" ]; then
				n=$((concurrent * 5000 / latency))
			fi
			setting kridtech.max_concurrent_requests "$concurrent"
			queue_behind_pause "$n" 0
			took=()
			timed took drain "$n"
			row+=("$(awk -v n="$n" -v us="${took[0]}" 'BEGIN { printf "%.0f", n * 1e6 / us }')")
		done
		cells "$latency ms" "${row[@]}"
	done
	simulator_setting '{"latency": 0}'
}

# What a request costs by how many finished ones lie in the table, while a transaction elsewhere keeps their
# old versions from being cleaned up.
bench_curve_claim()
{
	local n=10000 size took row=()
	local -a sizes=(0 10000 100000 1000000)
	setting kridtech.max_concurrent_requests 256
	cells 'finished requests' "${sizes[@]}"
	rule ${#sizes[@]}
	for size in "${sizes[@]}"; do
		psql_do "TRUNCATE kridtech.call_requests, kridtech.call_attempts"
		psql_do "INSERT INTO kridtech.call_requests (to_number, state, call_id, finished_at)
			SELECT '+14155550123', 'placed', 'old_' || i, now() FROM generate_series(1, $size) i"
		psql_do "VACUUM (ANALYZE) kridtech.call_requests"
		psql_do 'CHECKPOINT'
		open_transaction
		queue_behind_pause "$n" 0
		took=()
		timed took drain "$n"
		close_transaction
		row+=("$(awk -v n="$n" -v us="${took[0]}" 'BEGIN { printf "%.0f us", us / n }')")
	done
	cells 'us a request' "${row[@]}"
}

# How many webhooks the receiver stores in a second, by connections and by the size of a body.
bench_curve_receive()
{
	local size connections n row url
	local -a many=(1 4 16 64 256)
	prepare_receiving
	url=http://127.0.0.1:$RECEIVING_PORT/webhook
	receiver_serves http
	cells 'stored/s at connections' "${many[@]}"
	rule ${#many[@]}
	for size in 1000 2400 16000 256000; do
		row=()
		for connections in "${many[@]}"; do
			n=$((size < 10000 ? 20000 : 100000000 / size))
			[ "$connections" -gt 1 ] || n=$((n / 4))
			clear_events
			rm -f "$W/figures.curve" "$W/figures.curve.err"
			load_round curve kridtech "$n" "$url" --connections "$connections" --size "$size"
			must_not_fail curve
			row+=("$(figure curve rate)")
		done
		cells "$size bytes" "${row[@]}"
	done
}
