# A cluster whose dialer talks to a simulator, and the questions the dial_*.pl tests ask of both.
#
#	my $d = Dialing->new('name', conf => ..., sim => [...]);
#	my $id = $d->queue('+4930000001', priority => 5);
#	$d->becomes($id, 'placed', 'an ordinary request is placed');
#	is($d->k('+4930000001'), 1, 'and was sent once');
#
# Accounts are free of charge here: the key is good for any, so a test gives each case its own, and no case
# sees the pauses of another.
package Dialing;

use strict;
use warnings;

use HTTP::Tiny ();
use JSON::PP   ();
use Kridtech;
use Test::More;
use Time::HiRes qw(sleep);

# The API key; whatever shows it to anybody fails a test.
our $KEY = 'dialing-secret-key-7f3a';

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

# Options: conf (text for postgresql.conf), sim (list for the simulator), database, init, encoding (of the
# database), listeners (instead of a plain one), base_url.
sub new
{
	my ($class, $name, %option) = @_;
	my $self = bless { database => $option{database} // 'postgres', sessions => {} }, $class;
	$self->{sim} = kt_simulator(@{ $option{listeners} // [ '--listen', '127.0.0.1:0' ] },
		'--die-with-parent', '--seed', '1', '--key', $KEY, @{ $option{sim} // [] });
	$self->{port}     = $self->{sim}{ready}{listeners}[0]{port};
	$self->{http}     = HTTP::Tiny->new(timeout => 20);
	$self->{key_file} = kt_key_file("$KEY\n");
	my $base_url = $option{base_url} // $self->url;
	$self->{node} = kt_cluster(
		$name,
		start => 0,
		init  => $option{init} // [],
		conf  => <<"CONF" . ($option{conf} // ''));
kridtech.base_url = '$base_url'
kridtech.api_key_file = '$self->{key_file}'
kridtech.account_id = 'acct-1'
kridtech.databases = '$self->{database}'
kridtech.max_unknown = 0
kridtech.sync_interval = 0
autovacuum = off
log_statement = none
CONF
	$self->{node}->start;
	$self->create_database($self->{database}, $option{encoding}) if $self->{database} ne 'postgres';
	$self->{node}->safe_psql($self->{database}, 'CREATE EXTENSION kridtech');
	$self->dials($self->{database}) or die "the dialer does not dial: " . $self->health('dialer');
	return $self;
}

# The same questions, asked of another cluster that talks to the same simulator.
sub beside
{
	my ($self, $node, $database) = @_;
	return bless { %$self, node => $node, database => $database // $self->{database}, sessions => {} }, ref $self;
}

sub create_database
{
	my ($self, $name, $encoding) = @_;
	my $how = defined $encoding ? "TEMPLATE template0 ENCODING '$encoding' LOCALE 'C'" : '';
	$self->{node}->safe_psql('postgres', "CREATE DATABASE \"$name\" $how");
	return;
}

sub url
{
	my ($self, $listener) = @_;
	return 'http://127.0.0.1:' . $self->{sim}{ready}{listeners}[ $listener // 0 ]{port};
}

# ---- SQL -----------------------------------------------------------------------------------------------

# A session that stays, one a database, so that waiting for a condition costs no process each time.
sub session
{
	my ($self, $database) = @_;
	$database //= $self->{database};
	return $self->{sessions}{$database} //= kt_background($self->{node}, $database, timeout => 3600);
}

# A statement's output; dies of its error.
sub sql
{
	my ($self, $statement, $database) = @_;
	my $session = $self->session($database);
	my $out     = $session->query($statement);
	die $session->errors . "in: $statement\n" if $session->errors =~ /^(psql:\S*: )?(ERROR|FATAL)/m;
	return $out;
}

# The error of a statement that must fail, with its SQLSTATE.
sub sql_error
{
	my ($self, $statement, $database) = @_;
	my $session = $self->session($database);
	$session->query($statement);
	return $session->errors;
}

sub forget_sessions
{
	my ($self) = @_;
	$self->{sessions} = {};
	return;
}

sub row
{
	my ($self, $query, $database) = @_;
	my $text = $self->sql("SELECT row_to_json(q) FROM ($query) AS q", $database);
	return $text eq '' ? undef : $json->decode((split /\n/, $text)[0]);
}

sub rows
{
	my ($self, $query, $database) = @_;
	return @{ $json->decode($self->sql("SELECT coalesce(json_agg(q), '[]') FROM ($query) AS q", $database)) };
}

sub literal
{
	my ($value) = @_;
	return 'NULL' if !defined $value;
	$value = $json->encode($value) if ref $value;
	(my $quoted = $value) =~ s/'/''/g;
	$quoted =~ s/\\/\\\\/g;
	return " E'$quoted'";
}

# Values that begin with '=' are expressions.
sub queue_statement
{
	my ($number, %argument) = @_;
	my $arguments = join '', map {
		my $value = $argument{$_};
		", $_ => " . (!ref $value && defined $value && $value =~ /^=(.*)/s ? $1 : literal($value))
	} sort keys %argument;
	return 'SELECT kridtech_queue_call(' . literal($number) . "$arguments)";
}

# Queues a call and returns the request's id.
sub queue
{
	my ($self, $number, %argument) = @_;
	return $self->sql(queue_statement($number, %argument));
}

sub request
{
	my ($self, $id, $database) = @_;
	return $self->row("SELECT * FROM kridtech.call_requests WHERE id = $id", $database);
}

sub state
{
	my ($self, $id, $database) = @_;
	return $self->sql("SELECT state FROM kridtech.call_requests WHERE id = $id", $database);
}

# A request's attempts, the first one first.
sub attempts
{
	my ($self, $id, $database) = @_;
	return $self->rows("SELECT * FROM kridtech.call_attempts WHERE request_id = $id ORDER BY id", $database);
}

# The pause of a cause an account has, or undef.
sub pause
{
	my ($self, $account, $cause) = @_;
	return $self->row('SELECT *, extract(epoch FROM until - clock_timestamp()) AS left,'
		  . ' extract(epoch FROM probe_at - clock_timestamp()) AS probe_left FROM kridtech.pauses WHERE account_id = '
		  . literal($account) . ' AND cause = ' . literal($cause));
}

sub causes
{
	my ($self, $account) = @_;
	return $self->sql(q{SELECT coalesce(string_agg(cause, ' ' ORDER BY cause), '') FROM kridtech.pauses WHERE account_id = }
		  . literal($account));
}

sub health
{
	my ($self, $component, $database) = @_;
	return $self->sql("SELECT ok, detail FROM kridtech.health WHERE component = '$component'", $database);
}

sub stat
{
	my ($self, $name, $database) = @_;
	return $self->sql("SELECT value FROM kridtech.stats WHERE name = '$name'", $database);
}

# ---- waiting -----------------------------------------------------------------------------------------------

sub dials
{
	my ($self, $database, $seconds) = @_;
	return kt_wait(sub { $self->health('dialer', $database) eq 't|dialling' }, $seconds // 15);
}

# A test: the request comes to this state.
sub becomes
{
	my ($self, $id, $state, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return kt_becomes(sub { $self->state($id) }, $state, $name, $seconds);
}

# A test: a query comes to this output.
sub sql_becomes
{
	my ($self, $query, $expected, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return kt_becomes(sub { $self->sql($query) }, $expected, $name, $seconds);
}

# The dialer has had its chance: so many of its turns, woken for, and each looks at the queue.
sub turns
{
	my ($self, $turns, $database) = @_;
	my $end = $self->stat('loop_turns', $database) + ($turns // 3);
	kt_wait(sub { $self->sql('SELECT kridtech_wake()', $database); $self->stat('loop_turns', $database) >= $end })
	  or die 'the dialer does not turn';
	return;
}

# Sets settings and returns when sessions and the dialer have them.
sub set
{
	my ($self, %setting) = @_;
	for my $name (keys %setting)
	{
		$self->{node}->safe_psql('postgres', "ALTER SYSTEM SET $name = " . literal($setting{$name}));
	}
	return $self->reloaded;
}

sub reset
{
	my ($self, @names) = @_;
	$self->{node}->safe_psql('postgres', "ALTER SYSTEM RESET $_") for @names;
	return $self->reloaded;
}

# The postmaster passes the signal on before it lets the next session in; after that, two turns of the dialer.
sub reloaded
{
	my ($self) = @_;
	my $before = $self->{node}->safe_psql('postgres', 'SELECT pg_conf_load_time()');
	$self->{node}->reload;
	kt_wait(sub { $self->{node}->safe_psql('postgres', 'SELECT pg_conf_load_time()') ne $before }) or die 'no reload';
	$self->turns(3);
	return;
}

# ---- the simulator -----------------------------------------------------------------------------------------

sub _answer
{
	my ($what, $response) = @_;
	$response->{success} or die "simulator: $what: $response->{status} $response->{content}";
	return length $response->{content} ? $json->decode($response->{content}) : undef;
}

sub get
{
	my ($self, $path) = @_;
	return _answer($path, $self->{http}->get($self->url . "/sim/$path"));
}

sub post
{
	my ($self, $path, $data) = @_;
	return _answer($path,
		$self->{http}->post($self->url . "/sim/$path", { content => $json->encode($data // {}) }));
}

sub scenario
{
	my ($self, %scenario) = @_;
	return $self->post('scenarios', \%scenario);
}

sub no_scenarios
{
	my ($self) = @_;
	return _answer('scenarios', $self->{http}->delete($self->url . '/sim/scenarios'));
}

sub _escaped
{
	my ($text) = @_;
	$text =~ s/([^A-Za-z0-9.-])/sprintf '%%%02X', ord $1/ge;
	return $text;
}

# How many create-calls arrived whole for a number.
sub k
{
	my ($self, $number) = @_;
	return $self->get('k?toNumber=' . _escaped($number))->{k};
}

# The ledger's entries, of a number or all.
sub ledger
{
	my ($self, $number) = @_;
	return @{ $self->get('ledger' . (defined $number ? '?toNumber=' . _escaped($number) : '')) };
}

# The dialer's CPU time in seconds.
sub cpu
{
	my ($self, $database) = @_;
	my $pid = $self->dialer_pid($database);
	open my $file, '<', "/proc/$pid/stat" or die "/proc/$pid/stat: $!";
	my @fields = split ' ', <$file> =~ s/.*\) //r;
	return ($fields[11] + $fields[12]) / 100;
}

sub dialer_pid
{
	my ($self, $database) = @_;
	$database //= $self->{database};
	return $self->sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'kridtech dialer' AND datname = '$database'");
}

# A test: while this goes on, the dialer sleeps rather than turns in circles.
sub sleeps
{
	my ($self, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($turns, $cpu) = ($self->stat('loop_turns'), $self->cpu);
	sleep($seconds // 1.5);
	my $turned = $self->stat('loop_turns') - $turns;
	return ok($turned < 60, $name)
	  || diag(sprintf '%d turns, %.2f s of CPU in %.1f s', $turned, $self->cpu - $cpu, $seconds // 1.5);
}

# The server's log.
sub log
{
	my ($self) = @_;
	open my $file, '<', $self->{node}->logfile or die $self->{node}->logfile . ": $!";
	local $/;
	return <$file>;
}

1;
