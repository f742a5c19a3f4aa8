# A synchronous standby has each claim before its call is sent: a claim it has not confirmed is not dialled, also not
# where a cancel or an end cuts the wait for it short.
use strict;
use warnings;

use Dialing;
use Kridtech;
use Test::More;

my $d = Dialing->new('confirm', init => [ allows_streaming => 1 ]);

my $waits = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kridtech dialer' AND wait_event = 'SyncRep'};

sub cancelled
{
	return scalar(() = $d->log =~ /canceling wait for synchronous replication/g);
}

$d->becomes($d->queue('+4930095000'), 'placed', 'without a synchronous standby calls are placed');
$d->{node}->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = 'ghost'});
$d->forget_sessions;
$d->{node}->restart;    # a reload would take its time to reach every process
$d->sql('SET synchronous_commit = local');
my $id = $d->queue('+4930095001');
$d->sql_becomes($waits, 1, 'the claim waits for a standby that is not there');
is($d->k('+4930095001'), 0, 'and its call is not sent');
for my $round (1 .. 3)
{
	my $before = cancelled();
	$d->sql('SELECT pg_cancel_backend(' . $d->dialer_pid . ')');
	ok(kt_wait(sub { cancelled() > $before }), "cancel $round cuts the wait short");
	$d->sql_becomes($waits, 1, 'and the dialer waits again');
}
is($d->k('+4930095001'), 0, 'but nothing is sent');
my $pid = $d->dialer_pid;
$d->sql("SELECT pg_terminate_backend($pid)");
ok(kt_wait(sub { my $now = $d->dialer_pid; $now ne '' && $now ne $pid && $d->sql($waits) eq '1' }, 20), 'a dialer that was ended is followed by one that waits as well');
is($d->k('+4930095001'), 0, 'and nothing was sent');
$d->{node}->safe_psql('postgres', 'ALTER SYSTEM RESET synchronous_standby_names');
$d->{node}->reload;
$d->becomes($id, 'placed', 'once a commit needs no standby any more, it is placed', 20);
is($d->k('+4930095001'), 1, 'once');
is($d->request($id)->{attempts}, 1, 'and only that counts as an attempt');
is($d->sql("SELECT count(*) FROM kridtech.call_attempts WHERE request_id = $id AND live"), 1, 'one attempt may have been applied');
like($d->sql("SELECT string_agg(DISTINCT detail, ' ') FROM kridtech.call_attempts WHERE request_id = $id AND NOT live"), qr/^no synchronous standby has confirmed the claim$/,
	'the others say why nothing was sent');
$d->forget_sessions;
$d->{node}->stop('fast');
unlike($d->log, qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
