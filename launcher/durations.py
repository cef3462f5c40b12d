"""Durations in any unit: `200` (steps), `1 epoch`, `5 %` (of the run)."""

import math
import re
from typing import Literal

Unit = Literal["step", "epoch", "%"]
_UNITS: dict[str, Unit] = {
    "": "step", "step": "step", "steps": "step", "epoch": "epoch", "epochs": "epoch", "%": "%",
}  # fmt: skip


def parse(text: str) -> tuple[float, Unit]:
    """`'1 epoch'` as (1.0, 'epoch'). Raises ValueError for anything that is no duration."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z%]*)", text.strip())
    unit = _UNITS.get(match[2]) if match else None
    if match is None or unit is None or not 0 < float(match[1]) < math.inf:
        raise ValueError("a duration is a number of steps (200), epochs (1 epoch) or a share (5 %)")
    if unit == "step" and not float(match[1]).is_integer():
        raise ValueError("a number of steps is whole")
    return float(match[1]), unit
