# A backend keeps its connection; when one dies under a create-call, the call is not sent a second time.
use strict;
use warnings;

use Kridtech;
use Test::More;

my $sim  = kt_simulator();
my $port = $sim->port;
my $node = kt_cluster('reuse', conf => kt_api_settings($sim));
kt_create_extension($node);

my $session = kt_background($node);
my $number  = 49304000000;

sub call
{
	my ($to) = @_;
	return $session->state("SELECT kridtech_create_call('$to')");
}

# The connection and the request's number on it, as the ledger has them.
sub places
{
	my ($to) = @_;
	return map { [ @$_{qw(connection request)} ] } $sim->ledger($to);
}

# -- kept
my @numbers = map { '+' . $number++ } 1 .. 5;
is(call($_), '00000', "a call to $_") for @numbers;
my ($first) = places($numbers[0]);
is_deeply([ map { places($_) } @numbers ], [ map { [ $first->[0], $_ ] } 1 .. 5 ], 'five calls go out on one connection');
is($session->state('SELECT kridtech_calls()'), '00000', 'so does a list between them');
is($session->state('SELECT kridtech_create_web_call()'), '00000', 'and a web call');
my $after = '+' . $number++;
is(call($after), '00000', 'and the next call');
is_deeply([ places($after) ], [ [ $first->[0], 8 ] ], 'is the eighth request on that connection');
$node->safe_psql('postgres', "SELECT kridtech_create_call('+49304999999')");
isnt((places('+49304999999'))[0][0], $first->[0], 'another backend has a connection of its own');

# -- what dies
my %end = (
	drop                  => 'closed instead of answered',
	reset                 => 'reset after the request',
	no_reply_after_create => 'closed after the call was made');
for my $fault (sort keys %end)
{
	my ($warm, $to, $next) = map { '+' . $number++ } 1 .. 3;
	is(call($warm), '00000', "$end{$fault}: there is a connection");
	my ($place) = places($warm);
	$sim->control('scenarios', { toNumber => $to, fault => $fault, times => 1 });
	is(call($to), '08007', "$end{$fault}: nothing is known");
	like($session->errors, qr/look for it with kridtech_calls\(\)/, "$end{$fault}: and the hint says what to do");
	is($sim->k($to), 1, "$end{$fault}: it was sent once");
	is_deeply([ places($to) ], [ [ $place->[0], $place->[1] + 1 ] ], "$end{$fault}: it was sent on the kept connection, and on none else");
	is($session->state("SELECT count(*) FROM kridtech.call_requests WHERE to_number = '$to'"), '00000', 'the backend lives');
	is(call($next), '00000', "$end{$fault}: the next call works");
	isnt((places($next))[0][0], $place->[0], "$end{$fault}: on a new connection");
	is($sim->k($to), 1, "$end{$fault}: K is still 1");
}

# -- the magic numbers of the same: the first is answered, the second finds its connection closed
for my $magic ('+15550100605', '+15550100606')
{
	is(call('+' . $number++), '00000', "$magic: there is a connection");
	is(call($magic), '08007', "$magic: dropped because it is re-used");
	is($sim->k($magic), 1, "$magic: it was sent once");
}

# -- a connection that the server closed while it was idle costs nothing
for my $round (1 .. 3)
{
	my ($warm, $to) = map { '+' . $number++ } 1 .. 2;
	is(call($warm), '00000', "idle drop $round: there is a connection");
	$sim->stop;
	$sim = kt_simulator('--listen', "127.0.0.1:$port");
	is(call($to), '00000', "idle drop $round: the next call works");
	is($sim->k($to), 1, "idle drop $round: and was sent once");
}

# -- a server that is gone, and comes back
$sim->stop;
is(call('+' . $number++), '08001', 'with the server gone nothing is sent');
$sim = kt_simulator('--listen', "127.0.0.1:$port");
my $again = '+' . $number++;
is(call($again), '00000', 'and with the server back the same backend calls');
is($sim->k($again), 1, 'once');

$session->quit;
$node->stop;
done_testing();
