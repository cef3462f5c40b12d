"""The file's bytes are those of the safetensors library, whatever the tensors look like."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load
from safetensors.torch import save as by_the_library
from torch import Tensor

from launcher import tensorfile
from launcher.errors import CheckpointError

DTYPES = sorted(tensorfile.NAMES, key=str)


def written(tensors: Mapping[str, Tensor]) -> bytes:
    return b"".join(bytes(part) for part in tensorfile.parts(tensors))


def expected(tensors: Mapping[str, Tensor]) -> bytes:
    """The library takes row-major tensors only, and each in memory of its own."""
    return by_the_library({name: t.clone().contiguous() for name, t in tensors.items()})


def filled(dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor of bytes that differ, so that any other order of them would be seen."""
    size = torch.empty((), dtype=dtype).element_size()
    count = torch.Size(shape).numel()
    if dtype is torch.bool:
        return (torch.arange(count) % 3 == 0).reshape(shape)
    numbers = (torch.arange(count * size) * 37 % 251).to(torch.uint8)
    return numbers.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0,), (2, 0, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_shape_is_written_as_the_library_does(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensors = {"a": filled(dtype, *shape)}
    assert written(tensors) == expected(tensors)


def test_all_dtypes_together_lie_in_the_order_of_the_library() -> None:
    """The format wants no gaps, and the widest numbers first."""
    tensors = {str(dtype): filled(dtype, 3) for dtype in DTYPES}
    assert written(tensors) == expected(tensors)
    backwards = dict(reversed(tensors.items()))
    assert written(backwards) == written(tensors)


def test_what_is_written_is_read_by_the_library() -> None:
    tensors = {str(dtype): filled(dtype, 2, 3) for dtype in DTYPES}
    found = load(written(tensors))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


def test_no_tensors_are_a_file_too() -> None:
    assert written({}) == expected({})


@pytest.mark.parametrize(
    "name",
    ["", "a.b/c", "gewicht.ü", "重み", "🔥", 'he said "no"', "back\\slash", "tab\tline\nend\r",
     "\x00\x01\x1f\x7f", "\u2028", "__class__", "x" * 300],
)  # fmt: skip
def test_odd_names_are_written_as_the_library_does(name: str) -> None:
    tensors = {name: filled(torch.float32, 2), "other": filled(torch.float32, 3)}
    assert written(tensors) == expected(tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.complex64])
def test_memory_that_lies_otherwise_is_written_row_by_row(dtype: torch.dtype) -> None:
    image = filled(dtype, 2, 3, 4, 5)
    for tensor in (
        image.to(memory_format=torch.channels_last),
        image.transpose(0, 3),
        image[:, ::2, 1:, ::3],
        image.flatten()[7:],  # begins in the middle of its memory
        filled(dtype, 3, 1).expand(3, 4),
    ):
        assert written({"a": tensor}) == expected({"a": tensor})


def test_a_tensor_in_one_piece_is_not_copied() -> None:
    tensor = torch.zeros(4)
    *_, data = tensorfile.parts({"a": tensor})
    tensor += 1
    assert bytes(data) == torch.ones(4).numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.complex128, torch.float8_e4m3fnuz], ids=str)
def test_an_unknown_dtype_is_refused_with_the_name_before_anything_is_written(
    dtype: torch.dtype,
) -> None:
    bad = torch.empty(2, dtype=dtype)
    parts = tensorfile.parts({"fine": torch.ones(2), "layer.bad": bad})
    with pytest.raises(CheckpointError, match=rf"layer\.bad has dtype {dtype}"):
        next(parts)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
            lambda name: name != "__metadata__"  # has a meaning in the format
        ),
        st.tuples(
            st.sampled_from(DTYPES),
            st.lists(st.integers(0, 4), max_size=4),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_any_tensors_are_written_as_the_library_does(
    shapes: dict[str, tuple[torch.dtype, list[int], bool]],
) -> None:
    tensors = {}
    for name, (dtype, shape, turned) in shapes.items():
        tensor = filled(dtype, *shape)
        tensors[name] = tensor.movedim(0, -1) if turned and shape else tensor
    assert written(tensors) == expected(tensors)
