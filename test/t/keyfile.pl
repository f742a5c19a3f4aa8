# Which key files are read, that a new key counts at once, and that no message shows what a file holds.
use strict;
use warnings;

use File::Temp qw(tempdir);
use Kridtech;
use POSIX qw(mkfifo);
use Test::More;

my $canary = 'KEYFILE-canary-5d1f';
my $sim    = kt_simulator('--key', 'sim-key', '--key', $canary, '--key', 'other=other-key');
my $node   = kt_cluster('keyfile', conf => kt_api_settings($sim));
kt_create_extension($node);

my $dir  = tempdir(CLEANUP => 1);
my $path = "$dir/key";
kt_configure($node, "kridtech.api_key_file = '$path'");
my $session = kt_background($node, 'postgres', timeout => 60);
my $number  = 49306000000;

sub put
{
	my ($content, $mode) = @_;
	unlink $path;
	open my $file, '>', $path or die "$path: $!";
	print $file $content;
	close $file or die "$path: $!";
	chmod $mode // 0600, $path or die "$path: $!";
	return;
}

sub call
{
	my ($account) = @_;
	my $to = '+' . $number++;
	my $state = $session->state("SELECT kridtech_create_call('$to'" . (defined $account ? ", NULL, '$account'" : '') . ')');
	return ($state, $sim->k($to));
}

sub refused
{
	my ($what, $words) = @_;
	is_deeply([ call() ], [ '28000', 0 ], "$what: 28000, nothing is sent");
	like($session->errors, qr/API key file "\Q$path\E" $words/, "$what: the message names the file and its problem");
	unlike($session->errors, qr/canary|5d1f/i, "$what: and nothing it holds");
	return;
}

# -- modes
for my $mode (0600, 0400)
{
	put($canary, $mode);
	is_deeply([ call() ], [ '00000', 1 ], sprintf 'permissions %04o are accepted', $mode);
}
for my $mode (0644, 0640, 0604, 0660, 0602, 0620, 0700, 0500, 0444, 0777, 04600, 02600, 01600)
{
	put($canary, $mode);
	refused(sprintf('permissions %04o', $mode), qr/has permissions other than 0600 and 0400/);
}
for my $mode (0000, 0200, 0100)
{
	put($canary, $mode);
	refused(sprintf('permissions %04o', $mode), $> == 0 ? qr/has permissions/ : qr/cannot be read/);
}

# -- what is no key file
unlink $path;
refused('a missing file', qr/does not exist/);
mkdir $path or die $!;
refused('a directory', qr/is not a regular file/);
rmdir $path;
mkfifo($path, 0600) or die $!;
$session->query(q{SET statement_timeout = '20s'});
refused('a pipe without a writer', qr/is not a regular file/);
$session->query('RESET statement_timeout');
unlink $path;
symlink $path, $path or die $!;
refused('a link to itself', qr/cannot be read/);
unlink $path;
symlink '/dev/zero', $path or die $!;
refused('a device', qr/is not a regular file/);
unlink $path;
if ((stat '/etc/passwd')[4] != $> && -r '/etc/passwd')
{
	symlink '/etc/passwd', $path or die $!;
	refused('a file of another user', qr/does not belong to the server's user/);
	unlike($session->errors, qr/root:/, 'and shows none of it');
	unlink $path;
}
my $below = "$dir/closed";
mkdir $below, 0700 or die $!;
symlink "$below/key", $path or die $!;
chmod 0000, $below;
refused('a file in a closed directory', qr/cannot be read|does not exist/);
chmod 0700, $below;
unlink $path;

# -- contents
my %bad = (
	'an empty file'             => [ '',                      qr/is empty/ ],
	'a file with a newline'     => [ "\n",                    qr/is empty/ ],
	'a file with white space'   => [ " \t\r\n\n",             qr/is empty/ ],
	'a file of 10 kB'           => [ $canary x 540,           qr/is too long/ ],
	'a file of 1 MB'            => [ 'k' x 1_048_576,         qr/is too long/ ],
	'two lines'                 => [ "$canary\n$canary\n",    qr/holds a character that does not belong there/ ],
	'a header of its own'       => [ "$canary\r\nX-Evil: 1",  qr/holds a character/ ],
	'a blank within'            => [ "$canary $canary",       qr/holds a character/ ],
	'a NUL'                     => [ "$canary\0",             qr/holds a character/ ],
	'a byte order mark'         => [ "\xEF\xBB\xBF$canary",   qr/holds a character/ ],
	'a letter beyond ASCII'     => [ "$canary\xC3\xA4",       qr/holds a character/ ]);
for my $what (sort keys %bad)
{
	put($bad{$what}[0]);
	refused($what, $bad{$what}[1]);
}
my %good = ('a trailing newline' => "$canary\n", 'a trailing CRLF' => "$canary\r\n", 'no newline' => $canary,
	'blank lines around' => "\n\n  $canary \n\n");
for my $what (sort keys %good)
{
	put($good{$what});
	is_deeply([ call() ], [ '00000', 1 ], "$what does no harm");
}

# -- read afresh
my $pid = $session->pid;
put('wrong-canary-5d1f');
is_deeply([ call() ], [ '28000', 1 ], 'a key the API refuses: 28000');
unlike($session->errors, qr/canary|5d1f/, 'without the key in the message');
put($canary);
is_deeply([ call() ], [ '00000', 1 ], 'the right key in the same file counts with the next call');
unlink $path;
is((call())[0], '28000', 'a file that was taken away is missed at once');
put('sim-key');
is_deeply([ call() ], [ '00000', 1 ], 'and found again');
is($session->pid, $pid, 'all in one backend');

# -- kridtech.accounts
my $other = kt_key_file("other-key\n");
is_deeply([ call('other') ], [ '00000', 1 ], 'an account without a row of its own uses the default file');
put('wrong');
$session->query("INSERT INTO kridtech.accounts VALUES ('other', '$other'), ('plain', NULL)");
is_deeply([ call('other') ], [ '00000', 1 ], 'an account with a file of its own uses that');
is((call('plain'))[0], '28000', 'one whose row names no file uses the default one');
put('sim-key');
is_deeply([ call('plain') ], [ '00000', 1 ], 'whatever it then holds');
is((call())[0], '00000', 'and so does the default account');
$session->query(qq{UPDATE kridtech.accounts SET api_key_file = '$dir/missing' WHERE account_id = 'other'});
is((call('other'))[0], '28000', 'a file that is missing is not replaced by the default one');
like($session->errors, qr/\Q$dir\E\/missing" does not exist/, 'and is named');
kt_configure($node, q{kridtech.api_key_file = ''}, $session);
is((call())[0], '28000', 'without any file: 28000');
like($session->errors, qr/no API key file is set/, 'which the message says');

unlike(PostgreSQL_log(), qr/canary|5d1f/, 'no key stands in the server log');

sub PostgreSQL_log
{
	open my $log, '<', $node->logfile or die $!;
	local $/;
	return scalar <$log>;
}

$session->quit;
$node->stop;
done_testing();
