# A copy of a database does not dial, whatever way it was made, until a human adopts it; its origin goes on.
use strict;
use warnings;

use Copying;
use Dialing;
use Kridtech;
use PostgreSQL::Test::Utils ();
use Test::More;

my $d = Dialing->new('origin', database => 'app', init => [ allows_streaming => 1 ], conf => <<'CONF');
kridtech.max_concurrent_requests = 1
kridtech.request_timeout = '3s'
CONF
my $node = $d->{node};
my $dump = $node->basedir . '/app.sql';

# One request is under way while the copies are made, three wait behind it.
my @numbers = map { "+493001000$_" } 1 .. 3;
my $done    = $d->queue('+4930010009');
$d->becomes($done, 'placed', 'the origin dials');
my $hangs = $d->queue('+15550100607');
$d->becomes($hangs, 'placing', 'a request is under way');
my @waiting = map { $d->queue($_) } @numbers;
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('app') ], 'the origin is dumped');
$d->becomes($hangs, 'unknown', 'the request under way comes to its end');
$d->becomes($_, 'placed', 'the origin goes on') for @waiting;

sub k
{
	return join ' ', map { $d->k($_) } @numbers;
}
my $k = 1;

# A test: the origin is not disturbed, and what the copy holds was not dialled.
my $more = 0;
sub origin_goes_on
{
	my ($what, $copy) = @_;
	my $number = sprintf '+49300200%02d', ++$more;
	my $id = $d->queue($number);
	$d->becomes($id, 'placed', "$what: the origin still dials");
	if ($copy)
	{
		$copy->turns;
		is($copy->sql("SELECT count(*) FROM kridtech.call_requests WHERE state = 'queued'"), 3, "$what: what was queued is still queued");
		is($copy->sql("SELECT count(*) FROM kridtech.call_requests WHERE state = 'placing'"), 1, "$what: what was under way is untouched");
	}
	return is(k(), "$k $k $k", "$what: K of what it holds is unchanged");
}

# A test: the copy is paused and says so.
sub is_paused
{
	my ($what, $copy, $why) = @_;
	copying_paused($copy, $why, "$what: it is paused, and health says why");
	my $id = $copy->queue('+4930030009');
	origin_goes_on($what, undef);
	$copy->turns;
	is($copy->state($id), 'queued', "$what: neither is dialled what is queued there now");
	return is($copy->sql("SELECT kridtech_cancel_call($id)"), 't', "$what: though it can be cancelled");
}

# A test: adopted, it dials what it found queued, once; what was under way is unknown.
sub is_adopted
{
	my ($what, $copy) = @_;
	my $epoch = $copy->sql('SELECT max(epoch) FROM kridtech.identity');
	$copy->sql('SELECT kridtech_adopt()');
	ok($copy->dials, "$what: kridtech_adopt() lets it dial");
	$copy->sql_becomes("SELECT count(*) FROM kridtech.call_requests WHERE state = 'placed' AND to_number LIKE '+493001000_'", 4, "$what: what was queued is placed");
	is($copy->sql("SELECT state FROM kridtech.call_requests WHERE id = $hangs"), 'unknown', "$what: what was under way is unknown");
	is($copy->sql("SELECT count(*) FROM kridtech.call_attempts WHERE request_id = $hangs AND live AND finished_at IS NOT NULL AND outcome = 'unknown'"), 1, "$what: with its attempt");
	is($d->k('+15550100607'), 1, "$what: and not dialled again");
	$k++;
	is(k(), "$k $k $k", "$what: each was dialled once more, as was decided");
	is($copy->sql('SELECT count(*) FROM kridtech.identity'), 1, "$what: it has one identity now");
	return cmp_ok($copy->sql('SELECT max(epoch) FROM kridtech.identity'), '>', $epoch, "$what: its epoch goes on");
}

# ---- dump and restore into the same cluster -----------------------------------------------------------------

{
	$d->create_database('restored');
	$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('restored') ], 'the dump is restored beside it');
	$d->set('kridtech.databases' => 'app, restored');
	my $copy = $d->beside($node, 'restored');
	is_paused('restored beside', $copy, 'another database');
	origin_goes_on('restored beside', $copy);
	is_adopted('restored beside', $copy);
	$copy->sql('SELECT kridtech_restart_workers()');
	ok($copy->dials, 'restored beside: and it goes on doing so after a restart');
}

# The same into a database that has its dialer already, and slowly: as large tables are, and parallel restores.
{
	$d->create_database('slow');
	$d->set('kridtech.databases' => 'app, slow');
	my $text = PostgreSQL::Test::Utils::slurp_file($dump);
	$text =~ s/^(COPY kridtech\.identity)/SELECT pg_sleep(3);\n$1/m or die 'the dump has no identity';
	PostgreSQL::Test::Utils::append_to_file("$dump.slow", $text);
	$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.slow", '-d', $node->connstr('slow') ], 'the dump is restored slowly under a dialer');
	my $copy = $d->beside($node, 'slow');
	ok(kt_wait(sub { $copy->health('dialer') =~ /^f.paused: this database is a copy/ }), 'restored slowly: in the end it is paused');
	$d->becomes($d->queue('+4930020099'), 'placed', 'restored slowly: the origin still dials');
	is($copy->sql("SELECT count(*) FROM kridtech.call_requests WHERE state = 'queued'"), 3, 'restored slowly: what was queued is still queued');
	is(k(), "$k $k $k", 'restored slowly: K of what it holds is unchanged');
	$k = $d->k($numbers[0]);
	$d->set('kridtech.databases' => 'app');
}

# ---- into another cluster -----------------------------------------------------------------------------------

{
	my $url     = $d->url;
	my $another = kt_cluster('another', conf => <<"CONF");
kridtech.base_url = '$url'
kridtech.api_key_file = '$d->{key_file}'
kridtech.account_id = 'acct-1'
kridtech.databases = 'app'
log_statement = none
CONF
	$another->safe_psql('postgres', 'CREATE DATABASE app');
	$another->command_ok([ 'psql', '-Xq', '-1', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $another->connstr('app') ], 'the dump is restored in another cluster');
	my $copy = $d->beside($another);
	is_paused('another cluster', $copy, 'another cluster');
	origin_goes_on('another cluster', $copy);
	is_adopted('another cluster', $copy);
	$copy->forget_sessions;
	$another->stop('fast');
}

# ---- CREATE DATABASE ... TEMPLATE ---------------------------------------------------------------------------


{
	$d->forget_sessions;
	$d->{database} = 'app';
	$node->safe_psql('postgres', "ALTER SYSTEM SET kridtech.databases = ''");
	$node->reload;
	ok(kt_wait(sub { $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app'") eq '0' }), 'no dialer and nobody is there');
	$node->safe_psql('app', <<"SQL");
INSERT INTO kridtech.call_requests (to_number) SELECT unnest('{+4930040001, +4930040002}'::text[]);
SQL
	kt_wait(sub { $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app'") eq '0' });
	$node->safe_psql('postgres', 'CREATE DATABASE cloned TEMPLATE app');
	$node->safe_psql('postgres', "ALTER SYSTEM SET kridtech.databases = 'app, cloned'");
	$node->reload;
	ok($d->dials, 'the origin dials again, by itself');
	$d->sql_becomes("SELECT count(*) FROM kridtech.call_requests WHERE state = 'placed' AND to_number LIKE '+493004000_'", 2, 'what was queued');
	my $copy = $d->beside($node, 'cloned');
	is_paused('cloned', $copy, 'another database');
	is($copy->sql("SELECT count(*) FROM kridtech.call_requests WHERE state = 'queued' AND to_number LIKE '+493004000_'"), 2, 'cloned: what was queued is still queued');
	is($d->k('+4930040001') . $d->k('+4930040002'), '11', 'cloned: each rang once, by the origin');
	$copy->sql('SELECT kridtech_adopt()');
	$copy->sql_becomes("SELECT count(*) FROM kridtech.call_requests WHERE state = 'placed' AND to_number LIKE '+493004000_'", 2, 'cloned: adopted, it dials');
	is($d->k('+4930040001') . $d->k('+4930040002'), '22', 'cloned: once each');
	$copy->forget_sessions;
	$d->set('kridtech.databases' => 'app');
}

# ---- a standby that is promoted -----------------------------------------------------------------------------

sub new_node
{
	my ($name) = @_;
	my $class = ref $node;
	return $class->can('get_new_node') ? $class->get_new_node($name) : $class->new($name);
}

{
	$node->backup('b');
	my $standby = new_node('standby');
	$standby->init_from_backup($node, 'b', has_streaming => 1);
	$standby->start;
	my $copy = $d->beside($standby);
	$d->sql(q{SELECT kridtech_pause()});
	my $id = $d->queue('+4930050001');
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	is($copy->sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'kridtech%'}), 0, 'a standby has no workers');
	is($copy->health('dialer'), '|this server is a standby: nothing dials before its promotion', 'and its health says so');
	like($copy->sql_error(q{SELECT kridtech_queue_call('+4930050002')}), qr/25006/, 'it queues nothing');
	$d->sql(q{SELECT kridtech_resume()});
	$d->becomes($id, 'placed', 'the primary dials');
	# what the standby will never see
	my $lsn = $node->lsn('insert');
	$copy->sql('SELECT pg_wal_replay_pause()');
	my $unseen = $d->queue('+4930050003');
	$d->becomes($unseen, 'placed', 'the primary dials on');
	$copy->sql('SELECT pg_wal_replay_resume()');
	$standby->promote;
	$copy->forget_sessions;
	copying_paused($copy, 'another timeline', 'promoted: its dialer starts, and is paused');
	my $new = $copy->queue('+4930050004');
	$copy->turns;
	is($copy->state($new) . $d->k('+4930050004'), 'queued0', 'promoted: it dials nothing');
	origin_goes_on('promoted');
	$copy->sql('SELECT kridtech_adopt()');
	$copy->becomes($new, 'placed', 'promoted: adopted, it dials');
	is($d->k('+4930050001'), 1, 'promoted: and nothing twice');
	$copy->forget_sessions;
	$standby->stop('fast');
}

# ---- a copy of the files ------------------------------------------------------------------------------------

{
	my $waits = $d->queue('+4930060001', not_before => q{=clock_timestamp() + interval '1 s'});
	$d->forget_sessions;
	$node->stop('fast');
	my $files = new_node('files');
	$files->init;
	my ($from, $to) = ($node->data_dir, $files->data_dir);
	PostgreSQL::Test::Utils::system_or_bail('rm', '-r', $to);
	PostgreSQL::Test::Utils::system_or_bail('cp', '-a', $from, $to);
	$files->append_conf('postgresql.conf', 'port = ' . $files->port);
	$files->start;
	my $copy = $d->beside($files);
	copying_paused($copy, 'another data directory', 'copied files: it is paused, and health says why');
	$copy->sql_becomes("SELECT not_before < clock_timestamp() FROM kridtech.call_requests WHERE id = $waits", 't', 'copied files: what was queued becomes due');
	$copy->turns;
	is($copy->state($waits), 'queued', 'copied files: it waits');
	is($d->k('+4930060001'), 0, 'copied files: it does not ring');
	SKIP:
	{
		skip 'the file system does not tell when a file was made', 1
		  if $copy->sql('SELECT directory_birth IS NULL FROM kridtech.identity') eq 't';
		my $inode = (stat "$to/PG_VERSION")[1];
		$copy->sql("UPDATE kridtech.identity SET directory_inode = $inode");
		$copy->turns;
		copying_paused($copy, 'another data directory', 'copied files: nor if the copy happens to have the same inode');
	}
	$node->start;
	ok($d->dials, 'the origin starts and dials');
	$d->becomes($waits, 'placed', 'the origin dials what was queued');
	is($d->k('+4930060001'), 1, 'and it rings once');
	$copy->sql('SELECT kridtech_adopt()');
	$copy->becomes($waits, 'placed', 'copied files: adopted, it dials');
	is($d->k('+4930060001'), 2, 'copied files: as was decided');
	$copy->forget_sessions;
	$files->stop('fast');
	unlike($d->log, qr/PANIC|server process/, 'nothing crashed');
}
$d->forget_sessions;
done_testing();
