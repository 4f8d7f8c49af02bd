"""The command line: reads arguments, calls the library, prints.

Each command has a file of its own, :mod:`absynth.cli.options` has the options that they share,
:mod:`absynth.cli.steps` the steps that they share, and :mod:`absynth.cli.commands` puts them together.

``absynth --help`` imports all commands. Most of the library imports PyTorch, which takes seconds; so a
command imports what it needs of the library only when it runs.
"""

import sys

try:
    from absynth.cli.commands import app, main
except KeyboardInterrupt:  # in the moment before the command line can tell it
    print("Interrupted.", file=sys.stderr)
    raise SystemExit(130) from None

__all__ = ["app", "main"]
