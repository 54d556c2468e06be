"""The command line: the composition root for people. `feedcore --help` lists the commands.

The outermost shell: it may import everything, nothing imports it. Each file is a group of commands;
errors are turned into one line and an exit code in `app` alone (0 done, 1 failed, 2 wrong usage,
130 interrupted).
"""

from feedcore.cli.app import main

__all__ = ["main"]
