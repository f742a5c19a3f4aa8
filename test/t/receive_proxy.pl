# Behind nginx and Caddy, as README sets them up, nginx that streams bodies and shares connections, and haproxy that
# shares them, too: every delivery is stored once, from the client's address, and no bytes make the
# receiver see a request that the proxy did not count. For each attack the request hidden in another carries a name of
# its own; a proxy logs the names it forwards.
use strict;
use warnings;

use File::Temp ();
use IO::Socket::INET;
use Kridtech;
use POSIX ();
use Receiving;
use Test::More;
use Time::HiRes qw(time);

my %program = map { my $name = $_; $name => (grep { -x } map { "$_/$name" } '/usr/sbin', '/usr/bin', '/usr/local/sbin')[0] } qw(nginx haproxy caddy);
plan skip_all => 'neither nginx nor haproxy nor caddy is installed' if !grep { defined } values %program;

my $r = Receiving->new('proxy', token => 'secret',
	conf => "kridtech.webhook_trusted_proxies = '127.0.0.1'\nkridtech.webhook_max_connections = 1000\n");
my $dir = File::Temp->newdir('kridtech-proxy-XXXXXX', TMPDIR => 1);

# ---- the proxies ------------------------------------------------------------------------------------------------

sub free_port
{
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1, Proto => 'tcp') or die "no port: $!";
	return $socket->sockport;
}

sub write_file
{
	my ($name, $text) = @_;
	open my $file, '>', "$dir/$name" or die "$dir/$name: $!";
	print $file $text;
	close $file or die "$dir/$name: $!";
	return "$dir/$name";
}

# A block of a configuration as README tells to write it, with the port of this receiver.
sub readme_block
{
	my ($first) = @_;
	open my $readme, '<', "$ENV{KRIDTECH_SOURCE}/README.md" or die "README.md: $!";
	my $text = do { local $/; <$readme> };
	my ($block) = $text =~ /^(    \Q$first\E \{\n.*?^    \}\n)/ms or die "README.md has no block $first";
	my $port = $r->port;
	$block =~ s/127\.0\.0\.1:8081/127.0.0.1:$port/ or die "no address in $block";
	return $block;
}

# The same with a log.
sub readme_location
{
	my $block = readme_block('location /webhook/');
	$block =~ s/access_log off;.*/access_log $dir\/readme.log kt;/ or die "no log in $block";
	return $block;
}

# The same without TLS, and with time-outs and a log.
sub caddy_conf
{
	my (%front) = @_;
	my $block = readme_block('crm.example.com');
	my $site  = "http://:$front{caddy}{port} {\n\tbind 127.0.0.1\n\tlog {\n\t\toutput file $dir/caddy.log\n\t\tformat json\n\t}";
	$block =~ s/crm\.example\.com \{/$site/ or die "no site in $block";
	my $times = join '', map { "\t\t\t$_ 2s\n" } qw(read_header read_body idle);
	return "{\n\tadmin off\n\tauto_https off\n\tservers {\n\t\ttimeouts {\n$times\t\t}\n\t}\n}\n$block";
}

sub nginx_conf
{
	my (%front) = @_;
	my $port = $r->port;
	my $temp = join '', map { "\t${_}_temp_path $dir/$_;\n" } qw(client_body proxy fastcgi uwsgi scgi);
	return <<"END" . readme_location() . "\t}\n}\n";
daemon off;
worker_processes 1;
pid $dir/nginx.pid;
error_log $dir/nginx.err;
events { worker_connections 2048; }
http {
$temp
	log_format kt '\$upstream_status|\$http_x_case';
	access_log off;
	client_header_timeout 2s;
	client_body_timeout 2s;
	keepalive_timeout 2s;
	lingering_time 2s;
	lingering_timeout 1s;
	upstream kept { server 127.0.0.1:$port; keepalive 8; keepalive_timeout 10s; }
	server {
		listen 127.0.0.1:$front{streaming}{port};
		location / {
			proxy_pass http://kept;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host \$host;
			proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
			proxy_request_buffering off;
			proxy_next_upstream off;
			client_max_body_size 16m;
			access_log $dir/streaming.log kt;
		}
	}
	server {
		listen 127.0.0.1:$front{readme}{port};
END
}

# Connections to the server are shared between clients as freely as it can be.
sub haproxy_conf
{
	my (%front) = @_;
	my $port = $r->port;
	return <<"END";
global
	log stdout format raw local0
	maxconn 2000
defaults
	mode http
	log global
	timeout connect 5s
	timeout client 2s
	timeout server 20s
	timeout http-request 2s
	timeout http-keep-alive 2s
	option forwardfor
	retries 0
listen webhooks
	bind 127.0.0.1:$front{haproxy}{port}
	http-request capture req.hdr(X-Case) len 64
	log-format "%s:%ST|%[capture.req.hdr(0)]"
	http-reuse always
	server kt 127.0.0.1:$port
END
}

my %running;

sub start
{
	my ($name, @command) = @_;
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN,  '<', '/dev/null';
		open STDOUT, '>', $name eq 'haproxy' ? "$dir/haproxy.log" : '/dev/null';
		@ENV{qw(HOME XDG_DATA_HOME XDG_CONFIG_HOME)} = ("$dir") x 3;
		open STDERR, '>', "$dir/$name.out";
		exec @command or POSIX::_exit(127);
	}
	$running{$name} = $pid;
	return;
}

# Ends one when it has served what it has; its log is whole then.
sub stop
{
	my ($name) = @_;
	my $pid = delete $running{$name};
	kill { nginx => 'QUIT', haproxy => 'USR1', caddy => 'TERM' }->{$name}, $pid;
	kt_wait(sub { waitpid($pid, POSIX::WNOHANG()) == $pid }, 20) and return 1;
	kill KILL => $pid;
	return 0;
}

END
{
	local $?;
	kill TERM => values %running;
}

my %front;
if ($program{nginx})
{
	$front{$_} = { port => free_port(), proxy => 'nginx' } for qw(readme streaming);
	start('nginx', $program{nginx}, '-p', "$dir", '-c', write_file('nginx.conf', nginx_conf(%front)), '-e', "$dir/nginx.err");
}
if ($program{haproxy})
{
	$front{haproxy} = { port => free_port(), proxy => 'haproxy' };
	start('haproxy', $program{haproxy}, '-db', '-f', write_file('haproxy.conf', haproxy_conf(%front)));
}
if ($program{caddy})
{
	$front{caddy} = { port => free_port(), proxy => 'caddy' };
	start('caddy', $program{caddy}, 'run', '--adapter', 'caddyfile', '--config', write_file('Caddyfile', caddy_conf(%front)));
}
for my $name (sort keys %front)
{
	kt_wait(sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $front{$name}{port}) }) or
	  die "$front{$name}{proxy} does not listen: " . qx(cat $dir/*.err $dir/*.out);
}

# How often each name was forwarded, by what the receiver answered (0: it did not).
sub forwarded
{
	my ($name) = @_;
	my %by;
	open my $log, '<', "$dir/$name.log" or die "$dir/$name.log: $!";
	while (<$log>)
	{
		# Caddy's log has all that came to the site, and another path was not forwarded
		my ($answer, $case) =
		  /^\{/
		  ? (/"uri":"\/webhook\// ? (/"status":(\d+)/, /"X-Case":\["(\w+)"\]/) : ())
		  : /^(?:kt:)?(-?\d+)\|(\S*)$/;
		next if !defined $answer;
		$case //= '';
		$case = '' if $case eq '-';
		$by{$case}{ $answer > 0 ? $answer : 0 }++;
	}
	return %by;
}

# ---- deliveries ---------------------------------------------------------------------------------------------------

# Sends so many, on four connections that are kept, each connection one at a time; how many were answered with 200.
sub deliver
{
	my ($name, $prefix, $count) = @_;
	my @sockets = map {
		IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $front{$name}{port}, LocalAddr => '127.0.0.7', Proto => 'tcp')
		  or die "connect: $!"
	} 1 .. 4;
	my ($good, $sent) = (0, 0);
	while ($sent < $count)
	{
		for my $socket (@sockets)
		{
			my $id   = "${name}_${prefix}_" . ++$sent;
			my $body = $r->webhook($id);
			$r->send($body, socket => $socket,
				headers => "Content-Length: " . length($body) . "\r\nX-Case: $id\r\nX-Forwarded-For: 203.0.113.9\r\n");
		}
		$good += ($r->answer($_) // 0) == 200 for @sockets;
	}
	return $good;
}

# ---- attacks --------------------------------------------------------------------------------------------------------

my $attacks = 0;

# A request that a proxy may or may not find behind or inside another: with a name of its own.
sub hidden
{
	my ($name) = @_;
	my $body = $r->webhook($name);
	return "POST /webhook/secret HTTP/1.1\r\nHost: kt\r\nX-Case: $name\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
}

# Heads (after the request line and Host) and bodies, each of which somebody may read in two ways. In them
# H stands for the hidden request, N for its length in hexadecimal, C for the length of the whole body; in a
# chunked body B is a chunk with the outer request's webhook.
my @framings = (
	# two ways to say how long
	[ "Content-Length: C\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nH" ],
	[ "Transfer-Encoding: chunked\r\nContent-Length: C\r\n", "B0\r\n\r\nH" ],
	[ "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "N\r\nH\r\n0\r\n\r\n" ],
	[ "Content-Length: 0\r\nContent-Length: C\r\n",          "H" ],
	[ "Content-Length: C\r\nContent-Length: 0\r\n",          "H" ],
	[ "Content-Length: C\r\nContent-Length: C\r\n",          "H" ],
	[ "Content-Length: 0, C\r\n",                            "H" ],
	# lengths that are none
	(map { [ "Content-Length: $_\r\n", "H" ] } '+C', '-1', '0x0', 'C ', "C\x0b", '', 'Ca', '1e1', '00000000000000000000', '18446744073709551616', '"0"'),
	[ "Content-Length : C\r\n",     "H" ],
	[ "Content-Length\t: C\r\n",    "H" ],
	[ "Content_Length: C\r\n",      "H" ],
	[ "Content-Length:\r\n C\r\n",  "H" ],
	[ "Content-Length: 0\r\n 0\r\n", "H" ],
	[ "Content-Length: C\0\r\n",    "H" ],
	[ "Content-Length\0: C\r\n",    "H" ],
	[ ": x\r\nContent-Length: C\r\n", "H" ],
	# encodings that one may not know for chunked
	(map { [ "$_\r\nContent-Length: C\r\n", "0\r\n\r\nH" ], [ "$_\r\n", "B0\r\n\r\nH" ], [ "$_\r\n", "N\r\nH\r\n0\r\n\r\n" ] }
		"Transfer-Encoding : chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: xchunked",
		"Transfer-Encoding: identity", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: gzip, chunked",
		"Transfer-Encoding: chunked, chunked", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding:\r\n chunked",
		"Transfer-Encoding: chunked\r\n , identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
		"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", "X-Y: z\r\n Transfer-Encoding: chunked", "X-Y: z\nTransfer-Encoding: chunked",
		"X-Y: z\rTransfer-Encoding: chunked", "X-Y: z\0\r\nTransfer-Encoding: chunked", "X-Y: \0\nTransfer-Encoding: chunked",
		"Transfer-Encoding: chunked\0", "Transfer_Encoding: chunked", "Transfer-Encoding\0: chunked", "TE: chunked", "Trailer: Content-Length",
		"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", "Connection: Content-Length",
		"Expect: 100-continue\r\nTransfer-Encoding: chunked", "Expect: x 100-continue\r\nTransfer-Encoding: chunked",
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
	# chunks
	(map { [ "Transfer-Encoding: chunked\r\n", $_ ] }
		"0\r\n\r\nH", "B0\r\n\r\nH", "B00000000\r\n\r\nH", "B0;H", "B0;\nH", "B0\nH", "B0\n\nH", "B0\r\rH", "B0\r\n\nH", "B0\r\nX-Y: z\r\n\r\nH",
		"B0\r\nContent-Length: 9\r\n\r\nH", "B0\r\n: H\r\n\r\n", "B0 \r\n\r\nH", "B+0\r\n\r\nH", "B-1\r\nH", "B0x0\r\n\r\nH", "B\r\n\r\nH",
		"B10000000000000000\r\n\r\nH", "B100000000\r\n\r\nH", "B7fffffffffffffff\r\nH", "Bfffffffffffffffe\r\nH", "1\r\nxx\r\n0\r\n\r\nH",
		"1\r\nx0\r\n\r\nH", "N\nH\n0\n\n", "N \r\nH\r\n0\r\n\r\n", "N;x=\"\r\n\"\r\nH\r\n0\r\n\r\n", "N\r\nH0\r\n\r\n", "2\r\n{\0\r\n0\r\n\r\nH", "B0\0\r\n\r\nH"),
	# none, and pipelining, which is none of it
	[ "", "H" ],
	[ "Content-Length: 0\r\n", "H" ],
	[ "Connection: close\r\nContent-Length: 0\r\n", "H" ],
	[ "Content-Length: C\r\n", "H" ]);

# Request lines of which one may see another target, version or end.
my @lines = ('POST /webhook/secret HTTP/1.1', 'POST /webhook/secret HTTP/1.0', 'GET /healthz HTTP/1.1', 'HEAD /healthz HTTP/1.1',
	'GET /webhook/secret HTTP/1.1', 'POST  /webhook/secret  HTTP/1.1', "POST /webhook/secret\tHTTP/1.1", 'POST /webhook/secret HTTP/1.1 HTTP/1.1',
	"POST /webhook/secret HTTP/1.1\n", "POST /webhook/secret\0 HTTP/1.1", 'POST http://other/webhook/secret HTTP/1.1', 'POST /webhook/secret',
	'CONNECT kt:80 HTTP/1.1', 'TRACE /webhook/secret HTTP/1.1', "\r\nPOST /webhook/secret HTTP/1.1", 'POST /webhook/secret HTTP/9.9');

# One attack's bytes: the outer request named <name>_o, the hidden one <name>_h.
sub attack
{
	my ($name, $line, $head, $body) = @_;
	my $outer  = $r->webhook("${name}_o");
	my $hidden = hidden("${name}_h");
	my %part   = (H => $hidden, N => sprintf('%x', length $hidden), B => sprintf("%x\r\n%s\r\n", length $outer, $outer));
	$body =~ s/([HNB])/$part{$1}/g;
	my $length = length $body;
	$head =~ s/\bC(?=[^a-z-]|a\b)/$length/g;
	return "$line\r\nHost: kt\r\nX-Case: ${name}_o\r\n$head\r\n$body";
}

# The bytes of test/unit/requests.txt, which test_httpd_requests.c explains: for the same path and token.
sub unit_cases
{
	my @cases;
	my %escape = (r => "\r", n => "\n", t => "\t", 0 => "\0", '\\' => '\\');
	open my $file, '<', "$ENV{KRIDTECH_SOURCE}/test/unit/requests.txt" or die "requests.txt: $!";
	while (<$file>)
	{
		push @cases, '' if /^case: /;
		next unless s/^send: //;
		chomp;
		s/\\\{(\d+) (.*?)\}/$2 x $1/ge;
		s/\\(?:x([0-9a-fA-F]{2})|([rnt0\\]))/defined $1 ? chr hex $1 : $escape{$2}/ge;
		$cases[-1] .= $_;
	}
	return @cases;
}

sub attacks_on
{
	my ($name) = @_;
	my $n = 0;
	return (unit_cases(),
		(map { attack($name . '_' . $n++, $lines[0], @$_) } @framings),
		map { my $line = $_; map { attack($name . '_' . $n++, $line, @$_) } @framings[ 0, 2, 3 ], $framings[-1] } @lines[ 1 .. $#lines ]);
}

# Sends each on a connection of its own, all at once, and reads until the proxy has closed every one, as it does when
# its time is up. True when it has.
sub attack_all
{
	my ($name, @attacks) = @_;
	local $SIG{PIPE} = 'IGNORE';
	my (%open, %left);
	for my $bytes (@attacks)
	{
		my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $front{$name}{port}, Proto => 'tcp') or die "connect: $!";
		$socket->blocking(0);
		$open{ fileno $socket } = $socket;
		$left{ fileno $socket } = $bytes;
	}
	my $end = time + 30;
	while (%open && time < $end)
	{
		my ($read, $write) = ('', '');
		vec($read,  $_, 1) = 1 for keys %open;
		vec($write, $_, 1) = 1 for grep { length $left{$_} } keys %open;
		next if select($read, $write, undef, 1) < 1;
		for my $fd (keys %open)
		{
			if (length $left{$fd} && vec($write, $fd, 1))
			{
				my $n = syswrite $open{$fd}, $left{$fd};
				$left{$fd} = defined $n ? substr($left{$fd}, $n) : '';
			}
			next if !vec($read, $fd, 1);
			my $n = sysread $open{$fd}, my $answer, 65536;
			delete $open{$fd} if !$n;
		}
	}
	return !%open;
}

# ---- the tests --------------------------------------------------------------------------------------------------------

my $count = 200;
my %received;
for my $name (sort keys %front)
{
	my $before = $r->stat('received');
	is(deliver($name, 'before', $count), $count, "$name: deliveries over kept connections are answered with 200");
	is($r->sql("SELECT count(*), sum(deliveries), string_agg(DISTINCT host(remote_addr), ' ')
			FROM kridtech.webhook_events WHERE call_id LIKE '$name\\_before\\_%'"),
		"$count|$count|127.0.0.7", "$name: each is stored once, from the client's address, not what the client says it is");
	is($r->stat('received') - $before, $count, "$name: and counted once");

	my $long = $r->webhook("${name}_long", transcript => 'word ' x 400_000);
	{
		local $r->{port} = $front{$name}{port};
		is($r->post($long), 200, "$name: a long transcript is answered with 200");
	}
	is($r->sql("SELECT length(raw) FROM kridtech.webhook_events WHERE call_id = '${name}_long'"), length $long, "$name: and is all there");

	my @attacks = attacks_on($name);
	ok(attack_all($name, @attacks), "$name: " . @attacks . ' requests that may be read in two ways come to an end');
	is(deliver($name, 'after', $count), $count, "$name: deliveries after them get the answers that are theirs");
	is($r->sql("SELECT count(*), sum(deliveries) FROM kridtech.webhook_events WHERE call_id LIKE '$name\\_after\\_%'"),
		"$count|$count", "$name: and are stored once");
	kt_wait(sub { $r->stat('waiting') == 0 });
	$received{$name} = $r->stat('received') - $before;
}
ok(stop($_), "$_ ends") for sort keys %running;
ok(kt_wait(sub { $r->stat('connections') == 0 }, 20), 'and leaves no connection');

# What is in the tables under a name that begins so: events by their deliveries, the inbox by its rows.
sub stored
{
	my ($name) = @_;
	return map { split /\|/ } split /\n/, $r->sql("
		SELECT call_id, sum(n) FROM (
			SELECT call_id, deliveries AS n FROM kridtech.webhook_events
			UNION ALL SELECT call_id, 1 FROM kridtech.webhook_inbox WHERE call_id IS NOT NULL) AS rows (call_id, n)
		 WHERE call_id LIKE '$name\\_%' AND call_id <> '${name}_long' GROUP BY call_id");
}

for my $name (sort keys %front)
{
	my %log   = forwarded($name);
	my $total = 0;
	my %named;
	for my $case (keys %log)
	{
		# what is answered by its head alone is no delivery
		$total += $log{$case}{$_} for grep { !/^4(04|05|13|31)$/ } keys %{ $log{$case} };
		$named{$case} = $log{$case}{200} if $case ne '' && $log{$case}{200};
	}
	my %rows = stored($name);
	note "$name: $total forwarded, $received{$name} received; hidden ones that both have seen: " . grep { /_h$/ } keys %named;
	cmp_ok(scalar(grep { /_\d+_[oh]$/ } keys %named), '>', 0, "$name: some of the odd requests were forwarded");
	cmp_ok($received{$name}, '<=', $total, "$name: the receiver has seen no request that was not forwarded");
	is_deeply(\%rows, \%named, "$name: what is stored is, name by name, what was forwarded and answered with 200");
}
unlike($r->log, qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
