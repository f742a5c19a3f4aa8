# Random kills under a mixed load: whatever is killed and whenever, no request rings twice, none that was
# committed is lost, none that was rolled back rings, and the dialer comes back.
#
# CYCLES kills (50) are picked at random from SEED; the moments are whatever the machine makes of them. The
# witness is the simulator's ledger. Each request has a number of its own, so that K of a number is K of a
# request; what the API does to a request is drawn for the next one that arrives, whichever it is.
use strict;
use warnings;

use Kridtech;
use KridtechCrash;
use List::Util qw(max sum0);
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $cycles = $ENV{CYCLES} || 50;
my $seed   = $ENV{SEED}   || (time * 1000) % 1_000_000;
srand $seed;
note "SEED=$seed CYCLES=$cycles";

my $sim  = kt_simulator('--listen', '127.0.0.1:0', '--die-with-parent', '--seed', $seed, '--key', 'sim-key');
my $node = kt_cluster(
	'kill',
	start => 0,
	conf  => server_conf(
		$sim,
		'autovacuum_naptime'               => "'1s'",
		'kridtech.request_timeout'         => $ENV{VALGRIND} ? "'10s'" : "'1s'",
		'kridtech.max_concurrent_requests' => 20));
server_start($node);
kt_create_extension($node);
$node->safe_psql('postgres', q{CREATE SEQUENCE numbers; INSERT INTO kridtech.accounts VALUES ('probe')});

# ---- the load -------------------------------------------------------------------------------------------------

# A writer's steps. What it prints is what it was promised: C, these ids are committed; R, this number was
# rolled back; X, this id was cancelled.
my $number = q{SELECT '+1617' || lpad(nextval('numbers')::text, 7, '0') AS number \gset};
my $queue  = qq{$number\nSELECT kridtech_queue_call(:'number') AS id \\gset};
my @steps  = (
	[ 30, "$queue\n\\echo C :id" ],
	[ 10, "BEGIN;\n$queue\n\\set first :id\n$queue\nCOMMIT;\n\\echo C :first\n\\echo C :id" ],
	[ 10, "$number\nINSERT INTO kridtech.call_requests (to_number) VALUES (:'number') RETURNING id \\gset\n\\echo C :id" ],
	[ 10, "BEGIN;\n$queue\nROLLBACK;\n\\echo R :number" ],
	[ 5, "BEGIN;\n$queue\nSAVEPOINT s;\n\\set first :id\n$queue\nROLLBACK TO s;\nCOMMIT;\n\\echo C :first\n\\echo R :number" ],
	[ 5, "BEGIN;\n$queue\nSELECT 'g' || :'number' AS gid \\gset\nPREPARE TRANSACTION :'gid';\nCOMMIT PREPARED :'gid';\n\\echo C :id" ],
	[ 5, "BEGIN;\n$queue\nSELECT 'g' || :'number' AS gid \\gset\nPREPARE TRANSACTION :'gid';\nROLLBACK PREPARED :'gid';\n\\echo R :number" ],
	[ 5, "$queue\n\\echo C :id\nSELECT CASE WHEN kridtech_cancel_call(:id) THEN 'X ' || :id ELSE '' END;" ],
	[ 5, "$number\nSELECT kridtech_queue_call(:'number', not_before => now() + '0.2 s') AS id \\gset\n\\echo C :id" ],
	[ 5, "$number\nSELECT kridtech_queue_call(:'number', not_after => now() + '0.05 s') AS id \\gset\n\\echo C :id" ],
	[ 5, "$number\nSELECT kridtech_queue_call(:'number', '{\"name\": \"Ada\"}', priority => 5, unique_key => :'number') AS id \\gset\n\\echo C :id" ],
	[ 2, "SELECT pg_sleep(0.2) \\gset\nVACUUM kridtech.call_requests;" ]);

# What the API does to the next request that arrives.
my @whims = (
	[ 40, { fault => 'none' } ],
	[ 15, { fault => 'latency', latency => 50 } ],
	[ 15, { fault => 'latency', latency => 400 } ],
	[ 4,  { fault => 'status', status => 500 } ],
	[ 2,  { fault => 'status', status => 400 } ],
	[ 1,  { fault => 'status', status => 408 } ],
	[ 1,  { fault => 'status', status => 429, retry_after => '1' } ],
	[ 4,  { fault => 'error_after_create' } ],
	[ 3,  { fault => 'reset', when => 'after_body' } ],
	[ 3,  { fault => 'reset', when => 'mid_answer' } ],
	[ 3,  { fault => 'drop' } ],
	[ 3,  { fault => 'drop_reused' } ],
	[ 3,  { fault => 'no_reply_after_create' } ],
	[ 3,  { fault => 'truncate' } ],
	[ 2,  { fault => 'hang' } ],
	[ 2,  { fault => 'body', body => '<html>', content_type => 'text/html' } ]);

# Draws by weight.
sub draw
{
	my (@choices) = @_;
	my $at = rand sum0(map { $_->[0] } @choices);
	for my $choice (@choices)
	{
		return $choice->[1] if ($at -= $choice->[0]) < 0;
	}
	return $choices[-1][1];
}

my $dir = File::Temp->newdir(TMPDIR => 1);
my @writers;

sub start_writer
{
	my ($n) = @_;
	open my $script, '>', "$dir/$n.sql" or die "$dir/$n.sql: $!";
	print $script draw(@steps), "\nSELECT pg_sleep(0.02) \\gset\n" for 1 .. 200;
	close $script or die "$dir/$n.sql: $!";
	my $pid = fork // die "fork: $!";
	push @writers, $pid;
	return if $pid;
	open STDOUT, '>>', "$dir/$n.out";
	open STDERR, '>>', "$dir/$n.err";
	exec 'sh', '-c', 'while [ ! -e "$2/stop" ]; do psql -XAtq -v ON_ERROR_STOP=1 -d "$1" -f "$2/$3.sql"; sleep 0.05; done',
	  'writer', $node->connstr('postgres') . ' application_name=writer', "$dir", $n
	  or POSIX::_exit(127);
}

# What the writers have printed since the last time: [C => 17], [R => '+1617...'] ...
my %read_to;

sub promises
{
	my @promises;
	for my $file (glob "$dir/*.out")
	{
		open my $out, '<', $file or die "$file: $!";
		seek $out, $read_to{$file} // 0, 0;
		while (my $line = <$out>)
		{
			last if $line !~ /\n$/;
			$read_to{$file} = tell $out;
			push @promises, [ $1, $2 ] if $line =~ /^([CRX]) (\S+)$/;
		}
	}
	return @promises;
}

sub renew_whims
{
	sim_delete($sim, 'scenarios');
	sim_post($sim, 'scenarios', [ map { { endpoint => 'create-call', times => 1, %{ draw(@whims) } } } 1 .. 80 ]);
	return;
}

# ---- the oracle -----------------------------------------------------------------------------------------------

my (%calls, %refs, %pending, %final, %rolled_back, %cancelled);
my $seen  = 0;
my $max_k = 0;
my @faults;

# Reads on in the ledger. What was refused by 429 applied nothing and may be sent again.
sub read_ledger
{
	for my $entry (ledger($sim, "since=$seen"))
	{
		$seen = max($seen, $entry->{seq});
		push @{ $calls{ $entry->{toNumber} } }, $entry->{callId} // '' if ($entry->{status} // 0) != 429;
		$max_k = max($max_k, scalar @{ $calls{ $entry->{toNumber} } // [] });
		push @faults, "$entry->{toNumber} was called twice" if @{ $calls{ $entry->{toNumber} } // [] } > 1;
		my ($ref) = grep { defined } $entry->{dynamicVariables}{kridtech_ref};
		push @faults, "an attempt was sent twice" if $refs{ $ref // '' }++;
	}
	return;
}

sub rows
{
	my ($where) = @_;
	return map { [ split /\|/, $_, -1 ] } split /\n/,
	  $node->safe_psql('postgres', "SELECT id, to_number, state, call_id FROM kridtech.call_requests WHERE $where");
}

sub check_row
{
	my ($id, $to, $state, $call_id) = @_;
	my @calls = @{ $calls{$to} // [] };
	push @faults, "request $id is placed, but the ledger has no such call" if $state eq 'placed' && "@calls" ne $call_id;
	push @faults, "request $id is $state, but a call was made"
	  if $state =~ /failed|cancelled|expired/ && grep { length } @calls;
	push @faults, "request $id is $state, but its cancelling was granted" if $cancelled{$id} && $state ne 'cancelled';
	return;
}

# Whatever was promised since, and what was not final when we last looked.
sub check
{
	for (promises())
	{
		my ($kind, $what) = @$_;
		$pending{$what}     = 1 if $kind eq 'C';
		$rolled_back{$what} = 1 if $kind eq 'R';
		$cancelled{$what}   = 1 if $kind eq 'X';
	}
	my @ids  = keys %pending;
	my @rows = @ids ? rows('id IN (' . join(',', @ids) . ')') : ();
	read_ledger();
	push @faults, (@ids - @rows) . ' committed requests are lost' if @rows != @ids;
	for my $row (@rows)
	{
		next if $row->[2] =~ /^(queued|placing)$/;
		delete $pending{ $row->[0] };
		$final{ $row->[2] }++;
		check_row(@$row);
	}
	return;
}

# Once nothing moves any more: every row, every call.
sub check_all
{
	my %to;
	my %count;
	read_ledger();
	for my $row (rows('true'))
	{
		my ($id, $to, $state) = @$row;
		push @faults, "number $to has two requests" if $to{$to}++;
		push @faults, "request $id ended as $state"  if $state =~ /queued|placing/;
		$count{$state}++;
		check_row(@$row);
	}
	push @faults, map { "$_ was called without a committed request" } grep { !$to{$_} } keys %calls;
	push @faults, map { "$_ was rolled back and called" } grep { !$to{$_} && $calls{$_} } keys %rolled_back;
	return \%count;
}

# ---- the kills ------------------------------------------------------------------------------------------------

my $probes = 0;

# A request of an account that nothing pauses, ahead of all others: placed, or the worker is not alive.
sub probe
{
	my $to = sprintf '+1618%07d', ++$probes;
	my $id;
	sim_post($sim, 'scenarios', { toNumber => $to, fault => 'none' });
	kt_wait(sub { $id = sql($node, "SELECT kridtech_queue_call('$to', account_id => 'probe', priority => 100)") }, 60)
	  or return 'cannot be queued';
	my $state;
	kt_wait(sub { ($state = sql($node, "SELECT state FROM kridtech.call_requests WHERE id = $id") // '') =~ /^(?!queued|placing)./ }, 60);
	return $state;
}

sub pid_of
{
	my ($where) = @_;
	my @pids = split /\n/, sql($node, "SELECT pid FROM pg_stat_activity WHERE $where") // '';
	return $pids[ rand @pids ];
}

# Kills a process of the server, so that all of it restarts.
sub crash
{
	my ($where) = @_;
	my $dialer  = dialer_pid($node);
	my $pid     = pid_of($where) // return;
	kill KILL => $pid;
	return kt_wait(sub { !$dialer || !alive($dialer) }, 60);
}

# kill -9 of the postmaster alone: its children end by themselves.
sub orphan
{
	my @children = server_kill($node);
	kt_wait(sub { !grep { alive($_) } @children }, 60) or push @faults, 'a child outlives its postmaster';
	return server_start($node);
}

sub terminate
{
	my $pid = dialer_pid($node) or return;
	kill TERM => $pid;
	kt_wait(sub { !alive($pid) }) or push @faults, 'SIGTERM takes too long';
	return hasten($node, $pid);
}

sub cancel
{
	my $pid = dialer_pid($node) or return;
	for (1 .. 20)
	{
		kill INT => $pid;
		sleep 0.005;
	}
	return alive($pid) || push @faults, 'a cancel ended the dialer';
}

my @kinds = (
	[ 4, [ dialer     => sub { crash("backend_type = 'kridtech dialer'") } ] ],
	[ 1, [ launcher   => sub { crash("backend_type = 'kridtech launcher'") } ] ],
	[ 3, [ writer     => sub { crash("application_name = 'writer'") } ] ],
	[ 1, [ checkpointer => sub { crash("backend_type = 'checkpointer'") } ] ],
	[ 1, [ walwriter  => sub { crash("backend_type = 'walwriter'") } ] ],
	[ 3, [ cluster    => sub { server_kill($node, all => 1); server_start($node) } ] ],
	[ 1, [ postmaster => \&orphan ] ],
	[ 1, [ restart    => sub { server_stop($node, 'INT'); server_start($node) } ] ],
	[ 2, [ term       => \&terminate ] ],
	[ 2, [ cancel     => \&cancel ] ]);

my %kills;
my $start = time;
start_writer($_) for 1 .. 3;
for my $cycle (1 .. $cycles)
{
	my ($kind, $do) = @{ draw(@kinds) };
	renew_whims();
	sleep rand 0.3;
	$do->();
	$kills{$kind}++;
	my $state = server_wait($node) ? probe() : 'no server';
	push @faults, "after it a new request is $state" if $state ne 'placed';
	check();
	is(join('; ', @faults), '', "cycle $cycle: $kind");
	last if @faults;
}

# ---- the end --------------------------------------------------------------------------------------------------

open my $stop, '>', "$dir/stop" or die "$dir/stop: $!";
waitpid $_, 0 for @writers;
sim_delete($sim, 'scenarios');
$node->safe_psql('postgres', "COMMIT PREPARED '$_'") for split /\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts');
ok( kt_wait(sub { sql($node, "SELECT count(*) FROM kridtech.call_requests WHERE state IN ('queued', 'placing')") eq '0' }, 120),
	'once the load ends, every request comes to its end');
@faults = ();
check();
is(join('; ', @faults), '', 'every commit that was acknowledged is there');
my $count = check_all();
is(join("\n", @faults), '', 'every row agrees with the ledger, and every call has its row');
note sprintf 'SEED=%d: %d kills in %d s (%s); %d requests (%s); %d calls, max K %d', $seed, sum0(values %kills),
  time - $start, join(', ', map { "$kills{$_} $_" } sort keys %kills), sum0(values %$count),
  join(', ', map { "$count->{$_} $_" } sort keys %$count), sum0(map { scalar @$_ } values %calls), $max_k;
cmp_ok($max_k, '<=', 1, 'max K');
server_stop($node);
done_testing();
