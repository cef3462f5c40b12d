"""Augmentation of batches against slow references that treat one image at a time."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher import augment
from launcher.errors import RecipeError
from launcher.rng import SampleRng

Range = tuple[float, float]
Augmentation = Callable[[Tensor, SampleRng], Tensor]
SEED, EPOCH, SAMPLES = 5, 2, 40
INDEX = np.random.default_rng(1).permutation(1000)[:SAMPLES].astype(np.int64)


def draws(index: np.ndarray[tuple[int], np.dtype[np.int64]] = INDEX) -> SampleRng:
    return SampleRng(SEED, EPOCH, index)


def images(dtype: torch.dtype, shape: tuple[int, int, int] = (3, 7, 9)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(1, 256, (SAMPLES, *shape), generator=generator, dtype=torch.uint8)
    return image if dtype == torch.uint8 else image.to(dtype) / 7


def shift(image: Tensor, rng: SampleRng) -> Tensor:
    return augment.shift(image, rng, 3)


def erase(image: Tensor, rng: SampleRng) -> Tensor:
    return augment.erase(image, rng, 0.7, fill=9)


def flip_one(image: Tensor, rng: SampleRng) -> Tensor:
    if not rng.chance(0.5)[0]:
        return image
    result = image.clone()
    width = image.shape[-1]
    for column in range(width):
        result[..., column] = image[..., width - 1 - column]
    return result


def shift_one(image: Tensor, rng: SampleRng) -> Tensor:
    """Pixel (row, column) comes from (row + down - 3, column + right - 3), if there is one."""
    down, right = int(rng.integers(0, 7)[0]) - 3, int(rng.integers(0, 7)[0]) - 3
    height, width = image.shape[-2:]
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                result[:, row, column] = image[:, row + down, column + right]
    return result


def erase_one(image: Tensor, rng: SampleRng) -> Tensor:
    height, width = image.shape[-2:]
    chosen = rng.chance(0.7)[0]
    pixels = (0.02 + rng.uniform()[0] * (0.33 - 0.02)) * height * width
    ratio = math.exp(math.log(0.3) + rng.uniform()[0] * (math.log(3.3) - math.log(0.3)))
    tall = min(max(round(math.sqrt(pixels * ratio)), 1), height)
    wide = min(max(round(math.sqrt(pixels / ratio)), 1), width)
    top = int(rng.uniform()[0] * (height - tall + 1))
    left = int(rng.uniform()[0] * (width - wide + 1))
    result = image.clone()
    if chosen:
        result[:, top : top + tall, left : left + wide] = 9
    return result


PAIRS = pytest.mark.parametrize(
    ("batched", "single"),
    [(augment.flip, flip_one), (shift, shift_one), (erase, erase_one)],
    ids=["flip", "shift", "erase"],
)
BATCHED = pytest.mark.parametrize("batched", [augment.flip, shift, erase])
DTYPES = pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])


@PAIRS
@DTYPES
@pytest.mark.parametrize("shape", [(3, 7, 9), (1, 8, 8)])
def test_a_batch_is_what_one_image_after_the_other_gives(
    batched: Augmentation, single: Augmentation, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    image = images(dtype, shape)
    expected = [single(image[place], draws(INDEX[place : place + 1])) for place in range(SAMPLES)]
    found = batched(image, draws())
    assert torch.equal(found, torch.stack(expected))
    assert not torch.equal(found, image), "nothing happened, so nothing was compared"


@BATCHED
@DTYPES
def test_dtype_shape_and_device_are_kept_and_the_argument_is_not_changed(
    batched: Augmentation, dtype: torch.dtype
) -> None:
    image = images(dtype)
    before = image.clone()
    found = batched(image, draws())
    assert (found.dtype, found.shape, found.device) == (image.dtype, image.shape, image.device)
    assert torch.equal(image, before)
    found.zero_()
    assert torch.equal(image, before), "the result shares memory with the argument"


@BATCHED
@DTYPES
def test_images_with_the_channels_last_give_the_same(
    batched: Augmentation, dtype: torch.dtype
) -> None:
    image = images(dtype)
    strided = image.to(memory_format=torch.channels_last)
    assert not strided.is_contiguous()
    assert torch.equal(batched(strided, draws()), batched(image, draws()))


@BATCHED
def test_an_image_does_not_depend_on_its_batch(batched: Augmentation) -> None:
    image = images(torch.uint8)
    order = np.random.default_rng(2).permutation(SAMPLES)[:13]
    found = batched(image[torch.from_numpy(order)], draws(INDEX[order]))
    assert torch.equal(found, batched(image, draws())[torch.from_numpy(order)])


@BATCHED
def test_an_image_depends_on_its_number_and_not_on_its_place(batched: Augmentation) -> None:
    """The negative control of the test above: draws by place give another result."""
    image = images(torch.uint8)
    order = np.random.default_rng(2).permutation(SAMPLES)[:13]
    found = batched(image[torch.from_numpy(order)], draws(INDEX[:13]))
    assert not torch.equal(found, batched(image, draws())[torch.from_numpy(order)])


@BATCHED
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_images_as_the_cpu(batched: Augmentation) -> None:
    image = images(torch.uint8)
    found = batched(image.cuda(), draws())
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu(), batched(image, draws()))


def test_about_half_of_the_images_are_mirrored() -> None:
    index = np.arange(4000, dtype=np.int64)
    image = torch.tensor([1, 2], dtype=torch.uint8).expand(4000, 1, 1, 2)
    mirrored = augment.flip(image, draws(index))[:, 0, 0, 0] == 2
    assert 0.46 < mirrored.float().mean() < 0.54


def test_a_shift_by_nothing_changes_nothing() -> None:
    image = images(torch.uint8)
    assert torch.equal(augment.shift(image, draws(), 0), image)


@pytest.mark.parametrize("most", [1, 4, 12])
def test_a_shift_reaches_every_offset_and_none_beyond(most: int) -> None:
    """One bright pixel in the middle of a large image shows where the image went."""
    samples, side = 60 * most**2, 4 * most + 1
    image = torch.zeros(samples, 1, side, side, dtype=torch.uint8)
    image[:, :, 2 * most, 2 * most] = 1
    moved = augment.shift(image, draws(np.arange(samples, dtype=np.int64)), most)
    places = moved.nonzero()[:, 2:] - 2 * most
    assert len(places) == samples
    assert set(places[:, 0].tolist()) == set(range(-most, most + 1))
    assert set(places[:, 1].tolist()) == set(range(-most, most + 1))


def test_a_shift_further_than_the_image_is_wide_leaves_zeros_or_a_part() -> None:
    image = images(torch.uint8, (1, 2, 2))
    moved = augment.shift(image, draws(), 5)
    assert moved.shape == image.shape
    assert (moved.flatten(1).sum(1) == 0).any()


def rectangles(
    samples: int, height: int, width: int, area: Range = (0.02, 0.33), aspect: Range = (0.3, 3.3)
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of what is erased from each image; all must be rectangles."""
    index = np.arange(samples, dtype=np.int64)
    image = torch.ones(samples, 1, height, width, dtype=torch.uint8)
    gone = augment.erase(image, draws(index), 1.0, area, aspect)[:, 0] == 0
    rows, columns = gone.any(2), gone.any(1)
    assert torch.equal(gone, rows[:, :, None] & columns[:, None, :])
    tall, wide = rows.sum(1), columns.sum(1)
    top, left = rows.int().argmax(1), columns.int().argmax(1)
    assert bool((gone.flatten(1).sum(1) == tall * wide).all())
    assert bool((rows.flip(1).int().argmax(1) == height - top - tall).all()), "a gap in the rows"
    return top, left, tall, wide


def test_an_erased_rectangle_has_the_area_and_aspect_that_were_asked_for() -> None:
    _, _, tall, wide = rectangles(3000, 100, 100, area=(0.05, 0.2), aspect=(0.5, 2.0))
    share, ratio = tall * wide / 100**2, tall / wide
    slack = 0.07  # sides are whole pixels, of at least 15
    assert 0.05 * (1 - slack) <= share.min() < 0.06
    assert 0.18 < share.max() <= 0.2 * (1 + slack)
    assert 0.5 * (1 - slack) <= ratio.min() < 0.55
    assert 1.8 < ratio.max() <= 2 * (1 + slack)
    assert 0.45 < (ratio < 1).float().mean() < 0.55, "the aspect is not drawn logarithmically"


def test_an_erased_rectangle_lies_inside_the_image_and_reaches_all_edges() -> None:
    top, left, tall, wide = rectangles(3000, 12, 16)
    assert top.min() == left.min() == 0
    assert int((top + tall).max()) == 12
    assert int((left + wide).max()) == 16


def test_a_rectangle_that_does_not_fit_is_cut_at_the_size_of_the_image() -> None:
    top, left, tall, wide = rectangles(50, 6, 6, area=(0.9, 1.0), aspect=(30.0, 40.0))
    assert set(tall.tolist()) == {6}
    assert set(top.tolist()) == {0}
    assert set(wide.tolist()) == {1}
    assert set(left.tolist()) == set(range(6))


def test_a_rectangle_has_at_least_one_pixel() -> None:
    _, _, tall, wide = rectangles(50, 8, 8, area=(0.0, 0.0))
    assert set((tall * wide).tolist()) == {1}


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_images_are_erased_with_the_given_probability(probability: float) -> None:
    index = np.arange(4000, dtype=np.int64)
    image = torch.ones(4000, 1, 8, 8)
    erased = (augment.erase(image, draws(index), probability) == 0).flatten(1).any(1)
    assert erased.float().mean().item() == pytest.approx(probability, rel=0.1)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.3,), (0.5,)), ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))],
    ids=["one", "three"],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalize_is_pixel_over_255_less_mean_over_standard_deviation(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype
) -> None:
    image = images(torch.uint8).to(dtype)
    before, label = image.clone(), torch.arange(SAMPLES)
    found = augment.normalize(mean, std)({"image": image, "label": label})
    assert found["label"] is label
    assert found["image"].dtype == torch.float32
    by, of = torch.tensor(std).double().view(-1, 1, 1), torch.tensor(mean).double().view(-1, 1, 1)
    expected = (image.double() / 255 - of) / by
    torch.testing.assert_close(found["image"].double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(image, before)


def test_one_mean_normalizes_images_of_one_channel_to_one_channel() -> None:
    image = images(torch.uint8, (1, 4, 4))
    assert augment.normalize((0.5,), (0.5,))({"image": image})["image"].shape == image.shape


@pytest.mark.parametrize("first", [None, torch.uint8])
@pytest.mark.parametrize(
    "values",
    [(0.0, 1.0), (0.1, 0.9), (-1.9, 2.6), (-1.0, 0.2)],
    ids=["scaled", "grey", "zero mean", "dark"],
)
def test_images_that_were_scaled_before_are_refused(
    first: torch.dtype | None, values: tuple[float, float]
) -> None:
    """Also when the training split's were bytes and the test split's are not."""
    normalize = augment.normalize((0.5,), (0.25,))
    if first is not None:
        normalize({"image": torch.zeros(2, 1, 4, 4, dtype=first)})
    image = torch.full((2, 1, 4, 4), values[0])
    image[0, 0, 0, 0] = values[1]
    with pytest.raises(RecipeError, match=r"would divide these by 255 again.*give it uint8"):
        normalize({"image": image})


def test_bytes_that_are_all_dark_are_taken() -> None:
    for image in (torch.ones(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, 4, 4)):
        augment.normalize((0.5,), (0.25,))({"image": image})


def test_a_mean_needs_a_standard_deviation() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        augment.normalize((0.5, 0.5), (0.5,))
