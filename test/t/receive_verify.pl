# What happens to an event after it was stored: it becomes verified, it resolves the request whose answer was lost; and
# what is unverified, or kept in the inbox, never grows without bound.
use strict;
use warnings;

use Kridtech;
use Receiving;
use Test::More;

my $r = Receiving->new('verify', conf => "log_statement = none\nkridtech.max_unknown = 0\n");

# A request as the dialer leaves it. The epoch is a later run's, so that the dialer here does not call it left behind.
sub request
{
	my ($id, $state, $call_id) = @_;
	$call_id = defined $call_id ? "'$call_id'" : 'NULL';
	$r->sql(qq{
		INSERT INTO kridtech.call_requests (id, to_number, state, call_id, finished_at)
			VALUES ($id, '+14155550100', '$state', $call_id, CASE '$state' WHEN 'placing' THEN NULL ELSE now() END);
		INSERT INTO kridtech.call_attempts (request_id, epoch, ref, call_id) VALUES ($id, 1000000, '} . ref_of($id) . qq{', $call_id)});
	return;
}

sub ref_of { return sprintf $_[0] < 2**48 ? '%012x%s' : '%016x%s', $_[0], '5' x 20 }

sub echo
{
	my ($call_id, $id) = @_;
	return $r->post($r->webhook($call_id, dynamicVariables => [ { variable => 'kridtech_ref', value => ref_of($id) } ]));
}

sub verified
{
	my ($call_id) = @_;
	return "SELECT coalesce(verified_by, 'nothing') || ' ' || coalesce(request_id::text, 'none') FROM kridtech.webhook_events WHERE call_id = '$call_id'";
}

sub state
{
	my ($id) = @_;
	return "SELECT state || ' ' || coalesce(call_id, 'none') FROM kridtech.call_requests WHERE id = $id";
}

# ---- verified later ----------------------------------------------------------------------------------------------

$r->sql(q{
	CREATE TABLE updates (call_id text, verified_by text);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.call_id = 'call_refused' THEN RAISE 'not this one'; END IF;
		INSERT INTO public.updates VALUES (NEW.call_id, NEW.verified_by);
		RETURN NULL;
	END $$;
	CREATE TRIGGER note AFTER UPDATE OF verified_by ON kridtech.webhook_events FOR EACH ROW EXECUTE FUNCTION note()});
is($r->post($r->webhook($_)), 200, "a webhook of $_") for 'call_late', 'call_listed', 'call_refused', 'call_stranger';
is($r->sql(verified('call_late')), 'nothing none', 'is verified by nothing');
$r->sql(q{INSERT INTO kridtech.calls (call_id) VALUES ('call_listed')});
request(1, 'placed', 'call_late');
request(2, 'placed', 'call_refused');
$r->becomes(verified('call_late'),   'request 1',   'until a request has its callId', 30);
$r->becomes(verified('call_listed'), 'api none',    'or the API lists it', 30);
is($r->sql(verified('call_refused')), 'nothing none', 'a trigger that fails for one event keeps that one back, and no other');
is($r->sql(verified('call_stranger')), 'nothing none', 'what nobody knows stays as it was');
is($r->sql(q{SELECT string_agg(call_id || ' ' || verified_by, ' ' ORDER BY call_id) FROM updates}), 'call_late request call_listed api', 'a trigger sees each event verified once');
# what one round has just missed is known to be ours with the next: 3 s later, and some for a busy machine
$r->sql('ALTER TABLE updates ADD at timestamptz DEFAULT clock_timestamp()');
is($r->post($r->webhook("call_round_$_")), 200, "a webhook of call_round_$_") for 3, 4;
for (3, 4)
{
	request($_, 'placed', "call_round_$_");
	$r->becomes(verified("call_round_$_"), "request $_", 'is verified by a round', 30);
}
cmp_ok($r->sql(q{SELECT extract(epoch FROM max(at) - min(at)) FROM updates WHERE call_id LIKE 'call_round%'}), '<', 9, 'of which the second comes soon after the first');
$r->sql('DROP TRIGGER note ON kridtech.webhook_events');
$r->becomes(verified('call_refused'), 'request 2', 'and the one kept back is verified without the trigger', 30);
request(5, 'unknown');
$r->sql(q{SELECT kridtech_resolve_call(5, 'placed', 'call_listed')});
is($r->sql(verified('call_listed')), 'request 5', 'what the API had verified names the request that a human says it is');

# A trigger on the events may raise at the human's commit, or be what asks: his word counts, and the event can wait.
$r->sql(q{
	CREATE SCHEMA app;
	CREATE FUNCTION app.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not this one'; END $$;
	CREATE FUNCTION app.resolve() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM public.kridtech_resolve_call(7, 'placed', NEW.call_id);
		RETURN NEW;
	END $$;
	CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON kridtech.webhook_events DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION app.refuse();
	INSERT INTO kridtech.webhook_events (call_id, raw, verified_by) VALUES ('call_deferred', '{}', 'api')});
request(6, 'unknown');
$r->sql(q{SELECT kridtech_resolve_call(6, 'placed', 'call_deferred')});
is($r->sql(state(6)) . ' ' . $r->sql(verified('call_deferred')), 'placed call_deferred api none', 'no deferred trigger on the events costs a human his word');
$r->sql(q{
	DROP TRIGGER refuse ON kridtech.webhook_events;
	CREATE SEQUENCE app.fired;
	CREATE OR REPLACE FUNCTION app.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not this one, %', nextval('app.fired'); END $$;
	CREATE TRIGGER refuse BEFORE UPDATE ON kridtech.webhook_events
		FOR EACH ROW WHEN (NEW.call_id = 'call_once') EXECUTE FUNCTION app.refuse();
	INSERT INTO kridtech.webhook_events (call_id, raw, verified_by) VALUES ('call_once', '{}', 'api')});
request(8, 'unknown');
$r->sql(q{SELECT kridtech_resolve_call(8, 'placed', 'call_once')});
is($r->sql(state(8)) . ' ' . $r->sql(verified('call_once')), 'placed call_once api none', 'nor does another one');
is($r->sql('SELECT last_value FROM app.fired'), 1, 'which is not fired again for the same event at once');
$r->sql('DROP TRIGGER refuse ON kridtech.webhook_events');
request(7, 'unknown');
$r->sql(q{CREATE TRIGGER resolve BEFORE UPDATE ON kridtech.webhook_events
	FOR EACH ROW WHEN (NEW.call_id = 'call_asks') EXECUTE FUNCTION app.resolve()});
is($r->post($r->webhook('call_asks')), 200, 'a webhook of call_asks');
$r->sql(q{INSERT INTO kridtech.calls (call_id) VALUES ('call_asks')});
$r->becomes(state(7), 'placed call_asks', 'a trigger on the event may resolve its request', 30);
is($r->sql(verified('call_asks')), 'api none', 'while the event is verified');
$r->sql('DROP TRIGGER resolve ON kridtech.webhook_events');

# ---- requests whose answer was lost ------------------------------------------------------------------------------

request(11, 'unknown');
is(echo('call_11', 11), 200, 'a webhook that brings back the ref of a request that is unknown');
$r->becomes(state(11), 'placed call_11', 'resolves it');
is($r->sql(verified('call_11')), 'correlation 11', 'and is verified by that');
is($r->sql('SELECT call_id || detail FROM kridtech.call_attempts WHERE request_id = 11'),
	'call_11the answer was lost; a webhook that brought its kridtech_ref back names the call', 'which is written down with the attempt');

my $great = '9223372036854775806';
request($great, 'unknown');
is(echo('call_great', $great), 200, 'so does one with an id near the end of all');
$r->becomes(state($great), 'placed call_great', 'resolves it');

request(12, 'placing');
is(echo('call_12', 12), 200, 'a webhook that comes before the answer');
is($r->sql(verified('call_12')), 'correlation 12', 'is verified by its ref');
is($r->sql(state(12)), 'placing none', 'and leaves the request to the dialer');
$r->sql(q{UPDATE kridtech.call_requests SET state = 'unknown', finished_at = now() WHERE id = 12});
$r->becomes(state(12), 'placed call_12', 'but resolves it when the answer is lost', 30);

request(13, 'unknown');
# so that the first is not bound before the second has come
$r->sql('BEGIN; LOCK TABLE kridtech.call_requests IN SHARE MODE');
is(echo($_, 13), 200, "two webhooks, $_, with the ref of one request") for 'call_13a', 'call_13b';
$r->sql('COMMIT');
request(14, 'unknown');
is(echo('call_14', 14), 200, 'and one with another\'s');
$r->becomes(state(14), 'placed call_14', 'the other is resolved', 30);
is($r->sql(state(13)), 'unknown none', 'the two contradict each other, and resolve nothing');

request(15, 'placed', 'call_15');
is(echo('call_15b', 15), 200, 'a webhook with the ref of an attempt that was answered with another callId');
is($r->sql(verified('call_15b')), 'nothing none', 'is verified by nothing');
is($r->sql(state(15)), 'placed call_15', 'and changes nothing');

request(16, 'failed');
is(echo('call_16', 16), 200, 'a webhook with the ref of a request that failed');
request(17, 'unknown');
request(18, 'unknown', undef);
$r->sql(q{
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.id = 17 THEN RAISE 'not this one'; END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER refuse BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW EXECUTE FUNCTION refuse()});
is(echo("call_$_", $_), 200, "a webhook with the ref of $_") for 17, 18;
is($r->sql(verified('call_17')), 'correlation 17', 'a trigger on requests that fails costs no webhook');
$r->becomes(state(18), 'placed call_18', 'nor another request its call', 30);
is($r->sql(state(17)), 'unknown none', 'only its own');
$r->sql('DROP TRIGGER refuse ON kridtech.call_requests');
$r->becomes(state(17), 'placed call_17', 'until the trigger is gone', 30);
is($r->sql(state(16)), 'failed none', 'a failed request is not touched');

# ---- bounds ------------------------------------------------------------------------------------------------------

$r->sql('TRUNCATE kridtech.webhook_events, kridtech.webhook_inbox');
$r->set('kridtech.webhook_max_unverified' => '20kB', 'kridtech.webhook_max_inbox' => '32kB');
my @answers = map { $r->post($r->webhook("call_flood_$_", transcript => 'x' x 1000)) } 1 .. 30;
my ($taken) = grep { $answers[$_] != 200 } 0 .. $#answers;
cmp_ok($taken, '>', 5, 'unverified webhooks are stored');
cmp_ok($taken, '<', 20, 'up to kridtech.webhook_max_unverified');
is("@answers[$taken .. $#answers]", join(' ', (503) x (@answers - $taken)), 'and then answered with 503');
is($r->sql('SELECT count(*) FROM kridtech.webhook_events'), $taken, 'nothing more is stored');
$r->sql(q{
	CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.call_id LIKE 'call_poison%' THEN RAISE 'not this one'; END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER poison AFTER INSERT ON kridtech.webhook_events FOR EACH ROW EXECUTE FUNCTION poison()});
request($_, 'placed', "call_poison_$_") for 31 .. 33;
my @sockets = map { $r->send($r->webhook("call_poison_$_")), $r->send($r->webhook("call_beside_$_")) } 31 .. 33;
is(join(' ', map { scalar $r->answer($_) } @sockets), '200 503 200 503 200 503', 'also when what is beside them fails, and they are stored one by one');
$r->sql('DROP TRIGGER poison ON kridtech.webhook_events');
$r->becomes(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'call_poison%'}, 3, 'what failed becomes an event later', 60);
is($r->post($r->webhook('call_flood_1', transcript => 'x' x 1000)), 200, 'an equal one is a duplicate as ever');
is($r->post($r->webhook('call_late')), 200, 'one of our own is taken');
is($r->sql(verified('call_late')), 'request 1', 'and verified');
$r->becomes(q{SELECT ok || ' ' || (detail LIKE '%webhook_max_unverified%') FROM kridtech.health WHERE component = 'receiver'}, 'false true', 'health says that there are too many', 30);
$r->sql(q{DELETE FROM kridtech.webhook_events WHERE call_id LIKE 'call_flood%'});
ok(kt_wait(sub { $r->post($r->webhook('call_after')) == 200 }, 30), 'when they are gone, others are taken');
$r->becomes(q{SELECT ok FROM kridtech.health WHERE component = 'receiver'}, 't', 'and health is content', 30);

is($r->post("garbage $_ " . 'x' x 1000), 400, 'garbage is refused') for 1 .. 20;
cmp_ok($r->sql(q{SELECT count(*) FROM kridtech.webhook_inbox}), '<=', 6, 'and kept up to a quarter of the inbox');
like($r->sql(q{SELECT convert_from(body, 'UTF8') FROM kridtech.webhook_inbox ORDER BY id DESC LIMIT 1}), qr/^garbage 20 /, 'the newest');
@answers = map { $r->post($r->webhook('call_late', transcript => "$_ " . 'x' x 1000)) } 1 .. 30;
($taken) = grep { $answers[$_] != 200 } 0 .. $#answers;
cmp_ok($taken, '>', 5, 'conflicts are kept');
cmp_ok($taken, '<', 20, 'up to half of it');
is($r->sql(q{SELECT count(*) FROM kridtech.webhook_inbox WHERE reason = 'conflict'}), $taken, 'and never deleted for others');
is($r->post("garbage again"), 400, 'there is still room for garbage');

unlike($r->log, qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
