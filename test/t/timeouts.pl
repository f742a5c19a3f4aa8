# kridtech.connect_timeout and kridtech.request_timeout end each phase with the SQLSTATE that says what is known.
use strict;
use warnings;

use File::Temp qw(tempdir);
use Kridtech;
use Test::More;

my $dir = tempdir(CLEANUP => 1);
kt_run($ENV{CC} // 'cc', qw(-shared -fPIC -O1 -o),
	"$dir/slow_dns.so", "$ENV{KRIDTECH_SOURCE}/test/t/preload/slow_dns.c", '-ldl');

my $sim  = kt_simulator('--listen', '127.0.0.1:0', '--listen', '127.0.0.1:0,tls-fault=stall');
my $hole = kt_blackhole();
my $node = kt_cluster('timeouts', start => 0, conf => kt_api_settings($sim));
{
	local $ENV{LD_PRELOAD} = "$dir/slow_dns.so";
	$node->start;
}
kt_create_extension($node);

my $session = kt_background($node);
my $pid     = $session->pid;
my $number  = 49303000000;
my $long    = '25s';

sub settings
{
	my ($url, $connect, $request) = @_;
	kt_configure($node, "kridtech.base_url = '$url'\nkridtech.connect_timeout = '$connect'\nkridtech.request_timeout = '$request'",
		$session);
	return;
}

# Runs a statement; its state, its seconds and its messages.
sub timed
{
	my ($sql)   = @_;
	my $began   = $session->query('SELECT clock_timestamp()');
	my $state   = $session->state($sql);
	my $errors  = $session->errors;
	my $elapsed = $session->query("SELECT extract(epoch FROM clock_timestamp() - '$began')");
	return ($state, $elapsed, $errors);
}

sub works_again
{
	my ($what) = @_;
	my $next = '+' . $number++;
	settings($sim->url, $long, $long);
	is($session->state("SELECT kridtech_create_call('$next')"), '00000', "$what: the same backend can call next");
	is($sim->k($next), 1, "$what: which is sent once");
	return;
}

my @unsent = (
	[ 'in DNS', 'https://api.slow.invalid', qr/resolving the host's name/ ],
	[ 'in TCP connect', "http://127.0.0.1:$hole->{port}", qr/timed out while connecting/ ],
	[ 'in the TLS handshake', 'https://127.0.0.1:' . $sim->port(1), qr/in the TLS handshake/ ]);

for my $phase (@unsent)
{
	my ($name, $url, $words) = @$phase;
	for my $timeouts ([ '300ms', $long, 'connect_timeout' ], [ $long, '300ms', 'request_timeout' ])
	{
		my $to = '+' . $number++;
		for my $sql ("SELECT kridtech_create_call('$to')", 'SELECT kridtech_create_web_call()',
			'SELECT kridtech_calls()', 'SELECT kridtech_calls_total()')
		{
			my ($function) = $sql =~ /(kridtech_\w+)/;
			my $what = "$function $name, $timeouts->[2]";
			settings($url, @$timeouts[ 0, 1 ]);
			my ($state, $elapsed, $errors) = timed($sql);
			is($state, '08001', "$what: 08001, nothing was sent");
			like($errors, $words, "$what: the message names the phase");
			like($errors, qr/Nothing was sent/, "$what: and says that nothing was sent");
			cmp_ok($elapsed, '>=', 0.3, "$what: not before its time");
			cmp_ok($elapsed, '<', 5, sprintf '%s: in %.0f ms', $what, $elapsed * 1000);
		}
		is($sim->k($to), 0, "create-call $name, $timeouts->[2]: nothing was sent");
	}
	works_again($name);
}

# Sent: a connect_timeout that is over does not matter any more; the request_timeout does.
my @faults = (
	[ 'waiting for the answer', { fault => 'hang' }, qr/waiting for the answer/ ],
	[ 'in a dripping answer', { fault => 'drip', bytes => 1, ms => 100 }, qr/(?:waiting for|reading) the answer/ ],
	[ 'in an answer that stops', { fault => 'raw', when => 'mid_answer',
		data => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{" }, qr/reading the answer/ ]);

for my $phase (@faults)
{
	my ($name, $fault, $words) = @$phase;
	my $to = '+' . $number++;
	for my $sql ("SELECT kridtech_create_call('$to')", 'SELECT kridtech_create_web_call()', 'SELECT kridtech_calls()',
		'SELECT kridtech_calls_total()')
	{
		my ($function) = $sql =~ /(kridtech_\w+)/;
		my $endpoint = $function =~ /create_web/ ? 'create-web-call' : $function =~ /create/ ? 'create-call' : 'calls';
		my $expected = $function =~ /create/ ? '08007' : '08006';
		my $what     = "$function $name";
		settings($sim->url, '150ms', '500ms');
		$sim->control('scenarios', { %$fault, endpoint => $endpoint, times => 1 });
		my ($state, $elapsed, $errors) = timed($sql);
		is($state, $expected, "$what: $expected");
		like($errors, $words, "$what: the message names the phase");
		unlike($errors, qr/Nothing was sent/, "$what: and does not say that nothing was sent");
		cmp_ok($elapsed, '>=', 0.5, "$what: the connect_timeout is over with the connection");
		cmp_ok($elapsed, '<', 5, sprintf '%s: in %.0f ms', $what, $elapsed * 1000);
	}
	is($sim->k($to), 1, "create-call $name: it was sent once");
	is($node->safe_psql('postgres', "SELECT count(*) FROM kridtech.call_requests WHERE to_number = '$to'"), 0,
		"create-call $name: the record is the statement's");
	works_again($name);
}
is($session->pid, $pid, 'all in one backend');

# A changed time-out counts in a running backend, for the next request.
settings($sim->url, $long, '30s');
$sim->control('scenarios', { endpoint => 'calls', fault => 'latency', latency => 700, times => 2 });
is($session->state('SELECT kridtech_calls()'), '00000', 'a slow answer within the time-out is taken');
settings($sim->url, $long, '200ms');
is($session->state('SELECT kridtech_calls()'), '08006', 'and not with a shorter one after a reload');

$session->quit;
$node->stop;
done_testing();
