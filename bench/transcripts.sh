# Sourced by bench/run: how fast kridtech_transcript_turns() splits transcripts of 2 kB, against the same splitting in
# SQL: at the ends of lines, each of which is one turn here, or by a regular expression that finds the labels.
# shellcheck shell=bash

# Megabytes of transcripts in the table, and how often they are read: a regular expression needs no more than once.
TRANSCRIPT_MB=40
TRANSCRIPT_PASSES=5

# They are stored plainly: what is measured is the splitting, not the decompression. (words: bench/history.sh)
make_transcripts()
{
	psql_do "$(history_words 2000)
		CREATE UNLOGGED TABLE transcripts (text text);
		ALTER TABLE transcripts ALTER text SET STORAGE PLAIN;
		INSERT INTO transcripts SELECT btrim(w.text, E' \n') FROM words AS w, generate_series(1, $TRANSCRIPT_MB / 4);
		ANALYZE transcripts"
}

# turns PASSES FROM SPEAKER UTTERANCE: reads all transcripts so often, and says what was found.
turns()
{
	psql_do "SET max_parallel_workers_per_gather = 0; SET jit = off;
		SELECT count(*), sum(octet_length($3)), sum(octet_length($4)) FROM generate_series(1, $1), transcripts, $2"
}

turns_ours()
{
	turns "$1" 'kridtech_transcript_turns(text)' speaker utterance
}

turns_by_line()
{
	turns "$1" "unnest(string_to_array(text, E'\n')) WITH ORDINALITY AS t (line, turn)" \
		"split_part(line, ': ', 1)" "rtrim(substr(line, strpos(line, ': ') + 2))"
}

turns_by_expression()
{
	turns "$1" "regexp_matches(text, '^([[:alnum:] ]+): +(.*)\$', 'gn') WITH ORDINALITY AS t (part, turn)" 'part[1]' 'rtrim(part[2])'
}

# megabytes PASSES microseconds...: the median, in MB/s.
megabytes()
{
	local passes=$1
	shift
	median "$@" | awk -v mb="$((TRANSCRIPT_MB * passes))" '{ printf "%.0f MB/s", mb * 1e6 / $1 }'
}

# turns_against NAME PASSES: a row; the ratio is of the rates.
turns_against()
{
	local name=$1 passes=$2 i ratios=()
	[ "$(turns_ours 1)" = "$("turns_by_$name" 1)" ] || fail "the transcripts have other turns by $name"
	OURS=() THEIRS=()
	for ((i = 0; i < ROUNDS; i++)); do
		timed OURS turns_ours "$TRANSCRIPT_PASSES"
		timed THEIRS "turns_by_$name" "$passes"
		ratios+=("$(awk -v a="${OURS[i]}" -v b="${THEIRS[i]}" -v n="$TRANSCRIPT_PASSES" -v m="$passes" \
			'BEGIN { printf "%.4f", (b / m) / (a / n) }')")
	done
	row 'turns of transcripts' "kridtech_transcript_turns() $(megabytes "$TRANSCRIPT_PASSES" "${OURS[@]}")" \
		"in SQL by $name $(megabytes "$passes" "${THEIRS[@]}")" "$(median "${ratios[@]}" | awk '{ printf "%.1f", $1 }')"
}

bench_transcripts()
{
	make_transcripts
	turns_against line "$TRANSCRIPT_PASSES"
	turns_against expression 1
	psql_do 'DROP TABLE transcripts, words'
}
