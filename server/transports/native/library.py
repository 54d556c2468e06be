"""Is the libnghttp2 of this machine one that a server may be built on? Asked once, at the start.

The floor is 1.52, what Debian 12 has. Distributions mend old versions in place, so the number alone
does not say which faults are there: where dpkg keeps a revision of the package, it is compared with
the one that has the mends. Faults that decide: CVE-2023-44487 (rapid reset; mended in 1.57 and
1.52.0-1+deb12u1), CVE-2024-28182 (CONTINUATION flood; 1.61, +deb12u2), CVE-2026-27135 (an assertion
that a peer can fail, which ends the process; 1.68.1, +deb12u3).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

FLOOR = (1, 52, 0)
MENDED = (1, 68, 1)  # the first release with every mend above
PACKAGE = "libnghttp2-14"
# Debian's revision of an older release that has every mend: (release, revision within it).
MENDED_REVISIONS = {"1.52.0-1+deb12u": 3}
DPKG_STATUS = Path("/var/lib/dpkg/status")
CARRIED = "feedcore.libs"  # where a wheel has its copy, beside the packages


class Finding(NamedTuple):
    """`usable` False: do not serve on it. `detail`: what to tell the operator, "" if all is
    well."""

    usable: bool
    detail: str


def installed_revision(status: Path = DPKG_STATUS) -> str:
    """Version of the package as dpkg knows it; "" where there is no dpkg or no such package."""
    try:
        text = status.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    paragraph = rf"^Package: {PACKAGE}\n(?:\S.*\n| .*\n)*?Version: (\S+)$"
    found = re.search(paragraph, text, re.MULTILINE)
    return found[1] if found else ""


def carried(module: Path) -> bool:
    """Whether the compiled module `feedcore/_native/http2/*.so` came in a wheel with a copy of the
    library. scripts/make_wheel.sh puts in none that `judge` would complain of.
    """
    return any((module.parents[3] / CARRIED).glob("libnghttp2-*"))


def judge(version_number: int, revision: str) -> Finding:
    """Of a version 0xMMNNPP and the package's revision ("" if there is none)."""
    version = (version_number >> 16, version_number >> 8 & 0xFF, version_number & 0xFF)
    name = "libnghttp2 " + ".".join(str(part) for part in version)
    if version < FLOOR:
        return Finding(False, f"{name} is too old; 1.52 is the oldest that can serve")
    if version >= MENDED:
        return Finding(True, "")
    for prefix, needed in MENDED_REVISIONS.items():
        if revision.startswith(prefix):
            number = re.match(r"\d+", revision.removeprefix(prefix))
            if number and int(number[0]) >= needed:
                return Finding(True, "")
            return Finding(
                False,
                f"{name} ({revision}) can be crashed by a peer (CVE-2026-27135); upgrade"
                f" {PACKAGE} to {prefix}{needed}",
            )
    shown = f" ({revision})" if revision else ""
    return Finding(
        True,
        f"{name}{shown}: make sure that it has the mend of CVE-2026-27135 (in 1.68.1), without"
        " which a peer can end the process",
    )
