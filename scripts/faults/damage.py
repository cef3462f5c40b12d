"""The modes of `torture.py` that change the files of a checkpoint, as a bad disk or an enemy would.

`flips` turns single bits, cuts files and blanks blocks; each must be refused. `foreign` puts
pickles that do something when they are opened under every name that a loader could look for. Both
are done to Accelerate's `save_state` too, of whom it counts what loads and is not what was saved.
The loading is done by a forked child, since a parser of wrong lengths may take the process with it.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.forked import Child, Say
from faults.loaders import LOADERS, Loader
from faults.pickles import EXTRA_NAMES, Witness, pickles
from faults.rows import ACCELERATE, LAUNCHER, Row
from faults.subjects import scratch
from launcher import checkpoint

FLIPS = 10_000
BLOCK = 512
_WORDS = {b"r": "refused", b"s": "same", b"a": "altered"}


@dataclass(frozen=True)
class Damage:
    """What becomes of one file: `flip` the bit at a place, `cut` to a size, or `blank` a block."""

    name: str
    kind: str
    place: int

    def done_to(self, good: bytes) -> bytes:
        """The damaged content; it may be the same when a block was blank before."""
        if self.kind == "cut":
            return good[: self.place]
        changed = bytearray(good)
        if self.kind == "flip":
            changed[self.place // 8] ^= 1 << self.place % 8
        else:
            changed[self.place : self.place + BLOCK] = bytes(len(good[self.place :][:BLOCK]))
        return bytes(changed)


def flipped(files: dict[str, bytes], count: int, drawn: random.Random) -> list[Damage]:
    """Single bits: a file drawn evenly, and a place in it, so that small files have their share."""
    names = sorted(files)
    chosen = [drawn.choice(names) for _ in range(count)]
    return [Damage(name, "flip", drawn.randrange(8 * len(files[name]))) for name in chosen]


def cut_and_blanked(files: dict[str, bytes]) -> list[Damage]:
    """Every file cut to 0, 1, half and all but one byte, and each of its blocks blanked."""
    found = []
    for name, good in files.items():
        sizes = {0, 1, len(good) // 2, len(good) - 1}
        found += [Damage(name, "cut", size) for size in sorted(sizes)]
        blocks = [Damage(name, "blank", place) for place in range(0, len(good), BLOCK)]
        found += [damage for damage in blocks if damage.done_to(good) != good]
    return found


def outcomes(loader: Loader, damages: Sequence[Damage]) -> list[str]:
    """What the loader makes of each damage: refused, same, altered, or died."""
    found: list[str] = []
    while len(found) < len(damages):
        rest = damages[len(found) :]
        before = {path.name: path.read_bytes() for path in loader.folder.iterdir()}
        code, said = Child(lambda say: _load_each(loader, rest, say)).wait()  # noqa: B023
        found += [_WORDS[said[at : at + 1]] for at in range(len(said))]
        if len(found) < len(damages):
            assert code < 0, "the child ended early and was not killed"
            found.append("died")
            for name, good in before.items():
                (loader.folder / name).write_bytes(good)
    return found


def _load_each(loader: Loader, damages: Sequence[Damage], say: Say) -> None:
    for damage in damages:
        path = loader.folder / damage.name
        good = path.read_bytes()
        _put_in(path, damage.done_to(good))
        say(loader.load()[:1].encode())
        _put_in(path, good)


def _put_in(path: Path, data: bytes) -> None:
    """Into the file that is there: to empty it first would take ten times as long."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def flips(seed: int, count: int | None) -> list[Row]:
    """Single bits, cuts and blank blocks in every file of a checkpoint, for both loaders."""
    rows = []
    for subject, make in LOADERS.items():
        with scratch() as folder:
            loader = make(folder, seed)
            files = {path.name: path.read_bytes() for path in loader.folder.iterdir()}
            for what, damages in (
                ("one bit flipped", flipped(files, count or FLIPS, random.Random(seed))),
                ("cut short, or a block of zeros", cut_and_blanked(files)),
            ):
                rows.append(_row("flips", what, outcomes(loader, damages), subject, len(files)))
            assert loader.load() == "same", "the loader refuses what is sound"
    return rows


def _row(mode: str, what: str, found: list[str], subject: str, files: int) -> Row:
    counted = Counter(found)
    harmless = counted["same"] if subject == ACCELERATE else 0
    bad = len(found) - counted["refused"] - harmless
    words = ", ".join(f"{count:,} {outcome}" for outcome, count in counted.most_common())
    return Row(mode, f"{what}, in each of {files} files", len(found), bad, words, subject)


# ── foreign ──────────────────────────────────────────────────────────────────────────────────────

Put = Callable[[Path, bytes], None]


def _put(name: str) -> Put:
    return lambda folder, evil: _write(folder / name, evil)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _sworn(name: str) -> Put:
    """In the place of a file, with a manifest and a COMMIT that swear to it."""

    def put(folder: Path, evil: bytes) -> None:
        (folder / name).write_bytes(evil)
        manifest = json.loads((folder / "manifest.json").read_bytes())
        entry = {"bytes": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
        manifest["files"][name] = entry
        text = json.dumps(manifest).encode()
        (folder / "manifest.json").write_bytes(text)
        (folder / "COMMIT").write_text(hashlib.sha256(text).hexdigest())

    return put


def places(loader: Loader, subject: str) -> Iterator[tuple[str, Put]]:
    """Every name under which a pickle is tried."""
    names = sorted(path.name for path in loader.folder.iterdir())
    for name in sorted({*names, *EXTRA_NAMES}):
        yield name, _put(name)
    if subject == LAUNCHER:
        for name in checkpoint.FILES:
            yield f"{name}, sworn to", _sworn(name)


def _opened(loader: Loader, subject: str, marker: Path, say: Say) -> None:
    good = {path.name: path.read_bytes() for path in loader.folder.iterdir()}
    witness = Witness()
    loader.load()  # what it imports for the first time is run, and is not the pickle
    for place, put in places(loader, subject):
        for kind, evil in pickles(marker).items():
            put(loader.folder, evil)
            with witness.watching():
                outcome = loader.load()
            ran = marker.exists()
            if ran:
                marker.rmdir()
            line = [place, kind, outcome, ran, sorted(set(witness.seen))]
            say(json.dumps(line).encode() + b"\n")
            for path in loader.folder.iterdir():
                path.unlink()
            for name, data in good.items():
                (loader.folder / name).write_bytes(data)


def foreign(seed: int, count: int | None) -> list[Row]:
    """Pickles under every name, for both loaders. Nothing is drawn."""
    rows = []
    for subject, make in LOADERS.items():
        with scratch() as folder:
            loader, marker = make(folder, seed), folder / "ran"
            code, said = Child(lambda say: _opened(loader, subject, marker, say)).wait()  # noqa: B023
        lines = [json.loads(line) for line in said.splitlines()]
        ran = [line for line in lines if line[3]]
        seen = [line for line in lines if line[4]]
        bad = ran if subject == ACCELERATE else [line for line in lines if line in ran + seen]
        found = Counter(line[2] for line in lines)
        words = ", ".join(f"{number} {outcome}" for outcome, number in found.most_common())
        where = ", ".join(sorted({line[0] for line in bad})) or "none"
        rows.append(Row("foreign", "a pickle that runs something, under each name", len(lines),
                        len(bad) + (code != 0), f"ran: {where}; {words}", subject))  # fmt: skip
    return rows
