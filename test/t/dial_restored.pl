# What a restore or a hand may leave in the dialer's own tables: it dials on, and nothing twice.
use strict;
use warnings;

use Copying;
use Dialing;
use Kridtech;
use Test::More;

my $d    = Dialing->new('restored');
my $node = $d->{node};
my $dump = "${PostgreSQL::Test::Utils::tmp_check}/own.dump";

# ---- its own dump, restored into itself while its dialer runs -----------------------------------------------

{
	$d->queue('+4930030001', not_before => "=now() + interval '1 hour'");
	$d->sql("SELECT kridtech_pause(reason => 'dump')");
	my @queued = map { $d->queue("+493003002$_") } 0 .. 4;
	$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'the database is dumped');
	$d->sql('SELECT kridtech_resume()');
	$d->becomes($_, 'placed', 'what was queued at the dump is placed after it') for @queued;
	$node->command_ok([ 'pg_restore', '--clean', '--if-exists', '-d', $node->connstr('postgres'), $dump ], 'the dump is restored into its own database, under its dialer');
	$d->forget_sessions;
	$d->sql('SELECT kridtech_resume()');    # the dump holds the pause too
	ok(kt_wait(sub { $d->health('dialer') =~ /adopt/ }), 'health says that something waits for kridtech_adopt()') or diag $d->health('dialer');
	my $new = $d->queue('+4930030031');
	$d->becomes($new, 'placed', 'what is queued anew is placed');
	is(join(' ', map { $d->k("+493003002$_") } 0 .. 4), '1 1 1 1 1', 'what the dump holds as queued is not dialled again');
	is($d->sql('SELECT count(*) > 1 FROM kridtech.identity'), 't', 'two identities of its own stand there');
	my $epoch = $d->sql('SELECT max(epoch) FROM kridtech.identity');
	my $slow = $d->queue('+15550100004');
	$d->becomes($d->queue("+493003004$_"), 'placed', 'with two identities of its own it dials on') for 0 .. 4;
	is($d->sql('SELECT max(epoch) FROM kridtech.identity'), $epoch, 'and its run stays the same');
	$d->sql("UPDATE kridtech.call_requests SET state = 'cancelled' WHERE state = 'queued'");
	$d->sql('SELECT kridtech_adopt()');
	$d->becomes($d->queue('+4930030051'), 'placed', 'and after kridtech_adopt() too');
}

# ---- the data alone of its own dump, restored into the tables it came from ----------------------------------

{
	my $restore = sub {
		my ($prefix, $then) = @_;
		$d->sql("SELECT kridtech_pause(reason => 'dump')");
		my @queued = map { $d->queue("$prefix$_") } 0 .. 2;
		$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'the database is dumped');
		$d->sql("SELECT kridtech_resume(); $then");
		$d->becomes($_, 'placed', 'what was queued at the dump is placed after it') for @queued;
		$d->sql('TRUNCATE kridtech.call_requests, kridtech.call_attempts');
		$node->command_ok([ 'pg_restore', '--data-only', '--single-transaction', '-n', 'kridtech', '-d', $node->connstr('postgres'), $dump ], 'its data are restored');
		$d->sql('SELECT kridtech_resume()');
		copying_paused($d, 'its own dump was restored', 'the dialer is paused, and health says why');
		$d->turns(3);
		is($d->k("${prefix}1"), 1, 'nobody is called twice');
		$d->sql("UPDATE kridtech.call_requests SET state = 'cancelled' WHERE state = 'queued'");
		$d->sql('SELECT kridtech_adopt()');
		$d->becomes($d->queue("${prefix}9"), 'placed', 'adopted, it dials what is queued then');
		return is($d->sql('SELECT count(*) FROM kridtech.identity'), 1, 'with one identity');
	};
	$restore->('+493003010', '');
	$d->sql('DROP EXTENSION kridtech');
	$d->sql('CREATE EXTENSION kridtech');
	$restore->('+493003011', '');
	$d->sql('DROP EXTENSION kridtech');
	$d->sql('CREATE EXTENSION kridtech');
	$restore->('+493003012', 'SELECT kridtech_adopt()');
}

# ---- an account that is paused for two causes ---------------------------------------------------------------

{
	$d->sql("INSERT INTO kridtech.pauses (account_id, cause, probe_at) VALUES ('acct-1', 'credits', now()), ('acct-1', 'unreachable', now())");
	$d->becomes($d->queue('+4930030061'), 'placed', 'an account with two pauses is probed when both let it');
	is($d->causes('acct-1'), '', 'and a probe that succeeds ends both');
	$d->sql("INSERT INTO kridtech.pauses (account_id, cause, probe_at) VALUES ('acct-1', 'credits', now()), ('acct-1', 'manual', NULL)");
	my $id = $d->queue('+4930030062');
	$d->turns(3);
	is($d->state($id), 'queued', 'a pause by a human is not probed');
	$d->sql("SELECT kridtech_resume('acct-1')");
	$d->becomes($id, 'placed', 'but ended by one');
}

# ---- a row that cannot be claimed ---------------------------------------------------------------------------

{
	$d->sql(q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$});
	$d->sql(q{CREATE TRIGGER refuse BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW WHEN (NEW.to_number LIKE '+493003007%') EXECUTE FUNCTION refuse()});
	$d->sql("SELECT kridtech_pause(reason => 'while they are queued')");
	my @poison = map { $d->queue("+493003007$_", priority => 10) } 0 .. 2;
	my @good   = map { $d->queue("+493003008$_") } 0 .. 4;
	my $late   = $d->queue('+4930030073', not_after => '=clock_timestamp()');
	my $later  = $d->queue('+4930030089', not_after => '=clock_timestamp()');
	$d->sql('SELECT kridtech_resume()');
	$d->becomes($_, 'placed', 'a row that cannot be claimed does not stop the others') for @good;
	is(join(' ', map { $d->state($_) } @poison), 'queued queued queued', 'it stays queued');
	is(join(' ', map { $d->k("+493003007$_") } 0 .. 2), '0 0 0', 'and is not sent');
	$d->becomes($later, 'expired', 'one that cannot expire does not stop the others');
	is($d->state($late), 'queued', 'it stays as it is');
	$d->sql('DROP TRIGGER refuse ON kridtech.call_requests');
	$d->sql("SELECT kridtech_cancel_call(id) FROM kridtech.call_requests WHERE state = 'queued'");
}

# ---- rows that somebody's trigger keeps as they are -----------------------------------------------------------

{
	$d->sql(q{CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$});
	$d->sql(q{CREATE TRIGGER keep BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW WHEN (NEW.state = 'placed' AND NEW.to_number LIKE '+493003013%') EXECUTE FUNCTION keep()});
	my $before = $d->stat('result_retries');
	my $kept   = $d->queue('+4930030131');
	my $other  = $d->queue('+4930030141');
	ok(kt_wait(sub { $d->stat('result_retries') > $before + 1 }), 'a result that a trigger suppresses is tried again');
	$d->becomes($other, 'placed', 'the others are recorded');
	is($d->state($kept), 'placing', 'it is not');
	$d->sql('DROP TRIGGER keep ON kridtech.call_requests');
	$d->becomes($kept, 'placed', 'until the trigger is gone');
	is($d->k('+4930030131'), 1, 'and it rang once');

	$d->sql('CREATE TRIGGER keep BEFORE INSERT ON kridtech.call_attempts FOR EACH ROW EXECUTE FUNCTION keep()');
	my $unguarded = $d->queue('+4930030132');
	$d->sql_becomes("SELECT error FROM kridtech.call_requests WHERE id = $unguarded", 'a trigger or rule on kridtech.call_attempts suppressed the row',
		'a request whose attempt a trigger suppresses says so');
	is($d->k('+4930030132'), 0, 'and is not sent');
	$d->sql("DROP TRIGGER keep ON kridtech.call_attempts; UPDATE kridtech.call_requests SET next_attempt_at = NULL WHERE id = $unguarded");
	$d->becomes($unguarded, 'placed', 'until the trigger is gone');
}

# ---- rights -------------------------------------------------------------------------------------------------

{
	$d->sql('CREATE ROLE clerk; GRANT USAGE ON SCHEMA kridtech TO clerk; GRANT INSERT, SELECT ON kridtech.call_requests TO clerk; GRANT USAGE ON SEQUENCE kridtech.call_requests_id_seq TO clerk');
	my $id = $d->queue('+4930030091');
	$d->becomes($id, 'placed', 'a request is placed');
	$d->sql("DELETE FROM kridtech.call_requests WHERE id = $id");
	my $new = $d->sql("SET ROLE clerk; INSERT INTO kridtech.call_requests (id, to_number) VALUES ($id, '+4930030092') RETURNING id");
	$d->sql('RESET ROLE');
	isnt($new, $id, 'a role with INSERT cannot choose an id that has a history');
	$d->becomes($new, 'placed', 'and its request is placed');

	$d->sql('CREATE ROLE boss; GRANT ALL ON SCHEMA kridtech TO boss; GRANT USAGE, CREATE ON SCHEMA public TO boss');
	$d->sql("ALTER TABLE kridtech.$_ OWNER TO boss") for qw(call_requests call_attempts accounts identity pauses);
	$d->sql('CREATE TABLE seen (who name, super text); GRANT INSERT ON seen TO boss');
	$d->sql(q{CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (current_user, current_setting('is_superuser')); RETURN NULL; END $$});
	$d->sql('CREATE CONSTRAINT TRIGGER look AFTER UPDATE ON kridtech.call_requests DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look()');
	$d->becomes($d->queue('+4930030093'), 'placed', 'a request is placed where the tables belong to an ordinary role');
	is($d->sql(q{SELECT string_agg(DISTINCT who::text, ' ') FROM seen}), 'boss', 'what is deferred to the commit runs as that role');
	$d->sql('DROP TRIGGER look ON kridtech.call_requests');

	$d->sql('REVOKE ALL ON SCHEMA kridtech FROM boss');
	my $words = 'not known: permission denied for schema kridtech';
	is($d->health($_), "f|$words", "where the owner may not use the schema, health has a row that says so: $_") for 'queue', 'credentials', 'all accounts';
	ok(kt_wait(sub { $d->health('dialer') =~ /^f\|.*permission denied/ }), 'and speaks of the dialer all the same') or diag $d->health('dialer');
	is($d->sql('SELECT count(*) FROM kridtech.health'), 6, 'and of all else');
	$d->sql('GRANT ALL ON SCHEMA kridtech TO boss');
	ok($d->dials, 'which goes on with the right');
}

{
	$node->safe_psql('postgres', 'CREATE DATABASE hostile');
	$node->safe_psql('hostile', q{CREATE FUNCTION public.nextval(text) RETURNS bigint LANGUAGE sql AS 'SELECT 666::bigint'; CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS $$SELECT 'infinity'::timestamptz$$; CREATE EXTENSION kridtech});
	is($node->safe_psql('hostile', q{INSERT INTO kridtech.call_requests (to_number) VALUES ('+14155550123') RETURNING id || ' ' || isfinite(created_at)}), '1 true', 'functions of the target schema do not get into the tables');
}

done_testing();
