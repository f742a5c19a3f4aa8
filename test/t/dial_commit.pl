# Only after commit, and whatever way a request came in: what is rolled back never dials, what is committed
# always does. Then what is sent along and told (kridtech_ref, NOTIFY), and rows that cannot be sent at all.
use strict;
use warnings;

use Dialing;
use Kridtech;
use Test::More;
use Time::HiRes qw(sleep time);

my $d = Dialing->new('commit', conf => "max_prepared_transactions = 5\n");
my $node = $d->{node};

# A test: no request for these numbers arrived, although the dialer has looked and dialled others since.
my $passes = 0;
sub never_dialled
{
	my ($name, @numbers) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $number = sprintf '+49309999%04d', ++$passes;
	my $id = $d->queue($number);
	kt_wait(sub { $d->state($id) eq 'placed' }) or die 'the dialer does not dial';
	$d->turns(3);
	return is(join(' ', map { $d->k($_) } @numbers), join(' ', map { 0 } @numbers), $name);
}

# ---- transactions -------------------------------------------------------------------------------------------

my $user = kt_background($node, 'postgres');
{
	my $id = $user->query('BEGIN; ' . Dialing::queue_statement('+4930000001'));
	never_dialled('a request is not dialled while its transaction is open', '+4930000001');
	$user->query('COMMIT');
	$d->becomes($id, 'placed', 'after COMMIT it is');
	is($d->k('+4930000001'), 1, 'and it rings once');

	$user->query('BEGIN; ' . Dialing::queue_statement('+4930000002') . '; ROLLBACK');
	$user->query('BEGIN; ' . Dialing::queue_statement('+4930000003') . '; SELECT 1/0; COMMIT');
	never_dialled('a rolled back or failed transaction never dials', '+4930000002', '+4930000003');

	$id = $user->query('BEGIN; SAVEPOINT a; ' . Dialing::queue_statement('+4930000004') . '; ROLLBACK TO a; SAVEPOINT b; '
		  . Dialing::queue_statement('+4930000005') . '; RELEASE b; COMMIT');
	$d->sql_becomes(q{SELECT state FROM kridtech.call_requests WHERE to_number = '+4930000005'}, 'placed', 'a released savepoint dials');
	never_dialled('a rolled back one never does', '+4930000004');
	$user->query(q{DO $$BEGIN BEGIN PERFORM kridtech_queue_call('+4930000006'); RAISE 'no'; EXCEPTION WHEN OTHERS THEN PERFORM kridtech_queue_call('+4930000007'); END; END$$});
	$d->sql_becomes(q{SELECT string_agg(to_number || state, ' ') FROM kridtech.call_requests WHERE to_number IN ('+4930000006', '+4930000007')},
		'+4930000007placed', 'what an exception handler queues is dialled');
	never_dialled('what it caught is not', '+4930000006');
}
{
	my $gone = kt_background($node, 'postgres');
	$gone->query('BEGIN; ' . Dialing::queue_statement('+4930000011'));
	my $pid = $gone->pid;
	$d->sql("SELECT pg_terminate_backend($pid)");
	$d->sql_becomes("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid", 0, 'a session ends within its transaction');
	never_dialled('its request is never dialled', '+4930000011');
}
{
	for my $n (1, 2)
	{
		$user->query('BEGIN; ' . Dialing::queue_statement("+493001000$n") . "; PREPARE TRANSACTION 'p$n'");
	}
	never_dialled('a prepared transaction does not dial yet', '+4930010001', '+4930010002');
	my $start = time;
	$user->query(q{COMMIT PREPARED 'p1'});
	$d->sql_becomes(q{SELECT state FROM kridtech.call_requests WHERE to_number = '+4930010001'}, 'placed', 'after COMMIT PREPARED it does', 4);
	cmp_ok(time - $start, '<', 3, 'by the slow poll at the latest');
	$user->query(q{ROLLBACK PREPARED 'p2'});
	never_dialled('after ROLLBACK PREPARED never', '+4930010002');
	is($d->k('+4930010001'), 1, 'and it rings once');
}

# ---- other ways in ------------------------------------------------------------------------------------------

{
	$d->sql(<<'SQL');
CREATE ROLE clerk LOGIN;
GRANT USAGE ON SCHEMA kridtech TO clerk;
GRANT INSERT, SELECT ON kridtech.call_requests TO clerk;
GRANT USAGE ON SEQUENCE kridtech.call_requests_id_seq TO clerk;
SQL
	$d->sql(q{SET ROLE clerk; INSERT INTO kridtech.call_requests (to_number, dynamic_variables, reference) VALUES ('+4930020001', '{"name": "Ada"}', 'direct'); RESET ROLE});
	$d->sql_becomes(q{SELECT state || ' ' || created_by FROM kridtech.call_requests WHERE reference = 'direct'}, 'placed clerk', 'a row that a granted role inserts is dialled');
	is(($d->ledger('+4930020001'))[0]{dynamicVariables}{name}, 'Ada', 'with its variables');

	# as if its wake were lost: no trigger, ours neither
	$d->turns(1);
	sleep 0.2;
	my $start = time;
	$d->sql(q{SET session_replication_role = replica; INSERT INTO kridtech.call_requests (to_number) VALUES ('+4930020002'); RESET session_replication_role});
	$d->sql_becomes(q{SELECT state FROM kridtech.call_requests WHERE to_number = '+4930020002'}, 'placed', 'a row that woke nobody is found by the slow poll', 5);
	cmp_ok(time - $start, '<', 2.5, 'within about two seconds');

	$start = time;
	my $id = $d->queue('+4930020003');
	$d->becomes($id, 'placed', 'with its wake');
	cmp_ok(time - $start, '<', 0.8, 'a request is dialled at once');
}
{
	$d->sql(<<'SQL');
CREATE TABLE leads (id int PRIMARY KEY, phone text, first_name text, city text);
CREATE TRIGGER call_lead AFTER INSERT ON leads FOR EACH ROW
	EXECUTE FUNCTION kridtech_call_trigger('phone', 'first_name', 'town=city');
SQL
	$d->sql(q{INSERT INTO leads VALUES (7, '+4930030001', 'Zoë', 'Köln'), (8, NULL, 'nobody', NULL)});
	$d->sql_becomes(q{SELECT string_agg(reference || state, ' ') FROM kridtech.call_requests WHERE to_number LIKE '+493003%'}, '7placed', 'a trigger on a table of leads dials');
	my ($entry) = $d->ledger('+4930030001');
	is("@{ $entry->{dynamicVariables} }{qw(first_name town)}", "Zo\x{eb} K\x{f6}ln", 'with the columns as variables');
	is($entry->{accountId}, 'acct-1', 'for the default account');

	my $rows = join '', map { sprintf "%d\t+49300310%02d\tname %d\tcity\n", 100 + $_, $_, $_ } 1 .. 50;
	open my $file, '>', $node->basedir . '/leads.tsv' or die $!;
	print $file $rows;
	close $file;
	$d->sql("COPY leads FROM '" . $node->basedir . "/leads.tsv'");
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE to_number LIKE '+49300310%' AND state = 'placed'}, 50, 'COPY into it dials every row');
	is(scalar(grep { $_->{toNumber} =~ /^\+49300310/ } $d->ledger), 50, 'each rings once');
	is($d->sql(q{SELECT count(*) FROM kridtech.call_requests r JOIN leads l ON l.id::text = r.reference WHERE r.to_number = l.phone}), 51, 'and each has its lead as reference');
	$user->query(q{BEGIN; INSERT INTO leads VALUES (9, '+4930030009'); ROLLBACK});
	never_dialled('a lead that is rolled back is not dialled', '+4930030009');
}

# ---- what is sent along -------------------------------------------------------------------------------------

{
	my $id = $d->queue('+4930040001', dynamic_variables => { a => 'b' });
	$d->becomes($id, 'placed', 'a request with variables');
	my ($attempt) = $d->attempts($id);
	my ($entry)   = $d->ledger('+4930040001');
	like($attempt->{ref}, qr/^[0-9a-f]{32}$/, 'its attempt has a random ref');
	is_deeply($entry->{dynamicVariables}, { a => 'b', kridtech_ref => $attempt->{ref} }, 'which was sent along as kridtech_ref');
	is_deeply($d->row("SELECT dynamic_variables AS v FROM kridtech.call_requests WHERE id = $id")->{v}, { a => 'b' }, 'the request is not changed by it');
	is($d->sql('SELECT count(*) - count(DISTINCT ref) FROM kridtech.call_attempts WHERE ref IS NOT NULL'), 0, 'no ref comes twice');

	$id = $d->queue('+4930040002');
	$d->becomes($id, 'placed', 'a request without variables');
	is(($d->ledger('+4930040002'))[0]{dynamicVariables}{kridtech_ref}, ($d->attempts($id))[0]{ref}, 'has the ref alone');

	$id = $d->queue('+4930040003', dynamic_variables => { kridtech_ref => 'mine' });
	$d->becomes($id, 'placed', 'a request that brings its own kridtech_ref');
	is(($d->ledger('+4930040003'))[0]{dynamicVariables}{kridtech_ref}, 'mine', 'keeps it');
	is(($d->attempts($id))[0]{ref}, undef, 'and its attempt claims none');

	$d->scenario(toNumber => '+4930040004', fault => 'status', status => 429, retry_after => '1', times => 1);
	$id = $d->queue('+4930040004', account_id => 'again');
	$d->becomes($id, 'placed', 'a request that was refused once');
	my @refs = map { $_->{dynamicVariables}{kridtech_ref} } $d->ledger('+4930040004');
	is("@refs", join(' ', map { $_->{ref} } $d->attempts($id)), 'has a ref for each attempt');
	isnt($refs[0], $refs[1], 'a new one each time');

	my $great = '9223372036854775806';
	$d->sql("INSERT INTO kridtech.call_requests (id, to_number) VALUES ($great, '+4930040006')");
	$d->becomes($great, 'placed', 'a request with an id near the end of all');
	my ($sent) = map { $_->{dynamicVariables}{kridtech_ref} } $d->ledger('+4930040006');
	like($sent, qr/^7ffffffffffffffe[0-9a-f]{20}$/, 'has a ref that names the whole of it');
	$d->sql("DELETE FROM kridtech.call_requests WHERE id = $great");

	$d->set('kridtech.correlate' => 'off');
	$id = $d->queue('+4930040005', dynamic_variables => { a => 'b' });
	$d->becomes($id, 'placed', 'with kridtech.correlate off');
	is_deeply(($d->ledger('+4930040005'))[0]{dynamicVariables}, { a => 'b' }, 'nothing is sent along');
	is(($d->attempts($id))[0]{ref}, undef, 'and nothing recorded');
	$d->reset('kridtech.correlate');
}

# ---- NOTIFY -------------------------------------------------------------------------------------------------

{
	my $listener = kt_background($node, 'postgres');
	$listener->query('LISTEN kridtech_calls');
	my $heard = sub {
		my ($wanted) = @_;
		my $all = '';
		kt_wait(sub { $all .= $listener->query('SELECT 1'); $all =~ $wanted }, 3);
		return $all;
	};
	my $id   = $d->queue('+4930050001', reference => 'lead "7"');
	my $text = $heard->(qr/kridtech_calls/);
	my ($payload) = $text =~ /notification "kridtech_calls" with payload "(\{.*\})"/;
	ok($payload, 'a finished request is notified') or diag $text;
	my $call_id = $d->request($id)->{call_id};
	is_deeply(JSON::PP::decode_json($payload // '{}'), { id => $id + 0, state => 'placed', call_id => $call_id, reference => 'lead "7"' },
		'with id, state, call_id and reference');
	$id   = $d->queue('+15550100400');
	$text = $heard->(qr/"state" ?: ?"failed"/);
	like($text, qr/"id" ?: ?$id,.*"call_id" ?: ?null/, 'a failed one too, without call_id');
	$id = $d->queue('+15550100401', account_id => 'refused');
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.pauses WHERE account_id = 'refused'}, 1, 'one that is set back');
	unlike($heard->(qr/"id" ?: ?$id/), qr/"id" ?: ?$id/, 'is not notified');
	$d->set('kridtech.notify' => 'off');
	$id = $d->queue('+4930050002');
	$d->becomes($id, 'placed', 'with kridtech.notify off');
	unlike($heard->(qr/"id" ?: ?$id/), qr/kridtech_calls/, 'nothing is notified');
	$d->reset('kridtech.notify');
}

# ---- rows that cannot be sent -------------------------------------------------------------------------------

# Several poison rows among good ones, in one commit, the first among them.
sub poisoned
{
	my ($what, $poison, $error, $database, $prefix) = @_;
	$database //= $d->{database};
	$d->sql("BEGIN; INSERT INTO kridtech.call_requests (to_number, dynamic_variables, reference)"
		  . " SELECT '$prefix' || lpad(i::text, 4, '0'), CASE WHEN i % 5 = 1 THEN $poison ELSE '{\"a\": \"b\"}' END, '$what' FROM generate_series(1, 12) AS i; COMMIT", $database);
	kt_wait(sub { $d->sql("SELECT count(*) FROM kridtech.call_requests WHERE reference = '$what' AND state IN ('queued', 'placing')", $database) == 0 }, 20);
	is($d->sql("SELECT string_agg(substr(state, 1, 1), '' ORDER BY id) FROM kridtech.call_requests WHERE reference = '$what'", $database),
		'fppppfppppfp', "$what: it fails, and the others are placed");
	like($d->sql("SELECT error FROM kridtech.call_requests WHERE reference = '$what' AND state = 'failed' LIMIT 1", $database), $error, "$what: its error says why");
	is(scalar(grep { index($_->{toNumber}, $prefix) == 0 } $d->ledger), 9, "$what: each of the others rings once, it never");
	is($d->sql("SELECT count(*) FROM kridtech.call_attempts a JOIN kridtech.call_requests r ON r.id = a.request_id WHERE r.reference = '$what' AND r.state = 'failed'", $database),
		0, "$what: it had no attempt");
	return;
}
poisoned('a body of more than 1 MB', q{jsonb_build_object('text', repeat('x', 1100000))}, qr/too large/, undef, '+4930060');

$d->create_database('latin', 'LATIN1');
$d->create_database('ascii', 'SQL_ASCII');
$d->sql('CREATE EXTENSION kridtech', $_) for qw(latin ascii);
$d->set('kridtech.databases' => 'postgres, latin, ascii');
ok($d->dials($_), "the dialer of database $_ dials") for qw(latin ascii);
{
	my $latin = kt_background($node, 'latin');
	$latin->query(qq{SET client_encoding = LATIN1; SELECT kridtech_queue_call('+4930070001', '{"n": "Zo\xeb", "\xfc": "\\u00df"}')});
	kt_wait(sub { $d->sql('SELECT state FROM kridtech.call_requests', 'latin') eq 'placed' });
	my $variables = ($d->ledger('+4930070001'))[0]{dynamicVariables};
	is("$variables->{n} $variables->{qq(\x{fc})}", "Zo\x{eb} \x{df}", 'variables from a LATIN1 database arrive as UTF-8');
	$latin->query(q{SELECT kridtech_queue_call('+15550100200')});
	kt_wait(sub { $d->sql(q{SELECT state FROM kridtech.call_requests WHERE to_number = '+15550100200'}, 'latin') eq 'failed' });
	is($d->sql(q{SELECT state FROM kridtech.call_requests WHERE to_number = '+15550100200'}, 'latin'), 'failed', 'and the words of an answer come back into it');
	# what the API says and LATIN1 has not
	$d->scenario(toNumber => '+4930070002', fault => 'body', status => 400, body => qq({"error":"na\x{ef}ve \x{4e2d}"}));
	$latin->query(q{SELECT kridtech_queue_call('+4930070002')});
	kt_wait(sub { $d->sql(q{SELECT state FROM kridtech.call_requests WHERE to_number = '+4930070002'}, 'latin') eq 'failed' });
	is($d->sql(q{SELECT encode(convert_to(detail, 'UTF8'), 'hex') FROM kridtech.call_attempts ORDER BY id DESC LIMIT 1}, 'latin'),
		unpack('H*', "na\xc3\xafve ?"), 'what LATIN1 has not becomes a question mark');

	my $ascii = kt_background($node, 'ascii');
	$ascii->query(qq{SELECT kridtech_queue_call('+4930080001', '{"n": "Zo\xc3\xab"}')});
	kt_wait(sub { $d->sql(q{SELECT state FROM kridtech.call_requests WHERE to_number = '+4930080001'}, 'ascii') eq 'placed' });
	is((($d->ledger('+4930080001'))[0] // {})->{dynamicVariables}{n}, "Zo\x{eb}", 'UTF-8 from a SQL_ASCII database arrives as it is');
	poisoned('bytes that are no UTF-8', q{('{"n": "Zo' || chr(235) || '"}')::jsonb}, qr/invalid byte sequence/, 'ascii', '+4930090');
}

unlike($d->log, qr/PANIC|server process/, 'nothing crashed');
done_testing();
