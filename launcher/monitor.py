"""Which metric decides what is best, and whether it should be large or small.

A metric's name tells a machine nothing: a recipe says of its own metrics which way is better, and
one of which nobody has said it cannot decide.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from launcher.errors import RecipeError, SettingsError, did_you_mean, listed

Better = Literal["smaller", "larger"]
KNOWN: Final[Mapping[str, Better]] = {"accuracy": "larger", "loss": "smaller"}
"""Metrics of which it needs not be said; a recipe may say otherwise."""


class Monitor(NamedTuple):
    """The metric that decides."""

    name: str
    """As in a line of metrics: test/accuracy."""
    smaller: bool
    """Whether less of it is better."""

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether a score is better than another one; None, a score that is not finite, never is,
        and any other is better than None."""
        if value is None or than is None:
            return value is not None
        return value < than if self.smaller else value > than


def chosen(asked: str, names: Sequence[str], better: Mapping[str, Better]) -> Monitor:
    """The metric that `monitor=` asks for, of the recipe's `test/NAME` in its order.

    `auto` is test/accuracy where there is one, else test/loss, else the first. Raises SettingsError
    for one that the recipe has not, RecipeError for one of which it is not said what is better, and
    for a `better` of a metric that is not there.
    """
    own = [name.removeprefix("test/") for name in names]
    for metric in better:
        if metric not in own:
            raise RecipeError(
                f"Recipe.better names {metric!r}, and recipe.metrics gives no such metric, but "
                f"{listed(own)}.{did_you_mean(metric, own)}"
            )
    name = _auto(names) if asked == "auto" else asked
    if name not in names:
        raise SettingsError(
            f"monitor={asked} is no metric of this recipe: it has {', '.join(names)}."
            f"{did_you_mean(asked, names)}"
        )
    metric = name.partition("/")[2]
    direction = better.get(metric, KNOWN.get(metric))
    if direction is None:
        other = "" if asked == "auto" else ", or monitor another metric"
        raise RecipeError(
            f"monitor={asked} means {name}, and nobody has said whether more or less of it is "
            f'better: give the recipe better={{"{metric}": "smaller"}} or "larger"{other}.'
        )
    return Monitor(name, direction == "smaller")


def _auto(names: Sequence[str]) -> str:
    usual = [f"test/{name}" for name in KNOWN]
    return next((name for name in usual if name in names), names[0])
