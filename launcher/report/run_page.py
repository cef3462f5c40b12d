"""The report of one run."""

from collections.abc import Mapping, Sequence
from typing import Final

from launcher.report import lineage, page
from launcher.report.curves import Series
from launcher.report.matrix import matrix
from launcher.report.plot import Kind, Line, chart
from launcher.report.reading import Told
from launcher.report.samples import class_bars, pictures
from launcher.report.words import metric, number, span, text

_SIDE_BY_SIDE: Final = 12


def run_page(told: Told) -> str:
    """The whole page."""
    outcome = told.outcome or {}
    classes: Sequence[str] = outcome.get("classes", [])
    return page.document(f"{told.name}: report", "".join([
        head(told),
        page.section("Curves", curves(told), continued(told)),
        by_class(told, classes),
        page.section("Most confident mistakes", pictures(outcome.get("mistakes", []), classes),
                     "Test samples that the model was most sure of, and wrong."),
        page.section("A sample of predictions", pictures(outcome.get("samples", []), classes),
                     "Test samples spread evenly over the split."),
        page.section("Settings", lineage.settings(told),
                     "With where each value came from; what was given comes first."),
        page.section("Lineage", lineage.attempts(told)),
        lineage.origin(told),
    ]), page.of(told.status))  # fmt: skip


def by_class(told: Told, classes: Sequence[str]) -> str:
    """The accuracy of each class and the confusion matrix; of a few classes side by side."""
    outcome = told.outcome or {}
    step, confusion = outcome.get("step"), outcome.get("confusion")
    at = f" Evaluated after step {step}." if step not in (None, told.step) else ""
    bars, note = class_bars(told.scores)
    found = page.section("Accuracy of each class", bars, note + at, "" if note else "whole")
    found += page.section(
        "Confusion matrix", matrix(confusion, classes) if confusion else "",
        "Rows are the true classes, columns the predicted ones. The shade goes with a cell's share "
        f"of its row.{at}", "whole",
    )  # fmt: skip
    return f"<div class=pair>{found}</div>" if 0 < len(classes) <= _SIDE_BY_SIDE else found


def head(told: Told) -> str:
    """Name, state, the figures that people ask for first, and what went wrong."""
    kind = {"finished": "good", "preempted": "warn", "running": "quiet"}.get(told.state, "bad")
    boxes = [f"<p class=box>{text(remark)}</p>" for remark in told.remarks]
    if told.status.get("reason"):  # of a finished run: why it ended before its plan
        error = " error" if told.state == "failed" else ""
        boxes.insert(0, f"<p class='box{error}'>{text(told.status['reason'])}</p>")
    if not told.curves.last and told.state != "finished":  # or the remarks say it
        boxes.append("<p class=box>There is no line of metrics yet.</p>")
    elif not told.scores:
        boxes.append("<p class=box>There was no evaluation yet.</p>")
    facts = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(more)}</small></dd></div>"
        for name, value, more in figures(told)
    )
    return (
        f"<header><h1>{text(told.name)}</h1><span class='state {kind}'>"
        f"{text(lineage.state(told))}</span></header>{''.join(boxes)}"
        f"<dl class=facts>{facts}</dl>\n"
    )


def figures(told: Told) -> list[tuple[str, str, str]]:
    """Name, value and a remark of what stands at the top."""
    found = []
    best = told.best
    for name, value in told.scores.items():
        if name.count("/") == 1:
            there = best is not None and best["scores"].get(name)
            more = (
                f"{metric(name, there)} at the best step, {best['step']}" if there and best else ""
            )
            found.append((name.replace("/", " "), metric(name, value), more))
    total = (told.run.get("plan") or {}).get("total_steps")
    epoch = told.curves.last.get("epoch")
    found.append(("steps", f"{told.step:,}" + (f" of {total:,}" if total else ""),
                  f"epoch {epoch:.4g}" if isinstance(epoch, int | float) else ""))  # fmt: skip
    seconds = told.curves.last.get("seconds")
    if isinstance(seconds, int | float):
        found.append(("training time", span(seconds), "over all attempts"))
    pace = told.curves.series.get("train/samples_per_s")
    if pace is not None and pace.mean:
        found.append(("throughput", f"{number(pace.mean)}/s", "samples, mean"))
    return found


def continued(told: Told) -> str:
    """What the dotted lines mean, where there are some."""
    steps = marks(told)
    if not steps:
        return ""
    at = ", ".join(f"{step:,.0f}" for step in steps[:12]) + (", ..." if len(steps) > 12 else "")
    return f"Dotted lines: the run was continued at step {at}."


def marks(told: Told) -> list[float]:
    """The steps at which a run was continued."""
    return [float(one["from_step"]) for one in told.attempts[1:] if one.get("from_step")]


def curves(told: Told) -> str:
    """All charts of one run."""
    series = told.curves.series
    drawn = [
        _chart("Loss", _pair(series, "loss"), "log", told),
        *(_chart(_title(name), _pair(series, name), _kind(series, name), told)
          for name in _tested(series)),
        _chart("Learning rate", _one(series, "train/lr"), "number", told, from_zero=True),
        _chart("Throughput, samples per second", _one(series, "train/samples_per_s"), "number",
               told, from_zero=True),
        _chart("Data wait, share of the time", _one(series, "train/data_wait"), "percent", told,
               from_zero=True),
        _chart("Gradient norm", _one(series, "train/grad_norm"), "log", told),
    ]  # fmt: skip
    shown = "".join(drawn)
    return f"<div class=charts>{shown}</div>" if shown else ""


def _chart(
    title: str, lines: Sequence[Line], kind: Kind, told: Told, *, from_zero: bool = False
) -> str:
    if not lines:
        return ""
    return chart(
        title, lines, kind=kind, from_zero=from_zero, marks=marks(told), end=float(told.step)
    )


def _tested(series: Mapping[str, Series]) -> list[str]:
    """The test metrics beside the loss, accuracy first."""
    names = [key.removeprefix("test/") for key in series if key.startswith("test/")]
    return sorted((name for name in names if name != "loss"), key=lambda name: name != "accuracy")


def _pair(series: Mapping[str, Series], name: str) -> list[Line]:
    """The curves of a metric in training and in tests."""
    parts = (("train", 1), ("test", 2), ("raw", 3))
    return [
        Line(part, series[f"{part}/{name}"], colour)
        for part, colour in parts
        if f"{part}/{name}" in series
    ]


def _one(series: Mapping[str, Series], name: str) -> list[Line]:
    return [Line("", series[name])] if name in series else []


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _kind(series: Mapping[str, Series], name: str) -> Kind:
    buckets = series[f"test/{name}"].buckets
    share = "accuracy" in name and all(b.low >= 0 and b.high <= 1 for b in buckets)
    return "percent" if share else "number"
