# Whose certificate is trusted, that nothing is sent to any other server, and that no variable of the server's
# environment changes it.
use strict;
use warnings;

use File::Temp qw(tempdir);
use IO::Socket::INET;
use Kridtech;
use Test::More;

my $dir = tempdir(CLEANUP => 1);

sub write_file
{
	my ($name, $text) = @_;
	open my $file, '>', "$dir/$name" or die "$name: $!";
	print $file $text;
	close $file or die "$name: $!";
	return "$dir/$name";
}

sub authority
{
	my ($name) = @_;
	kt_run(qw(openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj), "/CN=$name",
		'-keyout', "$dir/$name.key", '-out', "$dir/$name.pem");
	write_file("$name.cnf", "[ca]\ndefault_ca=d\n[d]\ndatabase=$dir/$name.db\nnew_certs_dir=$dir\nserial=$dir/$name.srl\n"
		  . "default_md=sha256\npolicy=p\ncopy_extensions=copy\n[p]\ncommonName=supplied\n");
	write_file("$name.db", '');
	write_file("$name.srl", '01');
	return;
}

# A certificate for a subject alternative name, signed by an authority; the listener's words for it.
sub certificate
{
	my ($name, $authority, $for, $start, $end) = @_;
	kt_run(qw(openssl req -new -newkey rsa:2048 -nodes -subj), "/CN=$name", '-addext', "subjectAltName=$for",
		'-keyout', "$dir/$name.key", '-out', "$dir/$name.csr");
	kt_run(qw(openssl ca -batch -notext -config), "$dir/$authority.cnf", '-keyfile', "$dir/$authority.key",
		'-cert', "$dir/$authority.pem", '-in', "$dir/$name.csr", '-out', "$dir/$name.crt",
		'-startdate', $start // '20200101000000Z', '-enddate', $end // '20400101000000Z');
	return "cert=$dir/$name.crt,key=$dir/$name.key";
}

authority('known');
authority('other');
my $here = 'IP:127.0.0.1,DNS:localhost';
my $good = certificate('good', 'known', $here);
kt_run(qw(openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=self -addext), "subjectAltName=$here",
	'-keyout', "$dir/self.key", '-out', "$dir/self.crt");

my @listeners = (
	[ plain => '' ],
	[ good => ",$good" ],
	[ unknown => ',' . certificate('unknown', 'other', $here) ],
	[ expired => ',' . certificate('expired', 'known', $here, '20200101000000Z', '20210101000000Z') ],
	[ premature => ',' . certificate('premature', 'known', $here, '20390101000000Z', '20400101000000Z') ],
	[ wrong_name => ',' . certificate('wrong_name', 'known', 'DNS:other.example,IP:127.0.0.2') ],
	[ self_signed => ",cert=$dir/self.crt,key=$dir/self.key" ],
	[ tls_1_1 => ",$good,tls-fault=old" ],
	[ reset => ',tls-fault=reset' ]);
my $sim  = kt_simulator(map { ('--listen', "127.0.0.1:0$_->[1]") } @listeners);
my %port = map { $listeners[$_][0] => $sim->port($_) } 0 .. $#listeners;

# Traps: what connects here obeyed a proxy variable.
my $trap   = IO::Socket::INET->new(Listen => 16, LocalAddr => '127.0.0.1') or die "listen: $!";
my $proxy  = 'http://127.0.0.1:' . $trap->sockport;
my $keylog = "$dir/keylog";
mkdir "$dir/home" or die $!;
write_file('home/.netrc', "default login thief password thief\n");
write_file('home/.curlrc', "insecure\n");

my $node = kt_cluster('tls', start => 0,
	conf => kt_api_settings("https://127.0.0.1:$port{good}") . "kridtech.ca_file = '$dir/known.pem'\n");
{
	local @ENV{qw(http_proxy https_proxy HTTPS_PROXY ALL_PROXY all_proxy)} = ($proxy) x 5;
	local @ENV{qw(CURL_CA_BUNDLE SSL_CERT_FILE)} = ("$dir/other.pem") x 2;
	local $ENV{SSL_CERT_DIR}  = $dir;
	local $ENV{NO_PROXY}      = 'nothing.example';
	local $ENV{SSLKEYLOGFILE} = $keylog;
	local $ENV{HOME}          = "$dir/home";
	$node->start;
}
kt_create_extension($node);

my $session = kt_background($node);
my $number  = 49305000000;

sub use_api
{
	my ($listener, $ca) = @_;
	my $host = $listener eq 'localhost' ? "localhost:$port{good}" : "127.0.0.1:$port{$listener}";
	kt_configure($node, "kridtech.base_url = 'https://$host'\nkridtech.ca_file = '" . ($ca // "$dir/known.pem") . q{'}, $session);
	return;
}

# One create-call: its state, and how often it arrived.
sub call
{
	my $to    = '+' . $number++;
	my $state = $session->state("SELECT kridtech_create_call('$to')");
	return ($state, $sim->k($to), scalar $sim->ledger($to));
}

is_deeply([ call() ], [ '00000', 1, 1 ], 'a server whose authority kridtech.ca_file names is trusted');
is_deeply([ call() ], [ '00000', 1, 1 ], 'and so is the kept connection');
ok(!-e $keylog, 'SSLKEYLOGFILE has no effect: no session key is written');
my ($headers) = map { $_->{headers} } $sim->ledger('+49305000000');
is(scalar(grep { lc $_->[0] =~ /^(proxy-)?authorization$/ } @$headers), 0, '.netrc has no effect');
use_api('localhost');
is_deeply([ call() ], [ '00000', 1, 1 ], 'a name is checked like an address');

my %words = (
	unknown     => [ 'an unknown authority',   qr/certificate/ ],
	expired     => [ 'an expired certificate', qr/certificate.*expired/ ],
	premature   => [ 'a certificate not valid yet', qr/certificate/ ],
	wrong_name  => [ 'a certificate for another name', qr/certificate.*(?:name|alternative)/i ],
	self_signed => [ 'a self-signed certificate', qr/certificate/ ],
	tls_1_1     => [ 'TLS 1.1 only', qr/\S/ ],
	reset       => [ 'a reset handshake', qr/\S/ ],
	plain       => [ 'a server that speaks no TLS', qr/\S/ ]);
for my $listener (sort keys %words)
{
	my ($what, $words) = @{ $words{$listener} };
	use_api($listener);
	is_deeply([ call() ], [ '08001', 0, 0 ], "$what: 08001, and nothing was sent");
	like($session->errors, qr/could not connect to the Kridtech API \(POST \/api\/create-call\)/, "$what: the message names the endpoint");
	like($session->errors, qr/DETAIL:  .*$words/, "$what: the detail says why");
	like($session->errors, qr/Nothing was sent/, "$what: the hint says that nothing was sent");
	is($session->state('SELECT kridtech_calls()'), '08001', "$what: 08001 for a read");
}

# -- kridtech.ca_file in a running backend
use_api('good');
is_deeply([ call() ], [ '00000', 1, 1 ], 'the good server again');
use_api('good', "$dir/other.pem");
is_deeply([ call() ], [ '08001', 0, 0 ], 'another authority after a reload: the kept connection is not used, the server not trusted');
use_api('unknown', "$dir/other.pem");
is_deeply([ call() ], [ '00000', 1, 1 ], 'and the server of that authority is');
use_api('good', "$dir/missing.pem");
my ($state, $k) = call();
isnt($state, '00000', 'a bundle that is missing is no bundle');
is($k, 0, 'and nothing is sent');
write_file('none.pem', "this is no certificate\n");
use_api('good', "$dir/none.pem");
($state, $k) = call();
isnt($state, '00000', 'nor is a file without a certificate');
is($k, 0, 'and nothing is sent');
use_api('good', '');
is_deeply([ call() ], [ '08001', 0, 0 ], 'without kridtech.ca_file the system decides, and the server of no public authority is not trusted');
use_api('good');
is_deeply([ call() ], [ '00000', 1, 1 ], 'the right one again: trusted again');

$trap->blocking(0);
ok(!$trap->accept, 'no proxy variable had an effect');
ok(!-e $keylog, 'nor had SSLKEYLOGFILE');

# -- the environment and plain HTTP
kt_configure($node, "kridtech.base_url = 'http://127.0.0.1:$port{plain}'", $session);
is_deeply([ call() ], [ '00000', 1, 1 ], 'plain HTTP to a loopback address');
ok(!$trap->accept, 'without a proxy too');

$session->quit;
$node->stop;
done_testing();
