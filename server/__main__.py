"""`python -m feedcore_server [section.key=value ...]`: the server without the command line around
it."""

from __future__ import annotations

import sys

from feedcore.config import load
from feedcore.errors import ConfigError
from feedcore_server.processes.supervisor import run


def main(arguments: list[str]) -> int:
    """Settings from arguments over environment over file; the exit code."""
    flags = dict(argument.partition("=")[::2] for argument in arguments)
    try:
        settings = load(flags).settings
    except ConfigError as error:
        sys.stderr.write(f"feedcore cannot start: {error}\n")
        return 2
    return run(settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
