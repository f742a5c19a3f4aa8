# Finds PostgreSQL, builds the extension into $W, runs a throw-away server there. Sourced after common.sh.
# shellcheck shell=bash

# Sets PG_CONFIG, PG_MAJOR, PG_BIN: PG_CONFIG or PG_MAJOR from the environment, else the highest version
# that is installed with its server.
find_postgres()
{
	local candidate
	if [ -z "${PG_CONFIG:-}" ]; then
		if [ -n "${PG_MAJOR:-}" ]; then
			PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
		else
			PG_CONFIG=pg_config
			for candidate in $(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config | sort -V); do
				[ -x "${candidate%/*}/postgres" ] && PG_CONFIG=$candidate
			done
		fi
	fi
	PG_BIN=$("$PG_CONFIG" --bindir) || fail "cannot run $PG_CONFIG"
	[ -x "$PG_BIN/postgres" ] || fail "no PostgreSQL server in $PG_BIN"
	[ -r "$("$PG_CONFIG" --pgxs)" ] || fail "no PGXS for $PG_CONFIG (postgresql-server-dev)"
	id "$(server_user)" >/dev/null 2>&1 || fail "running as root, servers run as user postgres: no such user"
	PG_MAJOR=$("$PG_CONFIG" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
	export PG_CONFIG PG_MAJOR PG_BIN
}

cores()
{
	nproc 2>/dev/null || echo 2
}

# Builds a copy of the checkout in $W/src and installs it below $W/inst; arguments go to make.
build_extension()
{
	copy_sources "$W/src"
	logged "$W/build.log" make -s -C "$W/src" -j"$(cores)" PG_CONFIG="$PG_CONFIG" "$@" &&
		logged "$W/install.log" make -s -C "$W/src" PG_CONFIG="$PG_CONFIG" "$@" install DESTDIR="$W/inst" &&
		chmod -R a+rX "$W/inst"
}

# The same with the fault points of src/fault.h, below $W/inst-faults: for the tests that crash it.
build_with_faults()
{
	cp -a "$W/src" "$W/src-faults"
	logged "$W/build-faults.log" make -s -C "$W/src-faults" clean PG_CONFIG="$PG_CONFIG" &&
		logged "$W/build-faults.log" make -s -C "$W/src-faults" -j"$(cores)" PG_CONFIG="$PG_CONFIG" \
			COPT="${KT_COPT:--Werror} -DKT_FAULTS" install DESTDIR="$W/inst-faults" &&
		chmod -R a+rX "$W/inst-faults"
}

build_simulator()
{
	logged "$W/simulator.log" make -s -C "$W/src/test/simulator" -j"$(cores)"
}

# The settings that make a server find the extension in $W/inst, or in $INST. From 18 on
# PostgreSQL has a path of its own for control files; before, Debian's packages have extension_destdir.
extension_settings()
{
	local libdir inst=${INST:-$W/inst}
	libdir=$("$PG_CONFIG" --pkglibdir)
	if [ "$PG_MAJOR" -ge 18 ]; then
		# shellcheck disable=SC2016  # $system and $libdir are the server's
		printf "extension_control_path = '%s:\$system'\n" "$inst$("$PG_CONFIG" --sharedir)"
	else
		printf "extension_destdir = '%s'\n" "$inst"
	fi
	# shellcheck disable=SC2016
	printf "dynamic_library_path = '%s:\$libdir'\n" "$inst$libdir"
}

# A cluster in $W/server: reached only by its unix socket in a directory of the server's user, so trust is
# safe. Lines on stdin are added to its configuration.
start_server()
{
	export PGHOST=$W/socket PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
	# Settings of the caller must not reach our clients and servers.
	unset PGSERVICE PGPASSFILE PGOPTIONS PGSSLMODE PGDATA PGSYSCONFDIR
	as_owned_dir "$W/socket"
	as_owned_dir "$W/server"
	PG_LOG=$W/server/postgresql.log
	logged "$W/initdb.log" as_server "$PG_BIN/initdb" -D "$W/server/data" -U postgres -A trust \
		-E UTF8 --locale=C.UTF-8 --no-sync || return 1
	{
		extension_settings
		printf "listen_addresses = ''\nunix_socket_directories = '%s'\nfsync = off\n" "$W/socket"
		cat
	} | as_server tee -a "$W/server/data/postgresql.conf" >/dev/null
	ON_EXIT=(stop_server ${ON_EXIT[@]+"${ON_EXIT[@]}"})
	if ! logged "$W/pg_ctl.log" as_server "${PG_CTL:-$PG_BIN/pg_ctl}" -D "$W/server/data" -l "$PG_LOG" -w -t 60 start
	then
		tail -n 20 "$PG_LOG" >&2
		return 1
	fi
}

stop_server()
{
	as_server "$PG_BIN/pg_ctl" -D "$W/server/data" -m immediate -w -t 20 stop >/dev/null 2>&1
	return 0
}

# An empty directory that only the server's user can enter.
as_owned_dir()
{
	mkdir -m 700 "$1"
	if [ "$(id -u)" = 0 ]; then
		chown postgres: "$1"
	fi
}

# Starts the simulator with the given arguments; SIMULATOR_READY is its ready line.
start_simulator()
{
	local waited=0
	"$W/src/test/simulator/kridtech-simulator" "$@" >"$W/simulator.ready" 2>"$W/simulator.err" </dev/null &
	SIMULATOR_PID=$!
	ON_EXIT=(stop_simulator ${ON_EXIT[@]+"${ON_EXIT[@]}"})
	until grep -q . "$W/simulator.ready" 2>/dev/null; do
		if ! kill -0 "$SIMULATOR_PID" 2>/dev/null || [ "$waited" -ge 100 ]; then
			cat "$W/simulator.err" >&2
			return 1
		fi
		sleep 0.1
		waited=$((waited + 1))
	done
	SIMULATOR_READY=$(head -n 1 "$W/simulator.ready")
	export SIMULATOR_READY
}

stop_simulator()
{
	kill "$SIMULATOR_PID" 2>/dev/null && wait "$SIMULATOR_PID" 2>/dev/null
	return 0
}

# A number or string member of the simulator's ready line.
ready_member()
{
	sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p" <<<"$SIMULATOR_READY"
}

# A file that only the server's user can read, as kridtech.api_key_file demands.
write_key_file()
{
	# shellcheck disable=SC2016  # $1 is the inner shell's
	as_server sh -c 'umask 077 && cat >"$1"' sh "$1"
}
