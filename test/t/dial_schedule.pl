# When a request is dialled: times, priorities, pace, concurrency, pauses, and what humans decide.
use strict;
use warnings;

use Dialing;
use Kridtech;
use Test::More;
use Time::HiRes qw(time);

my $d = Dialing->new('schedule');

# The order in which numbers of a prefix arrived.
sub order
{
	my ($prefix) = @_;
	return join ' ', map { substr $_->{toNumber}, length $prefix } grep { index($_->{toNumber}, $prefix) == 0 } $d->ledger;
}

sub placed
{
	my ($account) = @_;
	return $d->sql("SELECT count(*) FROM kridtech.call_requests WHERE account_id = '$account' AND state = 'placed'");
}

# Seconds between a time of the table and the arrival of a request at the API; both clocks are this machine's.
sub late
{
	my ($id, $column, $number) = @_;
	my ($entry) = $d->ledger($number);
	return $d->sql("SELECT extract(epoch FROM '$entry->{time}'::timestamptz - $column) FROM kridtech.call_requests WHERE id = $id");
}

# ---- not_before, not_after ----------------------------------------------------------------------------------

{
	my %at = ('+4930100001' => 400, '+4930100002' => 1500, '+4930100003' => 3000);
	my %id = map { $_ => $d->queue($_, not_before => "=clock_timestamp() + interval '$at{$_} ms'") } sort keys %at;
	for my $number (sort keys %at)
	{
		$d->becomes($id{$number}, 'placed', "a request for $at{$number} ms later is placed");
		my $late = late($id{$number}, 'not_before', $number);
		ok($late >= 0 && $late < 1.5, "not before its time, and soon after ($late s)");
	}
	my $id = $d->queue('+4930100009', not_before => q{=clock_timestamp() + interval '1 hour'});
	$d->turns(3);
	is($d->state($id), 'queued', 'one for an hour later waits');
	is($d->k('+4930100009'), 0, 'and nobody is rung');
	ok($d->sql("SELECT kridtech_cancel_call($id)") eq 't', 'and can be cancelled');

	# the owner's own INSERT need not fill next_attempt_at
	$id = $d->sql(q{INSERT INTO kridtech.call_requests (to_number, not_before) VALUES ('+4930100010', clock_timestamp() + interval '1200 ms') RETURNING id});
	$d->becomes($id, 'placed', 'a row inserted directly waits for its not_before too');
	cmp_ok(late($id, 'not_before', '+4930100010'), '>=', 0, 'and is not dialled before');
}

{
	$d->sql(q{SELECT kridtech_pause('late')});
	my $id    = $d->queue('+4930110001', account_id => 'late', not_after => q{=clock_timestamp() + interval '700 ms'});
	my $other = $d->queue('+4930110002', account_id => 'late', not_after => q{=clock_timestamp() + interval '1 hour'});
	$d->becomes($id, 'expired', 'a request whose not_after passes while its account is paused expires');
	like($d->request($id)->{error}, qr/not_after/, 'the error says why');
	is(scalar(my @none = $d->attempts($id)), 0, 'there was no attempt');
	$d->sql(q{SELECT kridtech_resume('late')});
	$d->becomes($other, 'placed', 'its neighbour has time left and is placed');
	is($d->k('+4930110001'), 0, 'the expired one never rings');

	$d->sql('SELECT kridtech_pause()');
	$id = $d->queue('+4930110003', not_after => q{=clock_timestamp() + interval '300 ms'});
	$d->becomes($id, 'expired', 'it expires while all accounts are paused, too');
	$d->sql('SELECT kridtech_resume()');
}

# ---- order --------------------------------------------------------------------------------------------------

$d->set('kridtech.max_concurrent_requests' => 1);
{
	my @priorities = (0, 5, -3, 5, 0, 100, -3);
	$d->sql('BEGIN; ' . join '; ', map { Dialing::queue_statement("+493020000$_", priority => $priorities[$_], account_id => 'order') } 0 .. $#priorities);
	$d->sql('COMMIT');
	kt_wait(sub { placed('order') == @priorities });
	is(order('+493020000'), '5 1 3 0 4 2 6', 'the higher priority goes first, and within one the older');
}
{
	$d->post('settings', { latency => 50 });
	$d->sql(q{SELECT count(kridtech_queue_call('+49302010' || lpad(i::text, 4, '0'), account_id => 'many')) FROM generate_series(1, 100) AS i});
	kt_wait(sub { placed('many') > 5 });
	my $before = placed('many');
	my $id = $d->queue('+4930202', priority => 1, account_id => 'many');
	$d->becomes($id, 'placed', 'a higher priority that comes while many wait is placed');
	my $after = placed('many');
	cmp_ok($after - $before, '<=', 12, 'soon: after ' . ($after - $before) . ' of the others');
	kt_wait(sub { placed('many') == 101 }, 30);
	is(join(' ', sort split / /, order('+49302010')), order('+49302010'), 'the others went in their order');
	$d->post('settings', { latency => 0 });
}
$d->reset('kridtech.max_concurrent_requests');

# ---- pace ---------------------------------------------------------------------------------------------------

# In any stretch of time no more calls arrive than the rate allows and the bucket holds, but for a little
# jitter between the dialer's clock and the arrival.
for my $case ([ 4, 9 ], [ 2.5, 6 ], [ 50, 120 ])
{
	my ($rate, $n) = @$case;
	my $account = "pace $rate";
	$d->set('kridtech.calls_per_second' => $rate);
	my $start = time;
	$d->sql("SELECT count(kridtech_queue_call('+49303" . int($rate * 10) . "0' || lpad(i::text, 4, '0'), account_id => '$account')) FROM generate_series(1, $n) AS i");
	kt_wait(sub { placed($account) == $n }, 20);
	my @us = map { $_->{monotonicUs} } grep { $_->{accountId} eq $account } $d->ledger;
	is(scalar @us, $n, "$rate calls a second: all are placed");
	my $worst = 0;
	for my $i (0 .. $#us)
	{
		for my $j ($i + 1 .. $#us)
		{
			my $allowed = ($us[$j] - $us[$i] + 30_000) / 1e6 * $rate + 1;
			my $over    = $j - $i + 1 - $allowed;
			$worst = $over if $over > $worst;
		}
	}
	cmp_ok($worst, '<', 1, "$rate calls a second: never faster");
	my $seconds = ($us[-1] - $us[0]) / 1e6;
	cmp_ok($seconds, '<', ($n - 1) / $rate * 1.3 + 0.5, "$rate calls a second: and hardly slower ($seconds s)");
}
{
	$d->set('kridtech.calls_per_second' => 0.05);
	my $first = $d->queue('+4930310001');
	$d->becomes($first, 'placed', 'one call in twenty seconds');
	my $second = $d->queue('+4930310002');
	my $third  = $d->queue('+4930310003', not_after => q{=clock_timestamp() + interval '500 ms'});
	$d->sleeps('a slow pace does not keep the dialer busy', 2);
	is($d->state($second), 'queued', 'the next call waits for its turn');
	is($d->state($third), 'expired', 'what expires meanwhile is not kept waiting');
	is($d->health('dialer'), 't|dialling', 'which is healthy');
	$d->reset('kridtech.calls_per_second');
	$d->becomes($second, 'placed', 'without the limit it goes at once');
}

# ---- concurrency --------------------------------------------------------------------------------------------

{
	$d->set('kridtech.max_concurrent_requests' => 3);
	$d->post('settings', { latency => 300 });
	$d->sql(q{SELECT count(kridtech_queue_call('+493040' || lpad(i::text, 4, '0'), account_id => 'wide')) FROM generate_series(1, 15) AS i});
	my $most = 0;
	kt_wait(sub {
		my $placing = $d->sql("SELECT count(*) FROM kridtech.call_requests WHERE state = 'placing'");
		$most = $placing if $placing > $most;
		return placed('wide') == 15;
	}, 20);
	is($most, 3, 'no more requests are placing than kridtech.max_concurrent_requests');
	my @us = map { $_->{monotonicUs} } grep { $_->{accountId} eq 'wide' } $d->ledger;
	is(scalar @us, 15, 'all were placed');
	# each answer takes 300 ms: the fourth after any one comes later than that
	my @fast = grep { $us[ $_ + 3 ] - $us[$_] < 290_000 } 0 .. $#us - 3;
	is("@fast", '', 'nor did more arrive at the API while so many were unanswered');
	cmp_ok(($us[-1] - $us[0]) / 1e6, '<', 2.5, 'but as many as that did');
	$d->post('settings', { latency => 0 });
}
{
	my $slow = $d->queue('+15550100011');
	$d->becomes($slow, 'placing', 'an answer that takes five seconds is awaited');
	my $start = time;
	$d->sql(q{SELECT count(kridtech_queue_call('+493041' || lpad(i::text, 4, '0'), account_id => 'fast')) FROM generate_series(1, 200) AS i});
	kt_wait(sub { placed('fast') == 200 });
	cmp_ok(time - $start, '<', 3, 'meanwhile 200 others are placed through the other two places');
	is($d->state($slow), 'placing', 'it is still awaited');
	$d->becomes($slow, 'placed', 'and comes in the end');
	$d->reset('kridtech.max_concurrent_requests');
}

# ---- pauses -------------------------------------------------------------------------------------------------

{
	my $second_key = kt_key_file("$Dialing::KEY\n");
	my $third_key  = kt_key_file("a-key-nobody-knows\n");
	$d->sql("INSERT INTO kridtech.accounts VALUES ('red', '$second_key'), ('blue', '$third_key')");

	$d->sql(q{SELECT kridtech_pause('red', 'lunch')});
	my $red  = $d->queue('+4930500001', account_id => 'red');
	my $mine = $d->queue('+4930500002');
	$d->becomes($mine, 'placed', 'a pause of one account does not hold the others');
	$d->turns(5);
	is($d->state($red), 'queued', 'its own request waits');
	is($d->k('+4930500001'), 0, 'and nobody is rung');
	like($d->health('account red'), qr/^f\|manual: lunch/, 'health names the account and the reason');
	$d->sleeps('the dialer sleeps over a paused account');
	$d->sql(q{SELECT kridtech_resume('red')});
	$d->becomes($red, 'placed', 'kridtech_resume() lets it go');
	is($d->health('account red'), '', 'and the row in health is gone');

	my $blue = $d->queue('+4930500003', account_id => 'blue');
	$d->sql_becomes(q{SELECT cause FROM kridtech.pauses WHERE account_id = 'blue'}, 'unauthorized', 'an account with a wrong key of its own is paused');
	$red = $d->queue('+4930500004', account_id => 'red');
	$d->becomes($red, 'placed', 'an account with a good one goes on');

	$d->sql("SELECT kridtech_cancel_call($blue)");

	$d->sql(q{SELECT kridtech_pause(reason => 'the flood')});
	my @ids = map { $d->queue("+493051000$_", account_id => $_ % 2 ? 'red' : undef) } 1 .. 4;
	$d->turns(5);
	is($d->sql('SELECT string_agg(DISTINCT state, \' \') FROM kridtech.call_requests WHERE id IN (' . join(',', @ids) . ')'), 'queued', 'a pause of all accounts holds all');
	like($d->health('all accounts'), qr/^f\|manual: the flood/, 'health says so');
	is($d->health('dialer'), 'f|paused', 'of the dialer too');
	$d->sleeps('the dialer sleeps over a pause of all');
	is(order('+493051000'), '', 'and nobody is rung');
	$d->sql(q{SELECT kridtech_resume()});
	$d->becomes($_, 'placed', 'kridtech_resume() lets them go') for @ids;
	is($d->sql('SELECT count(*) FROM kridtech.pauses'), 0, 'all pauses are gone');

	my $start = time;
	$d->sql(q{SELECT kridtech_pause('red', until => clock_timestamp() + interval '1500 ms')});
	$red = $d->queue('+4930520001', account_id => 'red');
	$d->becomes($red, 'placed', 'a pause with an end ends by itself');
	my $took = time - $start;
	ok($took >= 1.5 && $took < 4, "when its time has come ($took s)");
}
{
	# with requests under way: what the API gets after the pause was made is none
	$d->set('kridtech.max_concurrent_requests' => 4);
	$d->post('settings', { latency => 40 });
	$d->sql(q{SELECT count(kridtech_queue_call('+493053' || lpad(i::text, 4, '0'), account_id => 'stream')) FROM generate_series(1, 300) AS i});
	kt_wait(sub { placed('stream') > 20 });
	$d->sql(q{SELECT kridtech_pause('stream')});
	my $paused = $d->sql('SELECT clock_timestamp()');
	$d->sql_becomes("SELECT count(*) FROM kridtech.call_requests WHERE state = 'placing'", 0, 'what is under way comes to its end');
	$d->turns;
	# a claim that was being committed while the pause was
	is($d->sql("SELECT count(*) FROM kridtech.call_attempts WHERE started_at > '$paused'"), 0, 'and nothing begins after a pause');
	my @late = grep { $_->{accountId} eq 'stream' && $d->sql("SELECT '$_->{time}'::timestamptz > '$paused'::timestamptz + interval '20 ms'") eq 't' } ($d->ledger)[ -10 .. -1 ];
	is(scalar @late, 0, 'nothing more reaches the API');
	$d->sql(q{SELECT kridtech_resume('stream')});
	kt_wait(sub { placed('stream') == 300 }, 30);
	is(placed('stream'), 300, 'after kridtech_resume() the rest goes');
	$d->post('settings', { latency => 0 });
	$d->reset('kridtech.max_concurrent_requests');
}

# ---- the default account changes ----------------------------------------------------------------------------

# The dialer has a stock of candidates by then, and a gate for the old account only.
{
	$d->set('kridtech.max_concurrent_requests' => 1);
	$d->post('settings', { latency => 50 });
	$d->sql(q{SELECT count(kridtech_queue_call('+493055' || lpad(i::text, 4, '0'))) FROM generate_series(1, 60) AS i});
	$d->sql_becomes(q{SELECT count(*) > 3 FROM kridtech.call_requests WHERE to_number LIKE '+493055%' AND state = 'placed'}, 't', 'some are placed');
	$d->set('kridtech.account_id' => 'acct-2');
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE to_number LIKE '+493055%' AND state = 'placed'}, 60, 'all are placed', 20);
	my @entries = grep { $_->{toNumber} =~ /^\+493055/ } $d->ledger;
	is(scalar @entries, 60, 'each rings once');
	is(join(' ', sort keys %{ { map { $_->{accountId} => 1 } @entries } }), 'acct-1 acct-2', 'first for the old account, then for the new one');
	is(scalar(grep { grep { lc $_->[0] eq 'x-api-key' && $_->[1] ne 'valid' } @{ $_->{headers} } } @entries), 0, 'always with a key');
	is($d->sql('SELECT count(*) FROM kridtech.pauses'), 0, 'and no account was paused');
	$d->reset('kridtech.account_id');
}

# The same by hand: the owner moves requests that the dialer has in stock to an account that is paused.
{
	$d->sql(q{SELECT kridtech_pause('moved')});
	$d->sql(q{SELECT count(kridtech_queue_call('+493056000' || i, account_id => 'staying')) FROM generate_series(1, 9) AS i});
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE account_id = 'staying' AND state = 'placing'}, 1, 'the first is under way');
	$d->sql(q{UPDATE kridtech.call_requests SET account_id = 'moved' WHERE to_number ~ '^.493056000[37]$'});
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE account_id = 'staying' AND state = 'placed'}, 7, 'what stays is placed');
	is($d->k('+4930560003') . $d->k('+4930560007'), '00', 'what was moved to a paused account is not dialled');
	is($d->sql(q{SELECT string_agg(state || attempts, ' ') FROM kridtech.call_requests WHERE account_id = 'moved'}), 'queued0 queued0', 'it waits');
	$d->sql(q{SELECT kridtech_resume('moved')});
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE account_id = 'moved' AND state = 'placed'}, 2, 'until the pause ends');
	$d->post('settings', { latency => 0 });
	$d->reset('kridtech.max_concurrent_requests');
}

# ---- cancel -------------------------------------------------------------------------------------------------

{
	$d->sql(q{SELECT kridtech_pause('cancel')});
	my $id = $d->queue('+4930600001', account_id => 'cancel');
	is($d->sql("SELECT kridtech_cancel_call($id)"), 't', 'a queued request can be cancelled');
	is($d->state($id), 'cancelled', 'it is cancelled');
	my $locked = $d->queue('+4930600002', account_id => 'cancel');
	my $other  = kt_background($d->{node}, 'postgres');
	$other->query("BEGIN; SELECT kridtech_cancel_call($locked)");
	my $free = $d->queue('+4930600003', account_id => 'cancel');
	$d->sql(q{SELECT kridtech_resume('cancel')});
	$d->becomes($free, 'placed', 'a request that somebody is just cancelling does not hold up the next');
	$d->turns(5);
	is($d->k('+4930600002'), 0, 'nor is it dialled');
	$other->query('ROLLBACK');
	$d->becomes($locked, 'placed', 'when the cancelling is rolled back it is');
	is($d->k('+4930600001'), 0, 'the cancelled one never was');
	is($d->sql("SELECT kridtech_cancel_call($free)"), 'f', 'a placed request can no longer be cancelled');

	my $slow = $d->queue('+15550100010');
	$d->becomes($slow, 'placing', 'a request is under way');
	is($d->sql("SELECT kridtech_cancel_call($slow)"), 'f', 'neither can one that is under way');
	$d->becomes($slow, 'placed', 'it is placed');

	my $waiting = $d->queue('+4930600004', not_before => q{=clock_timestamp() + interval '600 ms'});
	$other->query("BEGIN; SELECT kridtech_cancel_call($waiting)");
	kt_wait(sub { $d->sql("SELECT not_before < clock_timestamp() FROM kridtech.call_requests WHERE id = $waiting") eq 't' });
	$d->sleeps('a request that is due and locked by somebody does not keep the dialer busy');
	$other->query('COMMIT');
	$d->turns(3);
	is($d->state($waiting) . $d->k('+4930600004'), 'cancelled0', 'and it is cancelled');
}

# ---- a human's word -----------------------------------------------------------------------------------------

{
	my @lost = map {
		$d->scenario(toNumber => "+493061000$_", fault => 'no_reply_after_create', times => 1);
		$d->queue("+493061000$_")
	} 1 .. 4;
	$d->becomes($_, 'unknown', 'an answer is lost') for @lost;

	$d->sql("SELECT kridtech_resolve_call($lost[0], 'redial')");
	$d->becomes($lost[0], 'placed', 'redial really dials again');
	is($d->k('+4930610001'), 2, 'it rings a second time, by a recorded decision');
	my @attempts = $d->attempts($lost[0]);
	like($attempts[0]{detail}, qr/resolved as redial by \S+ at \d{4}-/, 'the first attempt records who and when');
	is(join(' ', map { $_->{live} ? 1 : 0 } @attempts), '0 1', 'only the second is live');
	is($d->request($lost[0])->{attempts}, 1, 'its attempts are counted anew');

	$d->sql("SELECT kridtech_resolve_call($lost[1], 'not_placed')");
	is($d->state($lost[1]), 'failed', 'not_placed makes it failed');
	$d->sql("SELECT kridtech_resolve_call($lost[2], 'placed', 'call_by_hand')");
	is("@{ $d->request($lost[2]) }{qw(state call_id)}", 'placed call_by_hand', 'placed binds the callId that is given');
	$d->turns(5);
	is($d->k('+4930610002') . $d->k('+4930610003') . $d->k('+4930610004'), '111', 'none of them is dialled again');
	is($d->state($lost[3]), 'unknown', 'nor is the one nobody decided about, ever');

	$d->sql("SELECT kridtech_resolve_call($lost[1], 'redial')");
	$d->becomes($lost[1], 'placed', 'a failed request can be dialled again');
	is($d->k('+4930610002'), 2, 'and it rings a second time');
	like($d->sql_error("SELECT kridtech_resolve_call($lost[1], 'redial')"), qr/55000.*is placed/, 'a placed one cannot');

	$d->scenario(toNumber => '+4930610009', fault => 'drop', times => 1);
	my $id = $d->queue('+4930610009', not_after => q{=clock_timestamp() + interval '1 s'});
	$d->becomes($id, 'unknown', 'one whose time is over');
	kt_wait(sub { $d->sql("SELECT not_after < clock_timestamp() FROM kridtech.call_requests WHERE id = $id") eq 't' });
	like($d->sql_error("SELECT kridtech_resolve_call($id, 'redial')"), qr/55000.*must not be dialled any more/, 'cannot be dialled again');
}

is($d->sql('SELECT count(*) FROM kridtech.call_attempts WHERE live GROUP BY request_id HAVING count(*) > 1'), '', 'no request has two live attempts');
is($d->sql(q{SELECT count(*) FROM kridtech.call_attempts WHERE finished_at IS NULL}), 0, 'every attempt has its end');
unlike($d->log, qr/PANIC|ERROR:  (?!(the account of )?call request)|server process/, 'the dialer met no error');
done_testing();
