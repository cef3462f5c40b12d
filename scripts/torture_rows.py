"""What a part of the torture reports: one row of the table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One kind of torture on one thing."""

    mode: str
    what: str
    count: int
    """Kills, faults or crash states."""
    violations: int
    result: str
    """What was seen, in words."""
