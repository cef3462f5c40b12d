"""What a `.wandb` file holds: the records that W&B's client writes on disk before it sends them.

The format is LevelDB's log: blocks of 32 KiB, in them chunks with a checksum, a length and a kind,
of which one or several make a record. A file that was cut by a kill is read up to the cut.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_BLOCK: Final = 32768
_HEAD: Final = struct.Struct("<4sHB")
_CHUNK: Final = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[bytes]:
    """Every whole record, a serialized `wandb_internal.Record`; none when it is no such file."""
    data = path.read_bytes()
    if len(data) < _HEAD.size or _HEAD.unpack_from(data) != (b":W&B", 0xBEE1, 0):
        return
    place, parts = _HEAD.size, b""
    while place + _CHUNK.size <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _CHUNK.size:  # too little for a chunk: zeros
            place += left
            continue
        checksum, size, kind = _CHUNK.unpack_from(data, place)
        place += _CHUNK.size
        chunk = data[place : place + size]
        place += size
        if zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            return
        parts = chunk if kind in (_FULL, _FIRST) else parts + chunk
        if kind in (_FULL, _LAST):
            yield parts


def history(path: Path) -> Iterator[dict[str, Any]]:
    """Every row that was logged, with its `_step`, in order."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    for data in records(path):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            yield {
                ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }


def last_step(folder: Path, run_id: str) -> int:
    """The last step in the files of a run, over all its parts under `folder`; -1 for none."""
    paths = sorted(folder.glob(f"*run-*-{run_id}/run-{run_id}.wandb"))
    return max((row["_step"] for path in paths for row in history(path)), default=-1)
