"""What is on this machine, and what of it would keep a run from working: one finding each."""

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from typing import Final, Literal

from launcher import inventory, launch, login, storage
from launcher.errors import (
    DataError,
    DistributedError,
    LauncherError,
    SettingsError,
    StorageError,
)

Verdict = Literal["ok", "note", "fails"]
PACKAGES: Final = ("accelerate-launcher", "torch", "torchvision", "accelerate", "numpy",
                   "safetensors", "wandb")  # fmt: skip
PATIENCE: Final = 8.0
"""Seconds for two processes to meet and exchange a number."""
MOST_IMPORT: Final = 60.0
"""Seconds more for them to import torch, on a machine that is busy."""
LEAST_DISK: Final = 1 << 30
LEAST_SHARED: Final = 1 << 28
_SHARED: Final = Path("/dev/shm")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    said: str
    advice: str = ""
    error: type[LauncherError] | None = None
    """What a run would end with, where it would."""


def findings(folder: Path, data_dir: Path) -> Iterator[Finding]:
    """Everything that is looked at, one after the other, the slow ones last. `folder` is where runs
    are written, or would be."""
    yield _versions()
    yield _start()
    yield _hidden_config()
    try:
        os.getcwd()
    except FileNotFoundError:  # without it torch's libraries end the program as they are loaded
        yield Finding("current folder", "fails", "it was deleted", "go to one that is there: "
                      "nothing else was looked at", SettingsError)  # fmt: skip
        return
    yield _disk(folder)
    yield _shared_memory()
    yield from _data_sets(data_dir)
    yield _wandb()
    gpus, said = _devices()
    yield said
    yield exchange("gloo")
    if gpus > 1:
        yield exchange("nccl")


def _versions() -> Finding:
    found, missing = [f"python {platform.python_version()}"], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing and missing != ["accelerate-launcher"]:  # which runs from its folder as well
        return Finding("versions", "fails", f"{', '.join(missing)} not installed",
                       f"pip install {' '.join(missing)}", SettingsError)  # fmt: skip
    return Finding("versions", "ok", ", ".join(found))


def _start() -> Finding:
    """What the environment says of how processes are started."""
    try:
        started = launch.read()
    except SettingsError as error:
        return Finding("start", "fails", str(error), "unset what is left over", SettingsError)
    threads = os.environ.get("OMP_NUM_THREADS")
    said = f"by {started.command}" + (f", OMP_NUM_THREADS={threads}" if threads else "")
    return Finding("start", "ok", said)


def _hidden_config() -> Finding:
    path = launch.hidden_config()
    if path is None:
        return Finding("accelerate config", "ok", "none that would be read in silence")
    return Finding("accelerate config", "note", f"accelerate launch reads {path} when it is given "
                   f"none", "give --config_file, or remove it")  # fmt: skip


def _disk(folder: Path) -> Finding:
    place = folder if folder.is_dir() else folder.absolute().parent
    try:
        free = storage.free(place)
        began = time.monotonic()
        storage.probe(place, 0)
        took = 1e3 * (time.monotonic() - began)
    except StorageError as error:
        return Finding("disk", "fails", str(error), "a run could not write there", StorageError)
    said = f"{free / 1e9:,.1f} GB free in {place}; a small checkpoint is durable in {took:,.0f} ms"
    if free < LEAST_DISK:
        return Finding("disk", "note", said, "free some space: a checkpoint needs three times the "
                       "model's size")  # fmt: skip
    return Finding("disk", "ok", said)


def _shared_memory() -> Finding:
    if not _SHARED.is_dir():
        return Finding("shared memory", "note", f"there is no {_SHARED}", "workers=0 needs none")
    free = storage.free(_SHARED)
    said = f"{free / 1e9:,.2f} GB free in {_SHARED}"
    if free < LEAST_SHARED:
        advice = "loader processes for files need more: docker run --shm-size=8g"
        return Finding("shared memory", "note", said, advice)
    return Finding("shared memory", "ok", said)


def _data_sets(root: Path) -> Iterator[Finding]:
    lines = inventory.lines(root, check=False)
    here = [line.name for line in lines if not line.state.startswith(("not here", "damaged"))]
    missing = [line.name for line in lines if line.state.startswith("not here")]
    advice = f"launcher data fetch {' '.join(missing)} data_dir={root}" if missing else ""
    yield Finding("data sets", "note" if missing else "ok",
                  f"here: {', '.join(here)}" + (f"; not: {', '.join(missing)}" if missing else ""),
                  advice)  # fmt: skip
    for line in lines:
        if line.damaged:
            advice = f"launcher data fetch {line.name} data_dir={root}"
            yield Finding(line.name, "fails", " ".join(line.damaged), advice, DataError)


def _wandb() -> Finding:
    mode, why = login.mode("auto")
    if mode == "online":
        return Finding("W&B", "ok", f"online ({why}); whether the key is valid was not asked")
    advice = "wandb login" if mode == "offline" else ""
    return Finding("W&B", "note", f"{mode} ({why})", advice)


def _has_nvidia() -> bool:
    """Whether anything here is of a GPU of NVIDIA's: without it there is nothing to mend."""
    return which("nvidia-smi") is not None or any(Path("/dev").glob("nvidia*"))


def _devices() -> tuple[int, Finding]:
    """How many GPUs there are, and what a run would compute on."""
    import torch

    cores = len(os.sched_getaffinity(0))
    if not torch.cuda.is_available():
        said = f"{cores} CPU cores, no GPU"
        if torch.version.cuda is None:
            return 0, Finding("devices", "note", f"{said}; this torch is built without CUDA",
                              "install torch for your CUDA if there is a GPU")  # fmt: skip
        if not _has_nvidia():
            return 0, Finding("devices", "ok", f"{said} (no driver of NVIDIA's)")
        return 0, Finding("devices", "note", f"{said} that torch {torch.__version__} can use",
                          "see nvidia-smi, its driver and CUDA_VISIBLE_DEVICES")  # fmt: skip
    count = torch.cuda.device_count()
    names = [
        f"{torch.cuda.get_device_name(n)} ({torch.cuda.mem_get_info(n)[0] / 1e9:,.0f} GB free)"
        for n in range(count)
    ]
    return count, Finding("devices", "ok", f"{cores} CPU cores, {', '.join(names)}")


def exchange(backend: str, patience: float = PATIENCE) -> Finding:
    """Two processes on this machine that meet and exchange a number, over the loopback."""
    name = f"two processes ({backend})"
    began = time.monotonic()
    end = began + patience + MOST_IMPORT
    code = "from launcher.exchange import meet; meet()"
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", code, backend, f"{patience}"], env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for environment in _environments(_free_port())
    ]  # fmt: skip
    said: list[str] = []
    try:
        for process in pair:
            _, words = process.communicate(timeout=max(0.1, end - time.monotonic()))
            if process.returncode:
                lines = [line for line in words.splitlines() if line.strip()]
                said.append(lines[-1] if lines else f"ended with {process.returncode}")
    except subprocess.TimeoutExpired:
        said.append(f"they did not end within {patience + MOST_IMPORT:g} seconds")
    finally:
        for process in pair:
            process.kill()
            process.communicate()
    if said:
        return Finding(
            name,
            "fails",
            said[0],
            "look at the firewall, at what `hostname` resolves "
            "to, and at GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME",
            DistributedError,
        )
    return Finding(
        name, "ok", f"exchanged a number {time.monotonic() - began:.1f} s after the start"
    )


def _environments(port: int) -> Iterator[dict[str, str]]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC")}
    place = str(Path(__file__).resolve().parent.parent)  # also where the launcher is not installed
    path = os.pathsep.join(filter(None, [place, ours.get("PYTHONPATH", "")]))
    for process in ("0", "1"):
        yield ours | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": process,
                      "WORLD_SIZE": "2", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}  # fmt: skip


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])
