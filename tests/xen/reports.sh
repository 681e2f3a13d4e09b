#!/bin/sh
# Replaces cgi-bin/internal/status. Until the file "open" exists, the machine's name decides what
# happens to a report:
#   vm1   it arrives twice
#   vm2   it arrives, and its answer is lost
#   vm3   it is lost
#   vm4   it is kept, and sent later
place=/srv/reports
status=$place/status
report=$(mktemp "$place/report.XXXXXXXX")
cat > "$report"
word() { grep -o "\"$1\": *\"[^\"]*\"" "$2" | head -n 1 | cut -d '"' -f 4; }
lose() { printf 'Status: 503 Service Unavailable\r\nContent-Type: text/plain\r\n\r\nlost\n'; }
machine=$(word machine "/var/lib/vgrid/node/jobs/$(word id "$report").json")
[ ! -e $place/open ] || machine=any
case $machine in
*_vm1)
    $status < "$report" > /dev/null
    $status < "$report"
    ;;
*_vm2)
    $status < "$report" > /dev/null
    lose
    ;;
*_vm3) lose ;;
*_vm4)
    export -p > "$report.environment"
    mv "$report" "$report.environment" $place/kept/
    lose
    exit
    ;;
*) $status < "$report" ;;
esac
rm -f "$report"
