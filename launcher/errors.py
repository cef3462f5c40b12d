"""What the launcher refuses, and the exit code of each refusal.

    LauncherError                  a sentence for the user; printed without a traceback
    ├── SettingsError          2   command line, config file, run setting, hyperparameter
    ├── RecipeError            3   the recipe's code: import, contract, a function that raised
    ├── DataError              4   a data set that is missing, damaged or does not fit
    ├── CheckpointError        5   a checkpoint or a run that cannot be continued as asked
    ├── NonFiniteError         6   a loss or a gradient that is not a number
    ├── StorageError           7   the disk said no
    ├── LockedError            8   another process trains in this run folder
    ├── DistributedError       9   the processes that met are not the processes that were started
    ├── OutOfMemoryError      10   the device or the host is full
    └── Preempted             75   stopped in good order: run it again (EX_TEMPFAIL of sysexits.h)

Anything else is a bug of ours: it keeps its traceback and ends with 70 (EX_SOFTWARE).
"""

from collections.abc import Iterable
from difflib import get_close_matches

BUG = 70
INTERRUPTED = 130


class LauncherError(Exception):
    """One thing that is wrong: what it is, and what to do about it.

    `problems` holds the sentences when several things were found at once, `frames` the lines of a
    traceback that helps, `process` the number of the process that failed where it is another one.
    """

    code = 1
    title = "error"
    frames = ""
    process: int | None = None

    def __init__(self, *problems: str) -> None:
        assert problems, "an error says what is wrong"
        super().__init__("\n".join(problems))
        self.problems = problems


class SettingsError(LauncherError):
    code = 2
    title = "settings"


class RecipeError(LauncherError):
    """`frames` are the lines of the traceback below the recipe's own, when others were running."""

    code = 3
    title = "recipe"


class DataError(LauncherError):
    code = 4
    title = "data"


class CheckpointError(LauncherError):
    code = 5
    title = "checkpoint"


class NonFiniteError(LauncherError):
    code = 6
    title = "not finite"


class StorageError(LauncherError):
    code = 7
    title = "storage"


class LockedError(LauncherError):
    code = 8
    title = "in use"


class DistributedError(LauncherError):
    code = 9
    title = "processes"


class OutOfMemoryError(LauncherError):
    code = 10
    title = "out of memory"


class Preempted(LauncherError):  # noqa: N818
    """Not a failure: somebody asked the run to stop, and it can be continued."""

    code = 75
    title = "stopped"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'batch_size'?` for the nearest known word, or nothing when none is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def listed(names: Iterable[object], most: int = 10) -> str:
    """`a, b, c and 7 more`: at most `most` names of a list that may be long."""
    all_names = [str(name) for name in names]
    shown = ", ".join(all_names[:most])
    return shown if len(all_names) <= most else f"{shown} and {len(all_names) - most} more"


def counted(number: int, what: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
