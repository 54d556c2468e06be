#!/bin/sh
# Serves on $1 with the data directory $2 until Ctrl-C; an empty store gets the demo world first.
# Called by `make run`, which has built everything.
set -eu
cd "$(dirname "$0")/.."
listen=$1
data=$2
feedcore=.venv/bin/feedcore
viewer=42

$feedcore serve --listen "$listen" --data-dir "$data" --log-level warning --log-format console &
server=$!
# Ctrl-C reaches the server, too (same process group): it drains, and `wait` below returns when it is done.
trap 'kill -TERM $server 2>/dev/null || true' TERM HUP EXIT
trap 'interrupted=yes' INT
interrupted=

wait_for_server() {
    $feedcore ping --server "$listen" --wait 60 &
    ping=$!
    while kill -0 $ping 2>/dev/null; do
        if ! kill -0 $server 2>/dev/null; then
            kill $ping 2>/dev/null || true
            return 1
        fi
        sleep 0.1
    done
    wait $ping
}
if ! wait_for_server; then
    [ -n "$interrupted" ] && exit 130
    echo "the server did not start; its message is above" >&2
    exit 1
fi
# The note says that loading began and did not end: then it is continued.
note="$data/demo-under-way"
again=
[ -e "$note" ] && again=--again
if [ -z "$interrupted" ]; then
    $feedcore demo --server "$listen" --note "$note" $again || [ -n "$interrupted" ] ||
        echo "the demo world is incomplete; make run again continues it" >&2
fi
if [ -z "$interrupted" ]; then
    $feedcore feed "$viewer" --server "$listen" --page-size 10 --once || true
    cat <<TEXT

Try (grpcurl needs no proto files):
  grpcurl -plaintext -d '{"user_id": $viewer, "page_size": 5}' $listen feedcore.v1.FeedService/GetFeed
  grpcurl -plaintext -d '{"author_id": $viewer, "body": "Hello"}' $listen feedcore.v1.PublishService/Publish
  grpcurl -plaintext $listen feedcore.v1.AdminService/GetStatus
or: .venv/bin/feedcore --help

Serving on $listen, data in $data. Ctrl-C stops.
TEXT
fi
# An interrupt ends the first wait; the second one waits for the server to drain.
status=0
wait $server || status=$?
if [ -n "$interrupted" ]; then
    wait $server || true
    status=0
fi
trap - EXIT
exit $status
