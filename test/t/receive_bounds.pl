# What bounds the receiver's work: a part that hangs, batches that take too long, work beside that waits, settings of
# the database's owner, the postmaster's death. Each answer is in time, and 200 only for what is durable.
use strict;
use warnings;

use Kridtech;
use KridtechCrash;
use Receiving;
use Test::More;
use Time::HiRes qw(time);

my $r = Receiving->new('bounds', conf => "log_statement = none\nwal_level = replica\nmax_wal_senders = 4\n");

# What the receiver does now: its activity, or what it waits for.
sub doing
{
	my ($column) = @_;
	return $r->sql("SELECT coalesce($column, '') FROM pg_stat_activity WHERE backend_type = 'kridtech receiver'");
}

# A trigger on webhook_events and one on webhook_inbox, by their bodies in PL/pgSQL.
sub triggers
{
	my ($event, $inbox) = @_;
	$r->sql(qq{
		CREATE OR REPLACE FUNCTION on_event() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN $event RETURN NEW; END \$\$;
		CREATE OR REPLACE FUNCTION on_inbox() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN $inbox RETURN NEW; END \$\$;
		CREATE TRIGGER judge BEFORE INSERT ON kridtech.webhook_events FOR EACH ROW EXECUTE FUNCTION on_event();
		CREATE TRIGGER judge BEFORE INSERT OR UPDATE ON kridtech.webhook_inbox FOR EACH ROW EXECUTE FUNCTION on_inbox()});
	return;
}

sub no_triggers
{
	$r->sql('DROP FUNCTION on_event() CASCADE; DROP FUNCTION on_inbox() CASCADE');
	return;
}

# ---- a part that hangs ------------------------------------------------------------------------------------------

# the whole batch fails at once; alone, the event hangs; what is cancelled there must not free the inbox of its limit
$r->sql('CREATE SEQUENCE tries');
triggers(
	q{IF nextval('public.tries') = 1 THEN RAISE EXCEPTION 'not together'; END IF; PERFORM pg_sleep(60);},
	q{PERFORM pg_sleep(20);});
my $began = time;
is($r->post($r->webhook('hangs'), seconds => 60), 503, 'when an event hangs, and keeping it hangs too, it is answered with 503');
cmp_ok(time - $began, '<', 9, 'before the sender gives up');
no_triggers();
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id = 'hangs'}, 1, 'and stored later', 60);

# ---- a part that catches its cancel ---------------------------------------------------------------------------------

triggers(q{IF NEW.call_id = 'catches' THEN BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; PERFORM pg_sleep(60); END IF;}, '');
$began = time;
is($r->post($r->webhook('catches'), seconds => 60), 200, 'when an event catches its cancel and hangs on, it is answered');
cmp_ok(time - $began, '<', 9, 'in time');
is($r->kept('catches'), 'error', 'for it is kept');
no_triggers();
triggers(q{IF NEW.call_id = 'catches_all' THEN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END IF;}, '');
my $pid = $r->pid;
$r->sql(q{INSERT INTO kridtech.webhook_inbox (reason, call_id, body, next_attempt_at) VALUES ('error', 'catches_all', '{"callId": "catches_all"}', now())});
ok(kt_wait(sub { my $now = $r->pid; $now ne '' && $now ne $pid }, 30), 'a receiver whose work catches every cancel is ended, and another starts');
is($r->post($r->webhook('caught')), 200, 'which receives');
no_triggers();
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_inbox}, 0, 'what was kept becomes an event without the trigger', 120);

# ---- batches that take too long ------------------------------------------------------------------------------------

triggers('PERFORM pg_sleep(0.02);', 'PERFORM pg_sleep(0.02);');
my $locker = kt_background($r->{node}, 'postgres', timeout => 600);
$locker->query('BEGIN; LOCK TABLE kridtech.webhook_events, kridtech.webhook_inbox IN ACCESS EXCLUSIVE MODE');
my @sockets = map { $r->send($r->webhook("many_$_")) } 1 .. 100;
is(scalar(grep { ($r->answer($_) // 0) == 503 } @sockets), 100, 'while nothing can be stored, many webhooks are held');
@sockets = ();
$locker->query('COMMIT');
$r->becomes(
	q{SELECT (SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'many%') + (SELECT count(*) FROM kridtech.webhook_inbox WHERE call_id LIKE 'many%')},
	100, 'and stored, though all of them together take longer than a try may', 60);
no_triggers();
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_inbox}, 0, 'as events', 60);

# one that takes longer than a try in trouble may
triggers('PERFORM pg_sleep(1.3);', 'PERFORM pg_sleep(1.3);');
$locker->query('BEGIN; LOCK TABLE kridtech.webhook_events, kridtech.webhook_inbox IN ACCESS EXCLUSIVE MODE');
is($r->post($r->webhook('long')), 503, 'one that takes long is held as well');
$locker->query('COMMIT');
$r->becomes(
	q{SELECT (SELECT count(*) FROM kridtech.webhook_events WHERE call_id = 'long') + (SELECT count(*) FROM kridtech.webhook_inbox WHERE call_id = 'long')},
	1, 'and stored', 60);
no_triggers();
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_inbox}, 0, 'as an event', 60);

# ---- work beside ----------------------------------------------------------------------------------------------------

# Kept webhooks that hang whenever they are tried again: each costs the receiver seconds. A delivery that has waited
# for another one's whole ladder must not wait for such a try, too.
triggers(
	q{IF NEW.call_id LIKE 'again%' THEN PERFORM pg_sleep(60); END IF;
	  IF NEW.call_id = 'ladder' THEN PERFORM pg_sleep(2.2); RAISE EXCEPTION 'no event'; END IF;},
	q{IF TG_OP = 'UPDATE' AND NEW.call_id LIKE 'again%' AND NEW.attempts = OLD.attempts THEN PERFORM pg_sleep(60); END IF;
	  IF NEW.call_id = 'ladder' THEN PERFORM pg_sleep(1.2); END IF;});
$r->sql(q{
	INSERT INTO kridtech.webhook_inbox (reason, call_id, body, next_attempt_at)
	SELECT 'error', 'again_' || i, convert_to(format('{"callId": "again_%s"}', i), 'UTF8'), now() FROM generate_series(1, 20) AS i});
ok(kt_wait(sub { doing('query') eq 'noting why a kept webhook failed' }, 30), 'kept webhooks are tried again and hang');
my $ladder = $r->send($r->webhook('ladder'));
ok(kt_wait(sub { doing('query') eq 'storing webhooks' }, 30), 'a webhook comes that needs every step');
$began = time;
my $next = $r->send($r->webhook('next'));
is($r->answer($next), 200, 'and the next one is stored');
cmp_ok(time - $began, '<', 8, 'and does not wait for a kept one to be tried again');
is($r->answer($ladder), 200, 'the one before is kept');
no_triggers();
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_inbox}, 0, 'all become events when nothing hangs any more', 120);

# ---- memory ------------------------------------------------------------------------------------------------------------

SKIP:
{
	skip 'AddressSanitizer ends a process that runs out of memory', 4 if $ENV{SANITIZE};
	$r->set('kridtech.webhook_max_body' => '64MB');
	$pid = $r->pid;
	my ($size) = kt_run('cat', "/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m;
	kt_run('prlimit', '--pid', $pid, '--as=' . ($size + 150 * 1024) * 1024 . ':');
	my $large = $r->send($r->webhook('large', transcript => 'x' x 60_000_000));
	is($r->post($r->webhook('beside_large')), 200, 'while memory does not suffice for one webhook, another is stored');
	is($r->answer($large), 503, 'that one is answered with 503');
	is($r->pid, $pid, 'and the receiver lives on');
	kt_run('prlimit', '--pid', $pid, '--as=unlimited:');
	$r->becomes(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id = 'large'}, 1, 'it is stored when there is memory again', 60);
}

# ---- settings of the database's owner -------------------------------------------------------------------------------

$r->sql(q{ALTER DATABASE postgres SET exit_on_error = on; ALTER DATABASE postgres SET enable_indexscan = off});
$pid = $r->pid;
kill TERM => $pid;
ok(kt_wait(sub { my $now = $r->pid; $now ne '' && $now ne $pid }), 'a receiver starts under such settings of its database');
$pid = $r->pid;
triggers(q{IF NEW.call_id LIKE 'poison%' THEN RAISE EXCEPTION 'not this one'; END IF;}, '');
is($r->post($r->webhook('poison')), 200, 'a webhook whose trigger fails is answered with 200 under exit_on_error');
is($r->kept('poison'), 'error', 'for it is kept');
is($r->pid, $pid, 'and the receiver lives on');
no_triggers();
$r->sql(q{ALTER DATABASE postgres RESET ALL});

# ---- the postmaster's death ---------------------------------------------------------------------------------------------

$r->set(synchronous_standby_names => 'ghost');
my $session = kt_background($r->{node}, 'postgres', timeout => 600);
my $waiting = 'FROM pg_stat_activity WHERE wait_event = \'SyncRep\' AND pid = ' . $session->pid;
ok(
	kt_wait(sub {
		$session->send(q{SELECT pg_logical_emit_message(true, 'test', '')});
		kt_wait(sub { !$session->busy || $r->sql("SELECT count(*) $waiting") });
		my $waits = $session->busy;
		$r->sql("SELECT pg_cancel_backend(pid) $waiting") if $waits;
		$session->take;
		return $waits;
	}),
	'commits wait for a standby that is not there');
my $socket = $r->send($r->webhook('orphan'));
ok(kt_wait(sub { doing('wait_event') eq 'SyncRep' }), 'a webhook waits for it');
server_kill($r->{node});
isnt($r->answer($socket, 30), 200, 'when the postmaster dies meanwhile, it is not answered with 200');
done_testing;
