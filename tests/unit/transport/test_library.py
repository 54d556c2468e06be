"""Which libnghttp2 may serve: versions, revisions of distributions, and what this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from feedcore_server.transports.native.library import carried, installed_revision, judge

STATUS = """Package: libnghttp2-13
Status: deinstall ok config-files
Version: 1.40.0-1

Package: libnghttp2-14
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Description: library
 implementing
 HTTP/2
Version: 1.52.0-1+deb12u3

Package: zlib1g
Version: 1:1.2.13
"""


@pytest.mark.parametrize(
    ("version", "revision", "usable", "says"),
    [
        (0x013300, "", False, "1.51.0 is too old"),
        (0x013400, "1.52.0-1+deb12u2", False, "upgrade libnghttp2-14 to 1.52.0-1+deb12u3"),
        (0x013400, "1.52.0-1+deb12u3", True, ""),
        (0x013400, "1.52.0-1+deb12u10", True, ""),
        (0x013400, "1.52.0-1", True, "CVE-2026-27135"),
        (0x013B00, "", True, "libnghttp2 1.59.0: make sure"),
        (0x014400, "1.68.0-1", True, "libnghttp2 1.68.0 (1.68.0-1): make sure"),
        (0x014401, "", True, ""),
        (0x014600, "1.70.0-1", True, ""),
    ],
)
def test_versions_are_judged(version: int, revision: str, usable: bool, says: str) -> None:
    finding = judge(version, revision)
    assert finding.usable is usable
    assert (says in finding.detail) if says else finding.detail == ""


def test_the_revision_is_read_from_dpkg(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(STATUS)
    assert installed_revision(status) == "1.52.0-1+deb12u3"
    status.write_text("Package: zlib1g\nVersion: 1\n")
    assert installed_revision(status) == ""
    assert installed_revision(tmp_path / "absent") == ""


def test_a_copy_in_a_wheel_is_known_by_its_place(tmp_path: Path) -> None:
    module = tmp_path / "feedcore" / "_native" / "http2" / "h2.so"
    assert not carried(module)
    (tmp_path / "feedcore.libs").mkdir()
    assert not carried(module)
    (tmp_path / "feedcore.libs" / "libnghttp2-0a1b2c.so.14.24.1").touch()
    assert carried(module)
