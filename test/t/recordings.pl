# Recordings: fetched whole or not at all, from listed hosts only, in bounded memory, without delaying a call.
use strict;
use warnings;

use Dialing;
use Digest::SHA qw(sha256_hex);
use Kridtech;
use RecordingServer;
use Test::More;
use Time::HiRes qw(time);

use constant MB => 1024 * 1024;

my $server = RecordingServer->new;
my $here   = '127.0.0.1:' . $server->port;

# Another one, whose certificate nobody trusts.
my $stranger = RecordingServer->new;
my $d      = Dialing->new('recordings', conf => <<"CONF");
kridtech.recordings = on
kridtech.recording_hosts = '$here, localhost:${\$server->port}, 127.0.0.1:${\$stranger->port}, .recordings.invalid'
kridtech.ca_file = '@{[$server->certificate]}'
kridtech.connect_timeout = 2s
kridtech.request_timeout = 2s
kridtech.recording_max_size = 3MB
restart_after_crash = on
CONF
my $node  = $d->{node};
my $calls = 0;

# A verified event with that URL; its call's ID.
sub event
{
	my ($url, %column) = @_;
	my $id   = 'rec_' . ++$calls;
	my %all  = (call_id => $id, recording_url => $url, raw => '{}', verified_by => 'request', %column);
	my @name = sort keys %all;
	$d->sql('INSERT INTO kridtech.webhook_events (' . join(', ', @name) . ') VALUES ('
		  . join(', ', map { Dialing::literal($all{$_}) } @name) . ')');
	return $id;
}

sub recording
{
	my ($id) = @_;
	return $d->row("SELECT *, encode(sha256, 'hex') AS hex, extract(epoch FROM next_attempt_at - clock_timestamp()) AS wait"
		  . " FROM kridtech.recordings WHERE call_id = '$id'");
}

# Waits for a recording to come to that; its row.
sub settled
{
	my ($id, $state, $seconds) = @_;
	my $row;
	kt_wait(sub { $row = recording($id); $row && $row->{state} eq $state && ($state ne 'waiting' || $row->{attempts} > 0) }, $seconds // 20)
	  or diag("$id: " . ($row ? "$row->{state} $row->{attempts} " . ($row->{error} // '') : 'no row'));
	return $row // {};
}

sub chunks
{
	my ($id) = @_;
	return $d->sql("SELECT count(*) FROM kridtech.recording_chunks WHERE call_id = '$id'");
}

# What failed once is due again at once, as if that much time had passed.
sub hurry
{
	my ($id) = @_;
	$d->sql("UPDATE kridtech.recordings SET next_attempt_at = clock_timestamp() WHERE call_id = '$id' AND state = 'waiting'");
	return;
}

# ---- what is fetched is exactly what was sent ------------------------------------------------------------------

settled(event("http://$here/ok/1"), 'failed');
like($d->health('recordings'), qr/^f\|none of the last day's could be fetched: 0 waiting, 0 being fetched; of the last day's 0 fetched, 1 failed; last error: the URL is not https$/,
	'health is not content where nothing can be fetched');
my %size = (
	'one byte' => 1, 'less than a piece' => 1000, 'one piece less a byte' => 262143, 'exactly one piece' => 262144,
	'one piece and a byte' => 262145, 'exactly two pieces' => 524288, 'many pieces' => 2 * MB + 77777,
	'as many bytes as are allowed' => 3 * MB);
my %of = map { $_ => event($server->url("ok/$size{$_}")) } sort keys %size;
for my $what (sort keys %size)
{
	my $row     = settled($of{$what}, 'fetched');
	my $content = RecordingServer::content($size{$what});
	is_deeply([ @$row{qw(state bytes hex content_type attempts error)} ],
		[ 'fetched', length $content, sha256_hex($content), 'audio/mpeg', 1, undef ], "$what: fetched, with length, hash and type");
	is($d->sql("SELECT encode(sha256(kridtech_recording('$of{$what}')), 'hex')"), sha256_hex($content), "$what: kridtech_recording() has it");
	is(chunks($of{$what}), int(($size{$what} + 262143) / 262144), "$what: in as many pieces as it takes");
}
my $chunked = event($server->url('chunked/700000'));
is(settled($chunked, 'fetched')->{hex}, sha256_hex(RecordingServer::content(700000)), 'a chunked answer is fetched whole');
is($d->sql("SELECT substr(data, 1, 8) = '00000004' FROM kridtech.recording_chunks WHERE call_id = '$chunked' AND seq = 1"), 't',
	'a piece begins at its number times its size');

like($d->health('recordings'), qr/^t\|0 waiting, 0 being fetched; of the last day's 9 fetched, 1 failed; last error: /, 'one that fails among others worries nobody');

my @head = map { split /\r\n/ } ($server->requests("/ok/1000"))[0];
is_deeply([ map { lc((split /:/)[0]) } @head[ 1 .. $#head ] ], [ 'host', 'user-agent' ], 'nothing but Host and User-Agent is sent: no key, no cookie');

# What has been seen to be slow is not to take a place later.
sub retire
{
	my ($id) = @_;
	$d->sql("UPDATE kridtech.recordings SET state = 'failed', next_attempt_at = NULL WHERE call_id = '$id' AND state = 'waiting'");
	return;
}

# ---- who is fetched ----------------------------------------------------------------------------------------------

my $unverified = event($server->url('ok/1001'), verified_by => undef);
my $silent     = event(undef);
my $after      = event($server->url('ok/1002'));
settled($after, 'fetched');
is(recording($unverified), undef, 'the recording of an event that nothing has verified is not fetched');
is(recording($silent), undef, 'an event without a recording has no row');

# ---- URLs that lead elsewhere: nothing is sent -------------------------------------------------------------------

my $connections = $server->connections;
my %refused     = (
	'http'                  => [ "http://$here/ok/1", 'failed', qr/not https/ ],
	'file'                  => [ 'file:///etc/passwd', 'failed', qr/not https/ ],
	'credentials'           => [ "https://user:word\@$here/ok/1", 'failed', qr/user name/ ],
	'a line break'          => [ "https://$here/ok/1\r\nX: y", 'failed', qr/malformed/ ],
	'another spelling'      => [ "https://2130706433:${\$server->port}/ok/1", 'failed', qr/malformed/ ],
	'a byte that is no text' => [ "https://$here/\x{fffd}", 'failed', qr/malformed/ ],
	'another host'          => [ 'https://storage.kridtech.com/x', 'waiting', qr/not in kridtech.recording_hosts/ ],
	'another port'          => [ 'https://127.0.0.1:1/x', 'waiting', qr/not in kridtech.recording_hosts/ ],
	'a metadata service'    => [ 'https://169.254.169.254/latest/meta-data/', 'waiting', qr/not in kridtech.recording_hosts/ ],
	'the domain itself'     => [ 'https://recordings.invalid/x', 'waiting', qr/not in kridtech.recording_hosts/ ]);
my %refusal = map { $_ => event($refused{$_}[0]) } sort keys %refused;
for my $what (sort keys %refused)
{
	my $row = settled($refusal{$what}, $refused{$what}[1]);
	is($row->{state}, $refused{$what}[1], "$what: $refused{$what}[1]");
	like($row->{error}, $refused{$what}[2], "$what: with the reason");
}
is($server->connections, $connections, 'for none of them was a connection made');
cmp_ok(recording($refusal{'another host'})->{wait}, '>', 1700, 'a host that is not listed is looked up in the list again much later');

my $rebound = event($server->url('ok/1003', 'localhost'));
my $row     = settled($rebound, 'waiting');
like($row->{error}, qr/address is not one that may be connected to/, 'a listed name that leads to a loopback address is refused when it connects');
is($server->connections, $connections, 'before a byte is sent');

$row = settled(event($stranger->url('ok/1000')), 'waiting');
like($row->{error}, qr/certificate/i, 'a server whose certificate is not trusted is not asked');
is(scalar(() = $stranger->requests), 0, 'nothing is sent to it');

# ---- answers that are no recording -------------------------------------------------------------------------------

my %answer = (
	'truncated/700000' => [ 'waiting', qr/missing|closed|eof|recv|read/i ],
	'unframed/5000'    => [ 'waiting', qr/does not say where it ends/ ],
	'encoded/5000'     => [ 'waiting', qr/content encoding/ ],
	'empty'            => [ 'waiting', qr/empty/ ],
	'type/text/html'   => [ 'waiting', qr/no recording, its type is text\/html/ ],
	'redirect'         => [ 'waiting', qr/status 302: redirects are not followed/ ],
	'status/500'       => [ 'waiting', qr/status 500/ ],
	'status/404'       => [ 'waiting', qr/status 404.*expired/ ],
	'status/206'       => [ 'waiting', qr/status 206/ ],
	'declares/3145729' => [ 'failed', qr/larger size/ ],
	'endless'          => [ 'failed', qr/larger than is allowed/ ],
	'stall/300000'     => [ 'waiting', qr/sent nothing/ ]);
my %bad = map { $_ => event($server->url($_)) } sort keys %answer;
for my $path (sort keys %answer)
{
	my $row = settled($bad{$path}, $answer{$path}[0]);
	is($row->{state}, $answer{$path}[0], "$path: $answer{$path}[0]");
	like($row->{error}, $answer{$path}[1], "$path: with the reason");
	is(chunks($bad{$path}), 0, "$path: nothing of it is kept");
	is_deeply([ @$row{qw(bytes hex fetched_at content_type)} ], [ (undef) x 4 ], "$path: nothing is said of its content");
	is($d->sql("SELECT kridtech_recording('$bad{$path}') IS NULL"), 't', "$path: kridtech_recording() is NULL");
}
retire($bad{'stall/300000'});
is(scalar(() = $server->requests('/ok/1000')), 1, 'the redirect was not followed');
my $odd = settled(event($server->url('odd')), 'fetched');
like($odd->{content_type}, qr/^audio\/[ -~]{122}$/, 'a hostile content type is kept in 128 printable characters');

$d->set('kridtech.recording_timeout' => '1500ms');
my $drip = event($server->url('drip'));
like(settled($drip, 'waiting')->{error}, qr/timed out while reading/, 'a download that drips ends after kridtech.recording_timeout');
retire($drip);
$d->reset('kridtech.recording_timeout');

# ---- tries --------------------------------------------------------------------------------------------------------

retire($bad{'status/404'});
my $asked = () = $server->requests('/status/404');
my $gone = event($server->url('status/404'));
cmp_ok(settled($gone, 'waiting')->{wait}, '<=', 65, 'what is not there is tried again soon');
for my $attempt (2 .. 5)
{
	hurry($gone);
	kt_wait(sub { my $row = recording($gone); $row->{attempts} == $attempt && $row->{state} ne 'fetching' });
}
$row = recording($gone);
is_deeply([ @$row{qw(state attempts)} ], [ 'failed', 5 ], 'and given up after five attempts');
is((() = $server->requests('/status/404')) - $asked, 5, 'which are five requests');

my $flaky = event($server->url('flaky/503/2/400000'));
for my $attempt (1, 2)
{
	settled($flaky, 'waiting');
	kt_wait(sub { recording($flaky)->{attempts} >= $attempt && recording($flaky)->{state} eq 'waiting' });
	hurry($flaky);
}
$row = settled($flaky, 'fetched');
is_deeply([ @$row{qw(state attempts error hex)} ], [ 'fetched', 3, undef, sha256_hex(RecordingServer::content(400000)) ],
	'what fails at first is fetched in the end');

my $old = event($server->url('ok/1004'), received_at => '2020-01-01');
my $new = event($server->url('ok/1005'));
settled($new, 'fetched');
is(recording($old), undef, 'an event older than kridtech.recording_max_age is left alone');
$d->sql("INSERT INTO kridtech.recordings (call_id, received_at) VALUES ('$old', '2020-01-01')");
like(settled($old, 'failed')->{error}, qr/older than kridtech.recording_max_age/, 'also when there is a row');
$d->sql("DELETE FROM kridtech.recordings WHERE call_id = '$old'; INSERT INTO kridtech.recordings (call_id) VALUES ('$old')");
is(settled($old, 'fetched')->{state}, 'fetched', 'but a row that is made by hand asks for it now');
$d->sql("INSERT INTO kridtech.recordings (call_id) VALUES ('no such call')");
like(settled('no such call', 'failed')->{error}, qr/event is gone/, 'a row without an event fails');

my $deleted = $of{'less than a piece'};
$d->sql("DELETE FROM kridtech.recordings WHERE call_id = '$deleted'");
is(chunks($deleted), 0, 'deleting a row deletes the content');

# ---- turned off, restarted, killed ---------------------------------------------------------------------------------

my $half = event($server->url('hold/2000000'));
kt_wait(sub { chunks($half) > 1 }) or die 'nothing of it arrives';
is($d->sql("SELECT kridtech_recording('$half') IS NULL"), 't', 'a recording is not to be had while it is half there');
my $killed = $d->dialer_pid;
kill KILL => $killed;
# Until the postmaster has seen it, sessions are still answered, and then ended.
kt_wait(sub {
		my $back = eval { $d->health('dialer') eq 't|dialling' && $d->dialer_pid !~ /^(|$killed)$/ };
		$d->forget_sessions if $@;
		$back;
	}, 60) or die 'the dialer does not come back';
kt_wait(sub { (() = $server->requests('/hold/2000000')) == 2 }, 20);
$server->go;
$row = settled($half, 'fetched', 40);
is_deeply([ @$row{qw(state attempts bytes hex)} ], [ 'fetched', 2, 2000000, sha256_hex(RecordingServer::content(2000000)) ],
	'a download that was cut off by a crash is begun anew, and whole');
is($d->sql("SELECT encode(sha256(kridtech_recording('$half')), 'hex')"), $row->{hex}, 'nothing of the half one is in it');

$d->set('kridtech.recordings' => 'off');
my $off = event($server->url('ok/1006'));
$d->sleeps('while kridtech.recordings is off the dialer sleeps');
is(recording($off), undef, 'and nothing is fetched');
$d->set('kridtech.recordings' => 'on');
is(settled($off, 'fetched')->{state}, 'fetched', 'until it is on again');
$d->sleeps('with nothing to fetch the dialer sleeps too');

# What waits for its time is not read over and over.
sub waiting_index
{
	return split /\|/, $d->sql(q{SELECT idx_scan, idx_tup_read FROM pg_stat_all_indexes WHERE indexrelname = 'recordings_waiting_idx'});
}
$d->sql(q{INSERT INTO kridtech.recordings (call_id, next_attempt_at) SELECT 'later_' || n, now() + interval '1 day' FROM generate_series(1, 10000) n});
my ($scans, $read) = waiting_index();
kt_wait(sub { (waiting_index())[0] >= $scans + 3 }) or diag('nothing was looked for');
cmp_ok((waiting_index())[1] - $read, '<', 1000, 'ten thousand recordings that wait are not read by each look for one that is due');
$d->sql(q{DELETE FROM kridtech.recordings WHERE call_id LIKE 'later%'});

# ---- verified late -------------------------------------------------------------------------------------------------

$d->sql("UPDATE kridtech.webhook_events SET verified_by = 'api' WHERE call_id = '$unverified'");
is(settled($unverified, 'fetched', 60)->{state}, 'fetched', 'an event that is verified late is found');

# ---- a user's trigger, a locked table: calls go on ----------------------------------------------------------------

my $locker = kt_background($node, $d->{database});
$locker->query('BEGIN; LOCK TABLE kridtech.recordings, kridtech.recording_chunks');
my $locked = event($server->url('ok/1007'));
my $began  = time;
$d->becomes($d->queue('+4930000001'), 'placed', 'while the table is locked calls are placed');
$d->turns(3);
$d->becomes($d->queue('+4930000002'), 'placed', 'one after the other');
cmp_ok(time - $began, '<', 4, 'without waiting for the lock');
$locker->query('COMMIT');
is(settled($locked, 'fetched', 40)->{state}, 'fetched', 'and the recording is fetched when the lock is gone');

$d->sql(q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.call_id = 'poison' THEN RAISE 'poison'; END IF; RETURN NEW; END$$});
$d->sql('CREATE TRIGGER refuse BEFORE INSERT ON kridtech.recordings FOR EACH ROW EXECUTE FUNCTION refuse()');
event($server->url('ok/1008'), call_id => 'poison');
my $beside = event($server->url('ok/1009'));
is(settled($beside, 'fetched', 40)->{state}, 'fetched', 'a row that a trigger refuses does not stop the others');
$d->sql('DROP TRIGGER refuse ON kridtech.recordings');

$d->sql(q{CREATE FUNCTION refuse_whole() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not yet'; END$$});
$d->sql(q{CREATE TRIGGER refuse BEFORE UPDATE ON kridtech.recordings FOR EACH ROW WHEN (NEW.state = 'fetched') EXECUTE FUNCTION refuse_whole()});
my $opposed = event($server->url('ok/600000'));
$row = settled($opposed, 'waiting', 40);
like($row->{error}, qr/could not be stored: not yet/, 'a recording that cannot be completed waits, with the reason');
is(chunks($opposed), 0, 'without the pieces that were stored before');
$d->sql('DROP TRIGGER refuse ON kridtech.recordings');
hurry($opposed);
is(settled($opposed, 'fetched', 40)->{attempts}, 2, 'and is fetched later');

# One that a trigger leaves as it is does not say for ever that it is being fetched.
$d->sql(q{CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$});
$d->sql(q{CREATE TRIGGER leave BEFORE UPDATE ON kridtech.recordings FOR EACH ROW WHEN (NEW.state = 'fetched' AND NEW.call_id LIKE 'left%') EXECUTE FUNCTION leave()});
$d->sql(q{CREATE TRIGGER leave BEFORE INSERT ON kridtech.recording_chunks FOR EACH ROW WHEN (NEW.call_id = 'pieceless') EXECUTE FUNCTION leave()});
my @left = ('left1', 'left2', 'pieceless');
event($server->url('ok/600000'), call_id => $_) for @left;
for my $id (@left)
{
	like(settled($id, 'waiting', 40)->{error}, qr/could not be stored: a trigger suppressed it/, "$id: what a trigger suppresses waits, with the reason");
	is(chunks($id), 0, "$id: without pieces");
}
$d->sql('DROP TRIGGER leave ON kridtech.recordings; DROP TRIGGER leave ON kridtech.recording_chunks');
hurry($_) for @left;
is(settled($_, 'fetched', 40)->{attempts}, 2, "$_: and is fetched later") for @left;

# Rows that cannot be claimed, more of them than are passed over while a walk rests.
$d->sql(q{CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF OLD.call_id = 'kept' THEN RETURN NULL; END IF; RAISE 'not that one'; END$$});
$d->sql(q{CREATE TRIGGER keep BEFORE UPDATE ON kridtech.recordings FOR EACH ROW WHEN (OLD.call_id LIKE 'kept%') EXECUTE FUNCTION keep()});
event($server->url('ok/1014'), call_id => "kept$_", received_at => $d->sql(q{SELECT now() - interval '1 hour'})) for '', 1 .. 15;
kt_wait(sub { $d->sql(q{SELECT count(*) FROM kridtech.recordings WHERE call_id LIKE 'kept%'}) == 16 }, 60) or diag('events are not taken up');
my $behind = event($server->url('ok/1015'));
settled($behind, 'fetched', 90);
is($d->sql(q{SELECT string_agg(DISTINCT state || attempts, ' ') FROM kridtech.recordings WHERE call_id LIKE 'kept%'}), 'waiting0',
	'rows that triggers refuse to have claimed, or leave as they are, do not stop the others');
is(recording($behind)->{state}, 'fetched', 'of which one was fetched');
$d->sql('DROP TRIGGER keep ON kridtech.recordings');
settled("kept$_", 'fetched', 90) for '', 1 .. 15;
is($d->sql(q{SELECT string_agg(DISTINCT state, ' ') FROM kridtech.recordings WHERE call_id LIKE 'kept%'}), 'fetched', 'and are fetched when they may be');

# An event that does not become a row.
$d->sql('CREATE TRIGGER refuse BEFORE INSERT ON kridtech.recordings FOR EACH ROW EXECUTE FUNCTION refuse_whole()');
my $unseen = event($server->url('ok/1013'), received_at => $d->sql(q{SELECT now() - interval '2 hours'}));
like($d->health('recordings'), qr/^f\|events of more than an hour ago are not taken up, see the log: /, 'health says that an event is not taken up');
$d->sql('DROP TRIGGER refuse ON kridtech.recordings');
settled($unseen, 'fetched', 60);
like($d->health('recordings'), qr/^t\|/, 'until it is');

# What is due, and what nothing comes of: health says so, but not before a download could have taken as long.
$d->set('kridtech.recording_timeout' => '100ms');
$d->sql('CREATE TRIGGER refuse BEFORE UPDATE ON kridtech.recordings FOR EACH ROW EXECUTE FUNCTION refuse_whole()');
$d->sql(q{INSERT INTO kridtech.recordings (call_id, next_attempt_at) VALUES ('held up', now() - interval '1 hour')});
ok(kt_wait(sub { $d->health('recordings') =~ /^f\|nothing is being fetched, see the row dialer and the log: \d+ waiting/ }, 20), 'health says that the fetching is stuck')
  or diag($d->health('recordings'));
$d->sql('DROP TRIGGER refuse ON kridtech.recordings');
settled('held up', 'failed', 60);
ok(kt_wait(sub { $d->health('recordings') =~ /^t\|/ }), 'and when it goes on') or diag($d->health('recordings'));
$d->sql(q{UPDATE kridtech.recordings SET received_at = now() - interval '4 days' WHERE call_id = (SELECT min(call_id) FROM kridtech.recordings WHERE state = 'waiting')});
like($d->health('recordings'), qr/^f\|the oldest will be given up at kridtech.recording_max_age: /, 'and that one that waits has used up half of its time');
$d->sql(q{UPDATE kridtech.recordings SET received_at = now() WHERE state = 'waiting'});
$d->reset('kridtech.recording_timeout');

# ---- memory, and calls beside a large download ---------------------------------------------------------------------

sub anonymous_kb
{
	my $pid = $d->dialer_pid;
	open my $file, '<', "/proc/$pid/status" or die $!;
	my ($kb) = map { /^RssAnon:\s+(\d+)/ ? $1 : () } <$file>;
	return $kb;
}

$d->set('kridtech.recording_max_size' => '300MB');
my $before = anonymous_kb();
my @large  = map { event($server->url("ok/$_")) } 200 * MB, 200 * MB + 1;
my ($most, $number, @placed) = (0, 4930000100);
my $done = kt_wait(
	sub {
		my $kb = anonymous_kb();
		$most = $kb if $kb > $most;
		my $start = time;
		my $id    = $d->queue('+' . $number++);
		kt_wait(sub { $d->state($id) eq 'placed' }) or return 1;
		push @placed, time - $start;
		return !grep { (recording($_) // { state => '' })->{state} ne 'fetched' } @large;
	},
	300);
ok($done, 'two recordings of 200 MB are fetched');
is_deeply([ map { recording($_)->{bytes} } @large ], [ 200 * MB, 200 * MB + 1 ], 'whole');
is($d->sql("SELECT sum(octet_length(data)) FROM kridtech.recording_chunks WHERE call_id = '$large[0]'"), 200 * MB, 'every byte of them');
SKIP:
{
	skip 'a sanitizer keeps what was freed', 1 if $ENV{SANITIZE};
	cmp_ok($most - $before, '<', 32 * 1024, 'the dialer takes less than 32 MB for them') or diag("$before kB, then $most kB");
}
@placed = sort { $a <=> $b } @placed;
cmp_ok($placed[ @placed / 2 ], '<', 0.5, 'calls are placed meanwhile')
  or diag(join ' ', map { sprintf '%.3f', $_ } @placed);
note(sprintf '%d calls beside the download, median %.3f s, slowest %.3f s; %d kB more memory',
	scalar @placed, $placed[ @placed / 2 ], $placed[-1], $most - $before);

cmp_ok($d->stat('recordings_fetched'), '>=', 2, 'the stats count what was fetched');
cmp_ok($d->stat('recording_bytes'), '>=', 400 * MB, 'and its bytes');
unlike($d->log, qr/\Q$Dialing::KEY\E/, 'the key is nowhere in the log');

# ---- retention ----------------------------------------------------------------------------------------------------

my $aged = event($server->url('ok/1500000'), received_at => '2020-01-01');
$d->set('kridtech.recording_max_age' => '366d');
$d->sql("UPDATE kridtech.webhook_events SET received_at = now() - interval '300 days' WHERE call_id = '$aged'");
$d->sql('SELECT kridtech_restart_workers()');
settled($aged, 'fetched', 40);
$d->set('kridtech.recordings' => 'off');    # what still waits is not fetched between the two counts
my $fetched = $d->sql("SELECT count(*) FROM kridtech.recordings WHERE state = 'fetched'");
$d->set('kridtech.retention' => '200d');
ok(kt_wait(sub { !recording($aged) }, 20), 'a recording whose event came longer ago than kridtech.retention is removed');
is(chunks($aged), 0, 'with its content');
is($d->sql("SELECT count(*) FROM kridtech.recordings WHERE state = 'fetched'"), $fetched - 1, 'and no other');
$d->set('kridtech.recordings' => 'on');
my $afterwards = event($server->url('ok/1012'));
settled($afterwards, 'fetched', 40);
is(recording($aged), undef, 'and it is not fetched again');

# What triggers hold stays as it is, content and all, and does not keep others.
sub hold
{
	my ($id, $event, $do) = @_;
	$d->sql("CREATE FUNCTION hold_$id() RETURNS trigger LANGUAGE plpgsql AS \$\$BEGIN $do END\$\$");
	$d->sql("CREATE TRIGGER hold_$id BEFORE $event FOR EACH ROW WHEN (OLD.call_id = '$id') EXECUTE FUNCTION hold_$id()");
	return;
}
my @held = map { "held$_" } 1 .. 12;
for my $id (@held, 'not_held')
{
	$d->sql("INSERT INTO kridtech.recordings (call_id, state, next_attempt_at, bytes, sha256, fetched_at, received_at) VALUES ('$id', 'fetched', NULL, 1, sha256('x'), now(), now() - interval '300 days')");
	$d->sql("INSERT INTO kridtech.recording_chunks VALUES ('$id', 0, 'x')");
}
hold($held[0], 'UPDATE ON kridtech.recordings', 'RETURN NULL;');
hold($held[1], 'DELETE ON kridtech.recording_chunks', 'RETURN NULL;');
hold($_, 'UPDATE ON kridtech.recordings', q{RAISE 'held';}) for @held[ 2 .. 11 ];
$d->set('kridtech.retention' => '200d');
ok(kt_wait(sub { !recording('not_held') }, 120), 'recordings that triggers hold do not keep another');
is($d->sql(q{SELECT count(*) FILTER (WHERE r.state = 'fetched'), count(*) FILTER (WHERE r.call_id = 'held2'), count(c.data) FROM kridtech.recordings r LEFT JOIN kridtech.recording_chunks c USING (call_id) WHERE r.call_id ~ '^held\\d'}),
	'11|1|12', 'and have their content still');
$d->set('kridtech.recordings' => 'off');
$d->sleeps('and the dialer does not turn in circles for them');
$d->sql('DROP TRIGGER hold_held2 ON kridtech.recording_chunks');
$d->sql("DROP TRIGGER hold_$_ ON kridtech.recordings") for grep { $_ ne 'held2' } @held;
$d->set('kridtech.recordings' => 'on');
ok(kt_wait(sub { $d->sql(q{SELECT count(*) FROM kridtech.recordings WHERE call_id ~ '^held\\d'}) eq '0' }, 120), 'they go when they may');
$d->reset('kridtech.retention', 'kridtech.recording_max_age');

# ---- copies, DROP EXTENSION, shutdown --------------------------------------------------------------------------------

$d->sql('UPDATE kridtech.identity SET system_identifier = system_identifier + 1');
kt_wait(sub { $d->health('dialer') =~ /copy/ }) or diag($d->health('dialer'));
my $copied = event($server->url('ok/1010'));
$d->turns(5);
is(recording($copied), undef, 'a copy fetches nothing');
$d->sql('SELECT kridtech_adopt()');
is(settled($copied, 'fetched')->{state}, 'fetched', 'until it is adopted');

$d->set('kridtech.request_timeout' => '60s');
my $pid   = $d->dialer_pid;
my $stuck = event($server->url('stall/600000'));
kt_wait(sub { chunks($stuck) > 0 }) or die 'nothing of it arrives';
$d->sql('DROP EXTENSION kridtech');
$d->sql('CREATE EXTENSION kridtech');
ok($d->dials, 'after DROP EXTENSION in the middle of a download the dialer dials');
is($d->dialer_pid, $pid, 'and is the same');
is(settled(event($server->url('ok/1011')), 'fetched')->{state}, 'fetched', 'and fetches');

$stuck = event($server->url('stall/600000'));
kt_wait(sub { chunks($stuck) > 0 }) or die 'nothing of it arrives';
$began = time;
$node->stop('fast');
cmp_ok(time - $began, '<', 3.5, 'a shutdown does not wait for a download');
done_testing();
