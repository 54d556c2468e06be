"""What a server says of itself: its Prometheus metrics, parsed."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import ServerProcess

Labels = tuple[tuple[str, str], ...]
SCRAPE_WITHIN_S = 10


def scrape(server: ServerProcess) -> dict[tuple[str, Labels], float]:
    """(sample name, sorted labels) -> value. The server needs `--metrics 127.0.0.1:0`."""
    (url,) = re.findall(r"feedcore metrics on (\S+)", "".join(server.lines))
    with urllib.request.urlopen(url, timeout=SCRAPE_WITHIN_S) as reply:
        text = reply.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def totals(server: ServerProcess) -> Counter[str]:
    """Sample name -> sum over its labels."""
    found: Counter[str] = Counter()
    for (name, _), value in scrape(server).items():
        found[name] += value
    return found
