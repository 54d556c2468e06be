"""The load benchmark without the command line of feedcore: `python -m feedcore_bench`."""

from __future__ import annotations

import sys

from feedcore.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
