# Answers every report on port 8099 as a server that wants the machine removed would, and records
# the reports.
use strict;
use IO::Socket::INET;
my $socket = IO::Socket::INET->new(LocalPort => 8099, Listen => 20, ReuseAddr => 1) or die "$!\n";
my $answer = '{"verdict":"abandon"}';
while (my $client = $socket->accept) {
    my ($length, $body) = (0, '');
    while (defined(my $line = <$client>)) {
        $length = $1 if $line =~ /^content-length:\s*(\d+)/i;
        last if $line =~ /^\r?\n$/;
    }
    read($client, $body, $length);
    print $client "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ", length $answer,
        "\r\nConnection: close\r\n\r\n", $answer;
    close $client;
    open(my $log, '>>', '/root/lies') or die "$!\n";
    print $log "$body\n";
}
