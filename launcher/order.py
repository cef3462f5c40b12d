"""What a follower is told: which run to follow, where to pass it on to, and how the run ended."""

from dataclasses import dataclass
from typing import Final, Literal

FINISHED: Final = "finished"
STOPPED: Final = "stopped"
GONE: Final = "gone"
"""Not told, but noticed: the training process was killed."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order that training writes to its follower's standard input, as JSON."""

    tracker: Literal["wandb", "tensorboard"]
    folder: str
    """The run's folder."""
    name: str
    """The run's name."""
    from_step: int
    """Where this attempt begins; a tracker that is ahead of it has what was taken back."""
    total_steps: int
    parent: int
    """The training process's number."""
    patience: float
    """Seconds in which a finished run is passed on."""
    mode: Literal["online", "offline"] = "offline"
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    artifact: bool = False
    """Whether the best checkpoint is passed on too."""
