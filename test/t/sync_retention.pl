# kridtech.retention removes what is finished and old, a little at a time, and never what is open or its evidence.
use strict;
use warnings;

use Dialing;
use Kridtech;
use Test::More;
use Time::HiRes qw(time);

my $d = Dialing->new('retention', conf => "kridtech.settle_time = '1s'\n");

# ---- rows of every kind, a year old and a day old -------------------------------------------------------------------

$d->sql(q{SELECT kridtech_pause('acct-1')});    # nothing here is dialled
$d->sql(<<'SQL');
CREATE TABLE ages (age text, at timestamptz);
INSERT INTO ages VALUES ('old', now() - interval '365 days'), ('new', now() - interval '1 day');
INSERT INTO kridtech.call_requests (account_id, to_number, reference, state, call_id, created_at, finished_at)
	SELECT 'acct-1', '+4930000001', age || ' ' || state, state, CASE WHEN state = 'placed' THEN age || '-placed' END, at, CASE WHEN state NOT IN ('queued') THEN at END
	  FROM ages, unnest(ARRAY['placed', 'failed', 'cancelled', 'expired', 'queued']) AS s (state);
INSERT INTO kridtech.call_attempts (request_id, epoch, live, started_at, finished_at, outcome)
	SELECT id, 1, state = 'placed', created_at, created_at, 'ok' FROM kridtech.call_requests WHERE state IN ('placed', 'failed');
INSERT INTO kridtech.calls (call_id, created_at, synced_at) SELECT age || '-placed', at, at FROM ages;
INSERT INTO kridtech.calls (call_id, created_at, synced_at) SELECT age || '-inbound', at, at FROM ages;
INSERT INTO kridtech.calls (call_id, created_at, synced_at) SELECT age || '-undated', NULL, at FROM ages;
INSERT INTO kridtech.webhook_events (call_id, raw, verified_by, received_at) SELECT age || '-placed', '{}', 'request', at FROM ages;
INSERT INTO kridtech.webhook_events (call_id, raw, verified_by, received_at) SELECT age || '-inbound', '{}', 'api', at FROM ages;
INSERT INTO kridtech.webhook_events (call_id, raw, received_at) SELECT age || '-forged', '{}', at FROM ages;
INSERT INTO kridtech.webhook_inbox (reason, body, received_at) SELECT 'bad body', age::bytea, at FROM ages;
-- a second webhook that brought back the old one's kridtech_ref; and requests whose call is known by that alone, or was given to another
INSERT INTO kridtech.webhook_events (call_id, raw, verified_by, request_id, received_at) SELECT 'second', '{}', 'correlation', id, created_at FROM kridtech.call_requests WHERE reference = 'old placed';
INSERT INTO kridtech.call_requests (account_id, to_number, reference, state, created_at, finished_at) SELECT 'acct-1', '+4930000009', r, 'failed', at, at FROM ages, unnest(ARRAY['echoed long ago', 'echoed late', 'echoed elsewhere', 'echoed meanwhile']) AS v (r) WHERE age = 'old';
INSERT INTO kridtech.webhook_events (call_id, raw, verified_by, request_id, received_at)
	SELECT reference, '{}', 'correlation', id, CASE reference WHEN 'echoed late' THEN now() - interval '1 day' WHEN 'echoed meanwhile' THEN now() - interval '180 days' ELSE created_at END FROM kridtech.call_requests WHERE reference LIKE 'echoed%';
INSERT INTO kridtech.call_requests (account_id, to_number, reference, state, call_id, created_at, finished_at) SELECT 'acct-1', '+4930000009', 'owner', 'placed', 'echoed elsewhere', at, at FROM ages WHERE age = 'new';
-- a recording that was being fetched when that was turned off
INSERT INTO kridtech.recordings (call_id, state, next_attempt_at, attempts, received_at) SELECT age || '-begun', 'fetching', NULL, 1, at FROM ages;
INSERT INTO kridtech.recording_chunks SELECT age || '-begun', 0, 'x' FROM ages;
-- a call of long ago whose webhook came yesterday
INSERT INTO kridtech.call_requests (account_id, to_number, reference, state, call_id, created_at, finished_at) SELECT 'acct-1', '+4930000002', 'late webhook', 'placed', 'late', at, at FROM ages WHERE age = 'old';
INSERT INTO kridtech.webhook_events (call_id, raw, verified_by, received_at) SELECT 'late', '{}', 'request', at FROM ages WHERE age = 'new';
-- an unknown request of half a year ago, and what is from its time
INSERT INTO kridtech.call_requests (account_id, to_number, reference, state, call_id, created_at, finished_at)
	SELECT 'acct-1', '+4930000003', r, s, c, now() - interval '180 days' + t, now() - interval '180 days' + t
	  FROM (VALUES ('open', 'unknown', NULL, interval '0'), ('neighbour', 'placed', 'neighbour', '1 hour'), ('stranger', 'placed', 'stranger', '2 days')) AS v (r, s, c, t);
INSERT INTO kridtech.call_attempts (request_id, epoch, started_at, finished_at, outcome)
	SELECT id, 1, created_at, created_at, 'unknown' FROM kridtech.call_requests WHERE reference IN ('open', 'neighbour');
-- one that began at that time, and that a human has redialled much later
INSERT INTO kridtech.call_requests (account_id, to_number, reference, state, call_id, created_at, finished_at) SELECT 'acct-1', '+4930000003', 'redialled', 'placed', 'redialled', now() - interval '180 days', now() - interval '170 days';
INSERT INTO kridtech.calls (call_id, created_at) VALUES ('neighbour', now() - interval '180 days'), ('nobody', now() - interval '180 days');
INSERT INTO kridtech.webhook_events (call_id, raw, received_at) VALUES ('its echo', '{}', now() - interval '180 days' + interval '5 minutes');
INSERT INTO kridtech.webhook_inbox (reason, body, received_at) VALUES ('conflict', 'near', now() - interval '180 days');
SQL

my %kept = (
	requests => q{SELECT string_agg(reference, ', ' ORDER BY reference COLLATE "C") FROM kridtech.call_requests},
	attempts => q{SELECT string_agg(r.reference, ', ' ORDER BY r.reference COLLATE "C") FROM kridtech.call_attempts a LEFT JOIN kridtech.call_requests r ON r.id = a.request_id},
	calls    => q{SELECT string_agg(call_id, ', ' ORDER BY call_id COLLATE "C") FROM kridtech.calls},
	events   => q{SELECT string_agg(call_id, ', ' ORDER BY call_id COLLATE "C") FROM kridtech.webhook_events},
	recordings => q{SELECT string_agg(call_id, ', ' ORDER BY call_id) FROM kridtech.recordings},
	inbox    => q{SELECT string_agg(encode(body, 'escape'), ', ' ORDER BY body) FROM kridtech.webhook_inbox},
);
my %all = map { $_ => $d->sql($kept{$_}) } keys %kept;
$d->turns(10);
is_deeply({ map { $_ => $d->sql($kept{$_}) } keys %kept }, \%all, 'without a retention everything is kept');

$d->set('kridtech.retention' => '30d');
$d->sql_becomes($kept{inbox}, 'near, new', 'with one, deliveries kept in the inbox go', 30);
is($d->sql($kept{requests}), 'echoed late, echoed meanwhile, late webhook, neighbour, new cancelled, new expired, new failed, new placed, new queued, old queued, open, owner, redialled',
	'of the requests those that are final and old: neither open ones nor what is from an unknown one\'s time');
is($d->sql($kept{attempts}), 'neighbour, new failed, new placed, open', 'their attempts with them');
is($d->sql($kept{calls}), 'neighbour, new-inbound, new-placed, new-undated, nobody', 'and their records of the API, and those that nobody asked for');
is($d->sql($kept{events}), 'echoed elsewhere, echoed late, echoed meanwhile, its echo, late, new-forged, new-inbound, new-placed', 'and their webhooks, also those that only name them, and those that nothing vouches for');
$d->sql_becomes($kept{recordings}, 'new-begun', 'a recording that was being fetched when that was turned off goes in time', 30);
$d->sql_becomes(q{SELECT value FROM kridtech.stats WHERE name = 'retention_removed'}, (5 + 2) + 2 + 3 + (3 + 2) + 1 + 1, 'stats counts what was removed');

# ---- a human resolves the unknown one ---------------------------------------------------------------------------------

$d->sql(q{SELECT kridtech_resolve_call((SELECT id FROM kridtech.call_requests WHERE reference = 'open'), 'not_placed')});
$d->set('kridtech.retention' => '31d');    # which begins a pass at once
$d->sql_becomes($kept{calls}, 'new-inbound, new-placed, new-undated', 'once it is resolved its neighbours go', 30);
$d->sql_becomes($kept{requests}, 'echoed late, late webhook, new cancelled, new expired, new failed, new placed, new queued, old queued, open, owner', 'itself stays: it was finished just now');

# ---- what the API still lists does not come back ------------------------------------------------------------------------

$d->post('calls', { n => 1, callId => 'listed-old', accountId => 'acct-1', createdAt => '2020-01-01T00:00:00Z' });
$d->post('calls', { n => 1, callId => 'listed-new', accountId => 'acct-1' });
is($d->sql('SELECT kridtech_sync_calls()'), 1, 'a call beyond the retention is not taken from the list');
is($d->sql(q{SELECT call_id FROM kridtech.calls WHERE call_id LIKE 'listed%'}), 'listed-new', 'only the others are');

# its webhook has come only now: the list vouches for it, and so it must not be forgotten
$d->sql(q{INSERT INTO kridtech.webhook_events (call_id, raw) VALUES ('listed-old', '{}')});
is($d->sql('SELECT kridtech_sync_calls()'), 1, 'one whose webhook has come since is taken');
is($d->sql($kept{events} =~ s/FROM.*/FROM kridtech.webhook_events WHERE call_id = 'listed-old' AND verified_by = 'api'/sr), 'listed-old', 'which is verified by that');
$d->sql(q{UPDATE kridtech.webhook_events SET received_at = now() - interval '40 days' WHERE call_id = 'listed-old'});
$d->set('kridtech.retention' => '30d');
$d->sql_becomes(q{SELECT (SELECT count(*) FROM kridtech.webhook_events WHERE call_id = 'listed-old') + (SELECT count(*) FROM kridtech.calls WHERE call_id = 'listed-old')}, 0, 'and goes with it in time', 30);

# ---- many, and one in the way ---------------------------------------------------------------------------------------------

$d->sql(q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF OLD.reference = 'precious' THEN RAISE 'not this one'; END IF; RETURN OLD; END $$});
$d->sql(q{CREATE TRIGGER refuse BEFORE DELETE ON kridtech.call_requests FOR EACH ROW EXECUTE FUNCTION refuse()});
$d->sql(q{INSERT INTO kridtech.call_requests (account_id, to_number, reference, state, created_at, finished_at)
	SELECT 'acct-1', '+4930000004', CASE n WHEN 3 THEN 'precious' ELSE 'many' END, 'cancelled', now() - interval '60 days', now() - interval '60 days' FROM generate_series(1, 1600) AS n});
$d->set('kridtech.retention' => '30d');
$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE reference = 'many'}, 0, 'a trigger that refuses one row does not keep the others', 90);
is($d->sql(q{SELECT count(*) FROM kridtech.call_requests WHERE reference = 'precious'}), 1, 'which stays');
$d->sql('DROP TRIGGER refuse ON kridtech.call_requests');

# The same in the other tables: by a trigger or a foreign key of a user's; and one that fails in the commit only.
$d->set('kridtech.retention' => 0);
$d->sql(<<'SQL');
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
INSERT INTO kridtech.webhook_inbox (reason, body, received_at) SELECT 'bad body', ('held' || n)::bytea, now() - interval '60 days' FROM generate_series(1, 20) AS n;
INSERT INTO kridtech.webhook_events (call_id, raw, received_at) SELECT 'held' || n, '{}', now() - interval '60 days' FROM generate_series(1, 20) AS n;
INSERT INTO kridtech.calls (call_id, created_at) SELECT 'held-dated' || n, now() - interval '60 days' FROM generate_series(1, 20) AS n;
INSERT INTO kridtech.calls (call_id, synced_at) SELECT 'held-undated' || n, now() - interval '60 days' FROM generate_series(1, 20) AS n;
CREATE TRIGGER hold BEFORE DELETE ON kridtech.webhook_inbox FOR EACH ROW WHEN (OLD.body = 'held3') EXECUTE FUNCTION hold();
CREATE TABLE notes (event text REFERENCES kridtech.webhook_events, call text REFERENCES kridtech.calls, request bigint REFERENCES kridtech.call_requests DEFERRABLE INITIALLY DEFERRED);
INSERT INTO notes VALUES ('held5', 'held-dated5'), (NULL, 'held-undated5');
INSERT INTO kridtech.call_requests (account_id, to_number, reference, state, created_at, finished_at)
	SELECT 'acct-1', '+4930000010', 'held' || n, 'cancelled', now() - interval '60 days', now() - interval '60 days' FROM generate_series(1, 600) AS n;
INSERT INTO notes (request) SELECT id FROM kridtech.call_requests WHERE reference = 'held7';
INSERT INTO kridtech.call_requests (account_id, to_number, reference, state, call_id, created_at, finished_at)
	SELECT 'acct-1', '+4930000010', 'held by a trigger', 'placed', 'held-whole', now() - interval '60 days', now() - interval '60 days';
INSERT INTO kridtech.call_attempts (request_id, epoch, finished_at, outcome) SELECT id, 1, now(), 'ok' FROM kridtech.call_requests WHERE reference = 'held by a trigger';
INSERT INTO kridtech.webhook_events (call_id, raw, verified_by, received_at) VALUES ('held-whole', '{}', 'request', now() - interval '60 days');
INSERT INTO kridtech.calls (call_id, created_at) VALUES ('held-whole', now() - interval '60 days');
CREATE TRIGGER keep BEFORE DELETE ON kridtech.call_requests FOR EACH ROW WHEN (OLD.reference = 'held by a trigger') EXECUTE FUNCTION keep();
SQL
$d->set('kridtech.retention' => '30d');
$d->sql_becomes(q{SELECT string_agg(encode(body, 'escape'), ', ') FROM kridtech.webhook_inbox WHERE body LIKE 'held%'}, 'held3', 'a refused row of the inbox does not keep the others', 90);
is($d->sql(q{SELECT string_agg(reference, ', ' ORDER BY reference) FROM kridtech.call_requests WHERE reference LIKE 'held%'}), 'held by a trigger, held7', 'nor does a request whose removal fails in the commit');
is($d->sql(q{SELECT string_agg(call_id, ', ' ORDER BY call_id) FROM kridtech.webhook_events WHERE call_id LIKE 'held%'}), 'held-whole, held5', 'nor an event that somebody refers to');
is($d->sql(q{SELECT string_agg(call_id, ', ' ORDER BY call_id) FROM kridtech.calls WHERE call_id LIKE 'held%'}), 'held-dated5, held-undated5, held-whole', 'nor a call');
is($d->sql(q{SELECT count(*) FROM kridtech.call_attempts a JOIN kridtech.call_requests r ON r.id = a.request_id WHERE r.reference = 'held by a trigger'}), 1,
	'and a request that a trigger keeps keeps its attempt, its event and its record');
$d->sql(<<'SQL');
DROP TABLE notes;
DROP TRIGGER hold ON kridtech.webhook_inbox;
DROP TRIGGER keep ON kridtech.call_requests;
SQL
$d->set('kridtech.retention' => '31d');
$d->sql_becomes(q{SELECT (SELECT count(*) FROM kridtech.webhook_inbox WHERE body LIKE 'held%') + (SELECT count(*) FROM kridtech.calls WHERE call_id LIKE 'held%')
	+ (SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'held%') + (SELECT count(*) FROM kridtech.call_requests WHERE reference LIKE 'held%')}, 0, 'with nothing in the way they go', 90);

# ---- its work does not grow with the tables -------------------------------------------------------------------------------

# A pass reads what it looks at, and what is open. Were a table read from end to end for that, no call would be placed
# meanwhile, the longer the more there is.
$d->set('kridtech.retention' => 0);
$d->{node}->safe_psql('postgres', q{INSERT INTO kridtech.call_requests (account_id, to_number, reference, state, call_id, created_at, finished_at)
	SELECT 'acct-1', '+4930000007', 'gone', 'placed', 'gone-' || n, now() - interval '60 days', now() - interval '60 days' FROM generate_series(1, 200) AS n});
$d->{node}->safe_psql('postgres', q{INSERT INTO kridtech.call_requests (account_id, to_number, reference, state, call_id, created_at, finished_at)
	SELECT 'acct-1', '+4930000008', 'crowd', 'placed', 'crowd-' || n, now(), now() FROM generate_series(1, 3000) AS n});
$d->{node}->safe_psql('postgres', q{INSERT INTO kridtech.call_attempts (request_id, epoch, live, finished_at, outcome)
	SELECT id, 1, live, now(), 'ok' FROM kridtech.call_requests, unnest(ARRAY[true, false]) AS live WHERE reference IN ('crowd', 'gone')});
my $gone = q{SELECT count(*) FROM kridtech.call_requests WHERE call_id = ANY (ARRAY(SELECT 'gone-' || n FROM generate_series(1, 200) AS n))};
my $read = q{SELECT seq_tup_read FROM pg_stat_user_tables WHERE relid = 'kridtech.call_requests'::regclass};
my $before = $d->sql($read);
$d->set('kridtech.retention' => '30d');
$d->sql_becomes($gone, 0, 'two hundred old ones go from among thousands', 90);
my $pid = $d->dialer_pid;
$d->sql('SELECT kridtech_restart_workers()');    # what it has counted it reports at its end
ok(kt_wait(sub { my $now = $d->dialer_pid; $now && $now != $pid }), 'the dialer is another one');
cmp_ok($d->sql($read) - $before, '<', 100 * 3000, 'the one before has not read all of them for each');
is($d->sql(q{SELECT count(*) FILTER (WHERE r.id IS NULL), count(*) FILTER (WHERE r.reference = 'crowd') FROM kridtech.call_attempts AS a LEFT JOIN kridtech.call_requests AS r ON r.id = a.request_id}),
	'0|6000', 'with their attempts, whatever came of them, and no others');

# ---- calls go on -----------------------------------------------------------------------------------------------------------

$d->sql(q{SELECT kridtech_resume('acct-1')});
my $id = $d->queue('+4930000005');
$d->becomes($id, 'placed', 'calls are placed meanwhile');
my $other = kt_background($d->{node}, 'postgres');
$other->query('BEGIN; LOCK TABLE kridtech.webhook_inbox');
my $began = time;
$d->becomes($d->queue('+4930000006'), 'placed', 'and while a table is locked');
ok(time - $began < 1, 'at once');
$other->query('ROLLBACK');
is(scalar(() = $d->log =~ m{ERROR: }g), scalar(() = $d->log =~ m{ERROR:  (?:not this one|update or delete on table .* violates foreign key)}g), 'the log holds no error but the triggers\' and the foreign keys\'');

done_testing();
