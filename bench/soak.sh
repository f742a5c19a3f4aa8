# Sourced by bench/run: the dialer's memory over hours, under a steady load.
# shellcheck shell=bash disable=SC2034

# Keeps 10,000 requests queued and 1,000 on the network for SOAK seconds; prints the least and the most memory of the
# dialer's own in each tenth of the time, so that growth shows as a rising line.
bench_soak()
{
	local seconds=${SOAK:-3600} began now pid placed tenth=0 kb least=0 most=0
	setting kridtech.max_concurrent_requests 1000
	simulator_setting '{"latency": 2000}'
	psql_do "SELECT count(kridtech_queue_call('+4930' || 1000000 + i, '{\"name\": \"Ann\"}')) FROM generate_series(1, 11000) i" >/dev/null
	until [ "$(stat_of in_flight)" -ge 1000 ]; do
		sleep 0.1
	done
	pid=$(worker_pid dialer)
	placed=$(stat_of placed)
	began=$SECONDS
	while now=$((SECONDS - began)) && [ "$now" -lt "$seconds" ]; do
		top_up
		kb=$(own_kb "$pid") || fail 'the dialer has ended'
		if [ $((now * 10 / seconds)) -ne "$tenth" ]; then
			soak_row "$tenth" "$least" "$most"
			tenth=$((now * 10 / seconds)) least=0 most=0
		fi
		[ "$least" -ne 0 ] && [ "$least" -le "$kb" ] || least=$kb
		[ "$most" -ge "$kb" ] || most=$kb
		sleep 1 # what is watched is time
	done
	soak_row "$tenth" "$least" "$most"
	row "memory over $seconds s" "$(($(stat_of placed) - placed)) requests placed" '' ''
	simulator_setting '{"latency": 0}'
}

soak_row()
{
	row "memory of the dialer, tenth $(($1 + 1))" "$2 to $3 kB of its own" '10,000 requests queued, 1,000 in flight' ''
}

# What is missing of 10,000 queued requests.
top_up()
{
	psql_do "SELECT count(kridtech_queue_call('+4930' || 1000000 + i, '{\"name\": \"Ann\"}'))
		FROM generate_series(1, 10000 - (SELECT count(*) FROM kridtech.call_requests WHERE state = 'queued')) i" >/dev/null
}
