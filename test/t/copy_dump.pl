# A dump with data in every table, restored into other clusters by pg_restore and from pg_dumpall: all of it is
# there, nothing of it is dialled before kridtech_adopt(), webhooks are received all the same.
use strict;
use warnings;

use Dialing;
use Everything;
use Kridtech;
use Receiving;
use Test::More;

my $sim    = kt_simulator('--listen', '127.0.0.1:0', '--die-with-parent', '--seed', '1', '--key', 'sim-key');
my $origin = kt_cluster('origin', conf => "autovacuum = off\n");
my $dir    = $origin->basedir;
kt_create_extension($origin, 'app');
everything_made($origin, 'app');
my %made = everything_in($origin, 'app');

kt_run('pg_dump', '-Fc', '-f', "$dir/app.dump", '-d', $origin->connstr('app'));
kt_run('pg_dumpall', '-f', "$dir/all.sql", '-d', $origin->connstr('postgres'));
is($origin->safe_psql('app', q{SELECT string_agg(c.oid::regclass::text, ' ') FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass
	AND d.objid = c.oid AND d.deptype = 'e' JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'kridtech'
	WHERE c.relkind IN ('r', 'S') AND NOT c.oid = ANY (e.extconfig)}), '', 'every table and sequence is registered for pg_dump');

# A cluster whose workers run while the dump comes in.
sub copy
{
	my ($name, @command) = @_;
	my $conf = kt_api_settings($sim);
	my $node = kt_cluster($name, conf => "${conf}autovacuum = off\nlog_statement = none\nkridtech.databases = 'app'\nkridtech.sync_interval = 0\n"
		. "kridtech.max_unknown = 0\nkridtech.webhook_listen = '127.0.0.1:0'\nkridtech.recordings = 'on'\n");
	my $d = bless { sim => $sim, node => $node, database => 'app', sessions => {}, http => HTTP::Tiny->new(timeout => 20) }, 'Dialing';
	return ($d, bless { node => $node, database => 'app', token => '' }, 'Receiving');
}

sub is_a_good_copy
{
	my ($d, $r, $name) = @_;
	my $health = '';
	kt_wait(sub { ($health = $d->health('dialer')) =~ /copy/ }, 30);
	is($health, 'f|paused: this database is a copy (another cluster); kridtech_adopt() lets it dial', "$name: the dialer is paused");
	everything_equal($d->{node}, 'app', \%made, "$name: every row of every table is there, untouched", 'identity');
	is($d->sql('SELECT count(*) FROM kridtech.identity'), 2, "$name: the origin's identity stands beside the new one");
	$d->turns(3);
	is($d->state($_), 'queued', "$name: request $_ waits") for 1, 2;
	my $before = $d->k($WAITING[0]);

	is($r->post($r->webhook("call_$name", transcript => 'Agent: hello')), 200, "$name: a webhook is received");
	is($r->deliveries("call_$name"), 1, "$name: and stored");
	is($r->post('{"callId": "call_4"}'), 200, "$name: so is one that contradicts an event of the origin");
	is($d->sql(q{SELECT deliveries FROM kridtech.webhook_inbox WHERE id = 2}), 2, "$name: it is the one that was kept there, once more");

	$d->sql('SELECT kridtech_adopt()');
	$d->becomes($_, 'placed', "$name: adopted, it dials request $_") for 1, 2;
	is($d->k($WAITING[0]) - $before, 1, "$name: once");
	$d->becomes(7, 'unknown', "$name: what was on the network is unknown");
	is($d->k($PLACING), 0, "$name: and not dialled");
	is($d->state(8), 'queued', "$name: what is paused stays so");
	is($r->post($r->webhook("late_$name", dynamicVariables => [ { variable => 'kridtech_ref', value => $PLACING_REF } ])), 200, "$name: its webhook comes after all");
	$d->becomes(7, 'placed', "$name: and resolves it");
	is($d->sql(q{SELECT call_id FROM kridtech.call_requests WHERE id = 7}), "late_$name", "$name: to its call");
	is($d->state(6), 'unknown', "$name: what nothing resolves stays unknown");
	is($d->queue('+4930070099'), 1001, "$name: the next request gets the next number");
	is($d->sql(q{SELECT sha256(kridtech_recording('call_4')) = sha256 FROM kridtech.recordings WHERE call_id = 'call_4'}), 't', "$name: a recording is whole");
	$d->sql(q{DELETE FROM kridtech.recordings WHERE call_id = 'call_4'});
	is($d->sql('SELECT count(*) FROM kridtech.recording_chunks'), 0, "$name: and goes as a whole");
	$d->forget_sessions;
	delete $r->{session};
	$d->{node}->stop('fast');
	return unlike($d->log, qr/TRAP|PANIC|was terminated by signal/, "$name: nothing crashed");
}

{
	my ($d, $r) = copy('restored');
	$d->{node}->safe_psql('postgres', 'CREATE DATABASE app');
	# as pg_restore -j may bring them: whatever belongs together in the order that suits least
	my @list  = split /\n/, kt_run('pg_restore', '-l', "$dir/app.dump");
	my @data  = grep { /TABLE DATA/ } @list;
	my @first = grep { /recording_chunks/ } @data;
	is(scalar @first, 1, 'the pieces of recordings are restored before the recordings');
	open my $file, '>', "$dir/list" or die $!;
	print $file map { "$_\n" } (grep { /EXTENSION/ } @list), @first, (reverse grep { !/recording_chunks/ } @data), grep { !/TABLE DATA|EXTENSION/ } @list;
	close $file or die $!;
	kt_run('pg_restore', '--exit-on-error', '-L', "$dir/list", '-d', $d->{node}->connstr('app'), "$dir/app.dump");
	is_a_good_copy($d, $r, 'restored');
}
{
	my ($d, $r) = copy('dumpall');
	# the role that runs it is there already, as is postgres
	IPC::Run::run([ 'psql', '-Xq', '-f', "$dir/all.sql", '-d', $d->{node}->connstr('postgres') ], '<', \undef, '>', \my $out, '2>', \my $err);
	is(join('', grep { !/role "\w+" already exists/ } $err =~ /^.*ERROR.*$/mg), '', 'pg_dumpall: its script runs');
	is_a_good_copy($d, $r, 'dumpall');
}
$origin->stop;
done_testing;
