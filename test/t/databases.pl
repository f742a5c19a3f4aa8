# Databases and extensions come, go and change their names under both workers, with a call and a webhook on the way;
# and a server with too few worker slots for a receiver.
use strict;
use warnings;

use Copying;
use IO::Socket::INET;
use Kridtech;
use Test::More;
use Time::HiRes qw(time);

my $sim  = kt_simulator('--listen', '127.0.0.1:0', '--die-with-parent', '--seed', '1', '--key', 'sim-key');
my $node = kt_cluster('databases', conf => copying_conf($sim) . "kridtech.databases = ''\nkridtech.webhook_listen = 'app\@127.0.0.1:0, other\@127.0.0.1:0'\n");
kt_create_extension($node, 'app');
my ($d, $r) = copying_both($sim, $node);
name_databases('app');
ok($d->dials && $r->receives, 'the workers are there');
my $port = $r->port;

# Both workers of a database, where it has them.
sub workers
{
	return $node->safe_psql('postgres', q{SELECT string_agg(datname || ' ' || pid, ', ' ORDER BY pid) FROM pg_stat_activity WHERE backend_type IN ('kridtech dialer', 'kridtech receiver')});
}

sub name_databases
{
	my ($names) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET kridtech.databases = '$names'");
	$node->reload;
	return;
}

sub state_of
{
	my ($sql) = @_;
	my (undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	return $error =~ /ERROR:\s+(\w{5})/ ? $1 : '00000';
}

# A call whose answer does not come, and half a webhook.
my $number = 1;

sub something_on_the_way
{
	my $id = $d->queue('+15550100607');
	$d->becomes($id, 'placing', 'a call is on the network');
	my $socket = $r->connect;
	syswrite $socket, substr $r->request($r->webhook('call_half')), 0, 150;
	return $socket;
}

sub works
{
	my ($name) = @_;
	ok($d->dials && $r->receives, "$name: the workers work") or diag $d->health('dialer') . $d->health('receiver');
	my $to = sprintf '+49300900%02d', $number++;
	$d->becomes($d->queue($to), 'placed', "$name: a call is placed");
	is($sim->k($to), 1, "$name: once");
	return is($r->post($r->webhook("call_$number")), 200, "$name: a webhook is received");
}

# ---- the extension comes and goes ------------------------------------------------------------------------------------

works('at first');
my $before = workers();
for my $schema ('telephony', '"Odd name"', 'public')
{
	my $half = something_on_the_way();
	$d->sql('DROP EXTENSION kridtech');
	my $health = q{SELECT string_agg(detail, ' ') FROM kridtech.health};
	like($d->sql_error($health), qr/42P01|3F000/, 'the extension is dropped');
	$d->sql("CREATE SCHEMA IF NOT EXISTS $schema; CREATE EXTENSION kridtech SCHEMA $schema; SET search_path = $schema");
	is($d->sql('SELECT count(*) FROM kridtech.call_requests'), 0, "made again in $schema it has no requests");
	works("in $schema");
	syswrite $half, substr $r->request($r->webhook('call_half')), 150;
	is($r->answer($half), 200, 'the webhook that was on the way is answered');
	is($r->deliveries('call_half'), 1, 'and stored in the new table');
}
is(workers(), $before, 'all the while it was the same workers');

# ---- another name ----------------------------------------------------------------------------------------------------

$d->forget_sessions;
delete $r->{session};
is(state_of('CREATE DATABASE copy TEMPLATE app'), '55006', 'a database with workers cannot be a template');
is(state_of('ALTER DATABASE app RENAME TO other'), '55006', 'nor get another name');
is(state_of('DROP DATABASE app'), '55006', 'nor be dropped without FORCE');
name_databases('');
ok(kt_wait(sub { workers() eq '' }), 'without being named it has no workers');
ok(kt_wait(sub { copying_refuses($port) }), 'and refuses webhooks');
is(state_of('ALTER DATABASE app RENAME TO other'), '00000', 'now it gets another name');
name_databases('other');
($d, $r) = copying_both($sim, $node, 'other');
works('renamed');
isnt($r->port, $port, 'it listens where its new name stands');
ok(copying_refuses($port), 'and nowhere else');
is($d->sql(q{SELECT detail FROM kridtech.health WHERE component = 'dialer'}), 'dialling', 'it is no copy');

# ---- DROP DATABASE (FORCE) --------------------------------------------------------------------------------------------

my $half = something_on_the_way();
$port = $r->port;
$d->forget_sessions;
delete $r->{session};
my $start = time;
is(state_of('DROP DATABASE other WITH (FORCE)'), '00000', 'DROP DATABASE (FORCE) drops it with both workers, a call and a webhook');
cmp_ok(time - $start, '<', 6, 'soon');
ok(kt_wait(sub { workers() eq '' }), 'they are gone');
ok(kt_wait(sub { copying_refuses($port) }), 'it refuses webhooks');
kt_create_extension($node, 'other');
($d, $r) = copying_both($sim, $node, 'other');
works('made anew');
is($d->sql('SELECT count(*) FROM kridtech.call_requests'), 1, 'with a table of its own');

# ---- too few worker slots -----------------------------------------------------------------------------------------------

$d->forget_sessions;
delete $r->{session};
delete $r->{port};
$node->append_conf('postgresql.conf', "max_worker_processes = 2\nmax_logical_replication_workers = 0");
my $offset = -s $node->logfile;
$node->restart;

sub log_of
{
	open my $file, '<', $node->logfile or die $!;
	seek $file, $_[0] // 0, 0;
	local $/;
	return <$file>;
}

ok(kt_wait(sub { log_of($offset) =~ /kridtech launcher: database "other" has no receiver: no worker slot is free\n.*HINT:  Increase max_worker_processes/ }), 'the log says clearly that there is no slot for a receiver');
like($r->health, qr/^f\|.*no receiver runs; launcher: .*database "other" has no receiver: no worker slot is free/, 'and so does health');
ok($d->dials, 'the dialer works');
ok(copying_refuses(copying_listens_at($node)), 'webhooks are refused');
$d->forget_sessions;
delete $r->{session};
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
$node->restart;
works('with one slot more');
$d->forget_sessions;
delete $r->{session};
$node->stop('fast');
unlike(log_of(), qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
