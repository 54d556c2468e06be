#!/bin/sh
# Installs the wheel $1 (or the one in dist/) into an empty environment outside of the checkout, where no compiler is
# on the path, and serves a post to a follower over the transport and the libnghttp2 that the wheel carries.
# EXTRAS=[cluster] installs those, too.
set -eu
cd "$(dirname "$0")/.."
wheel=$(ls "$PWD"/${1:-dist/feedcore-*.whl})
python=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
place=$(mktemp -d)
server=
trap 'code=$?; [ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$place"; exit $code' EXIT
trap 'exit 130' INT TERM

"$python" -m venv "$place/venv"
PIP_DISABLE_PIP_VERSION_CHECK=1 "$place/venv/bin/pip" install -q --only-binary :all: "$wheel${EXTRAS:-}"
cd "$place"

installed() { env -i PATH="$place/venv/bin" HOME="$place" "$@"; }

installed feedcore --version
installed python -c '
import importlib.util, feedcore.native
assert feedcore.native.COMPILED
for name in ("feedcore_bench", "feedcore_planner", "tests", "benchmarks", "server", "scripts"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed, too"'
port=$(installed python -c '
import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])')
env -i PATH="$place/venv/bin" HOME="$place" feedcore serve --data-dir "$place/data" --listen "127.0.0.1:$port" \
    --workers 1 --set server.transport=native --log-level warning &
server=$!
installed feedcore ping --server "127.0.0.1:$port" --wait 60
# The worker maps the copy of the wheel, and no libnghttp2 of the system.
installed python - "$server" <<'TEXT'
import pathlib, sys

processes = [sys.argv[1]]
for pid in processes:
    task = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    processes += task.read_text().split()
mapped = set()
for pid in processes:
    lines = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
    mapped |= {line.split()[-1] for line in lines if "libnghttp2" in line}
assert mapped and all("/feedcore.libs/" in path for path in mapped), mapped
print("serving with", *(pathlib.Path(path).name for path in mapped))
TEXT
installed feedcore follow 2 1 --server "127.0.0.1:$port" >/dev/null
installed feedcore post 1 "from the wheel" --server "127.0.0.1:$port" >/dev/null
installed feedcore feed 2 --once --server "127.0.0.1:$port" >page
grep -q "from the wheel" page
kill -TERM "$server"
wait "$server"
server=
echo "$(basename "$wheel"): a post and its follower's page, without a compiler"
