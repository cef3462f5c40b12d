"""Samples that are made one by one: what they draw, what they become together, and which failed."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.errors import DataError
from launcher.rng import DECODE, Int64s, torch_seed
from launcher.sources import decoded
from launcher.sources.decoded import Decoded, decode, stacked

ROOT = Path(__file__).resolve().parent.parent


class Drawing(Decoded):
    """Samples that are nothing but draws, from each of the three generators."""

    classes = ("even", "odd")
    shape = (3,)
    fingerprint = "d0"

    def __len__(self) -> int:
        return 20

    def sample(self, number: int) -> Any:
        if number == 13:
            raise ValueError("unlucky")
        if number == 17:
            raise MemoryError
        values = [float(torch.rand(())), random.random(), float(np.random.random())]
        return {"image": torch.tensor(values, dtype=torch.float64), "label": torch.tensor(number)}

    def where(self, number: int) -> str:
        return f"drawing {number}"


def index(*numbers: int) -> Int64s:
    return np.array(numbers, dtype=np.int64)


def draws(*numbers: int, seed: int = 0, words: tuple[int, ...] = ()) -> Tensor:
    return decode(Drawing(), index(*numbers), seed, *words)["image"]


def test_what_a_sample_draws_does_not_depend_on_its_place_or_on_its_batch() -> None:
    together = draws(3, 1, 4, 5, 9)
    assert torch.equal(draws(9, 5, 4, 1, 3), together.flip(0))
    for place, number in enumerate((3, 1, 4, 5, 9)):
        assert torch.equal(draws(number)[0], together[place])
        assert torch.equal(draws(number, number, 8)[1], together[place])


def test_every_generator_gives_other_samples_epochs_and_seeds_other_draws() -> None:
    found = torch.cat(
        [draws(3, 4), draws(3, seed=1), draws(3, words=(0,)), draws(3, words=(1,)),
         draws(3, words=(1, 0)), draws(3, seed=1, words=(1,))]
    )  # fmt: skip
    for generator in range(3):
        assert len({*found[:, generator].tolist()}) == len(found)


def test_what_a_sample_draws_is_the_same_in_another_process() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import torch; torch.rand(7)\n"
        "from test_decoded import draws; sys.stdout.write(repr(draws(5, 3)[1].tolist()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout == repr(draws(3)[0].tolist())


def test_a_sample_draws_under_the_seed_that_it_had_at_first() -> None:
    """A golden value: a change here changes what every earlier run augmented."""
    seed = torch_seed(7, DECODE, 2, 3)
    assert seed == 375231176509631502
    python = random.Random(seed)
    numpy = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32])
    torchs = torch.rand((), generator=torch.Generator().manual_seed(seed))
    expected = [float(torchs), python.random(), float(numpy.random())]
    assert draws(3, seed=7, words=(2,))[0].tolist() == expected


@pytest.mark.parametrize("number", [3, 13], ids=["made", "failed"])
def test_the_generators_of_others_are_as_they_were(number: int) -> None:
    def ahead() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.random())

    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    expected = ahead()
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])
    if number == 13:
        with pytest.raises(DataError):
            draws(2, number)
    else:
        draws(2, number)
    assert ahead() == expected


def test_a_source_gives_the_samples_that_were_asked_for_as_under_seed_0() -> None:
    batch = Drawing()[index(7, 0, 7)]
    assert batch["label"].tolist() == [7, 0, 7]
    assert torch.equal(batch["image"], draws(7, 0, 7))


def test_labels_of_any_whole_type_become_int64() -> None:
    class Bytes(Drawing):
        def sample(self, number: int) -> Any:
            return {"image": torch.zeros(2), "label": torch.tensor(number, dtype=torch.uint8)}

    batch = Bytes()[index(1, 2)]
    assert (batch["label"].dtype, batch["image"].shape) == (torch.int64, (2, 2))


def test_all_labels_are_found_by_making_all_samples_once() -> None:
    class Counting(Drawing):
        made = 0

        def __len__(self) -> int:
            return 600

        def sample(self, number: int) -> Any:
            self.made += 1
            return {"label": torch.tensor(number)}

    source = Counting()
    assert torch.equal(source.labels(), torch.arange(600))
    assert torch.equal(source.labels(), torch.arange(600))
    assert source.made == 600


def test_a_sample_that_fails_is_named_with_its_number_its_file_and_its_cause() -> None:
    with pytest.raises(DataError) as refusal:
        draws(1, 13)
    assert str(refusal.value) == "sample 13 (drawing 13) cannot be made: ValueError: unlucky."
    assert isinstance(refusal.value.__cause__, ValueError)
    assert 'raise ValueError("unlucky")' in refusal.value.frames


def test_too_little_memory_is_no_fault_of_the_sample() -> None:
    with pytest.raises(MemoryError):
        draws(17)


@pytest.mark.parametrize("number", [20, -1])
def test_a_number_that_is_not_there_is_an_error(number: int) -> None:
    with pytest.raises(IndexError, match=f"no sample {number} among 20"):
        draws(number)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("in_worker", [False, True])
def test_samples_are_stacked_as_torch_stacks_them_and_once(
    dtype: torch.dtype, in_worker: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a worker straight into shared memory. Decoders write images with the channels last."""
    monkeypatch.setattr(decoded, "get_worker_info", lambda: in_worker or None)
    pixels = torch.arange(5 * 4 * 6 * 3).reshape(5, 4, 6, 3).to(dtype).permute(0, 3, 1, 2)
    for parts in ([*pixels], [*pixels.contiguous()], [*pixels[:, 0, 0, 0]], [pixels[0, :, :0]]):
        found = stacked(parts)
        assert torch.equal(found, torch.stack(parts))
        assert (found.dtype, found.is_contiguous()) == (dtype, True)
        shared: bool = found.is_shared()  # type: ignore[no-untyped-call]
        assert shared is in_worker


def test_samples_that_are_not_alike_are_torchs_affair() -> None:
    bytes_, floats = torch.ones(2, 3, dtype=torch.uint8), torch.ones(2, 3)
    assert stacked([bytes_, floats]).dtype == torch.float32
    with pytest.raises(RuntimeError, match="equal size"):
        stacked([bytes_, bytes_[:1]])
