# Webhooks in databases whose encoding is not UTF-8: what it has is stored, what it has not is replaced, and nothing is
# refused. Deliveries are rows of the inbox, replayed.
use strict;
use warnings;

use Kridtech;
use Test::More;

my $node = kt_cluster('encodings');

# Everything at once: characters of LATIN1, of no LATIN1, by escape and as they are; NUL, half a pair, no UTF-8.
my $body = '{"callId": "call_1", "transcript": "Zo' . "\xc3\xab" . ' \u00df \u4e2d' . "\xe4\xb8\xad" . ' \ud83d\ude00 \u0000 \ud800 ' . "\xff"
  . '", "dynamicVariables": [{"variable": "n' . "\xc3\xb8" . '\u00f8", "value": "\u4e2d\u0000 \"\\\\ 1e9"}, {"variable": "number", "value": 1e999999}]}';
my $utf8 = "Zo\xc3\xab \xc3\x9f \xe4\xb8\xad\xe4\xb8\xad \xf0\x9f\x98\x80 \xef\xbf\xbd \xef\xbf\xbd \xef\xbf\xbd";

# encoding => the transcript and the variable's name and value as their bytes
my %stored = (
	UTF8      => [ $utf8, "n\xc3\xb8\xc3\xb8", "\xe4\xb8\xad\xef\xbf\xbd \"\\ 1e9" ],
	SQL_ASCII => [ $utf8, "n\xc3\xb8\xc3\xb8", "\xe4\xb8\xad\xef\xbf\xbd \"\\ 1e9" ],
	LATIN1    => [ "Zo\xeb \xdf ?? ? ? ? ?", "n\xf8\xf8", "?? \"\\ 1e9" ],
	EUC_JP    => [ "Zo\x8f\xab\xb3 \x8f\xa9\xce \xc3\xe6\xc3\xe6 ? ? ? ?", "n\x8f\xa9\xcc\x8f\xa9\xcc", "\xc3\xe6? \"\\ 1e9" ]);

sub bytes_of { return unpack 'H*', $_[0] }

for my $encoding (sort keys %stored)
{
	my $database = lc $encoding;
	my ($transcript, $name, $value) = @{ $stored{$encoding} };
	my $hex = sub { $node->safe_psql($database, "SELECT encode(convert_to($_[0], getdatabaseencoding()), 'hex') FROM $_[1]") };

	$node->safe_psql('postgres', "CREATE DATABASE $database TEMPLATE template0 ENCODING '$encoding' LOCALE 'C'");
	$node->safe_psql($database, 'CREATE EXTENSION kridtech');
	$node->safe_psql($database, q{INSERT INTO kridtech.webhook_inbox (body, reason) VALUES (decode('} . bytes_of($body) . q{', 'hex'), 'late')});
	is($node->safe_psql($database, 'SELECT kridtech_replay_webhook(id) FROM kridtech.webhook_inbox'), 't', "$encoding: the webhook becomes an event");
	is($hex->('transcript', 'kridtech.webhook_events'), bytes_of($transcript), "$encoding: its transcript is what the encoding has of it");
	my $first = q{(SELECT v FROM kridtech.webhook_events, jsonb_each_text(variables) v WHERE (v).key LIKE 'n%' AND (v).key <> 'number') x};
	is($hex->('(x.v).key',   $first), bytes_of($name),  "$encoding: so is a variable's name");
	is($hex->('(x.v).value', $first), bytes_of($value), "$encoding: and its value");
	is($node->safe_psql($database, q{SELECT variables ->> 'number', jsonb_array_length(dynamic_variables) FROM kridtech.webhook_events}),
		'1e999999|2', "$encoding: a number beyond numeric is there");
	is($node->safe_psql($database, q{SELECT encode(raw, 'hex') FROM kridtech.webhook_events}), bytes_of($body), "$encoding: the body is kept byte for byte");
}

# A callId is converted as the dialer converts an answer's: they meet.
for my $encoding (sort keys %stored)
{
	my $database = lc $encoding;
	$node->safe_psql($database, q{INSERT INTO kridtech.call_requests (to_number, state, call_id) VALUES ('+493000001', 'placed', } .
		($encoding eq 'SQL_ASCII' ? q{E'call_\xc3\xab')} : q{convert_from('\x63616c6c5fc3ab', 'UTF8'))}));
	$node->safe_psql($database, q{INSERT INTO kridtech.webhook_inbox (body, reason) VALUES ('{"callId": "call_\\\\u00eb"}', 'late')});
	is($node->safe_psql($database, 'SELECT kridtech_replay_webhook(id) FROM kridtech.webhook_inbox'), 't', "$encoding: a callId that is not ASCII");
	is($node->safe_psql($database, q{SELECT count(*) FROM kridtech.webhook_events WHERE verified_by = 'request'}), 1, "$encoding: is its request's");
}

# The tables of SQL_ASCII hold any bytes, and a human may give some.
$node->safe_psql('sql_ascii', q{INSERT INTO kridtech.call_requests (id, to_number, state) VALUES (100, '+493000001', 'unknown')});
$node->safe_psql('sql_ascii', q{SELECT kridtech_resolve_call(100, 'placed', E'call_\xff')});
is($node->safe_psql('sql_ascii', 'SELECT state FROM kridtech.call_requests WHERE id = 100'), 'placed', 'SQL_ASCII: a callId that is no UTF-8 resolves a request');

$node->stop;
done_testing();
