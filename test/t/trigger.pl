# Rows that reach kridtech.call_requests by other ways than a client's statement: logical replication, a
# restored dump, a server without the library preloaded. No dialer runs here.
use strict;
use warnings;

use Kridtech;
use Test::More;

my $publisher = kt_cluster('publisher', init => [ allows_streaming => 'logical' ]);
my $node      = kt_cluster('subscriber', conf => 'max_logical_replication_workers = 4');

my $leads = 'CREATE TABLE leads (id int PRIMARY KEY, name text, phone text)';
kt_create_extension($publisher);
kt_create_extension($node);
$publisher->safe_psql('postgres', "$leads; CREATE PUBLICATION leads FOR TABLE leads");
$node->safe_psql(
	'postgres', "$leads;
	CREATE TRIGGER call AFTER INSERT OR UPDATE OF phone ON leads FOR EACH ROW EXECUTE FUNCTION kridtech_call_trigger('phone', 'name');
	ALTER TABLE leads ENABLE ALWAYS TRIGGER call");
$node->safe_psql('postgres',
	sprintf "CREATE SUBSCRIPTION leads CONNECTION '%s' PUBLICATION leads", $publisher->connstr . ' dbname=postgres');
$publisher->safe_psql('postgres', "INSERT INTO leads SELECT i, 'Ann', '+1415555' || 1000 + i FROM generate_series(1, 400) i");

sub requests
{
	my ($where) = @_;
	return $node->safe_psql('postgres', "SELECT count(*) FROM kridtech.call_requests WHERE $where");
}

ok(kt_wait(sub { requests("dynamic_variables = '{\"name\": \"Ann\"}' AND state = 'queued'") eq '400' }, 30),
	'replicated rows are queued by a trigger that is enabled always');
$publisher->safe_psql('postgres', "UPDATE leads SET phone = '+14155559999' WHERE id = 7");
ok(kt_wait(sub { requests("to_number = '+14155559999' AND reference = '7'") eq '1' }, 30), 'and so is a replicated UPDATE');

# The queue itself, replicated: its rows arrive in the state they have.
$node->safe_psql('postgres', 'DROP SUBSCRIPTION leads; TRUNCATE kridtech.call_requests');
$publisher->safe_psql('postgres', 'CREATE PUBLICATION requests FOR TABLE kridtech.call_requests');
$node->safe_psql('postgres',
	sprintf "CREATE SUBSCRIPTION requests CONNECTION '%s' PUBLICATION requests", $publisher->connstr . ' dbname=postgres');
$publisher->safe_psql('postgres',
	"INSERT INTO kridtech.call_requests (to_number, state, call_id, created_by) VALUES ('+14155550100', 'placed', 'replicated', 'somebody')");
ok(kt_wait(sub { requests("call_id = 'replicated' AND state = 'placed' AND created_by = 'somebody'") eq '1' }, 30),
	'a replicated request keeps its state');
$node->safe_psql('postgres', 'DROP SUBSCRIPTION requests');

# A dump: more rows than one transaction may queue, in every state, restored by a superuser.
$node->safe_psql(
	'postgres', "INSERT INTO kridtech.call_requests (to_number, state, attempts, not_before, created_by, created_at)
	SELECT '+14155550101', state, i % 3, CASE WHEN i % 2 = 0 THEN '2999-01-01'::timestamptz END, 'somebody', '2001-01-01' FROM generate_series(1, 3000) i,
	unnest(ARRAY['queued', 'placing', 'placed', 'failed', 'unknown', 'cancelled', 'expired']) state");
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'the database is dumped');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ], 'and restored');
my $digest = "SELECT count(*), md5(string_agg(r::text, '|' ORDER BY id)) FROM kridtech.call_requests r";
is($node->safe_psql('restored', $digest), $node->safe_psql('postgres', $digest), 'with every request as it was');

# Without preloading nothing could wake a dialer, but what needs none works.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;

sub state_of
{
	my ($sql) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	return $err =~ /ERROR: +(\w{5}): (.*)/s ? "$1 $2" : '00000';
}

like(state_of("SELECT kridtech_queue_call('+14155550100')"), qr/^55000 .*shared_preload_libraries/s,
	'queueing asks for the library to be preloaded');
like(state_of("INSERT INTO leads VALUES (1001, 'x', '+14155550100')"), qr/^55000 .*shared_preload_libraries/s, 'so does the trigger');
is(state_of($_), '00000', "but not: $_")
  for "INSERT INTO kridtech.call_requests (to_number) VALUES ('+14155550100')",
  'SELECT kridtech_cancel_call(max(id)) FROM kridtech.call_requests',
  'SELECT kridtech_pause()', 'SELECT kridtech_resume()';

done_testing();
