# Point-in-time recovery with data in every table: base backup and archived WAL, recovered to a time before the
# origin's last work. What was queued then and called since stands in the copy as queued: so it must not dial before
# a human has looked, as doc/high-availability.md says.
use strict;
use warnings;

use Copying;
use Everything;
use Kridtech;
use PostgreSQL::Test::Utils ();
use Test::More;

my $sim    = kt_simulator('--listen', '127.0.0.1:0', '--die-with-parent', '--seed', '1', '--key', 'sim-key');
my $origin = kt_cluster('origin', init => [ allows_streaming => 1, has_archiving => 1 ], conf => copying_conf($sim) . "kridtech.databases = ''\n");
kt_create_extension($origin, 'app');
everything_made($origin, 'app');
$origin->backup('base');

# ---- between the backup and the target time ------------------------------------------------------------------------

my ($o, $or) = copying_both($sim, $origin);
kt_configure($origin, "kridtech.databases = 'app'");
$o->becomes($_, 'placed', "the origin dials request $_") for 1, 2;
$o->becomes(7, 'unknown', 'what was on the network when its dialer came is unknown');
my $early = $o->queue('+4930060001');
$o->becomes($early, 'placed', 'a request is queued and placed');
# Not by a pause: in the copy it would keep from dialling what nothing but its identity is to keep.
kt_configure($origin, "kridtech.databases = ''");
ok(kt_wait(sub { $o->sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kridtech dialer'}) eq '0' }), 'for a while nobody dials');
my $called    = $o->queue('+4930060002', reference => 'called since');
my $cancelled = $o->queue('+4930060003', reference => 'cancelled since');
my %then      = everything_in($origin, 'app');
my $target    = $o->sql('SELECT clock_timestamp()');

# ---- what the recovery leaves out -----------------------------------------------------------------------------------

$o->sql("SELECT kridtech_cancel_call($cancelled)");
kt_configure($origin, "kridtech.databases = 'app'");
$o->becomes($called, 'placed', 'after the target time the origin places what was queued', 20);
my $later = $o->queue('+4930060004', reference => 'asked for since');
$o->becomes($later, 'placed', 'and what is queued only then');
my ($called_id, $later_id) = map { $o->sql("SELECT call_id FROM kridtech.call_requests WHERE id = $_") } $called, $later;
ok($or->receives, 'the origin receives');
is($or->post($or->webhook($called_id)), 200, 'and takes a webhook');
my $segment = $o->sql('SELECT pg_walfile_name(pg_current_wal_lsn())');
$o->sql('SELECT pg_switch_wal()');
ok(kt_wait(sub { $o->sql(q{SELECT coalesce(max(last_archived_wal), '') FROM pg_stat_archiver}) ge $segment }, 60), 'its WAL is archived');
$o->forget_sessions;
delete $or->{session};
$origin->stop('fast');

# ---- the recovery ------------------------------------------------------------------------------------------------------

my $copy = copying_new_node($origin, 'copy');
$copy->init_from_backup($origin, 'base', has_restoring => 1, standby => 0);
$copy->append_conf('postgresql.conf',
	"recovery_target_time = '$target'\nrecovery_target_action = 'promote'\narchive_mode = off\nkridtech.databases = 'app'\n");
$copy->start;
ok(kt_wait(sub { $copy->safe_psql('postgres', 'SELECT pg_is_in_recovery()') eq 'f' }, 60), 'the recovery comes to the target time and ends');
everything_equal($copy, 'app', \%then, 'every row of every table is as it was then', map { "${_}_id_seq" } qw(call_requests call_attempts webhook_inbox));
my ($d, $r) = copying_both($sim, $copy);
copying_paused($d, 'another timeline', 'and the dialer waits, as health says');
$d->turns(3);
is(join(' ', map { $d->state($_) } $called, $cancelled, 8), 'queued queued queued', 'there is queued what has been called since, what was cancelled since, and what waits');
is($d->sql(q{SELECT count(*) FROM kridtech.call_requests WHERE reference = 'asked for since'}), 0, 'and unknown what was asked for since');
is($d->k($_), 1, "nothing is dialled again: $_") for '+4930060001', '+4930060002', '+4930060004', @WAITING;
is($d->k($_), 0, "nothing is dialled: $_") for '+4930060003', $PAUSED;
ok($r->receives, 'it receives all the same');
is($r->post($r->webhook($later_id)), 200, 'and takes the webhook of a call that it does not know');

# ---- what the manual says ------------------------------------------------------------------------------------------------

$d->sql(q{SELECT kridtech_pause(reason => 'recovery'); SELECT kridtech_adopt(); SELECT kridtech_sync_calls()});
is($d->sql(q{SELECT string_agg(r.reference, ', ') FROM kridtech.call_requests AS r JOIN kridtech.calls AS c ON c.to_number = r.to_number
	WHERE r.state = 'queued' AND c.created_at > r.created_at - interval '1 minute'
	AND NOT EXISTS (SELECT FROM kridtech.call_requests AS o WHERE o.call_id = c.call_id)}), 'called since', 'the list shows what has been called since');
is($d->sql("SELECT string_agg(c.call_id, ' ' ORDER BY c.created_at) FROM kridtech.calls AS c WHERE c.created_at > timestamptz '$target' - interval '1 minute' AND c.direction = 'outbound'"
	  . ' AND NOT EXISTS (SELECT FROM kridtech.call_requests AS r WHERE r.call_id = c.call_id)'), "$called_id $later_id", 'and the calls that no request here has made');
is($d->sql("SELECT verified_by FROM kridtech.webhook_events WHERE call_id = '$later_id'"), 'api', 'one of whose webhooks is verified by it');
is($d->sql("SELECT count(kridtech_cancel_call(id)) FROM unnest(ARRAY[$called, $cancelled]) AS id"), 2, 'a human cancels what is not to be called again');
$d->sql('SELECT kridtech_resume()');
$d->becomes(8, 'placed', 'then it dials what is left');
my $new = $d->queue('+4930060005');
$d->becomes($new, 'placed', 'and what is queued now');
is($d->k($_), 1, "once: $_") for $PAUSED, '+4930060005', '+4930060001', '+4930060002', '+4930060004', @WAITING;
is($d->k('+4930060003'), 0, 'but not what was cancelled');
is(join(' ', map { $d->state($_) } $called, $cancelled, 6, 7), 'cancelled cancelled unknown unknown', 'what nothing resolves stays unknown');
$d->forget_sessions;
delete $r->{session};
$copy->stop('fast');
unlike($d->log, qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
