# TLS: what is served with which certificate, that a rotation of certificates or tokens costs no webhook, and that
# nothing is served in the clear to others, or without its token.
use strict;
use warnings;

use File::Temp qw(tempdir);
use IO::Socket::INET;
use IPC::Run ();
use Kridtech;
use POSIX ();
use Receiving;
use Test::More;
use Time::HiRes qw(time);

my $dir = tempdir(CLEANUP => 1);

# A certificate that is its own authority: <name>.crt and <name>.key.
sub make_pair
{
	my ($name, %option) = @_;
	kt_run(qw(openssl req -x509 -newkey rsa:2048 -nodes), '-days', $option{days} // 90, '-subj', "/CN=$name", '-addext',
		'subjectAltName=IP:127.0.0.1,DNS:localhost', '-keyout', "$dir/$name.key", '-out', "$dir/$name.crt");
	return;
}

make_pair($_) for qw(first second stranger);
make_pair('ending', days => 10);

# What is in force stands in these files.
sub install
{
	my ($cert, $key) = @_;
	for my $pair ([ $cert, 'crt' ], [ $key // $cert, 'key' ])
	{
		my ($name, $suffix) = @$pair;
		open my $in,  '<', "$dir/$name.$suffix"        or die $!;
		open my $out, '>', "$dir/installed.new.$suffix" or die $!;
		print $out readline $in;
		close $out or die $!;
		chmod 0600, "$dir/installed.new.$suffix";
		rename "$dir/installed.new.$suffix", "$dir/installed.$suffix" or die $!;
	}
	return;
}

install('first');
my $r = Receiving->new(
	'tls',
	listen => '127.0.0.1:0, 0.0.0.0:0',
	conf   => "kridtech.webhook_tls_cert_file = '$dir/installed.crt'\nkridtech.webhook_tls_key_file = '$dir/installed.key'\n");
my ($loopback, $any) = $r->health =~ /^t\|listening on 127\.0\.0\.1:(\d+), 0\.0\.0\.0:(\d+) with TLS; receiving; its certificate ends /;
ok($any, 'with TLS every address is listened on, and health tells until when the certificate is good');

# The status of a webhook sent by curl: 000 where it cannot be.
sub curl
{
	my ($call_id, %option) = @_;
	my $port  = $option{port} // $loopback;
	my $token = $option{token} // $Receiving::TOKEN;
	my ($out, $err);
	IPC::Run::run(
		[
			qw(curl -s -S -o /dev/null -w %{http_code} --max-time 20 --cacert), "$dir/" . ($option{ca} // 'first') . '.crt', @{ $option{curl} // [] },
			'-H', 'Content-Type: application/json', '-d', $r->webhook($call_id), "https://127.0.0.1:$port/webhook/$token"
		],
		'<', \undef, '>', \$out, '2>', \$err);
	return $out;
}

is(curl('tls_1'), 200, 'a webhook over TLS is answered with 200');
is($r->deliveries('tls_1'), 1, 'and is an event');
is(curl('tls_2', port => $any), 200, 'at the other address, too');
is(curl('tls_3', curl => [qw(--tlsv1.2 --tls-max 1.2)]), 200, 'TLS 1.2 is spoken');
is(curl('tls_4', curl => [qw(--tlsv1.0 --tls-max 1.1 --ciphers DEFAULT@SECLEVEL=0)]), '000', 'TLS 1.1 is not');
is(curl('tls_5', token => 'wrong'), 404, 'a wrong token is answered with 404');
{
	local $r->{port} = $loopback;
	isnt($r->post($r->webhook('tls_6')), 200, 'plain HTTP is not served');
}
is($r->sql(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id IN ('tls_4', 'tls_5', 'tls_6')}), 0, 'nothing of these is stored');

# ---- rotation under load ---------------------------------------------------------------------------------------

# Clients that send all the time; each writes down the statuses it got.
my @clients;
for my $n (1 .. 2)
{
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open my $log, '>', "$dir/client$n.new" or POSIX::_exit(1);
		for (my $i = 0; !-e "$dir/stop"; $i++)
		{
			# both authorities are trusted: whichever certificate is in force
			print $log curl("load_${n}_$i", ca => 'both'), "\n";
		}
		close $log;
		rename "$dir/client$n.new", "$dir/client$n";
		POSIX::_exit(0);
	}
	push @clients, $pid;
}

sub served_certificate
{
	my ($out, $err);
	IPC::Run::run([ qw(openssl s_client -connect), "127.0.0.1:$loopback" ], '<', \'', '>', \$out, '2>', \$err);
	return ($out // '') =~ /subject=.*CN ?= ?(\w+)/ ? $1 : 'none';
}

open my $both, '>', "$dir/both.crt" or die $!;
for my $name (qw(first second))
{
	open my $in, '<', "$dir/$name.crt" or die $!;
	print $both readline $in;
}
close $both or die $!;

my $stored = sub { $r->sql(q{SELECT count(*) FROM kridtech.webhook_events WHERE call_id LIKE 'load%'}) };
my $more = sub { my $now = $stored->(); kt_wait(sub { $stored->() > $now + 4 }, 20) or die 'the clients do not get on'; return };
$more->();
is(served_certificate(), 'first', 'the certificate is the first one');
install('second');
$r->reload;
ok(kt_wait(sub { served_certificate() eq 'second' }), 'a reload serves the new one');
$more->();

for my $bad ([ 'second', 'stranger', 'a key that is not the certificate\'s' ], [ 'second', 'nonsense', 'a key file that holds none' ])
{
	my ($cert, $key, $name) = @$bad;
	open my $file, '>', "$dir/nonsense.key" or die $!;
	print $file "nonsense\n";
	close $file;
	install($cert, $key);
	my $end = length $r->log;
	$r->reload;
	ok(kt_wait(sub { substr($r->log, $end) =~ /WARNING:  kridtech receiver: / }), "$name is a warning");
	is(served_certificate(), 'second', 'and the old pair stays in force');
	like($r->health, qr/^f\|listening on .*unfit/, 'health shows it');
	$more->();
	install('second');
	$r->reload;
	ok(kt_wait(sub { $r->health =~ /^t/ }), 'a good pair makes it well');
}
chmod 0644, "$dir/installed.key";
$r->reload;
ok(kt_wait(sub { $r->health =~ /^f\|.*can be read by others/ }), 'a key that others can read is refused');
chmod 0600, "$dir/installed.key";
install('first');
$r->reload;
ok(kt_wait(sub { served_certificate() eq 'first' }), 'the first pair comes back');
$more->();
open my $stop, '>', "$dir/stop" or die $!;
waitpid $_, 0 for @clients;
my @statuses;
for my $n (1 .. 2)
{
	open my $in, '<', "$dir/client$n" or die "client $n has died";
	chomp(my @lines = <$in>);
	push @statuses, @lines;
}
is(scalar(grep { $_ ne '200' } @statuses), 0, 'over all that no webhook of ' . @statuses . ' failed');

install('ending');
$r->reload;
ok(kt_wait(sub { $r->health =~ /^f\|.*its certificate ends / }), 'a certificate that ends within 14 days is red');
install('first');
$r->reload;
ok(kt_wait(sub { $r->health =~ /^t/ }), 'and green again with another');

# ---- tokens -----------------------------------------------------------------------------------------------------

sub write_tokens
{
	my ($text, $mode) = @_;
	open my $file, '>', "$r->{token_file}.new" or die $!;
	print $file $text;
	close $file or die $!;
	chmod $mode // 0600, "$r->{token_file}.new";
	rename "$r->{token_file}.new", $r->{token_file} or die $!;
	$r->reload;
	return;
}

write_tokens("$Receiving::TOKEN\nnext-token-77ab\n");
ok(kt_wait(sub { curl('token_1', token => 'next-token-77ab') == 200 }), 'while tokens are rotated, the new one is good');
is(curl('token_2'), 200, 'and the old one, too');
write_tokens("next-token-77ab\n");
ok(kt_wait(sub { curl('token_3') == 404 }), 'after that only the new one');
is(curl('token_4', token => 'next-token-77ab'), 200, 'is');
for my $bad ([ '', 0600, 'an empty token file' ], [ "x\n", 0644, 'a token file that others can read' ], [ "a b\n", 0600, 'a token with a blank' ], [ "a?b\n", 0600, 'one that a URL cannot hold' ])
{
	write_tokens($bad->[0], $bad->[1]);
	ok(kt_wait(sub { $r->health =~ /^f\|.*kridtech\.webhook_token_file/ }), "$bad->[2] is refused");
	is(curl('token_5', token => 'next-token-77ab'), 200, 'and the old token stays good');
}

# ---- the start ----------------------------------------------------------------------------------------------------

sub refuses
{
	my ($port) = @_;
	return !IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp', Timeout => 5);
}

$r->sql('SELECT kridtech_restart_workers()');
ok(kt_wait(sub { refuses($loopback) }), 'a receiver that starts without a usable token file refuses connections');
like($r->health, qr/^f\|not listening on .*webhook_token_file/, 'and health says why');
write_tokens("next-token-77ab\n");
ok(kt_wait(sub { curl('token_6', token => 'next-token-77ab') == 200 }), 'until there is one');

install('second', 'stranger');
$r->sql('SELECT kridtech_restart_workers()');
ok(kt_wait(sub { refuses($loopback) }), 'a receiver that starts without a usable certificate refuses connections');
install('first');
ok(kt_wait(sub { curl('token_7', token => 'next-token-77ab') == 200 }), 'until there is one');

# ---- without TLS ----------------------------------------------------------------------------------------------------

$r->set('kridtech.webhook_tls_cert_file' => '', 'kridtech.webhook_tls_key_file' => '');
ok(kt_wait(sub { refuses($any) }), 'when TLS is turned off, an address that others can reach refuses connections');
ok(kt_wait(sub { $r->health =~ /^f\|listening on 127\.0\.0\.1:$loopback without TLS; not listening on 0\.0\.0\.0:$any, which needs TLS/ }),
	'and health says so');
{
	local $r->{token} = 'next-token-77ab';
	local $r->{port}  = $loopback;
	ok(kt_wait(sub { $r->post($r->webhook('plain_1')) == 200 }), 'the loopback address serves plain HTTP');
}
$r->set('kridtech.webhook_tls_cert_file' => "$dir/installed.crt", 'kridtech.webhook_tls_key_file' => "$dir/installed.key");
ok(kt_wait(sub { curl('again_1', port => $any, token => 'next-token-77ab') == 200 }), 'when it is turned on, both serve TLS');

unlike($r->log, qr/\Q$Receiving::TOKEN\E|next-token-77ab/, 'no token is in the log');
unlike($r->log, qr/PRIVATE KEY/, 'nor a key');
unlike($r->log, qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
