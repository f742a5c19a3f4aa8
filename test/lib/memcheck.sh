# Runs test/run's servers under a checker of memory. Sourced after server.sh.
#
# SANITIZE=1: the extension built with AddressSanitizer and UndefinedBehaviorSanitizer, in servers that preload the
# former's runtime. VALGRIND=1: the servers run under valgrind. Either ends with its reports, and fails where there is
# one. Neither knows what palloc() gave, only the blocks it takes its pieces from; valgrind does in a PostgreSQL that was
# configured with --enable-cassert and CFLAGS="-O1 -g -DUSE_VALGRIND": name it by PG_CONFIG, and what it needs by
# VALGRIND_OPTS="--suppressions=.../src/tools/valgrind.supp" of its source.
# shellcheck shell=bash disable=SC2034

# Sets KT_COPT, CHECKED (a directory for PATH) and PG_CTL.
memcheck_begin()
{
	CHECKED=
	if [ -n "${SANITIZE:-}" ]; then
		begin_sanitizers
	elif [ -n "${VALGRIND:-}" ]; then
		begin_valgrind
	fi
}

# A program of this name that comes before PostgreSQL's; the rest are words of the shell before its path.
checked_program()
{
	local name=$1
	shift
	printf '#!/bin/sh\nexec %s "%s" "$@"\n' "$*" "$PG_BIN/$name" >"$CHECKED/$name"
	chmod 755 "$CHECKED/$name"
}

# AddressSanitizer's runtime must be loaded first, and bindtextdomain() waits for ever under it, so it does nothing.
# Clients, and programs that a server runs, are left alone: they would wait in setlocale(). Leaks are not looked for: a
# backend frees little at its end, and PostgreSQL's contexts hide what is ours (test/t/leak.pl measures).
begin_sanitizers()
{
	local reports=$W/reports options preload program
	cat >"$W/nls.c" <<-'END'
		#define _GNU_SOURCE
		#include <errno.h>
		#include <stdlib.h>
		#include <string.h>
		char *bindtextdomain(const char *domain, const char *dir) { return (char *) dir; }
		char *bind_textdomain_codeset(const char *domain, const char *codeset) { return (char *) codeset; }
		char *textdomain(const char *domain) { return (char *) domain; }
		__attribute__((constructor)) static void alone(void)
		{
			if (strcmp(program_invocation_short_name, "postgres") == 0)
				unsetenv("LD_PRELOAD");
		}
	END
	gcc -shared -fPIC -o "$W/nls.so" "$W/nls.c" || fail "cannot build what AddressSanitizer needs"
	as_owned_dir "$reports"
	mkdir -m 755 "$W/checked"
	CHECKED=$W/checked
	PG_CTL=$CHECKED/pg_ctl
	preload="$(gcc -print-file-name=libasan.so) $W/nls.so"
	options=abort_on_error=1:halt_on_error=1:print_stacktrace=1:log_path=$reports/report
	KT_COPT="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g"
	# A test may have something of its own to preload.
	for program in postgres pg_ctl; do
		checked_program "$program" env "LD_PRELOAD=\"$preload \$LD_PRELOAD\"" \
			"ASAN_OPTIONS=detect_leaks=0:$options" "UBSAN_OPTIONS=$options"
	done
}

# What the server forks remains valgrind's.
begin_valgrind()
{
	command -v valgrind >/dev/null || fail "VALGRIND=1 needs valgrind"
	as_owned_dir "$W/reports"
	mkdir -m 755 "$W/checked"
	CHECKED=$W/checked
	checked_program postgres valgrind -q "--log-file=$W/reports/report.%p" --error-limit=no --num-callers=40 \
		"--suppressions=$W/src/test/lib/valgrind.supp"
	# pg_ctl would take the "postgres" beside itself.
	PG_CTL=$CHECKED/pg_ctl
	printf '#!/bin/sh\nexec "%s" -p "%s" "$@"\n' "$PG_BIN/pg_ctl" "$CHECKED/postgres" >"$PG_CTL"
	chmod 755 "$PG_CTL"
	export PGCTLTIMEOUT=300
}

# False where there are reports; their beginnings are shown.
memcheck_end()
{
	local file found=0
	[ -n "${SANITIZE:-}${VALGRIND:-}" ] || return 0
	while read -r file; do
		found=$((found + 1))
		[ "$found" -gt 10 ] || { say "--- ${file##*/}"; head -n 60 "$file"; }
	done < <(find "$W/reports" -name 'report.*' -size +0)
	say "memory     $found reports"
	[ "$found" = 0 ]
}
