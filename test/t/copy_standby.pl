# A streaming standby with data in every table, and its promotion: before it nothing dials and nothing listens;
# after it the receiver receives, and the dialer waits for kridtech_adopt(). What doc/high-availability.md says of a
# failover, told by an asynchronous standby that has missed the last moments.
use strict;
use warnings;

use Copying;
use Everything;
use IO::Socket::INET;
use Kridtech;
use PostgreSQL::Test::Utils ();
use Test::More;

my $sim     = kt_simulator('--listen', '127.0.0.1:0', '--die-with-parent', '--seed', '1', '--key', 'sim-key');
my $primary = kt_cluster('primary', init => [ allows_streaming => 1 ], conf => copying_conf($sim) . "kridtech.databases = ''\n");
kt_create_extension($primary, 'app');
everything_made($primary, 'app');
my %made = everything_in($primary, 'app');
$primary->backup('base');
my $standby = copying_new_node($primary, 'standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "kridtech.databases = 'app'\nkridtech.sync_interval = '5min'");
$standby->start;
my ($d, $r) = copying_both($sim, $standby);
my ($p) = copying_both($sim, $primary);

# How often the list of calls was read.
sub polled
{
	my $by_endpoint = $sim->control('stats')->{requests}{calls} // {};
	my $n = 0;
	$n += $_ for values %$by_endpoint;
	return $n;
}

sub catch_up
{
	return $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
}

# ---- before the promotion ----------------------------------------------------------------------------------------

catch_up();
everything_equal($standby, 'app', \%made, 'a standby has every row of every table');
$primary->append_conf('postgresql.conf', "kridtech.databases = 'app'");
$primary->reload;
$p->becomes($_, 'placed', "the primary dials request $_", 20) for 1, 2;
$p->becomes(7, 'unknown', 'what was on the network there is unknown');

my $port = copying_listens_at($standby);
ok($port, 'a standby has bound its address');
ok(copying_refuses($port), 'and refuses connections');
is($d->sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'kridtech%'}), 0, 'it has no workers');
is($d->health('dialer'), '|this server is a standby: nothing dials before its promotion', 'health says that nothing dials');
is($d->health('receiver'), '|this server is a standby: nothing is received before its promotion', 'and nothing is received');
$standby->append_conf('postgresql.conf', 'kridtech.recordings = on');
$standby->reload;
kt_wait(sub { $d->health('recordings') ne '' });
is($d->health('recordings'), '|this server is a standby', 'nor is a recording fetched, where they are');
$standby->append_conf('postgresql.conf', 'kridtech.recordings = off');
$standby->reload;
like($d->sql_error($_), qr/ERROR:  25006/, "there $_ is refused")
  for q{SELECT kridtech_queue_call('+4930050002')}, q{SELECT kridtech_create_call('+4930050002')}, 'SELECT kridtech_sync_calls()',
  'SELECT kridtech_pause()', 'SELECT kridtech_resume()', 'SELECT kridtech_cancel_call(1)', q{SELECT kridtech_resolve_call(6, 'placed')},
  'SELECT kridtech_adopt()', 'SELECT kridtech_replay_webhook(1)';
is($d->k('+4930050002'), 0, 'and nothing is sent');
is($d->sql('SELECT count(*) FROM kridtech_calls()'), 2, 'the API can be read from there');
catch_up();
is($d->sql(q{SELECT count(*) > 0 FROM kridtech.call_history WHERE call_id = 'call_4'}) . $d->sql('SELECT count(*) >= 0 FROM kridtech.missing_webhooks'), 'tt', 'and so can the history');

# ---- the last moments of the primary -------------------------------------------------------------------------------

my $hangs = $p->queue('+15550100608', dynamic_variables => { kind => 'hangs' });    # a call is created, never an answer
$p->becomes($hangs, 'placing', 'a call is on the network');
kt_wait(sub { $p->k('+15550100608') == 1 });
$p->sql(q{SELECT kridtech_pause(reason => 'to be missed')});
my $missed = $p->queue('+4930050003');
my $waits  = $p->queue('+4930050004');
catch_up();
$standby->safe_psql('postgres', q{ALTER SYSTEM SET primary_conninfo = ''});
$standby->reload;
ok(kt_wait(sub { $primary->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_replication') eq '0' }), 'the standby is cut off');
$p->sql("SELECT kridtech_cancel_call($waits); SELECT kridtech_resume()");
$p->becomes($_, 'placed', 'the primary dials on, unseen') for $missed, 8;    # every pause has ended there
$p->forget_sessions;
$primary->stop('immediate');

# ---- the promotion -------------------------------------------------------------------------------------------------

$d->forget_sessions;
my $polled = polled();
$standby->promote;
ok($r->receives, 'promoted, it receives');
is($r->port, $port, 'at the address it has bound');
my $answer = HTTP::Tiny->new(timeout => 10)->get("http://127.0.0.1:$port/healthz");
is($answer->{status}, 200, 'and says so to a proxy that asks');
is($r->post($r->webhook('call_promoted')), 200, 'a webhook is answered');
is($r->deliveries('call_promoted'), 1, 'and stored');
copying_paused($d, 'another timeline', 'but the dialer waits');
$d->turns(3);
is(join(' ', map { $d->state($_) } $hangs, $missed, $waits), 'placing queued queued', 'nothing is touched');
is(polled(), $polled, 'nor is the list of calls read');

# what the manual says: hold, adopt, read the list, see what was called already
$d->sql(q{SELECT kridtech_pause(reason => 'failover'); SELECT kridtech_adopt(); SELECT kridtech_sync_calls()});
my $listed = polled();
is($d->sql(q{SELECT string_agg(r.id::text, ' ') FROM kridtech.call_requests AS r JOIN kridtech.calls AS c ON c.to_number = r.to_number
	WHERE r.state = 'queued' AND c.created_at > r.created_at - interval '1 minute'
	AND NOT EXISTS (SELECT FROM kridtech.call_requests AS o WHERE o.call_id = c.call_id)}), "8 $missed", 'the list shows which queued requests have been called already');
$d->sql("SELECT kridtech_cancel_call(id) FROM unnest(ARRAY[8, $missed]) AS id; SELECT kridtech_resume()");
$d->becomes($waits, 'placed', 'then it dials what is left');
is($d->k($_), 1, 'and nothing twice') for '+4930050003', $PAUSED;

$d->becomes($hangs, 'unknown', 'what was on the network is unknown');
is($d->k('+15550100608'), 1, 'and not dialled again');
my $ref = $d->sql("SELECT ref FROM kridtech.call_attempts WHERE request_id = $hangs");
my ($call) = map { $_->{callId} } $d->ledger('+15550100608');
is($r->post($r->webhook($call, dynamicVariables => [ { variable => 'kridtech_ref', value => $ref } ])), 200, 'its webhook comes to the new primary');
$d->becomes($hangs, 'placed', 'and resolves it');
is($d->sql("SELECT r.call_id = '$call' AND e.verified_by = 'correlation' AND a.live FROM kridtech.call_requests r JOIN kridtech.webhook_events e ON e.request_id = r.id JOIN kridtech.call_attempts a ON a.request_id = r.id WHERE r.id = $hangs"), 't', 'to its call');
is($d->state(6), 'unknown', 'what nothing resolves stays unknown');
ok(kt_wait(sub { polled() > $listed }, 30), 'the list is read by itself again');
$d->forget_sessions;
delete $r->{session};
$standby->stop('fast');
unlike($d->log, qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
