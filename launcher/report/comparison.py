"""The report of several runs, side by side: what differs first, then what came of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from launcher.monitor import KNOWN
from launcher.report import lineage, page
from launcher.report.curves import Series
from launcher.report.palette import SERIES
from launcher.report.plot import Kind, Line, chart
from launcher.report.reading import Told
from launcher.report.words import breakable, metric, number, setting, short, span, text

_CLASSES: Final = 100
_ABSENT: Final = object()
_CHARTS: Final[tuple[tuple[str, str, Kind, bool], ...]] = (
    ("Training loss", "train/loss", "log", False),
    ("Test loss", "test/loss", "log", False),
    ("Test accuracy", "test/accuracy", "percent", False),
    ("Learning rate", "train/lr", "number", True),
    ("Throughput, samples per second", "train/samples_per_s", "number", True),
    ("Data wait, share of the time", "train/data_wait", "percent", True),
)


def comparison(runs: Sequence[Told]) -> str:
    """The whole page."""
    names = apart(runs)
    heads = [
        f"<span class='key c{colour(n)}'>{breakable(name)}</span>" for n, name in enumerate(names)
    ]
    boxes = "".join(
        f"<p class=box>{text(name)}: {text(remark)}</p>"
        for name, run in zip(names, runs, strict=True)
        for remark in run.remarks
    )
    details = "".join(
        f"<section><h3>{text(name)}: {text(lineage.state(run))}</h3>{lineage.attempts(run)}"
        f"{lineage.settings(run)}{lineage.origin(run)}</section>"
        for name, run in zip(names, runs, strict=True)
    )
    return page.document(f"{len(runs)} runs: report", "".join([
        f"<header><h1>{len(runs)} runs compared</h1><p class=keys>{' '.join(heads)}</p></header>",
        boxes,
        page.section("Settings that differ", differing(runs, heads)),
        page.section("Results", results(runs, heads), "The best loss and accuracy are bold."),
        page.section("Curves", curves(runs, names)),
        page.section("Accuracy of each class", classes(runs, heads)),
        page.section("Each run", details),
    ]))  # fmt: skip


def apart(runs: Sequence[Told]) -> list[str]:
    """A name for each run: its folder where two have one name."""
    names = [run.name for run in runs]
    return [str(run.folder) if names.count(run.name) > 1 else run.name for run in runs]


def colour(number: int) -> int:
    """Of a run's curves; after eight runs they begin again."""
    return number % SERIES + 1


def differing(runs: Sequence[Told], heads: Sequence[str]) -> str:
    """A table of what is not equal in all runs."""
    columns = [_settings(run) for run in runs]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = []
    for key in keys:
        values = [column.get(key, _ABSENT) for column in columns]
        if any(value != values[0] for value in values):
            said = ["-" if value is _ABSENT else setting(key, value) for value in values]
            cells = "".join(f"<td>{breakable(value)}</td>" for value in said)
            rows.append(f"<tr><td>{breakable(key)}</td>{cells}</tr>")
    if not rows:
        return "<p>There are none: the runs have the same settings.</p>"
    return _table("setting", heads, rows)


def _settings(run: Told) -> dict[str, Any]:
    """All that may explain a difference, hyperparameters first."""
    last = run.attempts[-1]
    found: dict[str, Any] = {}
    for group in ("hyperparameters", "run_settings"):
        found |= {key: entry["value"] for key, entry in run.run.get(group, {}).items()}
    found.pop("name", None)
    found["recipe"] = run.run.get("recipe")
    found["recipe's content"] = str(run.run.get("identity", {}).get("recipe", ""))[:12]
    for split, digest in run.run.get("data", {}).items():
        found[f"{split} data"] = str(digest)[:12]
    for key in ("processes", "devices", "device", "threads", "precision", "torch"):
        found["precision in use" if key == "precision" else key] = last.get(key)
    return found | {"attempts": len(run.attempts), "exact": run.run.get("exact")}


def results(runs: Sequence[Told], heads: Sequence[str]) -> str:
    """A table of states, scores, times."""
    rows = [_row("state", [lineage.state(run) for run in runs]),
            _row("steps", [f"{run.step:,}" for run in runs])]  # fmt: skip
    overall = [{k: v for k, v in run.scores.items() if k.count("/") == 1} for run in runs]
    rows += _scored(overall, lambda name: name.replace("/", " "))
    rows.append(_row("training time", [span(run.curves.last.get("seconds")) for run in runs]))
    paces = [run.curves.series.get("train/samples_per_s") for run in runs]
    rows.append(_row("samples/s, mean", [number(p.mean) if p else "-" for p in paces]))
    return _table("", heads, rows)


def classes(runs: Sequence[Told], heads: Sequence[str]) -> str:
    """A table of the accuracy of each class; of very many classes none."""
    prefix = "test/accuracy/"
    found = [{k.removeprefix(prefix): v for k, v in run.scores.items() if k.startswith(prefix)}
             for run in runs]  # fmt: skip
    names = {name for one in found for name in one}
    if not names:
        return ""
    if len(names) > _CLASSES:
        return f"<p>{len(names):,} classes: see the report of each run.</p>"
    return _table("class", heads, _scored(found, str, "accuracy"))


def _scored(
    columns: Sequence[Mapping[str, float | None]], title: Callable[[str], str], kind: str = ""
) -> list[str]:
    """Rows of scores, with the best of each in bold."""
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column.get(name) for column in columns]
        finite = [value for value in values if value is not None]
        direction = KNOWN.get(kind or name.removeprefix("test/"))  # else nobody has said it here
        better = min if direction == "smaller" else max
        best = better(finite) if direction and len({*finite}) > 1 else None
        said = [metric(kind or name, column[name]) if name in column else "-" for column in columns]
        bold = [value is not None and value == best for value in values]
        rows.append(_row(title(name), said, bold))
    return rows


def curves(runs: Sequence[Told], names: Sequence[str]) -> str:
    """The curves of all runs over one another."""
    drawn = []
    for title, key, kind, from_zero in _CHARTS:
        lines = [
            Line(short(name, 40), run.curves.series[key], colour(number))
            for number, (name, run) in enumerate(zip(names, runs, strict=True))
            if key in run.curves.series
        ]
        if lines:
            kind = _share(lines) if kind == "percent" else kind
            drawn.append(chart(title, lines, kind=kind, from_zero=from_zero, bare=True))
    return f"<div class=charts>{''.join(drawn)}</div>" if drawn else ""


def _share(lines: Sequence[Line]) -> Kind:
    series: list[Series] = [line.series for line in lines]
    return "percent" if all(b.low >= 0 and b.high <= 1 for s in series for b in s.buckets) else (
        "number"
    )  # fmt: skip


def _row(title: str, cells: Sequence[str], bold: Sequence[bool] = ()) -> str:
    marked = [*bold, *[False] * (len(cells) - len(bold))]
    inside = "".join(
        f"<td{' class=best' if best else ''}>{text(cell)}</td>"
        for cell, best in zip(cells, marked, strict=True)
    )
    return f"<tr><td>{breakable(title)}</td>{inside}</tr>"


def _table(corner: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    width = f"--columns:{len(heads) + 1}"
    columns = "".join(f"<th>{head}</th>" for head in heads)
    return (
        f"<div class=wide><table class=side style='{width}'><tr><th>{text(corner)}</th>{columns}"
        f"</tr>{''.join(rows)}</table></div>"
    )
