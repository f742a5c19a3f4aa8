# A cluster whose receiver takes webhooks, a client that sends them byte by byte where need be, and the
# questions the receive_*.pl tests ask of both.
#
#	my $r = Receiving->new('name', conf => ..., faults => 1);
#	is($r->post($r->webhook('call_1')), 200, 'a webhook is answered');
#	my $socket = $r->send($r->webhook('call_2'));	# not waited for
#	is($r->answer($socket), 200);
#
# The server is this process's own child (KridtechCrash), so that it can be killed as a whole.
package Receiving;

use strict;
use warnings;

use IO::Socket::INET ();
use JSON::PP         ();
use Kridtech;
use KridtechCrash qw(server_start server_stop server_kill log_since);
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;
use Time::HiRes qw(sleep time);

# The token of the URL; whatever shows it to anybody fails a test.
our $TOKEN = 'receiving-secret-token-4d1c';

my $json = JSON::PP->new->utf8->canonical;

# Options: conf (text for postgresql.conf), faults => 1 (a library with fault points), database, encoding (of
# it), listen (127.0.0.1:0), token => '' (none), sim (list for a simulator), init, extension => 0, start => 0.
sub new
{
	my ($class, $name, %option) = @_;
	local $ENV{KRIDTECH_SETTINGS} = $ENV{KRIDTECH_FAULT_SETTINGS} if $option{faults};
	my $self = bless { database => $option{database} // 'postgres', token => $option{token} // $TOKEN }, $class;
	$self->{sim} = kt_simulator('--listen', '127.0.0.1:0', '--die-with-parent', '--seed', '1', '--key', 'sim-key',
		@{ $option{sim} }) if $option{sim};
	my %conf = (
		restart_after_crash     => 'on',
		autovacuum              => 'off',
		'kridtech.databases'    => "'$self->{database}'",
		'kridtech.base_url'     => "'http://127.0.0.1:1'",
		'kridtech.webhook_listen' => "'" . ($option{listen} // '127.0.0.1:0') . "'");
	if ($self->{sim})
	{
		$conf{'kridtech.base_url'}     = "'http://127.0.0.1:$self->{sim}{ready}{listeners}[0]{port}'";
		$conf{'kridtech.api_key_file'} = "'" . kt_key_file("sim-key\n") . "'";
		$conf{'kridtech.account_id'}   = "'acct-1'";
	}
	if ($self->{token} ne '')
	{
		$self->{token_file} = kt_key_file("$self->{token}\n");
		$conf{'kridtech.webhook_token_file'} = "'$self->{token_file}'";
	}
	$self->{node} = kt_cluster($name, start => 0, init => $option{init} // [],
		conf => join('', map { "$_ = $conf{$_}\n" } sort keys %conf) . ($option{conf} // ''));
	return $self if !($option{start} // 1);
	$self->start;
	$self->create_database($option{encoding}) if $self->{database} ne 'postgres';
	return $self if !($option{extension} // 1);
	$self->sql('CREATE EXTENSION kridtech');
	$self->receives or die 'the receiver does not receive: ' . $self->health;
	return $self;
}

# ---- the server --------------------------------------------------------------------------------------------

sub start
{
	my ($self) = @_;
	server_start($self->{node});
	delete $self->{port};
	return;
}

sub stop
{
	my ($self, $signal) = @_;
	delete $self->{session};
	return server_stop($self->{node}, $signal);
}

# kill -9 of everything, and a new start. The port may be another one.
sub kill_all
{
	my ($self) = @_;
	delete $self->{session};
	server_kill($self->{node}, all => 1);
	$self->start;
	return;
}

sub create_database
{
	my ($self, $encoding) = @_;
	my $how = defined $encoding ? "TEMPLATE template0 ENCODING '$encoding' LOCALE 'C'" : '';
	$self->{node}->safe_psql('postgres', qq{CREATE DATABASE "$self->{database}" $how});
	return;
}

# A statement's output. The session is kept, and made again after a crash; dies of the statement's error.
sub sql
{
	my ($self, $statement) = @_;
	my $end = time + 60;
	while (1)
	{
		my $out = eval {
			my $session = $self->{session} //= kt_background($self->{node}, $self->{database}, timeout => 3600);
			my $rows    = $session->query($statement);
			die 'SQL: ' . $session->errors if $session->errors =~ /^(psql:\S*: )?ERROR/m;
			die 'gone: ' . $session->errors if $session->errors =~ /^(psql:\S*: )?(FATAL|.*server closed)/m;
			$rows;
		};
		return $out if defined $out;
		die "$@in: $statement\n" if $@ =~ /^SQL: / || time > $end;
		delete $self->{session};
		sleep 0.05;
	}
}

sub pid
{
	my ($self, $type) = @_;
	$type //= 'receiver';
	my $where = $type eq 'launcher' ? '' : "AND datname = '$self->{database}'";
	return $self->sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'kridtech $type' $where");
}

sub health
{
	my ($self) = @_;
	return $self->sql("SELECT ok, detail FROM kridtech.health WHERE component = 'receiver'");
}

sub receives
{
	my ($self, $seconds) = @_;
	return kt_wait(sub { $self->health =~ /^t\|listening on / }, $seconds // 20);
}

sub stat
{
	my ($self, $name) = @_;
	return $self->sql("SELECT value FROM kridtech.stats WHERE name = 'webhook_$name'");
}

# Sets settings and returns when a session and the receiver have them.
sub set
{
	my ($self, %setting) = @_;
	my $before = $self->sql('SELECT pg_conf_load_time()');
	$self->sql("ALTER SYSTEM SET $_ = '$setting{$_}'") for sort keys %setting;
	return $self->reload;
}

sub reload
{
	my ($self) = @_;
	my $before = $self->sql('SELECT pg_conf_load_time()');
	my $turns  = $self->stat('loop_turns');
	$self->sql('SELECT pg_reload_conf()');
	kt_wait(sub { $self->sql('SELECT pg_conf_load_time()') ne $before }) or die 'no reload';
	# SIGHUP wakes the receiver, or a new one has begun to count anew
	kt_wait(sub { my $now = $self->stat('loop_turns'); $now > $turns || $now < $turns }) or die 'the receiver does not turn';
	return;
}

# ---- questions ---------------------------------------------------------------------------------------------

# A test: a query comes to this output.
sub becomes
{
	my ($self, $query, $expected, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return kt_becomes(sub { $self->sql($query) }, $expected, $name, $seconds // 15);
}

# How often an event was delivered: '' where there is none.
sub deliveries
{
	my ($self, $call_id) = @_;
	return $self->sql("SELECT deliveries FROM kridtech.webhook_events WHERE call_id = '$call_id'");
}

# The reasons for which deliveries of a call are kept.
sub kept
{
	my ($self, $call_id) = @_;
	return $self->sql(
		"SELECT coalesce(string_agg(reason, ' ' ORDER BY id), '') FROM kridtech.webhook_inbox WHERE call_id = '$call_id'");
}

# ---- the client --------------------------------------------------------------------------------------------

# The documented body.
sub webhook
{
	my ($self, $call_id, %field) = @_;
	return $json->encode({
		callId           => $call_id,
		status           => 'completed',
		durationMs       => 94000,
		transcript       => "Agent: Hi, this is Sarah.\nUser: Hey.",
		recordingUrl     => "https://storage.kridtech.com/recordings/$call_id.mp3",
		dynamicVariables => [ { variable => 'first_name', value => 'James' } ],
		%field });
}

sub port
{
	my ($self) = @_;
	return $self->{port} if defined $self->{port};
	$self->receives or die 'the receiver does not listen: ' . $self->health;
	($self->{port}) = $self->health =~ /listening on \S+?:(\d+)\b/ or die 'no port: ' . $self->health;
	return $self->{port};
}

sub path
{
	my ($self) = @_;
	return '/webhook' . ($self->{token} ne '' ? "/$self->{token}" : '');
}

sub connect
{
	my ($self) = @_;
	return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->port, Proto => 'tcp', Timeout => 10);
}

# A request's bytes. Options: method, path, headers (text), version.
sub request
{
	my ($self, $body, %option) = @_;
	my $method  = $option{method} // 'POST';
	my $path    = $option{path} // $self->path;
	my $version = $option{version} // '1.1';
	my $headers = $option{headers} // "Content-Type: application/json\r\nContent-Length: " . length($body) . "\r\n";
	return "$method $path HTTP/$version\r\nHost: localhost\r\n$headers\r\n$body";
}

# Sends a whole request; the socket, or undef where the connection is refused.
sub send
{
	my ($self, $body, %option) = @_;
	my $socket = $option{socket} // $self->connect // return;
	local $SIG{PIPE} = 'IGNORE';
	my $bytes = $self->request($body, %option);
	my $sent  = 0;
	while ($sent < length $bytes)
	{
		my $n = syswrite($socket, $bytes, length($bytes) - $sent, $sent) // last;
		$sent += $n;
	}
	return $socket;
}

# The status of the next answer there: 0 where the connection ends without one, undef where none comes in
# time. In list context also the head.
sub answer
{
	my ($self, $socket, $seconds) = @_;
	return 0 if !defined $socket;
	my ($head, $end) = ('', time + ($seconds // 20));
	while ($head !~ /\r\n\r\n/)
	{
		my $ready = '';
		vec($ready, fileno $socket, 1) = 1;
		my $left = $end - time;
		return undef if $left <= 0 || select($ready, undef, undef, $left) < 1;    ## no critic
		my $n = sysread $socket, $head, 1, length $head;
		return 0 if !$n;
	}
	my ($status) = $head =~ m{^HTTP/1\.[01] (\d{3}) };
	my ($length) = $head =~ /^Content-Length: (\d+)\r$/mi;
	sysread $socket, my $rest, $length if $length;
	return wantarray ? ($status, $head) : $status;
}

# Sends a request and waits for its answer.
sub post
{
	my ($self, $body, %option) = @_;
	my $socket = $self->send($body, %option);
	return scalar $self->answer($socket, $option{seconds});
}

# Ends a connection by RST.
sub reset
{
	my ($self, $socket) = @_;
	setsockopt $socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
	close $socket;
	return;
}

# The server's log.
sub log
{
	my ($self) = @_;
	return log_since($self->{node}, 0);
}

1;
