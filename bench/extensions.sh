# Sourced by bench/run: the extensions with which people make HTTP requests from SQL, pg_net and pgsql-http, where the
# server that is measured has them. To get their rows: install them, run bench/run. Nothing else is changed by them.
# shellcheck shell=bash disable=SC2034

# Its version, or nothing where the server that is measured does not have it.
extension_version()
{
	psql_do "SELECT default_version FROM pg_available_extensions WHERE name = '$1'"
}

create_extension()
{
	psql_do "SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS $1"
}

not_installed()
{
	row "$1" '' "$2: not installed" ''
}

# For shared_preload_libraries: what a row needs that is to be measured, where the server has it. pg_net works by a worker.
preloaded()
{
	printf 'kridtech'
	if wanted pg_net first_byte && on_disk pg_net; then
		printf ',pg_net'
	fi
	if counts_statements; then
		printf ',pg_stat_statements'
	fi
}

# Lines for the server's configuration: nothing is counted before idle_statements() says so.
counting_settings()
{
	if counts_statements; then
		echo "pg_stat_statements.track = 'none'"
		[ "$PG_MAJOR" -lt 14 ] || echo 'compute_query_id = off'
	fi
}

counts_statements()
{
	wanted idle && on_disk pg_stat_statements
}

# Is one of the rows to be measured?
wanted()
{
	local name
	for name; do
		[[ " ${BENCHES[*]} " != *" $name "* ]] || return 0
	done
	return 1
}

on_disk()
{
	[[ -e $("$PG_CONFIG" --pkglibdir)/$1.so && -e $("$PG_CONFIG" --sharedir)/extension/$1.control ]]
}

# ---- pgsql-http: a request in the caller's backend -------------------------------------------------------------

# The same call by pgsql-http, whose connection is kept between requests. It records nothing, and what a lost answer or
# an error in its JSON means is the caller's to find out.
create_calls_by_http()
{
	psql_do "SELECT http_set_curlopt('CURLOPT_TCP_KEEPALIVE', '1');
		DO \$\$ BEGIN
			FOR i IN 1..$1 LOOP
				IF (http(('POST', '$URL/api/create-call', ARRAY[http_header('x-api-key', 'sim-key')], 'application/json',
					'{\"accountId\":\"acct-1\",\"toNumber\":\"+14155550123\",\"dynamicVariables\":{\"name\": \"Ann\"}}'))).status <> 200 THEN
					RAISE 'no call';
				END IF;
			END LOOP;
		END \$\$"
}

# ---- pg_net: requests queued in a table, sent by a worker ------------------------------------------------------

# queue_and_answer PREFIX QUEUE WAIT: two statements in one session: how long each took, in microseconds, is added to
# the arrays PREFIX_QUEUED and PREFIX_ANSWERED. The second waits for all answers, from the first one's COMMIT on.
queue_and_answer()
{
	local now="SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint" times
	local -n queued=$1_QUEUED answered=$1_ANSWERED
	as_server "$PG_BIN/psql" -qXAt -v ON_ERROR_STOP=1 -c "$now" -c "DO \$\$ BEGIN $2 END \$\$" -c "$now" \
		-c "DO \$\$ BEGIN $3 END \$\$" -c "$now" >"$W/bench.times" || fail "a measured statement failed: $2"
	mapfile -t times <"$W/bench.times"
	queued+=($((times[1] - times[0])))
	answered+=($((times[2] - times[1])))
}

# What has arrived at the API since it was reset, of so many numbers: "all once", or what is missing and what came again.
arrived()
{
	curl -sS "$URL/sim/ledger" >"$W/ledger.json"
	psql_do "SELECT CASE WHEN count(*) = $1 AND sum(k) = $1 THEN 'each arrived once'
			ELSE format('%s never arrived, %s arrived again', $1 - count(*), sum(k) - count(*)) END
		FROM (SELECT count(*) AS k FROM jsonb_array_elements(pg_read_file('$W/ledger.json')::jsonb) e
			WHERE e ->> 'endpoint' = 'create-call' GROUP BY e ->> 'toNumber') n"
}

dialer_round()
{
	local n=$1 target found
	target=$(($(stat_of placed) + n))
	curl -sS -o /dev/null -X POST "$URL/sim/reset"
	queue_and_answer DIALER \
		"PERFORM kridtech_queue_call('+4930' || 1000000 + i, '{\"name\": \"Ann\"}') FROM generate_series(1, $n) i;" \
		"WHILE (SELECT value < $target FROM kridtech.stats WHERE name = 'placed') LOOP PERFORM pg_sleep(0.01); END LOOP;"
	found=$(arrived "$n")
	[ "$found" = 'each arrived once' ] || fail "the dialer: $found"
}

# Neither dead rows nor idle connections of an earlier row weigh on it.
fresh_pg_net()
{
	local pid
	pid=$(pg_net_pid)
	psql_do "TRUNCATE net.http_request_queue, net._http_response; SELECT net.worker_restart()" >/dev/null
	until [ -n "$(pg_net_pid)" ] && [ "$(pg_net_pid)" != "$pid" ]; do
		sleep 0.1
	done
}

# Once it is at rest.
pg_net_pid()
{
	psql_do "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'pg_net%' AND state = 'idle'"
}

# pg_net_round PREFIX COUNT BATCH-SIZE: its answers are visible when its queue is seen empty. Adds to PREFIX_FATES.
pg_net_round()
{
	local n=$2
	local -n fates=$1_FATES
	setting pg_net.batch_size "$3"
	fresh_pg_net
	curl -sS -o /dev/null -X POST "$URL/sim/reset"
	queue_and_answer "$1" \
		"PERFORM net.http_post('$URL/api/create-call', jsonb_build_object('accountId', 'acct-1', 'toNumber', '+4930' || 1000000 + i,
			'dynamicVariables', '{\"name\": \"Ann\"}'::jsonb), headers => '{\"x-api-key\": \"sim-key\", \"Content-Type\": \"application/json\"}',
			timeout_milliseconds => 60000) FROM generate_series(1, $n) i;" \
		"WHILE EXISTS (SELECT FROM net.http_request_queue) LOOP PERFORM pg_sleep(0.01); END LOOP;"
	fates+=("$(psql_do "SELECT count(*) FROM net._http_response WHERE status_code = 200") answered 200, $(arrived "$n")")
}

# Each fate that came up, once.
fates()
{
	printf '%s\n' "$@" | sort -u | paste -sd ';' | sed 's/;/; /g'
}

# Queueing and draining, against pg_net: with as many requests at a time, and with the batch that suits it best, which is
# all of them at once, a connection each, as far as descriptors go. (It takes a batch, sends it, records the answers, all
# in one transaction, rests for a second, takes the next.) Its tables are unlogged: a crash empties them.
bench_pg_net()
{
	local n=${CALLS_TO_POST:-10000} batch version i
	local -a DIALER_QUEUED=() DIALER_ANSWERED=()
	local -a EQUAL_QUEUED=() EQUAL_ANSWERED=() EQUAL_FATES=() BEST_QUEUED=() BEST_ANSWERED=() BEST_FATES=()
	version=$(extension_version pg_net)
	if [ -z "$version" ]; then
		not_installed "queueing and draining $n" pg_net
		return
	fi
	batch=$((n < $(ulimit -n) / 2 ? n : $(ulimit -n) / 2))
	create_extension pg_net
	setting kridtech.max_concurrent_requests 256
	for ((i = 0; i < (ROUNDS < 3 ? ROUNDS : 3); i++)); do
		dialer_round "$n"
		pg_net_round EQUAL "$n" 256
		pg_net_round BEST "$n" "$batch"
	done
	OURS=("${DIALER_QUEUED[@]}") THEIRS=("${BEST_QUEUED[@]}")
	compare "queueing $n, one statement" "$n" 'kridtech_queue_call(), durable,' "pg_net $version, net.http_post(), not durable,"
	OURS=("${DIALER_ANSWERED[@]}") THEIRS=("${EQUAL_ANSWERED[@]}")
	compare 'until all are answered' "$n" 'dialer, 256 at a time,' "pg_net, batch_size 256,"
	THEIRS=("${BEST_ANSWERED[@]}")
	compare '' "$n" '' "pg_net, batch_size $batch,"
	row "what became of $n calls" 'each arrived once' "pg_net, 256: $(fates "${EQUAL_FATES[@]}")" ''
	row '' '' "pg_net, $batch: $(fates "${BEST_FATES[@]}")" ''
}
