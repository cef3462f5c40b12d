"""Where filters lie and who computes convolutions: chosen by sizes, with the same results."""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command, write_recipe
from safetensors.torch import load_file
from torch import nn

from launcher import layout
from launcher.models import MLP, LeNet

LENET = ROOT / "recipes" / "cifar_lenet.py"
GIVEN = ("dataset=digits", "epochs=1", "peak_lr=0.01")
LARGE = nn.Conv2d(1024, 1024, 3)


@pytest.mark.parametrize(
    ("model", "device", "threads", "images", "found"),
    [
        (LeNet(), "cpu", 1, 4, "native"),
        (LeNet(), "cpu", 1, 5, "channels_last"),
        (LeNet(), "cpu", 2, 4, "channels_last"),
        (LARGE, "cpu", 1, 1, "channels_last"),
        (MLP(16, 4, (8,)), "cpu", 1, 4, "contiguous"),
        (LeNet(), "cuda", 1, 4, "contiguous"),
        (LARGE, "cuda", 1, 4, "channels_last"),
        (LARGE, "mps", 1, 4, "contiguous"),
    ],
)
def test_auto_chooses_by_sizes(
    model: nn.Module, device: str, threads: int, images: int, found: str
) -> None:
    assert layout.choose("auto", model, torch.device(device), threads, images) == found


def test_what_is_asked_for_is_taken() -> None:
    device = torch.device("cpu")
    assert layout.choose("contiguous", LeNet(), device, 1, 4) == "contiguous"


def test_filters_lie_as_asked_and_keep_their_values() -> None:
    plain = nn.Conv2d(3, 6, 5)
    weight = plain.weight.detach().clone()
    layout.arrange(plain, "contiguous")
    assert plain.weight.is_contiguous()
    layout.arrange(plain, "channels_last")
    assert plain.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain.weight, weight)
    assert plain.weight.is_contiguous(memory_format=torch.channels_last)


class Volumes(nn.Module):
    """What lies in four and in five dimensions, and is no filter of a two-dimensional convolution,
    beside one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.deep = nn.Conv2d(3, 6, 5), nn.Conv3d(3, 6, 5)
        self.register_buffer("grid", torch.zeros(2, 3, 4, 5))
        self.table = nn.Parameter(torch.zeros(2, 3, 4, 5))


def test_only_filters_of_two_dimensional_convolutions_are_moved() -> None:
    model = Volumes()
    strides = {name: tensor.stride() for name, tensor in model.state_dict().items()}
    moved = layout.arrange(model, "channels_last")
    now = {name: tensor.stride() for name, tensor in model.state_dict().items()}
    assert {name for name in now if now[name] != strides[name]} == {"flat.weight"}
    layout.restore(moved)
    assert strides == {name: tensor.stride() for name, tensor in model.state_dict().items()}


def test_what_the_recipe_arranged_or_shares_stays() -> None:
    own, one, other = (nn.Conv2d(3, 6, 5) for _ in range(3))
    own = own.to(memory_format=torch.channels_last)
    other.weight = one.weight
    views = nn.Conv2d(3, 6, 5), nn.Conv2d(3, 6, 5)
    both = torch.randn(12, 3, 5, 5)
    for conv, part in zip(views, both.chunk(2), strict=True):
        conv.weight = nn.Parameter(part)
    model = nn.Sequential(own, one, other, *views)
    moved = layout.arrange(model, "channels_last")
    assert moved == [one.weight]
    assert other.weight is one.weight
    assert all(conv.weight.untyped_storage().data_ptr() == both.untyped_storage().data_ptr()
               for conv in views)  # fmt: skip
    layout.restore(moved)
    assert one.weight.is_contiguous()
    assert own.weight.is_contiguous(memory_format=torch.channels_last)
    assert layout.arrange(own, "contiguous") == []
    assert own.weight.is_contiguous(memory_format=torch.channels_last)


def test_onednn_is_left_out_of_passes_and_comes_back() -> None:
    assert torch.backends.mkldnn.enabled

    def a_pass_that_fails() -> None:
        with layout.computing("native"):
            assert not torch.backends.mkldnn.enabled
            raise ValueError("in a pass")

    with pytest.raises(ValueError, match="in a pass"):
        a_pass_that_fails()
    assert torch.backends.mkldnn.enabled
    with layout.computing("channels_last"):
        assert torch.backends.mkldnn.enabled


@pytest.mark.parametrize("kind", ["auto", "channels_last"])
def test_a_network_with_more_dimensions_trains(kind: str) -> None:
    path = write_recipe("""
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.deep = torch.nn.Conv2d(1, 2, 3), torch.nn.Conv3d(1, 4, 2)
        self.register_buffer("shift", torch.zeros(1, 1, 1, 1, 1))

    def forward(self, image):
        seen = self.flat(image)[:, None] + self.shift
        return self.deep(seen).flatten(1)

def model(hparams, data):
    return Net()
""")
    assert command(path, "name=r", "threads=1", f"layout={kind}") == 0
    attempt = json.loads(Path("checkpoints/r/run.json").read_text())["attempts"][0]
    assert attempt["layout"] == "channels_last"


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(max(Path("checkpoints", name).glob("step-*")) / "model.safetensors")


def test_every_layout_learns_the_same_but_for_rounding(capsys: pytest.CaptureFixture[str]) -> None:
    given = (*GIVEN, "batch_size=64", "threads=1")
    assert command(LENET, *given, "layout=contiguous", "name=contiguous") == 0
    for kind, words in (("native", ", without oneDNN"), ("channels_last", ", channels last")):
        assert command(LENET, *given, f"layout={kind}", f"name={kind}") == 0
        assert f"61,706 parameters{words}" in capsys.readouterr().out
        run = json.loads(Path(f"checkpoints/{kind}/run.json").read_text())
        assert run["attempts"][0]["layout"] == kind
        different = False
        for name, value in weights("contiguous").items():
            torch.testing.assert_close(weights(kind)[name], value, rtol=1e-2, atol=1e-4)
            different |= not torch.equal(weights(kind)[name], value)
        assert different, "the setting changes who computes"


@pytest.mark.parametrize("kind", ["native", "channels_last"])
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(kind: str) -> None:
    given = (*GIVEN, f"layout={kind}", "threads=1", "batch_size=16")
    assert command(LENET, *given, "name=whole") == 0
    assert command(LENET, *given, "name=r", "max_minutes=1e-9") == 75
    assert command(LENET, *given, "name=r") == 0
    for name, value in weights("whole").items():
        assert torch.equal(weights("r")[name], value)


def test_small_networks_take_one_thread_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(2)
    assert command(LENET, *GIVEN, "name=few") == 0
    assert "1 thread each" in capsys.readouterr().out
    assert torch.get_num_threads() == 1
    assert command(LENET, *GIVEN, "name=given", "threads=2") == 0
    assert "2 threads each" in capsys.readouterr().out
    assert command(LENET, *GIVEN, "name=many", "batch_size=16") == 0
    cores = len(os.sched_getaffinity(0))
    assert f"{cores} thread" in capsys.readouterr().out


@pytest.mark.parametrize("threads", ["auto", "1", "2"])
def test_evaluate_gives_the_score_of_the_run(
    threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(LENET, *GIVEN, "name=r", f"threads={threads}") == 0
    scores = json.loads(Path("checkpoints/r/status.json").read_text())["result"]["scores"]
    capsys.readouterr()
    assert command("evaluate", "checkpoints/r", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scores"] == scores


VIEWING = """
class Net(torch.nn.Sequential):
    def forward(self, image):
        seen = super().forward(image)
        return WHEN.view(len(image), -1)[:, :4]

def model(hparams, data):
    return Net(torch.nn.Conv2d(1, 2, 3))
"""


def test_a_network_that_views_its_activations_stays_as_it_was_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_recipe(VIEWING.replace("WHEN", "seen"))
    assert command(path, "name=r", "threads=2") == 0
    assert "channels last" not in capsys.readouterr().out
    assert json.loads(Path("checkpoints/r/run.json").read_text())["attempts"][0]["layout"] == (
        "contiguous"
    )
    assert command(path, "name=asked", "layout=channels_last") == 3
    assert "view size is not compatible" in capsys.readouterr().err


def test_one_that_views_only_when_it_trains_is_told_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_recipe(VIEWING.replace("WHEN", "(seen if self.training else seen.contiguous())"))
    assert command(path, "name=r", "threads=2") == 3
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "use reshape or flatten, or give layout=contiguous" in said
    assert command(path, "name=r", "layout=contiguous") == 0
