# What the crash tests share: a server that is this process's own child and can be killed as a whole, the
# fault points of src/fault.h, and the simulator's ledger as the oracle of what was really sent.
package KridtechCrash;

use strict;
use warnings;

use Exporter 'import';
use HTTP::Tiny ();
use JSON::PP   ();
use Kridtech;
use POSIX ();
use Time::HiRes qw(time);

our @EXPORT = qw(server_conf server_start server_wait server_stop server_kill server_pid children alive dialer_pid
  dialer_alone hasten log_end log_since fault_arm fault_disarm fault_reached fault_armed sim_get sim_post sim_delete
  ledger k_of sql);

# ---- the server -------------------------------------------------------------------------------------------

# Ours by data directory. A child of this process: a zombie's lock file would block the next start, and
# only the parent can bury it.
my %postmaster;

# The configuration all crash tests have in common.
sub server_conf
{
	my ($sim, %more) = @_;
	my %conf = (
		'restart_after_crash'               => 'on',
		'max_prepared_transactions'         => 20,
		'kridtech.base_url'                 => "'http://127.0.0.1:$sim->{ready}{listeners}[0]{port}'",
		'kridtech.api_key_file'             => "'" . kt_key_file("sim-key\n") . "'",
		'kridtech.account_id'               => "'acct-1'",
		'kridtech.databases'                => "'postgres'",
		'kridtech.max_unknown'              => 0,
		%more);
	return join '', map { "$_ = $conf{$_}\n" } sort keys %conf;
}

sub server_start
{
	my ($node) = @_;
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN,  '<',  '/dev/null';
		open STDOUT, '>>', $node->logfile;
		open STDERR, '>&', \*STDOUT;
		exec 'postgres', '-D', $node->data_dir or POSIX::_exit(127);
	}
	$postmaster{ $node->data_dir } = $pid;
	server_wait($node) or die 'the server does not start: ' . substr(log_since($node, 0), -2000);
	return;
}

sub server_pid
{
	my ($node) = @_;
	return $postmaster{ $node->data_dir };
}

# Waits until statements are answered (again).
sub server_wait
{
	my ($node) = @_;
	return kt_wait(sub { defined sql($node, 'SELECT 1') }, 60);
}

# A shutdown by its signal: TERM smart, INT fast, QUIT immediate. Returns the seconds it took, at most 30.
sub server_stop
{
	my ($node, $signal) = @_;
	my $pid   = server_pid($node) // return 0;
	my $start = time;
	kill $signal // 'INT', $pid;
	kt_wait(sub { waitpid($pid, POSIX::WNOHANG()) == $pid }, 30) or return 30;
	delete $postmaster{ $node->data_dir };
	return time - $start;
}

# kill -9: the postmaster alone, or with all => 1 everything.
sub server_kill
{
	my ($node, %option) = @_;
	my $pid      = delete $postmaster{ $node->data_dir };
	my @children = stopped_children($pid);
	kill KILL => $pid, $option{all} ? @children : ();
	waitpid $pid, 0;
	# The new postmaster refuses to start while one of the old children lives.
	kt_wait(sub { !grep { alive($_) } @children }, 30) or die 'processes outlive their postmaster' if $option{all};
	return @children;
}

END
{
	local $?;
	for my $pid (values %postmaster)
	{
		my @children = stopped_children($pid);
		kill KILL => $pid, @children;
		waitpid $pid, 0;
	}
}

# Fields of /proc/PID/stat after the name: state, parent, ...
sub stat_of
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/stat" or return;
	my $line = <$file> // return;
	return split ' ', $line =~ s/.*\) //r;
}

sub children
{
	my ($parent) = @_;
	my @found;
	opendir my $proc, '/proc' or die "/proc: $!";
	for my $pid (grep { /^\d+$/ } readdir $proc)
	{
		my (undef, $of) = stat_of($pid) or next;
		push @found, $pid if $of == $parent;
	}
	return @found;
}

# The children of a postmaster that is stopped first: it must not make another one meanwhile.
sub stopped_children
{
	my ($pid) = @_;
	kill STOP => $pid;
	kt_wait(sub { ((stat_of($pid))[0] // 'T') =~ /[TZ]/ }, 10) or die 'the postmaster does not stop';
	return children($pid);
}

# A zombie has ended.
sub alive
{
	my ($pid) = @_;
	my ($state) = stat_of($pid) or return 0;
	return $state ne 'Z';
}

# Output of a statement; undef when it failed, as it may while the server recovers (and psql may be gone
# before it has read the statement, which dies of a broken pipe).
sub sql
{
	my ($node, $statement, $database) = @_;
	my ($status, $out) = eval { $node->psql($database // 'postgres', $statement) };
	return defined $status && $status == 0 ? $out : undef;
}

# A dialer that was ended on purpose comes back at once, not after the launcher's back-off.
sub hasten
{
	my ($node, $pid) = @_;
	kt_wait(sub { !alive($pid) }, 30);
	return sql($node, 'SELECT kridtech_restart_workers()');
}

sub dialer_pid
{
	my ($node, $database) = @_;
	$database //= 'postgres';
	return sql($node,
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'kridtech dialer' AND datname = '$database'") // '';
}

# What the dialer holds beside its advisory lock; '' is right for one that waits for the network.
sub dialer_alone
{
	my ($node, $pid) = @_;
	return $node->safe_psql(
		'postgres', qq{
		SELECT 'transaction' FROM pg_stat_activity
		 WHERE pid = $pid AND (xact_start IS NOT NULL OR backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
		UNION ALL SELECT locktype || ' ' || mode FROM pg_locks WHERE pid = $pid AND locktype <> 'advisory'});
}

sub log_end
{
	my ($node) = @_;
	return -s $node->logfile // 0;
}

sub log_since
{
	my ($node, $offset) = @_;
	open my $file, '<', $node->logfile or return '';
	seek $file, $offset // 0, 0;
	local $/;
	return <$file> // '';
}

# ---- fault points -----------------------------------------------------------------------------------------

sub fault_path
{
	my ($node, $point) = @_;
	return $node->data_dir . "/kridtech_faults/$point";
}

sub fault_arm
{
	my ($node, $point, $order) = @_;
	my $path = fault_path($node, $point);
	mkdir $node->data_dir . '/kridtech_faults', 0700;
	unlink "$path.reached";
	open my $file, '>', "$path.new" or die "$path: $!";
	print $file $order;
	close $file or die "$path: $!";
	rename "$path.new", $path or die "$path: $!";
	return;
}

# Whoever is paused there goes on.
sub fault_disarm
{
	my ($node, $point) = @_;
	unlink fault_path($node, $point);
	return;
}

sub fault_armed
{
	my ($node, $point) = @_;
	return -e fault_path($node, $point);
}

sub fault_reached
{
	my ($node, $point) = @_;
	return -e fault_path($node, $point) . '.reached';
}

# ---- the simulator ----------------------------------------------------------------------------------------

my $http = HTTP::Tiny->new(timeout => 30);

sub sim_url
{
	my ($sim, $path) = @_;
	return "http://127.0.0.1:$sim->{ready}{listeners}[0]{port}/sim/$path";
}

sub answer
{
	my ($response, $url) = @_;
	$response->{success} or die "$url: $response->{status} $response->{content}";
	return length $response->{content} ? JSON::PP->new->utf8->allow_nonref->decode($response->{content}) : undef;
}

sub sim_get
{
	my ($sim, $path) = @_;
	return answer($http->get(sim_url($sim, $path)), $path);
}

sub sim_post
{
	my ($sim, $path, $content) = @_;
	my $body = defined $content ? JSON::PP::encode_json($content) : '';
	return answer($http->post(sim_url($sim, $path), { content => $body }), $path);
}

sub sim_delete
{
	my ($sim, $path) = @_;
	return answer($http->delete(sim_url($sim, $path)), $path);
}

# The entries of create-calls that arrived whole, for a number or after an entry's seq.
sub ledger
{
	my ($sim, $query) = @_;
	return grep { $_->{endpoint} eq 'create-call' && $_->{whole} } @{ sim_get($sim, "ledger?$query") };
}

# K of a number: create-calls that really arrived.
sub k_of
{
	my ($sim, $number) = @_;
	return sim_get($sim, 'k?toNumber=' . $number =~ s/\+/%2B/r)->{k};
}

1;
