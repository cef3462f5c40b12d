"""Memory that a step frees on the host stays with the process, for the next step.

glibc gives large blocks back to the kernel as soon as they are free, and every step then pays for
each of their pages again: 700 page faults in a step of LeNet with 128 images on a CPU, a sixth of
its time (docs/speed.md). GPUs have had such a cache from the first day.
"""

import ctypes
import os
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Of malloc.h; mallopt(3)."""
_KEPT: Final = 2**31 - 1
"""Bytes at the end of the heap that are not given back: as many as an int can say."""
_FROM_THE_HEAP: Final = (1 << 30, 32 << 20)
"""Blocks of up to so many bytes; some versions of glibc refuse more than the second."""


def keep_freed_memory() -> bool:
    """Ask the C library not to give freed memory back. Returns whether it does so now.

    It is for a process that trains or evaluates: the process stays as large as it was at its
    largest. What the user has said by glibc's own variables is left as it is, and so are other
    C libraries.
    """
    said = any(name.startswith("MALLOC_") for name in os.environ)
    if said or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    from_the_heap = any(mallopt(_M_MMAP_THRESHOLD, size) for size in _FROM_THE_HEAP)
    return from_the_heap and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
