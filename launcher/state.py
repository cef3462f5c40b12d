"""Where a run is: what a checkpoint holds beside the weights and the optimizer."""

from dataclasses import dataclass, field
from typing import Any

from launcher.errors import RecipeError
from launcher.monitor import Monitor


@dataclass
class State:
    """Where a run is. With the weights and the optimizer this is all that a checkpoint holds."""

    step: int = 0
    loss_sums: list[float] = field(default_factory=list)
    """Of the losses since the last line of metrics, for each process."""
    loss_count: int = 0
    """Their number, over all processes."""
    records: int = 0
    """Lines in metrics.jsonl."""
    scores: dict[str, float | None] = field(default_factory=dict)
    """The last evaluation."""
    best: dict[str, Any] | None = None
    """Step and scores of the best evaluation so far, by the monitored metric."""
    stale: int = 0
    """Evaluations since that one."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """Of fp16's loss scale."""
    groups: list[dict[str, Any]] = field(default_factory=list)
    """What training changed in the optimizer's parameter groups."""

    def note_best(self, monitor: Monitor) -> bool:
        """Whether the last evaluation is the best so far; if so it is kept as that.

        A score that is not finite is never the best. Raises RecipeError when there is none by the
        monitored name.
        """
        if monitor.name not in self.scores:
            raise RecipeError(f"recipe.metrics gave no {monitor.name}, as it did before training.")
        before = self.best["scores"].get(monitor.name) if self.best else None
        if not monitor.is_better(self.scores[monitor.name], before):
            self.stale += 1
            return False
        self.best = {"step": self.step, "scores": self.scores}
        self.stale = 0
        return True
