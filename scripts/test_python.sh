#!/bin/sh
# The unit suite and the engine's tests on another Python, in an environment of its own below build/:
#     scripts/test_python.sh [--if-installed] python3.13
# It is looked for on the PATH, then among uv's, then among pyenv's; the output says whose it is.
set -eu
cd "$(dirname "$0")/.."
required=yes
[ "$1" != --if-installed ] || { required=no; shift; }
name=$1

# "WHOSE PATH" of an interpreter that runs (a shim of pyenv may not).
find_it() {
    if "$name" -c '' 2>/dev/null; then
        echo "the system's $(command -v "$name")"
    elif found=$(uv python find --no-project "${name#python}" 2>/dev/null); then
        echo "uv's $found"
    else
        for found in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"${name#python}"*/bin/python; do
            "$found" -c '' 2>/dev/null && echo "pyenv's $found" && return
        done
    fi
}

whose=$(find_it)
if [ -z "$whose" ]; then
    echo "=== $name is neither on the PATH nor uv's nor pyenv's: NOTHING WAS TESTED ON IT ==="
    [ "$required" = no ]
    exit
fi
python=${whose##* }
echo "=== tests on $("$python" --version), $whose ==="
venv=build/$name
PYTHON=$python sh scripts/bootstrap.sh "$venv"
# Modules of both Pythons lie together in ext/: their names say whose they are.
"$venv/bin/python" setup.py -q build_ext --inplace
(cd benchmarks && "../$venv/bin/python" setup.py -q build_ext --inplace)
"$venv/bin/python" -m pytest -q tests/unit tests/integration/test_engine.py
