# What pg_dump carries over, and what DROP EXTENSION takes away, in sessions old and new.
use strict;
use warnings;

use File::Temp qw(tempdir);
use Kridtech;
use Test::More;

my $sim  = kt_simulator();
my $node = kt_cluster('dump', conf => kt_api_settings($sim));
my $dir  = tempdir(CLEANUP => 1);
kt_create_extension($node, 'source');

$node->safe_psql('source', <<~'EOT');
	INSERT INTO kridtech.accounts VALUES ('acme', NULL), ('other', '/nowhere/key');
	SELECT kridtech_create_call('+4930900' || n, '{"first_name": "James"}') FROM generate_series(1000, 1004) n;
	INSERT INTO kridtech.call_requests (to_number, state, reference) VALUES ('+49309009999', 'unknown', 'lead-1');
	SELECT nextval('kridtech.call_requests_id_seq') FROM generate_series(1, 100);
	INSERT INTO kridtech.webhook_inbox (body, reason) VALUES ('{"callId": "call_1", "transcript": "Agent: Hi"}', 'late'), ('[]', 'bad body');
	SELECT kridtech_replay_webhook(1);
	INSERT INTO kridtech.recordings (call_id, state, next_attempt_at, bytes, sha256, fetched_at, content_type)
	VALUES ('call_1', 'fetched', NULL, 300001, sha256(convert_to(repeat('x', 300001), 'UTF8')), now(), 'audio/mpeg'), ('call_2', 'failed', NULL, NULL, NULL, NULL, NULL);
	INSERT INTO kridtech.recording_chunks VALUES ('call_1', 1, convert_to(repeat('x', 37857), 'UTF8')), ('call_1', 0, convert_to(repeat('x', 262144), 'UTF8'));
	SELECT kridtech_sync_calls();
	EOT

my %contents = (
	'kridtech.accounts'      => 'SELECT a FROM kridtech.accounts a ORDER BY 1',
	'kridtech.call_requests' => 'SELECT r FROM kridtech.call_requests r ORDER BY id',
	'kridtech.webhook_events' => 'SELECT e FROM kridtech.webhook_events e ORDER BY call_id',
	'kridtech.calls'         => 'SELECT c FROM kridtech.calls c ORDER BY call_id',
	'kridtech.call_history'  => 'SELECT h FROM kridtech.call_history h ORDER BY request_id, call_id',
	'kridtech.webhook_inbox' => 'SELECT i FROM kridtech.webhook_inbox i ORDER BY id',
	'the inbox\'s sequence'  => 'SELECT last_value, is_called FROM kridtech.webhook_inbox_id_seq',
	'the sequence'           => 'SELECT last_value, is_called FROM kridtech.call_requests_id_seq',
	'kridtech.recordings'    => 'SELECT r FROM kridtech.recordings r ORDER BY call_id',
	'a recording\'s content' => q{SELECT sha256(kridtech_recording('call_1')) = sha256 FROM kridtech.recordings r WHERE call_id = 'call_1'},
	'privileges'             => q{SELECT proname, proacl FROM pg_proc WHERE proname LIKE 'kridtech%' ORDER BY 1});

for my $format ('plain', 'custom', 'directory')
{
	my $target = "target_$format";
	my $file   = "$dir/$format";
	kt_run('pg_dump', '-d', $node->connstr('source'), "--format=$format", '-f', $file);
	$node->safe_psql('postgres', "CREATE DATABASE $target");
	kt_run($format eq 'plain'
		? ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($target), '-f', $file)
		: ('pg_restore', '--exit-on-error', '-d', $node->connstr($target), $file));
	for my $what (sort keys %contents)
	{
		my $expected = $node->safe_psql('source', $contents{$what});
		ok(length $expected, "$what: there is something to compare");
		is($node->safe_psql($target, $contents{$what}), $expected, "$what: the same after a $format dump and restore");
	}
	is($node->safe_psql($target, q{SELECT extname FROM pg_extension WHERE extname = 'kridtech'}), 'kridtech', "the extension is one ($format)");
	my $highest = $node->safe_psql('source', 'SELECT max(id) + 100 FROM kridtech.call_requests');
	is($node->safe_psql($target, q{SELECT (kridtech_create_call('+49309008888')).call_status}), 'registered', "a call in the copy ($format)");
	is($node->safe_psql($target, 'SELECT max(id) FROM kridtech.call_requests'), $highest + 1, "gets the next number ($format)");
}
is($sim->k('+49309001000'), 1, 'a restore calls nobody');

# -- DROP EXTENSION
my $left = <<~'EOT';
	SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'kridtech'
	UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE proname LIKE 'kridtech%'
	UNION ALL SELECT 'relation ' || relname FROM pg_class WHERE relname LIKE 'call_requests%' OR relname LIKE 'accounts%' OR relname LIKE 'webhook_%'
	UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typname LIKE '%call_requests%' OR typname LIKE '%accounts'
	UNION ALL SELECT 'extension ' || extname FROM pg_extension WHERE extname = 'kridtech'
	EOT
isnt($node->safe_psql('source', $left), '', 'before DROP EXTENSION there are objects');
$node->safe_psql('source', 'DROP EXTENSION kridtech');
is($node->safe_psql('source', $left), '', 'DROP EXTENSION leaves nothing');

# -- in a session that has everything cached: plans of the user's, of PL/pgSQL and of our own
my $session = kt_background($node, 'source');
my $number  = 49309100000;
$session->query(q{CREATE FUNCTION dial(n text) RETURNS text LANGUAGE plpgsql AS
	$$BEGIN RETURN (SELECT call_status FROM kridtech_create_call(n)); END$$});
for my $round (1 .. 3)
{
	my ($direct, $prepared, $inner) = map { '+' . $number++ } 1 .. 3;
	is($session->state('CREATE EXTENSION kridtech'), '00000', "round $round: CREATE EXTENSION");
	$session->query('PREPARE dial(text) AS SELECT call_status FROM kridtech_create_call($1)') if $round == 1;
	is($session->state("SELECT kridtech_create_call('$direct')"), '00000', "round $round: a call");
	is($session->state("EXECUTE dial('$prepared')"), '00000', "round $round: a prepared call");
	is($session->state("SELECT dial('$inner')"), '00000', "round $round: a call in PL/pgSQL");
	is($session->query('SELECT count(*), min(id), max(id) FROM kridtech.call_requests'), '3|1|3', "round $round: three records in the new table");
	is($sim->k($_), 1, "round $round: $_ was sent once") for $direct, $prepared, $inner;
	is($session->state('SELECT count(*) FROM kridtech_calls()'), '00000', "round $round: a list");
	is($session->state('DROP EXTENSION kridtech'), '00000', "round $round: DROP EXTENSION");
	like($session->state("SELECT dial('+49309199999')"), qr/^(?:42883|55000)$/, "round $round: without it a call is an error");
}

# The functions' code outlives DROP EXTENSION in the session; a hand-made function must not reach it unnoticed.
$session->query(q{CREATE FUNCTION kridtech_calls_total(text DEFAULT NULL, text DEFAULT NULL) RETURNS bigint LANGUAGE c AS 'kridtech'});
is($session->state('SELECT kridtech_calls_total()'), '55000', 'code without the extension says that it is not installed');
$session->query('DROP FUNCTION kridtech_calls_total(text, text)');

# Another schema, another owner.
$session->query('CREATE ROLE keeper SUPERUSER; CREATE SCHEMA telephony; SET ROLE keeper');
is($session->state('CREATE EXTENSION kridtech SCHEMA telephony'), '00000', 'made by another role, in another schema');
$session->query('RESET ROLE');
is($session->state(q{SELECT telephony.kridtech_create_call('+49309188888')}), '00000', 'a call in the same session');
is($session->query('SELECT created_by = current_user FROM kridtech.call_requests'), 't', 'whose record names the caller');

$session->quit;
$node->stop;
done_testing();
