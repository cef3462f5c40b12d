"""The command line as a user meets it: what works, and how each mistake is answered."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from launcher import cli

ROOT = Path(__file__).resolve().parent.parent
QUICK = str(ROOT / "configs" / "runs" / "quick.yaml")
MLP = str(ROOT / "recipes" / "fashion_mlp.py")

GOOD = """
from dataclasses import dataclass
import torch
from launcher import Data, Hparams, Recipe, Split, augment, models, sources

@dataclass(frozen=True, kw_only=True)
class H(Hparams):
    epochs: int = 1
    batch_size: int = 32
    lr: float = 0.1

def data(hparams):
    return Data(train=Split(sources.load("digits", "train")),
                test=Split(sources.load("digits", "test")),
                prepare=augment.normalize((0.5,), (0.5,)))

def model(hparams, data):
    return models.MLP(64, 10, (16,))

def optimizer(hparams, model):
    return torch.optim.SGD(model.parameters(), lr=hparams.lr)

recipe = Recipe(hparams=H, data=data, model=model, optimizer=optimizer)
"""


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the words of the box, without its frame and line breaks."""
    code = cli.main(arguments)
    err = capsys.readouterr().err
    return code, " ".join(line.strip("│╭╮╰╯─ ") for line in err.splitlines())


@pytest.mark.parametrize(
    ("verb", "near", "far"),
    [("train", "--frsh", "--sort"), ("show", "--jsn", "--top"), ("runs", "--sorted=age", "--to"),
     ("compare", "--jsno", "--state"), ("report", "--ouput", "--onnx"), ("data", "--cheks", "--to"),
     ("predict", "--topp", "--config"), ("export", "--onx", "--json"), ("doctor", "--js", "--to"),
     ("evaluate", "--confg", "--top")],
)  # fmt: skip
def test_only_a_near_switch_of_the_same_verb_is_suggested(
    verb: str, near: str, far: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = answer(capsys, verb, "x.py", near)
    assert code == 2
    assert "Did you mean '--" in said
    name = "launcher" if verb in ("train", "show") else f"launcher {verb}"
    for word in (far, "--foo"):
        code, said = answer(capsys, verb, "x.py", word)
        assert code == 2
        assert f"unrecognized arguments: {word}. `{name} --help` lists the switches." in said


@pytest.mark.parametrize(
    "words",
    [["r.py", "--config="], ["runs", ""], ["report", "a", "--output", ""], ["report", ""],
     ["export", "a", "--to", ""], ["evaluate", "a.py", "--config", ""], ["evaluate", ""],
     ["compare", "", ""], ["predict", "", "x.png"], ["predict", "a", ""]],
)  # fmt: skip
def test_an_empty_word_is_refused_as_empty(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An unset variable of a shell script would pass for the current folder."""
    Path("run.json").write_text("{}")  # which may be a run
    code, said = answer(capsys, *words)
    assert code == 2
    assert "an empty word is no " in said


def left() -> list[str]:
    return sorted(path.name for path in Path().iterdir() if path.suffix not in (".py", ".yaml"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch.py"], "there is no recipe file nosuch.py"),
        (["trian", "r.py"], "Did you mean 'train'?"),
        (["r.py", "--config", "nosuch.yaml"], "cannot read the config file nosuch.yaml"),
        (["r.py", "worker=2"], "unknown setting 'worker' (from argument). Did you mean 'workers'?"),
        (["r.py", "batchsize=2"], "Did you mean 'batch_size'?"),
        (["r.py", "log_every=often"], "log_every: should be a valid integer"),
        (["r.py", "log_every=0"], "greater than or equal to 1; got '0' (from argument)"),
        (["r.py", "epochs=1.5"], "epochs: should be a valid integer; got '1.5'"),
        (["r.py", "epochs=true"], "epochs: should be a valid integer; got 'true'"),
        (["r.py", "lr=nan"], "lr: must be a finite number"),
        (["r.py", "lr=abc", "epoch=2", "seed=-1"], "unknown setting 'epoch'"),
        (["r.py", "evaluate_every=soon"], "evaluate_every: a duration is"),
        (["r.py", "monitor=test/acuracy"], "Did you mean 'test/accuracy'?"),
        (["r.py", "compile=fast"], "'reduce-overhead'"),
        (["r.py", "name=../x"], "name='../x' (from argument) cannot be a folder"),
        (["r.py", "name=a/b"], "cannot be a folder"),
        (["r.py", "name=a\x1b[31m"], "cannot be a folder"),
        (["r.py", "batch_size=5000"], "batch_size=5000 is more than the 1438 training samples"),
        (["r.py", "micro_batch_size=5"], "The nearest sizes that fit: 30 and 35"),
        (["r.py", "micro_batch_size=64"], "micro_batch_size=64 is more than batch_size=32"),
        (["r.py", "precision=fp16"], "precision=fp16 needs a GPU"),
        (["r.py", "strategy=dp"], "strategy=dp needs one process that sees two or more GPUs"),
        (["r.py", "--epochs", "3"], "unrecognized arguments: --epochs"),
        (["r.py", "--resume", "maybe"], "--resume maybe: give auto, must, never or the step"),
        (["--json"], "no recipe is given"),
        (["r.py", "epochs"], "'epochs' is neither a switch nor a setting"),
    ],
)
def test_a_wrong_setting_is_answered_with_code_2_and_leaves_nothing(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.py").write_text(GOOD)
    code, said = answer(capsys, *arguments)
    assert words in said
    assert code == 2
    assert left() == []


def test_all_wrong_settings_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.py").write_text(GOOD)
    Path("bad.yaml").write_text("epochs: many\nworker: 3\n")
    code, said = answer(capsys, "r.py", "--config", "bad.yaml", "lr=abc", "seed=-1")
    assert code == 2
    for words in (
        "epochs: should be a valid integer; got 'many' (from config bad.yaml:1)",
        "unknown setting 'worker' (from config bad.yaml:2)",
        "lr: should be a valid number; got 'abc' (from argument)",
        "seed: should be greater than or equal to 0; got '-1' (from argument)",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs: 1\nepochs: 2\n", "'epochs' stands here again, first on line 1"),
        ("epochs: !!python/object/apply:os.system ['touch pwned']\n", "the tag"),
        ("a: &a [1, 2]\nb: [*a, *a]\n", "anchors and aliases"),
        ("epochs: {a: 1}\n", "not a mapping"),
        ("- 1\n- 2\n", "a config file is a list of `key: value` lines"),
        ("epochs: [1\n", "config bad.yaml:"),
    ],
)
def test_a_bad_config_file_is_answered_with_its_line(
    text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.py").write_text(GOOD)
    Path("bad.yaml").write_text(text)
    code, said = answer(capsys, "r.py", "--config", "bad.yaml")
    assert words in said
    assert code == 2
    assert left() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text + "\ndef broken(:\n", "r.py:25:12: invalid syntax"),
        (lambda text: text.replace("recipe = ", "receipt = "), "defines no `recipe = Recipe(...)`"),
        (lambda text: text.replace("model=model", "modle=model"), "Did you mean 'model'?"),
        (lambda text: text.replace(", optimizer=optimizer", ""), "'optimizer'"),
        (lambda text: text.replace("def model(hparams, data)", "def model(hparams)"),
         "Recipe.model must be a function model(hparams, data); yours is model(hparams)"),
        (lambda text: text.replace("return models.MLP(64, 10, (16,))", "return 'MLP'"),
         "recipe.model in r.py must return Module, but returned str"),
        (lambda text: text.replace("MLP(64, 10", "MLP(64, 7"),
         "an output of shape (2, 7) for 2 samples"),
        (lambda text: text.replace("MLP(64, 10", "MLP(64, 12"), "it should be (2, 10)"),
        (lambda text: text.replace("MLP(64, 10", "MLP(65, 10"), "RuntimeError"),
        (lambda text: "import nosuchpackage\n" + text, "No module named 'nosuchpackage'"),
        (lambda text: "raise SystemExit(0)\n" + text, "ended the program with exit(0)"),
    ],
)  # fmt: skip
def test_a_broken_recipe_is_answered_with_code_3_and_leaves_nothing(
    change: Callable[[str], str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.py").write_text(change(GOOD))
    code, said = answer(capsys, "r.py")
    assert words in said
    assert code == 3
    assert left() == []


def test_a_missing_data_set_names_file_folder_url_and_the_way_without_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mnist = import_module("launcher.sources.mnist")
    offline = replace(mnist._FASHION, mirrors=("http://127.0.0.1:9/",), elsewhere=())
    monkeypatch.setattr(mnist, "_FASHION", offline)
    code, said = answer(capsys, MLP)
    assert code == 4
    for words in ("train-images-idx3-ubyte.gz", "data/FashionMNIST/raw", "http://127.0.0.1:9/",
                  "3 tries failed", "dataset=digits"):  # fmt: skip
        assert words in said
    assert left() == []


def test_a_loss_that_is_not_finite_ends_with_code_6(capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.py").write_text(GOOD)
    code, said = answer(capsys, "r.py", "lr=1e30", "name=x")
    assert code == 6
    assert "was not finite in step" in said
    status = json.loads(Path("checkpoints/x/status.json").read_text())
    assert (status["state"], status["code"]) == ("failed", 6)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([MLP, "dataset=digits"], 2),
        (["show", MLP], 2),
        (["runs"], 2),
        (["data", "--json"], 2),
        (["predict", "run", "x.png"], 2),
        (["runs", "--help"], 0),
        (["--help"], 0),
        (["--version"], 0),
    ],
    ids=str,
)
def test_a_deleted_current_folder_is_said(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Where nothing is, `launcher runs` found no run."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(arguments) == code
    assert ("the current folder was deleted: go to" in capsys.readouterr().err) == (code == 2)


def test_a_bug_keeps_its_traceback_and_ends_with_70(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("oh")

    Path("r.py").write_text(GOOD)
    monkeypatch.setattr("launcher.run.train", broken)
    code, said = answer(capsys, "r.py")
    assert code == 70
    assert "ValueError: oh" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], [MLP, "--help"], ["nosuch.py"], [MLP, "--config", "nosuch.yaml"],
        [MLP, "log_every=0"], [MLP, "name=.."], [MLP, "--config", QUICK, "compile=fast"],
        ["evaluate", "nosuch"], ["predict", "nosuch", "x.png"], ["predict", "nosuch"],
        ["export", "nosuch"], ["evaluate"], ["predict", "nosuch", "x.png", "--top", "0"],
    ],
)  # fmt: skip
def test_what_needs_no_torch_does_not_import_it(arguments: list[str]) -> None:
    program = (
        "import sys; from launcher import cli; code = cli.main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == (0 if "--help" in arguments else 2), ran.stderr


def test_training_imports_nothing_slow_that_it_does_not_use() -> None:
    program = (
        "import sys; from launcher import cli; code = cli.main(sys.argv[1:]); "
        "slow = {'torchvision', 'sklearn', 'wandb', 'matplotlib', 'PIL', 'pandas'}; "
        "assert not slow & set(sys.modules), slow & set(sys.modules); sys.exit(code)"
    )
    arguments = [MLP, "--config", QUICK, "epochs=1"]
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_exit_code_reaches_the_shell() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "launcher", "nosuch.py"], capture_output=True, check=False
    )
    assert ran.returncode == 2


def test_a_dry_run_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([MLP, "--config", QUICK, "--dry-run"]) == 0
    assert "dry run: one step and one evaluation of 256 samples worked" in capsys.readouterr().out
    assert left() == []


def test_the_run_folder_holds_what_it_should(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([MLP, "--config", QUICK, "epochs=2", "momentum=0.8"]) == 0
    run = Path("checkpoints/fashion_mlp--quick,epochs=2,momentum=0.8")
    names = {path.name for path in run.iterdir()}
    assert {"recipe.py", "run.json", "status.json", "metrics.jsonl"} <= names
    assert (run / "step-000000000088" / "model.safetensors").is_file()
    document = json.loads((run / "run.json").read_text())
    assert document["hyperparameters"]["epochs"] == {
        "value": 2,
        "from": f"argument, over config {QUICK}:6",
    }
    assert document["hyperparameters"]["momentum"] == {"value": 0.8, "from": "argument"}
    assert document["hyperparameters"]["seed"]["from"] == "default"
    assert set(document["versions"]) >= {"python", "torch", "accelerate"}
    assert document["exact"] is True
    assert (run / "recipe.py").read_text() == Path(MLP).read_text()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {
        "step", "epoch", "seconds", "train/loss", "train/lr", "train/grad_norm",
        "train/samples_per_s", "train/data_wait",
    }  # fmt: skip
    assert {"step", "epoch", "seconds", "test/loss", "test/accuracy"} <= set(lines[-1])
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    out = capsys.readouterr().out
    assert "2 epochs x 44 steps of 32 = 88 steps" in out
    assert "\x1b" not in out
