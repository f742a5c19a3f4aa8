# Where the dialer and a user's transaction wait for each other, it is the dialer that gives way: a request's row is
# locked by the dialer, which waits for something that the transaction holds, and the transaction wants the row.
use strict;
use warnings;

use Dialing;
use Kridtech;
use Test::More;
use Time::HiRes ();

my $d = Dialing->new('deadlock');
my $user = kt_background($d->{node}, 'postgres');
my ($held, $in_trigger) = (1, 2);    # advisory locks: the user's, the dialer's

# Whether a process waits for a lock, or has waited for so long, in seconds.
sub waits
{
	my ($pid, $seconds) = @_;
	my $begun;
	return kt_wait(sub {
		return $begun = 0 if $d->sql("SELECT count(*) FROM pg_locks WHERE pid = $pid AND NOT granted") == 0;
		$begun ||= Time::HiRes::time;
		return Time::HiRes::time - $begun >= ($seconds // 0);
	});
}

# What the dialer does, once, when it records that the call was placed: with the request's row locked.
sub once_it_is_placed
{
	my ($work) = @_;
	$d->sql(qq{
		ALTER SEQUENCE done RESTART;
		CREATE OR REPLACE FUNCTION wait_for_user() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			IF nextval('public.done') = 1 THEN
				PERFORM pg_advisory_xact_lock($in_trigger);
				$work
				PERFORM pg_advisory_xact_lock($held);
			END IF;
			RETURN NEW;
		END \$\$});
	return;
}

sub dialer_is_in_trigger
{
	return kt_wait(sub { $d->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $in_trigger") > 0 });
}

$d->sql('CREATE SEQUENCE done; CREATE FUNCTION wait_for_user() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$');
$d->sql(q{CREATE TRIGGER wait_for_user BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW
	WHEN (NEW.state = 'placed') EXECUTE FUNCTION wait_for_user()});

# The user waits first: without more his session would look for the deadlock first, and end his transaction.
{
	my $pid = $user->pid;
	once_it_is_placed("WHILE NOT EXISTS (SELECT FROM pg_locks WHERE pid = $pid AND NOT granted) LOOP PERFORM pg_sleep(0.01); END LOOP;");
	$user->query("BEGIN; SELECT pg_advisory_xact_lock($held)");
	my $id = $d->queue('+4931500001');
	dialer_is_in_trigger() or die 'the dialer does not record the call';
	is($user->state("SELECT state FROM kridtech.call_requests WHERE id = $id FOR UPDATE"), '00000',
		'a transaction that waited before the dialer did is not the one to end');
	is(scalar(() = $d->log =~ /ERROR:  deadlock detected/g), 1, 'the dialer was');
	$user->query('COMMIT');
	$d->becomes($id, 'placed', 'it records the call after all', 20);
	is($d->k('+4931500001'), 1, 'which rang once');
}

# The dialer has looked for a deadlock when there was none yet.
{
	once_it_is_placed('');
	$user->query("BEGIN; SELECT pg_advisory_xact_lock($held)");
	my $id = $d->queue('+4931500002');
	waits($d->dialer_pid, 0.3) or die 'the dialer does not wait';
	is($user->state("SELECT state FROM kridtech.call_requests WHERE id = $id FOR UPDATE"), '00000',
		'nor is one that waits later');
	$user->query('COMMIT');
	$d->becomes($id, 'placed', 'the call is recorded', 20);
	is($d->k('+4931500002'), 1, 'and rang once');
}

done_testing();
