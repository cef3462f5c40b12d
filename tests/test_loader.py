"""Loader processes: any number of them gives the same batches, and their ends have reasons."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HANGS, command, write_recipe
from PIL import Image
from torch.utils.data import get_worker_info

from launcher import augment, loader, recipe, settings, sources
from launcher.data import Batch, Data, Split, Task, feed
from launcher.errors import DataError
from launcher.loader import Loader, Origin, check_shared_memory, worker_error
from launcher.plan import Plan
from launcher.rng import Int64s, SampleRng, torch_seed
from launcher.settings import Hparams

CPU = torch.device("cpu")
PHOTOS = """
import time
from torchvision.transforms import v2

def data(hparams):
    crop = v2.Compose([
        v2.RandomResizedCrop(12, antialias=True), v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.PILToTensor(),
    ])

    def transform(batch, rng):
        return batch | {"image": augment.shift(batch["image"], rng, 1)}

    return Data(
        train=Split(sources.folder("photos/train", crop), transform),
        test=Split(sources.folder("photos/val", size=12)),
        prepare=augment.normalize((0.5,), (0.5,)),
    )

def model(hparams, data):
    return models.MLP(3 * 12 * 12, 2, (hparams.width,), dropout=0.2)
"""
PLAN = Plan(seed=3, epochs=3, samples=22, batch_size=8, micro_batch_size=4)


@pytest.fixture
def photos() -> Path:
    """32 JPEGs of 20 x 24 pixels: two classes, 22 for training."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 11), ("val", 5)):
        for name in ("cat", "dog"):
            folder = Path("photos") / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return Path("photos")


def built(path: Path) -> tuple[Data, Origin]:
    """The recipe's data, and how a worker would make its training source."""
    loaded = recipe.load(path)
    hparams: Hparams = loaded.recipe.hparams()
    origin = Origin(
        path=path.resolve(), sha256=loaded.sha256, part="train", data_dir=Path("data"),
        hparams=json.dumps(settings.as_json(hparams)),
    )  # fmt: skip
    return loaded.recipe.data(hparams), origin


@pytest.fixture
def ours() -> Iterator[list[Loader]]:
    """Loaders that are closed at the end."""
    made: list[Loader] = []
    yield made
    for one in made:
        one.close()


def hashes(
    data: Data, origin: Origin, ours: list[Loader], workers: int, *, processes: int = 1,
    start: int = 0, start_method: str | None = None,
) -> dict[tuple[int, int], str]:  # fmt: skip
    """Of every micro-batch of a run, by step and number, from all processes together."""
    found = {}
    plan = Plan(**{**vars(PLAN), "processes": processes})
    for process in range(processes):
        made = Loader(data.train.source, origin, PLAN.seed, workers, timeout=60,
                      start_method=start_method)  # fmt: skip
        ours.append(made)
        for ticket, batch in feed(data, plan, CPU, start=start, process=process, gather=made):
            digest = hashlib.sha256(batch["image"].contiguous().numpy().tobytes())
            digest.update(batch["label"].numpy().tobytes())
            found[ticket.step, ticket.number] = digest.hexdigest()
        made.close()
    return found


@pytest.mark.parametrize("processes", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(
    photos: Path, ours: list[Loader], processes: int
) -> None:
    data, origin = built(write_recipe(PHOTOS))
    whole = hashes(data, origin, ours, 0)
    assert len(whole) == PLAN.total_steps * PLAN.micro_batches
    assert len(set(whole.values())) == len(whole), "every epoch draws anew"
    for workers in (0, 1, 2, 4):
        assert hashes(data, origin, ours, workers, processes=processes) == whole
        tail = hashes(data, origin, ours, workers, processes=processes, start=4)
        assert tail == {place: one for place, one in whole.items() if place[0] >= 4}


@pytest.mark.parametrize("processes", [1, 2])
def test_data_in_memory_is_the_same_whatever_workers_were_asked_for(
    ours: list[Loader], processes: int
) -> None:
    """With batch augmentation; and no worker is begun."""
    split = Split(sources.synthetic("train", 22, (3, 8, 8), 4), augmented)
    data, origin = Data(train=split, test=split), Origin(Path("r.py"), "", "{}", Path(), "train")
    whole = hashes(data, origin, ours, 0)
    assert len(set(whole.values())) == len(whole) == PLAN.total_steps * PLAN.micro_batches
    for workers in (0, 1, 2, 4):
        assert hashes(data, origin, ours, workers, processes=processes) == whole
        tail = hashes(data, origin, ours, workers, processes=processes, start=4)
        assert tail == {place: one for place, one in whole.items() if place[0] >= 4}
    assert multiprocessing.active_children() == []


def augmented(batch: Batch, rng: SampleRng) -> Batch:
    image = augment.shift(augment.flip(batch["image"], rng), rng, 2)
    return batch | {"image": augment.erase(image, rng)}


def test_seeding_by_worker_would_be_noticed(
    photos: Path, ours: list[Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: draws that depend on the worker differ."""
    data, origin = built(write_recipe(PHOTOS))
    whole = hashes(data, origin, ours, 2)
    before = loader._Maker.__getitem__

    def by_worker(maker: Any, task: Task) -> Any:
        info = get_worker_info()
        assert info is not None
        return before(maker, Task(task.samples, (*task.words, info.id)))

    monkeypatch.setattr(loader._Maker, "__getitem__", by_worker)
    assert hashes(data, origin, ours, 2) != whole


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_worker_that_was_not_forked_makes_the_source_itself(
    photos: Path, ours: list[Loader], start_method: str
) -> None:
    data, origin = built(write_recipe(PHOTOS))
    whole = hashes(data, origin, ours, 0)
    assert hashes(data, origin, ours, 2, start_method=start_method) == whole


def outcome() -> dict[str, bytes]:
    last = max(Path("checkpoints/r").glob("step-*"))
    return {path.name: path.read_bytes() for path in last.iterdir()}


def test_final_weights_are_the_same_killed_and_continued_with_other_workers(photos: Path) -> None:
    stop = """
def loss(model, batch, seen=[0]):
    seen[0] += model.training
    if seen[0] == int(os.environ.get("STOP_AT", "-1")):
        raise KeyboardInterrupt
    return losses.cross_entropy(model, batch)
"""
    path = write_recipe(PHOTOS + stop)
    given = ("name=r", "threads=1", "batch_size=8", "epochs=4", "checkpoint_every=3")
    ends = []
    for first, then in ((0, None), (2, None), (2, 0), (0, 1)):
        if then is not None:
            os.environ["STOP_AT"] = "6"
            assert command(path, *given, f"workers={first}") == 130
            del os.environ["STOP_AT"]
        assert command(path, *given, f"workers={first if then is None else then}") == 0
        ends.append(outcome())
        Path("checkpoints/r").rename(f"{first}-{then}")
    assert all(end == ends[0] for end in ends)


# ── what goes wrong ─────────────────────────────────────────────────────────────────────────────


class Counting:
    """A source that does something with a sample, in whatever process makes it."""

    classes = ("a", "b")
    shape = (1,)
    fingerprint = "counting"

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: Int64s) -> dict[str, torch.Tensor]:
        return self.draw(index, 0)

    def draw(self, index: Int64s, seed: int, *words: int) -> dict[str, torch.Tensor]:
        for number in index:
            self.make(int(number))
        return {"image": torch.zeros(len(index), 1), "label": torch.from_numpy(index) % 2}

    def make(self, number: int) -> None:
        """Nothing, here."""


class Dying(Counting):
    def make(self, number: int) -> None:
        if number == 7 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)


class Hanging(Counting):
    def make(self, number: int) -> None:
        if number == 7:
            time.sleep(1000)


class Raising(Counting):
    def make(self, number: int) -> None:
        if number == 7:
            raise DataError(f"sample {number} (photo-7.jpg) cannot be made: it is cut.")


def tasks() -> list[Task]:
    return [Task(np.arange(first, first + 2)) for first in range(0, 20, 2)]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Dying(), "a loader process ended: .*killed.*give fewer workers="),
        (Hanging(), "no loader process gave a batch within 2 seconds"),
        (Raising(), r"sample 7 \(photo-7.jpg\) cannot be made"),
    ],
)
def test_a_worker_that_fails_is_a_refusal_with_a_reason(
    source: Counting, says: str, ours: list[Loader]
) -> None:
    """D4, D5: killed, hanging, raising."""
    _, origin = None, Origin(Path("r.py"), "", "{}", Path("data"), "train")
    timeout = 2 if isinstance(source, Hanging) else 10 * HANGS  # not what ends the others
    ours.append(Loader(source, origin, 0, 2, timeout=timeout))
    with pytest.raises(DataError, match=says) as refusal:
        list(ours[0](tasks()))
    if isinstance(source, Raising):
        assert "in make" in refusal.value.frames


def test_the_order_is_that_of_the_tasks_though_one_worker_is_slow(ours: list[Loader]) -> None:
    class Uneven(Counting):
        def make(self, number: int) -> None:
            time.sleep(0.05 if number % 4 < 2 else 0)

    origin = Origin(Path("r.py"), "", "{}", Path("data"), "train")
    ours.append(Loader(Uneven(), origin, 0, 2))
    labels = torch.cat([batch["label"] for batch in ours[0](tasks())])
    assert torch.equal(labels, torch.arange(20) % 2)
    again = torch.cat([batch["label"] for batch in ours[0](tasks())])  # the workers stay
    assert torch.equal(again, labels)


def test_nobody_is_left_when_a_loader_is_closed_in_the_middle(ours: list[Loader]) -> None:
    origin = Origin(Path("r.py"), "", "{}", Path("data"), "train")
    ours.append(Loader(Counting(), origin, 0, 2))
    assert len(list(islice(ours[0](tasks()), 3))) == 3
    assert len(multiprocessing.active_children()) == 2
    ours[0].close()
    assert multiprocessing.active_children() == []


def test_workers_ignore_what_the_training_process_obeys(ours: list[Loader]) -> None:
    """A7: a signal to the whole group reaches them too."""

    class Shot(Counting):
        def make(self, number: int) -> None:
            if get_worker_info() is not None:
                for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                    os.kill(os.getpid(), one)

    origin = Origin(Path("r.py"), "", "{}", Path("data"), "train")
    ours.append(Loader(Shot(), origin, 0, 2))
    assert len(list(ours[0](tasks()))) == 10


def test_too_little_shared_memory_is_refused_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """D6."""
    batch = {"image": torch.zeros(1000, 1000, dtype=torch.uint8)}
    check_shared_memory(batch, 2)
    monkeypatch.setattr(loader, "_free", lambda: 5_900_000)
    with pytest.raises(DataError, match=r"need about 6 MB .* has 6 MB left. Enlarge it"):
        check_shared_memory(batch, 2)
    check_shared_memory(batch, 0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
         "dataloader's workers are out of shared memory.", "found no shared memory"),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "a loader process ended"),
        ("DataLoader timed out after 5 seconds", "no loader process gave a batch"),
    ],
)  # fmt: skip
def test_what_torch_says_of_its_workers_is_explained(text: str, says: str) -> None:
    found = worker_error(RuntimeError(text), 5)
    assert isinstance(found, DataError)
    assert says in str(found)
    other = RuntimeError("something else")
    assert worker_error(other, 5) is other


def test_a_recipe_that_changed_is_not_loaded_by_a_worker(photos: Path) -> None:
    path = write_recipe(PHOTOS)
    _, origin = built(path)
    path.write_text(path.read_text() + "\n# changed\n")
    with pytest.raises(DataError, match="was changed while the run was going on"):
        origin.source()


def test_dropout_does_not_depend_on_where_a_batch_was_made(photos: Path) -> None:
    """Decoding in this process leaves torch's generator as the loop has seeded it."""
    data, origin = built(write_recipe(PHOTOS))
    torch.manual_seed(torch_seed(1))
    first = torch.rand(3)
    torch.manual_seed(torch_seed(1))
    next(iter(Loader(data.train.source, origin, 0, 0)([Task(np.arange(4))])))
    assert torch.equal(torch.rand(3), first)
    assert len(SampleRng(0, 0, np.arange(4))) == 4
