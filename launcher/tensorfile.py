"""The safetensors format, written straight from the tensors' own memory.

The library's `save` first builds the whole file in memory, twice, and holds the interpreter while
it does: training would stand still. This gives the same bytes, tensor by tensor; the library reads
them.

Format: https://github.com/huggingface/safetensors#format - eight bytes with the header's length, a
header in JSON, then the tensors without gaps, those with the widest numbers first.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor

from launcher.errors import CheckpointError

NAMES: Final = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
}  # fmt: skip
_RANK: Final = (
    "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32",
    "C64", "F64", "I64", "U64",
)  # fmt: skip
_WHOLE: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def parts(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The file's bytes in order: the header, then each tensor. Tensors lie on the host.

    Raises CheckpointError for a tensor whose dtype the format has no name for.
    """
    order = sorted(tensors, key=lambda name: (-_RANK.index(_name(name, tensors[name])), name))
    header: dict[str, object] = {}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        if tensors[name].numel():
            yield _bytes(tensors[name])


def _name(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in NAMES:
        raise CheckpointError(f"{name} has dtype {tensor.dtype}, which safetensors cannot hold.")
    return NAMES[tensor.dtype]


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes in row-major order; a copy only where it lies in another order."""
    if tensor.dtype.is_complex:
        tensor = torch.view_as_real(tensor)
    numbers = tensor.view(_WHOLE[tensor.element_size()]).numpy()  # NumPy has no bfloat16
    return np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).data
