"""What the command line asked for, with everything checked that can be without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.launch import Launch
from launcher.layers import Given
from launcher.settings import Origins, RunSettings

Resume = Literal["auto", "must", "never"] | int
"""From where: the newest checkpoint if there is one, the newest, a fresh start, or one step's."""


@dataclass(frozen=True)
class Request:
    """A command, for one recipe."""

    path: Path
    """The recipe file."""
    name: str
    folder: Path
    """The run's folder, absolute and without links: a recipe may change the current folder."""
    settings: RunSettings
    settings_from: Origins
    given: Sequence[Given]
    """What may be hyperparameters: the recipe tells."""
    launch: Launch
    resume: Resume = "auto"
    fresh: bool = False
    allow_change: Sequence[str] = ()
    dry_run: bool = False
    profile: int | None = None
    """Steps to look at under torch's profiler."""

    @property
    def label(self) -> Path:
        """The run's folder as a user knows it: checkpoints/NAME."""
        return Path("checkpoints") / self.name
