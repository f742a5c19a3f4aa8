# Random kills under a load of webhooks: whatever is killed and whenever, what was answered with 200 is stored, as
# often as it was, and nothing is stored more often than it was sent.
#
# CYCLES kills (25) are picked at random from SEED; the moments are whatever the machine makes of them. The
# witnesses are the senders: each writes down what it sends before, and what was answered with 200 after.
use strict;
use warnings;

use IO::Socket::INET;
use Kridtech;
use KridtechCrash;
use POSIX ();
use Receiving;
use Test::More;
use Time::HiRes qw(sleep time);

my $cycles = $ENV{CYCLES} || 25;
my $seed   = $ENV{SEED}   || (time * 1000) % 1_000_000;
srand $seed;
note "SEED=$seed CYCLES=$cycles";

# A port that stays the same over restarts of the server.
my $port = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0)->sockport;
my $r    = Receiving->new('kill', faults => 1, listen => "127.0.0.1:$port");
my $node = $r->{node};

# ---- the load -------------------------------------------------------------------------------------------------

my $dir = File::Temp->newdir(TMPDIR => 1);
my @senders;

# A sender's life: most webhooks are new, some are repeated, some come with another body.
sub send_for_ever
{
	my ($n) = @_;
	srand $seed + $n;
	open my $log, '>', "$dir/$n.log" or POSIX::_exit(1);
	$log->autoflush(1);
	my $socket;
	for (my $i = 0; !-e "$dir/stop"; $i++)
	{
		my $id      = $i > 10 && rand() < 0.2 ? int(rand $i) : $i;
		my $variant = rand() < 0.05 ? 'B' : 'A';
		undef $socket if rand() < 0.1;
		print $log "S call_${n}_$id $variant\n";
		$socket //= IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp', Timeout => 5);
		if (!$socket)
		{
			sleep 0.05;
			next;
		}
		$r->send($r->webhook("call_${n}_$id", transcript => $variant), socket => $socket);
		my $status = $r->answer($socket, 30) // 'none';
		print $log "A call_${n}_$id $variant\n" if $status eq '200';
		print $log "N $status\n" if $status !~ /^(200|503|0)$/;
		undef $socket if $status ne '200';
		sleep 0.004;
	}
	POSIX::_exit(0);
}

for my $n (1 .. 6)
{
	my $pid = fork // die "fork: $!";
	push @senders, $pid;
	send_for_ever($n) if $pid == 0;
}

END
{
	local $?;
	kill KILL => @senders;
}

# ---- the oracle -----------------------------------------------------------------------------------------------

my @faults;

# How often each body was sent, and how often answered with 200.
sub promises
{
	my (%sent, %acknowledged);
	for my $file (glob "$dir/*.log")
	{
		open my $log, '<', $file or die "$file: $!";
		while (my $line = <$log>)
		{
			last if $line !~ /\n$/;
			my ($kind, $what) = $line =~ /^(\w) (.+)$/;
			$sent{$what}++         if $kind eq 'S';
			$acknowledged{$what}++ if $kind eq 'A';
			push @faults, "a webhook was answered with $what" if $kind eq 'N';
		}
	}
	return (\%sent, \%acknowledged);
}

# What the tables hold. An event counts its body's deliveries; what came to the inbox first counts there.
sub stored
{
	my %stored;
	my $rows = $r->sql(q{
		SELECT call_id || ' ' || transcript || '|' || deliveries FROM kridtech.webhook_events
		UNION ALL SELECT call_id || ' ' || (convert_from(body, 'UTF8')::json ->> 'transcript') || '|' || deliveries FROM kridtech.webhook_inbox});
	for (split /\n/, $rows)
	{
		my ($what, $deliveries) = split /\|/;
		$stored{$what} += $deliveries;
	}
	return \%stored;
}

# The promises are read before the tables, and what was sent again after.
sub check
{
	my (undef, $acknowledged) = promises();
	my $stored = stored();
	my ($sent) = promises();
	for my $what (keys %$acknowledged)
	{
		my $times = $stored->{$what} // 0;
		push @faults, "$what was acknowledged $acknowledged->{$what} times and is stored $times times" if $times < $acknowledged->{$what};
	}
	for my $what (keys %$stored)
	{
		push @faults, "$what was sent " . ($sent->{$what} // 0) . " times and is stored $stored->{$what} times"
		  if $stored->{$what} > ($sent->{$what} // 0);
	}
	return;
}

# ---- the kills --------------------------------------------------------------------------------------------------

my @points = qw(receive-taken receive-executed receive-committed receive-answered receive-sent receive-notified);
my %kills = (
	receiver => sub { my $pid = $r->pid; kill KILL => $pid if $pid },
	backend  => sub { my $session = kt_background($node, 'postgres'); kill KILL => $session->pid },
	launcher => sub { my $pid = $r->pid('launcher'); kill KILL => $pid if $pid },
	server   => sub { $r->kill_all },
	quit     => sub { $r->stop('QUIT'); $r->start },
	fast     => sub { $r->stop('INT'); $r->start },
	term     => sub { my $pid = $r->pid; kill TERM => $pid if $pid },
	restart  => sub { $r->sql('SELECT kridtech_restart_workers()') },
	lock     => sub {
		my $session = kt_background($node, 'postgres');
		$session->query('BEGIN; LOCK TABLE kridtech.webhook_events IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(2.5)');
	},
	point => sub {
		my $point = $points[ rand @points ];
		fault_arm($node, $point, 'once kill');
		kt_wait(sub { !fault_armed($node, $point) }, 20) or push @faults, "$point is not reached";
	});
my @kinds = sort keys %kills;
my $acknowledged = 0;
for my $cycle (1 .. $cycles)
{
	my $kind = $cycle <= @kinds ? $kinds[ $cycle - 1 ] : $kinds[ rand @kinds ];
	sleep rand 0.5;
	eval { $kills{$kind}->(); 1 } or note "$kind: $@";
	$r->receives(60) or push @faults, "after $kind the receiver does not come back: " . $r->health;
	# some are acknowledged again before the next
	my $count = $r->sql('SELECT count(*) FROM kridtech.webhook_events');
	kt_wait(sub { $r->sql('SELECT count(*) FROM kridtech.webhook_events') > $count + 10 }, 60) or push @faults, "after $kind nothing is stored";
	check();
	last if @faults;
}

open my $stop, '>', "$dir/stop" or die $!;
waitpid $_, 0 for splice @senders;
kt_wait(sub { $r->stat('held') == 0 }, 30) or push @faults, 'what was refused is not stored';
check();
my (undef, $all) = promises();
is(join("\n", @faults), '', 'what was answered with 200 is stored as often as it was, and nothing more often than it was sent');
cmp_ok(scalar(keys %$all), '>', 10 * $cycles, 'webhooks were acknowledged all the time');
unlike($r->log, qr/TRAP|PANIC|was terminated by signal (?!9)/, 'nothing crashed by itself');
note "SEED=$seed: " . scalar(keys %$all) . ' bodies acknowledged';
done_testing;
