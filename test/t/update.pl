# ALTER EXTENSION UPDATE from every released version, with data in every table and the workers running: afterwards
# the objects are those of a fresh CREATE EXTENSION, and the data are what they were. Old objects under the new
# library stop the workers, with clear words, and do not end them.
#
# Until there is a release, an imagined one shows that the test can tell.
use strict;
use warnings;

use Copying;
use Everything;
use Kridtech;
use PostgreSQL::Test::Utils qw(slurp_file append_to_file);
use Test::More;

my $source = $ENV{KRIDTECH_SOURCE};
my $inst   = $ENV{KRIDTECH_INST};
my ($present) = slurp_file("$source/kridtech.control") =~ /^default_version = '(.*)'/m;
my $script = slurp_file("$source/sql/kridtech.sql");

# ---- the released versions -----------------------------------------------------------------------------------------

my @released = reverse slurp_file("$source/CHANGELOG.md") =~ /^## \[?(\d+\.\d+\.\d+)/mg;
my @frozen = map { m{kridtech--(\d+\.\d+\.\d+)\.sql$} } glob "$source/test/released/kridtech--*.sql";
is(join(' ', sort @frozen), join(' ', sort @released), 'each released version of CHANGELOG.md has its script in test/released');
my ($meta) = slurp_file("$source/META.json") =~ /"version": "(.*?)"/;
is($meta, $present, 'META.json and kridtech.control name the same version');
is($script, slurp_file("$source/test/released/kridtech--$present.sql"), 'what has been released is not changed under its version')
  if grep { $_ eq $present } @frozen;
@released = grep { $_ ne $present } @released;
note('no version has been released yet: ALTER EXTENSION UPDATE is tested from an imagined one only') if !@frozen;

# ---- a place to install other versions ------------------------------------------------------------------------------

my $place = PostgreSQL::Test::Utils::tempdir();
chomp(my ($share, $lib) = (qx{pg_config --sharedir}, qx{pg_config --pkglibdir}));
for ([ "$share/extension", 'kridtech*' ], [ $lib, 'kridtech.so' ])
{
	my ($dir, $files) = @$_;
	kt_run('mkdir', '-p', "$place$dir");
	kt_run('cp', glob("$inst$dir/$files"), "$place$dir");
}
kt_run('chmod', '-R', 'u+w', $place);

# Another version's script; update is the delta to the present one.
sub offer
{
	my ($version, $sql, $update) = @_;
	append_to_file("$place$share/extension/kridtech--$version.sql", $sql);
	append_to_file("$place$share/extension/kridtech--$version--$present.sql", $update) if defined $update;
	return;
}

# An imagined release: without a column, an index and a grant of today.
my $column = qr/,\n\tremote_addr       inet(?=\n\);)/;
my $index  = qr/CREATE INDEX webhook_inbox_bad_idx .*?;\n/s;
my @words  = (qr/COMMENT ON COLUMN kridtech\.webhook_events\.remote_addr IS .*?;\n/, qr/COMMENT ON INDEX kridtech\.webhook_inbox_bad_idx IS .*?;\n/);
my $imagined = $script;
my $update   = "\\echo Use \"ALTER EXTENSION kridtech UPDATE\" to load this file. \\quit\nALTER TABLE kridtech.webhook_events ADD COLUMN remote_addr inet;\n";
$imagined =~ s/$column// or die 'the script has no such column';
for my $part ($index, @words)
{
	$imagined =~ s/($part)// or die "the script has no $part";
	$update .= $1;
}
$imagined .= "GRANT EXECUTE ON FUNCTION kridtech_variables(jsonb) TO PUBLIC;\n";
$update .= "REVOKE EXECUTE ON FUNCTION kridtech_variables(jsonb) FROM PUBLIC;\n";
offer('0.0.1', $imagined, $update);
# and three of whose updates forget one thing each
my %forgetful = (
	'0.0.2' => [ 'a comment',  $update =~ s/$words[0]//r ],
	'0.0.3' => [ 'an index',   $update =~ s/$index//r =~ s/$words[1]//r ],
	'0.0.4' => [ 'a privilege', $update =~ s/REVOKE.*//r ]);
offer($_, $imagined, $forgetful{$_}[1]) for sort keys %forgetful;
offer($_, slurp_file("$source/test/released/kridtech--$_.sql")) for @released;

my $sim = kt_simulator('--listen', '127.0.0.1:0', '--die-with-parent', '--seed', '1', '--key', 'sim-key');
my $node;
{
	local $ENV{KRIDTECH_SETTINGS} = $ENV{KRIDTECH_SETTINGS} =~ s/\Q$inst\E/$place/gr;
	$node = kt_cluster('versions', conf => copying_conf($sim) . "kridtech.databases = ''\n");
}

# ---- what an extension consists of ----------------------------------------------------------------------------------

my $objects = <<'SQL';
WITH member AS (SELECT d.classid, d.objid FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
	WHERE d.deptype = 'e' AND e.extname = 'kridtech'),
relation AS (SELECT c.* FROM pg_class AS c JOIN member AS m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid),
function AS (SELECT p.* FROM pg_proc AS p JOIN member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid)
SELECT 'member ' || pg_describe_object(classid, objid, 0) || coalesce(': ' || obj_description(objid, classid::regclass::text::name), '') FROM member
UNION ALL SELECT 'schema ' || nspname || ' ' || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname = 'kridtech'
UNION ALL SELECT format('relation %s %s %s %s %s', oid::regclass, relkind, relreplident, reloptions, relacl) FROM relation
UNION ALL SELECT format('column %s.%s %s %s %s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull, attstorage, attacl,
	pg_get_expr(adbin, adrelid), col_description(attrelid, attnum))
	FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid IN (SELECT oid FROM relation) AND attnum > 0 AND NOT attisdropped
UNION ALL SELECT format('constraint %s %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint')) FROM pg_constraint WHERE conrelid IN (SELECT oid FROM relation)
UNION ALL SELECT format('index %s %s', pg_get_indexdef(indexrelid), obj_description(indexrelid, 'pg_class')) FROM pg_index WHERE indrelid IN (SELECT oid FROM relation)
UNION ALL SELECT format('trigger %s %s %s', pg_get_triggerdef(oid), tgenabled, obj_description(oid, 'pg_trigger')) FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM relation) AND NOT tgisinternal
UNION ALL SELECT format('key of %s by %s %s', tgrelid::regclass, tgfoid::regproc, tgenabled) FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM relation) AND tgisinternal
UNION ALL SELECT format('view %s %s', oid::regclass, pg_get_viewdef(oid)) FROM relation WHERE relkind = 'v'
UNION ALL SELECT format('sequence %s %s %s %s', seqrelid::regclass, seqtypid::regtype, seqincrement, seqcache) FROM pg_sequence WHERE seqrelid IN (SELECT oid FROM relation)
UNION ALL SELECT format('function %s %s', pg_get_functiondef(oid), proacl) FROM function
UNION ALL SELECT 'dumped ' || c::regclass || coalesce(' where ' || nullif(w, ''), '') FROM pg_extension, unnest(extconfig, extcondition) AS u (c, w) WHERE extname = 'kridtech'
UNION ALL SELECT 'version ' || extversion FROM pg_extension WHERE extname = 'kridtech'
ORDER BY 1
SQL

sub objects_of
{
	my ($database) = @_;
	return $node->safe_psql($database, $objects);
}

# Lines that only one of two has.
sub difference
{
	my ($got, $expected) = map { my %lines = map { $_ => 1 } split /\n/; \%lines } @_;
	return join "\n", (map { "- $_" } grep { !$got->{$_} } sort keys %$expected), map { "+ $_" } grep { !$expected->{$_} } sort keys %$got;
}

kt_create_extension($node, 'fresh');
everything_made($node, 'fresh');
my $fresh = objects_of('fresh');
like($fresh, qr/$_/, "the comparison sees $_") for 'view kridtech.call_history', 'column kridtech.calls.cost numeric', 'dumped kridtech.recordings', 'kridtech_create_call=?';
my %columns = map { $_ => columns_of($_, 'fresh') } everything_tables($node, 'fresh');

sub columns_of
{
	my ($table, $database) = @_;
	return { map { $_ => 1 } split /\n/, $node->safe_psql($database, "SELECT attname FROM pg_attribute WHERE attrelid = 'kridtech.$table'::regclass AND attnum > 0 AND NOT attisdropped") };
}

# The columns that both have, from one database to the other, past every trigger.
sub fill
{
	my ($database) = @_;
	my %common;
	for my $table (sort { ($a =~ /chunks/) <=> ($b =~ /chunks/) } grep { $_ ne 'identity' } everything_tables($node, $database))
	{
		my $here = columns_of($table, $database);
		my $list = $common{$table} = join ', ', grep { $columns{$table}{$_} } sort keys %$here;
		my $file = "$place/$table.$database";
		$node->safe_psql('fresh', "COPY (SELECT $list FROM kridtech.$table) TO '$file'");
		$node->safe_psql($database, "SET session_replication_role = replica; COPY kridtech.$table ($list) FROM '$file'");
	}
	for my $sequence (split /\n/, $node->safe_psql($database, q{SELECT c::regclass FROM pg_extension, unnest(extconfig) AS c WHERE extname = 'kridtech' AND (SELECT relkind FROM pg_class WHERE oid = c) = 'S'}))
	{
		$node->safe_psql($database, "SELECT setval('$sequence', 5000)");
	}
	return \%common;
}

sub digests
{
	my ($database, $common) = @_;
	return { map { $_ => $node->safe_psql($database, qq{SELECT count(*), md5(string_agg(ROW($common->{$_})::text, '|' ORDER BY ROW($common->{$_})::text COLLATE "C")) FROM kridtech.$_}) } keys %$common };
}

# ---- one update -----------------------------------------------------------------------------------------------------

# Makes a database of a version, with data; the columns that it has.
sub install
{
	my ($version, $database) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, "CREATE EXTENSION kridtech VERSION '$version'");
	return fill($database);
}

sub updates
{
	my ($version, $database) = @_;
	my $name     = "from $version";
	my $common   = install($version, $database);
	my $before   = digests($database, $common);
	isnt(difference(objects_of($database), $fresh), '', "$name: the objects were others") if $version eq '0.0.1';
	my ($d, $r) = copying_both($sim, $node, $database);
	$node->append_conf('postgresql.conf', "kridtech.databases = '$database'");
	$node->reload;
	my $words = "the library is version $present, the extension's objects are version $version";
	for my $component ('dialer', 'receiver')
	{
		my $health = '';
		kt_wait(sub { ($health = $d->health($component)) =~ /library is version/ }, 20);
		like($health, qr/^f\|.*\Q$words\E$/, "$name: under the present library the $component says so");
	}
	my $workers = q{SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE backend_type LIKE 'kridtech %'};
	is($d->health($_), "f|$words", "$name: and so does health of the $_") for 'queue', 'credentials';
	my $pids = $d->sql($workers);
	like($d->sql_error(q{SELECT kridtech_queue_call('+4930080001')}), qr/ERROR:  55000: .*\nHINT:  .*ALTER EXTENSION kridtech UPDATE/, "$name: and so do the functions");
	is_deeply(digests($database, $common), $before, "$name: nothing is touched");
	my $k = $sim->k($WAITING[0]);
	($r->{port}) = $d->health('receiver') =~ /^f\|listening on 127\.0\.0\.1:(\d+)/;
	my $early = $r->send($r->webhook("early_$database"));
	$d->sql('ALTER EXTENSION kridtech UPDATE');
	is(difference(objects_of($database), $fresh), '', "$name: updated, the objects are those of a fresh installation");
	is($r->answer($early), 200, "$name: a webhook that came before it has waited for it");
	is($r->deliveries("early_$database"), 1, "$name: and is stored");
	$d->becomes($_, 'queued', "$name: request $_ of before the extension waits") for 1;
	$d->sql('SELECT kridtech_adopt()');
	$d->becomes($_, 'placed', "$name: adopted, it is dialled") for 1, 2;
	is($sim->k($WAITING[0]) - $k, 1, "$name: once");
	is($r->post($r->webhook("call_$database")), 200, "$name: the receiver receives");
	is($d->sql($workers), $pids, "$name: by the same workers");
	$d->sql(q{UPDATE pg_extension SET extversion = '99.0' WHERE extname = 'kridtech'});
	kt_wait(sub { $d->health('dialer') =~ /version 99/ && $d->health('receiver') =~ /version 99/ }, 20);
	like($d->health($_), qr/^f\|.*the library is version \Q$present\E, the extension's objects are version 99\.0(?:; last webhook .*)?$/, "$name: objects of a version yet to come stop the $_") for 'dialer', 'receiver';
	$d->sql("UPDATE pg_extension SET extversion = '$present' WHERE extname = 'kridtech'");
	ok($d->dials && $r->receives, "$name: until the versions agree again");
	is($d->sql($workers), $pids, "$name: the workers are still the same");
	my %same = map { $_ => 1 } keys %$common;
	delete @same{qw(call_requests call_attempts webhook_events pauses)};
	my $after = digests($database, { map { $_ => $common->{$_} } keys %same });
	is_deeply($after, { map { $_ => $before->{$_} } keys %same }, "$name: the data are what they were");
	is($d->sql(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id IN ('call_4', 'call_11', 'call_in', 'call_alien')}), 4, "$name: the events too");
	$d->forget_sessions;
	delete $r->{session};
	return;
}

updates('0.0.1', 'imagined');
for my $version (sort keys %forgetful)
{
	my $database = 'forgets_' . substr $version, -1;
	install($version, $database);
	$node->safe_psql($database, 'ALTER EXTENSION kridtech UPDATE');
	isnt(difference(objects_of($database), $fresh), '', "an update that forgets $forgetful{$version}[0] is found out");
}
SKIP:
{
	skip 'no version has been released yet', 1 if !@released;
	updates($_, 'from_' . tr/./_/r) for @released;
}
$node->stop;
open my $log, '<', $node->logfile or die $!;
unlike(join('', <$log>), qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
