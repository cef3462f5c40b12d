"""How a run came about: its attempts, its settings with their origins, and what it ran on."""

from collections.abc import Mapping
from typing import Any

from launcher.changes import consequence
from launcher.report.reading import Told
from launcher.report.words import breakable, setting, text

_ENDED = {
    "running": "killed, or the machine went down",
    "preempted": "stopped in good order",
    "failed": "failed",
    "finished": "finished",
}
_STATES = {
    "running": "it is running, or was killed",
    "dead": "killed, or the machine went down",
    "preempted": "stopped in good order; the same command continues",
    "failed": "failed",
    "finished": "finished",
}


def state(told: Told) -> str:
    """The state of a run in words: `finished`, `failed with code 6`."""
    said = _STATES.get(told.state, told.state)
    code = told.status.get("code")
    return f"{said} with code {code}" if told.state == "failed" and code else said


def attempts(told: Told) -> str:
    """Every start of a run: from where, when, on what, how it ended."""
    items = []
    for number, one in enumerate(told.attempts):
        last = number == len(told.attempts) - 1
        ended = state(told) if last else _end(one.get("ended"))
        begun = f"continued at step {one.get('from_step')}" if one.get("from_step") else "begun"
        items.append(
            f"<li><b>{begun}</b> {text(_when(one))} on {text(one.get('host', '?'))}: "
            f"{text(_where(one))}<br><span class=quiet>{text(ended)}</span></li>"
        )
    return f"<ol>{''.join(items)}</ol>{_exact(told)}"


def _when(one: Mapping[str, Any]) -> str:
    """`2026-11-26 16:40 +0000`"""
    at = str(one.get("at", ""))
    return f"{at[:10]} {at[11:16]} {at[19:]}"


def _end(ended: Mapping[str, Any] | None) -> str:
    """How an earlier attempt ended, from what the next one found."""
    if not ended:
        return "ended, it is not known how"
    state = str(ended.get("state"))
    said, killed = _ENDED.get(state, state), state == "running"
    after = "after the checkpoint of step" if killed else "after step"  # that is all it left
    step = f" {after} {ended['step']}" if ended.get("step") else ""
    return f"{said}{step}" + (f": {ended['reason']}" if ended.get("reason") else "")


def _where(one: Mapping[str, Any]) -> str:
    count = one.get("processes", 1)
    processes = "1 process" if count == 1 else f"{count} processes"
    devices = one.get("devices", 1)
    device = (
        f"{devices} x {one.get('device', '?')}" if devices != 1 else f"{one.get('device', '?')}"
    )
    return (
        f"{processes} on {device}, threads {one.get('threads', '?')}, micro-batches of "
        f"{one.get('micro_batch_size', '?')}, precision {one.get('precision', '?')}, torch "
        f"{one.get('torch', '?')}"
    )


def _exact(told: Told) -> str:
    if told.run.get("exact", True):
        if len(told.attempts) == 1:
            return ""
        return "<p class=quiet>exact: the result has the bits of a run that was never stopped.</p>"
    changes = "".join(f"<li>{text(change)}</li>" for change in told.run.get("changes", []))
    return f"<div class=box>exact=false: {consequence(told.attempts)}<ul>{changes}</ul></div>"


def settings(told: Told) -> str:
    """Hyperparameters and run settings, each with its origin; what was given comes first."""
    groups = (("Hyperparameters", "hyperparameters"), ("Run settings", "run_settings"))
    tables = [
        f"<div><h3>{title}</h3>{_table(told.run[key])}</div>"
        for title, key in groups
        if told.run.get(key)
    ]
    return f"<div class=twice>{''.join(tables)}</div>" if tables else ""


def _table(entries: Mapping[str, Mapping[str, Any]]) -> str:
    ordered = sorted(entries.items(), key=lambda item: item[1]["from"] == "default")
    rows = [
        f"<tr{'' if entry['from'] == 'default' else ' class=given'}><td>{breakable(key)}</td>"
        f"<td>{breakable(setting(key, entry['value']))}</td>"
        f"<td class=quiet>{breakable(entry['from'])}</td></tr>"
        for key, entry in ordered
    ]
    head = "<tr><th>setting</th><th>value</th><th>from</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def origin(told: Told) -> str:
    """The last lines of a page: recipe, versions, machine, data."""
    run = told.run
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    content = str(run.get("identity", {}).get("recipe", ""))[:12]
    parts = [
        f"recipe {run.get('recipe', '?')} (SHA-256 {content}...)",
        f"commit {run['git']}" if run.get("git") else "",
        f"launched by {run.get('launched_by', '?')}",
        versions,
        str(run.get("platform", "")),
    ]
    return f"<footer>{'<br>'.join(text(part) for part in parts if part)}</footer>"
