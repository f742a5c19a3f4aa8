# Data in every table of the extension, of every kind a table can hold, and its comparison with that of another
# database: what the tests of copies carry around.
#
# It is made where no dialer runs, so the rows stand as they would in the middle of an ordinary day: some wait, one
# is on the network, one of an earlier day is unknown.
package Everything;

use strict;
use warnings;

use Exporter 'import';
use Kridtech;
use Test::More;

our @EXPORT = qw(everything_made everything_in everything_equal everything_tables $PLACING_REF @WAITING $PLACING $PAUSED);

# The kridtech_ref of the request that is on the network; the numbers of those that wait, of that one, and of one
# whose account is paused.
our $PLACING_REF = '0000000000070123456789abcdef0123';
our @WAITING     = ('+4930070001', '+4930070002');
our $PLACING     = '+4930070007';
our $PAUSED      = '+4930070008';

# Fills the tables of a database in which the extension is and nothing runs. A test: no table was forgotten. What is
# beyond ASCII stands there as bytes: before PostgreSQL 15 the tests' servers have no encoding.
sub everything_made
{
	my ($node, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->safe_psql($database, <<"SQL");
INSERT INTO kridtech.accounts VALUES ('acme', NULL), ('other', '/nowhere/key');
INSERT INTO kridtech.pauses (account_id, cause, reason, until, probe_at, stamp) VALUES
	('paused', 'manual', 'a human''s', NULL, NULL, NULL), ('other', 'unauthorized', 'HTTP status 401', NULL, NULL, 'a stamp'),
	('credits', 'credits', 'HTTP status 402', NULL, now() + interval '1 day', NULL);
INSERT INTO kridtech.call_requests (id, account_id, to_number, dynamic_variables, reference, unique_key, priority, not_before,
	not_after, state, attempts, next_attempt_at, call_id, call_status, http_status, error, created_at, finished_at) VALUES
	(1, NULL, '$WAITING[0]', '{"first_name": "Zo\xc3\xab", "n": 1e3}', 'lead-1', 'key-1', 0, NULL, NULL, 'queued', 0, NULL, NULL, NULL, NULL, NULL, now(), NULL),
	(2, NULL, '$WAITING[1]', NULL, 'lead-2', NULL, 5, NULL, now() + interval '1 day', 'queued', 1, NULL, NULL, NULL, 429, 'HTTP status 429', now(), NULL),
	(3, NULL, '+4930070003', NULL, NULL, NULL, 0, now() + interval '1 day', NULL, 'queued', 0, now() + interval '1 day', NULL, NULL, NULL, NULL, now(), NULL),
	(4, 'acme', '+4930070004', '{}', 'lead-4', NULL, 0, NULL, NULL, 'placed', 1, NULL, 'call_4', 'registered', 200, NULL, now() - interval '1 day', now() - interval '1 day'),
	(5, NULL, '+4930070005', NULL, NULL, 'key-5', 0, NULL, NULL, 'failed', 1, NULL, NULL, NULL, 400, 'HTTP status 400', now() - interval '1 day', now() - interval '1 day'),
	(6, NULL, '+4930070006', NULL, 'lead-6', NULL, 0, NULL, NULL, 'unknown', 1, NULL, NULL, NULL, 500, 'HTTP status 500', now() - interval '2 days', now() - interval '2 days'),
	(7, NULL, '$PLACING', '{"a": "b"}', 'lead-7', 'key-7', 0, NULL, NULL, 'placing', 1, NULL, NULL, NULL, NULL, NULL, now(), NULL),
	(8, 'paused', '$PAUSED', NULL, NULL, NULL, 0, NULL, NULL, 'queued', 0, NULL, NULL, NULL, NULL, NULL, now(), NULL),
	(9, NULL, '+4930070009', NULL, NULL, NULL, 0, NULL, NULL, 'cancelled', 0, NULL, NULL, NULL, NULL, NULL, now(), now()),
	(10, NULL, '+4930070010', NULL, NULL, NULL, 0, NULL, now() - interval '1 h', 'expired', 0, NULL, NULL, NULL, NULL, 'not_after passed', now() - interval '2 h', now() - interval '1 h'),
	(11, NULL, '+4930070011', NULL, 'lead-11', NULL, 0, NULL, NULL, 'placed', 1, NULL, 'call_11', NULL, NULL, 'bound', now() - interval '1 day', now() - interval '1 day');
SELECT setval('kridtech.call_requests_id_seq', 1000);
INSERT INTO kridtech.call_attempts (id, request_id, epoch, ref, live, started_at, finished_at, outcome, curl_code, bytes_sent, http_status, call_id, answer_head, detail) VALUES
	(1, 2, 1, '0000000000020000000000000000aaaa', false, now() - interval '1 h', now() - interval '1 h', 'rate limited', 0, 300, 429, NULL, '{"success":false}', NULL),
	(2, 4, 1, '0000000000040000000000000000aaaa', true, now() - interval '1 day', now() - interval '1 day', 'ok', 0, 300, 200, 'call_4', '{"success":true', NULL),
	(3, 5, 1, NULL, false, now() - interval '1 day', now() - interval '1 day', 'rejected', 0, 300, 400, NULL, NULL, NULL),
	(4, 6, 1, '0000000000060000000000000000aaaa', true, now() - interval '2 days', now() - interval '2 days', 'unknown', 0, 300, 500, NULL, '<html>', 'list: no call to the number is listed for the time'),
	(5, 7, 1, '$PLACING_REF', true, now(), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	(6, 11, 1, '00000000000b0000000000000000aaaa', true, now() - interval '1 day', now() - interval '1 day', 'unknown', 28, 300, NULL, 'call_11', NULL, 'bound by a webhook');
SELECT setval('kridtech.call_attempts_id_seq', 2000);
INSERT INTO kridtech.webhook_events (call_id, status, duration_ms, transcript, recording_url, dynamic_variables, variables, raw, request_id, verified_by, deliveries, received_at, remote_addr) VALUES
	('call_4', 'completed', 94000, E'Agent: Hi \xe2\x82\xac\\nUser: \xef\xbf\xbd', 'https://storage.kridtech.com/4.mp3', '[{"variable": "a", "value": "b"}]', '{"a": "b"}', '\\x7b0022ff7d', 4, 'request', 3, now(), '192.0.2.1'),
	('call_11', 'completed', NULL, NULL, NULL, NULL, NULL, '{"callId": "call_11"}', 11, 'correlation', 1, now(), '2001:db8::1'),
	('call_in', 'completed', 9223372036854775807, repeat('Agent: a long one. ', 20000), NULL, NULL, NULL, '{}', NULL, 'api', 1, now(), NULL),
	('call_alien', NULL, NULL, NULL, NULL, NULL, NULL, '{}', NULL, NULL, 1, now(), NULL);
INSERT INTO kridtech.webhook_inbox (id, reason, detail, call_id, body, deliveries, attempts, next_attempt_at) VALUES
	(1, 'bad body', 'not JSON', NULL, '\\xff00fe', 7, 0, NULL), (2, 'conflict', NULL, 'call_4', '{"callId": "call_4"}', 1, 0, NULL),
	(3, 'error', '23514: a constraint', 'call_9', '{"callId": "call_9"}', 1, 4, now() + interval '1 day');
SELECT setval('kridtech.webhook_inbox_id_seq', 3000);
INSERT INTO kridtech.calls VALUES
	('call_4', 'acme', 'outbound', '+4930070004', 'completed', 94, 0.1234567890123456789, now() - interval '1 day', 'Zoe', now()),
	('call_in', 'acme', 'inbound', NULL, 'completed', 12, NULL, now(), NULL, now());
INSERT INTO kridtech.recordings (call_id, state, next_attempt_at, bytes, sha256, fetched_at, content_type, error) VALUES
	('call_4', 'fetched', NULL, 300001, sha256(convert_to(repeat('x', 300001), 'UTF8')), now(), 'audio/mpeg', NULL),
	('call_11', 'waiting', now(), NULL, NULL, NULL, NULL, 'HTTP status 503'), ('call_in', 'failed', NULL, NULL, NULL, NULL, NULL, 'the URL is malformed');
INSERT INTO kridtech.recording_chunks VALUES
	('call_4', 1, convert_to(repeat('x', 37857), 'UTF8')), ('call_4', 0, convert_to(repeat('x', 262144), 'UTF8'));
SQL
	my %made = everything_in($node, $database);
	return is(join(' ', grep { $made{$_} =~ /^0\|/ } sort keys %made), '', 'no table of the extension is empty');
}

# The extension's tables, from the catalog: one that is added shows here by itself.
sub everything_tables
{
	my ($node, $database) = @_;
	return split /\n/, $node->safe_psql($database, <<'SQL');
SELECT c.relname FROM pg_class AS c JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
 WHERE d.refclassid = 'pg_extension'::regclass AND c.relkind = 'r' ORDER BY 1
SQL
}

# What the tables hold: name => number and digest of the rows. And where the sequences are.
sub everything_in
{
	my ($node, $database) = @_;
	my %rows = map {
		$_ => $node->safe_psql($database, qq{SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text COLLATE "C")) FROM kridtech.$_ AS t})
	} everything_tables($node, $database);
	$rows{$_} = $node->safe_psql($database, "SELECT 's', last_value, is_called FROM kridtech.$_")
	  for qw(call_requests_id_seq call_attempts_id_seq webhook_inbox_id_seq);
	return %rows;
}

# A test: a database holds the same, but for the tables that are named.
sub everything_equal
{
	my ($node, $database, $expected, $name, @but) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %got  = everything_in($node, $database);
	my %want = %$expected;
	delete @got{@but};
	delete @want{@but};
	return is_deeply(\%got, \%want, $name);
}

1;
