# Webhooks that cannot be stored now: each is answered before the sender gives up, 200 only for what is durable,
# and what was refused is stored later if it can be.
use strict;
use warnings;

use Kridtech;
use Receiving;
use Test::More;
use Time::HiRes qw(sleep time);

my $r = Receiving->new('blocked', conf => "log_statement = none\nwal_level = replica\nmax_wal_senders = 4\n");

# Sends webhooks at once and returns [status, seconds] of each.
sub burst
{
	my (@call_ids) = @_;
	my $began = time;
	my @sockets = map { $r->send($r->webhook($_)) } @call_ids;
	return map { my $status = $r->answer($_); [ $status, time - $began ] } @sockets;
}

sub statuses
{
	return join ' ', map { $_->[0] // 'none' } @_;
}

sub slowest
{
	my ($slowest) = sort { $b <=> $a } map { $_->[1] } @_;
	return $slowest;
}

sub healthz
{
	return $r->post('', method => 'GET', path => '/healthz', headers => '');
}

# ---- locks -------------------------------------------------------------------------------------------------------

my $locker = kt_background($r->{node}, 'postgres', timeout => 600);
$locker->query('BEGIN; LOCK TABLE kridtech.webhook_events IN ACCESS EXCLUSIVE MODE');
my @answers = burst('locked_1', 'locked_2');
is(statuses(@answers), '200 200', 'while webhook_events is locked, webhooks are answered with 200');
cmp_ok(slowest(@answers), '<', 5, 'in time');
is($r->sql(q{SELECT string_agg(call_id || ' ' || reason, ' ' ORDER BY call_id) FROM kridtech.webhook_inbox}), 'locked_1 lock locked_2 lock', 'for they are kept');
@answers = burst('locked_3');
cmp_ok(slowest(@answers), '<', 1, 'and the next ones do not wait for the lock each');
is(healthz(), 200, 'that is no trouble');
$locker->query('COMMIT');
$r->becomes(q{SELECT string_agg(call_id, ' ' ORDER BY call_id) FROM kridtech.webhook_events}, 'locked_1 locked_2 locked_3', 'they become events when the lock is gone', 120);
is($r->sql('SELECT count(*) FROM kridtech.webhook_inbox'), 0, 'and leave the inbox');

$locker->query('BEGIN; LOCK TABLE kridtech.webhook_events, kridtech.webhook_inbox IN ACCESS EXCLUSIVE MODE');
my $first = $r->send($r->webhook('both_0'));
sleep 1;
@answers = burst(map { "both_$_" } 1 .. 5);
is(statuses(@answers), '503 503 503 503 503', 'while both tables are locked, webhooks are answered with 503');
cmp_ok(slowest(@answers), '<', 9, 'before the sender gives up');
cmp_ok(slowest(@answers), '>', 7, 'and not before it is known');
is($r->answer($first), 503, 'also the one that came first');
is(healthz(), 503, 'GET /healthz is answered with 503 then');
like($locker->query(q{SELECT ok || ' ' || detail FROM kridtech.health WHERE component = 'receiver'}), qr/^false .*cannot store webhooks/, 'health says so');
is($locker->query(q{SELECT value FROM kridtech.stats WHERE name = 'webhook_held'}), 6, 'they are held');
my $waiting = $r->send($r->webhook('both_6'));
$locker->query('COMMIT');
is($r->answer($waiting), 200, 'one that still waits when the locks go is answered with 200');
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'both%'}, 7, 'and all that were refused are stored');
$r->becomes(q{SELECT value FROM kridtech.stats WHERE name = 'webhook_held'}, 0, 'none is held any more');
is($r->stat('stored_late'), 6, 'stats count them');
is(healthz(), 200, 'GET /healthz is answered with 200 again');

# many at once: the first make room for the others
$r->set('kridtech.webhook_max_connections' => 20);
$locker->query('BEGIN; LOCK TABLE kridtech.webhook_events, kridtech.webhook_inbox IN ACCESS EXCLUSIVE MODE');
@answers = burst(map { "crowd_$_" } 1 .. 50);
is(statuses(@answers), join(' ', (503) x 50), 'when more webhooks come than connections are taken, all are answered');
cmp_ok(slowest(@answers), '<', 10, 'in time');
$locker->query('COMMIT');
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'crowd%'}, 50, 'and stored later');
$r->set('kridtech.webhook_max_connections' => 256);

# what is refused is held up to 64 MB
$locker->query('BEGIN; LOCK TABLE kridtech.webhook_events, kridtech.webhook_inbox IN ACCESS EXCLUSIVE MODE');
my $dropped = $locker->query(q{SELECT value FROM kridtech.stats WHERE name = 'webhook_dropped'});
my @large = map { $r->send($r->webhook("large_$_", transcript => 'x' x 15_000_000)) } 1 .. 5;
is(join(' ', map { $r->answer($_) // 'none' } @large), '503 503 503 503 503', 'large webhooks are answered with 503, too');
is($locker->query(q{SELECT value FROM kridtech.stats WHERE name = 'webhook_dropped'}) - $dropped, 1, 'what is held has a bound');
$locker->query('COMMIT');
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'large%'}, 4, 'and what is within it is stored later');

# ---- standbys that do not answer ---------------------------------------------------------------------------------

my $offset = length $r->log;
$r->set(synchronous_standby_names => 'ghost');
# the checkpointer tells the others that commits have to wait: now they do
ok(
	kt_wait(sub {
		$locker->send(q{SELECT pg_logical_emit_message(true, 'test', '')});
		my $waits = kt_wait(sub { !$locker->busy || $r->sql(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'}) });
		$waits = $locker->busy;
		$r->sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'}) if $waits;
		$locker->take;
		return $waits;
	}),
	'commits wait for a standby that is not there');
@answers = burst(map { "ghost_$_" } 1 .. 5);
is(statuses(@answers), '503 503 503 503 503', 'while a synchronous standby is gone, webhooks are answered with 503');
cmp_ok(slowest(@answers), '<', 9, 'before the sender gives up');
is($r->sql(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'ghost%'}), 5, 'though they are stored here');
is($r->sql(q{SELECT max(deliveries) FROM kridtech.webhook_events WHERE call_id LIKE 'ghost%'}), 1, 'once');
is(healthz(), 503, 'GET /healthz is answered with 503');
like($r->health, qr/^f\|.*synchronous standbys/, 'health says why');
$waiting = $r->send($r->webhook('ghost_6'));
$r->becomes(q{SELECT deliveries FROM kridtech.webhook_events WHERE call_id = 'ghost_6'}, 1, 'one more is stored');
$r->sql('ALTER SYSTEM RESET synchronous_standby_names');
$r->sql('SELECT pg_reload_conf()');
is($r->answer($waiting), 200, 'and answered with 200 when it is confirmed in time');
ok(kt_wait(sub { healthz() == 200 }), 'GET /healthz is answered with 200 again');
is($r->post($r->webhook('ghost_7')), 200, 'as are webhooks');

# ---- users' triggers ---------------------------------------------------------------------------------------------

$r->sql(q{
	CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.call_id LIKE 'poison%' THEN RAISE EXCEPTION 'not this one'; END IF;
		IF NEW.call_id LIKE 'slow%' THEN PERFORM pg_sleep(60); END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER judge AFTER INSERT ON kridtech.webhook_events FOR EACH ROW EXECUTE FUNCTION judge()});
@answers = burst(map { ("poison_$_", "good_$_") } 1 .. 5);
is(statuses(@answers), join(' ', (200) x 10), 'webhooks whose trigger fails are answered with 200, and so are those beside them');
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'good%'}, 5, 'the others are events');
is($r->sql(q{SELECT string_agg(reason, ' ') FROM kridtech.webhook_inbox WHERE call_id LIKE 'poison%' AND detail LIKE '%not this one%'}),
	'error error error error error', 'those that fail are kept with the error');

@answers = burst('slow_1', 'beside_1');
is(statuses(@answers), '200 200', 'webhooks whose trigger is slow are answered with 200');
cmp_ok(slowest(@answers), '<', 9, 'in time');
is($r->sql(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'slow%'}), 0, 'and are no events');
isnt($r->kept('slow_1'), '', 'but kept');
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id = 'beside_1'}, 1, 'the one beside becomes an event', 120);

$r->sql(q{
	DROP TRIGGER judge ON kridtech.webhook_events;
	CREATE CONSTRAINT TRIGGER judge AFTER INSERT ON kridtech.webhook_events DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION judge()});
@answers = burst('poison_deferred', 'good_deferred');
is(statuses(@answers), '200 200', 'a deferred trigger that fails at the commit does no harm either');
is($r->deliveries('good_deferred') . ' ' . $r->kept('poison_deferred'), '1 error', 'one is an event and one is kept');

# one that gives events other callIds: each delivery is an event, and once
$r->sql(q{
	CREATE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.call_id := 'renamed_' || NEW.call_id || nextval('public.renames'); RETURN NEW; END $$;
	CREATE SEQUENCE renames;
	CREATE TRIGGER rename BEFORE INSERT ON kridtech.webhook_events FOR EACH ROW EXECUTE FUNCTION rename()});
@answers = burst(map { "named_${_}_" } 1 .. 10);
is(statuses(@answers), join(' ', (200) x 10), 'webhooks whose trigger gives them other callIds are answered with 200');
is($r->sql(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'renamed%'}), 10, 'and are events');
is($r->sql(q{SELECT count(*) FROM kridtech.webhook_inbox WHERE call_id LIKE 'named%'}), 0, 'of which none is tried again');
# or the callId of another that comes with it
$r->sql(q{CREATE OR REPLACE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.call_id := lower(NEW.call_id); RETURN NEW; END $$});
$locker->query('BEGIN; LOCK TABLE kridtech.webhook_events, kridtech.webhook_inbox IN ACCESS EXCLUSIVE MODE');
my $ahead = $r->send($r->webhook('ahead'));
$r->becomes(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type = 'kridtech receiver'}, 1, 'while the receiver waits for a lock');
my @alike = map { $r->send($r->webhook($_)) } 'ALIKE_1', 'alike_1', 'ALIKE_2', 'alike_2';
$locker->query('COMMIT');
is(join(' ', map { $r->answer($_) // 'none' } @alike), '200 200 200 200', 'so are webhooks that it gives the callId of another');
is($r->sql(q{
	SELECT count(*) FROM unnest('{ALIKE_1,alike_1,ALIKE_2,alike_2}'::text[]) AS c (id)
	WHERE EXISTS (SELECT FROM kridtech.webhook_events AS e WHERE convert_from(e.raw, 'UTF8')::jsonb ->> 'callId' = c.id)
		OR EXISTS (SELECT FROM kridtech.webhook_inbox AS i WHERE convert_from(i.body, 'UTF8')::jsonb ->> 'callId' = c.id)}),
	4, 'and each is an event or kept');
$r->sql('DROP FUNCTION rename() CASCADE');

# what a trigger sets does not reach the commits
$r->sql(q{
	CREATE OR REPLACE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM set_config('synchronous_commit', 'off', false), set_config('search_path', 'nowhere', false);
		RETURN NULL;
	END $$});
is($r->post($r->webhook('set_1')), 200, 'a trigger that changes settings does no harm');
is($r->post($r->webhook('set_2')), 200, 'nor to the next');

# ---- replay ----------------------------------------------------------------------------------------------------

my $id = $r->sql(q{SELECT id FROM kridtech.webhook_inbox WHERE call_id = 'poison_1'});
is($r->sql("SELECT kridtech_replay_webhook($id)"), 't', 'kridtech_replay_webhook() makes an event of a kept one');
is($r->deliveries('poison_1') . $r->kept('poison_1'), 1, 'which leaves the inbox');

# ---- what neither table takes ------------------------------------------------------------------------------------

$r->sql(q{
	CREATE OR REPLACE FUNCTION public.judge() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.call_id = 'refused' THEN RAISE EXCEPTION 'not this one'; END IF;
		RETURN NULL;
	END $$;
	ALTER TABLE kridtech.webhook_inbox ADD CONSTRAINT no_errors CHECK (reason <> 'error') NOT VALID});
is($r->post($r->webhook('refused')), 503, 'a webhook that neither table takes is answered with 503');
$r->sql('ALTER TABLE kridtech.webhook_inbox DROP CONSTRAINT no_errors');
my $log = PostgreSQL::Test::Utils::slurp_file($r->{node}->logfile);
like($log, qr/violates check constraint "no_errors"\n.*DETAIL:  It may hold values of a row and is not logged/, 'the log says why');
unlike($log, qr/Failing row contains/, 'and shows nothing of the body');

# ---- a receiver that starts while a table is locked ----------------------------------------------------------------

$locker->query('BEGIN; LOCK TABLE kridtech.webhook_events IN ACCESS EXCLUSIVE MODE');
my $old = $r->pid;
$r->sql("SELECT pg_terminate_backend($old)");
kt_wait(sub { my $now = $r->pid; $now ne '' && $now ne $old }) or die 'no other receiver starts';
is($r->post($r->webhook('started')), 200, 'a receiver that starts while webhook_events is locked receives');
$locker->query('COMMIT');
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id = 'started'}, 1, 'and it becomes an event', 120);

# ---- a receiver that ends with something to store -----------------------------------------------------------------

$r->sql('RESET search_path');
$r->sql('DROP FUNCTION judge() CASCADE');
$locker->query('BEGIN; LOCK TABLE kridtech.webhook_events IN ACCESS EXCLUSIVE MODE');
my $pid = $r->pid;
my $socket = $r->send($r->webhook('ending'));
$locker->query("SELECT pg_terminate_backend($pid)");
is($r->answer($socket), 200, 'one that waits for a lock when the receiver is ended is kept and answered');
$locker->query('COMMIT');
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id = 'ending'}, 1, 'and becomes an event', 120);

$locker->query('BEGIN; LOCK TABLE kridtech.webhook_events, kridtech.webhook_inbox IN ACCESS EXCLUSIVE MODE');
$pid = $r->pid;
$socket = $r->send($r->webhook('lost'));
kt_wait(sub { $r->stat('waiting') == 1 }) or die 'it does not wait';
my $began = time;
$locker->query("SELECT pg_terminate_backend($pid)");
is($r->answer($socket), 503, 'one that cannot even be kept when the receiver is ended is answered with 503');
ok(kt_wait(sub { $r->log =~ /WARNING:  kridtech receiver: 1 webhooks that were refused with 503 could not be stored and are lost/ }),
	'and the log says that it is lost');
cmp_ok(time - $began, '<', 6, 'soon');
$locker->query('COMMIT');

unlike($r->log, qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
