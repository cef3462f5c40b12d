"""report.html: what a run did and how it came out, in one file that can be sent to somebody.

Made without torch and without a plotting library from what lies in the run folder: run.json,
status.json, metrics.jsonl, outcome.json.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from launcher import storage
from launcher.documents import read_json
from launcher.errors import CheckpointError
from launcher.report import page
from launcher.report.comparison import comparison
from launcher.report.reading import told
from launcher.report.run_page import run_page

NAME: Final = "report.html"


def page_of(runs: Sequence[tuple[Path, str | None]]) -> str:
    """The page of one run, or of several side by side; of each its folder, and its state where
    somebody knows better than its status.json.

    Raises CheckpointError for what is no run or a damaged one, and StorageError.
    """
    try:
        found = [told(folder, state) for folder, state in runs]
        return run_page(found[0]) if len(found) == 1 else comparison(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        folders = ", ".join(str(folder) for folder, _ in runs)
        raise CheckpointError(
            f"{folders}: not as a run leaves its folder: {type(error).__name__}: {error}."
        ) from error


def write(folder: Path) -> None:
    """Put report.html into a run's folder. Raises as `page_of` does."""
    storage.replace(folder / NAME, page_of([(folder, None)]).encode())


def is_current(folder: Path) -> bool:
    """Whether a run's report is there, and was made from its status.json as it is now. Raises
    CheckpointError and StorageError."""
    mark = page.of(read_json(folder / "status.json")).encode()
    return (folder / NAME).exists() and mark in storage.read(folder / NAME)
