"""A run in words: run.json, the start banner and the closing table."""

import platform
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from launcher import imported, record, settings, storage
from launcher.account import read_run, read_status
from launcher.build import RESIDENT_SHARE, Parts
from launcher.changes import changes, consequence
from launcher.errors import counted
from launcher.launch import hidden_config
from launcher.layout import Layout, size
from launcher.live import duration
from launcher.plan import Plan
from launcher.request import Request
from launcher.screen import Screen, overall, shown
from launcher.settings import Origins, RunSettings
from launcher.trained import Trained

_LAYOUTS: Final[dict[Layout, str]] = {
    "contiguous": "", "channels_last": ", channels last", "native": ", without oneDNN",
}  # fmt: skip


def run(
    request: Request, parts: Trained, origins: Origins, identity: Mapping[str, Any], step: int
) -> dict[str, Any]:
    """The content of run.json: what the run is, and one entry for each attempt at it."""
    before = read_run(request.folder)
    here = {
        "processes": parts.world.processes,
        "devices": parts.world.devices,
        "device": device_name(parts.world.device),
        "threads": parts.world.threads,
        "micro_batch_size": parts.plan.micro_batch_size,
        "precision": parts.world.precision,
        "compile": parts.settings.compile,
        "graphs": graphs(parts.settings, parts.world.device),
        "layout": parts.layout,
        "tf32": parts.settings.tf32,
        "torch": torch.__version__,
        "identity": dict(identity),
        "data": data(parts),
    }
    if (
        parts.hparams.patience is not None and parts.monitor is not None
    ):  # then these decide when the run ends
        here |= {"evaluate_every": parts.settings.evaluate_every, "monitor": parts.monitor.name}
    begun = {"from_step": step, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
             "host": socket.gethostname()}  # fmt: skip
    earlier = _with_end(before.get("attempts", []), request) if step else []
    attempts = [*earlier, begun | here]
    changed = changes(attempts)
    return {
        "name": request.name,
        "recipe": str(request.path),
        "modules": imported.hashes(parts.modules),
        "identity": dict(identity),
        "data": data(parts),
        "began_with": parts.began_with or before.get("began_with", ""),
        "hyperparameters": with_origins(parts.hparams, origins),
        "run_settings": with_origins(parts.settings, request.settings_from),
        "micro_batch_size": parts.plan.micro_batch_size,
        "plan": {
            "total_steps": parts.plan.total_steps,
            "steps_per_epoch": parts.plan.steps_per_epoch,
            "samples": parts.plan.samples,
            "test_samples": len(parts.data.test.source),
        },
        "monitor": parts.monitor._asdict() if parts.monitor else None,
        "shape": list(parts.data.shape),
        "classes": list(parts.data.classes),
        "exact": not changed,
        "changes": changed,
        "attempts": attempts,
        "versions": record.versions(),
        "platform": platform.platform(),
        "git": record.git_commit(request.path.resolve().parent),
        "launched_by": request.launch.command,
    }  # fmt: skip


def graphs(settings: RunSettings, device: torch.device) -> str:
    """Whether steps may be recorded: their learning rates are then in float32, which can change
    bits. Elsewhere the setting says nothing."""
    return settings.graphs if device.type == "cuda" else "off"


def _with_end(attempts: Sequence[dict[str, Any]], request: Request) -> list[dict[str, Any]]:
    """Earlier attempts, the last one with how it ended: a killed one could not say so itself, and
    left `running`."""
    status = read_status(request.folder)
    ended = {key: status.get(key) for key in ("state", "code", "reason", "step")}
    return [*attempts[:-1], attempts[-1] | {"ended": ended}] if attempts else []


def data(parts: Trained) -> dict[str, str]:
    """The fingerprints of both splits."""
    return {
        "train": parts.data.train.source.fingerprint,
        "test": parts.data.test.source.fingerprint,
    }


def same_everywhere(parts: Parts) -> dict[str, Any]:
    """What must be equal in all processes, beside what is learned."""
    return {
        "run settings": settings.as_json(parts.settings),
        "data": data(parts),
        "weights to begin with": parts.began_with,
        "micro-batch size": parts.plan.micro_batch_size,
        "precision": parts.world.precision,
        **{f"version of {package}": of for package, of in record.versions().items()},
    }


def with_origins(values: Any, origins: Origins) -> dict[str, dict[str, Any]]:
    """Every field with its value and where it came from."""
    return {
        key: {"value": value, "from": origins[key]}
        for key, value in settings.recorded(values).items()
    }


def resident(parts: Parts) -> str:
    """Whether data in memory is on the device, and by which rule."""
    if not parts.resident:
        return ""
    ruled = parts.settings.resident == "auto" and parts.world.device.type == "cuda"
    return ", on the device" + f" (at most {RESIDENT_SHARE:.0%} of its free memory)" * ruled


def banner(
    screen: Screen, request: Request, parts: Parts, step: int, about: Mapping[str, Any] | None,
    beside: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """What is about to happen, in a dozen lines; `about` is the content of run.json, where there is
    one, and `beside` says which machines see the folder and where the records go."""
    plan, test = parts.plan, parts.data.test.source
    start = "dry run" if request.dry_run else "fresh"
    if step:
        start = f"continues at step {step} of {plan.total_steps}"
    screen.facts(
        f"{request.name}: {start}",
        {
            "model": f"{type(parts.model).__name__}, {size(parts.model):,} parameters"
            + _LAYOUTS[parts.layout],
            "data": f"{plan.samples:,} training and {len(test):,} test samples of "
            f"{' x '.join(map(str, parts.data.shape))}, {len(parts.data.classes) or 'no'} classes"
            + resident(parts),
            "devices": devices(parts),
            "plan": f"{planned(plan)}; micro-batches of {plan.micro_batch_size}"
            + (f" x {plan.accumulation}" if plan.accumulation > 1 else ""),
            "workers": parts.loaders.how,
            **averaged(parts),
            "folder": request.label,
            **(beside or {}),
        },
    )
    for sentence in remarks(parts, request):
        screen.line(sentence)
    inexact(screen, about or {})


def inexact(screen: Screen, about: Mapping[str, Any]) -> None:
    """A line on why bits may differ, and what is the same nonetheless, if they may."""
    if changed := about.get("changes"):
        screen.line(f"exact=false: {'; '.join(changed)}. {consequence(about['attempts'])}")


def averaged(parts: Parts) -> dict[str, str]:
    """A line of the banner on the average that evaluations use, if there is one."""
    if parts.average is None:
        return {}
    return {"scores": f"of the weights' average (ema={parts.average.decay:g}); raw/ of their own"}


def devices(parts: Trained) -> str:
    """`2 processes (DDP) on cpu, 1 thread each, precision no`."""
    world = parts.world
    count = {
        "one process": "1 process",
        "DDP": f"{world.processes} processes (DDP)",
        "DataParallel": f"1 process, {world.devices} devices (DataParallel)",
    }[world.kind]
    threads = f"{counted(world.threads, 'thread')} each"
    return f"{count} on {device_name(world.device)}, {threads}, precision {world.precision}"


def remarks(parts: Trained, request: Request) -> list[str]:
    """What a user might not expect."""
    found = []
    hidden = hidden_config()
    if hidden and request.launch.command == "accelerate launch":
        found.append(f"accelerate launch may have read {hidden}: --config_file says which is meant")
    found += [
        f"{path} can be changed by {who}: chmod o-w, or see whose it is"
        for path in (request.path, request.folder, Path(request.settings.data_dir))
        if (who := storage.exposed(path))
    ]
    if parts.world.kind == "DataParallel":
        found.append(
            "several GPUs in one process: DDP is faster, accelerate launch --config_file "
            "configs/machines/ddp.yaml -m launcher ..."
        )
    return found


def closing(screen: Screen, request: Request) -> None:
    """The result of a finished run, and what to do next."""
    status = read_status(request.folder)
    scores, best = status["result"]["scores"], status["result"]["best"]
    rows = overall(scores)
    monitor = status["result"].get("monitor", request.settings.monitor)
    if best and monitor in best["scores"]:
        value = shown(monitor, best["scores"][monitor])
        rows["best"] = f"{monitor} {value} at step {best['step']}"
    if status["reason"]:
        rows["ended"] = status["reason"]
    if seconds := status.get("seconds"):
        given = read_run(request.folder)["hyperparameters"]
        rate = status["step"] * given["batch_size"]["value"] / seconds
        rows["time"] = f"{duration(seconds).strip()}, {rate:,.0f} samples/s, everything included"
    screen.facts(
        f"{request.name}: finished at step {status['step']}",
        rows | {
            "weights": _weights(request, status["step"], best),
            **({"report": page} if (page := request.label / "report.html").exists() else {}),
            "next": "the same command shows this again; --fresh trains anew, name=... beside it",
        },
    )  # fmt: skip


def _weights(request: Request, last: int, best: Mapping[str, Any] | None) -> str:
    """The file that evaluate, predict and export take: of the best evaluation, if it is there."""
    name = f"step-{best['step'] if best else last:012d}"
    if not (request.folder / name).exists():
        name = f"step-{last:012d}"
    average = (request.folder / name / "ema.safetensors").exists()
    file = request.label / name / ("ema.safetensors" if average else "model.safetensors")
    beside = f", the best; the last are in step-{last:012d}" if name != f"step-{last:012d}" else ""
    return f"{file}{beside}"


def planned(plan: Plan) -> str:
    """`2 epochs x 44 steps of 32 = 88 steps`."""
    each = f"{counted(plan.steps_per_epoch, 'step')} of {plan.batch_size}"
    return f"{counted(plan.epochs, 'epoch')} x {each} = {counted(plan.total_steps, 'step')}"


def memory(device: torch.device) -> Callable[[], int] | None:
    """What tells how many bytes of a GPU's memory the run takes; None elsewhere."""
    if device.type != "cuda":
        return None
    return lambda: torch.cuda.max_memory_reserved(device)


def device_name(device: torch.device) -> str:
    """`NVIDIA H200` for a GPU, else the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
