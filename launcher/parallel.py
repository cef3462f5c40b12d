"""DataParallel that keeps the promises: one process, several GPUs, the mathematics of DDP.

DDP is faster and is what PyTorch recommends. This is for where one process is all there is.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class DataParallel(nn.Module):
    """A model on several devices: device i computes the i-th micro-batch of a ticket.

    The output is gathered on the first device, as float32. In training the buffers become the mean
    of those of all devices, where nn.DataParallel alone would keep the first device's.
    """

    def __init__(self, model: nn.Module, devices: int, dtype: torch.dtype | None) -> None:
        super().__init__()
        self._replica = _Replica(model, dtype)
        self._parallel = nn.DataParallel(self._replica, device_ids=list(range(devices)))
        self._floating = [buffer for buffer in model.buffers() if buffer.is_floating_point()]

    def forward(self, *inputs: Tensor) -> Any:
        output, buffers = self._parallel(*inputs)
        if self.training and self._floating:
            with torch.no_grad():
                sizes = [buffer.numel() for buffer in self._floating]
                parts = torch.split(buffers.mean(0), sizes)
                for buffer, mean in zip(self._floating, parts, strict=True):
                    # Past autograd's version count: batch norm hands its running averages to
                    # backward, which in training does not read them.
                    buffer.data.copy_(mean.view_as(buffer))
        return output


class _Replica(nn.Module):
    """What each device runs: the model under autocast, and the buffers it leaves behind.

    Autocast is opened in here because the threads of nn.DataParallel open theirs without a dtype,
    which would make bf16 run as fp16 without a scaler.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, *inputs: Tensor) -> tuple[Any, Tensor]:
        with self._autocast(inputs[0].device.type):
            output = self.model(*inputs)
        flat = [b.detach().flatten() for b in self.model.buffers() if b.is_floating_point()]
        buffers = torch.cat(flat) if flat else torch.zeros(0, device=inputs[0].device)
        return output.float(), buffers[None]

    def _autocast(self, device: str) -> AbstractContextManager[object]:
        return nullcontext() if self.dtype is None else torch.autocast(device, dtype=self.dtype)
