# Sourced by bench/run: how fast kridtech_transcript_turns() splits transcripts of 2 kB, against the same splitting in
# SQL: at the ends of lines, each of which is one turn here, or by a regular expression that finds the labels.
# shellcheck shell=bash

# Megabytes of transcripts in the table.
TRANSCRIPT_MB=40

# They are stored plainly: what is measured is the splitting, not the decompression. (words: bench/history.sh)
make_transcripts()
{
	psql_do "$(history_words 2000)
		CREATE UNLOGGED TABLE transcripts (text text);
		ALTER TABLE transcripts ALTER text SET STORAGE PLAIN;
		INSERT INTO transcripts SELECT btrim(w.text, E' \n') FROM words AS w, generate_series(1, $TRANSCRIPT_MB / 4);
		ANALYZE transcripts"
}

# turns FROM SPEAKER UTTERANCE: reads all transcripts, and says what was found.
turns()
{
	psql_do "SET max_parallel_workers_per_gather = 0;
		SELECT count(*), sum(octet_length($2)), sum(octet_length($3)) FROM transcripts, $1"
}

turns_ours()
{
	turns 'kridtech_transcript_turns(text)' speaker utterance
}

turns_by_line()
{
	turns "unnest(string_to_array(text, E'\n')) WITH ORDINALITY AS t (line, turn)" \
		"split_part(line, ': ', 1)" "rtrim(substr(line, strpos(line, ': ') + 2))"
}

turns_by_expression()
{
	turns "regexp_matches(text, '^([[:alnum:] ]+): +(.*)\$', 'gn') WITH ORDINALITY AS t (part, turn)" 'part[1]' 'rtrim(part[2])'
}

# megabytes microseconds...: the median, as MB/s.
megabytes()
{
	median "$@" | awk -v mb="$TRANSCRIPT_MB" '{ printf "%.0f MB/s", mb * 1e6 / $1 }'
}

bench_transcripts()
{
	local i name ratios
	make_transcripts
	for name in line expression; do
		[ "$(turns_ours)" = "$("turns_by_$name")" ] || fail "the transcripts have other turns by $name"
		OURS=() THEIRS=() ratios=()
		for ((i = 0; i < ROUNDS; i++)); do
			timed OURS turns_ours
			timed THEIRS "turns_by_$name"
			ratios+=("$(awk -v a="${OURS[i]}" -v b="${THEIRS[i]}" 'BEGIN { printf "%.3f", b / a }')")
		done
		row 'turns of transcripts' "kridtech_transcript_turns() $(megabytes "${OURS[@]}")" \
			"in SQL by $name $(megabytes "${THEIRS[@]}")" "$(median "${ratios[@]}" | awk '{ printf "%.1f", $1 }')"
	done
	psql_do 'DROP TABLE transcripts, words'
}
