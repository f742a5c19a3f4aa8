# Logical replication of every table to subscribers that have the extension: the rows arrive, and are not dialled
# there, though a dialer runs.
use strict;
use warnings;

use Copying;
use Everything;
use Kridtech;
use Test::More;

my $sim = kt_simulator('--listen', '127.0.0.1:0', '--die-with-parent', '--seed', '1', '--key', 'sim-key');
my $publisher = kt_cluster('publisher', init => [ allows_streaming => 'logical' ], conf => copying_conf($sim) . "kridtech.databases = ''\n");
my $subscriber = kt_cluster('subscriber', conf => copying_conf($sim) . "kridtech.databases = ''\nmax_worker_processes = 30\n");
kt_create_extension($subscriber, $_) for qw(warehouse spare);
$subscriber->append_conf('postgresql.conf', "kridtech.databases = 'warehouse, spare'");
$subscriber->reload;
my ($w) = copying_both($sim, $subscriber, 'warehouse');
my ($s) = copying_both($sim, $subscriber, 'spare');
ok($_->dials, 'a database dials before it subscribes') for $w, $s;
# made later than the subscribers' extension: else their age would keep them from being dialled
kt_create_extension($publisher, 'app');
everything_made($publisher, 'app');
my ($p) = copying_both($sim, $publisher);
my @tables = everything_tables($publisher, 'app');
my $some = join ', ', map { "kridtech.$_" } grep { $_ ne 'identity' } @tables;
$publisher->safe_psql('app', "CREATE PUBLICATION but_one FOR TABLE $some; CREATE PUBLICATION everything FOR ALL TABLES");

# An exact comparison: the sequences are not replicated.
my @sequences = qw(call_requests_id_seq call_attempts_id_seq webhook_inbox_id_seq);

sub catch_up
{
	my $lsn = $publisher->lsn('insert');
	my ($ready, $there);
	for my $d ($w, $s)
	{
		kt_wait(sub { $d->sql(q{SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel}) eq 't' }, 30) or die 'not in sync';
	}
	kt_wait(sub { $publisher->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= '$lsn'") eq '2' }, 30) or die 'not caught up';
	return;
}

# dblink by the socket: the subscriber runs as the same user
my $conninfo = $publisher->connstr('app');
$conninfo =~ s/'/''/g;
$w->sql("CREATE SUBSCRIPTION warehouse CONNECTION '$conninfo' PUBLICATION but_one");
$s->sql("CREATE SUBSCRIPTION spare CONNECTION '$conninfo' PUBLICATION everything");
catch_up();
my %made = everything_in($publisher, 'app');
everything_equal($subscriber, 'warehouse', \%made, 'every row of every table arrives', 'identity', @sequences);
everything_equal($subscriber, 'spare', \%made, 'also where all tables are published', 'identity', @sequences);
is($s->sql('SELECT count(*) FROM kridtech.identity'), 2, 'there the publisher\'s identity comes along');
copying_paused($w, 'its requests come by a subscription', 'the subscriber does not dial');
copying_paused($s, 'another cluster', 'nor does the other');
$_->turns(3) for $w, $s;
is($sim->k($_), 0, 'nothing was dialled') for @WAITING, $PLACING;

# the publisher goes on
$publisher->append_conf('postgresql.conf', "kridtech.databases = 'app'");
$publisher->reload;
my $new = $p->queue('+4930070021');
$p->becomes($_, 'placed', 'the publisher dials') for 1, 2, $new;
$p->becomes(7, 'unknown', 'what was on the network is unknown');
$p->sql(q{SELECT kridtech_pause(reason => 'to leave something queued')});
my $left = $p->queue('+4930070022');
catch_up();
is(join(' ', map { $w->state($_) } 1, 2, $new, 7, $left), 'placed placed placed unknown queued', 'and the subscriber sees it');
everything_equal($subscriber, 'warehouse', { everything_in($publisher, 'app') }, 'in every table', 'identity', @sequences);
is($sim->k($_), 1, 'each was dialled once') for @WAITING, '+4930070021';

# a subscriber that is adopted
like($_->sql_error('SELECT kridtech_adopt()'), qr/ERROR:  55000: kridtech.call_requests is filled by a subscription\nHINT:  Drop the subscription/, 'a subscriber cannot be adopted')
  for $w, $s;
$_->sql('SELECT kridtech_restart_workers()') for $w, $s;
$w->sql('DROP SUBSCRIPTION warehouse');
$s->sql('DROP SUBSCRIPTION spare');
copying_paused($w, 'its requests come by a subscription', 'the subscription is gone, but it does not dial yet');
copying_paused($s, 'another cluster', 'nor does the other');
$w->turns(3);
is($sim->k('+4930070022'), 0, 'what was queued is not dialled');
$w->sql(q{SELECT kridtech_resume(); SELECT setval('kridtech.call_requests_id_seq', 100000), setval('kridtech.call_attempts_id_seq', 100000)});
$w->sql('SELECT kridtech_adopt()');
$w->becomes($left, 'placed', 'adopted, it dials');
is($sim->k('+4930070022'), 1, 'once');
is($w->sql('SELECT count(*) FROM kridtech.identity'), 1, 'with one identity');
is($s->state($left), 'queued', 'the other one waits');
$_->forget_sessions for $w, $s, $p;
$subscriber->stop('fast');
$publisher->stop('fast');
unlike($w->log, qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
