# What the TAP tests share: a cluster that finds the extension, a simulator of the Kridtech API, key
# files, a psql in the background. Works with the test modules of PostgreSQL 13 to 18.
#
# The environment comes from test/run: KRIDTECH_SETTINGS (lines of postgresql.conf), KRIDTECH_SIMULATOR.
package Kridtech;

use strict;
use warnings;

use Exporter 'import';
use File::Temp ();
use HTTP::Tiny ();
use IPC::Run   ();
use JSON::PP   ();
use Socket;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(kt_cluster kt_create_extension kt_simulator kt_key_file kt_wait kt_becomes kt_background
  kt_api_settings kt_configure kt_sockets kt_blackhole kt_in_api_wait kt_run);

# PostgreSQL 15 renamed the modules; later minor releases of 13 and 14 have both names.
my $cluster_class;

BEGIN
{
	if (eval { require PostgreSQL::Test::Cluster; require PostgreSQL::Test::Utils; 1 })
	{
		$cluster_class = 'PostgreSQL::Test::Cluster';
	}
	else
	{
		require PostgresNode;
		require TestLib;
		$cluster_class = 'PostgresNode';
	}
}

# A running cluster with the library preloaded. Options: conf (text for postgresql.conf), preload => 0,
# start => 0, init (list for initdb and friends).
sub kt_cluster
{
	my ($name, %option) = @_;
	my $node =
	  $cluster_class->can('get_new_node')
	  ? $cluster_class->get_new_node($name)
	  : $cluster_class->new($name);
	$node->init(@{ $option{init} // [] });
	$node->append_conf('postgresql.conf', $ENV{KRIDTECH_SETTINGS} // '');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'kridtech'")
	  if $option{preload} // 1;
	$node->append_conf('postgresql.conf', $option{conf}) if defined $option{conf};
	$node->start if $option{start} // 1;
	return $node;
}

# CREATE EXTENSION in a database, made first unless it is there; its name is returned.
sub kt_create_extension
{
	my ($node, $database) = @_;
	$database //= 'postgres';
	$node->safe_psql('postgres', "CREATE DATABASE $database") if $database ne 'postgres';
	$node->safe_psql($database, 'CREATE EXTENSION kridtech');
	return $database;
}

# A file with a secret, 0600 unless told. It lives as long as the test.
my @key_dirs;

sub kt_key_file
{
	my ($content, $mode) = @_;
	my $dir = File::Temp->newdir('kridtech-key-XXXXXX', TMPDIR => 1);
	push @key_dirs, $dir;
	my $path = "$dir/key";
	open my $file, '>', $path or die "$path: $!";
	print $file $content;
	close $file or die "$path: $!";
	chmod $mode // 0600, $path or die "$path: $!";
	return $path;
}

# Lines of postgresql.conf that lead to a simulator (or a URL) with a key.
sub kt_api_settings
{
	my ($api, $key) = @_;
	my $url  = ref $api ? $api->url : $api;
	my $file = kt_key_file($key // 'sim-key');
	return "kridtech.base_url = '$url'\nkridtech.api_key_file = '$file'\nkridtech.account_id = 'acme'\n";
}

# Adds lines to postgresql.conf, reloads, and returns when new sessions and the given ones have read them.
my $generation = 0;

sub kt_configure
{
	my ($node, $conf, @sessions) = @_;
	my $show = "SELECT current_setting('kt_test.generation', true)";
	$generation++;
	$node->append_conf('postgresql.conf', "$conf\nkt_test.generation = $generation");
	$node->reload;
	for my $read (sub { $node->safe_psql('postgres', $show) }, map { my $s = $_; sub { $s->query($show) } } @sessions)
	{
		kt_wait(sub { $read->() eq $generation }) or die "the configuration is not read: $conf";
	}
	return;
}

# The TCP sockets of a process (of our own user), as a list of { port, state }: the peer's port, and the
# state as in /proc/net/tcp.
sub kt_sockets
{
	my ($pid) = @_;
	my %mine;
	for my $fd (glob "/proc/$pid/fd/*")
	{
		$mine{$1} = 1 if (readlink($fd) // '') =~ /^socket:\[(\d+)\]/;
	}
	open my $tcp, '<', '/proc/net/tcp' or die "/proc/net/tcp: $!";
	my %state = ('01' => 'established', '02' => 'syn_sent');
	my @found;
	while (<$tcp>)
	{
		my @field = split;
		next if $field[0] eq 'sl' || !$mine{ $field[9] };
		push @found, { port => hex((split /:/, $field[2])[1]), state => $state{ $field[3] } // $field[3] };
	}
	return @found;
}

# A port that drops every SYN: its queue is full. Lives as long as the object.
sub kt_blackhole
{
	my ($port, @sockets);
	socket my $listener, PF_INET, SOCK_STREAM, 0 or die "socket: $!";
	bind $listener, pack_sockaddr_in(0, INADDR_LOOPBACK) or die "bind: $!";
	listen $listener, 0 or die "listen: $!";
	($port) = unpack_sockaddr_in(getsockname $listener);
	for (1 .. 4)
	{
		require IO::Socket::INET;
		push @sockets,
		  IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp', Blocking => 0);
	}
	return { port => $port, sockets => [ $listener, @sockets ] };
}

# Whether a backend waits in the extension's own wait.
sub kt_in_api_wait
{
	my ($node, $pid) = @_;
	return $node->safe_psql('postgres',
		"SELECT state = 'active' AND wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid") eq 't';
}

# Runs a program, silently unless it fails; its output is returned.
sub kt_run
{
	my (@command) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err) or die "@command: $err$out";
	return $out;
}

# Waits until a piece of code returns true; false after so many seconds (10), or more under valgrind.
sub kt_wait
{
	my ($code, $seconds) = @_;
	my $end = time + ($seconds // 10) * ($ENV{VALGRIND} ? 5 : 1);
	while (1)
	{
		my $result = $code->();
		return $result if $result;
		return 0 if time > $end;
		sleep 0.02;
	}
}

# A test: a piece of code comes to return this.
sub kt_becomes
{
	my ($code, $expected, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $got;
	kt_wait(sub { ($got = $code->()) eq $expected }, $seconds);
	return is($got, $expected, $name);
}

# Starts a simulator; arguments go to it. Its ready line's members are at $sim->{ready}.
sub kt_simulator
{
	return Kridtech::Simulator->new(@_);
}

# A psql that stays: ->query waits for the answer, ->send does not, ->take collects what ->send began.
sub kt_background
{
	return Kridtech::Background->new(@_);
}

package Kridtech::Simulator;

use strict;
use warnings;
use POSIX ();
use Time::HiRes qw(sleep time);

my %running;

sub new
{
	my ($class, @args) = @_;
	my $program = $ENV{KRIDTECH_SIMULATOR} // die 'KRIDTECH_SIMULATOR is not set';
	my $errors  = File::Temp->new;
	pipe my $reader, my $writer or die "pipe: $!";
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN,  '<', '/dev/null';
		open STDOUT, '>&', $writer;
		open STDERR, '>&', $errors;
		close $reader;
		exec { $program } $program, @args or POSIX::_exit(127);
	}
	close $writer;
	my $self = bless { pid => $pid, out => $reader, errors => $errors }, $class;
	$running{$pid} = 1;
	my $line = $self->_line(10);
	if (!defined $line)
	{
		$self->stop;
		seek $errors, 0, 0;
		die "the simulator did not become ready: " . join '', <$errors>;
	}
	$self->{ready} = JSON::PP::decode_json($line);
	return $self;
}

# The port of its nth listener (from 0), and the base URL there.
sub port
{
	my ($self, $n) = @_;
	return $self->{ready}{listeners}[ $n // 0 ]{port};
}

sub url
{
	my ($self, $n) = @_;
	my $scheme = $self->{ready}{listeners}[ $n // 0 ]{tls} ? 'https' : 'http';
	return "$scheme://127.0.0.1:" . $self->port($n);
}

# Its control endpoint, by the plain listener: GET, or POST where there is a body. The JSON answer.
sub control
{
	my ($self, $path, $body) = @_;
	my ($plain) = grep { !$_->{tls} && !$_->{fault} } @{ $self->{ready}{listeners} };
	my $url     = "http://127.0.0.1:$plain->{port}/sim/$path";
	my $http    = HTTP::Tiny->new(proxy => undef, http_proxy => undef, https_proxy => undef, timeout => 10);
	my $answer =
	  defined $body ? $http->post($url, { content => JSON::PP::encode_json($body) }) : $http->get($url);
	$answer->{success} or die "simulator, $path: $answer->{status} $answer->{content}";
	return JSON::PP->new->allow_nonref->decode($answer->{content});
}

# The create-calls that arrived for a number: their ledger lines, or how many came whole.
sub ledger
{
	my ($self, $number) = @_;
	$number =~ s/\+/%2B/;
	return @{ $self->control("ledger?toNumber=$number") };
}

sub k
{
	my ($self, $number) = @_;
	$number =~ s/\+/%2B/;
	return $self->control("k?toNumber=$number")->{k};
}

# A line of its output within some seconds, or undef.
sub _line
{
	my ($self, $seconds) = @_;
	my ($line, $end) = ('', time + $seconds);
	while ($line !~ /\n/)
	{
		my $ready = '';
		vec($ready, fileno $self->{out}, 1) = 1;
		my $left = $end - time;
		return if $left <= 0 || !select $ready, undef, undef, $left;
		sysread $self->{out}, $line, 4096, length $line or return;
	}
	return $line;
}

sub signal
{
	my ($self, $signal) = @_;
	return kill $signal, $self->{pid};
}

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} // return;
	delete $running{$pid};
	kill TERM => $pid;
	for (1 .. 100)
	{
		return if waitpid($pid, POSIX::WNOHANG()) == $pid;
		sleep 0.02;
	}
	kill KILL => $pid;
	waitpid $pid, 0;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!, $@);
	$self->stop;
	return;
}

# A test that dies must not leave a simulator behind, nor change its exit status by waiting for it.
END
{
	local $?;
	kill KILL => keys %running;
}

package Kridtech::Background;

use strict;
use warnings;

my $asked = 0;

# Options: on_error_stop => 1, user, and conninfo (added to the connection string).
sub new
{
	my ($class, $node, $database, %option) = @_;
	my $self = bless { in => '', out => '', err => '' }, $class;
	my $conninfo = join ' ', $node->connstr($database // 'postgres'),
	  defined $option{user} ? "user=$option{user}" : (), $option{conninfo} // ();
	my @command = (
		'psql', '-XAtq', '-d', $conninfo, '-f', '-', '-v',
		'ON_ERROR_STOP=' . ($option{on_error_stop} ? 1 : 0),
		'-v', 'VERBOSITY=verbose');
	$self->{timer} = IPC::Run::timer($option{timeout} // 60);
	$self->{run} = IPC::Run::start(\@command, '<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		$self->{timer});
	$self->query('SELECT 1') eq '1' or die "no background psql: $self->{err}";
	return $self;
}

# Sends SQL and returns its output; messages of the server are then at ->errors.
sub query
{
	my ($self, $sql) = @_;
	$self->send($sql);
	return $self->take;
}

sub send
{
	my ($self, $sql) = @_;
	$self->{mark} = 'kridtech-mark-' . ++$asked;
	$self->{err}  = '';
	$self->{in} .= "$sql\n;\n\\echo $self->{mark}\n\\warn $self->{mark}\n";
	$self->{run}->pump_nb;
	return;
}

# Waits for the end of what was sent, on both streams, so that no message arrives after its query.
sub take
{
	my ($self) = @_;
	my $mark = $self->{mark};
	until ($self->{out} =~ /^\Q$mark\E$/m && $self->{err} =~ /\Q$mark\E$/m)
	{
		$self->{run}->pumpable or die "background psql ended: $self->{err}";
		$self->{run}->pump;
	}
	my $out = $self->{out};
	$out =~ s/^\Q$mark\E\n//m;
	$self->{err} =~ s/^.*\Q$mark\E\n//m;
	$self->{out} = '';
	chomp $out;
	return $out;
}

# The SQLSTATE a statement (or what was sent before, without one) ends with, 00000 where it succeeds.
sub state
{
	my ($self, $sql) = @_;
	$self->send($sql) if defined $sql;
	$self->{answer} = $self->take;
	return $self->errors =~ /^(?:psql:\S+ )?(?:ERROR|FATAL):\s+(\w{5}):/m ? $1 : '00000';
}

# What the statement of the last ->state returned.
sub answer
{
	my ($self) = @_;
	return $self->{answer};
}

# Whether the query that was sent is still running.
sub busy
{
	my ($self) = @_;
	$self->{run}->pump_nb;
	return $self->{out} !~ /^\Q$self->{mark}\E$/m;
}

sub errors
{
	my ($self) = @_;
	return $self->{err};
}

sub pid
{
	my ($self) = @_;
	return $self->{backend} //= $self->query('SELECT pg_backend_pid()');
}

sub quit
{
	my ($self) = @_;
	$self->{in} .= "\\q\n";
	return $self->{run}->finish;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!, $@);
	eval { $self->{run}->kill_kill(grace => 1) } if $self->{run};
	return;
}

1;
