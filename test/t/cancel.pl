# A statement that waits for the API ends promptly by cancel, statement_timeout and termination, whatever the
# network does, and nothing of its request is sent afterwards.
use strict;
use warnings;

use File::Temp qw(tempdir);
use Kridtech;
use Test::More;

my $dir      = tempdir(CLEANUP => 1);
my $dns_file = "$dir/dns";
my $compiler = $ENV{CC} // 'cc';
kt_run($compiler, qw(-shared -fPIC -O1 -o), "$dir/slow_dns.so", "$ENV{KRIDTECH_SOURCE}/test/t/preload/slow_dns.c", '-ldl');

my $sim  = kt_simulator('--listen', '127.0.0.1:0', '--listen', '127.0.0.1:0,tls-fault=stall');
my $hole = kt_blackhole();
my $node = kt_cluster('cancel', start => 0, conf => kt_api_settings($sim));
{
	local $ENV{LD_PRELOAD}  = "$dir/slow_dns.so";
	local $ENV{KT_SLOW_DNS} = $dns_file;
	$node->start;
}
kt_create_extension($node);

sub connected
{
	my ($pid, $port, $state) = @_;
	return scalar grep { $_->{port} == $port && $_->{state} eq $state } kt_sockets($pid);
}

sub requests
{
	my ($endpoint) = @_;
	my $counts = $sim->control('stats')->{requests}{$endpoint};
	return ref $counts ? eval { my $n = 0; $n += $_ for values %$counts; $n } : $counts // 0;
}

# What a statement waits for: where the API is (a base URL, or a fault of the simulator), how to see that a
# backend is there, and whether the request has left by then.
my @phases = (
	{
		name  => 'in DNS',
		url   => 'https://api.slow.invalid',
		there => sub { my ($pid, $before) = @_; return (-s $dns_file // 0) > $before },
		mark  => sub { return -s $dns_file // 0 },
		sent  => 0,
	},
	{
		name  => 'in TCP connect',
		url   => "http://127.0.0.1:$hole->{port}",
		there => sub { return connected($_[0], $hole->{port}, 'syn_sent') },
		sent  => 0,
	},
	{
		name  => 'in the TLS handshake',
		url   => 'https://127.0.0.1:' . $sim->port(1),
		there => sub { return connected($_[0], $sim->port(1), 'established') },
		sent  => 0,
	},
	{ name => 'waiting for the answer', fault => { fault => 'hang' },                              sent => 1 },
	{ name => 'in a dripping answer',   fault => { fault => 'drip', bytes => 1, ms => 1000 }, sent => 1 },
);
my $number = 49301000000;

for my $function ('kridtech_create_call', 'kridtech_calls')
{
	for my $phase (@phases)
	{
		for my $way ('pg_cancel_backend', 'statement_timeout', 'pg_terminate_backend')
		{
			ends_promptly($function, $phase, $way);
		}
	}
}

sub ends_promptly
{
	my ($function, $phase, $way) = @_;
	my $creates  = $function eq 'kridtech_create_call';
	my $endpoint = $creates ? 'create-call' : 'calls';
	my $to       = '+' . $number++;
	my $call     = $creates ? "SELECT * FROM kridtech_create_call('$to')" : 'SELECT count(*) FROM kridtech_calls()';
	my $what     = "$function $phase->{name}, $way";
	my $session  = kt_background($node);
	my $pid      = $session->pid;

	kt_configure($node, "kridtech.base_url = '" . ($phase->{url} // $sim->url) . q{'}, $session);
	$sim->control('scenarios', { %{ $phase->{fault} }, endpoint => $endpoint, times => 1 }) if $phase->{fault};
	my $requests = requests($endpoint);
	my $mark     = $phase->{mark} ? $phase->{mark}->() : 0;
	my $there    = $phase->{there} // sub { return requests($endpoint) > $requests };

	my $began;
	if ($way eq 'statement_timeout')
	{
		$session->query(q{SET statement_timeout = '400ms'});
		$began = $session->query(q{SELECT clock_timestamp() + interval '400 ms'});
		is($session->state($call), '57014', "$what: 57014");
		$session->query('RESET statement_timeout');
		ok($there->($pid, $mark) || !$phase->{sent}, "$what: it was there");
	}
	else
	{
		$session->send($call);
		ok(kt_wait(sub { $there->($pid, $mark) && kt_in_api_wait($node, $pid) }), "$what: it is there");
		$began = $node->safe_psql('postgres', "SELECT clock_timestamp() FROM $way($pid)");
		if ($way eq 'pg_cancel_backend')
		{
			is($session->state, '57014', "$what: 57014");
		}
		else
		{
			ok(!eval { $session->take; 1 }, "$what: the connection ends");
			ok(kt_wait(sub { !-d "/proc/$pid" }), "$what: the backend is gone");
		}
	}
	my $clock   = $way eq 'pg_terminate_backend' ? sub { $node->safe_psql('postgres', $_[0]) } : sub { $session->query($_[0]) };
	my $elapsed = $clock->("SELECT extract(epoch FROM clock_timestamp() - '$began')");
	note(sprintf '%s: %.0f ms', $what, $elapsed * 1000);
	cmp_ok($elapsed, '<', 2, "$what: within 2 s of a fault of 30 s");
	is(scalar(grep { $_->{port} == $sim->port(0) } kt_sockets($pid)), 0, "$what: its connection is closed")
	  if $phase->{sent} && $way ne 'pg_terminate_backend';

	kt_configure($node, "kridtech.base_url = '" . $sim->url . q{'}, $way eq 'pg_terminate_backend' ? () : $session);
	if ($way ne 'pg_terminate_backend')
	{
		my $next = '+' . $number++;
		is($session->state("SELECT * FROM kridtech_create_call('$next')"), '00000', "$what: the same backend can call next");
		is($sim->k($next), 1, "$what: which is sent once");
		is($session->pid, $pid, "$what: it is the same backend");
		$session->quit;
	}
	if ($creates)
	{
		is($sim->k($to), $phase->{sent}, "$what: K = $phase->{sent}");
		is($node->safe_psql('postgres', "SELECT count(*) FROM kridtech.call_requests WHERE to_number = '$to'"),
			0, "$what: no record remains");
	}
	return;
}

# -- the window between the answer and the record: the record is the transaction's, so a cancel there takes it
# back; the call was made, and only once; what the transaction did before stays.
{
	my ($before, $during) = ('+49302000001', '+49302000002');
	my $session = kt_background($node);
	$node->safe_psql('postgres', q{
		CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(30); RETURN NEW; END$$;
		CREATE TRIGGER dawdle BEFORE UPDATE ON kridtech.call_requests FOR EACH ROW
			WHEN (NEW.to_number = '+49302000002') EXECUTE FUNCTION dawdle()});
	is($session->state("BEGIN; SELECT kridtech_create_call('$before'); SAVEPOINT s"), '00000', 'a call before');
	$session->send("SELECT kridtech_create_call('$during')");
	my $pid = $session->{backend} // $node->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE query LIKE '%create_call(''+49302000002%' AND pid <> pg_backend_pid()});
	ok(kt_wait(sub {
			$node->safe_psql('postgres', "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq 'PgSleep'
		}), 'a call whose answer has come is being recorded');
	is($sim->k($during), 1, 'it was made');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	is($session->state, '57014', 'a cancel between answer and record ends the statement with 57014');
	is($session->state('ROLLBACK TO s; COMMIT'), '00000', 'the transaction can go on from its savepoint');
	is($node->safe_psql('postgres',
			"SELECT to_number, state FROM kridtech.call_requests WHERE to_number IN ('$before', '$during')"),
		"$before|placed", 'the record before survives, that of the cancelled call is rolled back');
	is($sim->k($_), 1, "$_ rings once") for $before, $during;
	is($session->state("SELECT kridtech_create_call('+49302000003')"), '00000', 'the same backend can call next');
	$session->quit;
}

$node->stop;
done_testing();
