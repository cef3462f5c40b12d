"""Learning-rate schedules: progress in (0, 1) → factor on every group's learning rate.

Pure functions, so that nothing about them is saved or restored. A warm-up is a share of the run and
rises linearly from 0 (Goyal et al.: Accurate, Large Minibatch SGD, 2017, section 2.2).
"""

import math
from bisect import bisect
from collections.abc import Sequence


def constant(progress: float) -> float:
    """1, all the time."""
    return 1.0


def linear(progress: float, warmup: float = 0.0, final: float = 0.0) -> float:
    """Up to 1 during the warm-up, then straight down to `final` at the end."""
    if progress < warmup:
        return progress / warmup
    return 1 + (final - 1) * _after(progress, warmup)


def cosine(progress: float, warmup: float = 0.0, final: float = 0.0) -> float:
    """Up to 1 during the warm-up, then half a cosine down to `final` at the end (Loshchilov,
    Hutter: SGDR, ICLR 2017, equation 5)."""
    if progress < warmup:
        return progress / warmup
    return final + (1 - final) * (1 + math.cos(math.pi * _after(progress, warmup))) / 2


def one_cycle(
    progress: float, warmup: float = 0.3, first: float = 0.04, final: float = 4e-6
) -> float:
    """From `first` up to 1 and down to `final`, by half cosines (Smith, Topin: Super-Convergence,
    2018, section 3; the defaults are those of torch's OneCycleLR)."""
    if progress < warmup:
        return first + (1 - first) * (1 - math.cos(math.pi * progress / warmup)) / 2
    return final + (1 - final) * (1 + math.cos(math.pi * _after(progress, warmup))) / 2


def step(progress: float, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> float:
    """1, multiplied by `factor` at each of the ascending points `at` (He et al.: Deep Residual
    Learning, CVPR 2016, section 4.2: at 32k and 48k of 64k steps)."""
    return factor ** bisect(at, progress)


def _after(progress: float, warmup: float) -> float:
    """How far the part after the warm-up is: in [0, 1]."""
    return (progress - warmup) / (1 - warmup)
