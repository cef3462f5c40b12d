"""Values that are not to be written, known by the names of their settings.

A password or a key has no business in a hyperparameter; where one is, its place in run.json, in the
run's name and at trackers is taken by a few digits of its hash, so that a change is still noticed.
"""

import hashlib
import re
from typing import Any, Final

_NAMES: Final = re.compile(
    r"passw(or)?d|passphrase|secret|credential|(api|access|private)[_-]?key|(^|[_-])token$"
    r"|(api|auth|access|hub|hf)[_-]?token|(^|[_-])auth(orization)?($|[_-])",
    re.IGNORECASE,
)


def named(name: str) -> bool:
    """Whether a setting is named like a secret."""
    return _NAMES.search(name) is not None


def redacted(name: str, value: Any) -> Any:
    """The value of a setting as it may be written: text in one named like a secret is hidden."""
    if not isinstance(value, str) or not value or not named(name):
        return value
    return f"hidden-{hashlib.sha256(value.encode(errors='surrogateescape')).hexdigest()[:8]}"
