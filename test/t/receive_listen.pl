# Where a receiver must not listen: on a standby before its promotion, at an address that is taken, in pg_upgrade
# and single-user mode; several databases, and such in other encodings.
use strict;
use warnings;

use IO::Socket::INET;
use IPC::Run ();
use Kridtech;
use Receiving;
use Test::More;

sub refuses
{
	my ($port) = @_;
	return !IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp', Timeout => 5);
}

# ---- a standby ---------------------------------------------------------------------------------------------------

my $primary = kt_cluster('primary', init => [ allows_streaming => 1 ],
	conf => "kridtech.databases = 'postgres'\nkridtech.webhook_listen = '127.0.0.1:0'\nautovacuum = off\n");
kt_create_extension($primary);
$primary->backup('base');
my $standby = ref($primary)->can('get_new_node') ? ref($primary)->get_new_node('standby') : ref($primary)->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

sub log_of
{
	my ($node) = @_;
	open my $file, '<', $node->logfile or die $node->logfile . ": $!";
	local $/;
	return <$file>;
}

sub health
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{SELECT ok, detail FROM kridtech.health WHERE component = 'receiver'});
}

my ($port) = log_of($standby) =~ /kridtech: bound to 127\.0\.0\.1:(\d+)/;
ok($port, 'a standby binds its address');
ok(refuses($port), 'but refuses connections');
is(health($standby), '|this server is a standby: nothing is received before its promotion', 'and health says why');
$standby->promote;
ok(kt_wait(sub { !refuses($port) }), 'once it is promoted it accepts them');
my $r = bless { node => $standby, database => 'postgres', token => '' }, 'Receiving';
is($r->post($r->webhook('promoted')), 200, 'and receives');
is($r->deliveries('promoted'), 1, 'into its tables');

# ---- a taken address --------------------------------------------------------------------------------------------

$standby->append_conf('postgresql.conf', "kridtech.webhook_listen = '127.0.0.1:$port, 127.0.0.1:0'");
delete $r->{session};
my $taken = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0) or die $!;
my $busy = $taken->sockport;
$standby->append_conf('postgresql.conf', "kridtech.webhook_listen = '127.0.0.1:$busy, nonsense, 127.0.0.1:0, \"other\"\@[::1]:0'");
$standby->stop;
$standby->start;
like(log_of($standby), qr/WARNING:.*cannot receive webhooks at "127\.0\.0\.1:$busy": Address already in use/, 'an address that is taken is a warning, and the server starts');
like(log_of($standby), qr/WARNING:.*cannot receive webhooks at "nonsense": it has no port/, 'so is one that is none');
kt_wait(sub { health($standby) =~ /listening/ });
like(health($standby), qr/^f\|listening on 127\.0\.0\.1:\d+ without TLS; cannot receive at "127\.0\.0\.1:$busy": .*cannot receive at "nonsense"/,
	'health shows both, and where it listens all the same');
delete $r->{port};
($r->{port}) = health($standby) =~ /listening on 127\.0\.0\.1:(\d+)/;
is($r->post($r->webhook('beside')), 200, 'which works');
delete $r->{session};

# two servers that bound the same address while neither listened
$standby->append_conf('postgresql.conf', "kridtech.databases = ''\nkridtech.webhook_listen = '127.0.0.1:$port'");
$standby->stop;
$standby->start;
ok(refuses($port), 'without databases nothing listens');
$primary->append_conf('postgresql.conf', "kridtech.webhook_listen = '127.0.0.1:$port'");
$primary->stop;
$primary->start;
ok(kt_wait(sub { health($primary) =~ /^t/ }), 'a second server can have the address then');
$standby->append_conf('postgresql.conf', "kridtech.databases = 'postgres'");
$standby->reload;
ok(kt_wait(sub { health($standby) =~ /^f\|.*cannot listen on 127\.0\.0\.1:$port: Address already in use/ }), 'and the first says that it cannot listen');
$primary->stop;
ok(kt_wait(sub { health($standby) =~ /^t/ }), 'until the address is free');

# ---- modes without a receiver -----------------------------------------------------------------------------------

$standby->stop;
my ($out, $err);
IPC::Run::run([ 'postgres', '--single', '-D', $standby->data_dir, 'postgres' ], '<', \"SELECT 1\n", '>', \$out, '2>', \$err);
unlike("$out$err", qr/kridtech: bound to/, 'single-user mode binds nothing');

# ---- two databases ----------------------------------------------------------------------------------------------

my $two = Receiving->new('two', listen => 'second@127.0.0.1:0, 127.0.0.1:0', conf => "kridtech.databases = 'postgres, second'\n");
kt_create_extension($two->{node}, 'second');
my $second = bless { %$two, database => 'second', session => undef, port => undef }, 'Receiving';
ok($second->receives, 'another database has a receiver of its own');
isnt($second->port, $two->port, 'at its own address');
is($two->post($two->webhook('to_first')),     200, 'one receives');
is($second->post($second->webhook('to_second')), 200, 'and so does the other');
is($two->sql('SELECT string_agg(call_id, \' \') FROM kridtech.webhook_events'),    'to_first',  'each into its own');
is($second->sql('SELECT string_agg(call_id, \' \') FROM kridtech.webhook_events'), 'to_second', 'tables');

# ---- encodings -------------------------------------------------------------------------------------------------

for my $encoding (qw(LATIN1 SQL_ASCII))
{
	my $latin = Receiving->new(lc $encoding, database => 'latin', encoding => $encoding);
	is($latin->post($latin->webhook('call_latin', transcript => "Gr\x{fc}\x{df}e \x{20ac}\x{1f600} \x{0}")), 200, "a database in $encoding receives");
	is($latin->sql('SELECT count(*) FROM kridtech.webhook_events'), 1, 'and stores');
	is($latin->post("{\"callId\": \"M\xc3\xbcller \xe2\x82\xac\"}"), 200, 'also a callId beyond ASCII');
	is($latin->sql('SELECT count(*) FROM kridtech.webhook_events'), 2, 'as an event');
	is($latin->post("{\"callId\": \"M\xc3\xbcller \xe2\x82\xac\"}"), 200, 'and again');
	is($latin->sql('SELECT sum(deliveries), count(*) FROM kridtech.webhook_events'), '3|2', 'which is counted');
}
done_testing;
