"""One of two processes that meet and add up a number, as those of a training run do.

`launcher doctor` starts two of these: what a firewall, a wrong name of the machine or a broken
driver prevents is found out by doing it.
"""

import os
import sys
from datetime import timedelta

import torch
from torch import distributed


def meet() -> None:
    """Meet the other process through the environment's MASTER_ADDR, sum 1 and 2, and leave. The
    first argument is the backend, gloo or nccl, the second the seconds to wait at most.

    Raises RuntimeError when the sum is wrong, and what torch raises when they do not meet.
    """
    backend, patience = sys.argv[1], timedelta(seconds=float(sys.argv[2]))
    process = int(os.environ["RANK"])
    device = torch.device("cuda", process) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    distributed.init_process_group(backend, timeout=patience)
    try:
        number = torch.tensor([process + 1.0], device=device)
        distributed.all_reduce(number)
        if number.item() != 3.0:
            raise RuntimeError(f"1 and 2 were added up to {number.item():g}")
    finally:
        distributed.destroy_process_group()
