#!/bin/sh
# Makes the virtual environment named by $1 and installs feedcore into it, editable, with its tests.
# What is missing from the system is installed on Debian and Ubuntu for root; anybody else gets the command.
set -eu
cd "$(dirname "$0")/.."
venv=${1:-.venv}

# A Python that is new enough; FEEDCORE has no say here, PYTHON has.
find_python() {
    for name in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

# Names of what the build lacks, one word each.
missing() {
    python=$(find_python)
    if [ -z "$python" ]; then
        echo "python>=3.11 venv headers"
    else
        "$python" -c 'import ensurepip, venv' 2>/dev/null || echo venv
        "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || echo headers
    fi
    command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || echo compiler
    command -v make >/dev/null 2>&1 || echo make
}

# What the native gRPC transport lacks. Without it calls go over grpc.aio, so that it may be missing.
missing_transport() {
    pkg-config --exists 'libnghttp2 >= 1.52' 2>/dev/null || echo libnghttp2-dev pkg-config
}

# The Debian packages for it: the distribution's Python if that is new enough, else python3.11.
packages() {
    python=$(find_python)
    release=$(. /etc/os-release 2>/dev/null && echo "${ID:-}${VERSION_ID:-}") || release=
    case "$release" in
        ubuntu20.04 | ubuntu22.04) prefix=python3.11 ;;
        *) prefix=python3 ;;
    esac
    case "$python" in python3.*) prefix=$python ;; esac
    echo "$prefix $prefix-venv $prefix-dev gcc libc6-dev make ca-certificates"
}

lacking=$(missing | tr '\n' ' ')
if [ -n "$lacking" ]; then
    echo "missing on this system: $lacking"
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "install Python 3.11 or newer with venv and headers, a C compiler and make; then run this again"
        exit 1
    fi
    command="apt-get update && apt-get install -y --no-install-recommends $(packages)"
    if [ "$(id -u)" != 0 ]; then
        echo "run this, then the same command again:"
        echo "    sudo sh -c '$command'"
        exit 1
    fi
    echo "installing: $command"
    DEBIAN_FRONTEND=noninteractive sh -c "$command"
    lacking=$(missing | tr '\n' ' ')
    [ -z "$lacking" ] || { echo "still missing: $lacking"; exit 1; }
fi

# libnghttp2-14 by name: its security updates must be in, not only its headers.
if [ -n "$(missing_transport)" ]; then
    command="apt-get update && apt-get install -y --no-install-recommends pkg-config libnghttp2-dev libnghttp2-14"
    if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        echo "installing: $command"
        DEBIAN_FRONTEND=noninteractive sh -c "$command" || echo "not to be had: calls will go over grpc.aio"
    else
        echo "without libnghttp2 >= 1.52 (headers) and pkg-config calls go over grpc.aio, far slower; for the native"
        echo "transport install them, then run 'make clean build'. On Debian and Ubuntu:"
        echo "    sudo sh -c '$command'"
    fi
fi

python=$(find_python)
# An environment of another Python, or one whose Python has gone, is made anew.
if ! "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
echo "installing feedcore and what it needs into $venv"
requires=$("$venv/bin/python" -c 'import tomllib
for name in tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]: print(name)')
# One environment builds and runs: no second download of the build tools, and `make build` can compile again.
echo "$requires" >"$venv/build-requires.txt"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
"$venv/bin/python" -m pip install -q -r "$venv/build-requires.txt"
# Nothing is compiled here: `make build` does that, and says how far it is.
export FEEDCORE_NO_EXTENSIONS=1
"$venv/bin/python" -m pip install -q --no-build-isolation -e '.[test,cluster]' -e tools -e benchmarks
