"""``python -m absynth.cli`` is ``absynth``."""

from absynth.cli.commands import main

if __name__ == "__main__":
    main()
