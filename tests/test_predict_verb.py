"""`launcher predict`: the verdicts of evaluation, for files of any kind, broken ones among them."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HANGS, ROOT, command, write_recipe
from PIL import Image

from launcher import checkpoint, pictures, predict_verb, sources
from launcher.sources import arrays, photo, synthetic
from launcher.sources.arrays import Arrays
from launcher.sources.digits import digits

SHAPE = (1, 4, 4)
COLOUR = """
def data(hparams):
    return Data(
        train=Split(sources.load("digits", "train", size=32, channels=3)),
        test=Split(sources.load("digits", "test", size=32, channels=3)),
        prepare=augment.normalize((0.5,), (0.5,)),
    )


def model(hparams, data):
    return models.MLP(3 * 32 * 32, len(data.classes), (16,))
"""


def trained(extra: str = "", *words: object) -> Path:
    assert command(write_recipe(extra), "name=one", "threads=1", *words) == 0
    return Path("checkpoints/one")


def predicted(
    capsys: pytest.CaptureFixture[str], *words: object, code: int = 0
) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert command("predict", *words, "--json") == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def saved(source: Arrays, folder: str) -> list[str]:
    Path(folder).mkdir()
    found = []
    for number, image in enumerate(source.image):
        path = f"{folder}/{number:04d}.png"
        pixels = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(path)
        found.append(path)
    return found


def test_test_images_as_files_get_the_verdicts_of_evaluation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = trained("", "epochs=4")
    source = synthetic("test", 40, SHAPE, 4)
    saved(source, "png")
    lines = predicted(capsys, "one", "png", "step=last", "--top", 4)
    right = [line["predictions"][0]["label"] for line in lines] == source.label.numpy()
    scores = json.loads((folder / "status.json").read_text())["result"]["scores"]
    assert np.mean(right) == pytest.approx(scores["test/accuracy"])
    for sample in json.loads((folder / "outcome.json").read_text())["samples"]:
        first = lines[sample["index"]]["predictions"][0]
        assert first["label"] == sample["predicted"]
        assert first["probability"] == pytest.approx(sample["probability"], abs=1e-6)
    for line in lines:
        assert sum(one["probability"] for one in line["predictions"]) == pytest.approx(1)


def test_files_are_made_as_evaluation_makes_them_bit_for_bit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Digits of 8 x 8 that the recipe enlarges to 32 and repeats over three channels."""
    folder = trained(COLOUR, "epochs=1")
    raw = digits("test")
    saved(Arrays(raw.image[:50], raw.label[:50], raw.classes), "png")
    assert len(predicted(capsys, "one", "png")) == 50
    fitted = raw.fit(32, 3)
    for number in range(50):
        image = arrays.brought_to(photo.seen(f"png/{number:04d}.png"), (3, 32, 32))
        assert torch.equal(image, fitted.image[number])
    for sample in json.loads((folder / "outcome.json").read_text())["samples"]:
        if sample["index"] < 50:
            (line,) = predicted(capsys, "one", f"png/{sample['index']:04d}.png", "step=last")
            assert line["predictions"][0]["label"] == sample["predicted"]


def test_the_data_set_is_not_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(COLOUR)
    saved(synthetic("test", 3, (3, 32, 32), 4), "png")
    before = predicted(capsys, "one", "png")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no scikit-learn, no digits
    assert command("evaluate", "one") == 4
    assert predicted(capsys, "one", "png") == before


def test_a_recipe_that_computes_from_its_data_gets_it(capsys: pytest.CaptureFixture[str]) -> None:
    asks = """
    assert len(data.train.source) == 1438
    data.train.source[data.train.source.label.numpy()[:3]]
"""
    begin = "def model(hparams, data):\n"
    trained(COLOUR.replace(begin, begin + asks.lstrip("\n")))
    saved(synthetic("test", 3, (3, 32, 32), 4), "png")
    assert len(predicted(capsys, "one", "png")) == 3


def test_a_broken_file_is_named_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    good = saved(synthetic("test", 3, SHAPE, 4), "png")
    Path("png/0001b.png").write_bytes(Path(good[0]).read_bytes()[:40])
    Path("png/0001c.png").write_text("no image")
    lines = predicted(capsys, "one", "png", "nosuch.png", code=4)
    assert [Path(line["file"]).name for line in lines if "error" in line] == [
        "0001b.png", "0001c.png", "nosuch.png",
    ]  # fmt: skip
    assert [line["file"] for line in lines if "predictions" in line] == good
    assert lines[3]["error"] == "it is no image, or of a kind that Pillow does not read"
    assert lines[-1]["error"] == "No such file or directory"
    assert command("predict", "one", "nosuch.png") == 4
    said = capsys.readouterr().err
    assert "1 of the files could not be read: nosuch.png." in said
    assert "The others are above." not in said, "there are none"
    assert command("predict", "one", "nosuch.png", good[0]) == 4
    assert "The others are above." in capsys.readouterr().err


def test_what_is_no_regular_file_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    os.mkfifo("pipe.png")
    (line,) = predicted(capsys, "one", "pipe.png", code=4)
    assert line == {"file": "pipe.png", "error": "it is not a regular file"}


def test_a_word_that_stands_for_no_image_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained()
    (good,) = saved(synthetic("test", 1, SHAPE, 4), "png")
    Path("empty").mkdir()
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert command("predict", "one", "empty", "-", good) == 4
    out, err = capsys.readouterr()
    assert f"{good}: " in out
    assert "there is no image in the folder empty or below it." in err
    assert "standard input names no image." in err


def test_a_list_on_standard_input_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained()
    names = saved(synthetic("test", 3, SHAPE, 4), "png")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(names) + "\n\n"))
    assert [line["file"] for line in predicted(capsys, "one", "-")] == names


def test_many_files_take_as_much_memory_as_one_batch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained()
    names = saved(synthetic("test", 3, SHAPE, 4), "png")
    sizes: list[int] = []
    real = predict_verb.predictions

    def counted(network: Any, image: Any, top: int) -> list[Any]:
        sizes.append(len(image))
        return real(network, image, top)

    monkeypatch.setattr(predict_verb, "predictions", counted)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(names * 50)))
    assert len(predicted(capsys, "one", "-")) == 150
    assert sizes == [64, 64, 22]


def test_what_a_person_sees_is_what_the_model_gets() -> None:
    """Of the same picture as many kinds of file."""
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    picture = Image.fromarray(values)
    expected = torch.from_numpy(values).permute(2, 0, 1)
    picture.save("plain.png")
    assert torch.equal(photo.seen("plain.png"), expected)
    picture.convert("RGBA").save("alpha.png")
    assert torch.equal(photo.seen("alpha.png"), expected)
    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save("palette.png")
    assert torch.equal(photo.seen("palette.png"), expected)
    picture.convert("CMYK").save("cmyk.tif")
    assert (photo.seen("cmyk.tif").float() - expected.float()).abs().max() <= 3
    grey = picture.convert("L")
    grey.save("grey.png")
    assert photo.seen("grey.png").shape == (1, 4, 4)
    Image.fromarray(np.array(grey).astype(np.uint16) * 257).save("sixteen.png")
    assert torch.equal(photo.seen("sixteen.png"), photo.seen("grey.png"))
    clear = picture.convert("RGBA")
    clear.putalpha(0)
    clear.save("clear.png")
    assert bool((photo.seen("clear.png") == 255).all())
    turned = picture.getexif()
    turned[274] = 6  # turn a quarter to the right
    picture.save("turned.png", exif=turned)
    assert torch.equal(photo.seen("turned.png"), expected.rot90(-1, (1, 2)))


def test_another_format_loses_its_margins_and_not_its_proportions() -> None:
    image = torch.zeros(1, 30, 90, dtype=torch.uint8)
    image[:, :, 30:60] = 200
    assert bool((arrays.brought_to(image, (3, 10, 10)) == 200).all())
    assert bool((arrays.brought_to(image.transpose(1, 2), (1, 10, 10)) == 200).all())
    assert arrays.brought_to(image, (1, 10, 30)).shape == (1, 10, 30)
    assert arrays.brought_to(image[:, :1], (3, 8, 8)).shape == (3, 8, 8)
    small = torch.full((3, 2, 2), 9, dtype=torch.uint8)
    assert bool((arrays.brought_to(small, (3, 4, 4)) == 9).all())


def test_a_large_photograph_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    trained(COLOUR)
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (4032, 3024), (200, 30, 30)).save("phone.jpg", exif=exif)
    (line,) = predicted(capsys, "one", "phone.jpg")
    assert line["predictions"]


def test_a_folder_run_reads_files_as_its_training_does(capsys: pytest.CaptureFixture[str]) -> None:
    source = synthetic("train", 60, (3, 12, 20), 2)
    for number, image in enumerate(source.image):
        place = Path(f"photos/{'ab'[source.label[number]]}")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{number}.png")
    extra = COLOUR.replace('"digits"', '"photos/"').replace("size=32", "size=8").replace(
        "3 * 32 * 32", "3 * 8 * 8"
    )  # fmt: skip
    folder = trained(extra)
    test = json.loads((folder / "outcome.json").read_text())["samples"]
    files: Any = sources.load("photos/", "test", size=8, channels=3)
    Path("photos").rename("moved")
    for sample in test:
        path = files._path(sample["index"]).replace("photos", "moved")
        (line,) = predicted(capsys, "one", path, "step=last")
        first = line["predictions"][0]
        assert first["label"] == sample["predicted"]
        assert first["class"] == "ab"[sample["predicted"]]
        assert first["probability"] == pytest.approx(sample["probability"], abs=1e-6)


def test_a_run_on_other_things_than_images_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "recipes" / "regression_mlp.py"
    assert command(path, "name=line", "epochs=1", "threads=1") == 0
    Image.new("L", (4, 4)).save("x.png")
    assert command("predict", "line", "x.png") == 4
    assert "cannot tell how one becomes what this run learned" in capsys.readouterr().err


def test_the_weights_of_another_step_give_other_answers(capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained("", "epochs=4", "keep=4")
    saved(synthetic("test", 3, SHAPE, 4), "png")
    first, *_, last = checkpoint.steps(folder)
    ours = predicted(capsys, "one", "png", f"step={first}")
    assert ours != predicted(capsys, "one", "png", f"step={last}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "takes a run and image files"),
        (["one"], "takes a run and image files"),
        (["one", "step=last"], "launcher predict takes image files"),
        (["oen", "x.png"], "Did you mean 'one'?"),
        (["one", "x.png", "--top", "0"], "--top 0: give 1 or more"),
        (["one", "x.png", "--top", "many"], "invalid int value"),
        (["one", "x.png", "step=0.5"], "step=0.5: give best, last"),
    ],
)
def test_a_wrong_word_is_answered_with_code_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trained()
    assert command("predict", *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_file_with_an_equals_sign_is_a_file() -> None:
    Path("step=3.png").touch()
    assert not predict_verb._is_setting("step=3.png")
    assert not predict_verb._is_setting("lr=3.png")
    assert predict_verb._is_setting("step=3")
    assert predict_verb._is_setting("data_dir=/x")


def test_memory_that_runs_out_ends_with_10(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMALL", "")
    trained(
        "class Large(models.MLP):\n    def forward(self, x):\n"
        "        return super().forward(x) if 'SMALL' in os.environ else torch.empty(1 << 50)\n\n\n"
        "def model(hparams, data): return Large(16, len(data.classes), (4,))"
    )
    monkeypatch.delenv("SMALL")
    (image, *_) = saved(synthetic("test", 1, SHAPE, 4), "images")
    assert command("predict", "one", image) == 10
    assert "out of memory with the model of" in capsys.readouterr().err


def test_a_reader_who_leaves_ends_nothing_badly() -> None:
    """`launcher predict ... | head -1`."""
    trained()
    saved(synthetic("test", 40, SHAPE, 4), "png")
    line = f"{sys.executable} -m launcher predict one png png png png | head -1"
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, timeout=HANGS,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_what_pillow_says_of_a_broken_file_is_a_text() -> None:
    def broken(path: str) -> Any:
        raise SyntaxError(f"broken PNG file (chunk b'' in {path!r})")

    Path("x.png").touch()
    assert pictures.read(broken, "x.png") == "broken PNG file (chunk b'' in the file)"
