# pg_upgrade with data in every table, the library preloaded and workers named in both clusters: no worker runs
# meanwhile, all data is there, and then the new cluster is a copy that receives and waits for kridtech_adopt().
use strict;
use warnings;

use Copying;
use Cwd qw(getcwd);
use Everything;
use File::Find ();
use File::Temp qw(tempdir);
use IPC::Run ();
use Kridtech;
use PostgreSQL::Test::Utils ();
use Test::More;

# From 18 on a server loads '$libdir/kridtech' from elsewhere, too, if extension_control_path says so. pg_upgrade's check does not.
chomp(my $libdir = qx{pg_config --pkglibdir});
plan skip_all => 'pg_upgrade finds the library only where it is installed for good'
  if qx{pg_config --version} =~ /(\d+)/ && $1 >= 18 && !-e "$libdir/kridtech.so";
plan skip_all => 'pg_upgrade starts servers without the sanitizer' if $ENV{SANITIZE};

my $sim = kt_simulator('--listen', '127.0.0.1:0', '--die-with-parent', '--seed', '1', '--key', 'sim-key');
my $old = kt_cluster('old', conf => "autovacuum = off\n");
kt_create_extension($old, 'app');
everything_made($old, 'app');
my %made = everything_in($old, 'app');
my $history = $old->safe_psql('app', 'SELECT md5(string_agg(h::text, $$ $$ ORDER BY h::text)) FROM kridtech.call_history h');
$old->stop;
$old->append_conf('postgresql.conf', copying_conf($sim));
my $new = kt_cluster('new', start => 0, conf => copying_conf($sim));

chomp(my $bin = qx{pg_config --bindir});
my ($here, $work, $said) = (getcwd, tempdir(CLEANUP => 1));
chdir $work;
my @upgrade = ('pg_upgrade', '--retain', '-b', $bin, '-B', $bin, '-d', $old->data_dir, '-D', $new->data_dir, '-s', $work);
ok(IPC::Run::run(\@upgrade, '<', \'', '>&', \$said), 'pg_upgrade works') or diag $said;
chdir $here;

# its servers' logs: beside us, from PostgreSQL 15 on in the new data directory
my $logs = '';
File::Find::find(sub { $logs .= PostgreSQL::Test::Utils::slurp_file($_) if /^pg_upgrade_server.*\.log$/ }, $work, $new->data_dir);
like($logs, qr/starting PostgreSQL|database system is ready/, 'its servers have left their logs');
unlike($logs, qr/kridtech[: ]/, 'and no worker of ours has run in them');
is($sim->k($_), 0, 'nothing was dialled') for @WAITING, $PLACING;

$new->start;
my ($d, $r) = copying_both($sim, $new);
copying_paused($d, 'another cluster', 'the new cluster is a copy');
everything_equal($new, 'app', \%made, 'with every row of every table');
is($new->safe_psql('app', 'SELECT md5(string_agg(h::text, $$ $$ ORDER BY h::text)) FROM kridtech.call_history h'), $history, 'and the same history');
is($r->post($r->webhook('call_new')), 200, 'it receives');
is($r->deliveries('call_new'), 1, 'and stores');
$d->turns(3);
is($d->state($_), 'queued', "request $_ waits") for 1, 2;
$d->sql('SELECT kridtech_adopt()');
$d->becomes($_, 'placed', "adopted, it dials request $_") for 1, 2;
is($sim->k($_), 1, 'once') for @WAITING;
$d->becomes(7, 'unknown', 'what was on the network is unknown');
is($sim->k($PLACING), 0, 'and not dialled');
is($d->queue('+4930070099'), 1001, 'the next request gets the next number');
is($d->sql(q{SELECT sha256(kridtech_recording('call_4')) = sha256 FROM kridtech.recordings WHERE call_id = 'call_4'}), 't', 'a recording is whole');
$d->sql('DROP EXTENSION kridtech; CREATE EXTENSION kridtech');
ok($d->dials, 'the extension can be dropped there and made again');
$d->forget_sessions;
delete $r->{session};
$new->stop;
done_testing;
