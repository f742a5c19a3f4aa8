# Slow clients: silent ones, such as let a head or a body drip, and those of slowhttptest where it is installed. The
# deliveries that come meanwhile are answered and stored; memory stays bounded; and who is slow is let go in the end.
use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use IPC::Run ();
use Kridtech;
use Receiving;
use Test::More;
use Time::HiRes qw(time);

# Slow clients as far as descriptors go: the receiver needs one each, and so do we.
my $files = qx(ulimit -n);
$files = 100_000 if $files !~ /^\d+$/;
my $silent = $files >= 4000 ? 1000 : int($files / 4);
my $drips  = int($silent / 10);
my $tools  = int($silent / 4);

my $r = Receiving->new('slow', conf => "kridtech.webhook_max_connections = 3000\n"
	  . "kridtech.webhook_header_timeout = '8s'\nkridtech.webhook_body_timeout = '8s'\n");
my $port = $r->port;

sub socket_to
{
	return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp', Timeout => 15);
}

# The receiver's own memory in kB.
sub memory
{
	open my $status, '<', '/proc/' . $r->pid . '/status' or die "no receiver: $!";
	my ($kb) = map { /^RssAnon:\s+(\d+) kB/ ? $1 : () } <$status>;
	return $kb;
}

# Delivers on a connection of its own; the status, and the seconds it took.
my $delivered = 0;

sub deliver
{
	my $start  = time;
	my $status = $r->post($r->webhook('legitimate_' . ++$delivered), socket => socket_to()) // 'none';
	return ($status, time - $start);
}

sub percentile
{
	my ($percent, @seconds) = @_;
	my @sorted = sort { $a <=> $b } @seconds;
	return sprintf '%.0f ms', 1000 * $sorted[ int($#sorted * $percent / 100) ];
}

# slowhttptest in one of its modes, on its way.
my ($tool) = grep { -x } map { "$_/slowhttptest" } qw(/usr/bin /usr/local/bin);

sub slow_tool
{
	my ($path, @mode) = @_;
	return IPC::Run::start([ $tool, @mode, '-c', $tools, '-r', $tools, '-i', 1, '-l', 6, '-p', 3, '-u', "http://127.0.0.1:$port$path" ],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
}

# ---- with places enough ---------------------------------------------------------------------------------------------

deliver() for 1 .. 300;
my $base = memory();

my @silent = map { socket_to() // die "connect: $!" } 1 .. $silent;
my @drips = map { $r->send('', socket => socket_to(), headers => $_ % 2 ? 'X-Slow: ' : "Content-Length: 4000\r\n") } 1 .. $drips;
my @running;
if ($tool)
{
	@running = (slow_tool($r->path, '-H', '-t', 'POST', '-x', 8), slow_tool($r->path, '-B', '-s', 8192, '-x', 8),
		slow_tool('/healthz', '-X', '-k', 20, '-w', 1, '-y', 8, '-z', 1, '-n', 1));
}
my $expected = $silent + $drips;
ok(kt_wait(sub { $r->stat('connections') >= $expected }, 20), "$expected clients that send nothing, or little, are connected");

my (@took, %status, $peak, $connections);
my $end = time + 5;
local $SIG{PIPE} = 'IGNORE';
while (time < $end)
{
	for (1 .. 20)
	{
		my ($status, $seconds) = deliver();
		$status{$status}++;
		push @took, $seconds;
		syswrite $_, 'x' for @drips[ map { rand @drips } 1 .. 10 ];
	}
	my ($now, $open) = (memory(), $r->stat('connections'));
	$peak        = $now  if $now > ($peak // 0);
	$connections = $open if $open > ($connections // 0);
}
is_deeply(\%status, { 200 => scalar @took }, 'every delivery that comes meanwhile is answered with 200');
my $grown = int(($peak - $base) / 1024);
note scalar(@took) . " deliveries beside up to $connections connections: p50 " . percentile(50, @took) . ', p99 ' . percentile(99, @took)
  . ", at most " . percentile(100, @took) . "; memory $base kB, $peak kB at most";
SKIP:
{
	skip 'a sanitizer keeps what was freed', 1 if $ENV{SANITIZE};
	cmp_ok($grown, '<=', 64, 'the receiver takes at most 64 MB more for them');
}
SKIP:
{
	skip 'slowhttptest is not installed', 1 if !$tool;
	cmp_ok($connections, '>=', $expected + $tools, 'among them those of slowhttptest');
	$_->finish for @running;
}
ok(kt_wait(sub { $r->stat('connections') == 0 }, 30), 'who is slow is let go when its time is up');
@silent = @drips = ();

# ---- with fewer places than there are silent clients --------------------------------------------------------------------

# Clients that begin with these words, in all places and waiting for one; 20 deliveries behind them. Each of the former
# sends a byte every so often meanwhile. The answers, and the seconds they took.
sub deliver_behind
{
	my ($words, $drip) = @_;
	my @slow = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp', Blocking => 0) // die "connect: $!" } 1 .. $silent;
	syswrite $_, $words for @slow;
	my $filled  = kt_wait(sub { $r->stat('connections') >= ($silent < 256 ? $silent : 256) });
	my $start   = time;
	my @waiting = map { $r->send($r->webhook('legitimate_' . ++$delivered), socket => socket_to()) } 1 .. 20;
	my $select  = IO::Select->new(@waiting);
	my (@answers, @took);
	while ($select->count && time < $start + 30)
	{
		if ($drip) { syswrite $_, 'x' for @slow }
		for my $socket ($select->can_read(0.05))
		{
			push @answers, $r->answer($socket, 30) // 'none';
			push @took,    time - $start;
			$select->remove($socket);
		}
	}
	return ($filled, \@answers, percentile(100, @took));
}

$r->set('kridtech.webhook_max_connections' => 256);
for my $slow ([ 'send nothing', '', 0 ], [ 'let a head drip', 'P', 1 ], [ 'hold a head back', "POST /webhook HTTP/1.1\r\nX-Slow: " . 'a' x 200, 0 ])
{
	my ($what, $words, $drip) = @$slow;
	my ($filled, $answers, $most) = deliver_behind($words, $drip);
	ok($filled, "clients that $what have taken all places, and more of them wait");
	is_deeply($answers, [ (200) x 20 ], 'deliveries behind them are answered with 200');
	cmp_ok($most =~ s/ ms//r, '<', 2000, 'and wait for one round of places, not for one after the other');
	note "256 places, $silent clients that $what: 20 deliveries at once took at most $most";
}

is($r->sql(q{SELECT count(*), sum(deliveries) FROM kridtech.webhook_events WHERE call_id LIKE 'legitimate%'}), "$delivered|$delivered",
	'all are stored once');
is($r->sql('SELECT count(*) FROM kridtech.webhook_events') + $r->sql('SELECT count(*) FROM kridtech.webhook_inbox'), $delivered,
	'and nothing of what the slow ones sent');
is($r->stat('refused_503') + $r->stat('dropped'), 0, 'nothing was refused or dropped');
unlike($r->log, qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
