# Calls and their webhooks: whatever the order in which the answer and the webhook come, and whatever the answer was,
# they find each other. The simulator makes the calls and sends the webhooks.
use strict;
use warnings;

use Kridtech;
use KridtechCrash qw(sim_post sim_get);
use Receiving;
use Test::More;

my $r = Receiving->new('calls', sim => [ '--ring-time', 50, '--talk-time', 50 ], conf => "kridtech.max_unknown = 0\n");
my $sim = $r->{sim};
sim_post($sim, 'settings', { webhook_url => 'http://127.0.0.1:' . $r->port . $r->path });

sub queue
{
	my ($number) = @_;
	return $r->sql("SELECT kridtech_queue_call('$number', '{\"first_name\": \"James\"}')");
}

# A request and its event: state, verified_by, deliveries.
sub joined
{
	my ($id) = @_;
	return "SELECT state, verified_by, deliveries FROM kridtech.call_requests AS c"
	  . " JOIN kridtech.webhook_events AS e ON e.request_id = c.id AND e.call_id = c.call_id WHERE c.id = $id";
}

my %case = (
	'+15550100001' => [ 'placed|request|1',     'an ordinary call' ],
	'+15550100006' => [ qr/^placed\|(request|correlation)\|1$/, 'a webhook that comes before the answer' ],
	'+15550100008' => [ 'placed|request|2',     'a webhook that is sent twice' ],
	'+15550100009' => [ 'placed|request|1',     'a webhook whose fields are null' ],
	'+15550100011' => [ qr/^placed\|/,          'a webhook that comes long before the answer' ],
	'+15550100621' => [ 'placed|correlation|1', 'a call whose answer was 500' ],
	'+15550100601' => [ 'placed|correlation|1', 'a call whose answer was cut off' ],
	'+15550100211' => [ 'placed|correlation|1', 'a call whose answer was empty' ]);
my %id = map { $_ => queue($_) } sort keys %case;
for my $number (sort keys %case)
{
	my ($expected, $name) = @{ $case{$number} };
	my $got = '';
	kt_wait(sub { ($got = $r->sql(joined($id{$number}))) =~ /^placed/ && ($number !~ /0008$/ || $got =~ /2$/) }, 30);
	ref $expected ? like($got, $expected, "$name: bound") : is($got, $expected, "$name: bound");
	is(sim_get($sim, 'k?toNumber=' . $number =~ s/\+/%2B/r)->{k}, 1, 'after one ring');
}

# nobody sends it a webhook
my $silent = queue('+15550100007');
$r->becomes("SELECT state FROM kridtech.call_requests WHERE id = $silent", 'placed', 'a call without a webhook is placed');
is($r->sql("SELECT count(*) FROM kridtech.webhook_events WHERE request_id = $silent"), 0, 'and has no event');

is($r->post($r->webhook('call_forged')), 200, 'a webhook of a call nobody knows is answered with 200');
is($r->sql(q{SELECT verified_by IS NULL AND request_id IS NULL FROM kridtech.webhook_events WHERE call_id = 'call_forged'}), 't',
	'but verified by nothing');

# a copy does not dial, but what it is sent is received
$r->sql('UPDATE kridtech.identity SET system_identifier = system_identifier + 1');
$r->becomes(q{SELECT detail ~ '^paused: this database is a copy' FROM kridtech.health WHERE component = 'dialer'}, 't', 'on a copy the dialer is paused');
is($r->post($r->webhook('call_copy')), 200, 'and the receiver receives');

unlike($r->log, qr/TRAP|PANIC|was terminated by signal/, 'nothing crashed');
done_testing;
