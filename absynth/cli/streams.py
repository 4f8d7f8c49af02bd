"""Output on consoles that cannot show every character."""

from __future__ import annotations

import codecs
import os
import sys

SPELLED = {"∞": "inf", "…": "...", "≤": "<=", "≥": ">="}
"""What stands for a character that a console lacks; any other is written as its number, as in Python."""

ERRORS = "absynth"


def spell(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""Writes what cannot be encoded in other characters; an error handler of :mod:`codecs`.

    >>> "∞ 猫".encode("cp1252", ERRORS)
    b'inf \\u732b'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    words = [
        SPELLED.get(one) or one.encode("ascii", "backslashreplace").decode()
        for one in error.object[error.start : error.end]
    ]
    return "".join(words), error.end


codecs.register_error(ERRORS, spell)


def close_output() -> None:
    """Gives up standard output, so that what could not be written is not tried again when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def make_streams_forgiving() -> None:
    """Makes standard output and standard error take every character, whatever their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors=ERRORS)
