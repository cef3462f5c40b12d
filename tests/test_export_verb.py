"""`launcher export`: a folder that works without the run and its data."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HANGS, ROOT, command, write_recipe
from safetensors.torch import load_file

from launcher import asked, checkpoint, exported, find, network, reopen
from launcher.errors import CheckpointError

IMAGE = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
NO_ONNX = any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime"))


def trained(extra: str = "", *words: object) -> Path:
    assert command(write_recipe(extra), "name=one", "threads=1", *words) == 0
    return Path("checkpoints/one")


def outputs(image: torch.Tensor, wanted: str = "best") -> torch.Tensor:
    """What the run's own model gives."""
    with network.opened(reopen.read(find.run_folder("one")), wanted) as found:
        return found.outputs(image)


def test_the_lines_of_the_readme_load_the_model() -> None:
    trained("", "dropout=0.5")
    assert command("export", "one") == 0
    expected = outputs(IMAGE)
    shutil.rmtree("checkpoints")
    Path("tiny.py").unlink()
    (lines,) = re.findall(r"```python\n(.*?)```", Path("exported/one/README.md").read_text(), re.S)
    lines = re.sub(r"^image = .*$", f"image = torch.tensor({IMAGE.tolist()}, dtype=torch.uint8)",
                   lines, flags=re.MULTILINE)  # fmt: skip
    lines += "\nimport json\nprint(json.dumps([output.tolist(), names]))"
    done = subprocess.run(
        [sys.executable, "-c", lines],
        capture_output=True, text=True, check=False, timeout=HANGS,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, names = json.loads(done.stdout)
    assert torch.allclose(torch.tensor(found), expected, atol=1e-6)
    assert names == [str(int(number)) for number in expected.argmax(1)]


def test_what_is_exported_is_what_the_checkpoint_holds() -> None:
    folder = trained("", "epochs=4", "keep=4")
    for step in checkpoint.steps(folder):
        assert command("export", "one", f"step={step}", "--to", f"out/{step}") == 0
        found = load_file(f"out/{step}/model.safetensors")
        held = checkpoint.read(folder, step).model
        assert found.keys() == held.keys()
        assert all(torch.equal(found[name], held[name]) for name in held)
        about = json.loads(Path(f"out/{step}/export.json").read_text())
        assert about["step"] == step
        assert json.loads(Path(f"out/{step}/labels.json").read_text()) == about["classes"]


def test_the_averaged_weights_are_exported_and_predicted_with_where_there_are_some() -> None:
    folder = trained("", "ema=0.9", "epochs=4")
    assert command("export", "one", "step=last") == 0
    found = load_file("exported/one/model.safetensors")
    held = checkpoint.read(folder, 16)
    assert all(torch.equal(found[name], held.weights[name]) for name in found)
    assert any(not torch.equal(found[name], held.model[name]) for name in found)
    assert torch.allclose(exported.load("exported/one")(IMAGE), outputs(IMAGE, "last"), atol=1e-6)


def test_the_preprocessing_is_data() -> None:
    trained()
    assert command("export", "one") == 0
    about = json.loads(Path("exported/one/export.json").read_text())["preprocessing"]
    assert about["prepare"]["kind"] == "affine"
    assert about["prepare"]["scale"] == pytest.approx([1 / 127.5])
    assert about["prepare"]["shift"] == pytest.approx([-1.0])
    network_ = exported.load("exported/one")
    by_hand = IMAGE * about["prepare"]["scale"][0] + about["prepare"]["shift"][0]
    assert torch.allclose(network_.prepare(IMAGE), by_hand, atol=1e-5)


def test_another_preparation_is_left_to_its_code() -> None:
    trained("""
def data(hparams):
    return Data(
        train=Split(sources.synthetic("train", 64, (1, 4, 4), 4)),
        test=Split(sources.synthetic("test", 40, (1, 4, 4), 4)),
        prepare=lambda batch: batch | {"image": (batch["image"] / 255.0).sqrt()},
    )
""")
    assert command("export", "one") == 0
    about = json.loads(Path("exported/one/export.json").read_text())["preprocessing"]
    assert about["prepare"] == {"kind": "recipe"}
    assert "`data(...).prepare`" in Path("exported/one/README.md").read_text()
    assert torch.allclose(exported.load("exported/one")(IMAGE), outputs(IMAGE), atol=1e-6)


def test_a_model_that_needs_its_data_is_refused_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained("""
def data(hparams):
    return Data(
        train=Split(sources.load("digits", "train")), test=Split(sources.load("digits", "test")),
        prepare=augment.normalize((0.5,), (0.5,)),
    )


def model(hparams, data):
    return models.MLP(64, 10, (len(data.train.source) // 100,))
""")
    assert command("export", "one") == 3
    assert "asks the data for nothing" not in capsys.readouterr().out
    assert not list(Path("exported").iterdir())


def test_what_is_there_is_not_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    Path("out").mkdir()
    assert command("export", "one", "--to", "out") == 0
    assert command("export", "one", "--to", "out") == 2
    assert "out is there already" in capsys.readouterr().err
    Path("link").symlink_to("nowhere")
    for place in ("/dev/null", "link"):
        assert command("export", "one", "--to", place) == 2
        assert f"{place} is there already" in capsys.readouterr().err


def test_a_folder_that_is_no_export_is_refused() -> None:
    Path("other").mkdir()
    with pytest.raises(CheckpointError, match="holds no export of this launcher"):
        exported.load("other")


def test_without_the_extra_it_is_named_with_a_line_that_is_no_index(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained()
    monkeypatch.setattr("launcher.asked.find_spec", lambda name: None)
    assert command("export", "one", "--onnx") == 2
    said = capsys.readouterr().err
    assert f"--onnx needs onnxruntime and onnxscript: pip install -e '{ROOT}[onnx]'." in said
    monkeypatch.setattr("launcher.asked._CHECKOUT", Path("/nowhere"))
    assert asked.installing("onnx") == "in a checkout of this project, pip install '.[onnx]'"


def test_nobody_is_told_to_install_what_is_on_no_index() -> None:
    """The name could be taken there by anybody."""
    for path in [*(ROOT / "launcher").rglob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        assert "pip install accelerate-launcher" not in path.read_text().replace("'", ""), path


@pytest.mark.slow
@pytest.mark.skipif(NO_ONNX, reason="needs the extra onnx")
def test_the_onnx_graph_gives_the_models_outputs_for_any_number_of_images() -> None:
    """In another process: torch's exporter warns of itself, and warnings are errors here."""
    trained("", "dropout=0.5")
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "export", "one", "--onnx"], capture_output=True,
        text=True, check=False, timeout=HANGS,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    import onnxruntime

    session: Any = onnxruntime.InferenceSession("exported/one/model.onnx")
    expected = outputs(IMAGE)
    for count in (1, 3, 5):
        (found,) = session.run(None, {"image": IMAGE[:count].numpy()})
        assert torch.allclose(torch.from_numpy(found), expected[:count], atol=1e-5)
    (other,) = session.run(None, {"image": (255 - IMAGE).numpy()})
    assert not torch.allclose(torch.from_numpy(other), expected, atol=1e-5)
