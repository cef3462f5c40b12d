"""What the bench can refuse at once: a measurement of minutes is not lost to a wrong name."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from outputs import no_place
from tuning_report import can_plot

from benching import overhead, saving, scaling, startup
from benching.rows import CPU, GPU, Row
from launcher.errors import SettingsError


def rows(suite: str) -> tuple[str, ...]:
    """What --only may name."""
    known = {
        "cpu": names(CPU),
        "gpu": (*names(GPU), "peak", "time-to-accuracy"),
        "startup": startup.NAMES,
        "scaling": tuple(scaling.POINTS),
        "checkpoint": names(saving.ROWS),
        "overhead": names(overhead.ROWS),
    }
    return known.get(suite, ())


def names(of: Sequence[Row]) -> tuple[str, ...]:
    """What rows are called."""
    return tuple(row.name for row in of)


def complaint(asked: Namespace) -> str | None:
    """What is wrong with a command line of the bench, and what to do; None for nothing."""
    return next(_complaints(asked), None)


def _complaints(asked: Namespace) -> Iterator[str]:
    known = rows(asked.suite)
    for name in asked.only:
        if name not in known:
            choice = f"has {', '.join(known)}" if known else "has no rows to choose from"
            yield f"--only {name}: the suite {asked.suite} {choice}."
    for option in ("data", "photos"):
        folder = getattr(asked, option)
        if folder is not None and not Path(folder).is_dir():
            yield f"--{option} {folder}: there is no such folder."
    for option in ("windows", "steps"):
        number = getattr(asked, option)
        least = 2 if (asked.suite, option) == ("loader", "windows") else 1  # of quartiles
        if number is not None and number < least:
            yield f"--{option} {number}: give at least {least}."
    if min(asked.workers) < 0:
        yield f"--workers {min(asked.workers)}: give 0 or more."
    if asked.json is not None and (wrong := no_place("--json", asked.json)):
        yield wrong
    if asked.plot is not None:
        try:
            can_plot(asked.plot)
        except SettingsError as error:
            yield str(error)
    if asked.markdown is not None and not _has_sections(asked.markdown):
        yield (
            f"--markdown {asked.markdown}: give a page that has `<!-- bench KEY -->` sections, as "
            f"docs/speed.md has."
        )


def _has_sections(page: Path) -> bool:
    try:
        return "<!-- bench " in page.read_text()
    except (OSError, ValueError):
        return False
