"""The one exception that means "the caller can mend this"."""


class AbsynthError(ValueError):
    """A mistake in what was asked for, told in one sentence: what was wrong and what would be right.

    The command line prints the sentence without a traceback and ends with exit status 2.
    """
