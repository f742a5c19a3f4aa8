# A cluster of which there are others, with both workers, and the questions of Dialing and Receiving in one object
# each: what the copy_*.pl tests share.
package Copying;

use strict;
use warnings;

use Dialing;
use Exporter 'import';
use HTTP::Tiny ();
use Kridtech;
use Receiving;
use Test::More;

our @EXPORT = qw(copying_conf copying_both copying_new_node copying_refuses copying_listens_at copying_paused);

# Settings of a cluster whose workers are for the database app.
sub copying_conf
{
	my ($sim) = @_;
	return kt_api_settings($sim) . <<'CONF';
autovacuum = off
log_statement = none
kridtech.databases = 'app'
kridtech.sync_interval = 0
kridtech.max_unknown = 0
kridtech.webhook_listen = '127.0.0.1:0'
CONF
}

# The two that ask: of the dialer, of the receiver.
sub copying_both
{
	my ($sim, $node, $database) = @_;
	$database //= 'app';
	return (
		bless({ sim => $sim, node => $node, database => $database, sessions => {}, http => HTTP::Tiny->new(timeout => 20) }, 'Dialing'),
		bless({ node => $node, database => $database, token => '' }, 'Receiving'));
}

sub copying_new_node
{
	my ($node, $name) = @_;
	my $class = ref $node;
	return $class->can('get_new_node') ? $class->get_new_node($name) : $class->new($name);
}

# The port a server has bound, by its log: also where it does not listen.
sub copying_listens_at
{
	my ($node) = @_;
	open my $file, '<', $node->logfile or die $node->logfile . ": $!";
	local $/;
	my @ports = <$file> =~ /kridtech: bound to 127\.0\.0\.1:(\d+)/g;
	return $ports[-1];
}

sub copying_refuses
{
	my ($port) = @_;
	return !IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp', Timeout => 5) && $!{ECONNREFUSED};
}

# A test: the dialer is paused, for this reason.
sub copying_paused
{
	my ($d, $why, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return kt_becomes(sub { $d->health('dialer') }, "f|paused: this database is a copy ($why); kridtech_adopt() lets it dial", $name, 30);
}

1;
