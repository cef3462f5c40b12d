"""Weights to begin with: where they may come from, and what is refused."""

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, command, write_recipe
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from launcher import checkpoint, models, pretrained, sources
from launcher.errors import CheckpointError, DataError, SettingsError

RECIPE = ROOT / "recipes" / "finetune_resnet.py"
SMALL = ("dataset=digits", "size=8", "stem=cifar", "depth=18", "batch_size=256", "epochs=1",
         "threads=1", "name=r")  # fmt: skip


def body(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: value for name, value in model.state_dict().items() if not name.startswith("last.")
    }


class Small(nn.Module):
    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.last = nn.Linear(2, classes)


def saved(path: str = "w.pth", classes: int = 7, **changed: Any) -> dict[str, Any]:
    """A file with the weights of another network, some of them changed or (None) left out."""
    torch.manual_seed(1)
    found = dict(Small(classes).state_dict()) | changed
    found = {name: value for name, value in found.items() if value is not None}
    if path.endswith(".safetensors"):
        save_file(found, path)
    else:
        torch.save(found, path)
    return found


def refusal(weights: str = "w.pth") -> str:
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError) as error:
        pretrained.load(model, weights, head="last")
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    return str(error.value)


# ── files ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["w.pth", "w.pt", "w.safetensors"])
def test_a_file_gives_everything_but_the_head(path: str) -> None:
    found = saved(path)
    model = Small()
    head = model.last.weight.detach().clone()
    pretrained.load(model, path, head="last")
    assert all(value.equal(found[name]) for name, value in body(model).items())
    assert model.last.weight.equal(head)
    assert pretrained.used.get() == hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("given", [{}, {"head": ""}], ids=["no head", "an empty one"])
def test_without_a_head_a_file_gives_everything(given: dict[str, str]) -> None:
    found = saved(classes=2)
    model = Small()
    pretrained.load(model, "w.pth", **given)
    assert all(value.equal(found[name]) for name, value in model.state_dict().items())
    saved(classes=7)
    with pytest.raises(DataError, match=r"last\.bias is \(7,\) in the weights and \(2,\)"):
        pretrained.load(model, "w.pth", **given)


def test_torchvisions_networks_fit_ours() -> None:
    from torchvision.models import resnet18

    theirs = resnet18()
    torch.save(theirs.state_dict(), "resnet18.pth")
    ours = models.resnet18(classes=5, stem="imagenet")
    pretrained.load(ours, "resnet18.pth", head="fc")
    image = torch.randn(2, 3, 64, 64)
    theirs.fc = nn.Identity()
    ours.fc = nn.Identity()  # type: ignore[assignment]
    assert torch.equal(ours.eval()(image), theirs.eval()(image))


def test_a_file_without_batch_norms_counters_is_taken() -> None:
    missing: dict[str, Any] = {"norm.num_batches_tracked": None}
    saved(**missing)
    pretrained.load(Small(), "w.pth", head="last")


class Code:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


def test_code_in_a_file_is_never_run_and_named() -> None:
    torch.save({"first.weight": Code()}, "w.pth")
    assert "names posix.system, which is code. Nothing of it was run." in refusal()
    assert not Path("ran").exists()
    torch.load("w.pth", weights_only=False)  # the negative control: the file does run something
    assert Path("ran").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"first.weight": torch.zeros(2, 1, 1, 1, device="meta")}, "device meta"),
        ({"first.weight": torch.zeros(2, 1, 1, 1, dtype=torch.complex64)}, "torch.complex64"),
        ({"first.weight": torch.zeros(2, 1, 1, 1, dtype=torch.int64)}, "torch.int64"),
        ({"first.weight": torch.full((2, 1, 1, 1), torch.nan)}, "first.weight is not finite"),
        ({"first.weight": torch.zeros(2, 3, 7, 7)}, "(2, 3, 7, 7) in the weights and (2, 1, 1, 1)"),
        ({"first.weight": None}, "first.weight is not in the weights"),
        ({"module.first": torch.zeros(1)}, "module.first is not in the model"),
        ({"first.weight": "text"}, "first.weight is no tensor but str"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(changed: dict[str, Any], words: str) -> None:
    saved(**changed)
    message = refusal()
    assert "weights=w.pth does not fit the model" in message
    assert words in message


def test_a_sparse_tensor_is_refused() -> None:
    sparse: dict[str, Any] = {"first.weight": torch.ones(2, 1, 1, 1).to_sparse()}
    saved(**sparse)
    message = refusal()
    assert "without plain numbers" in message or "is damaged or of another format" in message


@pytest.mark.parametrize("content", [[1, 2], {"a": 1, 3: 4}, torch.zeros(3)])
def test_what_is_no_dictionary_by_names_is_refused(content: object) -> None:
    torch.save(content, "w.pth")
    assert "not a dictionary of tensors by their names" in refusal()


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_is_no_file_of_weights_is_refused(content: bytes, suffix: str) -> None:
    Path(f"w.{suffix}").write_bytes(content)
    message = refusal(f"w.{suffix}")
    assert message.startswith(f"w.{suffix} ") or "does not fit" in message
    assert "weights_only" not in message, "no advice to run what it holds"


def test_a_file_that_was_cut_short_is_refused() -> None:
    saved()
    data = Path("w.pth").read_bytes()
    Path("w.pth").write_bytes(data[: len(data) // 2])
    assert "is damaged or of another format" in refusal()


def test_a_file_whose_record_is_missing_is_refused() -> None:
    saved()
    with zipfile.ZipFile("w.pth") as old, zipfile.ZipFile("cut.pth", "w") as new:
        for item in old.infolist():
            if not item.filename.endswith("/data/0"):
                new.writestr(item, old.read(item.filename))
    assert "is damaged or of another format" in refusal("cut.pth")


def test_weights_that_are_not_there_are_refused_with_what_may_be_given() -> None:
    message = refusal("nowhere/w.pth")
    assert "weights=nowhere/w.pth is not there" in message
    assert "none to begin with random weights" in message


# ── the network ─────────────────────────────────────────────────────────────────────────────────


def published(content: bytes | None = None) -> tuple[Path, str]:
    """A file on a "server", under a name that ends with its hash, and that name."""
    saved("w.pth")
    data = Path("w.pth").read_bytes()
    name = f"small-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    folder = Path("server").resolve()
    folder.mkdir()
    (folder / name).write_bytes(data if content is None else content)
    return folder / name, name


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.download.BACKOFF_SECONDS", 0.0)
    sources.data_dir.set(Path("data"))
    pretrained.needed.set(True)  # what runs of other tests have set in this process


def test_a_published_file_is_fetched_once_and_checked() -> None:
    path, name = published()
    pretrained.load(Small(), path.as_uri(), head="last")
    assert (Path("data/weights") / name).read_bytes() == path.read_bytes()
    path.unlink()
    model = Small()
    pretrained.load(model, path.as_uri(), head="last")
    assert body(model)["first.weight"].equal(torch.load("w.pth")["first.weight"])


def test_a_published_file_with_another_hash_is_not_taken() -> None:
    path, name = published(b"something else")
    message = refusal(path.as_uri())
    assert "instead of" in message
    assert not (Path("data/weights") / name).exists()


def test_a_file_that_was_changed_after_it_was_fetched_is_set_aside() -> None:
    path, name = published()
    pretrained.load(Small(), path.as_uri(), head="last")
    here = Path("data/weights") / name
    here.write_bytes(here.read_bytes() + b"x")
    assert "and its name says" in refusal(path.as_uri())
    assert not here.exists()


def test_without_a_network_the_file_and_the_way_out_are_named() -> None:
    url = "http://127.0.0.1:9/resnet34-b627a593.pth"
    message = refusal(url)
    assert (
        f"weights={url} is not here and could not be fetched: no resnet34-b627a593.pth" in message
    )
    assert "in data/weights" in message
    assert "weights=none, or weights=checkpoints/NAME of a finished run" in message
    assert "digits" not in message


def test_a_url_without_a_hash_is_refused() -> None:
    with pytest.raises(SettingsError, match="does not end with its sha256"):
        pretrained.load(Small(), "https://example.org/weights.pth", head="last")


@pytest.mark.parametrize("depth", [18, 34])
def test_the_published_addresses_are_torchvisions(depth: int) -> None:
    import torchvision.models

    url = getattr(torchvision.models, f"ResNet{depth}_Weights").IMAGENET1K_V1.url
    assert pretrained._PUBLISHED.fullmatch(url.rpartition("/")[2])
    assert (url in RECIPE.read_text()) == (depth == 34)


# ── a run ───────────────────────────────────────────────────────────────────────────────────────


def run_of_small(*given: str) -> Path:
    recipe = write_recipe(
        "def model(hparams, data):\n    return models.MLP(16, len(data.classes), (8,))\n"
    )
    assert command(recipe, "name=first", "threads=1", *given) == 0
    return Path("checkpoints/first")


def test_a_finished_run_gives_the_weights_that_evaluations_use() -> None:
    run = run_of_small("ema=0.5")
    best = json.loads((run / "status.json").read_text())["result"]["best"]["step"]
    model = models.MLP(16, 4, (8,))
    pretrained.load(model, str(run))
    expected = load_file(checkpoint.folder_of(run, best) / "ema.safetensors")
    assert all(value.equal(expected[name]) for name, value in model.state_dict().items())


def test_a_run_that_has_not_finished_is_refused() -> None:
    run = run_of_small()
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "preempted"}))
    assert "has not finished (it is preempted)" in refusal(str(run))
    Path("empty").mkdir()
    assert "weights=empty is no run" in refusal("empty")


def test_a_damaged_run_is_refused() -> None:
    run = run_of_small()
    for path in run.glob("step-*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="was changed or cut short"):
        pretrained.load(models.MLP(16, 4, (8,)), str(run))


# ── the recipe ──────────────────────────────────────────────────────────────────────────────────


def weights_of_a_network(classes: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(5)
    found = models.resnet18(classes).state_dict()
    torch.save(found, "w.pth")
    return found


def test_a_frozen_body_is_bit_identical_after_training() -> None:
    before = weights_of_a_network()
    assert command(RECIPE, *SMALL, "weights=w.pth", "frozen=true") == 0
    (folder,) = Path("checkpoints/r").glob("step-*")
    after = load_file(folder / "model.safetensors")
    changed = {name for name in after if name not in before or not after[name].equal(before[name])}
    assert changed == {"fc.weight", "fc.bias"}
    slots = {name.rpartition("/")[0] for name in load_file(folder / "optimizer.safetensors")}
    assert slots == {"fc.weight", "fc.bias"}


def test_a_body_that_is_not_frozen_changes_with_its_buffers() -> None:
    """The negative control."""
    before = weights_of_a_network()
    assert command(RECIPE, *SMALL, "weights=w.pth") == 0
    (folder,) = Path("checkpoints/r").glob("step-*")
    after = load_file(folder / "model.safetensors")
    assert not after["layer1.0.conv1.weight"].equal(before["layer1.0.conv1.weight"])
    assert not after["bn1.running_mean"].equal(before["bn1.running_mean"])


@pytest.fixture
def stopped() -> tuple[object, ...]:
    weights_of_a_network()
    given = (RECIPE, *SMALL, "weights=w.pth", "frozen=true", "checkpoint_every=1")
    assert command(*given, "max_minutes=1e-9") == 75
    return given


def test_a_run_that_continues_needs_the_first_weights_no_more(stopped: tuple[object, ...]) -> None:
    first = json.loads(Path("checkpoints/r/run.json").read_text())["began_with"]
    assert first == hashlib.sha256(Path("w.pth").read_bytes()).hexdigest()
    Path("w.pth").unlink()
    assert command(*stopped) == 0
    run = json.loads(Path("checkpoints/r/run.json").read_text())
    assert (run["began_with"], run["exact"]) == (first, True)


def test_a_run_without_a_checkpoint_needs_them(
    stopped: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in Path("checkpoints/r").glob("step-*"):
        shutil.rmtree(folder)
    Path("w.pth").unlink()
    assert command(*stopped) == 4
    assert "weights=w.pth is not there" in capsys.readouterr().err


def test_first_weights_that_have_changed_are_noticed(
    stopped: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(6)
    torch.save(models.resnet18(3).state_dict(), "w.pth")
    assert command(*stopped) == 5
    assert "was begun with other weights" in " ".join(capsys.readouterr().err.split())
    assert command(*stopped, "--allow-change", "data") == 0
