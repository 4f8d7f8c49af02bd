"""What the command line tells without a traceback of its own: mistakes of the caller's, and failed tasks."""

from collections.abc import Sequence


class AbsynthError(ValueError):
    """A mistake in what was asked for, told in one sentence: what was wrong and what would be right.

    The command line prints the sentence without a traceback and ends with exit status 2.
    """


class UnwritableError(AbsynthError, OSError):
    """A file that cannot be written; whoever can do without it may catch it as the :class:`OSError` it is."""


def first_line(error: BaseException) -> str:
    r"""The first line of what an error says, or else its kind, to be quoted in a sentence.

    >>> first_line(OSError("cannot be parsed\nat byte 7\n"))
    'cannot be parsed'
    """
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


class FailedTasksError(Exception):
    """Some tasks of many raised what is no :class:`AbsynthError`; all others are done.

    The command line prints each traceback once, with the names of its tasks, and ends with exit status 1.

    Args:
        failures: The name of each task that failed, with its traceback.
    """

    def __init__(self, failures: Sequence[tuple[str, str]]) -> None:
        self.failures = tuple(failures)
        names: dict[str, list[str]] = {}
        for name, failure in failures:
            names.setdefault(failure.rstrip(), []).append(name)
        parts = [f"{'; '.join(several)}:\n{failure}" for failure, several in names.items()]
        count = "1 task failed" if len(failures) == 1 else f"{len(failures)} tasks failed"
        parts.append(f"{count}, the others are done; run the same command again to retry.")
        super().__init__("\n\n".join(parts))
