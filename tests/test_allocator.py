"""Memory that a step frees stays with the process; each check in an interpreter of its own, since
the C library cannot be asked to forget what it was told."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from conftest import HANGS

from launcher.allocator import keep_freed_memory

PROBE = """
import ctypes, json, resource, sys
from launcher.allocator import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        block = libc.malloc(megabytes << 20)
        ctypes.memset(block, 1, megabytes << 20)
        libc.free(block)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10

asked = keep_freed_memory() if sys.argv[1] == "ask" else None
faults(40), faults(4)  # the first time, every page is new
print(json.dumps({"asked": asked, "faults": [faults(4), faults(40)]}))
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def probe(word: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, word], check=True, capture_output=True, text=True,
        timeout=HANGS, env=plain | dict(environment or {}),
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@glibc
def test_blocks_are_used_again_without_a_page_fault() -> None:
    kept = probe("ask")
    assert kept["asked"] is True
    assert kept["faults"] == pytest.approx([0, 0], abs=50)
    left = probe("leave")["faults"]
    assert left[1] > 5_000, "the C library keeps blocks of 40 MB by itself: nothing to ask for"


@pytest.mark.parametrize(
    "said",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"MALLOC_ARENA_MAX": "2"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ],
    ids=lambda said: next(iter(said)),
)
def test_what_the_user_has_said_is_left_as_it_is(said: dict[str, str]) -> None:
    assert probe("ask", said)["asked"] is False


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.allocator.ctypes.CDLL", lambda name: object())
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    assert keep_freed_memory() is False
