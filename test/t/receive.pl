# Webhooks become rows: what each request is answered, what is stored of it, who may send, and what monitoring sees.
use strict;
use warnings;

use JSON::PP ();
use Kridtech;
use Receiving;
use Test::More;
use Time::HiRes qw(sleep time);

my $r = Receiving->new('receive', conf => "kridtech.webhook_max_body = '100kB'\nkridtech.webhook_max_connections = 40\n"
	  . "kridtech.webhook_header_timeout = '1s'\nkridtech.webhook_body_timeout = '1s'\n");

# ---- one webhook ----------------------------------------------------------------------------------------------

like($r->health, qr/^t\|listening on 127\.0\.0\.1:\d+ without TLS; receiving$/, 'health says where it listens');

my $body = $r->webhook('call_1');
is($r->post($body), 200, 'a webhook is answered with 200');
is($r->deliveries('call_1'), 1, 'and is an event by then');
is(
	$r->sql("SELECT raw = decode('" . unpack('H*', $body) . "', 'hex'), status, duration_ms, variables, verified_by, host(remote_addr)"
		  . ' FROM kridtech.webhook_events'),
	't|completed|94000|{"first_name": "James"}||127.0.0.1',
	'its row has the body byte for byte, its fields, and where it came from');
like($r->health, qr/^t\|.*; last webhook 20\d\d-/, 'health says when the last one came');

is($r->post($body), 200, 'an equal one is answered with 200');
is($r->deliveries('call_1'), 2, 'and counted');
is($r->post($r->webhook('call_1', transcript => 'another')), 200, 'one with another body is answered with 200');
is($r->deliveries('call_1') . $r->kept('call_1'), '2conflict', 'does not change the event and is kept');

# ---- what is answered otherwise -------------------------------------------------------------------------------

my $inbox = $r->sql('SELECT count(*) FROM kridtech.webhook_inbox');
for my $bad ('[]', 'null', '{', '', '{"callId": ""}', '{"callId": 12}')
{
	is($r->post($bad), 400, "a body of '$bad' is answered with 400");
}
cmp_ok($r->sql('SELECT count(*) FROM kridtech.webhook_inbox'), '>', $inbox, 'and kept');

$inbox = $r->sql('SELECT count(*) FROM kridtech.webhook_inbox');
for my $path ('/webhook', '/webhook/', '/webhook/wrong', $r->path . 'x', $r->path . '/x', '/', '/other', "/$Receiving::TOKEN")
{
	is($r->post($r->webhook('call_2'), path => $path), 404, "to $path it is answered with 404");
}
for my $method (qw(GET PUT DELETE HEAD OPTIONS))
{
	my ($status, $head) = $r->answer($r->send('', method => $method));
	is($status, 405, "$method is answered with 405");
	like($head, qr/^Allow: POST\r$/mi, 'and told what is allowed');
}
is($r->post($r->webhook('call_2', transcript => 'x' x 200_000)), 413, 'a body over the limit is answered with 413');
is($r->post($r->webhook('call_2'), headers => "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
	400, 'framing that can be read in two ways is answered with 400');
is($r->deliveries('call_2') . $r->kept('call_2'), '', 'and nothing of these is kept');
is($r->sql('SELECT count(*) FROM kridtech.webhook_inbox'), $inbox, 'not in the inbox either');

# ---- how a body may come --------------------------------------------------------------------------------------

is($r->post($r->webhook('call_10'), version => '1.0'), 200, 'HTTP/1.0 is served');
my $chunked = $r->webhook('call_chunked');
is(
	$r->post(join('', map { sprintf "%x\r\n%s\r\n", length $_, $_ } $chunked =~ /.{1,50}/gs) . "0\r\n\r\n",
		headers => "Transfer-Encoding: chunked\r\n"),
	200, 'a chunked body is served');
is($r->deliveries('call_chunked'), 1, 'and put together');

my $socket = $r->connect;
is_deeply([ map { $r->send($r->webhook("call_kept_$_"), socket => $socket); scalar $r->answer($socket) } 1 .. 20 ],
	[ (200) x 20 ], 'a connection serves many');
is($r->sql(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'call\_kept\_%'}), 20, 'and each is an event');

$socket = $r->send($r->webhook('call_slow') . 'x', headers => "Content-Length: 1000\r\n");
like($r->answer($socket), qr/^(408|0)$/, 'a body that does not come in time is not waited for');
is($r->deliveries('call_slow'), '', 'and nothing of it is stored');

# ---- oddities are repaired, not refused -------------------------------------------------------------------------

my $odd = '{"callId":"call_odd","status":"completed","durationMs":1e999999,"transcript":"a\u0000b \ud800 ' . "\xff\xfe" . '","recordingUrl":null,"dynamicVariables":null,"new":1}';
is($r->post($odd), 200, 'an odd body is answered with 200');
is(
	$r->sql("SELECT raw = decode('" . unpack('H*', $odd) . "', 'hex'), encode(textsend(transcript), 'hex') LIKE '61efbfbd62%'"
		  . " FROM kridtech.webhook_events WHERE call_id = 'call_odd'"),
	't|t', 'its event has the body exactly and the text repaired');

# ---- many at once ------------------------------------------------------------------------------------------------

my $many = $r->webhook('call_many');
my @sockets = map { $r->send($many) } 1 .. 30;
is(scalar(grep { $r->answer($_) == 200 } @sockets), 30, 'equal ones at the same time are all answered with 200');
is($r->deliveries('call_many'), 30, 'and are one event, which has counted them');

@sockets = map { $r->send($r->webhook("call_more_$_")) } 1 .. 100;
is(scalar(grep { ($r->answer($_) // 0) == 200 } @sockets), 100, 'more connections than are taken wait and are served');
@sockets = ();

# ---- healthz and monitoring ---------------------------------------------------------------------------------------

is($r->post('', method => 'GET', path => '/healthz', headers => ''), 200, 'GET /healthz is answered with 200');

my %stat = map { split /\|/ } split /\n/, $r->sql(q{SELECT name, value FROM kridtech.stats WHERE name LIKE 'webhook\_%'});
is($stat{webhook_stored}, $r->sql('SELECT count(*) FROM kridtech.webhook_events'), 'stats count the events stored');
is($stat{webhook_duplicates}, $r->sql('SELECT sum(deliveries - 1) FROM kridtech.webhook_events'), 'and their duplicates');
is($stat{webhook_conflicts}, 1, 'and conflicts');
is($stat{webhook_bad}, 6, 'and bad bodies');
is($stat{webhook_received},
	$stat{webhook_stored} + $stat{webhook_duplicates} + $stat{webhook_conflicts} + $stat{webhook_bad}, 'which are all that was received');
cmp_ok($stat{webhook_bytes}, '>', 30_000, 'and its bytes');
cmp_ok($stat{webhook_batches}, '<=', $stat{webhook_received}, 'and the batches');
cmp_ok($stat{webhook_batch_average}, '>=', 1, 'whose average there is');
ok($stat{webhook_latency_p50_ms} > 0 && $stat{webhook_latency_p50_ms} <= $stat{webhook_latency_p99_ms}, 'latencies are measured');
is($stat{webhook_refused_503} + $stat{webhook_dropped} + $stat{webhook_kept}, 0, 'nothing was refused, dropped or kept');

my $listener = kt_background($r->{node}, 'postgres');
$listener->query('LISTEN kridtech_webhooks');
$r->post($r->webhook('call_notified'));
ok(kt_wait(sub { $listener->query('SELECT 1') =~ /Asynchronous notification "kridtech_webhooks" with payload "call_notified"/ }),
	'a NOTIFY names the call');

# ---- a count that is at its end --------------------------------------------------------------------------------------

$r->sql("UPDATE kridtech.webhook_events SET deliveries = 2147483646 WHERE call_id = 'call_1'");
$r->sql('UPDATE kridtech.webhook_inbox SET deliveries = 2147483647');
is_deeply([ map { $r->post($body) } 1 .. 2 ], [ 200, 200 ], 'deliveries beyond what a count can hold are answered as before');
is($r->deliveries('call_1') . $r->kept('call_1'), '2147483647conflict', 'and no second event, nor kept');
is_deeply([ $r->post('[]'), $r->post($r->webhook('call_1', transcript => 'another')) ], [ 400, 200 ], 'also of what is in the inbox');

# ---- the worker -----------------------------------------------------------------------------------------------------

is(
	$r->sql(q{SELECT datname, application_name, state FROM pg_stat_activity WHERE backend_type = 'kridtech receiver'}),
	'postgres|kridtech receiver|idle', 'the receiver stands in pg_stat_activity');

kt_wait(sub { $r->stat('connections') == 0 }, 20) or die 'connections stay open';
my $turns = $r->stat('loop_turns');
sleep 3;
cmp_ok($r->stat('loop_turns') - $turns, '<', 12, 'an idle receiver sleeps');

my $pid = $r->pid;
$r->sql('SELECT kridtech_restart_workers()');
ok(kt_wait(sub { my $now = $r->pid; $now ne '' && $now ne $pid }), 'kridtech_restart_workers() starts a new one');
is($r->post($r->webhook('call_restarted')), 200, 'which receives');

$pid = $r->pid;
my $lost = 0;
for my $i (1 .. 40)
{
	$r->sql("SELECT pg_terminate_backend($pid)") if $i == 10;
	$lost++ if ($r->post($r->webhook("call_over_$i")) // 0) != 200;
}
is($lost, 0, 'SIGTERM to the receiver refuses no connection and loses no webhook');
isnt($r->pid, $pid, 'though there is another one now');

# ---- the extension goes and comes --------------------------------------------------------------------------------

my $end = length $r->log;
$r->sql('DROP EXTENSION kridtech CASCADE');
ok(kt_wait(sub { substr($r->log, $end) =~ /kridtech receiver: extension kridtech is not installed/ }), 'DROP EXTENSION is noticed');
is($r->post('', method => 'GET', path => '/healthz', headers => ''), 503, 'GET /healthz is answered with 503 then');
$socket = $r->send($r->webhook('call_dropped'));
$r->sql('CREATE EXTENSION kridtech');
is($r->answer($socket), 200, 'a webhook that came meanwhile is answered once the extension is there again');
is($r->deliveries('call_dropped'), 1, 'and is stored');

# ---- the database goes ---------------------------------------------------------------------------------------------

$r->sql('CREATE DATABASE other');
my $port = $r->port;
$r->set('kridtech.databases' => 'other');
ok(kt_wait(sub { $r->sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kridtech receiver' AND datname = 'postgres'}) == 0 }),
	'a database that is no longer named has no receiver');
ok(kt_wait(sub { !IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) }), 'and its connections are refused, the new first one having no extension');
$r->{node}->safe_psql('other', 'CREATE EXTENSION kridtech');
{
	local $r->{database} = 'other';
	ok(kt_wait(sub { $r->{node}->safe_psql('other', q{SELECT ok FROM kridtech.health WHERE component = 'receiver'}) eq 't' }, 20),
		'the first database of the list gets what names none');
	is($r->post($r->webhook('call_other')), 200, 'at the same port');
	is($r->{node}->safe_psql('other', q{SELECT count(*) FROM kridtech.webhook_events}), 1, 'and stores it');
}
$r->sql('ALTER SYSTEM RESET ALL');
$r->sql('SELECT pg_reload_conf()');
ok(kt_wait(sub { $r->{node}->safe_psql('postgres', q{SELECT ok FROM kridtech.health WHERE component = 'receiver'}) eq 't' }, 20), 'and gives it back');

# ---- secrets -------------------------------------------------------------------------------------------------------

unlike($r->log, qr/\Q$Receiving::TOKEN\E/, 'the token is in no log');
unlike($r->log, qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
cmp_ok($r->stop, '<', 4, 'a fast shutdown is soon over');

done_testing;
