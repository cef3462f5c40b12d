"""What `accelerate launch` and `torchrun` left in the environment, read before torch is imported.

Several ways to start several processes start something else, in silence: one process, or several
that each train alone. They are refused here, with the command that does it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import SettingsError

ENGINES = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}


@dataclass(frozen=True)
class Launch:
    """How this process was started."""

    process: int = 0
    processes: int = 1
    local_processes: int = 1
    precision: str = "no"
    """Of `accelerate launch --mixed_precision`."""
    cpu: bool = False
    """Whether `accelerate launch --cpu` asked for the CPU."""
    command: str = "python"

    @property
    def is_main(self) -> bool:
        return self.process == 0


def read(environ: Mapping[str, str] = os.environ) -> Launch:
    """How this process was started. Raises SettingsError for a start that would do something else
    than it says."""
    accelerated = "ACCELERATE_MIXED_PRECISION" in environ
    for variable, engine in ENGINES.items():
        if _true(environ.get(f"ACCELERATE_USE_{variable}", "")):
            raise SettingsError(
                f"accelerate launch was given a {engine} config, and {engine} is not supported. "
                f"Use configs/machines/ddp.yaml (distributed_type: MULTI_GPU)."
            )
    if accelerated and "MASTER_PORT" in environ and "WORLD_SIZE" not in environ:
        raise SettingsError(
            "accelerate launch was asked for several processes on the CPU and started one: its "
            "--cpu and distributed_type: MULTI_CPU do that. Use --config_file "
            "configs/machines/cpu_2.yaml, or torchrun --nproc_per_node 2 -m launcher ..."
        )
    backend = environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise SettingsError(
            f"accelerate launch was told to compile (dynamo_backend {backend}): take that out of "
            f"its config; compiling is the run setting compile=."
        )
    precision = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "fp16", "bf16"):
        raise SettingsError(
            f"accelerate launch was told mixed_precision {precision}: no, fp16 and bf16 are "
            f"supported."
        )
    if environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") not in ("", "1"):
        raise SettingsError(
            "accelerate launch was told to accumulate gradients: take gradient_accumulation_steps "
            "out of its config; accumulation is batch_size / (micro_batch_size x processes)."
        )
    torchrun = "TORCHELASTIC_RUN_ID" in environ
    process, processes = _whole(environ, "RANK", 0), _whole(environ, "WORLD_SIZE", 1)
    if process >= processes or (processes > 1 and "MASTER_ADDR" not in environ):
        raise SettingsError(
            f"the environment says RANK={process}, WORLD_SIZE={processes} and MASTER_ADDR="
            f"{environ.get('MASTER_ADDR', '(nothing)')}, which is no start of several processes: "
            f"use accelerate launch or torchrun, or unset these for one process."
        )
    return Launch(
        process=process,
        processes=processes,
        local_processes=max(1, _whole(environ, "LOCAL_WORLD_SIZE", 1)),
        precision=precision,
        cpu=_true(environ.get("ACCELERATE_USE_CPU", "")),
        command="accelerate launch" if accelerated else "torchrun" if torchrun else "python",
    )


def hidden_config(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The user's Accelerate config, which `accelerate launch` reads when it is given none."""
    cache = (
        environ.get("HF_HOME") or Path(environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    )
    try:
        path = Path(cache).expanduser() / "accelerate" / "default_config.yaml"
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # no such home
        return None


def _whole(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise SettingsError(f"the environment has {variable}={text!r}, which is no number.")
    return int(text)


def _true(text: str) -> bool:
    return text.lower() in ("1", "true", "yes", "on", "y", "t")
