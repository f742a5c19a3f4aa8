# Webhooks become rows: what each request is answered, what is stored of it, and who may send.
use strict;
use warnings;

use Kridtech;
use Receiving;
use Test::More;

my $r = Receiving->new('receive');

# ---- one webhook ----------------------------------------------------------------------------------------------

my $body = $r->webhook('call_1');
is($r->post($body), 200, 'a webhook is answered with 200');
is($r->deliveries('call_1'), 1, 'and is an event by then');
done_testing;
