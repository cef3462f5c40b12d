"""One row of what `torture.py` reports: a promise, how often it was tried, how often broken."""

from dataclasses import dataclass

LAUNCHER = "launcher"
ACCELERATE = "accelerate"
COLUMNS = ("mode", "of", "what was done", "count", "violations", "verdict", "found")


@dataclass(frozen=True)
class Row:
    """One thing that was done to a subject, many times."""

    mode: str
    what: str
    count: int = 0
    violations: int = 0
    found: str = ""
    """What came of it, in words: what was lost, or what was recovered."""
    subject: str = LAUNCHER
    """Whose promise it is. Accelerate's rows are for comparison and do not decide the exit code."""
    skipped: str = ""
    """Why it could not be done here."""

    @property
    def broken(self) -> bool:
        """Whether the torture as a whole has failed; what was never done has not succeeded."""
        judged = self.subject == LAUNCHER and not self.skipped
        return judged and (self.violations > 0 or self.count == 0)

    @property
    def verdict(self) -> str:
        """One word, or the reason why there is none."""
        if self.skipped:
            return f"skipped: {self.skipped}"
        if self.count == 0:
            return "NOT DONE"
        if not self.violations:
            return "held"
        return "BROKEN" if self.broken else "not held"

    def cells(self) -> tuple[object, ...]:
        """The row as `COLUMNS` names it."""
        return (
            self.mode,
            self.subject,
            self.what,
            f"{self.count:,}",
            f"{self.violations:,}",
            self.verdict,
            self.found,
        )
