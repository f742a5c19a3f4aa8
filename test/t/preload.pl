# Preloaded or not, the settings are those of postgresql.conf and nobody else's; a library and SQL objects of
# different versions say so.
use strict;
use warnings;

use File::Temp qw(tempdir);
use Kridtech;
use Test::More;

# No name resolves: should a setting be lost, the built-in kridtech.base_url must not be reached.
my $dir = tempdir(CLEANUP => 1);
kt_run($ENV{CC} // 'cc', qw(-shared -fPIC -O1 -o),
	"$dir/slow_dns.so", "$ENV{KRIDTECH_SOURCE}/test/t/preload/slow_dns.c", '-ldl');

my $sim  = kt_simulator();
my $evil = kt_simulator('--key', 'sim-key');
my $number = 49308000000;

my %node = (
	preloaded => kt_cluster('preloaded', start => 0, conf => kt_api_settings($sim)),
	plain     => kt_cluster('plain', start => 0, conf => kt_api_settings($sim), preload => 0));
{
	local $ENV{LD_PRELOAD} = "$dir/slow_dns.so";
	$_->start for values %node;
}

sub next_number
{
	return '+' . $number++;
}

sub arrived
{
	my ($to) = @_;
	return ($sim->k($to), $evil->k($to));
}

for my $name (sort keys %node)
{
	my $node = $node{$name};
	my $to   = next_number();

	is($node->safe_psql('postgres', 'SHOW shared_preload_libraries'), $name eq 'preloaded' ? 'kridtech' : '', "$name: as it says");
	kt_create_extension($node);
	my $session = kt_background($node);
	is($session->state("SELECT kridtech_create_call('$to')"), '00000', "$name: a call");
	is_deeply([ arrived($to) ], [ 1, 0 ], "$name: it rings once");
	is($session->state($_), '00000', "$name: $_")
	  for 'SELECT * FROM kridtech_create_web_call()', 'SELECT * FROM kridtech_calls()', 'SELECT kridtech_calls_total()',
	  q{SELECT kridtech_variables('[]')}, q{SELECT * FROM kridtech_transcript_turns('Agent: hi')};
	is($session->query("SELECT state FROM kridtech.call_requests WHERE to_number = '$to'"), 'placed', "$name: it is recorded");

	# -- nobody chooses for himself where the key goes
	$node->safe_psql('postgres', <<~'EOT');
		CREATE ROLE ordinary LOGIN;
		GRANT USAGE ON SCHEMA kridtech TO ordinary;
		GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO ordinary;
		CREATE ROLE owner LOGIN;
		CREATE DATABASE owned OWNER owner;
		EOT
	$node->safe_psql('owned', 'CREATE EXTENSION kridtech; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO owner');
	my @settings = (
		[ 'kridtech.base_url',        $evil->url ],
		[ 'kridtech.api_key_file',    '/etc/passwd' ],
		[ 'kridtech.ca_file',         '/etc/passwd' ],
		[ 'kridtech.account_id',      'mallory' ],
		[ 'kridtech.connect_timeout', '100ms' ],
		[ 'kridtech.request_timeout', '100ms' ]);
	for my $user ('ordinary', 'superuser')
	{
		my $own = kt_background($node, 'postgres', $user eq 'ordinary' ? (user => 'ordinary') : ());
		for my $setting (@settings)
		{
			# Without the library these make placeholders, which end when it is loaded.
			my $state = $own->state("SET $setting->[0] = '$setting->[1]'");
			like($state, $name eq 'preloaded' ? qr/^55P02$/ : qr/^00000$/, "$name: SET $setting->[0] by an $user, before the library is loaded");
		}
		my $victim = next_number();
		is($own->state("SELECT kridtech_create_call('$victim')"), '00000', "$name: then a call by the $user");
		is_deeply([ arrived($victim) ], [ 1, 0 ], "$name: goes where postgresql.conf says");
		is(($sim->ledger($victim))[0]{accountId}, 'acme', "$name: for the account it names");
		is($own->query("SHOW $_->[0]"), $node->safe_psql('postgres', "LOAD 'kridtech'; SHOW $_->[0]"), "$name: $_->[0] is postgresql.conf's for the $user") for @settings;
		like($own->state("SET $_->[0] = '$_->[1]'"), qr/^(?:55P02|42501)$/, "$name: SET $_->[0] by an $user, after it") for @settings;
		$own->quit;
	}
	for my $command ('ALTER DATABASE owned', 'ALTER ROLE owner', 'ALTER ROLE owner IN DATABASE owned')
	{
		# Who may do it without the library loaded differs by version; a superuser always may. The value is
		# refused when the library is loaded. It has taken the place of postgresql.conf's by then, so
		# the setting is at its default: nothing may be sent.
		for my $by ('owner', 'superuser')
		{
			for my $setting ([ 'kridtech.base_url', $evil->url, '22023' ], [ 'kridtech.api_key_file', '/etc/passwd', '28000' ])
			{
				my $own = kt_background($node, 'owned', $by eq 'owner' ? (user => 'owner') : ());
				my $set = $own->state("$command SET $setting->[0] = '$setting->[1]'");
				$own->quit;
				my $again  = kt_background($node, 'owned', user => 'owner');
				my $victim = next_number();
				my ($state, $k) = $set eq '00000' ? ($setting->[2], 0) : ('00000', 1);
				is($again->state("SELECT kridtech_create_call('$victim')"), $state, "$name: a call after $command SET $setting->[0] by $by ($set) ends with $state");
				is_deeply([ arrived($victim) ], [ $k, 0 ], "$name: and is sent nowhere but where postgresql.conf says");
				$again->quit;
				$node->psql('owned', "$command RESET $setting->[0]");
			}
		}
	}
	{
		local $ENV{PGOPTIONS} = '-c kridtech.base_url=' . $evil->url;
		my $victim = next_number();
		my ($rc, $out, $err) = $node->psql('postgres', "SELECT kridtech_create_call('$victim')");
		note("$name: PGOPTIONS: $rc $err");
		is((arrived($victim))[1], 0, "$name: PGOPTIONS does not lead the key elsewhere");
	}

	# -- a reload counts in a running backend
	my $moved = next_number();
	kt_configure($node, "kridtech.base_url = '" . $evil->url . "'\nkridtech.account_id = 'moved'", $session);
	is($session->state("SELECT kridtech_create_call('$moved')"), '00000', "$name: after a reload the same backend calls");
	is_deeply([ arrived($moved) ], [ 0, 1 ], "$name: where postgresql.conf says now");
	is(($evil->ledger($moved))[0]{accountId}, 'moved', "$name: for the account it names now");
	kt_configure($node, "kridtech.base_url = 'http://192.0.2.1'", $session);
	my $kept = next_number();
	is($session->state("SELECT kridtech_create_call('$kept')"), '00000', "$name: a base_url that is refused on reload leaves the one before");
	is_deeply([ arrived($kept) ], [ 0, 1 ], "$name: in force");
	kt_configure($node, "kridtech.base_url = '" . $sim->url . "'\nkridtech.account_id = 'acme'", $session);

	# -- versions
	my $version = $session->query(q{SELECT extversion FROM pg_extension WHERE extname = 'kridtech'});
	for my $other ('0.0.1', '99.0')
	{
		my $victim = next_number();
		$node->safe_psql('postgres', "UPDATE pg_extension SET extversion = '$other' WHERE extname = 'kridtech'");
		for my $sql ("SELECT kridtech_create_call('$victim')", 'SELECT kridtech_create_web_call()', 'SELECT kridtech_calls()',
			'SELECT kridtech_calls_total()')
		{
			is($session->state($sql), '55000', "$name: objects of version $other: $sql is refused");
			like($session->errors, qr/library is version \Q$version\E, .* are version \Q$other\E/, "$name: the message names both versions");
			like($session->errors, qr/HINT:.*ALTER EXTENSION kridtech UPDATE.*restart/, "$name: the hint names both ways out");
		}
		is_deeply([ arrived($victim) ], [ 0, 0 ], "$name: nothing is sent");
	}
	$node->safe_psql('postgres', "UPDATE pg_extension SET extversion = '$version' WHERE extname = 'kridtech'");
	is($session->state('SELECT kridtech_calls()'), '00000', "$name: the same backend works once the versions agree");
	$session->quit;
	$node->stop;
}

done_testing();
