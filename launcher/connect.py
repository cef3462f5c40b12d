"""Meeting the other processes and taking a device: how a `World` begins."""

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
)
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from launcher import interface
from launcher.errors import DistributedError, SettingsError
from launcher.launch import Launch
from launcher.peers import Peers
from launcher.settings import Hparams, RunSettings
from launcher.strategy import Kind, World
from launcher.watch import Watch


def connect(launch: Launch, hparams: Hparams, settings: RunSettings) -> World:
    """Meet the other processes and take a device.

    Raises SettingsError for a strategy or precision that the devices do not have, and
    DistributedError when fewer processes met than were started.
    """
    cpu = launch.cpu or not torch.accelerator.is_available()
    precision = _precision(launch, hparams, cpu)
    gpus = 0 if cpu else torch.accelerator.device_count()
    devices = _devices(launch, hparams, settings, gpus)
    if hparams.sync_batchnorm and cpu and launch.processes > 1:
        raise SettingsError(
            "sync_batchnorm=true needs GPUs: batch norm over processes has no CPU code."
        )
    if devices > 1 and hparams.sync_batchnorm:
        raise SettingsError("sync_batchnorm=true needs one process per GPU: use DDP instead of dp.")
    if devices > 1 and precision == "fp16":
        raise SettingsError(
            "precision=fp16 has no loss scaling under strategy=dp: use bf16 or DDP."
        )
    threads = _set_threads(launch, settings, cpu)
    if settings.tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = settings.tf32
        torch.backends.cudnn.allow_tf32 = settings.tf32
    timeout = timedelta(seconds=settings.timeout)
    try:
        if launch.processes > launch.local_processes:
            interface.choose_for_gloo()
        if cpu and launch.processes > 1 and "MASTER_ADDR" in os.environ:
            _meet(launch, timeout)
        accelerator = _accelerator(
            cpu, "no" if devices > 1 else precision, timeout, hparams.find_unused_parameters
        )
        several = accelerator.num_processes > 1
        peers = Peers(accelerator.process_index, accelerator.num_processes) if several else None
        if peers is not None:
            peers.show(0, 0)  # where this process is, before any exchange
    except (ValueError, RuntimeError) as error:
        raise DistributedError(f"Accelerate could not start: {error}") from error
    if accelerator.num_processes != launch.processes:
        raise DistributedError(
            f"{launch.processes} processes were started, but {accelerator.num_processes} met: each "
            f"would train alone over the same files. Use configs/machines/cpu_2.yaml on a CPU, "
            f"configs/machines/ddp.yaml on GPUs, or torchrun."
        )
    several = accelerator.distributed_type != DistributedType.NO
    kind: Kind = "DDP" if several else "DataParallel" if devices > 1 else "one process"
    watch = Watch(settings.timeout, int(accelerator.process_index), peers)
    return World(accelerator, kind, precision, devices, threads, watch)


def _meet(launch: Launch, patience: timedelta) -> None:
    """Form the process group, before Accelerate would.

    An agent that starts the processes anew (`--max-restarts`) keeps its store, and gloo would find
    the addresses of those that are gone: in 3 of 6 trials it did. So each start has its own keys.
    """
    store, process, processes = next(rendezvous(
        "env://", launch.process, launch.processes, timeout=patience
    ))  # fmt: skip
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    torch.distributed.init_process_group(
        "gloo", store=PrefixStore(f"start/{restart}", store),
        rank=process, world_size=processes, timeout=patience,
    )  # fmt: skip


def _accelerator(cpu: bool, precision: str, timeout: timedelta, unused: bool) -> Accelerator:
    return Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        kwargs_handlers=[
            # Buffers are averaged by `buffers.StepAverage`, not overwritten by the first process's.
            DistributedDataParallelKwargs(
                broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=unused
            ),
            InitProcessGroupKwargs(timeout=timeout),
        ],
    )


def _precision(launch: Launch, hparams: Hparams, cpu: bool) -> str:
    if hparams.precision == "auto":
        has = not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
        return "bf16" if has else "no"
    precision = hparams.precision or launch.precision
    if precision == "fp16" and cpu:
        raise SettingsError("precision=fp16 needs a GPU, here is none: use precision=bf16 or no.")
    return precision


def _devices(launch: Launch, hparams: Hparams, settings: RunSettings, gpus: int) -> int:
    """GPUs that this one process shall use through DataParallel, or 1; `auto` takes them all if the
    batch can be split over them."""
    if settings.strategy == "dp":
        if launch.processes > 1:
            raise SettingsError(
                f"strategy=dp is one process with several GPUs, but {launch.processes} processes "
                f"were launched: use configs/machines/data_parallel.yaml, or strategy=ddp."
            )
        if hparams.micro_batch_size == "auto":
            raise SettingsError(
                "micro_batch_size=auto needs one process per GPU: use DDP instead of dp, or give a "
                "number."
            )
        if gpus < 2:
            raise SettingsError(
                f"strategy=dp needs one process that sees two or more GPUs; this one sees {gpus}."
            )
        return gpus
    given = hparams.micro_batch_size
    unit = gpus * (given if isinstance(given, int) else 1)
    splits = gpus > 1 and given != "auto" and hparams.batch_size % unit == 0
    return gpus if settings.strategy == "auto" and launch.processes == 1 and splits else 1


def _set_threads(launch: Launch, settings: RunSettings, cpu: bool) -> int:
    """`accelerate launch` sets OMP_NUM_THREADS=1 in silence: on a CPU that is one core of many."""
    if settings.threads != "auto":
        torch.set_num_threads(settings.threads)
    elif cpu:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // launch.local_processes))
    return torch.get_num_threads()
