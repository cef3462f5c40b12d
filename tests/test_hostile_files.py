"""Files in the place of a checkpoint that are made to do harm: none is run, followed, awaited."""

import contextlib
import hashlib
import json
import os
import pickle
import resource
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import damage
from faults.calls import save
from faults.crashes import using
from faults.forked import Child
from faults.pickles import Witness, pickles
from faults.subjects import is_whole
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher import checkpoint, storage
from launcher.errors import CheckpointError

RUN = Path("run")
FOLDER = checkpoint.folder_of(RUN, 20)
MOST_SECONDS = 5.0  # of the processor; idle: 0.1
MOST_BYTES = 200 << 20


@pytest.fixture(autouse=True)
def two_checkpoints() -> None:
    """The newer one is the one that gets hurt."""
    torch.set_num_threads(1)
    save(RUN, 10)
    save(RUN, 20)


def sworn(name: str, data: bytes) -> None:
    """A file, with the manifest and the COMMIT that swear to it: the hashes are of no help."""
    (FOLDER / name).write_bytes(data)
    manifest = json.loads((FOLDER / "manifest.json").read_bytes())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    sworn_manifest(json.dumps(manifest).encode())


def sworn_manifest(manifest: bytes) -> None:
    (FOLDER / "manifest.json").write_bytes(manifest)
    (FOLDER / "COMMIT").write_text(hashlib.sha256(manifest).hexdigest())


def refused() -> str:
    """The reason, which must come at once; and the older checkpoint is taken."""
    began = time.process_time()
    with pytest.raises(CheckpointError, match="step-000000000020") as refusal:
        checkpoint.read(RUN, 20)
    assert time.process_time() - began < MOST_SECONDS
    found, skipped = checkpoint.newest(RUN)
    assert found is not None
    assert (found.step, list(skipped)) == (10, [20])
    return str(refusal.value)


def refused_in_little_memory() -> None:
    """The same in a process that cannot have more than `MOST_BYTES` beyond what it has."""

    def work(say: Callable[[bytes], None]) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        refused()

    code, _ = Child(work).wait()
    assert code == 0


# ── pickles ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_no_pickle_runs_under_any_name() -> None:
    """H1, H2: by the folder that it would make, and by what Python's audit tells."""
    ours, theirs = damage.foreign(0, None)
    assert (ours.violations, ours.count >= 100) == (0, True), ours.found
    assert "custom_checkpoint_0.pkl" in theirs.found, "the pickles are none"


@pytest.mark.slow
def test_the_witness_sees_a_pickle_that_runs() -> None:
    def work(say: Callable[[bytes], None]) -> None:
        witness, marker = Witness(), Path("ran")
        for kind, evil in pickles(marker).items():
            if kind.endswith("bare"):
                with witness.watching():
                    pickle.loads(evil)  # noqa: S301
                assert marker.exists(), kind
                assert "pickle.find_class" in witness.seen, kind
                marker.rmdir()

    code, _ = Child(work).wait()
    assert code == 0


# ── manifests ────────────────────────────────────────────────────────────────────────────────────


def entry() -> dict[str, object]:
    return {"bytes": 1, "sha256": "0" * 64}


def manifest(**changes: object) -> bytes:
    document = json.loads((FOLDER / "manifest.json").read_bytes()) | changes
    return json.dumps(document).encode()


NAMES = ["../x", "/etc/passwd", "a/../../b", "model.safetensors\0", "..\\x", "", ".", "..",
         "\u202e", "../step-000000000010/model.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_manifest_names_the_three_files_and_no_others(name: str) -> None:
    """H3: beside them, or instead of one. Nothing outside the folder is opened."""
    files = json.loads((FOLDER / "manifest.json").read_bytes())["files"]
    opened = Opened()
    for without in ((), ("model.safetensors",)):
        changed = {key: value for key, value in files.items() if key not in without}
        sworn_manifest(manifest(files=changed | {name: entry()}))
        with using(opened), pytest.raises(CheckpointError):
            checkpoint.read(RUN, 20)
    assert {path.parent for path in opened.paths} == {FOLDER}


class Opened(storage.Disk):
    """A disk that notes what is opened."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def open(self, path: Path, flags: int) -> int:
        self.paths.append(path)
        return super().open(path, flags)


def duplicated() -> bytes:
    text = (FOLDER / "manifest.json").read_bytes().decode()
    return text.replace(
        '"files": {', '"files": {"state.json": {"bytes": 1, "sha256": ""},'
    ).encode()


MANIFESTS: dict[str, Callable[[], bytes]] = {
    "a name twice": duplicated,
    "a key twice": lambda: manifest()[:-1] + b', "step": 20}',
    "a million files": lambda: manifest(files=0).replace(
        b": 0", b": {" + b",".join(b'"%d":{"bytes":1,"sha256":""}' % n for n in range(10**6)) + b"}"
    ),
    "lists in lists": lambda: b"[" * 100_000 + b"]" * 100_000,
    "fewer lists": lambda: b"[" * 30_000 + b"]" * 30_000,
    "objects in objects": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "fewer objects": lambda: b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "a deep list for a file": lambda: manifest(files=0).replace(
        b": 0", b": " + b"[" * 30_000 + b"]" * 30_000
    ),
    "NaN": lambda: manifest(step=float("nan")),
    "infinity": lambda: manifest(format=float("inf")),
    "a step of 5,000 digits": lambda: manifest(step=0).replace(b": 0", b": " + b"9" * 5000),
    "a format of 4,000 digits": lambda: manifest(format=0).replace(b": 0", b": " + b"9" * 4000),
    "a negative size": lambda: manifest(
        files={name: entry() | {"bytes": -1} for name in checkpoint.FILES}
    ),
    "a long string": lambda: manifest(optimizer="x" * (50 << 20)),
    "other characters": lambda: manifest().decode().encode("utf-16"),
    "half a character": lambda: b'"\\ud800"',
    "nothing": lambda: b"",
    "bytes": lambda: bytes(range(256)),
}  # fmt: skip


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_was_made_to_do_harm_is_refused_at_once(kind: str) -> None:
    """H3."""
    sworn_manifest(MANIFESTS[kind]())
    refused()


@pytest.mark.slow
@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_was_made_to_do_harm_takes_little_memory(kind: str) -> None:
    """H3."""
    sworn_manifest(MANIFESTS[kind]())
    refused_in_little_memory()


def test_a_manifest_of_a_gigabyte_is_not_read() -> None:
    """H3."""
    os.truncate(FOLDER / "manifest.json", 1 << 30)
    assert "at most" in refused()


@pytest.mark.parametrize("version", [0, -1, 2, 99, "1", True, 1.0, 1.5, None, [], {}])
def test_a_manifest_of_another_format_is_refused(version: object) -> None:
    """C26: by its number, where it has one."""
    sworn_manifest(manifest(format=version))
    reason = refused()
    if type(version) is int:
        assert f"has format {version}, this launcher reads 1" in reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["format", "step", "optimizer", "files"])


@given(changes=st.dictionaries(KEYS, JSON, min_size=1), removed=st.sets(KEYS, max_size=1))
@settings(max_examples=80, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_no_manifest_ends_the_reader_with_a_traceback(
    changes: dict[str, Any], removed: set[str]
) -> None:
    """H3: it is read, when it happens to be right, or refused."""
    good = json.loads((FOLDER / "manifest.json").read_bytes())
    document = {key: value for key, value in (good | changes).items() if key not in removed}
    sworn_manifest(json.dumps(document).encode("utf-8", "surrogatepass"))
    try:
        assert is_whole(checkpoint.read(RUN, 20))
    except CheckpointError:
        pass
    finally:
        sworn_manifest(json.dumps(good).encode())


@given(document=JSON)
@settings(max_examples=60, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_no_state_ends_the_reader_with_a_traceback(document: Any) -> None:
    """H3: what a forged manifest swears to may be any JSON."""
    for forged in (document, {"slots": document}):
        sworn("state.json", json.dumps(forged).encode("utf-8", "surrogatepass"))
        with contextlib.suppress(CheckpointError):
            checkpoint.read(RUN, 20)


@pytest.mark.parametrize(
    "state", [b"[" * 10**5, b'{"slots":' * 10**5, b"\xff\xfe", b"", b"7", b"{}"]
)
def test_a_state_that_was_made_to_do_harm_is_refused_at_once(state: bytes) -> None:
    sworn("state.json", state)
    refused()


# ── special files ────────────────────────────────────────────────────────────────────────────────


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o020600, os.makedev(1, 5))  # /dev/zero: endless
    except PermissionError:
        pytest.skip("devices can be made by root only")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a device": device,
    "a socket": listening,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "COMMIT"])
def test_what_is_no_file_is_refused_without_waiting(name: str, kind: str) -> None:
    """H4; pipes, folders and links to files are in test_checkpoint.py."""
    (FOLDER / name).unlink()
    SPECIAL[kind](FOLDER / name)
    refused()


# ── tensors ──────────────────────────────────────────────────────────────────────────────────────


def tensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file: the length of its header, the header, and the data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[int], *offsets: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BOMBS: dict[str, Callable[[], bytes]] = {
    "a header longer than the file": lambda: tensors({}, length=(1 << 63)),
    "a header of 100 MB": lambda: tensors({}, length=100 << 20),
    "no header": lambda: b"",
    "half a length": lambda: b"\0" * 4,
    "a deep header": lambda: tensors(b'{"a":' + b"[" * 100_000),
    "overlapping tensors": lambda: tensors(
        {"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, b"\0" * 12
    ),
    "the same bytes a thousand times": lambda: tensors(
        {f"t{n}": tensor([1024], 0, 4096) for n in range(1000)}, b"\0" * 4096
    ),
    "a hole": lambda: tensors({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, b"\0" * 12),
    "bytes that belong to nobody": lambda: tensors({"a": tensor([1], 0, 4)}, b"\0" * 100),
    "offsets beyond the file": lambda: tensors({"a": tensor([1 << 20], 0, 4 << 20)}, b"\0" * 4),
    "offsets that run backwards": lambda: tensors({"a": tensor([1], 4, 0)}, b"\0" * 4),
    "a shape that overflows": lambda: tensors({"a": tensor([1 << 63, 4], 0, 0)}),
    "a shape that is too large": lambda: tensors({"a": tensor([1 << 40], 0, 4)}, b"\0" * 4),
    "a type that is none": lambda: tensors({"a": tensor([1], 0, 4, dtype="pickle")}, b"\0" * 4),
    "a list for a header": lambda: tensors([1, 2]),
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_tensors_that_were_made_to_do_harm_are_refused_at_once(name: str, kind: str) -> None:
    """H5: with hashes that fit, so that only the parser can tell."""
    sworn(name, BOMBS[kind]())
    refused()


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOMBS)
def test_tensors_that_were_made_to_do_harm_take_little_memory(kind: str) -> None:
    """H5."""
    sworn("model.safetensors", BOMBS[kind]())
    refused_in_little_memory()


def test_a_file_of_another_size_than_sworn_is_not_read() -> None:
    """H5: before a byte of it is in memory; this one would take a terabyte."""
    os.truncate(FOLDER / "model.safetensors", 1 << 40)
    assert "were expected" in refused()


# ── between two looks ────────────────────────────────────────────────────────────────────────────


class Swapping(storage.Disk):
    """A disk on which the model is replaced after the n-th call of a reader."""

    def __init__(self, number: int, new: bytes, *, in_place: bool) -> None:
        self.left, self.new, self.in_place = number, new, in_place

    def _swap(self) -> None:
        self.left -= 1
        if self.left == 0:
            path = FOLDER / "model.safetensors"
            if not self.in_place:
                path.unlink()
            path.write_bytes(self.new)

    def read(self, descriptor: int, size: int) -> bytes:
        data = super().read(descriptor, size)
        self._swap()
        return data

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self._swap()


@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_that_is_swapped_while_it_is_checked_is_never_what_is_loaded(in_place: bool) -> None:
    """H12: what is hashed is what is parsed."""
    good = (FOLDER / "model.safetensors").read_bytes()
    other = (checkpoint.folder_of(RUN, 10) / "model.safetensors").read_bytes()
    assert len(other) == len(good)
    outcomes = []
    for number in range(1, 40):
        disk = Swapping(number, other, in_place=in_place)
        try:
            with using(disk):
                assert is_whole(checkpoint.read(RUN, 20))
            outcomes.append("whole")
        except CheckpointError:
            outcomes.append("refused")
        (FOLDER / "model.safetensors").write_bytes(good)
        if disk.left > 0:
            break
    assert {"whole", "refused"} == set(outcomes)
    assert number > 10
