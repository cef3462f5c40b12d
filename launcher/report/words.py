"""Numbers, names and settings as a report shows them: escaped, rounded, and without secrets."""

import html
import re
from typing import Any, Final
from unicodedata import east_asian_width

from launcher import secret
from launcher.layers import scalar
from launcher.mirrors import redacted

_LONGEST: Final = 2000


def text(words: object) -> str:
    """Words that are shown as they are, in HTML: what controls a text is spelt out, the password of
    a URL is left out."""
    said = str(words)
    if len(said) > _LONGEST:
        said = f"{said[:_LONGEST]} ... {len(said):,} characters"
    plain = "".join(
        c if c.isprintable() or c in "\n\u00a0" else repr(c)[1:-1] for c in redacted(said)
    )
    return html.escape(plain)


def breakable(words: object) -> str:
    """The same, with places where a narrow column may break a long name."""
    return re.sub(r"([_/=,-]|\.(?=[a-zA-Z]))", r"\1<wbr>", text(words))


def setting(key: str, value: Any) -> str:
    """A setting's value, without HTML; a text whose name says that it is a secret is left out."""
    if isinstance(value, str) and value and secret.named(key):
        return "(a secret, left out)"
    if isinstance(value, str | int | float | bool | None):
        return scalar(value)
    return str(value)


def short(name: str, most: int = 18) -> str:
    """A name cut to a length, as a person would."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def width(name: str, letter: float) -> float:
    """How wide a name is, if a letter is so wide: what is as wide as high in East Asia counts twice
    (Unicode Standard Annex 11)."""
    return sum(2 * letter if east_asian_width(c) in "WF" else letter for c in name)


def number(value: float | None) -> str:
    """Four digits, or what a person writes: 0.0213, 12,340, 3e-07."""
    if value is None:
        return "not finite"
    if value == 0:
        return "0"
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return brief(value)


def brief(value: float) -> str:
    """Four digits, and an exponent without what it does not need."""
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def percent(value: float | None) -> str:
    """A share of one as `98.13 %`."""
    return "not finite" if value is None else f"{value:.2%}".replace("%", "\u00a0%")


def metric(name: str, value: float | None) -> str:
    """A metric for people: accuracies and shares in percent."""
    return percent(value) if "accuracy" in name or "data_wait" in name else number(value)


def span(seconds: float | None) -> str:
    """A time that something took: `3 h 20 min`, `45.2 s`."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(seconds % 60)} s"
