"""What the model said of single samples, and of single classes: pictures and bars."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from launcher.report.words import percent, short, text

_PICTURE: Final = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+=*")
_MOST_BARS: Final = 60
_SHOWN: Final = 20


def pictures(records: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """A figure for each record of outcome.json: the sample, what it is, what the model said."""
    figures = [_figure(record, classes) for record in records]
    return f"<div class=pictures>{''.join(figures)}</div>" if figures else ""


def _figure(record: Mapping[str, Any], classes: Sequence[str]) -> str:
    label, said = int(record["label"]), int(record["predicted"])
    name, wrong = (text(short(classes[number], 40)) for number in (label, said))
    sure = percent(record["probability"])
    if label == said:
        caption = f"<strong class=good>✓ {name}</strong>"
    else:
        caption = f"<strong class=bad>✗ {wrong}</strong><br>is {name}"
    caption = f"{caption}<br>{sure} · #{int(record['index'])}"
    url = str(record["picture"])
    image = "<div class=blank></div>"
    if _PICTURE.fullmatch(url):
        image = f"<img class=fine alt='{text(classes[label])}' src='{url}'>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def class_bars(scores: Mapping[str, float | None]) -> tuple[str, str]:
    """The accuracy of each class as bars, and a note. Of very many classes the worst and the best
    ones."""
    prefix = "test/accuracy/"
    found = [(k.removeprefix(prefix), v) for k, v in scores.items() if k.startswith(prefix)]
    if not found:
        return "", ""
    if len(found) <= _MOST_BARS:
        return _bars(found), ""
    ordered = sorted(found, key=lambda one: -1.0 if one[1] is None else one[1])
    worst, best = ordered[:_SHOWN], ordered[-_SHOWN:][::-1]
    middle = ordered[len(ordered) // 2][1]
    note = (
        f"{len(found):,} classes; the median has {percent(middle)}. Shown are the {_SHOWN} with "
        f"the lowest and the {_SHOWN} with the highest accuracy; outcome.json has them all."
    )
    return f"<h3>Lowest</h3>{_bars(worst)}<h3>Highest</h3>{_bars(best)}", note


def _bars(rows: Sequence[tuple[str, float | None]]) -> str:
    bars = [
        f"<div><span>{text(name)}</span><i style='--w:{100 * (value or 0):.1f}%'></i>"
        f"<b>{percent(value)}</b></div>"
        for name, value in rows
    ]
    return f"<div class=bars>{''.join(bars)}</div>"
