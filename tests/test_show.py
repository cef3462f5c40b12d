"""`launcher show`: what a command would do, without doing it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import command, write_recipe

from launcher.errors import DataError
from launcher.settings import Hparams, RunSettings

MIB = 1 << 20


@pytest.fixture(autouse=True)
def recipe() -> Path:
    return write_recipe()


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> "Out":
    return Out(capsys)


class Out:
    """What `show` prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def text(self, *arguments: object) -> str:
        assert command("show", *arguments) == 0
        return self._capsys.readouterr().out

    def json(self, *arguments: object) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text(*arguments, "--json"))
        return found


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def test_every_setting_is_shown_with_its_origin(out: Out, recipe: Path) -> None:
    Path("quick.yaml").write_text("# quick\nepochs: 1\nkeep: 3\nlr: 0.5\n")
    found = out.json(recipe, "--config", "quick.yaml", "lr=0.25", "width=4")
    hparams, run = found["hyperparameters"], found["run_settings"]
    assert {field.name for field in dataclasses.fields(Hparams)} < hparams.keys()
    assert {field.name for field in dataclasses.fields(RunSettings)} == run.keys()
    assert hparams["epochs"] == {"value": 1, "from": "config quick.yaml:2"}
    assert hparams["lr"] == {"value": 0.25, "from": "argument, over config quick.yaml:4"}
    assert hparams["width"] == {"value": 4, "from": "argument"}
    assert hparams["batch_size"] == {"value": 16, "from": "default"}
    assert hparams["grad_clip"] == {"value": None, "from": "default"}
    assert run["keep"] == {"value": 3, "from": "config quick.yaml:3"}
    assert run["monitor"] == {"value": "auto", "from": "default"}


def test_the_plan_is_shown_in_numbers(out: Out, recipe: Path) -> None:
    plan = out.json(recipe, "batch_size=12", "micro_batch_size=3", "epochs=4")["plan"]
    assert plan == {
        "training samples": 64,
        "batch_size": 12,
        "micro_batch_size": 3,
        "processes": 1,
        "devices per process": 1,
        "accumulation": 4,
        "steps per epoch": 5,
        "samples left over per epoch": 4,
        "epochs": 4,
        "total steps": 20,
        "evaluate every (steps)": 5,
        "checkpoint every (steps)": 5,
    }


def test_layers_are_shown_in_the_order_of_a_sample(out: Out, recipe: Path) -> None:
    found = out.json(recipe, "dropout=0.5")
    assert [tuple(layer.values()) for layer in found["layers"]] == [
        ("layers.0", "Flatten", [16], 0),
        ("layers.1", "Linear", [8], 136),
        ("layers.2", "ReLU", [8], 0),
        ("layers.3", "Dropout", [8], 0),
        ("layers.4", "Linear", [4], 36),
    ]
    assert found["parameters"] == 172


def test_memory_is_estimated(out: Out, recipe: Path) -> None:
    found = out.json(recipe, "micro_batch_size=8")["memory_mib"]
    parameters = 172 * 4 / MIB
    assert found["weights"] == found["gradients"] == found["optimizer"] == parameters
    assert found["activations"] == 8 * 4 * (16 + 8 + 8 + 4) / MIB
    assert found["data"] == 0  # on a CPU it is where it was
    assert found["together"] == pytest.approx(3 * parameters + found["activations"])


def test_tables_are_for_people(out: Out, recipe: Path) -> None:
    found = out.text(recipe, "lr=0.25")
    for words in ("Hyperparameters of tiny.py", "Run settings", "Plan", "MLP: 172 parameters",
                  "Memory of one device, estimated", "0.25", "argument", "default",
                  "Runs as 1 process on cpu", "folder checkpoints/tiny--lr=0.25"):  # fmt: skip
        assert words in found


@pytest.mark.parametrize("switch", ["--json", None])
def test_nothing_is_left_on_disk(switch: str | None, out: Out, recipe: Path) -> None:
    before = files()
    out.text(recipe, *([switch] if switch else []))
    assert files() == before


def test_a_run_is_left_alone(out: Out, recipe: Path) -> None:
    assert command(recipe, "threads=1") == 0
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    out.text(recipe)
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_the_switches_of_training_change_nothing(out: Out, recipe: Path) -> None:
    before = files()
    out.text(recipe, "--resume", "must")
    assert files() == before


def test_the_model_that_is_trained_is_not_the_one_that_was_shown(out: Out, recipe: Path) -> None:
    """Measuring the optimizer's state takes a step."""
    assert command(recipe, "name=a", "threads=1") == 0
    out.text(recipe)
    assert command(recipe, "name=b", "threads=1") == 0
    a, b = (Path(f"checkpoints/{name}/step-000000000008/COMMIT").read_bytes() for name in "ab")
    assert a == b


@pytest.mark.parametrize(
    "value", ["a" * 300, "[red]", "a:100:b", "c:\\[x]\\", 'quote " and \\n', "ü"]
)
def test_the_document_is_valid_whatever_a_value_holds(value: str, out: Out, recipe: Path) -> None:
    found = out.json(recipe, f"data_dir={value}")
    assert found["run_settings"]["data_dir"] == {"value": value, "from": "argument"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["lr=fast"], 2, "lr:"),
        (["lrr=1"], 2, "Did you mean 'lr'?"),
        (["monitor=test/f1"], 2, "test/accuracy"),
        (["batch_size=100"], 2, "64 training samples"),
        (["precision=fp16"], 2, "needs a GPU"),
    ],
)
def test_what_a_run_would_refuse_is_refused(
    arguments: list[str], code: int, words: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files()
    assert command("show", recipe, *arguments) == code
    assert words in capsys.readouterr().err
    assert files() == before


@pytest.mark.parametrize("where", ["data(hparams)", "model(hparams, data)", "loss(model, batch)"])
def test_memory_that_runs_out_is_no_bug(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As training says it; `widths=[1000000000]` is easily asked for."""
    assert command("show", write_recipe(f"def {where}: torch.empty(1 << 50)")) == 10
    assert "out of memory with micro_batch_size=none and batch_size=16" in capsys.readouterr().err


def test_settings_are_shown_where_the_data_cannot_be_had(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_recipe(
        "from launcher.errors import DataError\n\n\n"
        "def data(hparams): raise DataError('the network is gone.')"
    )
    assert command("show", path, "lr=0.25") == DataError.code
    said = capsys.readouterr()
    for words in ("Hyperparameters of tiny.py", "0.25", "Run settings",
                  "the memory cannot be shown without the data:"):  # fmt: skip
        assert words in said.out
    assert "the network is gone" in said.err


def test_a_layer_without_a_tensor_for_output_is_shown_too(out: Out) -> None:
    path = write_recipe(
        "class Twice(nn.Module):\n    def forward(self, x): return x, x\n\n\n"
        "class Pair(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.twice, self.head = Twice(), nn.Linear(16, 4)\n\n"
        "    def forward(self, x): return self.head(self.twice(x.flatten(1))[0])\n\n\n"
        "def model(hparams, data): return Pair()"
    )
    layers = out.json(path)["layers"]
    assert [(layer["name"], layer["output"]) for layer in layers] == [("twice", []), ("head", [4])]


def test_a_layer_that_is_used_twice_is_shown_twice_and_counted_once(out: Out) -> None:
    path = write_recipe(
        "class Again(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body, self.head = nn.Linear(16, 16), nn.Linear(16, 4)\n\n"
        "    def forward(self, x): return self.head(self.body(self.body(x.flatten(1))))\n\n\n"
        "def model(hparams, data): return Again()"
    )
    found = out.json(path)
    assert [layer["name"] for layer in found["layers"]] == ["body", "body", "head"]
    assert found["parameters"] == 16 * 16 + 16 + 16 * 4 + 4
