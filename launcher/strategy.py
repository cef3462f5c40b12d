"""The processes and devices of a run, through Accelerate: one process, DataParallel, or DDP.

Of Accelerate the launch, `Accelerator`, `prepare` of the model (and of the optimizer under fp16),
`backward`, `no_sync`, `autocast` and `reduce` are used. Its loaders, schedulers and checkpoints are
not: they would change which sample comes next.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Final, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher.errors import LauncherError, RecipeError
from launcher.parallel import DataParallel
from launcher.watch import Watch

Kind = Literal["one process", "DataParallel", "DDP"]
_ENGINE: Final = torch.autograd.Variable._execution_engine


@dataclass(frozen=True)
class World:
    """The processes that met, and what this one computes on."""

    accelerator: Accelerator
    kind: Kind
    precision: str
    """no, fp16 or bf16."""
    devices: int
    """Devices of this process: more than one only under DataParallel."""
    threads: int
    watch: Watch

    @cached_property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @cached_property
    def process(self) -> int:
        return int(self.accelerator.process_index)

    @cached_property
    def processes(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return self.process == 0

    def on_one_thread(self) -> "World":
        """The same, with one CPU thread for this process."""
        torch.set_num_threads(1)
        return replace(self, threads=1)

    def prepare(
        self, model: nn.Module, optimizer: Optimizer, *, sync_batchnorm: bool
    ) -> tuple[nn.Module, Optimizer]:
        """The model to train and what steps it. The optimizer is prepared for fp16's scaler only:
        elsewhere its wrapper costs time and does nothing."""
        if self.kind == "DataParallel":
            dtype = torch.bfloat16 if self.precision == "bf16" else None
            model = DataParallel(model, self.devices, dtype)
        if sync_batchnorm and self.processes > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        with warnings.catch_warnings():
            # Newer torch has another name for broadcast_buffers, which Accelerate does not know.
            warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
            if self.precision == "fp16":
                wrapped, stepper = self.accelerator.prepare(model, optimizer)
                return wrapped, stepper
            # Said, where else Accelerate would import half a second of torch to find out.
            return self.accelerator.prepare(model, device_placement=[True]), optimizer

    def autocast(self) -> AbstractContextManager[object]:
        """For a loss; under DataParallel it is opened inside the replicas."""
        if self.precision == "no" or self.kind == "DataParallel":
            return nullcontext()
        context: AbstractContextManager[object] = self.accelerator.autocast()
        return context

    def inference(self) -> AbstractContextManager[object]:
        """For the model itself, outside of training: elsewhere Accelerate has put autocast into its
        `forward`."""
        if self.precision == "no" or self.kind != "DataParallel":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def no_sync(self, wrapped: nn.Module) -> AbstractContextManager[object]:
        """Backward without exchanging gradients, for all but a step's last micro-batch."""
        return self.accelerator.no_sync(wrapped) if self.processes > 1 else nullcontext()

    def backward(self, loss: Tensor, share: float) -> None:
        """Add the gradient of `loss * share`. A loss that is not finite makes every gradient NaN,
        so that the exchange of gradients tells all processes. Raises RecipeError for one that
        depends on no parameter."""
        if not loss.requires_grad:
            raise RecipeError(
                "recipe.loss returned a loss that depends on no parameter of the model: was it "
                "detached, or made without the model's output?"
            )
        if self.precision == "fp16":
            self.accelerator.backward(loss * share)
        else:
            # What `loss.backward` does, without looking once more at what is known of a scalar: 12
            # of the 24 us that the call takes beside the passes themselves.
            _ENGINE.run_backward(
                (loss,), (_gradient(loss, share),), keep_graph=False, create_graph=False,
                inputs=(), allow_unreachable=True, accumulate_grad=True,
            )  # fmt: skip

    def skipped(self) -> bool:
        """Whether fp16's scaler left out the last step because a gradient was not finite."""
        return self.precision == "fp16" and bool(self.accelerator.optimizer_step_was_skipped)

    def scaler(self) -> dict[str, float | int]:
        """The state of fp16's loss scale; {} under another precision."""
        return dict(self.accelerator.scaler.state_dict()) if self.precision == "fp16" else {}

    def restore_scaler(self, state: dict[str, float | int]) -> None:
        """Set fp16's loss scale to what it was."""
        if self.precision == "fp16" and state:
            self.accelerator.scaler.load_state_dict(state)

    @property
    def total(self) -> Callable[[Tensor], Tensor] | None:
        """The sum of a tensor over all processes; None when there is one."""
        if self.processes == 1:
            return None
        return lambda tensor: self.accelerator.reduce(tensor, reduction="sum")

    def seed(self, seeds: list[int]) -> None:
        """Seed the generator that dropout draws from, on each device of this process.

        Only that one: `torch.manual_seed` seeds every generator there is, which takes 100 times as
        long.
        """
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seeds[0])
        elif self.device.type == "cuda":
            # Accelerate's device has no index in a process that was started alone.
            own = (
                self.device.index if self.device.index is not None else torch.cuda.current_device()
            )
            first = 0 if self.devices > 1 else own
            for number, value in enumerate(seeds):
                torch.cuda.default_generators[first + number].manual_seed(value)
        else:
            torch.manual_seed(seeds[0])

    def seed_alike(self, seed: int) -> None:
        """Seed what an update may draw from, on the host and on each device: the same numbers in
        every process."""
        self.seed([seed] * self.devices)
        if self.device.type != "cpu":
            torch.default_generator.manual_seed(seed)

    def on_main(self, work: Callable[[], int]) -> int:
        """Do something in the main process only; its result, or its refusal, reaches all.

        The others raise the same kind of error without its words, which the main process shows.
        """
        if self.processes == 1:
            return work()
        verdict = torch.zeros(2, dtype=torch.int64, device=self.device)
        failure: LauncherError | None = None
        if self.is_main:
            try:
                verdict[1] = work()
            except LauncherError as error:
                failure = error
                verdict[0] = error.code
        torch.distributed.broadcast(verdict, src=0)
        if failure is not None:
            raise failure
        code, result = verdict.tolist()
        if code:
            raise RefusedElsewhere(code)
        return int(result)

    def share(self, data: bytes) -> bytes:
        """The main process's bytes, in every process: one of them reads the disk for all."""
        if self.processes == 1:
            return data
        size = torch.tensor([len(data)], dtype=torch.int64, device=self.device)
        torch.distributed.broadcast(size, src=0)
        content = torch.zeros(int(size), dtype=torch.uint8)
        if self.is_main:
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        content = content.to(self.device)
        torch.distributed.broadcast(content, src=0)
        return data if self.is_main else content.cpu().numpy().tobytes()

    def close(self) -> None:
        """Leave the process group, so that no process waits for one that is gone."""
        self.watch.stop()
        self.accelerator.end_training()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _gradient(loss: Tensor, share: float) -> Tensor:
    """`share`, or NaN if the loss is not finite, where the loss is."""
    if loss.device.type == "cpu":
        return _on_host(share if math.isfinite(loss.item()) else math.nan, loss.dtype)
    return torch.rsub(loss.detach(), share, alpha=0)  # share - 0 * loss, and no wait


@lru_cache(maxsize=16)
def _on_host(value: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor(value, dtype=dtype)


class RefusedElsewhere(LauncherError):  # noqa: N818
    """The main process refused, and says why."""

    def __init__(self, code: int) -> None:
        super().__init__("the main process refused")
        self.code = code
