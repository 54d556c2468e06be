"""Certificates that change on disk: what is taken over, what is reported, and how often."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from feedcore.errors import ConfigError
from feedcore_server.transports.native import Certificates, TlsFiles
from tests.support.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def put(pair: tuple[Path, Path], files: TlsFiles) -> None:
    """Replaces both files, each in one step."""
    for source, target in zip(pair, (files.certificate, files.key), strict=True):
        fresh = target.with_suffix(".new")
        shutil.copy(source, fresh)
        os.replace(fresh, target)


def shown(certificates: Certificates, authority: Authority) -> bytes:
    """The certificate that a handshake with the context sees, without a socket."""
    client = ssl.create_default_context(cafile=authority.certificate)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = certificates.context.wrap_bio(up, down, server_side=True)
    theirs = client.wrap_bio(down, up, server_hostname="localhost")
    for side in (theirs, ours, theirs):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return theirs.getpeercert(binary_form=True) or b""


def der(certificate: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


def test_a_pair_is_taken_over_and_half_a_pair_is_reported_once(
    authority: Authority, tmp_path: Path
) -> None:
    first, second = authority.issue("first"), authority.issue("second")
    files = TlsFiles(tmp_path / "live.pem", tmp_path / "live.key")
    put(first, files)
    certificates = Certificates(files)
    with capture_logs() as logs:
        assert not certificates.reload_if_changed(), "nothing has changed"
        put((second[0], first[1]), files)
        for _ in range(3):
            assert not certificates.reload_if_changed()
        assert [line["event"] for line in logs] == ["certificate not reloaded"]
        assert str(files.key) in logs[0]["detail"]
        assert shown(certificates, authority) == der(first[0])
        files.certificate.unlink()
        assert not certificates.reload_if_changed(), "half way through another one"
        put((first[0], second[1]), files)
        assert not certificates.reload_if_changed()
        assert len(logs) == 2, "another state of the files, another report"
        put(second, files)
        assert certificates.reload_if_changed() and not certificates.reload_if_changed()
        assert [line["event"] for line in logs[2:]] == ["certificate reloaded"]
    assert shown(certificates, authority) == der(second[0])


def test_files_that_do_not_load_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("good")
    absent, garbage = tmp_path / "absent.pem", tmp_path / "garbage.pem"
    garbage.write_text("no PEM at all")
    for files, word in (
        (TlsFiles(absent, key), str(absent)),
        (TlsFiles(garbage, key), str(garbage)),
        (TlsFiles(certificate, authority.issue("other")[1]), "server.tls_key"),
        (TlsFiles(certificate, key, absent), f"server.tls_client_ca {absent}"),
        (TlsFiles(certificate, key, garbage), f"server.tls_client_ca {garbage}"),
    ):
        with pytest.raises(ConfigError) as caught:
            Certificates(files)
        assert word in str(caught.value)
