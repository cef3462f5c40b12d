"""A small picture as a data URL, without an imaging library: a run's end imports none."""

import base64
import struct
import zlib


def data_url(pixels: bytes, width: int, height: int, channels: int) -> str:
    """`data:image/png;base64,...` of 8-bit pixels, row by row from the top: grey (1 channel),
    RGB (3) or RGB with opacity (4), channels last.

    PNG (ISO/IEC 15948): a signature, and chunks with their length and CRC; each row is preceded by
    the number of its filter, here 0, none.
    """
    row = width * channels
    assert len(pixels) == row * height, "one byte for each channel of each pixel"
    rows = b"".join(b"\0" + pixels[place : place + row] for place in range(0, len(pixels), row))
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    file = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)
    return f"data:image/png;base64,{base64.b64encode(file).decode('ascii')}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
