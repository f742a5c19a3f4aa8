# A server whose clock is set: attempts of before are not compared with the API's list any more, whatever is set, ends or
# crashes after that. Their times would fit a call that somebody else has placed.
use strict;
use warnings;

use Config ();
use Dialing;
use Kridtech;
use Test::More;

my $dir   = $ENV{TESTDATADIR};
my $ahead = "$dir/clock";
kt_run($Config::Config{cc}, qw(-shared -fPIC -O1 -o), "$dir/clock.so", "$ENV{KRIDTECH_SOURCE}/test/t/preload/clock.c");

sub set_clock
{
	open my $file, '>', "$ahead.new" or die "$ahead.new: $!";
	print $file pack 'q', $_[0];
	close $file;
	rename "$ahead.new", $ahead or die "$ahead: $!";
	return;
}

set_clock(8);
my $d = Dialing->new('clock', conf => <<'CONF');
kridtech.request_timeout = '2s'
kridtech.settle_time = '1s'
kridtech.sync_interval = '300ms'
restart_after_crash = on
CONF
$d->forget_sessions;
$d->{node}->stop;
{
	local $ENV{LD_PRELOAD} = "$dir/clock.so";
	local $ENV{KT_CLOCK}   = $ahead;
	$d->{node}->start;
}
ok($d->dials, 'a dialer runs whose clock is 8 seconds fast');

# Three more lists have been read, at a time when the attempt has settled.
sub lists
{
	my ($id) = @_;
	kt_wait(sub { $d->sql("SELECT clock_timestamp() > finished_at + interval '2 s' FROM kridtech.call_attempts WHERE request_id = $id") eq 't' }, 30) or die 'the time does not come';
	my $end = $d->stat('sync_polls') + 3;
	kt_wait(sub { $d->stat('sync_polls') >= $end }, 30) or die 'no list is read';
	return;
}

$d->scenario(toNumber => '+4930000001', fault => 'drop', times => 1);
my $lost = $d->queue('+4930000001');
$d->becomes($lost, 'unknown', 'an answer is lost, and nothing was placed');
my $at = $d->sql("SELECT to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM kridtech.call_attempts WHERE request_id = $lost");
set_clock(0);
$d->turns(3);
set_clock(2);
$d->turns(3);
$d->post('calls', { n => 1, accountId => 'acct-1', direction => 'outbound', toNumber => '+4930000001', createdAt => $at });
lists($lost);
is($d->state($lost), 'unknown', 'the clock was set back, and then forward: a call of that time is not taken for its own');

my $pid = $d->dialer_pid;
$d->sql('SELECT kridtech_restart_workers()');
ok(kt_wait(sub { my $now = $d->dialer_pid; $now && $now != $pid }), 'another dialer runs');
lists($lost);
is($d->state($lost), 'unknown', '... which knows it, too');

$pid = $d->dialer_pid;
$d->forget_sessions;
kill 'KILL', $pid;
kt_wait(sub { !kill 0, $pid });
ok(kt_wait(sub { eval { $d->{node}->safe_psql('postgres', q{SELECT ok FROM kridtech.health WHERE component = 'dialer'}) eq 't' } }, 30), 'the server recovers from a crash');
lists($lost);
is($d->state($lost), 'unknown', '... and knows it still');

# set back by 8 seconds, it first had to show those once more
kt_wait(sub { $d->sql("SELECT clock_timestamp() > finished_at + interval '10 s' FROM kridtech.call_attempts WHERE request_id = $lost") eq 't' }, 30);
$d->scenario(toNumber => '+4930000002', fault => 'no_reply_after_create', times => 1);
$d->becomes($d->queue('+4930000002'), 'placed', 'what is sent after all that is bound as ever', 30);

done_testing();
