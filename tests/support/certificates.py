"""Throw-away certificates for tests, made with the openssl command: an authority, and what it
signs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.tools import tool


class Authority:
    """A certificate authority of its own, in `folder`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        tool("openssl", "apt-get install openssl")
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", self._key, "-out", self.certificate, "-days", "2",
                 "-subj", f"/CN={name}",
                 # Python 3.13 asks an authority to say that it signs certificates
                 "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip

    def issue(self, name: str, days: int = 2) -> tuple[Path, Path]:
        """(certificate, key) for a common name, valid for localhost and 127.0.0.1. `days` 0: it has
        expired."""
        key, request = self._folder / f"{name}.key", self._folder / f"{name}.csr"
        certificate, extra = self._folder / f"{name}.pem", self._folder / f"{name}.ext"
        extra.write_text(
            f"subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n"
        )
        _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", key, "-out", request, "-subj", f"/CN={name}")  # fmt: skip
        _openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
                 "-CAcreateserial", "-out", certificate, "-days", str(days),
                 "-extfile", extra)  # fmt: skip
        return certificate, key


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
