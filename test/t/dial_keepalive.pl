# The dialer's connections: re-used, lost, encrypted. Whatever becomes of one, no request is sent twice.
use strict;
use warnings;

use Dialing;
use File::Temp ();
use Kridtech;
use Test::More;

# A certificate for 127.0.0.1 that is its own authority, and one for another name.
my $dir = File::Temp->newdir('kridtech-tls-XXXXXX', TMPDIR => 1);
for my $name ('IP:127.0.0.1', 'DNS:elsewhere.invalid')
{
	my $file = "$dir/" . ($name =~ s/:.*//r);
	system("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=simulator -addext subjectAltName=$name -keyout $file.key -out $file.crt 2>/dev/null") == 0
	  or die 'openssl';
}

my $d = Dialing->new(
	'keepalive',
	listeners => [
		'--listen', '127.0.0.1:0',
		'--listen', "127.0.0.1:0,cert=$dir/IP.crt,key=$dir/IP.key",
		'--listen', "127.0.0.1:0,cert=$dir/DNS.crt,key=$dir/DNS.key",
		'--listen', '127.0.0.1:0,tls-fault=stall',
		'--listen', '127.0.0.1:0,tls-fault=reset',
		'--listen', "127.0.0.1:0,cert=$dir/IP.crt,key=$dir/IP.key,tls-fault=old",
	],
	conf => "kridtech.connect_timeout = '1s'\n");

sub one
{
	my ($number, $state, $name, %argument) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = $d->queue($number, %argument);
	$d->becomes($id, $state, $name);
	return $id;
}

# ---- re-use -------------------------------------------------------------------------------------------------

one("+493001000$_", 'placed', 'a request') for 1 .. 5;
my @entries = grep { $_->{toNumber} =~ /^\+493001000/ } $d->ledger;
my %connections = map { $_->{connection} => 1 } @entries;
is(scalar keys %connections, 1, 'one after the other they use one connection');
is(join(' ', map { $_->{request} } @entries), '1 2 3 4 5', 'again and again');

$d->sql(q{SELECT count(kridtech_queue_call('+493002' || lpad(i::text, 4, '0'))) FROM generate_series(1, 400) AS i});
$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE to_number LIKE '+493002%' AND state = 'placed'}, 400, '400 at once are placed', 20);
my %used = map { $_->{connection} => 1 } grep { $_->{toNumber} =~ /^\+493002/ } $d->ledger;
cmp_ok(scalar keys %used, '<=', 64, 'over at most as many connections as requests may be under way');

# ---- a re-used connection dies ------------------------------------------------------------------------------

for my $case (
	[ '+15550100605', 'closed, no call' ],
	[ '+15550100606', 'closed, a call was created' ],
	[ '+15550100600', 'reset, no call' ],
	[ '+15550100601', 'reset, a call was created' ],
  )
{
	my ($number, $what) = @$case;
	one('+4930030001', 'placed', 'a request makes sure of a connection');
	my $before = $d->k($number);
	my $id = one($number, 'unknown', "$what: on a re-used connection the request is unknown");
	my ($entry) = ($d->ledger($number))[-1];
	cmp_ok($entry->{request}, '>', 1, "$what: it was one");
	$d->turns;
	is($d->k($number), 1, "$what: it was sent once, libcurl did not send it again");
	is($d->state($id), 'unknown', "$what: nor does the dialer");
	one('+4930030002', 'placed', "$what: and the dialer goes on");
}

# The connection dies after the request's head, before anything of its body: libcurl would send it again.
for my $fault (qw(reset drop))
{
	for my $bytes (10, 60_000, 900_000)
	{
		one('+4930040001', 'placed', 'a request makes sure of a connection');
		my $seen = $d->ledger;
		$d->scenario(fault => $fault, when => 'before_body', times => 1);
		my $number = sprintf '+49300401%s%06d', $fault eq 'reset' ? 1 : 2, $bytes;
		one($number, 'unknown', "$fault after the head, a body of $bytes bytes: unknown", dynamic_variables => { text => 'x' x $bytes });
		my @new = ($d->ledger)[ $seen .. $d->ledger - 1 ];
		is(scalar @new, 1, 'the API saw one request');
		is($d->k($number), 0, 'and not all of it');
		$d->no_scenarios;
	}
}

# ---- the API is restarted -----------------------------------------------------------------------------------

{
	# on the same port; what it kept open is gone
	my $port = $d->{port};
	$d->{sim}->stop;
	my $id = $d->queue('+4930050001');
	$d->sql_becomes("SELECT count(*) > 0 FROM kridtech.call_attempts WHERE request_id = $id AND outcome = 'not sent'", 't', 'while the API is down nothing can be sent');
	$d->{sim} = kt_simulator('--listen', "127.0.0.1:$port", '--listen', "127.0.0.1:0,cert=$dir/IP.crt,key=$dir/IP.key",
		'--listen', "127.0.0.1:0,cert=$dir/DNS.crt,key=$dir/DNS.key", '--listen', '127.0.0.1:0,tls-fault=stall',
		'--listen', '127.0.0.1:0,tls-fault=reset', '--listen', "127.0.0.1:0,cert=$dir/IP.crt,key=$dir/IP.key,tls-fault=old",
		'--die-with-parent', '--key', $Dialing::KEY);
	$d->becomes($id, 'placed', 'once it is back the request is placed');
	is($d->k('+4930050001'), 1, 'and it rings once');
	is($d->sql("SELECT count(*) FROM kridtech.call_attempts WHERE request_id = $id AND live"), 1, 'with one live attempt');
}

# ---- TLS ----------------------------------------------------------------------------------------------------

sub https
{
	my ($listener) = @_;
	return 'https://127.0.0.1:' . $d->{sim}{ready}{listeners}[$listener]{port};
}

# Whatever fails before the request proves that nothing was sent.
sub is_not_sent
{
	my ($number, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = $d->queue($number, account_id => $name);
	$d->sql_becomes("SELECT outcome || ' ' || live || ' ' || bytes_sent FROM kridtech.call_attempts WHERE request_id = $id AND finished_at IS NOT NULL ORDER BY id LIMIT 1",
		'not sent false 0', "$name: nothing is sent");
	is($d->state($id), 'queued', "$name: the request is queued again");
	is($d->k($number), 0, "$name: nobody is rung");
	return $id;
}

{
	$d->set('kridtech.base_url' => https(1));
	my $id = is_not_sent('+4930060001', 'a certificate nobody vouches for');
	like(($d->attempts($id))[0]{detail}, qr/certificate/i, 'the evidence has libcurl\'s words');
	$d->set('kridtech.ca_file' => "$dir/IP.crt");
	$d->becomes($id, 'placed', 'with kridtech.ca_file it is placed');
	one('+4930060002', 'placed', 'and so is the next');
	my ($entry) = $d->ledger('+4930060002');
	cmp_ok($entry->{request}, '>', 1, 'over the connection of the one before');
	my @cases = ([ 2, 'a certificate for another name' ], [ 3, 'a handshake that never ends' ], [ 4, 'a handshake that is reset' ], [ 5, 'an old version of TLS' ]);
	my @ids;
	for my $case (@cases)
	{
		$d->set('kridtech.base_url' => https($case->[0]));
		push @ids, is_not_sent("+493006001$case->[0]", $case->[1]);
	}
	$d->set('kridtech.base_url' => https(1));
	# on a slow machine they have failed more often by now, and would wait for minutes
	$d->sql(q{UPDATE kridtech.call_requests SET next_attempt_at = clock_timestamp() WHERE state = 'queued'});
	$d->becomes($_, 'placed', 'after it all they are placed', 20) for @ids;
	is(join(' ', map { $d->k("+493006001$_->[0]") } @cases), '1 1 1 1', 'each rings once');
}

is($d->sql('SELECT count(*) FROM kridtech.call_attempts WHERE live GROUP BY request_id HAVING count(*) > 1'), '', 'no request has two live attempts');
unlike($d->log, qr/PANIC|server process|\Q$Dialing::KEY\E/, 'no crash, and no key in the log');
done_testing();
