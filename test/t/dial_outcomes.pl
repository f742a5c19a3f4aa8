# What each end of a request makes of it, of its account, and of the evidence: faults.md section 1, row by
# row, through the dialer and the simulator.
use strict;
use warnings;

use Dialing;
use Kridtech;
use Test::More;
use Time::HiRes qw(sleep time);

my $d = Dialing->new('outcomes', conf => <<'CONF');
kridtech.connect_timeout = '1s'
kridtech.request_timeout = '4s'
kridtech.probe_interval = '1s'
CONF

# Nothing a human or a monitor reads may show the key or a whole number.
sub shows_no_secret
{
	my ($id, $number, $name) = @_;
	my $text = $d->sql("SELECT concat_ws(' ', error, call_status) FROM kridtech.call_requests WHERE id = $id")
	  . $d->sql("SELECT string_agg(concat_ws(' ', outcome, answer_head, detail), ' ') FROM kridtech.call_attempts WHERE request_id = $id")
	  . $d->sql("SELECT string_agg(concat_ws(' ', reason, stamp), ' ') FROM kridtech.pauses")
	  . $d->sql("SELECT string_agg(concat_ws(' ', component, detail), ' ') FROM kridtech.health");
	(my $digits = $number) =~ s/^\+//;
	return unlike($text, qr/\Q$Dialing::KEY\E|$digits/, "$name: neither the key nor the number shows");
}

# ---- the table ---------------------------------------------------------------------------------------------

# what happens, the number's last four digits or a scenario, then what must come of it:
# state, outcome, HTTP status, K (whole create-calls), pauses of the account.
my @rows = (
	# answers with a callId
	[ 'the documented answer', '0001', 'placed', 'ok', 200, 1, '' ],
	[ 'HTTP 201',              '0201', 'placed', 'ok', 201, 1, '' ],
	[ 'HTTP 202',              '0202', 'placed', 'ok', 202, 1, '' ],
	[ 'success missing', '0219', 'placed', 'ok, flagged', 200, 1, '' ],
	[ 'success of another type',  '0220', 'placed', 'ok, flagged', 200, 1, '' ],
	[ 'a byte order mark',        '0226', 'placed', 'ok', 200, 1, '' ],
	[ 'an answer that drips',     '0610', 'placed', 'ok', 200, 1, '' ],
	[ 'gzip that was not asked for', '0614', 'placed', 'ok', 200, 1, '' ],
	[ 'a 100 Continue before it', '0624', 'placed', 'ok', 200, 1, '' ],
	[ 'an answer that ends with its connection', '0626', 'placed', 'ok', 200, 1, '' ],
	[ 'success false and no callId', '0200', 'failed', 'declined', 200, 1, '' ],

	# a 2xx that proves nothing
	[ 'HTTP 204',             '0204', 'unknown', 'unknown', 204, 1, '' ],
	[ 'an HTML page',         '0210', 'unknown', 'unknown', 200, 1, '' ],
	[ 'an empty body',        '0211', 'unknown', 'unknown', 200, 1, '' ],
	[ 'JSON that breaks off', '0212', 'unknown', 'unknown', 200, 1, '' ],
	[ 'an array',             '0213', 'unknown', 'unknown', 200, 1, '' ],
	[ 'null',                 '0214', 'unknown', 'unknown', 200, 1, '' ],
	[ 'callId missing',       '0215', 'unknown', 'unknown', 200, 1, '' ],
	[ 'a number as callId',   '0216', 'unknown', 'unknown', 200, 1, '' ],
	[ 'an empty callId',      '0217', 'unknown', 'unknown', 200, 1, '' ],
	[ 'a callId of 10,000 characters', '0218', 'unknown', 'unknown', 200, 1, '' ],
	[ 'two different callIds',         '0221', 'unknown', 'unknown', 200, 1, '' ],
	[ 'JSON nested 100,000 deep',      '0223', 'unknown', 'unknown', undef, 1, '' ],
	[ 'a callId that is not UTF-8',    '0224', 'unknown', 'unknown', 200, 1, '' ],
	[ 'a callId with NUL',             '0225', 'unknown', 'unknown', 200, 1, '' ],
	[ 'success false and a callId',    '0227', 'unknown', 'unknown', 200, 1, '' ],
	[ 'garbage after the JSON',        '0228', 'unknown', 'unknown', 200, 1, '' ],
	[ 'callId null',                   '0229', 'unknown', 'unknown', 200, 1, '' ],

	# other statuses
	(map { [ "HTTP $_", "0$_", 'unknown', 'unknown', $_, 1, 'endpoint' ] } 301, 302, 303, 307, 308),
	(map { [ "HTTP $_", "0$_", 'failed', 'bad argument', $_, 1, '' ] } 400, 413, 422, 431),
	(map { [ "HTTP $_", "0$_", 'failed', 'bad endpoint', $_, 1, 'endpoint' ] } 404, 405),
	(map { [ "HTTP $_", "0$_", 'failed', 'bad endpoint', $_, 1, '' ] } 410, 415),
	(map { [ "HTTP $_", "0$_", 'queued', 'unauthorized', $_, 1, 'unauthorized' ] } 401, 403, 407),
	(map { [ "HTTP $_", "0$_", 'unknown', 'unknown', $_, 1, '' ] }
		  406, 408, 409, 411, 418, 425, 451, 499, 500, 501, 502, 503, 504, 507, 599),
	[ '500 although the call was created', '0621', 'unknown', 'unknown', 500, 1, '' ],
	[ '503 although the call was created', '0622', 'unknown', 'unknown', 503, 1, '' ],
	[ '503 with Retry-After',              '0707', 'unknown', 'unknown', 503, 1, '' ],
	[ 'an HTTP status of 100 digits',      '0616', 'unknown', 'unknown', undef, 1, '' ],

	# an error after the first byte left
	[ 'RST after the body, no call',         '0600', 'unknown', 'unknown', undef, 1, '' ],
	[ 'RST after the body, a call',          '0601', 'unknown', 'unknown', undef, 1, '' ],
	[ 'RST within the answer',               '0602', 'unknown', 'unknown', undef, 1, '' ],
	[ 'closed without an answer, no call',   '0603', 'unknown', 'unknown', undef, 1, '' ],
	[ 'closed without an answer, a call',    '0604', 'unknown', 'unknown', undef, 1, '' ],
	[ 'no answer in time, no call',          '0607', 'unknown', 'unknown', undef, 1, '' ],
	[ 'no answer in time, a call',           '0608', 'unknown', 'unknown', undef, 1, '' ],
	[ 'shorter than its Content-Length',     '0609', 'unknown', 'unknown', undef, 1, '' ],
	[ 'dripped too slowly',                  '0611', 'unknown', 'unknown', undef, 1, '' ],
	[ '100 MB after the answer',             '0612', 'unknown', 'unknown', undef, 1, '' ],
	[ 'blanks without end',                  '0613', 'unknown', 'unknown', undef, 1, '' ],
	[ 'a gzip bomb',                         '0615', 'unknown', 'unknown', undef, 1, '' ],
	[ 'bytes that are no HTTP',              '0617', 'unknown', 'unknown', undef, 1, '' ],
	[ 'a broken chunked body',               '0618', 'unknown', 'unknown', undef, 1, '' ],
	[ 'two Content-Lengths',                 '0619', 'unknown', 'unknown', undef, 1, '' ],
	[ 'an answer that breaks off',           '0620', 'unknown', 'unknown', undef, 1, '' ],
	[ 'HTTP/0.9',                            '0623', 'unknown', 'unknown', undef, 1, '' ],
	[ 'a Content-Length that never is sent', '0625', 'unknown', 'unknown', undef, 1, '' ],
);

my %id;
for my $row (@rows)
{
	$id{ $row->[1] } = $d->queue("+1555010$row->[1]", account_id => "case $row->[1]");
}
# The last of these take kridtech.request_timeout.
kt_wait(sub { $d->sql("SELECT count(*) FROM kridtech.call_attempts WHERE finished_at IS NOT NULL") >= @rows }, 30);

for my $row (@rows)
{
	my ($name, $case, $state, $outcome, $status, $k, $causes) = @$row;
	my $number   = "+1555010$case";
	my $request  = $d->request($id{$case});
	my @attempts = $d->attempts($id{$case});
	my $attempt  = $attempts[0] // {};
	# a request that could be sent again is held back by its account's pause here
	subtest $name => sub {
		is($request->{state}, $state, "the request is $state");
		is($d->k($number), $k, "K = $k");
		is(scalar @attempts, 1, 'there is one attempt');
		is($attempt->{outcome}, $outcome, "its outcome is $outcome");
		is($attempt->{live} ? 1 : 0, $state =~ /placed|unknown/ ? 1 : 0, 'it is live unless it is proven that nothing was applied');
		cmp_ok($attempt->{bytes_sent}, '>', 100, 'bytes left');
		is($attempt->{http_status}, $status, 'its HTTP status') if defined $status;
		is($request->{http_status}, $status, 'and the request has it too') if defined $status;
		is($d->causes("case $case"), $causes, "pauses of its account: '$causes'");
		is($request->{attempts}, $state eq 'queued' ? 0 : 1, 'what concerns the account uses no attempt');
		is(defined $request->{finished_at} ? 1 : 0, $state eq 'queued' ? 0 : 1, 'finished_at stands with a final state');
		if ($outcome eq 'ok')
		{
			is($request->{error}, undef, 'there is no error');
			is($attempt->{answer_head}, undef, 'and no answer is kept');
		}
		else
		{
			like($request->{error}, qr/^\Q$outcome\E/, 'its error begins with the outcome');
			like($request->{error}, qr/\Q(HTTP status $status)\E/, 'and names the HTTP status') if defined $status;
		}
		if ($state eq 'placed')
		{
			like($request->{call_id}, qr/^call_/, 'it has its callId');
			is($attempt->{call_id}, $request->{call_id}, 'the attempt has it too');
			is($request->{call_status}, 'registered', 'and the callStatus') if $case ne '0624';
		}
		else
		{
			is($request->{call_id}, undef, 'it has no callId');
		}
		shows_no_secret($id{$case}, $number, $name);
	};
}

cmp_ok($d->sql(q{SELECT max(length(answer_head)) FROM kridtech.call_attempts}), '<=', 256, 'no kept head is longer than 256 bytes');
like($d->sql("SELECT answer_head FROM kridtech.call_attempts WHERE request_id = $id{'0210'}"), qr/<html>/i,
	'an answer that is not understood leaves its head as evidence');

# Those that wait are not wanted any more: the 402's probes would meet the scenarios below.
$d->sql(q{SELECT kridtech_cancel_call(id) FROM kridtech.call_requests WHERE state = 'queued'});

# What cannot be a number's: the number is in the body.
for my $case ([ 'before the body', 'before_body', 0 ], [ 'within the body', 'mid_body', 0 ])
{
	my ($name, $when, $k) = @$case;
	for my $fault (qw(reset drop))
	{
		my $number = sprintf '+49301%s%d', $fault eq 'reset' ? '1' : '2', length $when;
		$d->scenario(fault => $fault, when => $when, times => 1);
		# large, so that it cannot all be in flight before the API lets go
		my $id = $d->queue($number, account_id => "$fault $when", dynamic_variables => { text => 'x' x 900_000 });
		$d->becomes($id, 'unknown', "$fault $name leaves the request unknown");
		is($d->k($number), $k, 'no whole request arrived');
		cmp_ok(($d->attempts($id))[0]{bytes_sent}, '>', 0, 'but bytes left, so it is not sent again');
	}
}

# ---- words of the API ---------------------------------------------------------------------------------------

{
	my $number = '+4930776655441';
	$d->scenario(toNumber => $number, fault => 'body', status => 400,
		body => qq({"success":false,"error":"$number is refused for key $Dialing::KEY \\u0007 (4930) 776-655-441"}));
	my $id = $d->queue($number, account_id => 'words');
	$d->becomes($id, 'failed', 'a refusal that repeats key and number');
	shows_no_secret($id, $number, 'a refusal that repeats key and number');
	like($d->request($id)->{error}, qr/^bad argument \(HTTP status 400\): .*\[redacted\]/,
		'its words are kept without them');
	unlike($d->log, qr/\Q$Dialing::KEY\E|4930776655441/, 'and the log has neither');
}

# ---- 401 ----------------------------------------------------------------------------------------------------

{
	my $file = kt_key_file("not-the-key\n");
	$d->sql(qq{INSERT INTO kridtech.accounts VALUES ('turned', '$file'), ('other', '$file')});
	my @ids = map { $d->queue("+49302000$_", account_id => 'turned') } 1001 .. 1003;
	$d->sql_becomes("SELECT cause FROM kridtech.pauses WHERE account_id = 'turned'", 'unauthorized', 'a wrong key pauses its account');
	my $k = 0;
	$d->turns(5);
	$k += $d->k("+49302000$_") for 1001 .. 1003;
	$d->turns(10);
	my $k2 = 0;
	$k2 += $d->k("+49302000$_") for 1001 .. 1003;
	is($k2, $k, 'nothing more is sent with it');
	like($d->health('account turned'), qr/^f\|unauthorized: unauthorized \(HTTP status 401\)/, 'health says so');
	is($d->sql("SELECT string_agg(DISTINCT state || attempts, ' ') FROM kridtech.call_requests WHERE account_id = 'turned'"),
		'queued0', 'its requests wait and have lost no attempt');
	my $id = $d->queue('+4930200999');
	$d->becomes($id, 'placed', 'another account goes on');

	open my $handle, '>', $file or die $!;
	print $handle "$Dialing::KEY\n";
	close $handle;
	$d->becomes($_, 'placed', 'a new key file ends the pause') for @ids;
	is($d->causes('turned'), '', 'its row is gone');
}

{
	$d->scenario(toNumber => '+4930210001', fault => 'status', status => 403, times => 1);
	my $id = $d->queue('+4930210001', account_id => 'resumed');
	$d->sql_becomes("SELECT cause FROM kridtech.pauses WHERE account_id = 'resumed'", 'unauthorized', 'a 403 pauses its account');
	$d->sql(q{SELECT kridtech_resume('resumed')});
	$d->becomes($id, 'placed', 'kridtech_resume() ends the pause of a 403');
	is($d->k('+4930210001'), 2, 'it was sent again once');
}

# The key is changed while a request with the old one is under way: its refusal says nothing of the new one.
{
	my $file   = kt_key_file("$Dialing::KEY\n");
	my $number = '+4930220001';
	$d->sql(qq{INSERT INTO kridtech.accounts VALUES ('rotated', '$file')});
	$d->scenario(toNumber => $number, fault => 'status', status => 401, latency => 1500, times => 1);
	my $id = $d->queue($number, account_id => 'rotated');
	$d->becomes($id, 'placing', 'a request is under way with the old key');
	kt_wait(sub { $d->k($number) == 1 });
	rename kt_key_file("$Dialing::KEY\n"), $file or die $!;
	$d->turns(5);
	$d->becomes($id, 'placed', 'a 401 for the old key does not pause the new one');
	is($d->k($number), 2, 'and the request is sent with the new key');
}

{
	# somebody's open transaction holds the row that the pause is to be
	my $other = kt_background($d->{node}, $d->{database}, timeout => 60);
	$other->query(q{BEGIN; INSERT INTO kridtech.pauses (account_id, cause) VALUES ('held', 'unauthorized')});
	$d->scenario(toNumber => '+4930210011', fault => 'status', status => 403, times => 1);
	my $id = $d->queue('+4930210011', account_id => 'held');
	$d->sql_becomes("SELECT count(*) FROM kridtech.call_attempts WHERE request_id = $id AND NOT live AND finished_at IS NOT NULL",
		1, 'an open transaction on kridtech.pauses keeps no result from being recorded');
	my $fine = $d->queue('+4930210012');
	$d->becomes($fine, 'placed', 'nor another account from being dialled');
	$d->turns(10);
	is($d->k('+4930210011'), 1, 'and its account is shut meanwhile');
	$other->query('ROLLBACK');
	$d->becomes($id, 'placed', 'a pause that could not be written is over soon', 20);
	is($d->k('+4930210011'), 2, 'it was sent again once');
}

# ---- a key file that cannot be used -------------------------------------------------------------------------

{
	chmod 0644, $d->{key_file} or die $!;
	my $id = $d->queue('+4930230001');
	$d->turns(5);
	is($d->state($id), 'queued', 'with a key file that others can read nothing is sent');
	is($d->k('+4930230001'), 0, 'and nobody is rung');
	like($d->health('credentials'), qr/^f\|.*has permissions other than 0600 and 0400/, 'health names the file and its fault');
	unlike($d->health('credentials'), qr/\Q$Dialing::KEY\E/, 'and not the key');
	$d->sleeps('the dialer sleeps while no key can be had');
	chmod 0600, $d->{key_file} or die $!;
	$d->becomes($id, 'placed', 'with the file put right the request is placed by itself');
	like($d->health('credentials'), qr/^t\|/, 'and health is content');
}

# ---- 402 ----------------------------------------------------------------------------------------------------

{
	$d->set('kridtech.max_concurrent_requests' => 1);
	$d->post('settings', { credits => 2 });
	my @ids = map { $d->queue(sprintf('+493024%04d', $_), account_id => 'poor') } 1 .. 8;
	$d->sql_becomes("SELECT cause FROM kridtech.pauses WHERE account_id = 'poor'", 'credits', '402 pauses the account');
	is($d->sql("SELECT count(*) FROM kridtech.call_requests WHERE account_id = 'poor' AND state = 'placed'"), 2,
		'what the credits covered was placed');
	is($d->sql("SELECT count(*) FROM kridtech.call_requests WHERE account_id = 'poor' AND state = 'queued' AND attempts = 0"), 6,
		'the rest is queued and has lost no attempt');
	my $pause = $d->pause('poor', 'credits');
	ok($pause->{probe_left} > -0.5 && $pause->{probe_left} <= 1, 'the pause has a probe after kridtech.probe_interval');
	is($pause->{until}, undef, 'and no end');
	sleep 2.4;
	my $sent = grep { $_->{accountId} eq 'poor' } $d->ledger;
	ok($sent >= 4 && $sent <= 6, "one probe an interval, not more ($sent requests in all)");
	$d->post('settings', { credits => 1000 });
	$d->becomes($_, 'placed', 'after the credits came back the queue drains') for @ids;
	is($d->causes('poor'), '', 'the success of a probe ended the pause');
	$d->reset('kridtech.max_concurrent_requests');
}

# ---- 429 ----------------------------------------------------------------------------------------------------

# The pause that a 429 makes: seconds until it ends, at least and at most (a little time has passed).
for my $case (
	[ 'Retry-After: 3',                   '3',              1.5,  3 ],
	[ 'Retry-After as a date',            'date+4',         1.5,  4.1 ],
	[ 'no Retry-After',                   undef,            0,    2 ],
	[ 'a negative Retry-After',           '-5',             0,    2 ],
	[ 'Retry-After: 0',                   '0',              0,    1 ],
	[ 'Retry-After: soon',                'soon',           0,    2 ],
	[ 'a date of an hour ago',            'date+-3600',     0,    1 ],
	[ 'Retry-After: 86400',               '86400',          3590, 3600 ],
	[ 'a huge Retry-After',               '99999999999999', 3590, 3600 ],
	[ 'a Retry-After beyond all numbers', '9' x 40,         3590, 3600 ],
  )
{
	my ($name, $retry_after, $least, $most) = @$case;
	my ($number, $account) = (sprintf('+493025%04d', ++$d->{n}), $name);
	$d->scenario(toNumber => $number, fault => 'status', status => 429, times => 1,
		defined $retry_after ? (retry_after => $retry_after) : ());
	my $id    = $d->queue($number, account_id => $account);
	my $other = $d->queue($number . '9', account_id => $account, priority => -1,
		not_before => '=clock_timestamp() + interval \'150 ms\'');
	kt_wait(sub { $d->pause($account, 'rate') });
	my $pause = $d->pause($account, 'rate');
	ok($pause && $pause->{left} >= $least && $pause->{left} <= $most, "$name: the account waits as long as it should")
	  or diag explain $pause;
	my $request = $d->request($id);
	is("$request->{state} $request->{attempts}", 'queued 0', "$name: the request is queued and has lost no attempt");
	if ($most > 10)
	{
		is($d->k($number . '9'), 0, "$name: the gate holds for the whole account");
		$d->sql(q{SELECT kridtech_resume('} . $account . q{')});
	}
	$d->becomes($id,    'placed', "$name: after the wait it is placed");
	$d->becomes($other, 'placed', "$name: and so is the account's next");
	my ($first, $second) = map { $_->{monotonicUs} } $d->ledger($number);
	cmp_ok($second - $first, '>=', 1_000_000, "$name: not before a second") if $most <= 10;
	is($d->k($number), 2, "$name: it is sent twice, and was refused the first time");
}

# ---- nothing was sent ---------------------------------------------------------------------------------------

# Where nobody listens; then where somebody does.
my $good = $d->url;
{
	$d->set('kridtech.base_url' => 'http://127.0.0.1:1');
	my $id = $d->queue('+4930260001', account_id => 'refused');
	$d->sql_becomes("SELECT count(*) > 0 FROM kridtech.call_attempts WHERE request_id = $id AND finished_at IS NOT NULL", 't', 'an attempt ended');
	my $request = $d->request($id);
	my ($attempt) = $d->attempts($id);
	is($request->{state}, 'queued', 'connection refused: the request is queued again');
	is($request->{attempts}, 1, 'the attempt counts');
	is($attempt->{outcome},   'not sent', 'its outcome says so');
	is($attempt->{live} ? 1 : 0, 0, 'it is not live');
	is($attempt->{bytes_sent}, 0, 'no byte left: the proof');
	is($attempt->{curl_code},  7, 'and libcurl could not connect');
	my $wait = $d->sql("SELECT extract(epoch FROM next_attempt_at - a.finished_at) FROM kridtech.call_requests r"
		  . " JOIN kridtech.call_attempts a ON a.request_id = r.id WHERE r.id = $id ORDER BY a.id LIMIT 1");
	ok($wait > 0.9 && $wait <= 2.1, "it waits for one to two seconds ($wait)");
	$d->set('kridtech.base_url' => $good);
	$d->becomes($id, 'placed', 'once the API is back it is placed');
	is($d->k('+4930260001'), 1, 'and it rings once');
	is($d->request($id)->{error}, undef, 'and the error is gone');

	$d->set('kridtech.base_url' => 'http://127.0.0.1:1', 'kridtech.retry_limit' => 2);
	$id = $d->queue('+4930260002', account_id => 'hopeless');
	$d->becomes($id, 'failed', 'after kridtech.retry_limit attempts it fails', 15);
	like($d->request($id)->{error}, qr/^not sent: /, 'and says why');
	is(scalar(my @all = $d->attempts($id)), 2, 'after so many attempts');
	ok(!(grep { $_->{live} } $d->attempts($id)), 'none of them is live');
	shows_no_secret($id, '+4930260002', 'connection refused');
	$d->reset('kridtech.retry_limit');
}

# The breaker.
{
	my @ids = map { $d->queue(sprintf('+493027%04d', $_), account_id => 'far') } 1 .. 12;
	$d->sql_becomes("SELECT cause FROM kridtech.pauses WHERE account_id = 'far'", 'unreachable',
		'ten failures in a row to send anything open the breaker');
	ok($d->pause('far', 'unreachable')->{probe_at}, 'which has a time for a probe');
	like($d->health('account far'), qr/^f\|unreachable: not sent: /, 'health says so');
	# the first round of twelve at once has ended; from here on one at a time
	my $since = $d->sql('SELECT clock_timestamp()');
	$d->sleeps('the dialer sleeps between its probes', 3);
	is($d->sql("SELECT count(*) FROM kridtech.call_attempts a JOIN kridtech.call_requests r ON r.id = a.request_id"
		  . " JOIN (kridtech.call_attempts b JOIN kridtech.call_requests s ON s.id = b.request_id AND s.account_id = 'far')"
		  . " ON b.id <> a.id AND tstzrange(a.started_at, a.finished_at) && tstzrange(b.started_at, b.finished_at)"
		  . " WHERE r.account_id = 'far' AND a.started_at > '$since' AND b.started_at > '$since'"), 0, 'and sends one at a time');
	my $probes = $d->sql("SELECT count(*) FROM kridtech.call_attempts a JOIN kridtech.call_requests r ON r.id = a.request_id"
		  . " WHERE r.account_id = 'far' AND a.started_at > '$since'");
	cmp_ok($probes, '<=', 4, "few probes in three seconds ($probes)");
	$d->set('kridtech.base_url' => $good);
	$d->becomes($_, 'placed', 'once the API is back all are placed', 30) for @ids;
	is($d->causes('far'), '', 'and the breaker is closed');
	is($d->sql("SELECT max(n) FROM (SELECT count(*) AS n FROM kridtech.call_attempts a JOIN kridtech.call_requests r"
		  . " ON r.id = a.request_id WHERE r.account_id = 'far' AND a.live GROUP BY a.request_id) AS q"), 1, 'each with one live attempt');
	is(scalar(grep { $_->{toNumber} =~ /^\+493027/ } $d->ledger), 12, 'each rings once');
}

# ---- a callId that is another request's ---------------------------------------------------------------------

{
	my @same = map { { toNumber => "+493028000$_", fault => 'same_call_id', callId => 'call_twice', latency => 400 } } 1, 2;
	$d->scenario(%$_) for @same;
	$d->scenario(toNumber => '+4930280003', fault => 'latency', latency => 400);
	# at once, so that they come back in one batch
	my @ids = split /\n/, $d->sql(join ' UNION ALL ', map { Dialing::queue_statement("+493028000$_", account_id => 'twins') } 1 .. 3);
	$d->sql_becomes("SELECT string_agg(state, ' ' ORDER BY state) FROM kridtech.call_requests WHERE account_id = 'twins'",
		'placed placed unknown', 'of two requests with one callId the second is unknown, and their neighbour is placed');
	is($d->state($ids[2]), 'placed', 'the neighbour is placed');
	my $loser = $d->row("SELECT r.id, r.error, r.call_id, a.live, a.call_id AS theirs FROM kridtech.call_requests r JOIN kridtech.call_attempts a ON a.request_id = r.id"
		  . " WHERE r.account_id = 'twins' AND r.state = 'unknown'");
	like($loser->{error}, qr/callId belongs to another request/, 'the error says why');
	is($loser->{call_id}, undef, 'the callId stays the first one\'s');
	is($loser->{theirs}, 'call_twice', 'the evidence has it');
	ok($loser->{live}, 'and is live');
	is($d->causes('twins'), 'conflict', 'the account is paused');
	like($d->log, qr/WARNING:  the Kridtech API answered request $loser->{id} with a callId that belongs to another request/, 'the log raises the alarm');
	is($d->k("+493028000$_"), 1, 'and it rings once') for 1 .. 3;
	my $id = $d->queue('+4930280004', account_id => 'twins');
	$d->turns(5);
	is($d->k('+4930280004'), 0, 'nothing is sent for it until a human looks');
	$d->sql(q{SELECT kridtech_resume('twins')});
	$d->becomes($id, 'placed', 'then it goes on');
}

# ---- a result that the table refuses ------------------------------------------------------------------------

{
	$d->no_scenarios;
	$d->sql(q{ALTER TABLE kridtech.call_requests ADD CONSTRAINT odd CHECK (state <> 'placed' OR to_number <> '+4930285001') NOT VALID});
	my $id = $d->queue('+4930285001');
	ok(kt_wait(sub { $d->log =~ /violates check constraint "odd"\n.*DETAIL:  It may hold values of a row and is not logged/ }),
		'the log says which constraint refuses a result');
	unlike($d->log, qr/4930285001/, 'and does not show the number');
	$d->sql('ALTER TABLE kridtech.call_requests DROP CONSTRAINT odd');
	$d->becomes($id, 'placed', 'once the constraint is gone the result is recorded');
	is($d->k('+4930285001'), 1, 'and it rings once');
}

# ---- too many unknown ---------------------------------------------------------------------------------------

{
	$d->sql("UPDATE kridtech.call_requests SET finished_at = finished_at - interval '61 minutes' WHERE state = 'unknown'");
	$d->set('kridtech.max_unknown' => 2);
	my @lost = map { $d->queue('+15550100500') } 1 .. 2;
	$d->becomes($_, 'unknown', 'a request is unknown; those of more than an hour ago do not count') for @lost;
	my $id = $d->queue('+4930290001');
	$d->turns(5);
	is($d->state($id), 'queued', 'at kridtech.max_unknown the dialer stops placing');
	is($d->k('+4930290001'), 0, 'and nobody is rung');
	like($d->health('dialer'), qr/^f\|holding: 2 requests of the last hour are unknown/, 'health says so of the dialer');
	like($d->health('queue'),  qr/^f\|stopped by kridtech.max_unknown/, 'and of the queue');
	$d->sleeps('it sleeps meanwhile');
	my $expired = $d->queue('+4930290002', not_after => q{=clock_timestamp() + interval '300 ms'});
	$d->becomes($expired, 'expired', 'what is over expires meanwhile');
	$d->sql("SELECT kridtech_resolve_call($lost[0], 'not_placed')");
	$d->becomes($id, 'placed', 'one that a human resolves lets it go on');
	is($d->health('dialer'), 't|dialling', 'and health is content');
	is($d->k('+15550100500'), 2 + 1, 'no unknown request was sent again');    # one of them in the table above
	$d->reset('kridtech.max_unknown');
}

# ---- the counters -------------------------------------------------------------------------------------------

my %stat = map { $_->{name} => $_->{value} } $d->rows('SELECT * FROM kridtech.stats');
my %count = map { $_->{state} => $_->{n} } $d->rows('SELECT state, count(*) AS n FROM kridtech.call_requests GROUP BY 1');
is($stat{placed}, $count{placed}, 'stats counts what was placed');
is($stat{unknown}, $count{unknown} + 1, 'and what was unknown, of which one was resolved');
is($stat{failed}, $count{failed} - 1, 'and what failed, without what a human said');
is($stat{expired}, $count{expired}, 'and what expired');
is($stat{attempts}, $d->sql('SELECT count(*) FROM kridtech.call_attempts'), 'and every attempt');
is($stat{attempts}, $stat{placed} + $stat{failed} + $stat{unknown} + $stat{retries}, 'every attempt came to an end');
is($stat{in_flight}, 0, 'nothing is in flight');
cmp_ok($stat{bytes_sent}, '>', 100 * $count{placed}, 'bytes were sent');
cmp_ok($stat{latency_p99_ms}, '>=', $stat{latency_p50_ms}, 'the percentiles are in order');
is($d->sql('SELECT count(*) FROM kridtech.call_attempts WHERE live GROUP BY request_id HAVING count(*) > 1'), '', 'no request has two live attempts');
unlike($d->log, qr/PANIC|server process|\Q$Dialing::KEY\E/, 'the log has no crash and no key');
done_testing();
