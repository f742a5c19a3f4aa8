# A backend that has made 2,000 calls (100,000 with KRIDTECH_LONG=1) is not larger than one that has made 200.
use strict;
use warnings;

use Kridtech;
use Test::More;
use Time::HiRes qw(time);

my $calls   = $ENV{KRIDTECH_LONG} ? 100_000 : 2_000;
my $allowed = 2048;    # kB
my $sim     = kt_simulator();
my $node    = kt_cluster('leak', conf => kt_api_settings($sim) . "shared_buffers = 16MB\nlog_statement = none\n");
kt_create_extension($node);

my $session = kt_background($node, 'postgres', timeout => 1700);
my $pid     = $session->pid;

# Private memory: shared buffers that the backend has touched are not its growth.
sub private_kb
{
	open my $status, '<', "/proc/$pid/status" or die $!;
	while (<$status>)
	{
		return $1 if /^RssAnon:\s+(\d+) kB/;
	}
	die 'no RssAnon';
}

sub repeat
{
	my ($what, $n, $work) = @_;
	$work->($n / 10);
	my $warm  = private_kb();
	my $began = time;
	$work->($n);
	my $seconds = time - $began;
	my $grown   = private_kb() - $warm;
	diag(sprintf '%d %s: %.1f s, %.0f/s, %d kB warm, %+d kB since', $n, $what, $seconds, $n / $seconds, $warm, $grown)
	  if $ENV{KRIDTECH_LONG};
	note(sprintf '%d %s: %.0f/s, %d kB warm, %+d kB since', $n, $what, $n / $seconds, $warm, $grown);
	cmp_ok($grown, '<', $allowed, "$n $what: no growth");
	return;
}

$session->query(q{CREATE PROCEDURE repeat(n int, statement text, expected text) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. n LOOP
			BEGIN
				EXECUTE statement;
				IF expected <> '00000' THEN RAISE 'no error came'; END IF;
			EXCEPTION WHEN OTHERS THEN
				IF SQLSTATE <> expected THEN RAISE; END IF;
			END;
			COMMIT;
		END LOOP;
	END$$});

sub by_transaction
{
	my ($sql, $expected) = @_;
	return sub {
		my ($n) = @_;
		is($session->state("CALL repeat($n, \$\$$sql\$\$, '$expected')"), '00000', "$n times $sql: each ends with $expected");
	};
}

repeat('calls, a transaction each', $calls, by_transaction(q{SELECT kridtech_create_call('+49310000001', '{"first_name": "James"}')}, '00000'));
is($sim->k('+49310000001'), $calls * 1.1, 'each was sent once');
repeat('calls in one statement', $calls, sub {
	my ($n) = @_;
	is($session->state("SELECT count(kridtech_create_call('+49310000002')) FROM generate_series(1, $n)"), '00000', "$n calls in one statement");
});
repeat('lists', $calls / 10, by_transaction('SELECT count(*) FROM kridtech_calls(NULL, 10)', '00000'));
repeat('refusals', $calls, by_transaction(q{SELECT kridtech_create_call('+15550100402')}, '53000'));
repeat('lost answers', $calls, by_transaction(q{SELECT kridtech_create_call('+15550100603')}, '08007'));
kt_configure($node, q{kridtech.base_url = 'http://127.0.0.1:1'}, $session);
repeat('refused connections', $calls, by_transaction(q{SELECT kridtech_calls()}, '08001'));
kt_configure($node, q{kridtech.api_key_file = '/nowhere/key'}, $session);
repeat('missing key files', $calls, by_transaction(q{SELECT kridtech_calls()}, '28000'));
is($session->pid, $pid, 'all in one backend');
my @open = glob "/proc/$pid/fd/*";
cmp_ok(scalar @open, '<', 60, 'which holds ' . @open . ' file descriptors');

$session->quit;
$node->stop;
done_testing();
