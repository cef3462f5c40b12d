"""The suite `gpu`: rates, share of the measured peak, and the time to a given accuracy."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benching.found import Found
from benching.rows import GPU
from benching.speed import rates, ready
from launcher import screen

ROOT = Path(__file__).resolve().parents[2]
TARGET = 0.95


def gpu(asked: Namespace) -> list[Found]:
    """Everything that only a GPU shows; with --quick its parts run on whatever device there is."""
    if not (torch.cuda.is_available() or asked.quick):
        screen.text("no GPU here: nothing is measured (--quick runs the parts on the CPU)")
        return []
    found = [rates(asked, GPU, "gpu")]
    if not asked.only or "peak" in asked.only:
        found.append(peak(asked))
    if not asked.only or "time-to-accuracy" in asked.only:
        found.append(time_to_accuracy(asked))
    return found


def peak(asked: Namespace) -> Found:
    """What part of the fastest matrix product the launcher's ResNet-34 reaches."""
    from benching.timing import window

    columns = ("ResNet-34, batch 512", "samples/s", "TFLOP/s", "matrix product, TFLOP/s", "share")
    found = Found("gpu-peak", "share of the measured peak", columns)
    for row in (row for row in GPU if "resnet" in row.name):
        with ready(row, asked) as job:
            rate = statistics.median(window(job, "launcher", 0) for _ in range(job.row.windows))
            batch = job.parts.sample("train")
            model = job.model(arranged=True)
            with FlopCounterMode(display=False) as counter:
                F.cross_entropy(model(batch["image"]), batch["label"]).backward()  # type: ignore[no-untyped-call]
            each = counter.get_total_flops() / len(batch["label"])
            size = 64 if asked.quick else 8192
            most = matmul_peak(job.device, row.precision, size)
        reached = rate * each
        cells = (f"{rate:,.0f}", f"{reached / 1e12:.2f}", f"{most / 1e12:.2f}",
                 f"{reached / most:.1%}")  # fmt: skip
        found.rows.append((row.precision, *cells))
        found.raw[row.name] = {"rate": rate, "flops_per_sample": each, "peak": most}
    return found


def matmul_peak(device: torch.device, precision: str, size: int) -> float:
    """Operations per second of a large square matrix product, the best of ten: of float32 as it is
    rounded in convolutions, to TF32."""
    plain = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        _wait(device)
        began = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    torch.backends.cuda.matmul.allow_tf32 = plain
    return float(2 * size**3 / best)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def time_to_accuracy(asked: Namespace, target: float = TARGET) -> Found:
    """Seconds of training until the shipped recipe's test accuracy, evaluations included."""
    recipe = str(ROOT / "recipes" / "cifar_resnet.py")
    words = ["precision=auto", f"data_dir={Path(asked.data or 'data').resolve()}", "name=bench"]
    if asked.quick:
        recipe, target = str(ROOT / "recipes" / "fashion_mlp.py"), 0.5
        words = ["dataset=digits", "epochs=3", "name=bench"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "launcher", recipe, *words, *asked.set], check=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        metrics = Path(folder) / "checkpoints" / "bench" / "metrics.jsonl"
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
    tests = [record for record in records if record.get("test/accuracy") is not None]
    first = next((r for r in tests if r["test/accuracy"] >= target), None)
    found = Found("gpu-accuracy", "time to accuracy",
                  ("recipe", "target", "seconds", "epoch", "best accuracy"))  # fmt: skip
    when = (f"{first['seconds']:.0f}", f"{first['epoch']:.0f}") if first else ("not reached", "")
    best = max(record["test/accuracy"] for record in tests)
    found.rows.append((Path(recipe).stem, f"{target:.0%}", *when, f"{best:.2%}"))
    found.raw = {"target": target, "tests": tests}
    return found
