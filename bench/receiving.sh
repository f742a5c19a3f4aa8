# Sourced by bench/run: what the receiver does with webhooks of 2.4 KB for calls that this database has placed,
# on a durable server (fsync is on), against the receivers that the vendor documents, made durable, and against
# pgbench running only their INSERT. All write into tables of the same columns and indexes in the same server.
# shellcheck shell=bash disable=SC2034

CONNECTIONS=64
EXPRESS_POOL=20      # of 10, 20 and 32 the best; a second process of Node.js gains nothing on two cores
GUNICORN_WORKERS=4   # times four threads: better than its plain workers, which close each connection
GUNICORN_THREADS=4
RECEIVING_PORT=

# Lines for the server's configuration.
receiving_settings()
{
	RECEIVING_PORT=$(perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport')
	printf '%s' "$RECEIVING_PORT" >"$W/receiving.port"
	cat <<-SETTINGS
		kridtech.webhook_listen = '127.0.0.1:$RECEIVING_PORT'
		max_connections = 200
	SETTINGS
}

# ---- the alternatives ------------------------------------------------------------------------------------------

# Started once, when the first row needs them. What cannot be had is said and its rows are left out.
prepare_receiving()
{
	[ -z "${RECEIVING_PREPARED:-}" ] || return 0
	RECEIVING_PREPARED=1
	RECEIVING_PORT=$(<"$W/receiving.port")
	gcc -std=gnu11 -O2 -o "$W/load" "$W/src/bench/load/"*.c -lgnutls
	psql_do "CREATE SCHEMA alternatives"
	psql_do "CREATE TABLE alternatives.webhook_events (LIKE kridtech.webhook_events INCLUDING DEFAULTS INCLUDING INDEXES)"
	# The receiver's own sessions compress with LZ4 where the server can; so may the others.
	psql_do "ALTER SYSTEM SET default_toast_compression = 'lz4'" 2>/dev/null || :
	psql_do "SELECT pg_reload_conf()" >/dev/null
	"$W/load" --body >"$W/webhook.json"
	psql_do "INSERT INTO kridtech.call_requests (to_number, state, call_id, finished_at)
		SELECT '+14155550123', 'placed', 'call_' || lpad(i::text, 9, '0'), now() FROM generate_series(0, $((WEBHOOKS - 1))) i"
	psql_do "VACUUM ANALYZE kridtech.call_requests"
	as_owned_dir "$W/tls"
	write_key_file "$W/tls/key" <"$W/tls.key"
	write_key_file "$W/tls/cert" <"$W/tls.crt"
	as_owned_dir "$W/pgbench"
	start_express || EXPRESS=
	start_flask || FLASK=
}

# wait_line FILE PATTERN PID: the part of the first line that the sed pattern keeps.
wait_line()
{
	local i found
	for ((i = 0; i < 100; i++)); do
		found=$(sed -n "$2" "$1" 2>/dev/null | head -n 1)
		if [ -n "$found" ]; then
			printf '%s' "$found"
			return
		fi
		kill -0 "$3" 2>/dev/null || return 1
		sleep 0.1
	done
	return 1
}

start_express()
{
	local dir=$W/express port
	if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
		say 'Express + pg: not measured: there is no node or no npm'
		return 1
	fi
	mkdir "$dir"
	cp "$W/src/bench/alternatives/package.json" "$W/src/bench/alternatives/express.js" "$dir"
	if ! timeout 300 npm install --prefix "$dir" --no-audit --no-fund --cache "$dir/cache" >"$dir/npm.log" 2>&1; then
		say "Express + pg: not measured: npm install failed: $(grep -m 1 -i error "$dir/npm.log" || tail -n 1 "$dir/npm.log")"
		return 1
	fi
	(cd "$dir" && POOL=$EXPRESS_POOL exec node express.js) >"$dir/port" 2>"$dir/log" </dev/null &
	EXPRESS_PID=$!
	ON_EXIT=(stop_alternatives "${ON_EXIT[@]}")
	if ! port=$(wait_line "$dir/port" p "$EXPRESS_PID"); then
		say "Express + pg: not measured: it does not start: $(tail -n 1 "$dir/log")"
		return 1
	fi
	EXPRESS=http://127.0.0.1:$port/webhook
}

start_flask()
{
	local dir=$W/flask address
	if ! command -v gunicorn >/dev/null || ! /usr/bin/python3 -c 'import flask, psycopg2' 2>/dev/null; then
		say 'Flask + psycopg2: not measured: there is no gunicorn, Flask or psycopg2'
		return 1
	fi
	mkdir "$dir"
	cp "$W/src/bench/alternatives/flask_receiver.py" "$dir"
	(cd "$dir" && exec gunicorn --workers "$GUNICORN_WORKERS" --worker-class gthread --threads "$GUNICORN_THREADS" \
		--keep-alive 120 --backlog 4096 --bind 127.0.0.1:0 flask_receiver:app) >"$dir/out" 2>"$dir/log" </dev/null &
	FLASK_PID=$!
	ON_EXIT=(stop_alternatives "${ON_EXIT[@]}")
	if ! address=$(wait_line "$dir/log" 's/.*Listening at: \(http[^ ]*\).*/\1/p' "$FLASK_PID"); then
		say "Flask + psycopg2: not measured: it does not start: $(tail -n 1 "$dir/log")"
		return 1
	fi
	FLASK=$address/webhook
}

stop_alternatives()
{
	local pid
	for pid in ${EXPRESS_PID:-} ${FLASK_PID:-}; do
		kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
	done
	EXPRESS_PID='' FLASK_PID=''
	return 0
}

# ---- measuring -------------------------------------------------------------------------------------------------

WEBHOOKS=${WEBHOOKS:-40000}

# Empty tables, nothing left to be written of what went before.
clear_events()
{
	psql_do "TRUNCATE kridtech.webhook_events, alternatives.webhook_events"
	psql_do 'CHECKPOINT'
}

# Clock ticks of processor time that the server and the alternatives have taken, with what has ended meanwhile.
# Unlike a rate it does not depend on who else uses the machine.
ticks()
{
	local pid postmaster
	postmaster=$(head -n 1 "$W/server/data/postmaster.pid")
	for pid in "$postmaster" ${EXPRESS_PID:-} ${FLASK_PID:-}; do
		cat "/proc/$pid/stat"
		for pid in $(pgrep -P "$pid"); do
			cat "/proc/$pid/stat" 2>/dev/null || :
		done
	done | sed 's/.*) //' | awk '{ n += $12 + $13 + $14 + $15 } END { print n }'
}

# load_round NAME TABLE COUNT URL [options]: one run of the load generator, its figures put behind those of the
# other rounds of that name. All that was acknowledged must be stored.
load_round()
{
	local name=$1 table=$2 count=$3 url=$4 stored acknowledged status=0 before
	shift 4
	before=$(ticks)
	"$W/load" --requests "$count" "$@" "$url" >"$W/load.out" 2>"$W/load.err" || status=$?
	[ "$status" -lt 2 ] || { cat "$W/load.err" >&2; fail "the load generator failed: $name"; }
	note_ticks "$name" "$before" "$count"
	cat "$W/load.out" >>"$W/figures.$name"
	cat "$W/load.err" >>"$W/figures.$name.err"
	acknowledged=$(awk '{ for (i = 1; i <= NF; i++) { split($i, f, "="); v[f[1]] = f[2] } print v["requests"] - v["failed"] }' "$W/load.out")
	stored=$(psql_do "SELECT count(*) FROM $table.webhook_events")
	[ "$stored" -ge "$acknowledged" ] || fail "$name: $acknowledged webhooks were acknowledged, $stored are stored"
}

# note_ticks NAME BEFORE COUNT: processor time for one of COUNT operations.
note_ticks()
{
	awk -v ticks=$(($(ticks) - $2)) -v n="$3" -v hz="$(getconf CLK_TCK)" \
		'BEGIN { printf "cpu_us=%.0f\n", ticks / hz * 1e6 / n }' >>"$W/figures.$1"
}

# figures NAME FIELD: one a line, of all rounds.
figures()
{
	sed -n "s/.*\b$2=\([^ ]*\).*/\1/p" "$W/figures.$1"
}

figure()
{
	# shellcheck disable=SC2046
	median $(figures "$1" "$2")
}

ms()
{
	awk -v us="$1" 'BEGIN { if (us < 9950) printf "%.1f", us / 1000; else printf "%.0f", us / 1000 }'
}

latency_of()
{
	printf 'p50 %s ms, p99 %s ms' "$(ms "$(figure "$1" p50_us)")" "$(ms "$(figure "$1" p99_us)")"
}

failures_of()
{
	figures "$1" failed | awk '{ n += $1 } END { print n + 0 }'
}

# rates WHAT OURS-NAME THEIRS-NAME "ours" "theirs": one row; the ratio is of rates, the median of the rounds'.
rates()
{
	local what=$1 ours=$2 theirs=$3 failed
	failed=$(failures_of "$theirs")
	# shellcheck disable=SC2046
	row "$what" "$4 $(figure "$ours" rate)/s" \
		"$5 $(figure "$theirs" rate)/s$([ "$failed" -eq 0 ] || printf ', %s failed' "$failed")" \
		"$(median $(paste <(figures "$ours" rate) <(figures "$theirs" rate) | awk '{ printf "%.2f\n", $1 / $2 }'))"
}

# costs OURS-NAME THEIRS-NAME "theirs": a row on processor time, the load generator's not counted.
costs()
{
	# shellcheck disable=SC2046
	row '' "$(figure "$1" cpu_us) us of processor time each" "$3 $(figure "$2" cpu_us) us" \
		"$(median $(paste <(figures "$1" cpu_us) <(figures "$2" cpu_us) | awk '{ printf "%.2f\n", $1 / $2 }'))"
}

must_not_fail()
{
	[ "$(failures_of "$1")" -eq 0 ] || { sort -u "$W/figures.$1.err" >&2; fail "$1: webhooks were refused"; }
}

# pgbench_round NAME CLIENTS COUNT [options]: the INSERT alone.
pgbench_round()
{
	local name=$1 clients=$2 count=$3 before
	shift 3
	before=$(ticks)
	as_server "$PG_BIN/pgbench" -n -M prepared -c "$clients" -j "$((clients < 2 ? 1 : 2))" -t "$((count / clients))" \
		-f "$W/src/bench/alternatives/insert.sql" -D "raw=$(<"$W/webhook.json")" \
		-D "transcript=$(webhook_member transcript)" -D "variables=$(webhook_member dynamicVariables)" "$@" \
		>"$W/pgbench.out" 2>&1 || { cat "$W/pgbench.out" >&2; fail 'pgbench failed'; }
	sed -n 's/^tps = \([0-9]*\).*/rate=\1 failed=0/p' "$W/pgbench.out" >>"$W/figures.$name"
	note_ticks "$name" "$before" "$count"
}

webhook_member()
{
	psql_do "SELECT pg_read_file('$W/webhook.json')::jsonb ->> '$1'"
}

receiver_pid()
{
	worker_pid receiver
}

# Memory of a process's own. The file is read at once: it changes from one read() to the next.
own_kb()
{
	local status
	status=$(<"/proc/$1/status") || return 1
	[[ $status =~ RssAnon:[[:space:]]+([0-9]+) ]] && printf '%s' "${BASH_REMATCH[1]}"
}

# receiver_serves SCHEME: waits until it answers so.
receiver_serves()
{
	local i
	for ((i = 0; i < 300; i++)); do
		if curl -fsSk -o /dev/null "$1://127.0.0.1:$RECEIVING_PORT/healthz" 2>"$W/curl.err"; then
			return
		fi
		sleep 0.05
	done
	fail "the receiver does not serve $1: $(<"$W/curl.err")"
}

# TLS is one setting for all listeners, so plain and TLS take turns.
receiver_tls()
{
	local cert='' key=''
	[ "$1" = off ] || cert=$W/tls/cert key=$W/tls/key
	psql_do "ALTER SYSTEM SET kridtech.webhook_tls_cert_file = '$cert'"
	psql_do "ALTER SYSTEM SET kridtech.webhook_tls_key_file = '$key'"
	psql_do "SELECT pg_reload_conf()" >/dev/null
	receiver_serves "$([ "$1" = off ] && echo http || echo https)"
}

# ---- rows ------------------------------------------------------------------------------------------------------

bench_receiving()
{
	local i ours
	prepare_receiving
	ours=http://127.0.0.1:$RECEIVING_PORT/webhook
	receiver_serves http
	for ((i = 0; i < ROUNDS; i++)); do
		clear_events
		load_round receiver kridtech "$WEBHOOKS" "$ours" --connections "$CONNECTIONS"
		receiver_tls on
		clear_events
		load_round receiver_tls kridtech "$WEBHOOKS" "${ours/http/https}" --connections "$CONNECTIONS"
		receiver_tls off
		clear_events
		pgbench_round pgbench 16 "$WEBHOOKS"
		clear_events
		[ -z "$EXPRESS" ] || load_round express alternatives "$((WEBHOOKS / 2))" "$EXPRESS" --connections "$CONNECTIONS"
		clear_events
		[ -z "$FLASK" ] || load_round flask alternatives "$((WEBHOOKS / 10))" "$FLASK" --connections "$CONNECTIONS"
	done
	must_not_fail receiver
	must_not_fail receiver_tls
	[ -z "$EXPRESS" ] || rates 'webhooks, 64 connections' receiver express 'receiver' "Express 4 + pg, pool of $EXPRESS_POOL,"
	[ -z "$FLASK" ] || rates '' receiver flask '' "Flask + psycopg2, gunicorn $GUNICORN_WORKERS x $GUNICORN_THREADS,"
	rates '' receiver pgbench '' 'pgbench, only the INSERT, 16 clients,'
	row '' "$(latency_of receiver)" "$([ -z "$EXPRESS" ] || printf 'Express %s' "$(latency_of express)")" ''
	[ -z "$EXPRESS" ] || costs receiver express Express
	[ -z "$FLASK" ] || costs receiver flask Flask
	costs receiver pgbench 'pgbench, the server alone,'
	rates 'the same over TLS' receiver_tls receiver '' 'plain'
}

# One webhook at a time on an idle server, against one INSERT at a time.
bench_receiving_lone()
{
	local n=500 rate=50 i ours
	prepare_receiving
	ours=http://127.0.0.1:$RECEIVING_PORT/webhook
	receiver_serves http
	for ((i = 0; i < 3; i++)); do
		clear_events
		load_round lone kridtech "$n" "$ours" --rate "$rate"
		clear_events
		rm -f "$W/pgbench/"*
		pgbench_round lone_insert_tps 1 "$n" -R "$rate" -l --log-prefix="$W/pgbench/lone"
		# Since it was due, less how late it began.
		awk '{ print $3 - $7 }' "$W/pgbench/lone"* | sort -n | awk '{ v[NR] = $1 }
			END { printf "p50_us=%d p99_us=%d\n", v[int(NR * 0.5) + 1], v[int(NR * 0.99) + 1] }' >>"$W/figures.lone_insert"
	done
	must_not_fail lone
	row 'a lone webhook' "$(latency_of lone)" "one INSERT by pgbench $(latency_of lone_insert)" \
		"$(awk -v a="$(figure lone p50_us)" -v b="$(figure lone_insert p50_us)" 'BEGIN { printf "%.2f", a / b }')"
}

# Legitimate webhooks at an even rate, each on a connection of its own, beside connections that only hold: where
# there is room for all of them, and where kridtech.webhook_max_connections is at its default; then over TLS.
bench_receiving_held()
{
	local places
	prepare_receiving
	receiver_serves http
	for places in 2000 256; do
		setting kridtech.webhook_max_connections "$places"
		held_rows http "$places"
	done
	receiver_tls on
	held_rows https "$places"
	receiver_tls off
	psql_do "ALTER SYSTEM RESET kridtech.webhook_max_connections"
	psql_do "SELECT pg_reload_conf()" >/dev/null
}

# held_rows SCHEME PLACES
held_rows()
{
	local how name=$1$2
	local -A what=([idle]='send nothing' [drip]='drip' [lines]='drip lines')
	held_round none "$1" "$2"
	for how in idle drip lines; do
		held_round "$how" "$1" "$2" "--$how" 1000
		row "beside 1,000 that ${what[$how]}" \
			"$(latency_of "held_$how$name"), $HELD_MB MB more memory" \
			"$(printf 'without them %s; %s, room for %s' "$(latency_of "held_none$name")" "$1" "$2")" ''
	done
}

# held_round HOW SCHEME PLACES option...: HELD_MB is what the receiver grew by.
held_round()
{
	local name=held_$1$2$3 url=$2://127.0.0.1:$RECEIVING_PORT/webhook before pid
	shift 3
	clear_events
	pid=$(receiver_pid)
	before=$(own_kb "$pid")
	watch_memory "$pid"
	load_round "$name" kridtech 2000 "$url" --connections 2000 --fresh --rate 200 "$@"
	HELD_MB=$((($(watched_memory) - before) / 1024))
	must_not_fail "$name"
}

# The most memory of its own that a process has had, looked at 20 times a second.
watch_memory()
{
	local pid=$1
	(
		most=0
		while now=$(own_kb "$pid"); do
			if [ "$now" -gt "$most" ]; then
				most=$now
				echo "$most" >"$W/watched"
			fi
			sleep 0.05
		done
	) 2>/dev/null &
	WATCHER=$!
}

watched_memory()
{
	kill "$WATCHER" 2>/dev/null && wait "$WATCHER" 2>/dev/null
	cat "$W/watched"
}

# 5,000 clients that connect at once, each for one webhook.
bench_receiving_burst()
{
	local n=5000 i ours
	prepare_receiving
	ours=http://127.0.0.1:$RECEIVING_PORT/webhook
	receiver_serves http
	for ((i = 0; i < 3; i++)); do
		clear_events
		load_round burst kridtech "$n" "$ours" --connections "$n" --fresh
		clear_events
		[ -z "$EXPRESS" ] || load_round burst_express alternatives "$n" "$EXPRESS" --connections "$n" --fresh
	done
	must_not_fail burst
	row '5,000 connections at once' "all answered in $(ms "$(figure burst max_us)") ms" \
		"$([ -z "$EXPRESS" ] || printf 'Express %s ms, %s failed' "$(ms "$(figure burst_express max_us)")" "$(failures_of burst_express)")" ''
}

# Twenty bodies of 16 MB at once: what the receiver takes for them and gives back.
bench_receiving_big()
{
	local ours before peak after
	prepare_receiving
	ours=http://127.0.0.1:$RECEIVING_PORT/webhook
	receiver_serves http
	clear_events
	before=$(own_kb "$(receiver_pid)")
	watch_memory "$(receiver_pid)"
	load_round big kridtech 20 "$ours" --connections 20 --size 16000000
	peak=$(watched_memory)
	after=$(own_kb "$(receiver_pid)")
	row 'twenty bodies of 16 MB at once' "$(latency_of big), $(failures_of big) failed" \
		"memory before $((before / 1024)) MB, most $((peak / 1024)) MB, after $((after / 1024)) MB" ''
}
