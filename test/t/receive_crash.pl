# Crash and fault points of a webhook: wherever it strikes, what was answered with 200 is stored, what was sent
# twice is one event, and who connects meanwhile is served.
use strict;
use warnings;

use Kridtech;
use KridtechCrash;
use Receiving;
use Test::More;

my $r    = Receiving->new('crash', faults => 1);
my $node = $r->{node};

# Waits until the receiver stands at a point.
sub reached
{
	my ($point) = @_;
	kt_wait(sub { fault_reached($node, $point) }, 20) or die "$point is not reached";
	return;
}

# ---- the client goes ----------------------------------------------------------------------------------------------

my $body   = $r->webhook('gone_half');
my $socket = $r->send(substr($body, 0, 50), headers => 'Content-Length: ' . length($body) . "\r\n");
$r->reset($socket);
is($r->post($r->webhook('after_half')), 200, 'when a client is gone in the middle of its body, the next is served');
is($r->deliveries('gone_half') . $r->kept('gone_half'), '', 'and nothing of it is stored');

fault_arm($node, 'receive-taken', 'pause');
$socket = $r->send($r->webhook('gone_whole'));
reached('receive-taken');
$r->reset($socket);
fault_disarm($node, 'receive-taken');
$r->becomes(q{SELECT deliveries FROM kridtech.webhook_events WHERE call_id = 'gone_whole'}, 1, 'when a client is gone after its body, it is stored');

# ---- kill -9 of the receiver -----------------------------------------------------------------------------------------

# Whether it is stored when the receiver is killed there; never answered with 200 unless it is.
my %stored = ('receive-taken' => '', 'receive-executed' => '', 'receive-committed' => 1, 'receive-answered' => 1, 'receive-sent' => 1);
for my $point (qw(receive-taken receive-executed receive-committed receive-answered receive-sent))
{
	fault_arm($node, $point, 'once kill');
	my $status = $r->post($r->webhook("kill_$point"));
	is($r->deliveries("kill_$point"), $stored{$point}, "kill -9 at $point: it is " . ($stored{$point} ? '' : 'not ') . 'stored');
	is($status, $point eq 'receive-sent' ? 200 : 0, 'and ' . ($point eq 'receive-sent' ? 'was answered with 200' : 'was not answered'));
	is($r->post($r->webhook("kill_$point")), 200, 'sent again it is answered with 200');
	is($r->deliveries("kill_$point"), ($stored{$point} || 0) + 1, 'and is one event');
}

# ---- kill -9 of everything ---------------------------------------------------------------------------------------------

for my $point (qw(receive-taken receive-executed receive-committed))
{
	fault_arm($node, $point, 'pause');
	$socket = $r->send($r->webhook("all_$point"));
	reached($point);
	delete $r->{session};
	server_kill($node, all => 1);
	is($r->answer($socket), 0, "kill -9 of the whole server at $point: no answer");
	fault_disarm($node, $point);
	$r->start;
	is($r->deliveries("all_$point"), $stored{$point}, 'and it is ' . ($stored{$point} ? '' : 'not ') . 'stored');
	is($r->post($r->webhook("all_$point")), 200, 'sent again it is answered with 200');
}

# ---- errors ------------------------------------------------------------------------------------------------------------

fault_arm($node, 'receive-executed', 'once error');
is($r->post($r->webhook('error_once')), 200, 'a batch that fails once is stored one by one');
is($r->deliveries('error_once'), 1, 'as an event');
fault_arm($node, 'receive-executed', 'error');
$socket = $r->send($r->webhook('error_always'));
ok(kt_wait(sub { $r->health =~ /^f\|.*cannot store webhooks/ }), 'when every way fails, it waits');
fault_disarm($node, 'receive-executed');
is($r->answer($socket), 200, 'and is answered with 200 when one works again');
is($r->deliveries('error_always'), 1, 'as an event');

fault_arm($node, 'receive-notified', 'once error');
is($r->post($r->webhook('error_notify')), 200, 'a notification that fails costs nothing');

# ---- connections wait over a crash ---------------------------------------------------------------------------------------

my $pid = $r->pid;
kill STOP => $pid;
my @sockets = map { $r->send($r->webhook("waiting_$_")) } 1 .. 200;
kill KILL => $pid;
is(scalar(grep { ($r->answer($_, 30) // 0) == 200 } @sockets), 200, '200 connections that wait while the server crashes and restarts are served');
is($r->sql(q{SELECT count(*), sum(deliveries) FROM kridtech.webhook_events WHERE call_id LIKE 'waiting\_%'}), '200|200', 'and each is an event');
@sockets = ();

my $backend = kt_background($node, 'postgres');
kill KILL => $backend->pid;
my $refused = 0;
for my $i (1 .. 30)
{
	my $status = $r->post($r->webhook("during_$i"), seconds => 30);
	$refused++ if !defined $status || ($status != 200 && $status != 0);
}
is($refused, 0, 'while the server restarts after a crash, no connection is refused');
is($r->sql(q{SELECT count(*) >= 28 FROM kridtech.webhook_events WHERE call_id LIKE 'during\_%'}), 't', 'and but for what was on the way it is stored');

# ---- the receiver is stopped ------------------------------------------------------------------------------------------------

fault_arm($node, 'receive-taken', 'pause');
$socket = $r->send($r->webhook('stopped'));
reached('receive-taken');
$pid = $r->pid;
kill TERM => $pid;
my $next = $r->send($r->webhook('stopped_next'));
fault_disarm($node, 'receive-taken');
is($r->answer($socket), 200, 'what has come in when the receiver is stopped is stored and answered');
is($r->answer($next),   200, 'and who connects meanwhile is served by the next');

# half a body when it is stopped: waited for a little
$body = $r->webhook('stopped_half');
$socket = $r->send(substr($body, 0, 50), headers => 'Content-Length: ' . length($body) . "\r\n");
is($r->post($r->webhook('stopped_beside')), 200, 'beside half a body another one is served');
$pid = $r->pid;
kill TERM => $pid;
syswrite $socket, substr($body, 50);
is($r->answer($socket), 200, 'half a body that is in when the receiver is stopped is waited for');
ok(kt_wait(sub { my $now = $r->pid; $now ne '' && $now ne $pid }), 'and then there is another receiver');

# ---- the whole server is stopped ---------------------------------------------------------------------------------------------

cmp_ok($r->stop('INT'), '<', 4, 'a fast shutdown is soon over');
$r->start;
ok($r->receives, 'and after a start it receives');
unlike($r->log, qr/TRAP|PANIC/, 'nothing else crashed');
done_testing;
