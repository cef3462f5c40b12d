"""What goes wrong with images and loader processes in a whole run: the code, the words, the end."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import HANGS, ROOT, command, write_recipe
from PIL import Image

RUN = Path("checkpoints/r")
PHOTOS = """
import signal, time
import numpy as np
from torchvision.transforms import v2
from torch.utils.data import get_worker_info

class Spoiled:
    made = 0
    def __call__(self, photo):
        self.made += 1
        if get_worker_info() is not None and self.made == {after}:
            {happens}
        return photo

def data(hparams):
    crop = v2.Compose([Spoiled(), v2.RandomResizedCrop(6, antialias=True), v2.PILToTensor()])
    return Data(
        train=Split(sources.folder("photos", crop, split="train")),
        test=Split(sources.folder("photos", size=6, split="test")),
        prepare=augment.normalize((0.5,), (0.5,)),
    )

def model(hparams, data):
    return models.MLP(3 * 6 * 6, len(data.classes), (4,), dropout=0.2)

def loss(model, batch):
    time.sleep({slowly})
    return losses.cross_entropy(model, batch)
"""


def recipe(happens: str = "pass", after: int = 12, slowly: float = 0.0, more: str = "") -> Path:
    """Something happens when a worker has made so many samples; a step takes so many seconds."""
    return write_recipe(PHOTOS.format(happens=happens, after=after, slowly=slowly) + more)


@pytest.fixture
def photos() -> Path:
    """50 JPEGs of two classes; every fifth is for tests."""
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = Path("photos") / name
        folder.mkdir(parents=True)
        for number in range(25):
            pixels = draw.integers(0, 256, (9, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02}.jpg")
    return Path("photos")


GIVEN = ("name=r", "threads=1", "batch_size=8", "checkpoint_every=1", "epochs=6")


def run(path: Path, *given: str) -> int:
    return command(path, *GIVEN, *given)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())


def left() -> dict[str, object]:
    """The run's status; no loader process may be there any more."""
    assert multiprocessing.active_children() == []
    about: dict[str, object] = json.loads((RUN / "status.json").read_text())
    return about


def test_a_worker_that_is_killed_ends_the_run_with_its_number_and_what_was_kept(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D4: not when the time for its batch is over, which here is longer than a test may take."""
    path = recipe("os.kill(os.getpid(), signal.SIGKILL)", after=60, slowly=0.1)
    assert run(path, "workers=2", f"timeout={10 * HANGS:g}") == 4
    words = said(capsys)
    assert re.search(r"a loader process ended: .*pid\D+\d+.*give fewer workers=", words)
    about = left()
    assert about["state"] == "failed"
    step = about["last_committed_step"]
    assert isinstance(step, int)
    assert step > 0


def test_a_worker_that_hangs_ends_the_run_when_the_time_is_over(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D5."""
    assert run(recipe("time.sleep(1000)"), "workers=1", "timeout=2") == 4
    assert "no loader process gave a batch within 2 seconds (timeout=)" in said(capsys)
    assert left()["state"] == "failed"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_cut_is_named_with_its_number_and_its_file(
    photos: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    """D5."""
    broken = photos / "dog" / "07.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    assert run(recipe(), f"workers={workers}") == 4
    number = [path for path in sorted(photos.glob("*/*.jpg")) if int(path.stem) % 5 != 4].index(
        broken
    )
    words = said(capsys)
    assert f"sample {number} ({broken.resolve()}) cannot be made" in words
    assert left()["state"] == "failed"


def test_a_folder_without_images_and_a_class_without_images_are_refused(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D8."""
    (photos / "cow").mkdir()
    assert run(recipe()) == 4
    assert "classes without an image" in said(capsys)
    photos.rename("full")
    photos.mkdir()
    assert run(recipe()) == 4
    assert "has no folders in it, and each class needs one" in said(capsys)
    assert not Path("checkpoints").exists()


KILLED = """
def loss(model, batch, seen=[0]):
    seen[0] += model.training
    if seen[0] == int(os.environ.get("KILL_AT", "-1")):
        os.kill(os.getpid(), 9)
    return losses.cross_entropy(model, batch)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(0, 2), (2, 0)])
def test_a_run_killed_in_the_middle_ends_with_the_same_weights_with_other_workers(
    photos: Path, first: int, then: int
) -> None:
    """By SIGKILL, in a process of its own: nothing is said, closed or written at the end."""
    path = recipe(more=KILLED)
    ends = []
    runs: dict[str, list[tuple[int, str | None]]] = {
        "whole": [(first, None)], "r": [(first, "17"), (then, None)],
    }  # fmt: skip
    for name, attempts in runs.items():
        for workers, kill_at in attempts:
            done = subprocess.run(
                [sys.executable, "-m", "launcher", path, *GIVEN, f"name={name}",
                 f"workers={workers}"],
                env=os.environ | {"KILL_AT": kill_at or "-1", "PYTHONPATH": str(ROOT)}, check=False,
            )  # fmt: skip
            assert done.returncode == (-9 if kill_at else 0)
        last = max(Path("checkpoints", name).glob("step-*"))
        ends.append({part.name: part.read_bytes() for part in last.iterdir()})
    assert ends[0] == ends[1]
    assert "model.safetensors" in ends[0]
