# The workers: which of them run, where, and that they come back, go and stay away when they should.
use strict;
use warnings;

use Cwd qw(getcwd);
use File::Temp qw(tempdir);
use IPC::Run ();
use Kridtech;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

# What backend_type and datname pg_stat_activity shows for our workers, as "launcher|", "dialer|a".
my $workers = q{
	SELECT string_agg(substr(backend_type, 10) || '|' || coalesce(datname, ''), ' ' ORDER BY backend_type DESC, datname)
	  FROM pg_stat_activity WHERE backend_type LIKE 'kridtech %'};

sub workers
{
	my ($node) = @_;
	return $node->safe_psql('postgres', $workers);
}

# Waits until the workers are these; the last seen are the test's "got".
sub workers_become
{
	my ($node, $expected, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return kt_becomes(sub { workers($node) }, $expected, $name, $seconds);
}

sub pid_of
{
	my ($node, $type, $database) = @_;
	my $where = defined $database ? "AND datname = '$database'" : '';
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'kridtech $type' $where");
}

sub health
{
	my ($node, $database, $component) = @_;
	return $node->safe_psql($database,
		"SELECT ok, detail FROM kridtech.health WHERE component = '$component'");
}

sub set_and_reload
{
	my ($node, $setting, $value) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET $setting = '$value'");
	$node->reload;
	return;
}

# The server's log since a position, and the position of its end.
sub log_since
{
	my ($node, $offset) = @_;
	open my $file, '<', $node->logfile or die $node->logfile . ": $!";
	seek $file, $offset // 0, 0;
	my $text = do { local $/; <$file> };
	return $text // '';
}

sub log_end
{
	my ($node) = @_;
	return -s $node->logfile;
}

# The fields of /proc/PID/stat after the name: from the state on.
sub stat_of
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/stat" or return;
	my $line = <$file> // return;
	return split ' ', $line =~ s/.*\) //r;
}

# A zombie has ended: not every container has somebody who waits for orphans.
sub alive
{
	my ($pid) = @_;
	my ($state) = stat_of($pid) or return 0;
	return $state ne 'Z';
}

# CPU time of a process in milliseconds, as the scheduler counts it: a clock tick would be charged to who runs when it comes.
sub cpu_ms
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/schedstat" or die "/proc/$pid/schedstat: $!";
	return (split ' ', <$file>)[0] / 1e6;
}

# A signal to a process of the server, and the seconds until it is gone.
sub seconds_to_end
{
	my ($node, $pid) = @_;
	my $start = time;
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	kt_wait(sub { !alive($pid) }, 20);
	return time - $start;
}

sub crash_recovers
{
	my ($node, $offset) = @_;
	kt_wait(sub { log_since($node, $offset) =~ /ready to accept connections/ }, 20);
	return kt_wait(sub { eval { ($node->psql('postgres', 'SELECT 1'))[0] == 0 } }, 20);
}

# ---- databases come and go ----------------------------------------------------------------------------------

my $node = kt_cluster(
	'main',
	init => [ allows_streaming => 1 ],
	# Nothing is placed here; a port where nobody listens makes sure of it.
	conf => "kridtech.base_url = 'http://127.0.0.1:1'\nkridtech.databases = 'a, b'\nautovacuum = off\nrestart_after_crash = on\nmax_worker_processes = 10\n");
my $offset = 0;

workers_become($node, 'launcher|', 'a database that does not exist gets no worker');
like(log_since($node), qr/kridtech launcher: database "a" does not exist; database "b" does not exist/,
	'and the log says which do not exist');

$node->safe_psql('postgres', 'CREATE DATABASE a');
workers_become($node, 'launcher| dialer|a', 'a database created later gets its dialer without a reload', 15);
is(() = log_since($node) =~ /kridtech launcher: /g, 2, 'the log has a line for each change and no more');

# the extension is not there yet, and comes later
is($node->safe_psql('a', 'SELECT count(*) FROM pg_extension'), 1, 'a database may lack the extension');
my $dialer = pid_of($node, 'dialer', 'a');
$node->safe_psql('a', 'CREATE EXTENSION kridtech');
sleep 1.5;
is(pid_of($node, 'dialer', 'a'), $dialer, 'the dialer waits for the extension without ending');
is($node->safe_psql('a', 'SELECT application_name FROM pg_stat_activity WHERE pid = ' . $dialer),
	'kridtech dialer', 'it has an application_name');

$node->safe_psql('postgres', 'CREATE DATABASE b');
$node->safe_psql('postgres', 'CREATE DATABASE "Übung, ""c"" "');
set_and_reload($node, 'kridtech.databases', 'a, b, "Übung, ""c"" "');
workers_become($node, 'launcher| dialer|a dialer|b dialer|Übung, "c" ', 'a reload starts what is named, by any name');

set_and_reload($node, 'kridtech.databases', 'a, A, template1');
workers_become($node, 'launcher| dialer|a', 'a reload ends what is no longer named, and a template gets no dialer');
is(pid_of($node, 'dialer', 'a'), $dialer, 'a dialer that stays named is left alone');
like(log_since($node), qr/database "template1" is a template/, 'the log says so of the template');

is(scalar $node->psql('postgres', 'DROP DATABASE b'), 0, 'a database that lost its dialer can be dropped');

set_and_reload($node, 'kridtech.databases', 'a, d');
$node->safe_psql('postgres', 'CREATE DATABASE d');
workers_become($node, 'launcher| dialer|a dialer|d', 'd has a dialer', 15);
my $start = time;
$node->safe_psql('postgres', 'DROP DATABASE d WITH (FORCE)');
cmp_ok(time - $start, '<', 5, 'DROP DATABASE (FORCE) of a database with a dialer works');
workers_become($node, 'launcher| dialer|a', 'its dialer is gone');
kt_wait(sub { log_since($node) =~ /(?s:.*)database "d" does not exist/ });
$node->safe_psql('postgres', 'CREATE DATABASE d');
workers_become($node, 'launcher| dialer|a dialer|d', 'and a new database of the name gets one', 15);

$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
$start = time;
$node->safe_psql('postgres', 'DROP DATABASE elsewhere');
cmp_ok(time - $start, '<', 3, 'DROP DATABASE of another database does not wait for the sleeping workers');
is($node->psql('postgres', "ALTER SYSTEM SET kridtech.databases = 'a,,b'"), 3,
	'a malformed list of databases is refused');

# ---- what a database's owner stores does not reach the dialer ------------------------------------------------

$node->safe_psql('postgres', <<'SQL');
ALTER DATABASE a SET synchronous_commit = off;
ALTER DATABASE a SET lock_timeout = '1h';
ALTER DATABASE a SET default_transaction_read_only = on;
ALTER DATABASE a SET statement_timeout = '1ms';
ALTER ROLE ALL SET search_path = public;
SQL
{
	# Of the settings above this session is spared one.
	local $ENV{PGOPTIONS} = '-c statement_timeout=0';
	$node->safe_psql('a', 'SELECT kridtech_restart_workers(); SELECT kridtech_wake()');
}
ok(kt_wait(sub { my $pid = pid_of($node, 'dialer', 'a'); $pid && $pid ne $dialer }),
	'kridtech_restart_workers() ends the dialer, and a new one comes at once');
$node->reload;
sleep 1.5;
unlike(log_since($node), qr/statement timeout|read-only transaction/, 'settings stored for the database do not reach it');
$node->safe_psql('postgres', 'ALTER DATABASE a RESET ALL');
$node->safe_psql('postgres', 'ALTER ROLE ALL RESET ALL');

# ---- ends and comebacks -------------------------------------------------------------------------------------

my $launcher = pid_of($node, 'launcher');
$dialer = pid_of($node, 'dialer', 'a');
cmp_ok(seconds_to_end($node, $launcher), '<', 3, 'pg_terminate_backend() ends the launcher');
workers_become($node, 'launcher| dialer|a dialer|d', 'it comes back', 15);
sleep 0.5;
is(pid_of($node, 'dialer', 'a'), $dialer, 'and finds the dialers of the one before it');
cmp_ok(seconds_to_end($node, $dialer), '<', 3, 'pg_terminate_backend() ends a dialer');
workers_become($node, 'launcher| dialer|a dialer|d', 'it comes back, though another launcher had started it');
set_and_reload($node, 'kridtech.databases', 'a');
workers_become($node, 'launcher| dialer|a', 'and so can be ended what another launcher had started');

# cancel: an error of the unit of work at most
$dialer = pid_of($node, 'dialer', 'a');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($_)") for ($dialer, $launcher = pid_of($node, 'launcher')) x 20;
sleep 0.3;
is(pid_of($node, 'dialer', 'a'), $dialer, 'pg_cancel_backend() does not end a dialer');
is(pid_of($node, 'launcher'), $launcher, 'nor the launcher');

# a lock: held by a user for long
my $user = kt_background($node, 'a');
$user->query('BEGIN; LOCK TABLE kridtech.call_requests');
ok( kt_wait(sub { log_since($node) =~ /ERROR:  canceling statement due to lock timeout/ }),
	'a dialer gives up waiting for a lock');
is(pid_of($node, 'dialer', 'a'), $dialer, 'and lives');
ok( kt_wait(sub { $node->safe_psql('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $dialer") eq 't' }),
	'it waits for the lock again');
cmp_ok(seconds_to_end($node, $dialer), '<', 3, 'pg_terminate_backend() ends a dialer that waits for a lock');
$user->query('ROLLBACK');
$user->quit;
workers_become($node, 'launcher| dialer|a', 'it comes back');

$offset = log_end($node);
kill KILL => pid_of($node, 'dialer', 'a');
ok(crash_recovers($node, $offset), 'the server recovers from the kill -9 of a dialer');
workers_become($node, 'launcher| dialer|a', 'and has its workers');
$offset = log_end($node);
my $backend = kt_background($node, 'a');
kill KILL => $backend->pid;
ok(crash_recovers($node, $offset), 'the server recovers from the kill -9 of another backend');
workers_become($node, 'launcher| dialer|a', 'and has its workers');

# ---- health -------------------------------------------------------------------------------------------------

like(health($node, 'a', 'dialer'), qr/^[tf]\|./, 'health has words about the dialer');
is(health($node, 'a', 'receiver'), '|kridtech.webhook_listen is empty: nothing is received', 'health says that there is no receiver');
like(health($node, 'a', 'queue'), qr/^t\|0 ready, 0 waiting, 0 on the network, 0 unknown/, 'health has words about the queue');
is(health($node, 'a', 'credentials'), 'f|default account: no API key file is set', 'health misses the API key');
my $key_file = kt_key_file("secret-key\n");
set_and_reload($node, 'kridtech.api_key_file', $key_file);
set_and_reload($node, 'kridtech.account_id',   'acct-1');
ok(kt_wait(sub { health($node, 'a', 'credentials') =~ /^t\|/ }), 'and finds it when it is there');
chmod 0644, $key_file;
like(health($node, 'a', 'credentials'), qr/^f\|.*has permissions other than/, 'health tells of its permissions');
unlike($node->safe_psql('a', 'TABLE kridtech.health'), qr/secret-key/, 'and never its content');
chmod 0600, $key_file;
$node->safe_psql('a', q{INSERT INTO kridtech.accounts VALUES ('acct-2', '/nowhere')});
like(health($node, 'a', 'credentials'), qr{^f\|account "acct-2": API key file "/nowhere" does not exist$},
	'health looks at every account');
$node->safe_psql('a', q{DELETE FROM kridtech.accounts});
$node->safe_psql('a', q{INSERT INTO kridtech.pauses (account_id, cause, reason, until) VALUES
	('acct-1', 'manual', 'holiday', NULL), ('', 'rate', NULL, now() + interval '1 hour'), ('acct-3', 'rate', NULL, now()),
	('acct-4', 'manual', 'holiday', NULL), ('acct-4', 'credits', 'topped up never', NULL), ('acct-4', 'rate', NULL, now())});
is(health($node, 'a', 'account acct-1'), 'f|manual: holiday', 'health has a row for a paused account');
like(health($node, 'a', 'all accounts'), qr/^f\|rate; ends 2/, 'and for a pause of all');
is(health($node, 'a', 'account acct-3'), '', 'but none for a pause that is over');
is(health($node, 'a', 'account acct-4'), 'f|credits: topped up never; also manual: holiday', 'and a single one for an account with two causes');
$node->safe_psql('a', q{INSERT INTO kridtech.call_requests (to_number, created_at, account_id)
	VALUES ('+14155550123', now() - interval '1 hour', 'acct-1')});
like(health($node, 'a', 'queue'), qr/^t\|1 ready/, 'what waits for a pause is no fault');
$node->safe_psql('a', q{DELETE FROM kridtech.pauses WHERE account_id <> ''; DELETE FROM kridtech.call_requests});
$node->safe_psql('a', q{INSERT INTO kridtech.call_requests (to_number, state, finished_at)
	SELECT '+14155550123', 'unknown', now() FROM generate_series(1, 5)});
like(health($node, 'a', 'queue'), qr/^f\|stopped by kridtech.max_unknown.* 5 unknown \(5 of the last hour/,
	'health says when max_unknown holds the dialer');
$node->safe_psql('a', q{DELETE FROM kridtech.call_requests; DELETE FROM kridtech.pauses});

# what runs inside the dialer, at the very end of its transaction, may SET what it likes: for that long only
$offset = log_end($node);
$node->safe_psql('a', q{
	CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		RAISE LOG 'meddling while %, %', current_setting('synchronous_commit'), current_setting('lock_timeout');
		PERFORM set_config('synchronous_commit', 'off', false), set_config('lock_timeout', '1h', false);
		RETURN NEW;
	END $$;
	CREATE CONSTRAINT TRIGGER meddle AFTER UPDATE ON kridtech.call_requests DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION meddle();
	INSERT INTO kridtech.call_requests (to_number) VALUES ('+14155550123')});
ok(kt_wait(sub { (() = log_since($node, $offset) =~ /LOG:  meddling while on, 900ms/g) >= 2 }),
	'what a trigger sets in a dialer is put back for the next transaction');
unlike(log_since($node, $offset), qr/LOG:  meddling while (?!on, 900ms)/, 'and for every one');
$node->safe_psql('a', 'DROP FUNCTION meddle() CASCADE; DELETE FROM kridtech.call_requests');

is($node->safe_psql('a', q{SELECT count(*) FROM kridtech.stats WHERE name IN
	('placed', 'failed', 'unknown', 'in_flight', 'latency_p50_ms', 'latency_p90_ms', 'latency_p99_ms')}),
	7, 'stats has its names');

# a role for monitoring
$node->safe_psql('a', q{CREATE ROLE monitor; GRANT USAGE ON SCHEMA kridtech TO monitor;
	GRANT SELECT ON kridtech.health, kridtech.stats TO monitor;
	GRANT EXECUTE ON FUNCTION kridtech_health(), kridtech_stats() TO monitor});
is($node->safe_psql('a', q{SET ROLE monitor; SELECT count(*) > 4 FROM kridtech.health; SELECT count(*) > 10 FROM kridtech.stats}),
	"t\nt", 'a role without a right on the tables can monitor');

# another database with the extension that is not named
$node->safe_psql('postgres', 'CREATE EXTENSION kridtech');
is(health($node, 'postgres', 'dialer'), 'f|the setting kridtech.databases does not name this database',
	'health says that the database is not named');
like(($node->psql('postgres', 'SELECT kridtech_wake()'))[2], qr/no dialer runs for this database/, 'kridtech_wake() says that there is none');

# ---- idle ---------------------------------------------------------------------------------------------------

my @pids = (pid_of($node, 'launcher'), pid_of($node, 'dialer', 'a'));
sleep 1;
my @before = map { cpu_ms($_) } @pids;
sleep 5;
my @after = map { cpu_ms($_) } @pids;
cmp_ok($after[0] - $before[0], '<', 1, 'an idle launcher uses no CPU');
cmp_ok($after[1] - $before[1], '<', 25, 'an idle dialer hardly any');

# ---- standby ------------------------------------------------------------------------------------------------

$node->backup('base');
my $standby = (ref $node)->can('get_new_node') ? (ref $node)->get_new_node('standby') : (ref $node)->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
sleep 1;
is(workers($standby), '', 'a standby has no workers');
like(health($standby, 'a', 'dialer'), qr/^\|this server is a standby/, 'and health says why');
$standby->promote;
workers_become($standby, 'launcher| dialer|a', 'it has them after its promotion');
$standby->stop('immediate');

# ---- stops --------------------------------------------------------------------------------------------------

for my $mode (qw(smart fast immediate))
{
	$start = time;
	$node->stop($mode);
	cmp_ok(time - $start, '<', 3, "a $mode shutdown does not wait for the workers");
	$node->start;
	workers_become($node, 'launcher| dialer|a', 'and they are there after the start');
}

# ---- too few worker slots -----------------------------------------------------------------------------------

$node->append_conf('postgresql.conf', "max_worker_processes = 2\nmax_logical_replication_workers = 0");
$node->safe_psql('postgres', "ALTER SYSTEM SET kridtech.databases = 'a, d'");
$offset = log_end($node);
$node->restart;
ok(kt_wait(sub { log_since($node, $offset) =~ /database "[ad]" has no dialer: no worker slot is free\n.*HINT:  Increase max_worker_processes/ }),
	'too few worker slots is said clearly');
sleep 2;
is(() = log_since($node, $offset) =~ /no worker slot is free/g, 1, 'and once');
my ($poor) = log_since($node, $offset) =~ /database "([ad])" has no dialer/;
$node->safe_psql($poor, 'CREATE EXTENSION IF NOT EXISTS kridtech');
like(health($node, $poor, 'dialer'), qr/^f\|no dialer runs .*launcher: .*no worker slot is free/, 'health says it too');
set_and_reload($node, 'kridtech.databases', $poor);
workers_become($node, "launcher| dialer|$poor", 'a slot that becomes free is used', 20);

# ---- with the postmaster dead --------------------------------------------------------------------------------

# A child of ours, so that we can wait for it: a zombie's lock file would block the next start.
$node->stop;
my $postmaster = fork // die "fork: $!";
if ($postmaster == 0)
{
	open STDOUT, '>>', $node->logfile;
	open STDERR, '>&', \*STDOUT;
	exec 'postgres', '-D', $node->data_dir or POSIX::_exit(127);
}
# psql may be gone before it has read the statement: that dies of a broken pipe.
kt_wait(sub { eval { ($node->psql('postgres', 'SELECT 1'))[0] == 0 } });
workers_become($node, "launcher| dialer|$poor", 'the workers are there');
@pids = (pid_of($node, 'launcher'), pid_of($node, 'dialer', $poor));
kill KILL => $postmaster;
waitpid $postmaster, 0;
ok(kt_wait(sub { !grep { alive($_) } @pids }, 1), 'when the postmaster dies, the workers end within a second');

# ---- without workers ----------------------------------------------------------------------------------------

my $data   = $node->data_dir;
my $single = qx{echo "SELECT 'single ' || current_setting('kridtech.databases')" | postgres --single -D '$data' a 2>&1};
like($single, qr/single $poor/, 'single-user mode works');
unlike($single, qr/kridtech (launcher|dialer)|FATAL|PANIC/, 'and starts no worker');
SKIP:
{
	skip 'no setting computed at start before 15', 1 if `postgres --version` =~ / 1[34]/;
	like(qx{postgres -D '$data' -C shared_memory_size 2>&1}, qr/^\d+$/m, 'postgres -C works');
}

# pg_upgrade makes the new cluster's postgres afresh, and cannot while anybody is connected to it. (No extension
# is in the old one: from 18 on pg_upgrade does not find the library where these tests install it.)
SKIP:
{
	skip 'pg_upgrade starts servers without the sanitizer', 2 if $ENV{SANITIZE};
	my ($old, $upgraded) =
	  map { kt_cluster($_, start => 0, conf => "kridtech.databases = 'postgres'\nkridtech.webhook_listen = '127.0.0.1:0'") } qw(old upgraded);
	chomp(my $bin = qx{pg_config --bindir});
	my $here   = getcwd;
	my $output = tempdir(CLEANUP => 1);
	my $said;
	chdir $output;
	my @upgrade = ('pg_upgrade', '-b', $bin, '-B', $bin, '-d', $old->data_dir, '-D', $upgraded->data_dir, '-s', $output);
	ok(IPC::Run::run(\@upgrade, '<', \'', '>&', \$said), 'pg_upgrade works') or diag $said;
	chdir $here;
	$upgraded->start;
	workers_become($upgraded, 'receiver|postgres launcher| dialer|postgres', 'and the new cluster has its workers');
	$upgraded->stop;
}

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->start;
is(workers($node), '', 'without preloading there are no workers');
for my $statement (qw(kridtech_wake() kridtech_restart_workers() kridtech_stats()))
{
	my ($status, undef, $error) = $node->psql('a', "\\set VERBOSITY verbose\nSELECT $statement");
	like($error, qr/ERROR:  55000: .*\n.*HINT:.*shared_preload_libraries/, "$statement says so");
}
like(health($node, 'a', 'dialer'), qr/^f\|.*shared_preload_libraries/, 'and so does health');
$node->stop;
done_testing();
