"""report.html: readable for every run there may be, loading nothing, telling no secret."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, ROOT, command, write_recipe

from launcher import report
from launcher.errors import CheckpointError
from launcher.png import data_url

CHECKPOINTS = Path("checkpoints")
VOID = {"meta", "img", "br", "wbr", "path", "circle"}


class Reader(HTMLParser):
    """Refuses what is not nested properly, and keeps what a person would read."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag != "wbr":
            self.words.append(" ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] in {"li", "p", "th", "td", "tr"} - {tag}:
            self.open.pop()
        assert self.open
        assert self.open.pop() == tag
        self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def read(page: str) -> str:
    """The words of a page that loads nothing and is properly nested."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    assert "script" not in {tag for tag, _, _ in reader.attributes}
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert value.startswith("data:image/png;base64,"), (tag, name)
    styles = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert styles
    assert "url(" not in styles[1]
    assert "@import" not in styles[1]
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(re.findall(r"<svg.*?</svg>", page)))
    return re.sub(r"\s+", " ", "".join(reader.words)).replace("\u00a0", " ")


def write(name: str = "r", **changes: Any) -> Path:
    """The folder of a run that nobody trained: what it says is `changes`."""
    folder = CHECKPOINTS / name
    folder.mkdir(parents=True)
    classes = changes.get("classes", ["cat", "dog"])
    scores = changes.get("scores", {"test/loss": 0.5, "test/accuracy": 0.75})
    steps = changes.get("steps", range(10, 110, 10))
    lines = changes.get("lines") or [
        {"step": step, "epoch": step / 50, "seconds": step / 10, "train/loss": 2 * math.exp(-step),
         "train/lr": 0.1, "train/samples_per_s": 1000.0, "train/data_wait": 0.01,
         "train/grad_norm": 1.0}
        for step in steps
    ]  # fmt: skip
    if scores and lines:
        lines.append({"step": lines[-1]["step"], "epoch": 2.0, "seconds": 10.0, **scores})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    attempt = {"from_step": 0, "at": "2026-11-26T16:40:00+0100", "host": "here", "processes": 1,
               "devices": 1, "device": "cpu", "threads": 1, "torch": "2.14.1"}  # fmt: skip
    settings = {"seed": 0, "peak_lr": 0.1} | changes.get("settings", {})
    document(folder / "run.json", {
        "name": name, "recipe": "recipes/tiny.py", "identity": {"recipe": "ab" * 32},
        "data": {"train": "cd" * 32, "test": "ef" * 32},
        "hyperparameters": {k: {"value": v, "from": "argument"} for k, v in settings.items()},
        "run_settings": {"keep": {"value": 2, "from": "default"}},
        "plan": {"total_steps": 100}, "exact": True, "changes": [], "attempts": [attempt],
        "versions": {"torch": "2.14.1"}, "launched_by": "python",
    } | changes.get("run", {}))  # fmt: skip
    result = {"result": {"scores": scores, "best": None}} if scores else {}
    document(folder / "status.json", {"state": "finished", "code": 0, "reason": "", "step": 100,
                                      **result} | changes.get("status", {}))  # fmt: skip
    if scores and "outcome" not in changes:
        size = len(classes)
        confusion = [[9 if a == b else 1 for b in range(size)] for a in range(size)]
        picture = data_url(bytes(12), 2, 2, 3)
        samples = [
            {"index": 7, "label": 0, "predicted": 1, "probability": 0.9, "picture": picture},
            {"index": 8, "label": 0, "predicted": 0, "probability": None, "picture": None},
        ] if size > 1 else []  # fmt: skip
        document(folder / "outcome.json", {
            "format": 1, "step": 100, "classes": classes, "scores": scores,
            "confusion": confusion if 0 < size <= 100 else None,
            "mistakes": samples[:1], "samples": samples,
        })  # fmt: skip
    return folder


def document(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def page(*folders: Path) -> str:
    return report.page_of([(folder, None) for folder in folders])


# ── of real runs ─────────────────────────────────────────────────────────────────────────────────


def test_a_run_ends_with_a_report() -> None:
    assert command(write_recipe(), "name=r", "threads=1", "lr=0.07") == 0
    words = read((CHECKPOINTS / "r/report.html").read_text())
    for heading in ("Curves", "Accuracy of each class", "Confusion matrix", "Settings", "Lineage",
                    "Most confident mistakes", "A sample of predictions"):  # fmt: skip
        assert f" {heading} " in words
    for chart in ("Loss", "Accuracy", "Learning rate", "Throughput", "Data wait", "Gradient norm"):
        assert chart in words
    scores = json.loads((CHECKPOINTS / "r/status.json").read_text())["result"]["scores"]
    assert f"{scores['test/accuracy']:.2%}".replace("%", " %") in words
    assert "lr 0.07 argument" in words
    assert "finished" in words
    assert "8 of 8" in words


def test_the_lineage_tells_how_each_attempt_ended() -> None:
    stopping = """
import os, signal
def loss(model, batch):
    flag = os.path.exists("stopped")
    if model.training and not flag:
        open("stopped", "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
    return losses.cross_entropy(model, batch)
"""
    path = write_recipe(stopping)
    assert command(path, "name=r", "threads=1") == 75
    words = read((CHECKPOINTS / "r/report.html").read_text())
    assert "stopped in good order; the same command continues" in words
    assert "There was no evaluation yet." in words
    status = json.loads((CHECKPOINTS / "r/status.json").read_text())
    assert command(path, "name=r", "threads=1") == 0
    words = read((CHECKPOINTS / "r/report.html").read_text())
    assert f"stopped in good order after step {status['step']}: SIGTERM" in words
    assert f"continued at step {status['step']}" in words
    assert "exact: the result has the bits of a run that was never stopped." in words


def test_a_failed_run_has_a_report_with_the_reason() -> None:
    extra = "def loss(model, batch):\n    raise ValueError('the <moon> is full')\n"
    late = f"seen = 0\n{extra}".replace("    raise", """    global seen
    seen += model.training
    if seen < 6:
        return losses.cross_entropy(model, batch)
    raise""")  # fmt: skip
    assert command(write_recipe(late), "name=r", "threads=1") == 3
    words = read((CHECKPOINTS / "r/report.html").read_text())
    assert "failed with code 3" in words
    assert "the <moon> is full" in words
    assert "Confusion matrix" in words


def test_a_report_that_cannot_be_written_costs_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    (CHECKPOINTS / "r/report.html").mkdir(parents=True)
    assert command(write_recipe(), "name=r", "threads=1") == 0
    said = capsys.readouterr().out
    assert "warning: checkpoints/r/report.html was not written: StorageError" in said
    assert json.loads((CHECKPOINTS / "r/status.json").read_text())["state"] == "finished"


def test_a_mistake_of_ours_in_the_report_costs_a_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(folder: Path) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(report, "write", broken)
    assert command(write_recipe(), "name=r", "threads=1") == 0
    assert "report.html was not written: RecursionError: too deep" in capsys.readouterr().out


def test_a_run_ends_without_a_plotting_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom launcher.cli import main\n"
         f"code = main([{str(write_recipe())!r}, 'name=r', 'threads=1'])\n"
         "loaded = {'matplotlib', 'PIL', 'jinja2'} & sys.modules.keys()\n"
         "sys.exit(f'{code} {loaded}' if code or loaded else 0)"],
        capture_output=True, text=True, check=False, timeout=HANGS, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (CHECKPOINTS / "r/report.html").exists()


# ── whatever the run is like ─────────────────────────────────────────────────────────────────────


def test_a_run_without_an_evaluation_says_so() -> None:
    words = read(page(write(scores={}, status={"state": "running"})))
    assert "There was no evaluation yet." in words
    assert "Confusion matrix" not in words
    assert "Loss" in words


def test_a_run_without_a_line_says_so() -> None:
    folder = write(scores={}, status={"state": "running", "step": 0})
    (folder / "metrics.jsonl").write_text("")
    assert "There is no line of metrics yet." in read(page(folder))
    (folder / "metrics.jsonl").unlink()
    (folder / "status.json").unlink()
    assert "There is no line of metrics yet." in read(page(folder))


def test_one_line_is_enough() -> None:
    assert "Learning rate" in read(page(write(steps=[10])))


def test_scores_that_are_not_finite_are_called_so() -> None:
    scores = {"test/loss": None, "test/accuracy": 0.1, "test/accuracy/cat": None}
    lines = [{"step": s, "seconds": 1.0, "train/loss": None, "train/lr": 0.1} for s in (1, 2, 3)]
    words = read(page(write(scores=scores, lines=lines)))
    assert "test loss not finite" in words
    assert "train not finite" in words
    assert "cat not finite" in words


@pytest.mark.parametrize("count", [1, 2, 25, 26, 100, 101, 1000])
def test_any_number_of_classes_is_readable(count: int) -> None:
    names = [f"class {number}" for number in range(count)]
    scores = {"test/loss": 0.5, "test/accuracy": 0.5}
    scores |= {f"test/accuracy/{name}": n / count for n, name in enumerate(names)}
    whole = page(write(classes=names, scores=scores))
    words = read(whole)
    assert ("Confusion matrix" in words) == (count <= 100)
    assert ("<img class=heat" in whole) == (25 < count <= 100)
    assert len(re.findall(r"<i style='--w:", whole)) == (count if count <= 60 else 40)
    assert len(whole) < 150_000
    if count > 60:
        assert f"{count:,} classes; the median has" in words


def test_regression_has_curves_and_no_classes() -> None:
    words = read(page(write(classes=[], scores={"test/loss": 0.25})))
    assert "Loss" in words
    for absent in ("Confusion", "Accuracy of each class", "mistakes", "predictions"):
        assert absent not in words


def test_an_outcome_of_an_earlier_step_says_so() -> None:
    folder = write(status={"state": "preempted", "step": 140, "reason": "SIGTERM: stopped"})
    assert "Evaluated after step 100." in read(page(folder))


def test_a_run_from_before_there_were_outcomes_has_a_report() -> None:
    scores = {"test/loss": 0.5, "test/accuracy": 0.75, "test/accuracy/cat": 0.7}
    words = read(page(write(scores=scores, outcome=None)))
    assert "75.00 %" in words
    assert "cat 70.00 %" in words


def test_a_million_lines_make_a_small_page() -> None:
    few = len(page(write("few", steps=range(10, 10_000, 10))))
    many = len(page(write("many", steps=range(1, 20_000))))
    assert many < 1.5 * few
    assert many < 250_000


def test_other_metrics_get_a_chart_of_their_own() -> None:
    scores = {"test/loss": 0.5, "test/accuracy": 0.5, "test/top5_accuracy": 0.9, "test/f1": 3.0}
    words = read(page(write(scores=scores)))
    assert "Top5 accuracy" in words
    assert "F1" in words


def test_what_is_damaged_is_said_and_the_rest_is_shown() -> None:
    folder = write(status={"step": 110})
    (folder / "outcome.json").write_text("{")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'\x00\xff\n{"step": 110, "trai')
    words = read(page(folder))
    assert "outcome.json is damaged" in words
    assert "metrics.jsonl, line 12, is no record of a run." in words
    assert "metrics.jsonl has a torn line at its end." not in words  # it ends before that
    assert "metrics.jsonl ends at step 100 of 110." in words
    assert "75.00 %" in words


@pytest.mark.parametrize("state", ["finished", "dead", "preempted", "failed"])
def test_of_a_torn_line_only_a_finished_run_is_told(state: str) -> None:
    folder = write(status={"state": state})
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 110, "trai')
    torn = "metrics.jsonl has a torn line at its end." in read(page(folder))
    assert torn == (state == "finished")


def test_metrics_that_were_lost_are_said_by_report_and_compare(
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, _ = write(), write("whole")
    lines = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(lines[:500])
    for words in (["report", "r"], ["compare", "r", "whole"]):
        caplog.clear()
        assert command(*words) == 0
        assert caplog.messages == ["checkpoints/r/metrics.jsonl ends at step 20 of 100."]
    assert "metrics.jsonl ends at step 20 of 100." in read((folder / "report.html").read_text())


@pytest.mark.parametrize(
    ("name", "content"),
    [("run.json", {}), ("run.json", {"name": "r", "attempts": 7}),
     ("run.json", {"hyperparameters": 1}), ("status.json", {"result": 3}),
     ("outcome.json", {"format": 1})],
)  # fmt: skip
def test_a_folder_that_no_run_left_is_refused_in_a_sentence(
    name: str, content: dict[str, Any]
) -> None:
    folder = write()
    document(folder / name, content or {})
    if not content:
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"checkpoints/r"):
        page(folder)


# ── what must not be in it ───────────────────────────────────────────────────────────────────────


def test_nothing_that_a_run_says_becomes_markup() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>' \" </svg></style> \u202e \udc80"
    scores = {"test/loss": 0.5, "test/accuracy": 0.5, f"test/accuracy/{evil}": 0.5, "test/<i>": 1.0}
    folder = write(
        classes=[evil, "b"], scores=scores, settings={evil: evil},
        run={"name": evil, "recipe": evil, "platform": evil, "versions": {evil: evil}, "git": evil,
             "exact": False, "changes": [evil]},
        status={"state": "failed", "reason": evil, "code": 6},
    )  # fmt: skip
    records = json.loads((folder / "outcome.json").read_text())
    records["mistakes"][0]["picture"] = "javascript:alert(3)"
    records["samples"][0]["picture"] = "data:image/png;base64,AA' onload='alert(4)"
    document(folder / "outcome.json", records)
    for whole in (page(folder), page(folder, write("other"))):
        read(whole)
        assert "<script" not in whole
        assert "javascript:" not in whole
        assert "onload" not in whole
        assert "<img src=x" not in whole
        whole.encode()


def test_the_browser_is_told_to_load_nothing() -> None:
    whole = page(write())
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in whole
    assert "http" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+|http-equiv", "", whole)


def test_secrets_are_left_out() -> None:
    """In settings, in the reason of a failure and in an origin, of one run and of several."""
    secret = "CANARY"
    url = f"https://me:{secret}@host/data"
    one = write(
        settings={"api_token": secret, "mirror": url, "note": url},
        status={"state": "failed", "reason": f"could not fetch {url}", "code": 4},
        run={"recipe": url, "changes": [url], "exact": False},
    )  # fmt: skip
    for whole in (page(one), page(one, write("other"))):
        assert secret not in whole
        assert "(a secret, left out)" in read(whole)


def test_dark_is_for_screens_only() -> None:
    """So that paper stays white."""
    whole = page(write())
    assert re.findall(r"@media([^{]*)prefers-color-scheme", whole) == [" screen and ("]
    assert "@media print" in whole


# ── several runs ─────────────────────────────────────────────────────────────────────────────────


def test_several_runs_stand_side_by_side_and_what_differs_comes_first() -> None:
    one = write("one", settings={"peak_lr": 0.1, "width": 8})
    other = write(
        "other", settings={"peak_lr": 0.2}, scores={"test/loss": 0.4, "test/accuracy": 0.9}
    )
    whole = page(one, other)
    words = read(whole)
    assert words.index("Settings that differ") < words.index("Results") < words.index("Curves")
    differing = words[words.index("Settings that differ") : words.index("Results")]
    assert "peak_lr 0.1 0.2" in differing
    assert "width 8 -" in differing
    assert "seed" not in differing
    best = re.findall(r"<td class=best>([^<]*)", whole)
    assert [text.replace("\u00a0", " ") for text in best] == ["0.4", "90.00 %"]


def test_equal_runs_have_no_difference() -> None:
    assert "the runs have the same settings" in read(page(write("one"), write("other")))


def test_runs_of_one_name_go_by_their_folders() -> None:
    one, other = write("a/r", run={"name": "r"}), write("b/r", run={"name": "r"})
    words = read(page(one, other))
    assert "checkpoints/a/r" in words
    assert "checkpoints/b/r" in words


def test_many_runs_and_other_classes_are_readable() -> None:
    names = [f"run{number}" for number in range(11)]
    folders = [write(name, scores={"test/loss": None, f"test/accuracy/{name}": 0.5})
               for name in names]  # fmt: skip
    words = read(page(*folders))
    assert all(name in words for name in names)
    assert "run0 50.00 % - -" in words


# ── the verb ─────────────────────────────────────────────────────────────────────────────────────


def test_the_verb_writes_into_the_folder_of_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert command("report", "r") == 0
    assert "checkpoints/r/report.html: " in capsys.readouterr().out
    read((CHECKPOINTS / "r/report.html").read_text())
    assert command("report", "checkpoints/r") == 0


def test_the_verb_writes_several_runs_into_the_current_folder() -> None:
    write("one"), write("other")
    assert command("report", "one", "other") == 0
    assert "2 runs compared" in read(Path("report.html").read_text())
    assert command("report", "one", "other", "--output", "x.html") == 0
    assert Path("x.html").read_text() == Path("report.html").read_text()


def test_the_verb_tells_a_killed_run_from_one_that_runs() -> None:
    write(status={"state": "running"})
    assert command("report", "r") == 0
    words = read((CHECKPOINTS / "r/report.html").read_text())
    assert "killed, or the machine went down" in words


def test_the_verb_does_not_write_over_a_foreign_file(capsys: pytest.CaptureFixture[str]) -> None:
    write()
    Path("mine.html").write_text("<html>my thesis</html>")
    assert command("report", "r", "--output", "mine.html") == 2
    assert "is no report: move it away" in " ".join(capsys.readouterr().err.split())
    assert Path("mine.html").read_text() == "<html>my thesis</html>"
    assert command("report", "r", "--output", "new.html") == 0
    assert command("report", "r", "--output", "new.html") == 0  # one of ours


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "no run is given"),
        (["nothing"], 2, "there is no run 'nothing'"),
        (["r", "--output", "."], 2, "is a folder"),
        (["r", "--output", "no/x.html"], 2, "there is no folder no"),
        (["r", "--outptu", "x"], 2, "--output"),
    ],
)
def test_what_the_verb_cannot_do_it_says(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write()
    assert command("report", *words) == code
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_the_example_of_the_help_works(capsys: pytest.CaptureFixture[str]) -> None:
    write("cifar_resnet--quick")
    assert command("report", "--help") == 0
    example = capsys.readouterr().out.rpartition("Example: launcher ")[2].split()
    assert command(*example) == 0


def test_the_verb_is_quick_and_imports_no_torch() -> None:
    write()
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom launcher.cli import main\n"
         "code = main(['report', 'r'])\n"
         "sys.exit(code or 'torch' in sys.modules or 'numpy' in sys.modules)"],
        capture_output=True, text=True, check=False, timeout=HANGS, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
