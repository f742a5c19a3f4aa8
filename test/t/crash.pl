# Crash and fault points of a call: at each, whatever strikes there, a request rings at most once, ends in
# the state its evidence allows, and the dialer works on. The simulator's ledger is the witness of what was
# really sent (K), not the database.
use strict;
use warnings;

use Kridtech;
use KridtechCrash;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

# ---- set-up -------------------------------------------------------------------------------------------------

my $normal = $ENV{KRIDTECH_SETTINGS};
local $ENV{KRIDTECH_SETTINGS} = $ENV{KRIDTECH_FAULT_SETTINGS} // die 'KRIDTECH_FAULT_SETTINGS is not set';

my $sim  = kt_simulator('--listen', '127.0.0.1:0', '--listen', '127.0.0.1:0,tls-fault=stall', '--die-with-parent', '--seed', 1, '--key', 'sim-key');
my $node = kt_cluster('crash', start => 0, conf => server_conf($sim, 'kridtech.request_timeout' => "'10s'"));
server_start($node);
kt_create_extension($node);

my $serial = 0;

# Its number is a request's own, so that K of the number is K of the request.
sub new_number
{
	return sprintf '+1416555%04d', ++$serial;
}

sub queue
{
	my ($number, %option) = @_;
	my $reference = $option{reference} // '';
	my $id = sql($node, "SELECT kridtech_queue_call('$number', reference => '$reference')");
	return $id if defined $id;
	# the dialer was so quick to be killed that this session went with it: before its commit, or after
	kt_wait(sub { defined($id = sql($node, "SELECT max(id) FROM kridtech.call_requests WHERE to_number = '$number'")) }, 30)
	  or die 'the server does not come back';
	return $id ne '' ? $id : queue($number, %option);
}

# The API's answer to this number takes so many ms.
sub slow
{
	my ($number, $ms) = @_;
	sim_post($sim, 'scenarios', { toNumber => $number, fault => 'latency', latency => $ms });
	return;
}

sub hang
{
	my ($number) = @_;
	sim_post($sim, 'scenarios', { toNumber => $number, fault => 'hang' });
	return;
}

# Once a new session shows the value, every worker has had its SIGHUP.
sub set_and_reload
{
	my ($setting, $value) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET $setting = '$value'");
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	kt_wait(sub { $node->safe_psql('postgres', "SHOW $setting") eq $value }) or die "$setting does not change";
	return;
}

sub state_of
{
	my ($id) = @_;
	return sql($node, "SELECT state FROM kridtech.call_requests WHERE id = $id") // 'no answer';
}

# Waits until a request is final; its state.
sub final_state
{
	my ($id, $seconds) = @_;
	my $state;
	kt_wait(sub { ($state = state_of($id)) !~ /queued|placing|no answer/ }, $seconds // 20);
	return $state;
}

sub on_network
{
	my ($number) = @_;
	return kt_wait(sub { k_of($sim, $number) == 1 }) || die "$number does not arrive";
}

# Queues a request and waits until the API has it.
sub fly
{
	my ($number, $ms) = @_;
	slow($number, $ms);
	my $id = queue($number);
	on_network($number);
	return $id;
}

# The dialer holds nothing while this request is on the network. (Once a second it looks at the tables.)
sub waits_alone
{
	my ($pid, $id) = @_;
	return kt_wait(sub { dialer_alone($node, $pid) eq '' && state_of($id) eq 'placing' }, 5);
}

# A new request is placed: the worker is alive, and past whatever was before.
sub works_on
{
	my $number = new_number();
	my $id     = eval { queue($number) } // return 'cannot queue';
	my $state  = final_state($id);
	return $state eq 'placed' && k_of($sim, $number) == 1 ? 'works on' : "a new request is $state";
}

# What the tables say of a request agrees with itself and with the ledger; else what does not.
sub contradiction
{
	my ($id, $number) = @_;
	my ($state, $call_id, $open, $live) = split /\|/,
	  $node->safe_psql('postgres',
		"SELECT r.state, coalesce(r.call_id, ''), count(*) FILTER (WHERE a.finished_at IS NULL), count(*) FILTER (WHERE a.live)"
		  . " FROM kridtech.call_requests r LEFT JOIN kridtech.call_attempts a ON a.request_id = r.id WHERE r.id = $id GROUP BY r.id");
	return "$open attempts are open" if $open;
	return "$live attempts are live" if $live != ($state eq 'placed' || $state eq 'unknown');
	return '' if $state ne 'placed';
	my @calls = grep { defined } map { $_->{callId} } ledger($sim, 'toNumber=' . $number =~ s/\+/%2B/r);
	return @calls == 1 && $calls[0] eq $call_id ? '' : "call_id is $call_id, the ledger has @calls";
}

# "placed, K=1, works on": all there is to say once a request should be final.
sub verdict
{
	my ($id, $number) = @_;
	my $state = final_state($id);
	my $alive = works_on();
	my $fault = contradiction($id, $number);
	return join ', ', $state, 'K=' . k_of($sim, $number), $alive, length $fault ? $fault : ();
}

# ---- an ordinary build has no fault points --------------------------------------------------------------------

# Words of fault points that a library holds, in its strings or symbols.
sub fault_words
{
	my ($settings) = @_;
	my ($path) = $settings =~ /dynamic_library_path = '([^:']+)/ or die 'no dynamic_library_path';
	open my $file, '<:raw', "$path/kridtech.so" or die "$path/kridtech.so: $!";
	local $/;
	return join ' ', sort { $a cmp $b } keys %{ { map { $_ => 1 } <$file> =~ /(kridtech_faults|kt_fault|claim-committed)/g } };
}

like(fault_words($ENV{KRIDTECH_SETTINGS}), qr/claim-committed kridtech_faults/, 'the library under test has fault points');
is(fault_words($normal), '', 'an ordinary build has none');

# ---- point by action ------------------------------------------------------------------------------------------

# In a unit of work an error or a cancel rolls back and the dialer goes on; outside there is nothing to
# cancel, and a stray error would end the process, never the server.
my %in_unit = map { $_ => 1 } qw(scanned claim-executed record-executed notify-executed readiness-checked);

# Points that are reached while a request is in the air, and how long its answer takes, in ms.
my %in_air = ('in-flight' => 800, 'drain-begun' => 800, 'readiness-checked' => 1500);

# What may become of the request, and K. "crash" stands for kill -9 of the worker, of another backend, and
# of everything at once.
my @table = (
	# point             crash          term           cancel         error
	[ 'scanned',           'placed, K=1',  'placed, K=1', 'placed, K=1', 'placed, K=1' ],
	[ 'claim-executed',    'placed, K=1',  'placed, K=1', 'placed, K=1', 'placed, K=1' ],
	[ 'claim-committed',   'unknown, K=0', 'placed, K=1', 'placed, K=1', 'unknown, K=0' ],
	[ 'submitted',         'unknown, K=0', 'placed, K=1', 'placed, K=1', 'unknown, K=0' ],
	[ 'in-flight',         'unknown, K=1', 'placed, K=1', 'placed, K=1', undef ],
	[ 'readiness-checked', 'unknown, K=1', '(placed|unknown), K=1', 'placed, K=1', 'placed, K=1' ],
	[ 'answer-received',   'unknown, K=1', 'placed, K=1', 'placed, K=1', 'unknown, K=1' ],
	[ 'record-executed',   'unknown, K=1', 'placed, K=1', 'placed, K=1', 'placed, K=1' ],
	[ 'record-committed',  'placed, K=1',  'placed, K=1', 'placed, K=1', 'placed, K=1' ],
	[ 'notify-executed',   'placed, K=1',  'placed, K=1', 'placed, K=1', 'placed, K=1' ],
	[ 'drain-begun',       'unknown, K=1', 'placed, K=1', 'placed, K=1', 'unknown, K=1' ]);

# Each gets the dialer's pid and acts; what is paused may go on when it returns.
my %act = (
	backend => sub {
		my ($pid) = @_;
		my $victim = kt_background($node);
		kill KILL => $victim->pid;
		return kt_wait(sub { !alive($pid) });
	},
	cluster => sub { return server_kill($node, all => 1) },
	term    => sub { return kill TERM => $_[0] },
	cancel  => sub {
		my ($pid, $point) = @_;
		my $offset = log_end($node);
		kill INT => $pid;
		return !$in_unit{$point}
		  || kt_wait(sub { log_since($node, $offset) =~ /canceling statement due to user request/ });
	});

# Brings a request to a point and its dialer to its end there. Returns the id and the old dialer's pid.
sub strike
{
	my ($point, $action, $number) = @_;
	my $order = { kill => 'once kill', error => 'once error' }->{$action} // 'pause';
	my $pid   = dialer_pid($node);
	my $id;
	fault_arm($node, $point, $order) if $point ne 'in-flight' && !$in_air{$point};
	if ($in_air{$point})
	{
		$id = fly($number, $in_air{$point});
		fault_arm($node, $point, $order) if $point ne 'in-flight';
		kill TERM => $pid if $point eq 'drain-begun';
	}
	else
	{
		$id = queue($number);
	}
	if ($point eq 'in-flight')
	{
		ok(waits_alone($pid, $id), 'no transaction and no lock while a request is on the network');
		$action eq 'kill' ? kill(KILL => $pid) : $act{$action}->($pid, $point);
	}
	elsif ($order eq 'pause')
	{
		kt_wait(sub { fault_reached($node, $point) }) or die "$point is not reached";
		is(dialer_alone($node, $pid), '', "no transaction and no lock at $point") if !$in_unit{$point};
		$act{$action}->($pid, $point) or die "$action has no effect at $point";
		fault_disarm($node, $point);
	}
	else
	{
		kt_wait(sub { !fault_armed($node, $point) }) or die "$point is not reached";
		kt_wait(sub { !alive($pid) }) if $action eq 'kill' || !$in_unit{$point};
	}
	server_start($node) if $action eq 'cluster';
	hasten($node, $pid) if $action eq 'term' || $point eq 'drain-begun' && $action =~ /cancel|error/;
	server_wait($node);
	return ($id, $pid);
}

for my $row (@table)
{
	my ($point, $crash, $term, $cancel, $error) = @$row;
	my %expected =
	  (kill => $crash, backend => $crash, cluster => $crash, term => $term, cancel => $cancel, error => $error);
	for my $action (qw(kill backend cluster term cancel error))
	{
		next if !defined $expected{$action};
		my $number = new_number();
		my ($id, $pid) = strike($point, $action, $number);
		like(verdict($id, $number), qr/^$expected{$action}, works on$/, "$action at $point");
		my $survives = $point ne 'drain-begun' && ($action eq 'cancel' || $action eq 'error' && $in_unit{$point});
		is(dialer_pid($node), $pid, 'by the same worker') if $survives;
	}
}

# SIGTERM cancels a unit of work that has become old; what it would have recorded is recorded in the drain.
for my $point (qw(scanned claim-executed record-executed))
{
	my $number = new_number();
	my $pid    = dialer_pid($node);
	fault_arm($node, $point, 'pause');
	my $id = queue($number);
	kt_wait(sub { fault_reached($node, $point) }) or die "$point is not reached";
	my $offset = log_end($node);
	my $start  = time;
	kill TERM => $pid;
	ok(kt_wait(sub { log_since($node, $offset) =~ /canceling statement due to user request/ }), "SIGTERM cancels a unit of work that hangs at $point");
	fault_disarm($node, $point);
	kt_wait(sub { !alive($pid) }, 30);
	cmp_ok(time - $start, '<', 4, 'the dialer ends');
	hasten($node, $pid);
	is(verdict($id, $number), 'placed, K=1, works on', 'and the request is placed');
}

# In the TLS handshake, which the API never answers: a crash cannot know that nothing was sent, an end can.
for my $case ([ KILL => 'unknown, K=0' ], [ TERM => 'placed, K=1' ])
{
	my ($signal, $expected) = @$case;
	my $number = new_number();
	my $pid    = dialer_pid($node);
	set_and_reload('kridtech.base_url', "https://127.0.0.1:$sim->{ready}{listeners}[1]{port}");
	my $id = queue($number);
	kt_wait(sub { state_of($id) eq 'placing' }) or die 'it is not claimed';
	ok(waits_alone($pid, $id), 'no transaction and no lock in the TLS handshake') if $signal eq 'TERM';
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET kridtech.base_url');
	kill $signal => $pid;
	kt_wait(sub { !alive($pid) });
	server_wait($node);
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	hasten($node, $pid) if $signal eq 'TERM';
	is(verdict($id, $number), "$expected, works on", "$signal in the TLS handshake");
}

# A crash in the recovery from a crash.
{
	my $number = new_number();
	my $id     = fly($number, 20000);
	my $pid    = dialer_pid($node);
	fault_arm($node, 'readiness-checked', 'once kill');
	kt_wait(sub { !alive($pid) });
	fault_arm($node, 'readiness-checked', 'once kill');
	kt_wait(sub { !fault_armed($node, 'readiness-checked') });
	server_wait($node);
	is(verdict($id, $number), 'unknown, K=1, works on', 'a recovery that is killed itself begins again');
}

# A claim must not go out by the gate of the account that the request had when it was scanned.
{
	my $number = new_number();
	fault_arm($node, 'scanned', 'pause');
	my $id = queue($number);
	kt_wait(sub { fault_reached($node, 'scanned') }) or die 'scanned is not reached';
	$node->safe_psql('postgres', "UPDATE kridtech.call_requests SET account_id = 'acct-2' WHERE id = $id");
	fault_disarm($node, 'scanned');
	is(verdict($id, $number), 'placed, K=1, works on', 'the account of a request changes between scan and claim');
	$node->safe_psql('postgres', "SELECT kridtech_pause('acct-3')");
	fault_arm($node, 'scanned', 'pause');
	$id = queue($number = new_number());
	kt_wait(sub { fault_reached($node, 'scanned') }) or die 'scanned is not reached';
	$node->safe_psql('postgres', "UPDATE kridtech.call_requests SET account_id = 'acct-3' WHERE id = $id");
	fault_disarm($node, 'scanned');
	is(works_on(), 'works on', 'and to an account that is paused');
	is(state_of($id) . k_of($sim, $number), 'queued0', 'it waits');
	$node->safe_psql('postgres', "SELECT kridtech_resume('acct-3')");
	is(verdict($id, $number), 'placed, K=1, works on', 'for kridtech_resume()');
}

# ---- before the commit --------------------------------------------------------------------------------------

for my $end ('kill -9 of the backend', 'ROLLBACK', 'ROLLBACK TO SAVEPOINT', 'pg_terminate_backend', 'an ERROR')
{
	my ($number, $kept) = (new_number(), new_number());
	my $session = kt_background($node);
	my $queue   = sub { "SELECT kridtech_queue_call('$_[0]')" };
	$session->query('BEGIN');
	$session->query($queue->($kept) . '; SAVEPOINT s') if $end =~ /SAVEPOINT/;
	$session->query($queue->($number));
	my $pid = $session->pid;
	if    ($end =~ /kill/)      { my $dialer = dialer_pid($node); kill KILL => $pid; kt_wait(sub { !alive($dialer) }) }
	elsif ($end =~ /terminate/) { $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 10000)") }
	elsif ($end =~ /ERROR/)     { $session->query('SELECT 1/0; COMMIT') }
	else                        { $session->query("$end" . ($end =~ /SAVE/ ? ' s; COMMIT' : '')) }
	server_wait($node);
	is(works_on(), 'works on', "$end before the commit");
	is($node->safe_psql('postgres', "SELECT count(*) FROM kridtech.call_requests WHERE to_number = '$number'"), 0, 'no row');
	is(k_of($sim, $number), 0, 'and nobody is rung');
	is(k_of($sim, $kept), 1, 'what was before the savepoint is placed') if $end =~ /SAVE/;
}

{
	my ($number, $refused) = (new_number(), new_number());
	my $id = $node->safe_psql('postgres', "BEGIN; SELECT kridtech_queue_call('$number'); PREPARE TRANSACTION 'a'");
	$node->safe_psql('postgres', "BEGIN; SELECT kridtech_queue_call('$refused'); PREPARE TRANSACTION 'b'");
	is(works_on(), 'works on', 'prepared transactions stand open');
	server_kill($node, all => 1);
	server_start($node);
	$node->safe_psql('postgres', "ROLLBACK PREPARED 'b'");
	is(works_on(), 'works on', 'they outlive a crash of everything');
	is(k_of($sim, $number), 0, 'a prepared request is not dialled');
	$node->safe_psql('postgres', "COMMIT PREPARED 'a'");
	is(verdict($id, $number), 'placed, K=1, works on', 'but once it is committed, by the slow poll at the latest');
	is(k_of($sim, $refused), 0, 'one that was rolled back never is');
}

# ---- a result that cannot be recorded --------------------------------------------------------------------------

sub retries
{
	return $node->safe_psql('postgres', "SELECT value FROM kridtech.stats WHERE name = 'result_retries'");
}

{
	my $number = new_number();
	my $pid    = dialer_pid($node);
	my $before = retries();
	my $id     = fly($number, 2000);
	my $locker = kt_background($node);
	$locker->query('BEGIN; LOCK TABLE kridtech.call_requests, kridtech.call_attempts, kridtech.pauses, kridtech.identity');
	ok(kt_wait(sub { retries() > $before }, 20), 'a result is tried again while the tables are locked');
	$locker->query('COMMIT');
	is(verdict($id, $number), 'placed, K=1, works on', 'and recorded once they are not');
	is(dialer_pid($node), $pid, 'by the same worker');
}

{
	my @numbers = map { new_number() } 1 .. 3;
	my $before  = retries();
	slow($_, 300) for @numbers;
	$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not this one'; END$$;
CREATE TRIGGER refuse BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW
	WHEN (NEW.state = 'placed' AND NEW.reference = 'poison') EXECUTE FUNCTION refuse();
SQL
	my @ids = split /\n/, $node->safe_psql('postgres',
		"SELECT kridtech_queue_call(n, reference => CASE i WHEN 2 THEN 'poison' END)"
		  . " FROM unnest(ARRAY['" . join("','", @numbers) . "']) WITH ORDINALITY AS t (n, i)");
	ok(kt_wait(sub { retries() > $before }), 'a user trigger refuses a result');
	is(verdict($ids[$_], $numbers[$_]), 'placed, K=1, works on', 'the others of its batch are recorded') for 0, 2;
	is(state_of($ids[1]), 'placing', 'it is not');
	$node->safe_psql('postgres', 'DROP FUNCTION refuse() CASCADE');
	is(verdict($ids[1], $numbers[1]), 'placed, K=1, works on', 'until the trigger is gone');
}

{
	my $number = new_number();
	$node->safe_psql('postgres', <<'SQL');
ALTER DATABASE postgres SET statement_timeout = '1ms';
ALTER DATABASE postgres SET lock_timeout = '1ms';
ALTER DATABASE postgres SET default_transaction_read_only = on;
ALTER DATABASE postgres SET work_mem = '64kB';
ALTER DATABASE postgres SET temp_file_limit = 0;
SET default_transaction_read_only = off;
SELECT kridtech_restart_workers();
SQL
	my $set = 'SET default_transaction_read_only = off; SET statement_timeout = 0; SET temp_file_limit = -1;';
	my $id = $node->safe_psql('postgres', "$set SELECT kridtech_queue_call('$number')");
	local $ENV{PGOPTIONS} = '-c statement_timeout=0 -c lock_timeout=0';    # nor what asks
	is(final_state($id), 'placed', 'time-outs stored for the database do not reach the dialer');
	my $large = new_number();
	my $large_id = $node->safe_psql('postgres', "$set SELECT kridtech_queue_call('$large', jsonb_build_object('text', repeat('x', 900000)))");
	is(final_state($large_id), 'placed', 'nor does the limit of temporary files, which a large request needs where there is little memory');
	$node->safe_psql('postgres', "$set ALTER DATABASE postgres RESET ALL");
	is(verdict($id, $number), 'placed, K=1, works on', 'one call, one row');
}

{
	my @numbers = (new_number(), new_number());
	my $offset  = log_end($node);
	sim_post($sim, 'scenarios', { toNumber => $_, fault => 'same_call_id', callId => 'call_twice' }) for @numbers;
	my @ids = map { queue($_) } @numbers;
	is(join(' ', sort map { final_state($_) } @ids), 'placed unknown', 'of two requests with the same callId one is placed, one unknown');
	is(join(' ', map { k_of($sim, $_) } @numbers), '1 1', 'each rang once');
	is($node->safe_psql('postgres', 'SELECT account_id, cause FROM kridtech.pauses'), 'acct-1|conflict', 'and the account is paused');
	like(log_since($node, $offset), qr/WARNING:.*callId that belongs to another request/, 'the log warns');
	my $held = queue(my $number = new_number());
	is(k_of($sim, $number), 0, 'nothing is sent');
	$node->safe_psql('postgres', "SELECT kridtech_resume('acct-1')");
	is(verdict($held, $number), 'placed, K=1, works on', 'until kridtech_resume()');
}

# A held lock must neither cost an answer that arrives meanwhile, nor keep the worker from ending.
sub locked_batch
{
	my ($n, $ms) = @_;
	my @numbers = map { new_number() } 1 .. $n;
	slow($_, $ms) for @numbers;
	my @ids = split /\n/,
	  $node->safe_psql('postgres', "SELECT kridtech_queue_call(n) FROM unnest(ARRAY['" . join("','", @numbers) . "']) AS n");
	on_network($_) for @numbers;
	my $locker = kt_background($node);
	$locker->query('BEGIN; LOCK TABLE kridtech.call_requests');
	return ($locker, \@ids, \@numbers);
}

{
	my ($locker, $ids, $numbers) = locked_batch(12, 1000);
	my $late   = new_number();
	my $before = retries();
	ok(kt_wait(sub { retries() >= $before + 3 }, 30), 'a dozen results wait for a lock');
	my $pid   = dialer_pid($node);
	my $start = time;
	kill TERM => $pid;
	kt_wait(sub { !alive($pid) }, 30);
	cmp_ok(time - $start, '<', 4, 'SIGTERM ends the dialer all the same');
	$locker->query('COMMIT');
	is(verdict($ids->[$_], $numbers->[$_]), 'unknown, K=1, works on', 'what it could not record is unknown') for 0, 11;
}

{
	my ($locker, $ids, $numbers) = locked_batch(12, 3000);
	my $start = time;
	# Longer than the request's time-out of 10 s: an answer that is there already must not fall to it.
	kt_wait(sub { time - $start > 13 }, 20);
	$locker->query('COMMIT');
	my %states;
	$states{ final_state($_, 60) }++ for @$ids;
	is_deeply(\%states, { placed => 12 }, 'no answer is lost to a lock that is held for longer than a request may take');
	is(works_on(), 'works on', 'and then');
}

# ---- the tables change under a request in flight ----------------------------------------------------------------

for my $statement (
	'DELETE FROM kridtech.call_requests WHERE id = $id',
	'TRUNCATE kridtech.call_requests, kridtech.call_attempts',
	'VACUUM FULL kridtech.call_requests',
	'VACUUM FULL kridtech.call_attempts',
	'ALTER TABLE kridtech.call_requests ADD COLUMN mine integer DEFAULT 1',
	'ALTER TABLE kridtech.call_requests DROP COLUMN mine',
	'REINDEX SCHEMA kridtech',
	"UPDATE pg_extension SET extversion = '9.9' WHERE extname = 'kridtech'",
	'DROP EXTENSION kridtech CASCADE; CREATE EXTENSION kridtech')
{
	my $number = new_number();
	my $pid    = dialer_pid($node);
	my $id     = fly($number, 1500);
	my $start  = time;
	$node->safe_psql('postgres', $statement =~ s/\$id/$id/r);
	cmp_ok(time - $start, '<', 1, "$statement does not wait for a request in flight");
	if ($statement =~ /extversion/)
	{
		sleep 2; # the dialer sees it, and its answer comes
		$node->safe_psql('postgres', "UPDATE pg_extension SET extversion = '0.1.0' WHERE extname = 'kridtech'");
	}
	if ($statement =~ /^(DELETE|TRUNCATE|DROP)/)
	{
		kt_wait(sub { $node->safe_psql('postgres', q{SELECT value FROM kridtech.stats WHERE name = 'in_flight'}) eq '0' });
		is(works_on(), 'works on', 'its row is gone');
		is(k_of($sim, $number), 1, 'and it rings once');
	}
	else
	{
		is(verdict($id, $number), 'placed, K=1, works on', 'it is placed');
	}
	is(dialer_pid($node), $pid, 'by the same worker');
}

{
	$node->safe_psql('postgres', 'CREATE DATABASE victim');
	$node->safe_psql('victim', 'CREATE EXTENSION kridtech');
	$node->safe_psql('postgres', "ALTER SYSTEM SET kridtech.databases = 'postgres, victim'");
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	my $number = new_number();
	hang($number);
	$node->safe_psql('victim', "SELECT kridtech_queue_call('$number')");
	on_network($number);
	my $start = time;
	$node->safe_psql('postgres', 'DROP DATABASE victim WITH (FORCE)');
	cmp_ok(time - $start, '<', 5, 'DROP DATABASE (FORCE) while the API hangs');
	is(works_on(), 'works on', 'the dialer of another database is not disturbed');
	is(k_of($sim, $number), 1, 'and it rings once');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET kridtech.databases');
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
}

# ---- an extension that can be seen before the caches hear of it ---------------------------------------------------

{
	$node->safe_psql('postgres', 'CREATE DATABASE fresh');
	set_and_reload('kridtech.databases', 'postgres, fresh');
	kt_wait(sub { sql($node, q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'fresh' AND state = 'idle' AND query = 'checking whether it may dial'}) })
	  or die 'no dialer has looked for the extension';
	my ($pid, $start) = (dialer_pid($node, 'fresh'), log_end($node));
	my $creator = kt_background($node, 'fresh');
	fault_arm($node, 'commit-visible', 'pause');
	$creator->send('CREATE EXTENSION kridtech');
	kt_wait(sub { fault_reached($node, 'commit-visible') }) or die 'CREATE EXTENSION does not wake the dialer';
	ok(kt_wait(sub { sql($node, "SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype = 'transactionid' AND NOT granted") }),
		'a dialer that sees the extension before the caches hear of it waits until they have heard');
	fault_disarm($node, 'commit-visible');
	is($creator->state, '00000', 'it is made');
	my $number = new_number();
	hang($number);
	$node->safe_psql('fresh', "SELECT kridtech_queue_call('$number')");
	on_network($number);
	my %seen;
	kt_wait(sub { $seen{ sql($node, "SELECT state_change FROM pg_stat_activity WHERE pid = $pid") // '' } = 1; keys %seen > 5 });
	is($node->safe_psql('fresh', 'SELECT state FROM kridtech.call_requests'), 'placing', 'the dialer has looked at it again and again, and still follows its request');
	unlike(log_since($node, $start), qr/does not exist|was dropped/, 'it has missed nothing of it');
	$node->safe_psql('postgres', 'DROP DATABASE fresh WITH (FORCE)');
	set_and_reload('kridtech.databases', 'postgres');
}

# ---- ends while the API hangs ---------------------------------------------------------------------------------

{
	my $number = new_number();
	hang($number);
	my $id = queue($number);
	on_network($number);
	my ($pid, $start) = (dialer_pid($node), time);
	kill TERM => $pid;
	kt_wait(sub { !alive($pid) }, 30);
	cmp_ok(time - $start, '<', 3, 'SIGTERM ends a dialer while the API hangs');
	is(verdict($id, $number), 'unknown, K=1, works on', 'its request is unknown');
}
for my $mode ([ smart => 'TERM' ], [ fast => 'INT' ], [ immediate => 'QUIT' ])
{
	my $number = new_number();
	hang($number);
	my $id = queue($number);
	on_network($number);
	cmp_ok(server_stop($node, $mode->[1]), '<', 4, "a $mode->[0] shutdown while the API hangs");
	server_start($node);
	is(verdict($id, $number), 'unknown, K=1, works on', 'its request is unknown');
}

# ---- with the postmaster dead ---------------------------------------------------------------------------------

{
	my $number = new_number();
	my @waiting = map { new_number() } 1 .. 50;
	hang($number);
	my $id = queue($number);
	on_network($number);
	set_and_reload('kridtech.calls_per_second', 2);
	$node->safe_psql('postgres', "SELECT kridtech_queue_call(n) FROM unnest(ARRAY['" . join("','", @waiting) . "']) AS n");
	my $pid      = dialer_pid($node);
	my @children = server_kill($node);
	ok(kt_wait(sub { !alive($pid) }, 1), 'a dialer ends within a second of its postmaster');
	my $sent = () = ledger($sim, 'since=0');
	kt_wait(sub { !grep { alive($_) } @children }, 30);
	is(scalar(() = ledger($sim, 'since=0')), $sent, 'and sends nothing more');
	server_start($node);
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET kridtech.calls_per_second');
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	is(verdict($id, $number), 'unknown, K=1, works on', 'what was in flight is unknown');
	ok(kt_wait(sub { sql($node, "SELECT count(*) FROM kridtech.call_requests WHERE state IN ('queued', 'placing')") eq '0' }), 'the queue is worked off');
	is((grep { k_of($sim, $_) > 1 } @waiting), 0, 'and none of it rang twice');
}

# ---- two dialers by mistake -----------------------------------------------------------------------------------

# The dialer's lock is of a kind that SQL cannot take: nobody can keep it from its work by one of the same numbers.
{
	my $number = new_number();
	my $other  = kt_background($node);
	my $held   = '1802660196, 1684627820';
	my $locks  = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND (classid::bigint, objid::bigint) = ($held) AND objsubid = 3 AND granted";
	is($node->safe_psql('postgres', $locks), 1, 'a dialer holds its lock');
	$other->query("SELECT pg_advisory_lock($held)");
	my $pid = dialer_pid($node);
	$node->safe_psql('postgres', 'SELECT kridtech_restart_workers()');
	ok(kt_wait(sub { my $new = dialer_pid($node); $new && $new != $pid }), 'another one comes');
	my $id = queue($number);
	is(verdict($id, $number), 'placed, K=1, works on', "and dials, whatever lock a user holds");
	is($node->safe_psql('postgres', $locks), 1, 'one dialer holds the lock');
	$other->quit;
}

# The epoch: a dialer that another one has overtaken (here: by hand, what a new one does first).
{
	my $number = new_number();
	my $id     = fly($number, 1500);
	$node->safe_psql('postgres', <<SQL);
UPDATE kridtech.identity SET epoch = epoch + 1;
UPDATE kridtech.call_requests SET state = 'unknown', finished_at = now(), error = 'taken over' WHERE id = $id;
UPDATE kridtech.call_attempts SET finished_at = now() WHERE request_id = $id;
SQL
	my $epoch = 'SELECT max(epoch) FROM kridtech.identity';
	my $taken = $node->safe_psql('postgres', $epoch);
	kt_wait(sub { $node->safe_psql('postgres', $epoch) > $taken });
	is(works_on(), 'works on', 'a dialer that was overtaken begins anew once its requests have landed');
	is(state_of($id), 'unknown', 'and does not touch what it lost');
	is(k_of($sim, $number), 1, 'and it rings once');
}

is($node->safe_psql('postgres', 'SELECT max(n) FROM (SELECT count(*) AS n FROM kridtech.call_attempts WHERE live GROUP BY request_id) AS t'), 1,
	'no request has two attempts that may have been applied');
my %k;
$k{ $_->{toNumber} }++ for ledger($sim, 'since=0');
is((grep { $_ > 1 } values %k), 0, 'over all, no number was called twice');
server_stop($node);
done_testing();
