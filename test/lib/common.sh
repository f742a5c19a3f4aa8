# What every script here shares: messages, the temporary directory, the server's user. Sourced, not run.
# shellcheck shell=bash

export LC_ALL=C.UTF-8
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

say()
{
	printf '%s\n' "$*"
}

fail()
{
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# PostgreSQL refuses to run as root: there, servers and their clients run as user postgres.
server_user()
{
	if [ "$(id -u)" = 0 ]; then
		echo postgres
	else
		id -un
	fi
}

# Runs a command as the server's user, in the temporary directory (the caller's own may be closed to it).
as_server()
{
	if [ "$(id -u)" = 0 ]; then
		(cd "$W" && HOME=$W exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$@")
	else
		(cd "$W" && exec "$@")
	fi
}

# Makes $W, a directory the server's user can reach, run programs from and hold a socket in. Removed on
# every exit unless KEEP=1; functions named in ON_EXIT run first.
ON_EXIT=()
make_work_dir()
{
	local base
	W=
	for base in "${TMPDIR:-/tmp}" /tmp /var/tmp; do
		# A socket's path may have 107 bytes.
		[ ${#base} -le 60 ] || continue
		W=$(mktemp -d "$base/kridtech.XXXXXX" 2>/dev/null) || continue
		chmod 755 "$W"
		printf '#!/bin/sh\n' >"$W/probe"
		chmod 755 "$W/probe"
		if as_server ./probe 2>/dev/null; then
			rm "$W/probe"
			trap work_dir_exit EXIT
			trap 'exit 129' HUP
			trap 'exit 130' INT
			trap 'exit 143' TERM
			return
		fi
		rm -r "$W"
	done
	W=
	fail "found no temporary directory that user $(server_user) can run programs in; set TMPDIR to one"
}

work_dir_exit()
{
	local status=$? step
	trap - EXIT
	set +e
	for step in ${ON_EXIT[@]+"${ON_EXIT[@]}"}; do
		"$step"
	done
	if [ -n "${KEEP:-}" ]; then
		say "kept: $W"
	elif [ -n "$W" ]; then
		rm -rf "$W"
	fi
	exit "$status"
}

# Runs a command with its output in a log; on failure shows the log's end.
logged()
{
	local log=$1
	shift
	if ! "$@" >"$log" 2>&1 </dev/null; then
		printf -- '--- the end of %s\n' "${log##*/}" >&2
		tail -n 40 "$log" >&2
		return 1
	fi
}

# The checkout without what was built in it: it may be read-only, or closed to the server's user.
copy_sources()
{
	mkdir -p "$1"
	tar -C "$ROOT" --exclude=./.git --exclude='*.o' --exclude='*.d' --exclude='*.so' --exclude='*.bc' \
		--exclude="./sql/kridtech--[0-9]*.[0-9]*.[0-9].sql" --exclude=./results --exclude=./tmp_check \
		--exclude='./test/*/build*' --exclude=./test/fuzz/found --exclude=./test/simulator/kridtech-simulator \
		-cf - . |
		tar -C "$1" --no-same-owner -xf -
	chmod -R u+w,a+rX "$1"
}
