# What comes in great numbers, or is held by somebody's open transaction, neither stops the dialer nor keeps it busy.
use strict;
use warnings;

use Dialing;
use File::Temp qw(tempdir);
use Kridtech;
use Test::More;

# An encoding with characters of several bytes, whatever the locale is.
my $d = Dialing->new('floods', init => [ extra => [ '--encoding=UTF8', '--locale=C' ] ],
	conf => "kridtech.probe_interval = 500\n");

sub errors
{
	my ($pattern) = @_;
	my @found = $d->log =~ /$pattern/g;
	return scalar @found;
}

# How many entries of the index of what is ready the dialer has read.
sub entries_read
{
	$d->sql('SELECT pg_stat_clear_snapshot()');
	return $d->sql(q{SELECT idx_tup_read FROM pg_stat_all_indexes WHERE indexrelname = 'call_requests_ready_idx'});
}

# A session with an open transaction that holds something.
sub holding
{
	my ($statement) = @_;
	my $other = kt_background($d->{node}, 'postgres');
	$other->query("BEGIN; $statement");
	return $other;
}

# ---- many that cannot be claimed ----------------------------------------------------------------------------

{
	$d->sql(q{
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not this one%', repeat(E'\u00e4', 300); END$$;
		CREATE TRIGGER refuse BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW
			WHEN (NEW.state = 'placing' AND NEW.reference = 'poison') EXECUTE FUNCTION refuse()});
	$d->sql(q{SELECT count(kridtech_queue_call('+493110' || lpad(i::text, 4, '0'), reference => 'poison', priority => 1)) FROM generate_series(1, 150) AS i});
	my $good = $d->queue('+4931109999');
	$d->becomes($good, 'placed', 'behind 150 requests that cannot be claimed another one is placed', 30);
	$d->sleeps('and the dialer sleeps over them');
	cmp_ok(errors('not this one'), '<', 400, 'each has its error in the log, and not again and again');
	is($d->sql(q{SELECT count(*) FROM kridtech.call_requests WHERE reference = 'poison' AND state = 'queued' AND error LIKE '%not this one%'}),
		150, 'the table says why they wait');
	is($d->sql(q{SELECT bool_and(convert_from(convert_to(error, 'UTF8'), 'UTF8') = error) FROM kridtech.call_requests WHERE reference = 'poison'}),
		't', 'in words that are cut between two characters');
	like($d->health('queue'), qr/^t\|0 ready, 150 waiting/, 'health is content for a minute');
	$d->sql(q{UPDATE kridtech.call_requests SET created_at = created_at - interval '2 minutes' WHERE reference = 'poison';
		UPDATE kridtech.call_attempts SET started_at = started_at - interval '2 minutes'});
	like($d->health('queue'), qr/^f\|nothing is being placed, some cannot be claimed, see their error: 0 ready, 150 waiting/, 'and then says that nothing goes on');
	$d->sql(q{DROP TRIGGER refuse ON kridtech.call_requests;
		UPDATE kridtech.call_requests SET next_attempt_at = NULL, created_at = created_at + interval '2 minutes' WHERE reference = 'poison'});
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE reference = 'poison' AND state = 'placed' AND error IS NULL},
		150, 'when nothing refuses them any more they are placed', 30);
	like($d->health('queue'), qr/^t\|/, 'and health is content again');
}
{
	$d->sql(q{
		CREATE FUNCTION divide() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM 1 / 0; RETURN NEW; END$$;
		CREATE TRIGGER divide BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW
			WHEN (NEW.state = 'placing' AND NEW.reference = 'divided') EXECUTE FUNCTION divide()});
	my $id = $d->queue('+4931120001', reference => 'divided');
	$d->sql_becomes("SELECT error LIKE '%division by zero%' FROM kridtech.call_requests WHERE id = $id", 't', "the fault of somebody's trigger is noted");
	is($d->state($id), 'queued', 'but does not make a request failed');
	$d->sql("DROP TRIGGER divide ON kridtech.call_requests; UPDATE kridtech.call_requests SET next_attempt_at = NULL WHERE id = $id");
	$d->becomes($id, 'placed', 'it is placed when the trigger is gone');
}

# A trigger's word that something is there already is not the word that the callId is.
{
	$d->sql(q{
		CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE unique_violation USING MESSAGE = 'once is enough'; END$$;
		CREATE TRIGGER again BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW
			WHEN (NEW.state = 'placed' AND NEW.reference = 'again') EXECUTE FUNCTION again()});
	my $id = $d->queue('+4931130001', account_id => 'again', reference => 'again');
	kt_wait(sub { errors('ERROR:  once is enough') > 2 });
	is($d->state($id) . $d->causes('again'), 'placing', "a trigger's unique violation makes no request unknown, nor pauses its account");
	$d->sql('DROP TRIGGER again ON kridtech.call_requests');
	$d->becomes($id, 'placed', 'the result is recorded when the trigger is gone', 20);
	is($d->k('+4931130001'), 1, 'K = 1');
}

# ---- many that are large --------------------------------------------------------------------------------------

sub peak_kb
{
	my $pid = $d->dialer_pid;
	open my $file, '<', "/proc/$pid/status" or die "/proc/$pid/status: $!";
	my ($line) = grep { /^VmHWM:/ } <$file>;
	return $line =~ /(\d+)/ ? $1 : die $line;
}

{
	$d->set('kridtech.max_concurrent_requests' => 150);
	$d->post('settings', { latency => 500 });
	$d->sql(q{SELECT kridtech_pause('large')});
	$d->sql(q{SELECT count(kridtech_queue_call('+493140' || lpad(i::text, 4, '0'), jsonb_build_object('a', repeat('x', 1000000)), account_id => 'large')) FROM generate_series(1, 150) AS i});
	$d->sql(q{SELECT kridtech_resume('large')});
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE account_id = 'large' AND state = 'placed'}, 150, '150 requests of a megabyte each are placed', 60);
	SKIP:
	{
		skip 'a sanitizer keeps what was freed', 1 if $ENV{SANITIZE};
		cmp_ok(peak_kb(), '<', 260_000, 'by ' . peak_kb() . ' kB at most');
	}
	$d->post('settings', { latency => 0 });
	$d->reset('kridtech.max_concurrent_requests');
}

# ---- many that somebody has locked --------------------------------------------------------------------------

{
	$d->sql(q{SELECT kridtech_pause()});
	$d->set('kridtech.max_queued_per_transaction' => 0);
	$d->sql(q{INSERT INTO kridtech.call_requests (to_number, reference, priority) SELECT '+493120' || lpad(i::text, 5, '0'), 'locked', 1 FROM generate_series(1, 12000) AS i});
	my $other = holding(q{SELECT count(*) FROM (SELECT FROM kridtech.call_requests WHERE reference = 'locked' FOR UPDATE) AS q});
	my $free = $d->queue('+4931209999');
	$d->sql(q{SELECT kridtech_resume()});
	$d->becomes($free, 'placed', 'behind 12,000 requests that a transaction has locked another one is placed', 30);
	my $read = entries_read();
	my $end = $d->sql(q{SELECT clock_timestamp() + interval '3 seconds'});
	$d->sql_becomes("SELECT clock_timestamp() > '$end'", 't', 'three seconds pass');
	$read = entries_read() - $read;
	cmp_ok($read, '<', 100_000, "in which the dialer does not try them again and again (it read $read entries)");
	$other->query('ROLLBACK');
	$d->sql(q{DELETE FROM kridtech.call_requests WHERE reference = 'locked' AND id % 12 <> 0 AND state = 'queued'});
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE reference = 'locked' AND state <> 'placed'}, 0,
		'they are placed when it has ended', 60);
}

# What comes meanwhile wakes the dialer again and again; paced, it tries them one at a time.
{
	$d->sql(q{SELECT kridtech_pause()});
	$d->set('kridtech.calls_per_second' => 20);
	$d->sql(q{INSERT INTO kridtech.call_requests (to_number, reference) SELECT '+493121' || lpad(i::text, 5, '0'), 'locked' FROM generate_series(1, 25000) AS i});
	my $other = holding(q{SELECT count(*) FROM (SELECT FROM kridtech.call_requests WHERE reference = 'locked' FOR UPDATE) AS q});
	$d->sql(q{SELECT kridtech_resume()});
	my ($free, $n) = ($d->queue('+4931220000'), 0);
	kt_wait(sub { $d->queue(sprintf '+493122%04d', ++$n); $d->state($free) eq 'placed' }, 20);
	is($d->state($free), 'placed', "behind 25,000 that are locked a paced dialer places one while others are queued ($n)");
	my $end = $d->sql(q{SELECT clock_timestamp() + interval '8 seconds'});
	my $placed = $d->stat('placed');
	kt_wait(sub { $d->queue(sprintf '+493122%04d', ++$n); $d->sql("SELECT clock_timestamp() > '$end'") eq 't' }, 20);
	$placed = $d->stat('placed') - $placed;
	cmp_ok($placed, '>', 40, "and mostly keeps its pace: $placed in 8 s, of 160");
	$other->query('ROLLBACK');
	$d->sql(q{DELETE FROM kridtech.call_requests WHERE state = 'queued'});
	$d->reset('kridtech.max_queued_per_transaction', 'kridtech.calls_per_second');
}

# ---- one row that somebody has locked -----------------------------------------------------------------------

{
	$d->sql(q{INSERT INTO kridtech.pauses (account_id, cause, probe_at) VALUES ('probed', 'credits', clock_timestamp() + interval '1 hour')});
	$d->scenario(toNumber => '+4931300001', fault => 'status', status => 402);
	my $probe = $d->queue('+4931300001', account_id => 'probed', priority => 5);
	$d->turns(3);
	$d->sql(q{SELECT kridtech_pause(); UPDATE kridtech.pauses SET probe_at = clock_timestamp() WHERE account_id = 'probed'});
	my $other = holding(q{SELECT FROM kridtech.pauses WHERE account_id = 'probed' FOR UPDATE});
	$d->sql(q{DELETE FROM kridtech.pauses WHERE account_id = ''});
	my $id = $d->queue('+4931300002');
	$d->becomes($id, 'placed', 'a pause that somebody has locked when it is to be probed stops no other account', 8);
	kt_wait(sub { $d->k('+4931300001') == 1 });
	is($d->k('+4931300001'), 1, 'the probe was sent');
	$d->sleeps('once, and not again at once');
	unlike($d->log, qr/lock timeout\N*\n\N*\n\N*\n\N*claiming and recording/, 'no claim waited for the lock');
	$other->query('ROLLBACK');
	$d->no_scenarios;
	$d->becomes($probe, 'placed', 'when it has ended the account is probed again', 20);
}
{
	$d->sql(q{SELECT kridtech_pause()});
	my $early = $d->queue('+4931310001');
	$d->sql("UPDATE kridtech.call_requests SET not_before = clock_timestamp() + interval '1 hour' WHERE id = $early");
	my $other = holding("SELECT FROM kridtech.call_requests WHERE id = $early FOR UPDATE");
	$d->sql(q{SELECT kridtech_resume()});
	my $id = $d->queue('+4931310002');
	$d->becomes($id, 'placed', 'a request whose time has not come, and that somebody has locked, stops no other', 8);
	unlike($d->log, qr/lock timeout\N*\n\N*\n\N*\n\N*claiming and recording/, 'no claim waited for the lock');
	$other->query('ROLLBACK');
	$d->sql_becomes("SELECT next_attempt_at = not_before FROM kridtech.call_requests WHERE id = $early", 't', 'later it is set aside until its time');
	$d->sql("SELECT kridtech_cancel_call($early)");
}

# ---- one row that somebody's trigger refuses to change --------------------------------------------------------

{
	$d->sql(q{SELECT kridtech_pause()});
	my $early = $d->queue('+4931320001', reference => 'early');
	$d->sql("UPDATE kridtech.call_requests SET not_before = clock_timestamp() + interval '1 hour' WHERE id = $early");
	$d->sql(q{CREATE TRIGGER refuse BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW
		WHEN (NEW.reference = 'early') EXECUTE FUNCTION refuse(); SELECT kridtech_resume()});
	$d->becomes($d->queue('+4931320002'), 'placed', 'a request whose time has not come, and that a trigger refuses to set aside, stops no other', 8);
	$d->sleeps('nor keeps the dialer busy');
	$d->sql("DROP TRIGGER refuse ON kridtech.call_requests; SELECT kridtech_cancel_call($early)");
}
{
	my $before = errors('not this one');
	$d->sql(q{CREATE TRIGGER refuse BEFORE DELETE ON kridtech.pauses FOR EACH ROW EXECUTE FUNCTION refuse();
		INSERT INTO kridtech.pauses (account_id, cause, until) VALUES ('over', 'rate', clock_timestamp())});
	my $held = $d->queue('+4931330001', account_id => 'over');
	$d->becomes($d->queue('+4931330002'), 'placed', 'a pause that is over, and that a trigger refuses to delete, stops no other account', 8);
	$d->sleeps('nor keeps the dialer busy');
	cmp_ok(errors('not this one') - $before, '<', 8, 'it is in the log, and not again and again');
	$d->sql(q{DROP TRIGGER refuse ON kridtech.pauses});
	$d->becomes($held, 'placed', 'when it can be deleted its account is dialled', 20);
}
{
	$d->sql(q{INSERT INTO kridtech.pauses (account_id, cause, probe_at) VALUES ('divided', 'credits', clock_timestamp());
		CREATE TRIGGER divide BEFORE UPDATE ON kridtech.pauses FOR EACH ROW EXECUTE FUNCTION divide()});
	$d->sql(q{SELECT count(kridtech_queue_call('+493134' || lpad(i::text, 4, '0'), account_id => 'divided')) FROM generate_series(1, 20) AS i});
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE account_id = 'divided' AND error LIKE '%division by zero%'}, 20, 'a pause that a trigger refuses to note a probe in: its requests say so', 20);
	is($d->sql(q{SELECT count(*) FROM kridtech.call_requests WHERE account_id = 'divided' AND state = 'queued'}), 20, 'and stay queued');
	$d->sql(q{DROP TRIGGER divide ON kridtech.pauses; DELETE FROM kridtech.pauses;
		UPDATE kridtech.call_requests SET next_attempt_at = NULL WHERE account_id = 'divided' AND state = 'queued'});
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE account_id = 'divided' AND state = 'placed'}, 20, 'they are placed when it is gone', 20);
}

# ---- a table that somebody has altered ------------------------------------------------------------------------

{
	$d->sql(q{ALTER TABLE kridtech.call_requests RENAME COLUMN priority TO importance});
	kt_wait(sub { errors('q.priority does not exist') > 0 });
	my $before = errors('ERROR:');
	$d->sleeps('a dialer that finds a column gone turns in no circles');
	cmp_ok(errors('ERROR:') - $before, '<', 20, 'nor fills the log');
	$d->sql(q{ALTER TABLE kridtech.call_requests RENAME COLUMN importance TO priority});
	$d->becomes($d->queue('+4931360001'), 'placed', 'when it is back the dialer dials', 20);
}

# ---- a long queue of a paused account -----------------------------------------------------------------------

{
	my $rows = 100_000;
	$d->sql(q{SELECT kridtech_pause('long')});
	$d->sql("INSERT INTO kridtech.call_requests (account_id, to_number) SELECT 'long', '+49314' || lpad(i::text, 6, '0') FROM generate_series(1, $rows) AS i");
	$d->becomes($d->queue('+4931400001'), 'placed', "behind $rows requests of a paused account another one is placed");
	$d->sql_becomes(q{SELECT sum(n_tup_ins) >= 100000 FROM pg_stat_all_tables WHERE relname = 'call_requests'}, 't', 'statistics are in');
	my $before = entries_read();
	for my $i (1 .. 20)
	{
		my $id = $d->queue("+493141000$i");
		kt_wait(sub { $d->state($id) eq 'placed' }) or last;
	}
	is($d->sql(q{SELECT count(*) FROM kridtech.call_requests WHERE to_number LIKE '+493141000%' AND state = 'placed'}), 20, 'and so are those that come');
	$d->turns(3);
	my $read = entries_read() - $before;
	cmp_ok($read, '<', 8 * $rows, "without that queue being read for each ($read entries)");
	my $late = $d->sql(q{INSERT INTO kridtech.call_requests (id, to_number) VALUES (0, '+4931420001') RETURNING id});
	$d->becomes($late, 'placed', 'one that comes before them in the order is found too', 20);
	my $high = $d->queue('+4931420002', priority => 7);
	$d->becomes($high, 'placed', 'and one of a higher priority', 3);
	$d->sql(q{DELETE FROM kridtech.call_requests WHERE account_id = 'long' AND id % 1000 <> 0; SELECT kridtech_resume('long')});
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE account_id = 'long' AND state <> 'placed'}, 0, 'when the pause ends they are placed', 20);
}

# ---- many accounts ------------------------------------------------------------------------------------------

{
	my $n = 4000;
	$d->sql("INSERT INTO kridtech.accounts SELECT 'many ' || i FROM generate_series(1, $n) AS i");
	$d->sql("SELECT count(kridtech_queue_call('+493150' || lpad(i::text, 4, '0'), account_id => 'many ' || i)) FROM generate_series(1, $n) AS i");
	$d->sql_becomes(q{SELECT count(*) FROM kridtech.call_requests WHERE account_id LIKE 'many %' AND state = 'placed'}, $n, "calls of $n accounts are placed", 60);
	my $cpu = $d->cpu;
	my $end = $d->stat('loop_turns') + 6;
	kt_wait(sub { $d->stat('loop_turns') >= $end }, 20);
	cmp_ok($d->cpu - $cpu, '<', 0.5, 'which cost the idle dialer little afterwards: ' . ($d->cpu - $cpu) . ' s of CPU in some turns');
	$d->sql(q{DELETE FROM kridtech.accounts});
}

# ---- the same request once more, while it is in the air -----------------------------------------------------

{
	$d->scenario(toNumber => '+4931600001', fault => 'status', status => 429, retry_after => '1', latency => 3000, times => 1);
	$d->scenario(toNumber => '+4931600001', fault => 'latency', latency => 4000, times => 1);
	my $id = $d->queue('+4931600001', account_id => 'twice');
	kt_wait(sub { $d->k('+4931600001') == 1 });
	$d->sql("UPDATE kridtech.call_requests SET state = 'failed' WHERE id = $id; SELECT kridtech_resolve_call($id, 'redial')");
	$d->becomes($id, 'placed', 'a request that a human has redialled while it was in the air is placed', 20);
	my @attempts = $d->attempts($id);
	is(scalar @attempts, 2, 'by a second attempt');
	is($d->k('+4931600001'), 2, 'K = 2, by a recorded decision');
	is(join(' ', map { $_->{live} ? 1 : 0 } @attempts), '0 1', 'each attempt has its own result');
}

# ---- another base URL while a request is in the air ---------------------------------------------------------

{
	$d->scenario(toNumber => '+4931700001', fault => 'status', status => 404, latency => 2500, times => 1);
	my $id = $d->queue('+4931700001', account_id => 'moved');
	kt_wait(sub { $d->k('+4931700001') == 1 });
	$d->set('kridtech.base_url' => $d->url . '/');
	$d->becomes($id, 'failed', 'a request that was sent to the old base URL fails by a 404');
	$d->turns(3);
	is($d->causes('moved'), '', 'which does not pause the account at the new one');
	$d->becomes($d->queue('+4931700002', account_id => 'moved'), 'placed', 'its next request is placed');
	$d->reset('kridtech.base_url');
}

# ---- nothing left behind --------------------------------------------------------------------------------------

# The bytes that the dialer uses for its life, by what the server logs of its memory.
sub used
{
	my $before = () = $d->log =~ /kridtech dialer: \d+ total/g;
	$d->sql('SELECT pg_log_backend_memory_contexts(' . $d->dialer_pid . ')');
	my @found;
	kt_wait(sub { $d->sql('SELECT kridtech_wake()'); (@found = $d->log =~ /kridtech dialer: \d+ total.*?; (\d+) used/g) > $before });
	return $found[-1];
}

SKIP:
{
	skip 'PostgreSQL 13 does not log what memory a backend uses', 1 if $d->sql(q{SELECT current_setting('server_version_num')::int}) < 140000;
	my $used;
	kt_wait(sub { sleep 1; ($used = used()) < 800_000 }, 90);
	cmp_ok($used, '<', 800_000, 'a minute later the dialer has forgotten the accounts that nobody uses');
}
{
	my $before = errors('ERROR:');
	my $pid    = $d->dialer_pid;
	my %seen;
	$d->sql('DROP EXTENSION kridtech');
	kt_wait(sub { $seen{ $d->sql("SELECT state_change FROM pg_stat_activity WHERE pid = $pid") } = 1; keys %seen > 3 });
	my $cost = errors('ERROR:') - $before; # made again, it may be seen a moment before its tables are
	$d->sql('CREATE EXTENSION kridtech');
	$d->dials;
	cmp_ok($cost, '<=', 1, 'that the extension was dropped costs an idle dialer one error in the log at most');
}

# ---- more names than can be resolved ------------------------------------------------------------------------

{
	my $dir = tempdir(CLEANUP => 1);
	kt_run($ENV{CC} // 'cc', qw(-shared -fPIC -O1 -o), "$dir/slow_dns.so", "$ENV{KRIDTECH_SOURCE}/test/t/preload/slow_dns.c", '-ldl');
	local $ENV{LD_PRELOAD} = "$dir/slow_dns.so";
	# long enough for all to be begun before the first is given up
	my $s = Dialing->new('stuck', base_url => 'https://api.slow.invalid',
		conf => "kridtech.connect_timeout = '5s'\nkridtech.max_concurrent_requests = 400\n");
	$s->sql(q{SELECT count(kridtech_queue_call('+493180' || lpad(i::text, 4, '0'))) FROM generate_series(1, 400) AS i});
	$s->sql_becomes(q{SELECT count(DISTINCT request_id) FROM kridtech.call_attempts WHERE outcome = 'not sent'}, 400, 'no name is resolved', 20);
	my $id = $s->queue('+4931809999', account_id => 'another');
	$s->sql_becomes("SELECT count(*) > 0 FROM kridtech.call_attempts WHERE request_id = $id", 't', 'another request is tried meanwhile');
	$s->turns(100);
	cmp_ok($s->sql("SELECT count(*) FROM kridtech.call_attempts WHERE request_id = $id"), '<', 5, 'but not again and again while all resolvers are stuck');
	is($s->state($id), 'queued', 'it stays queued');
	$s->{node}->stop('immediate');
}

done_testing;
