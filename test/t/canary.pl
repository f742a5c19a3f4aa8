# A key, an access token and a phone number are hunted through everything a server shows and writes, with
# every logging setting at its loudest.
use strict;
use warnings;

use File::Temp qw(tempdir);
use Kridtech;
use PostgreSQL::Test::Utils qw(slurp_file);
use Receiving;
use Test::More;

my $key    = 'KEYCANARY7f3a9c0e51';
my $number = '+49307112233';
my $dir    = tempdir(CLEANUP => 1);
my $sim    = kt_simulator('--listen', '127.0.0.1:0', '--listen', '127.0.0.1:0,tls-fault=reset', '--key', $key);

my $statements = -e kt_run('pg_config', '--pkglibdir') =~ s/\n//r . '/pg_stat_statements.so';
my $node = kt_cluster('canary', preload => 0, conf => kt_api_settings($sim, $key) . <<~EOT);
	shared_preload_libraries = 'kridtech@{[ $statements ? ', pg_stat_statements' : '' ]}'
	log_min_messages = debug5
	log_min_error_statement = debug5
	log_statement = all
	log_error_verbosity = verbose
	log_parameter_max_length_on_error = -1
	log_duration = on
	log_connections = on
	debug_print_parse = on
	debug_print_rewritten = on
	debug_print_plan = on
	log_executor_stats = on
	track_activity_query_size = 100kB
	EOT
kt_create_extension($node);
$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements') if $statements;

my $session = kt_background($node);
my $shown   = '';    # everything the client got to see of failures
$session->query('SET client_min_messages = debug5');

sub state
{
	my ($sql) = @_;
	my $state = $session->state($sql);
	$shown .= $session->errors;
	return $state;
}

sub fails
{
	my ($what, $expected, $sql, $scenario) = @_;
	$sim->control('scenarios', { %$scenario, times => 1 }) if $scenario;
	is(state($sql), $expected, $what);
	return;
}

my $call = "SELECT kridtech_create_call('$number', '{\"first_name\": \"James\"}')";

# -- what works
is(state($call), '00000', 'a call');
is(state('SELECT access_token FROM kridtech_create_web_call()'), '00000', 'a web call');
my $token = $session->answer;
like($token, qr/^eyJ[\w-]+\.[\w-]+\.[\w-]+$/, 'the token is returned');
is(state('PREPARE p(text) AS SELECT * FROM kridtech_create_call($1)'), '00000', 'a prepared call');
is(state("EXECUTE p('$number')"), '00000', 'is executed');
is(state("DO \$\$BEGIN PERFORM kridtech_create_call('$number'); PERFORM kridtech_create_web_call(); END\$\$"), '00000', 'calls in PL/pgSQL');
is(state('SELECT * FROM kridtech_calls()'), '00000', 'a list');

# -- what fails, and echoes
my %echo = (
	'as it is'      => $key,
	'in a sentence' => "the key $key, sent by you, is not known",
	'in a header'   => "x-api-key: $key",
	'twice'         => "$key$key",
	'with a phone number' => "$number may not be called with $key");
for my $where (sort keys %echo)
{
	for my $status (400, 401, 402, 403, 422, 429, 500)
	{
		my %state = (400 => '22023', 401 => '28000', 402 => '53000', 403 => '28000', 422 => '22023', 429 => '53400', 500 => '08007');
		for my $field ('error', 'message')
		{
			fails("HTTP $status that echoes the key $where in \"$field\"", $state{$status}, $call,
				{ endpoint => 'create-call', fault => 'body', status => $status,
					body => JSON::PP::encode_json({ success => JSON::PP::false, $field => $echo{$where} }) });
		}
	}
}
(my $escaped = $key) =~ s/Y7/\\u00597/;
fails('an answer that echoes the key in escapes', '28000', $call,
	{ endpoint => 'create-call', fault => 'body', status => 401, body => qq({"success":false,"error":"no $escaped"}) });
fails('an answer that echoes the key in an object', '28000', $call,
	{ endpoint => 'create-call', fault => 'body', status => 401, body => qq({"error":{"message":"no $key"}}) });
fails('an HTML page that echoes the key', '08007', $call,
	{ endpoint => 'create-call', fault => 'body', body => "<html>$key</html>" });
fails('success false that echoes the key', '08P01', $call,
	{ endpoint => 'create-call', fault => 'body', body => qq({"success":false,"error":"$key for $number"}) });
fails('a header line that echoes the key', '28000', $call,
	{ endpoint => 'create-call', fault => 'raw',
		data => "HTTP/1.1 401 $key\r\nX-Echo: $key\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" });
fails('an answer that is no HTTP and echoes the key', '08007', $call,
	{ endpoint => 'create-call', fault => 'raw', data => "$key\r\n\r\n" });
fails('a redirect that echoes the key', '08007', $call,
	{ endpoint => 'create-call', fault => 'redirect', location => "http://$key.invalid/$key" });
fails('a list that is refused with the key', '28000', 'SELECT kridtech_calls()',
	{ endpoint => 'calls', fault => 'body', status => 401, body => qq({"success":false,"error":"$key"}) });
fails('a web call that breaks off after its token', '08007', 'SELECT kridtech_create_web_call()',
	{ endpoint => 'create-web-call', fault => 'truncate' });
fails('a call that is reset', '08007', $call, { endpoint => 'create-call', fault => 'reset' });
fails('a number that is none', '22023', "SELECT kridtech_create_call('${number}x')");
fails('an account that the key may not use', '00000', "SELECT kridtech_create_call('$number', NULL, 'nobody')");
$session->query(q{SET statement_timeout = '300ms'});
fails('a call that is cancelled', '57014', $call, { endpoint => 'create-call', fault => 'hang' });
$session->query('RESET statement_timeout');
kt_configure($node, 'kridtech.base_url = \'https://127.0.0.1:' . $sim->port(1) . q{'}, $session);
fails('a TLS handshake that is reset', '08001', $call);
kt_configure($node, 'kridtech.base_url = \'https://127.0.0.1:' . $sim->port(0) . q{'}, $session);
fails('a server without TLS', '08001', $call);
kt_configure($node, q{kridtech.base_url = 'http://127.0.0.1:1'}, $session);
fails('a closed port', '08001', $call);

# A table's own rule on the record fails after the answer has come.
kt_configure($node, q{kridtech.base_url = '} . $sim->url . q{'}, $session);
$node->safe_psql('postgres', q{ALTER TABLE kridtech.call_requests ADD CONSTRAINT odd CHECK (state <> 'placed') NOT VALID});
fails('a record that a constraint refuses', '08007', "SELECT kridtech_create_web_call(); $call");
$node->safe_psql('postgres', 'ALTER TABLE kridtech.call_requests DROP CONSTRAINT odd');

# -- where it could have gone
my %place = (
	'messages to the client'   => $shown,
	'pg_stat_activity'         => $node->safe_psql('postgres', 'SELECT a FROM pg_stat_activity a'),
	'pg_settings'              => $node->safe_psql('postgres', 'SELECT s FROM pg_settings s'),
	'pg_file_settings'         => $node->safe_psql('postgres', 'SELECT s FROM pg_file_settings s'),
	'pg_db_role_setting'       => $node->safe_psql('postgres', 'SELECT s FROM pg_db_role_setting s'),
	'kridtech.call_requests'   => $node->safe_psql('postgres', 'SELECT r FROM kridtech.call_requests r'),
	'kridtech.accounts'        => $node->safe_psql('postgres', 'SELECT a FROM kridtech.accounts a'),
	'pg_prepared_statements'   => $session->query('SELECT p FROM pg_prepared_statements p'),
	'memory contexts'          => $session->query('SELECT c FROM pg_backend_memory_contexts c'),
	'pg_dumpall'               => kt_run('pg_dumpall', '-d', $node->connstr('postgres')),
	'pg_dumpall -g'            => kt_run('pg_dumpall', '-g', '-d', $node->connstr('postgres')));
$place{pg_stat_statements} = $node->safe_psql('postgres', 'SELECT s FROM pg_stat_statements s') if $statements;
my $pid = $session->pid;
for my $file ('environ', 'cmdline')
{
	open my $proc, '<', "/proc/$pid/$file" or next;
	local $/;
	$place{"/proc/pid/$file"} = <$proc> // '';
}
$session->quit;
$node->stop;
open my $log_file, '<', $node->logfile or die $!;
my $log = do { local $/; <$log_file> };
$place{'the server log'} = $log;
for my $file (glob($node->data_dir . '/global/*'), glob($node->data_dir . '/pg_stat*/*'), glob($node->data_dir . '/base/*/*'),
	glob($node->data_dir . '/pg_wal/0*'))
{
	open my $data, '<:raw', $file or next;
	local $/;
	$place{'the data directory'} .= <$data> // '';
}
cmp_ok(length $log, '>', 100_000, 'the log is loud');
for my $name (sort keys %place)
{
	# the likes of KEYCA***: what is left of a masked key must not be most of it
	ok(index($place{$name}, $key) < 0, "no key in $name");
	ok(index($place{$name}, substr $key, 4, 12) < 0, "nor most of one in $name");
	ok(index($place{$name}, $token) < 0, "no token in $name");
	ok($place{$name} !~ /eyJ[\w-]{8,}\.[\w-]+\./, "nor one of another web call in $name");
}

# -- the number: in no message of ours, in the log or at the client. The user's own words are his.
my $digits = substr $number, 1;
my @ours = grep { !/^\S+ \S+ \S+ \[\d+\] \S*\s*(?:STATEMENT|LOG|DEBUG)\b.*/ }
  split /^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)/m, $log;
my @errors = grep { /\b(?:ERROR|DETAIL|HINT|WARNING|CONTEXT):/ } @ours;
cmp_ok(scalar @errors, '>', 100, 'there are messages');
# PL/pgSQL quotes the statement it was given, and trees of it are printed (from 18 on those of utility statements, too).
s/SQL statement "SELECT kridtech_create_call\('[^']*'\)"//g for @errors;
my @telling = grep { /\Q$digits\E/ && !/DETAIL:\s+\(?\s*\{QUERY\b/ } @errors;
is(scalar @telling, 0, 'no message in the log holds the full number') or diag $telling[0];
my @debug = grep { /\Q$digits\E/ && /DEBUG:/ && /kridtech|\.c:\d+/ && !/LOCATION:|parse|plan|rewritten/i }
  split /^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)/m, $log;
is(scalar @debug, 0, 'no debugging message of ours does') or diag $debug[0];
(my $told = $shown) =~ s/^LINE \d+:.*\n.*\n?//mg;
is(() = $told =~ /^(?:psql:\S+ )?(?:ERROR|DETAIL|HINT|WARNING|CONTEXT):.*\Q$digits\E.*$/mg, 0, 'no message to the client does')
  or diag $told =~ /^(.*\Q$digits\E.*)$/m;

# -- a worker, whose statements auto_explain shows, from PostgreSQL 16 on with their parameters
my $r = Receiving->new('explained', conf => "shared_preload_libraries = 'kridtech, auto_explain'\nauto_explain.log_min_duration = 0\n");
my $shows_parameters = $r->sql('SHOW server_version_num') >= 160000;
is($r->post($r->webhook('call_explained', transcript => 'User: TRANSCRIPTCANARY')), 200, 'a webhook is received');
$r->stop;
my $explained = slurp_file($r->{node}->logfile);
like($explained, qr/INSERT INTO kridtech\.webhook_events.*Insert on webhook_events/s, 'auto_explain shows how it was stored');
SKIP:
{
	skip 'auto_explain shows no parameters', 1 unless $shows_parameters;
	unlike($explained, qr/TRANSCRIPTCANARY/, 'and not what was said');
}

done_testing();
