# A server of recordings over TLS, with a fault for each path, and the certificate to trust it by.
#
#	my $server = RecordingServer->new;
#	$server->url('ok/1000');        # https://127.0.0.1:PORT/ok/1000
#	$server->requests('/ok/1000');  # the requests for it, each its head as text
#	RecordingServer::content(1000); # what it sends
#
# ok/N: N bytes, with their length. chunked/N: the same in chunks. unframed/N: the same, ended by closing.
# truncated/N: half of N, then closed. declares/N: says N, sends nothing, stays open. endless: chunks without end.
# drip: a byte a tenth of a second. stall/N: N bytes of more, then nothing. hold/N: N bytes, half of them only when
# ->go is called. empty: no byte. type/A/B: 5000 bytes of type A/B. encoded/N: says gzip. status/S: that status with
# a body. redirect: 302 to ok/1000. flaky/S/K/N: status S the first K times, then N bytes.
package RecordingServer;

use strict;
use warnings;

use File::Temp qw(tempdir);
use IO::Socket::INET;
use IO::Socket::SSL;
use Kridtech;
use POSIX ();
use Time::HiRes qw(sleep);

use constant BLOCK => 65536;

sub new
{
	my ($class) = @_;
	my $dir  = tempdir(CLEANUP => 1);
	my $self = bless { dir => $dir, owner => $$ }, $class;
	kt_run(qw(openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=recordings -addext),
		'subjectAltName=IP:127.0.0.1,DNS:localhost', '-keyout', "$dir/key.pem", '-out', "$dir/cert.pem");
	chmod 0755, $dir;
	my $listener = IO::Socket::INET->new(Listen => 64, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "listen: $!";
	$self->{port} = $listener->sockport;
	$self->{pid}  = fork // die "fork: $!";
	if ($self->{pid} == 0)
	{
		setpgrp; # it goes with all that serve for it
		$SIG{CHLD} = 'IGNORE';
		$SIG{PIPE} = 'IGNORE';
		while (my $connection = $listener->accept)
		{
			my $pid = fork // next;
			next if $pid;
			close $listener;
			eval { $self->_serve($connection) };
			POSIX::_exit(0);
		}
		POSIX::_exit(0);
	}
	return $self;
}

sub certificate { return $_[0]{dir} . '/cert.pem' }
sub port        { return $_[0]{port} }

sub url
{
	my ($self, $path, $host) = @_;
	$host //= '127.0.0.1';
	return "https://$host:$self->{port}/$path";
}

# One block of a recording: no two of them are alike.
my $noise = join '', map { chr($_ * 167 % 251) } 1 .. BLOCK;

sub _block
{
	my ($n, $len) = @_;
	return substr sprintf('%08d', $n) . substr($noise, 8), 0, $len;
}

sub content
{
	my ($bytes) = @_;
	return join '', map { _block($_, $bytes - $_ * BLOCK < BLOCK ? $bytes - $_ * BLOCK : BLOCK) } 0 .. ($bytes - 1) / BLOCK;
}

# The heads of the requests for a path, or of all; connections without one are counted by ->connections.
sub requests
{
	my ($self, $path) = @_;
	my @heads = map { _slurp($_) } sort glob "$self->{dir}/request.*";
	return defined $path ? grep { m{^GET \Q$path\E HTTP/1} } @heads : @heads;
}

sub connections
{
	my ($self) = @_;
	return scalar(my @files = glob "$self->{dir}/connection.*");
}

sub go
{
	my ($self) = @_;
	open my $file, '>', "$self->{dir}/go" or die $!;
	return;
}

sub _slurp
{
	my ($path) = @_;
	open my $file, '<', $path or die "$path: $!";
	local $/;
	return <$file>;
}

sub _note
{
	my ($self, $kind, $text) = @_;
	my $path = sprintf '%s/%s.%.6f.%d', $self->{dir}, $kind, Time::HiRes::time(), $$;
	open my $file, '>', "$self->{dir}/new.$$" or die $!;
	print $file $text;
	close $file;
	rename "$self->{dir}/new.$$", $path or die $!;
	return;
}

sub _serve
{
	my ($self, $connection) = @_;
	$self->_note(connection => '');
	my $tls = IO::Socket::SSL->start_SSL(
		$connection,
		SSL_server    => 1,
		SSL_cert_file => "$self->{dir}/cert.pem",
		SSL_key_file  => "$self->{dir}/key.pem") or return;
	my $head = '';
	while ($head !~ /\r\n\r\n/)
	{
		sysread($tls, $head, 4096, length $head) or return;
	}
	my ($path) = $head =~ m{^GET (\S+) HTTP/1\.1\r\n} or return;
	my $before = () = $self->requests($path);
	$self->_note(request => $head);
	my @part = split m{/}, $path;
	my $how  = __PACKAGE__->can("_serve_$part[1]") or return;
	$how->($self, $tls, $before, @part[ 2 .. $#part ]);
	$tls->close;
	return;
}

sub _send
{
	my ($tls, $bytes) = @_;
	while (length $bytes)
	{
		my $n = syswrite($tls, $bytes, 16384) or POSIX::_exit(0);
		$bytes = substr $bytes, $n;
	}
	return;
}

sub _head
{
	my ($tls, %header) = @_;
	my $status = delete $header{status} // 200;
	my %all    = ('Content-Type' => 'audio/mpeg', %header);
	return _send($tls, "HTTP/1.1 $status Words\r\n" . join('', map { "$_: $all{$_}\r\n" } sort keys %all) . "\r\n");
}

# The bytes of a recording from one offset (a multiple of BLOCK) to another.
sub _body
{
	my ($tls, $from, $to) = @_;
	for (my $at = $from; $at < $to; $at += BLOCK)
	{
		_send($tls, _block($at / BLOCK, $to - $at < BLOCK ? $to - $at : BLOCK));
	}
	return;
}

sub _stay
{
	my ($tls) = @_;
	1 while sysread $tls, my $bytes, 1;
	POSIX::_exit(0);
}

sub _serve_ok
{
	my ($self, $tls, $before, $n) = @_;
	_head($tls, 'Content-Length' => $n);
	return _body($tls, 0, $n);
}

sub _serve_chunked
{
	my ($self, $tls, $before, $n) = @_;
	_head($tls, 'Transfer-Encoding' => 'chunked');
	for (my $at = 0; $at < $n; $at += BLOCK)
	{
		my $len = $n - $at < BLOCK ? $n - $at : BLOCK;
		_send($tls, sprintf("%x\r\n", $len) . _block($at / BLOCK, $len) . "\r\n");
	}
	return _send($tls, "0\r\n\r\n");
}

sub _serve_unframed
{
	my ($self, $tls, $before, $n) = @_;
	_head($tls, Connection => 'close');
	return _body($tls, 0, $n);
}

sub _serve_truncated
{
	my ($self, $tls, $before, $n) = @_;
	_head($tls, 'Content-Length' => $n);
	return _body($tls, 0, int($n / 2));
}

sub _serve_declares
{
	my ($self, $tls, $before, $n) = @_;
	_head($tls, 'Content-Length' => $n);
	_send($tls, 'x');
	return _stay($tls);
}

sub _serve_endless
{
	my ($self, $tls) = @_;
	_head($tls, 'Transfer-Encoding' => 'chunked');
	_send($tls, sprintf("%x\r\n", BLOCK) . _block(0, BLOCK) . "\r\n") while 1;
	return;
}

sub _serve_drip
{
	my ($self, $tls) = @_;
	_head($tls, 'Content-Length' => 1000000);
	while (1)
	{
		_send($tls, 'x');
		sleep 0.1;
	}
	return;
}

sub _serve_stall
{
	my ($self, $tls, $before, $n) = @_;
	_head($tls, 'Content-Length' => $n * 2);
	_body($tls, 0, $n);
	return _stay($tls);
}

sub _serve_hold
{
	my ($self, $tls, $before, $n) = @_;
	my $half = int($n / 2 / BLOCK) * BLOCK;
	_head($tls, 'Content-Length' => $n);
	_body($tls, 0, $half);
	sleep 0.02 until -e "$self->{dir}/go" || !-e $self->{dir};
	return _body($tls, $half, $n);
}

sub _serve_empty
{
	my ($self, $tls) = @_;
	return _head($tls, 'Content-Length' => 0);
}

sub _serve_type
{
	my ($self, $tls, $before, @type) = @_;
	_head($tls, 'Content-Length' => 5000, 'Content-Type' => join('/', @type));
	return _body($tls, 0, 5000);
}

# A content type of every byte that a header may hold, and longer than any.
sub _serve_odd
{
	my ($self, $tls) = @_;
	_head($tls, 'Content-Length' => 5000, 'Content-Type' => "audio/\x01\xff\xc3\xa4\t" . 'x' x 5000);
	return _body($tls, 0, 5000);
}

sub _serve_encoded
{
	my ($self, $tls, $before, $n) = @_;
	_head($tls, 'Content-Length' => $n, 'Content-Encoding' => 'gzip');
	return _body($tls, 0, $n);
}

sub _serve_status
{
	my ($self, $tls, $before, $status) = @_;
	_head($tls, status => $status, 'Content-Length' => 1000);
	return _body($tls, 0, 1000);
}

sub _serve_redirect
{
	my ($self, $tls) = @_;
	return _head($tls, status => 302, 'Content-Length' => 0, Location => $self->url('ok/1000'));
}

sub _serve_flaky
{
	my ($self, $tls, $before, $status, $times, $n) = @_;
	return $before < $times ? $self->_serve_status($tls, $before, $status) : $self->_serve_ok($tls, $before, $n);
}

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} // return;
	kill KILL => -$pid;
	waitpid $pid, 0;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!, $@);
	$self->stop if $$ == $self->{owner};
	return;
}

1;
