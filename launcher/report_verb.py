"""`launcher report`: report.html of one run, or of several side by side."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from launcher import asked, overview, report, screen, storage
from launcher.errors import SettingsError
from launcher.find import run_folder
from launcher.report.page import MARK

USAGE = """\
Usage: launcher report RUN... [--output FILE]

One self-contained file: curves, accuracy of each class, confusion matrix, the most confident
mistakes, settings with their origins, every attempt. It loads nothing, and can be sent to somebody.

A RUN is a name under checkpoints/, the path of a run's folder, or a recipe file for the run of its
defaults. The report of one run is written into its folder, as at the run's end; that of several,
side by side with the settings that differ first, into the current folder.

Switches:
  --output FILE         write it there instead

Example: launcher report cifar_resnet--quick
"""
log = logging.getLogger("launcher")
_HEAD: Final = 2000  # bytes in which the mark of a report stands


def run(given: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """The arguments after `report`. Raises SettingsError for runs that are not there, and
    CheckpointError for one that is damaged."""
    if "-h" in given or "--help" in given:
        return screen.text(USAGE)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--output", type=asked.path)
    found = parser.parse_intermixed_args(given)
    if not found.runs:
        raise SettingsError("no run is given: launcher report RUN... (launcher runs lists them).")
    folders = [run_folder(word) for word in found.runs]
    target = found.output or (folders[0] if len(folders) == 1 else Path()) / report.NAME
    _refuse_foreign(target)
    runs = [overview.summary(folder) for folder in folders]
    page = report.page_of([(Path(one.folder), one.state) for one in runs])
    storage.replace(target, page.encode())
    for one in runs:
        if one.remark:
            log.warning("%s.", one.remark)
    screen.text(f"{target}: {len(page) / 1e3:,.0f} kB")


def _refuse_foreign(target: Path) -> None:
    """Raises SettingsError rather than write over what is no report of ours."""
    if target.is_dir():
        raise SettingsError(f"--output {target} is a folder: give a file in it.")
    if not target.parent.is_dir():
        raise SettingsError(f"--output {target}: there is no folder {target.parent}.")
    if not target.exists():
        return
    with storage.explained("read", target), target.open("rb") as file:
        head = file.read(_HEAD)
    if MARK.encode() not in head:
        raise SettingsError(
            f"{target} is there already, and is no report: move it away, or give --output FILE."
        )
