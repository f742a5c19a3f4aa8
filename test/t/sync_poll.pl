# The polling of the list of calls: the mirror follows, events are verified, the account's gate is shared, and
# no list delays a call.
use strict;
use warnings;

use Dialing;
use Kridtech;
use Test::More;
use Time::HiRes qw(sleep time);

my $d = Dialing->new('poll', conf => <<'CONF');
kridtech.request_timeout = '10s'
kridtech.settle_time = '1s'
CONF

sub mirrored
{
	my ($where, $expected, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return $d->sql_becomes("SELECT count(*) FROM kridtech.calls WHERE $where", $expected, $name, $seconds);
}

# How many lists the API has answered.
sub lists
{
	return $d->get('stats')->{requests}{calls}{200} // 0;
}

# ---- off and on -----------------------------------------------------------------------------------------------

like($d->health('sync'), qr/^\|off: kridtech\.sync_interval is 0$/, 'without an interval health says that polling is off');
$d->post('calls', { n => 3, accountId => 'acct-1', toNumber => '+4930000001', direction => 'inbound' });
$d->turns(5);
is($d->sql('SELECT count(*) FROM kridtech.calls'), 0, 'and nothing is polled');

$d->set('kridtech.sync_interval' => '200ms');
mirrored(q{to_number = '+4930000001' AND direction = 'inbound'}, 3, 'with an interval the mirror follows the list');
ok(kt_wait(sub { $d->health('sync') =~ /^t\|1 account, 0 paused; last success \d/ }), 'health says when the list was read last')
  or diag $d->health('sync');
ok($d->stat('sync_polls') >= 1 && $d->stat('sync_rows_changed') == 3, 'stats counts lists and rows');
my $written = $d->sql('SELECT array_agg(xmin ORDER BY call_id) FROM kridtech.calls');
my $polls   = $d->stat('sync_polls');
ok(kt_wait(sub { $d->stat('sync_polls') > $polls + 1 }), 'it goes on');
is($d->sql('SELECT array_agg(xmin ORDER BY call_id) FROM kridtech.calls'), $written, 'and rows that have not changed are not written');

# ---- what a call becomes ----------------------------------------------------------------------------------------

my $id = $d->queue('+15550100007');
$d->becomes($id, 'placed', 'a call is placed');
$d->sql_becomes("SELECT c.call_status FROM kridtech.calls c JOIN kridtech.call_requests r USING (call_id) WHERE r.id = $id", 'completed',
	'and its end comes by the list, without a webhook');

# ---- events -----------------------------------------------------------------------------------------------------

$d->sql('CREATE TABLE verifications (call_id text, verified_by text)');
$d->sql(q{CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.verifications VALUES (NEW.call_id, NEW.verified_by); RETURN NULL; END $$});
$d->sql('CREATE TRIGGER note AFTER UPDATE OF verified_by ON kridtech.webhook_events FOR EACH ROW EXECUTE FUNCTION note()');
$d->post('calls', { n => 1, callId => 'call_listed', accountId => 'acct-1', direction => 'inbound' });
$d->sql(q{INSERT INTO kridtech.webhook_events (call_id, raw) VALUES ('call_listed', '{}'), ('call_forged', '{}')});
$d->sql_becomes(q{SELECT verified_by FROM kridtech.webhook_events WHERE call_id = 'call_listed'}, 'api', 'an event whose call the API lists is verified by it');
$polls = $d->stat('sync_polls');
kt_wait(sub { $d->stat('sync_polls') > $polls + 2 });
is($d->sql('SELECT call_id, verified_by FROM verifications'), 'call_listed|api', 'a trigger on that fires once');
is($d->sql(q{SELECT verified_by IS NULL FROM kridtech.webhook_events WHERE call_id = 'call_forged'}), 't', 'an event whose call it does not list is not');
$d->sql(q{INSERT INTO kridtech.calls (call_id) VALUES ('call_old')});
$d->sql(q{INSERT INTO kridtech.webhook_events (call_id, raw) VALUES ('call_old', '{}')});
$d->sql_becomes(q{SELECT verified_by FROM kridtech.webhook_events WHERE call_id = 'call_old'}, 'api', 'nor need the list of today name the call: an earlier one has');

# ---- more than a list holds ---------------------------------------------------------------------------------------

$d->post('calls', { n => 90, accountId => 'acct-1', toNumber => '+4930000002', direction => 'outbound', spacing => 0 });
mirrored(q{to_number = '+4930000002'}, 90, 'ninety calls between two lists');
is($d->stat('sync_gaps'), 0, 'are no gap');
$d->set('kridtech.sync_interval' => '3s');
$d->post('calls', { n => 150, accountId => 'acct-1', toNumber => '+4930000003', direction => 'outbound', status => 'failed', spacing => 0 });
ok(kt_wait(sub { $d->stat('sync_gaps') >= 1 }, 20), 'more than a hundred are') or diag $d->health('sync');
like($d->health('sync'), qr/^f\|.*gap: more than 100 calls of account acct-1 passed before \d/, 'and health says so');
ok(kt_wait(sub { lists() > 0 && $d->sql(q{SELECT count(*) FROM kridtech.calls WHERE call_status = 'failed'}) == 100 }), 'the lists by status show some of the others');

# ---- one gate for lists and calls -----------------------------------------------------------------------------------

$d->set('kridtech.sync_interval' => '200ms');
$d->scenario(endpoint => 'calls', fault => 'status', status => 429, retry_after => '2', times => 1);
ok(kt_wait(sub { $d->causes('acct-1') eq 'rate' }), 'a 429 on the list shuts the gate of its account');
$id = $d->queue('+4930000004');
$d->turns(3);
is($d->state($id), 'queued', 'for its calls too');
ok(kt_wait(sub { $d->health('sync') =~ /1 paused/ }, 1), 'health says that it is not polled');
$d->becomes($id, 'placed', 'until the time is over');
$d->sql(q{SELECT kridtech_pause('acct-1')});
$d->turns(3);
my $lists = lists();
$d->turns(5);
is(lists(), $lists, 'a paused account is not polled');
$d->sql(q{SELECT kridtech_resume('acct-1')});
ok(kt_wait(sub { lists() > $lists }), 'a resumed one is');
$d->scenario(endpoint => 'calls', fault => 'status', status => 500, times => 3);
ok(kt_wait(sub { $d->health('sync') =~ /^f\|.*account acct-1: undocumented \(HTTP status 500\), \d in a row/ }), 'health says what is wrong with the list')
  or diag $d->health('sync');
is($d->causes('acct-1'), '', 'which pauses no account');
$d->becomes($d->queue('+4930000005'), 'placed', 'and keeps no call from being placed');
ok(kt_wait(sub { $d->health('sync') =~ /^t|gap/ && $d->health('sync') !~ /in a row/ }, 20), 'it recovers by itself');

# ---- a list delays no call -------------------------------------------------------------------------------------------

$d->scenario(endpoint => 'calls', fault => 'hang', times => 1);
my $began = time;
my @ids = map { $d->queue(sprintf '+4930001%03d', $_) } 1 .. 50;
$d->sql_becomes("SELECT count(*) FROM kridtech.call_requests WHERE state = 'placed' AND id >= $ids[0]", 50, 'while a list hangs, calls are placed');
ok(time - $began < 5, 'at once');
$d->no_scenarios;

# a session that holds rows of the mirror
my $other = kt_background($d->{node}, 'postgres');
$other->query('BEGIN; LOCK TABLE kridtech.calls');
ok(kt_wait(sub { $d->health('sync') =~ /^f\|waiting: kridtech\.calls is locked/ }, 20), 'a locked mirror is reported') or diag $d->health('sync');
$began = time;
$d->becomes($d->queue('+4930000006'), 'placed', 'while calls are placed');
ok(time - $began < 1, 'at once');
$other->query('ROLLBACK');

# what makes the plan itself fail
$d->sql('ALTER TABLE kridtech.calls RENAME TO calls_away');
ok(kt_wait(sub { $d->health('sync') =~ /^f\|(cannot poll|waiting)/ }, 20), 'a table that is not there is reported') or diag $d->health('sync');
$d->becomes($d->queue('+4930000007'), 'placed', 'and stops no call');
$d->sql('ALTER TABLE kridtech.calls_away RENAME TO calls');
ok(kt_wait(sub { $d->health('sync') =~ /last success/ && $d->health('sync') !~ /cannot|waiting/ }, 20), 'until it is back') or diag $d->health('sync');

# ---- other accounts ---------------------------------------------------------------------------------------------------

my $key_file = kt_key_file("$Dialing::KEY\n");
$d->sql("INSERT INTO kridtech.accounts VALUES ('acct-2', '$key_file'), ('acct-3', '/nonexistent')");
ok(kt_wait(sub { $d->health('sync') =~ /\|3 accounts, 1 paused/ }, 20), 'every account that has a key is polled') or diag $d->health('sync');

# ---- it ends with the dialer ---------------------------------------------------------------------------------------------

$d->scenario(endpoint => 'calls', fault => 'hang', times => 1);
sleep 0.5;
$began = time;
$d->{node}->restart;
$d->forget_sessions;
ok(time - $began < 4, 'a list on the network does not delay the end');
unlike($d->log, qr/\Q$Dialing::KEY\E/, 'the key is nowhere in the log');
unlike($d->log, qr/WARNING|PANIC|TRAP/, 'nor anything else unexpected');

done_testing();
