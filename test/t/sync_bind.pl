# Unknown requests and the list of calls: what the list proves is bound, everything else stays unknown, and
# nothing is ever dialled again.
use strict;
use warnings;

use Dialing;
use Kridtech;
use POSIX ();
use Test::More;
use Time::HiRes qw(time);

my $d = Dialing->new('bind', conf => <<'CONF');
kridtech.request_timeout = '2s'
kridtech.settle_time = '2s'
kridtech.sync_interval = '300ms'
restart_after_crash = on
CONF

sub detail { return $d->sql("SELECT detail FROM kridtech.call_attempts WHERE request_id = $_[0] AND live") }

sub noted
{
	my ($id, $pattern, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $detail;
	ok(kt_wait(sub { ($detail = detail($id) // '') =~ $pattern }, 15), $name) or diag $detail;
	return is($d->state($id), 'unknown', '... and stays unknown');
}

# A call that somebody places at the dashboard.
sub by_hand
{
	my ($number, %option) = @_;
	return $d->post('calls', { n => 1, accountId => 'acct-1', direction => 'outbound', toNumber => $number, %option });
}

# ---- all at once: each number is a case of its own -----------------------------------------------------------------

my $lost = sub { $d->scenario(toNumber => $_[0], fault => 'no_reply_after_create', times => 1) };
my $gone = sub { $d->scenario(toNumber => $_[0], fault => 'drop', times => 1) };

$lost->('+4930000001');
my $one = $d->queue('+4930000001');
my $hung = $d->queue('+15550100608');    # never answered, call created

$gone->('+4930000002');
my $none = $d->queue('+4930000002');

$lost->('+4930000003');
my $two = $d->queue('+4930000003');
$d->becomes($two, 'unknown', 'an answer is lost');
by_hand('+4930000003');

$lost->('+4930000004') for 1 .. 2;
my @twins = map { $d->queue('+4930000004') } 1 .. 2;

$lost->('+4930000005');
my $echoed = $d->queue('+4930000005');
$d->becomes($echoed, 'unknown', 'another one');
$d->becomes($_, 'unknown', 'all are unknown at first') for $one, $none, @twins, $hung;
my ($its_call) = map { $_->{callId} } grep { defined $_->{callId} } $d->ledger('+4930000005');
$d->sql(qq{INSERT INTO kridtech.webhook_events (call_id, raw, variables) VALUES ('$its_call', '{}', '{"kridtech_ref": "another"}')});

# a webhook without variables, which the list verifies before it is known to be that request's
my ($found_call) = map { $_->{callId} } $d->ledger('+4930000001');
$d->sql("INSERT INTO kridtech.webhook_events (call_id, raw) VALUES ('$found_call', '{}')");

# an account whose calls the list does not name as ours
$lost->('+4930000006');
my $elsewhere = $d->queue('+4930000006', account_id => 'acct-6');
$d->becomes($elsewhere, 'unknown', 'also with an account that stands nowhere');

$d->becomes($one, 'placed', 'one unknown request, one call: bound', 20);
my $row = $d->request($one);
my ($call) = map { $_->{callId} } $d->ledger('+4930000001');
is($row->{call_id}, $call, 'to the call that the lost answer was about');
is($d->k('+4930000001'), 1, 'and nothing was dialled again');
like(detail($one), qr/exactly one to the number for the attempt's time, created .* in lists read at .* and .*, the last of \d+ calls, which are all there are/,
	'the evidence stands with the attempt');
unlike(detail($one), qr/4930000001/, 'without the number');
is($d->sql("SELECT live, call_id = '$call' FROM kridtech.call_attempts WHERE request_id = $one"), 't|t', 'which stays the one that was applied');
$d->sql_becomes("SELECT verified_by || ' ' || request_id FROM kridtech.webhook_events WHERE call_id = '$call'", "request $one", 'its webhook, which was here before, names it', 20);
$d->becomes($hung, 'placed', 'one that was never answered is bound as well', 20);
$d->becomes($elsewhere, 'placed', 'and one of an account without a row of its own', 20);

noted($none, qr/list: no call to the number is listed for the time$/, 'a request without a call says so');
is($d->k('+4930000002'), 1, '... and is not dialled again');
noted($two, qr/list: several calls are listed that may be this one: (call_\w+), (call_\w+)$/, 'two calls to the number are both named');
noted($_, qr/list: another attempt at the same number may have placed what is listed: (call_\w+), (call_\w+)$/, 'of two unknown requests to one number') for @twins;
noted($echoed, qr/list: calls are listed that may or may not be this one: \Q$its_call\E$/, 'a webhook that brings back another kridtech_ref leaves it open');
is($d->stat('sync_bound'), 3, 'stats counts those that were bound');

my $notes = $d->sql('SELECT array_agg(xmin ORDER BY id) FROM kridtech.call_attempts');
my $polls = $d->stat('sync_polls');
kt_wait(sub { $d->stat('sync_polls') > $polls + 3 });
is($d->sql('SELECT array_agg(xmin ORDER BY id) FROM kridtech.call_attempts'), $notes, 'a note is not written again and again');

# ---- a human's word, and what it stands in the way of ----------------------------------------------------------------

$d->sql("SELECT kridtech_resolve_call($two, 'not_placed')");
like(detail($two) . $d->sql("SELECT detail FROM kridtech.call_attempts WHERE request_id = $two"), qr/; resolved as not_placed by/, 'a human still has the last word');
$d->sql("SELECT kridtech_resolve_call($twins[0], 'placed', (SELECT call_id FROM kridtech.calls WHERE to_number = '+4930000004' ORDER BY call_id LIMIT 1))");
$d->becomes($twins[1], 'placed', 'what is left of two then is bound by itself', 20);
is($d->sql("SELECT count(DISTINCT call_id) FROM kridtech.call_requests WHERE to_number = '+4930000004'"), 2, 'each to a call of its own');

# ---- the list need not show everything ----------------------------------------------------------------------------------

$d->scenario(endpoint => 'calls', fault => 'status', status => 500);
$lost->('+4930000007');
my $covered = $d->queue('+4930000007');
$d->becomes($covered, 'unknown', 'a request is unknown');
$d->post('calls', { n => 120, accountId => 'acct-1', direction => 'outbound', toNumber => '+4930000099', createdAt => POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(time + 1)) });
$d->no_scenarios;
noted($covered, qr/list: the list need not hold every call of the time$/, 'a list of 100 that are all newer proves nothing');

$d->post('reset');
$d->post('calls', { n => 150, accountId => 'acct-1', direction => 'outbound', toNumber => '+4930000099', spacing => 0, createdAt => POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(time - 3600)) });
$d->post('settings', { rows => 'unsorted' });
$lost->('+4930000008');
my $unsorted = $d->queue('+4930000008');
$d->becomes($unsorted, 'unknown', 'a request is unknown');
noted($unsorted, qr/list: the list need not hold every call of the time$/, 'nor does an unsorted one');
$d->post('settings', { rows => 'normal' });
$d->becomes($unsorted, 'placed', 'until it comes sorted', 20);

# A list of one call that is as old as the request's attempt, and of whatever else, in the API's place.
sub list_is
{
	my ($id, $rows, $more) = @_;
	my $at = $d->sql("SELECT to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') FROM kridtech.call_attempts WHERE request_id = $id");
	$rows =~ s/NOW/$at/g;
	return $d->scenario(endpoint => 'calls', fault => 'body', status => 200, content_type => 'application/json', body => qq({"success":true,"calls":[$rows]$more}));
}

$gone->('+4930000013');
my $doubtful = $d->queue('+4930000013');
$d->becomes($doubtful, 'unknown', 'a request is unknown');
my $its = '{"callId":"said-twice","accountId":"acct-1","direction":"outbound","toNumber":"+4930000013","createdAt":"NOW"}';
(my $not_its = $its) =~ s/13"/99"/;
list_is($doubtful, "$its,$not_its", ',"total":2');
noted($doubtful, qr/list: calls are listed that may or may not be this one: said-twice$/, 'a call that is listed twice, to two numbers, is not relied on');
$d->no_scenarios;
list_is($doubtful, $its, '');
noted($doubtful, qr/list: the list need not hold every call of the time$/, 'nor is a list that does not say how many calls there are');
$d->no_scenarios;
list_is($doubtful, $its, ',"total":1');
$d->becomes($doubtful, 'placed', 'one that says so, and shows it once, is', 20);
$d->no_scenarios;

# ---- the default account becomes another one ----------------------------------------------------------------------------

# One call of the other account, to the number and at the time: it must not be taken for what the first has not placed.
$d->scenario(endpoint => 'calls', fault => 'status', status => 500);
$gone->('+4930000014');
$lost->('+4930000015');
my ($not_placed, $first_s) = map { $d->queue("+493000001$_") } 4 .. 5;
$d->becomes($_, 'unknown', 'a request of the default account is unknown') for $not_placed, $first_s;
by_hand('+4930000014', accountId => 'acct-2');
$d->set('kridtech.account_id' => 'acct-2');
$d->no_scenarios;
$d->becomes($first_s, 'placed', 'one that was sent with the first account is bound to its call', 20);
noted($not_placed, qr/list: no call to the number is listed for the time$/, 'one is not bound to a call of the second');
$gone->('+4930000016');
my $nobodys = $d->queue('+4930000016', account_id => 'acct-7');
$d->becomes($nobodys, 'unknown', 'a request of an account is unknown that is not the default one and has no key of its own');
my $unnamed = '{"callId":"whose","direction":"outbound","toNumber":"+4930000016","createdAt":"NOW"}';
list_is($nobodys, $unnamed, ',"total":1');
noted($nobodys, qr/list: calls are listed that may or may not be this one: whose$/, 'a call of no account, in the list of a key that may be another account\'s, is not relied on');
$d->sql("INSERT INTO kridtech.accounts VALUES ('acct-7', '$d->{key_file}')");
$d->becomes($nobodys, 'placed', 'in the list of its own key it is', 20);
$d->no_scenarios;
$d->reset('kridtech.account_id');

# ---- a list that comes late ------------------------------------------------------------------------------------------------

$d->post('reset');
$d->post('settings', { list_delay => 1500 });
$lost->('+4930000009');
my $late = $d->queue('+4930000009');
$d->becomes($late, 'placed', 'a call that the list shows late is bound', 20);
$d->post('settings', { list_delay => 0 });

# ---- a user's trigger in the way ---------------------------------------------------------------------------------------------

$d->sql(q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.to_number = '+4930000010' THEN RAISE 'no'; END IF; RETURN NEW; END $$});
$d->sql(q{CREATE TRIGGER refuse BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW WHEN (OLD.state = 'unknown') EXECUTE FUNCTION refuse()});
$lost->("+493000001$_") for 0 .. 1;
my ($refused, $other) = map { $d->queue("+493000001$_") } 0 .. 1;
$d->becomes($_, 'unknown', 'unknown') for $refused, $other;
$d->becomes($other, 'placed', 'a trigger that refuses one binding does not stop another', 20);
is($d->state($refused), 'unknown', 'the refused one waits');
$d->sql('DROP TRIGGER refuse ON kridtech.call_requests');
$d->becomes($refused, 'placed', 'and is bound once it may', 20);

# ---- a webhook and a list before the answer ----------------------------------------------------------------------------------

$d->set('kridtech.request_timeout' => '30s');
$d->scenario(toNumber => '+4930000017', fault => 'latency', latency => 4000, times => 1);
my $slow = $d->queue('+4930000017');
my $early;
ok(kt_wait(sub { ($early) = grep { defined } map { $_->{callId} } $d->ledger('+4930000017'); defined $early }), 'a call is placed and its answer awaited');
$d->sql("INSERT INTO kridtech.webhook_events (call_id, raw) VALUES ('$early', '{}')");
$d->sql_becomes("SELECT verified_by FROM kridtech.webhook_events WHERE call_id = '$early'", 'api', 'its webhook is verified by the list');
is($d->state($slow), 'placing', 'before the answer comes');
$d->sql_becomes("SELECT verified_by || ' ' || request_id FROM kridtech.webhook_events WHERE call_id = '$early'", "request $slow", 'and names its request after that', 20);
$d->reset('kridtech.request_timeout');

# ---- after a crash -------------------------------------------------------------------------------------------------------------

$d->scenario(toNumber => '+4930000012', fault => 'none', latency => 10000, times => 1);
my $crashed = $d->queue('+4930000012');
ok(kt_wait(sub { $d->k('+4930000012') == 1 }), 'a call is placed and its answer awaited');
my $pid = $d->dialer_pid;
$d->forget_sessions;
kill 'KILL', $pid;
kt_wait(sub { !kill 0, $pid });
ok(kt_wait(sub { eval { $d->{node}->safe_psql('postgres', q{SELECT ok FROM kridtech.health WHERE component = 'dialer'}) eq 't' } }, 30), 'the server recovers from a dialer that was killed');
$d->becomes($crashed, 'placed', 'its call is found by the list', 30);
is($d->k('+4930000012'), 1, 'and was placed once');

done_testing();
