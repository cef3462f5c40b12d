"""`launcher data` and `launcher data fetch`, against a server that does what networks do."""

import errno
import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HANGS, command, eventually, write_recipe

from launcher import catalog, download, settings, storage, transfer
from launcher.catalog import DataSet, Packed, Piece
from launcher.settings import RunSettings

ROOT = Path(__file__).resolve().parent.parent
MNIST: Any = import_module("launcher.sources.mnist")
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
         "t10k-labels-idx1-ubyte")  # fmt: skip
BIG = f"MNIST/raw/{NAMES[0]}.gz"


def idx(name: str) -> bytes:
    """200 images that do not compress, or their labels."""
    values = np.random.default_rng(0).integers(0, 10, 200).astype(np.uint8)
    if "images" in name:
        values = np.random.default_rng(1).integers(0, 256, (200, 28, 28)).astype(np.uint8)
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


CONTENT = {f"MNIST/raw/{name}.gz": gzip.compress(idx(name), mtime=0) for name in NAMES}
WHOLE = len(CONTENT[BIG])


class Server(ThreadingHTTPServer):
    """Files by path; the switches say how it treats the first requests for the largest one."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(CONTENT)
        self.cuts: list[int] = []
        """After how many bytes each next answer ends."""
        self.stalls = False
        """A cut is silence instead of an end, until there is another request."""
        self.left = False
        """Whether the client came again while there was silence."""
        self.ranges = True
        self.if_range = True
        self.lies = 0
        """By how much a range starts elsewhere than it was asked for."""
        self.tag = '"one"'
        self.moved_to = ""
        self.asked: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def ranges_asked(self) -> list[str]:
        """The `Range` of each request for the largest file."""
        return [asked.get("Range", "") for asked in self.asked if asked["path"] == f"/{BIG}"]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, path = self.server, self.path.removeprefix("/")
        server.asked.append({"path": self.path, **dict(self.headers)})
        if server.moved_to:
            self.send_response(302)
            self.send_header("Location", f"{server.moved_to}/{path}")
            self.end_headers()
            return
        if path not in server.files:
            self.send_error(404)
            return
        content, start = server.files[path], 0
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if wanted and server.ranges and (condition == server.tag or not server.if_range):
            start = int(wanted.removeprefix("bytes=").rstrip("-")) + server.lies
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", server.tag)
        self.end_headers()
        most = server.cuts.pop(0) if server.cuts and path == BIG else len(content)
        self.wfile.write(content[start : start + most])
        if server.stalls and most < len(content):
            self.wfile.flush()
            number = len(server.asked)
            until = time.monotonic() + HANGS
            while len(server.asked) == number and time.monotonic() < until:
                time.sleep(0.02)
            server.left = len(server.asked) > number

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """MNIST with 200 images, and no address but a mirror's."""
    pieces = tuple(
        Piece(name, md5(idx(name)), len(idx(name)), Packed(f"{name}.gz", md5(packed), len(packed)))
        for name, packed in zip(NAMES, CONTENT.values(), strict=True)
    )
    found = replace(catalog.MNIST, pieces=pieces, mirrors=())
    monkeypatch.setitem(catalog.SETS, "mnist", found)
    monkeypatch.setattr(MNIST, "_MNIST", found)
    train, test = NAMES[:2], NAMES[2:]
    monkeypatch.setattr(MNIST, "_NAMES", {"train": (*train, 200), "test": (*test, 200)})
    return found


@pytest.fixture
def server(
    small: DataSet, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("locks")))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.01)
    token = download.mirror.set(None)
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.02,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()
    download.mirror.reset(token)


def fetch(server: Server, *more: str) -> int:
    return command("data", "fetch", "mnist", f"mirror={server.url}", *more)


def lies() -> dict[str, bytes]:
    """Every file under data/, with its content."""
    return {str(p.relative_to("data")): p.read_bytes() for p in Path("data").rglob("*.*")}


def states(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str]]:
    capsys.readouterr()
    code = command("data", "--json", *arguments)
    document = json.loads(capsys.readouterr().out)
    return code, {line["name"]: line["state"] for line in document["data_sets"]}


# ── the list ─────────────────────────────────────────────────────────────────────────────────────


def test_the_list_says_what_is_built_in_and_how_to_get_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("data", "data_dir=mine") == 0
    out = capsys.readouterr().out
    for words in ("digits", "built in", "launcher data fetch cifar10", "mine/MNIST/raw", "kB"):
        assert words in out
    assert "data_dir=mine" in out.split("not here: launcher data fetch cifar10")[1]
    assert not Path("mine").exists()


def test_the_list_is_json_for_programs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch(server) == 0
    code, found = states(capsys)
    assert code == 0
    assert found == {
        "digits": "built in",
        "mnist": "here",
        "fashion_mnist": "not here: launcher data fetch fashion_mnist",
        "cifar10": "not here: launcher data fetch cifar10",
        "synthetic": "built in",
    }
    assert states(capsys, "--check")[1]["mnist"] == "here, checked"


def test_a_file_with_one_other_byte_is_found_by_a_check_and_fetched_anew(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """D2."""
    assert fetch(server) == 0
    path = Path("data", BIG)
    path.write_bytes(damaged := CONTENT[BIG][:-1] + b"?")
    assert states(capsys)[0] == 0
    code, found = states(capsys, "--check")
    assert (code, found["mnist"]) == (4, f"damaged: {NAMES[0]}.gz")
    assert fetch(server) == 0
    assert lies() == CONTENT | {f"{BIG}.bad": damaged}


def test_a_truncated_file_is_found_without_a_check(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """D2."""
    assert fetch(server) == 0
    Path("data", BIG).write_bytes(CONTENT[BIG][:1000])
    assert states(capsys) == (0, states(capsys)[1] | {"mnist": f"damaged: {NAMES[0]}.gz"})


def test_files_that_somebody_else_compressed_are_whole(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(server) == 0
    Path("data", BIG).write_bytes(gzip.compress(idx(NAMES[0]), 1))
    assert states(capsys, "--check")[1]["mnist"] == "here, checked"


@pytest.mark.parametrize("arguments", [["data"], ["data", "--check"], ["data", "fetch", "digits"]])
def test_the_verb_does_not_import_torch(arguments: list[str]) -> None:
    program = (
        "import sys; from launcher import cli; code = cli.main(sys.argv[1:]); "
        "assert not {'torch', 'sklearn'} & set(sys.modules); sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", program, *arguments], check=False, timeout=HANGS)
    assert ran.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fetch"], "no data set is given"),
        (["fetch", "mnits"], "Did you mean 'mnist'?"),
        (["fetch", "mnist", "--check"], "fetch always checks"),
        (["fech"], "Did you mean 'fetch'?"),
        (["mnist"], "Use `launcher data fetch NAME`"),
        (["datadir=x"], "Did you mean 'data_dir'?"),
        (["--chekc"], "Did you mean '--check'?"),
        (["data_dir=file"], "data_dir=file: file is no folder"),
        (["fetch", "mnist", "data_dir=file/x"], "data_dir=file/x: file is no folder"),
        (["data_dir="], "data_dir= is empty"),
    ],
)
def test_what_is_misspelt_is_answered_with_what_was_meant(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert command("data", *arguments) == 2
    assert words in capsys.readouterr().err


def test_the_advice_is_for_the_folder_that_was_looked_at(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(server, "data_dir=my sets") == 0
    Path("my sets", BIG).write_bytes(b"x" * WHOLE)
    assert command("data", "--check", "data_dir=my sets") == 4
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "launcher data fetch mnist data_dir='my sets' sets it aside" in said


@pytest.mark.parametrize("method", ["mkdir", "free"])
def test_where_nothing_can_be_written_no_server_is_asked(
    method: str,
    server: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refusing(storage.Disk):
        def free(self, path: Path) -> int:
            return 0 if method == "free" else super().free(path)

        def mkdir(self, path: Path) -> None:
            if method == "mkdir":
                raise PermissionError(errno.EACCES, "Permission denied")
            super().mkdir(path)

    monkeypatch.setattr(storage, "disk", Refusing())
    assert fetch(server, "data_dir=mine") == 7
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "dataset=mnist is not here and cannot be fetched to mine/MNIST/raw: " in said
    assert ("give another place" if method == "free" else "Permission denied") in said
    assert server.asked == []
    assert not Path("mine").exists()
    monkeypatch.setattr(storage, "disk", storage.Disk())
    assert fetch(server) == 0
    monkeypatch.setattr(storage, "disk", Refusing())
    assert fetch(server) == 0, "what is here needs no place"


def test_the_example_of_the_help_works(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("data", "--help") == 0
    (example,) = (s for s in capsys.readouterr().out.splitlines() if s.startswith("Example: "))
    words = example.removeprefix("Example: launcher ").split()
    assert command(*words, f"mirror={server.url}") == 0
    assert lies() == CONTENT
    assert command("--help") == 0
    assert "launcher data" in capsys.readouterr().out


# ── fetching ─────────────────────────────────────────────────────────────────────────────────────


def test_a_second_fetch_asks_for_nothing(server: Server) -> None:
    assert fetch(server) == 0
    asked = len(server.asked)
    assert fetch(server) == 0
    assert (len(server.asked), asked) == (4, 4)


def test_a_cut_download_is_continued_by_the_next_try(server: Server) -> None:
    server.cuts = [50_000]
    assert fetch(server) == 0
    assert server.ranges_asked() == ["", "bytes=50000-"]
    assert lies() == CONTENT


def test_a_cut_download_is_continued_by_the_next_command(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cuts = [30_000, 30_000, 30_000]
    assert fetch(server) == 4
    assert "90,000 bytes are kept for the next try" in " ".join(capsys.readouterr().err.split())
    assert fetch(server) == 0
    assert server.ranges_asked() == ["", "bytes=30000-", "bytes=60000-", "bytes=90000-"]
    assert lies() == CONTENT


def test_tries_that_get_further_are_not_counted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "FURTHER", 20_000)
    server.cuts = [20_000] * 6
    assert fetch(server) == 0
    assert len(server.ranges_asked()) == 7


def _no_ranges(server: Server) -> None:
    server.ranges = False


def _another_part(server: Server) -> None:
    server.lies = 7


def _changed(server: Server) -> None:
    server.tag = '"two"'


def _changed_and_careless(server: Server) -> None:
    server.tag, server.if_range = '"two"', False


@pytest.mark.parametrize("what", [_no_ranges, _another_part, _changed, _changed_and_careless])
def test_a_server_that_does_not_continue_the_same_file_is_asked_for_all_of_it(
    server: Server, what: Callable[[Server], None]
) -> None:
    """It ignores ranges, sends another one, or has another version by now."""
    server.cuts = [50_000] * 3
    server.ranges = False
    right, server.files[BIG] = server.files[BIG], bytes(WHOLE)
    assert fetch(server) == 4
    server.files[BIG], server.ranges = right, True
    what(server)
    assert fetch(server) == 0
    assert lies() == CONTENT, "no part of the other version, and no wrong file, is left"
    assert server.ranges_asked()[3] == "bytes=50000-"


def test_a_part_of_another_server_is_not_continued(server: Server) -> None:
    server.cuts = [50_000] * 3
    assert fetch(server) == 4
    asked = len(server.ranges_asked())
    other = server.url.replace("127.0.0.1", "localhost")
    assert command("data", "fetch", "mnist", f"mirror={other}") == 0
    assert server.ranges_asked()[asked:] == [""]


def test_a_server_without_a_version_is_asked_for_all_of_it(server: Server) -> None:
    """A weak tag says nothing about bytes."""
    server.tag, server.cuts = 'W/"one"', [50_000]
    assert fetch(server) == 0
    assert server.ranges_asked() == ["", ""]


def test_a_server_that_falls_silent_is_left_after_a_while(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "STALL_SECONDS", 0.2)
    server.cuts, server.stalls = [50_000], True
    assert fetch(server) == 0
    eventually(lambda: server.left)  # its thread looks a moment later than the next one is asked
    assert server.ranges_asked() == ["", "bytes=50000-"]


def test_wrong_bytes_are_kept_as_bad_and_the_next_command_gets_the_right_ones(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """D2."""
    right, server.files[BIG] = server.files[BIG], bytes(WHOLE)
    assert fetch(server) == 4
    assert f"kept as data/{BIG}.bad" in " ".join(capsys.readouterr().err.split())
    assert lies()[f"{BIG}.bad"] == bytes(WHOLE)
    assert BIG not in lies()
    server.files[BIG] = right
    assert fetch(server) == 0
    assert lies().items() >= CONTENT.items()


def test_an_answer_of_another_size_is_refused_before_it_is_written(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """D10: nobody fills a disk."""
    server.files[BIG] = bytes(10 * WHOLE)
    assert fetch(server) == 4
    assert f"bytes instead of {WHOLE}" in " ".join(capsys.readouterr().err.split())
    assert not Path("data").exists()


def test_a_whole_part_of_a_process_that_was_killed_needs_no_network(server: Server) -> None:
    path = Path("data", BIG)
    path.parent.mkdir(parents=True)
    path.with_name(f".{path.name}.part").write_bytes(CONTENT[BIG])
    assert fetch(server) == 0
    assert server.ranges_asked() == []
    assert lies() == CONTENT


# ── mirrors ──────────────────────────────────────────────────────────────────────────────────────


def test_a_mirror_is_asked_first_and_the_official_address_next(
    server: Server, small: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = replace(small, mirrors=(f"{server.url}/official/",))
    monkeypatch.setitem(catalog.SETS, "mnist", official)
    for path in CONTENT:
        server.files[f"official/{Path(path).name}"] = server.files.pop(path)
    assert fetch(server) == 0
    paths = [asked["path"] for asked in server.asked[:2]]
    assert paths == [f"/{BIG}", f"/official/{Path(BIG).name}"]
    assert lies() == CONTENT


def test_a_data_dir_is_a_mirror(server: Server) -> None:
    assert fetch(server) == 0
    url = f"file://{Path('data').resolve()}"
    assert command("data", "fetch", "mnist", f"mirror={url}", "data_dir=other") == 0
    assert Path("other", BIG).read_bytes() == CONTENT[BIG]
    assert len(server.asked) == 4


def test_a_user_and_a_password_are_sent_and_never_shown(
    server: Server, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    server.cuts = [50_000] * 3
    url = server.url.replace("://", "://me:s%40cret@")
    assert command("data", "fetch", "mnist", f"mirror={url}") == 4
    assert {asked["Authorization"] for asked in server.asked} == {"Basic bWU6c0BjcmV0"}
    said = "".join(capsys.readouterr()) + caplog.text
    said += "".join(path.read_text("latin-1") for path in Path("data").rglob("*.json"))
    assert "***@127.0.0.1" in said
    assert "cret" not in said
    recorded = json.dumps(settings.as_json(RunSettings(mirror=url)))
    assert "***@127.0.0.1" in recorded
    assert "cret" not in recorded


def test_a_password_is_not_sent_to_where_a_mirror_points(server: Server) -> None:
    with Server() as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.02,))
        thread.start()
        server.moved_to = other.url
        url = server.url.replace("://", "://me:secret@")
        assert command("data", "fetch", "mnist", f"mirror={url}") == 0
        other.shutdown()
        thread.join()
    assert all("Authorization" in asked for asked in server.asked)
    assert not any("Authorization" in asked for asked in other.asked)
    assert lies() == CONTENT


@pytest.mark.parametrize(
    "url",
    ["ftp://x/y", "data", "/data", "http://", "file://elsewhere/x", "file:x", "http://x:y/",
     "http://x/?a", "http://x/#a", "http://x/a b", "https://u:secret@x:y/", "u:secret@x/y",
     "gopher://u:secret@x"],
)  # fmt: skip
def test_what_is_no_mirror_is_refused_and_no_secret_repeated(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe()
    assert command("data", "fetch", "mnist", f"mirror={url}") == 2
    assert command("tiny.py", f"mirror={url}") == 2
    said = "".join(capsys.readouterr())
    assert "mirror: " in said
    assert "secret" not in said


# ── in a run ─────────────────────────────────────────────────────────────────────────────────────

DATA = """
def data(hparams):
    return Data(
        train=Split(sources.load("mnist", "train")), test=Split(sources.load("mnist", "test")),
        prepare=augment.normalize((0.5,), (0.5,)),
    )

def model(hparams, data):
    return models.MLP(784, 10, (8,))
"""


def test_a_run_fetches_from_its_mirror_and_continues_a_cut_download(server: Server) -> None:
    write_recipe(DATA)
    server.cuts = [30_000] * 3
    assert command("tiny.py", "epochs=1", f"mirror={server.url}") == 4
    assert not Path("checkpoints").exists()
    url = server.url.replace("://", "://me:secret@")
    assert command("tiny.py", "epochs=1", "name=x", f"mirror={url}") == 0
    assert lies() == CONTENT
    assert "secret" not in Path("checkpoints/x/run.json").read_text()


def test_a_run_refuses_a_damaged_file_before_training_and_the_next_fetches_it(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """D2."""
    write_recipe(DATA)
    assert fetch(server) == 0
    Path("data", BIG).write_bytes(CONTENT[BIG][:1000])
    assert command("tiny.py", "epochs=1", f"mirror={server.url}") == 4
    assert f"kept as data/{BIG}.bad" in " ".join(capsys.readouterr().err.split())
    assert not Path("checkpoints").exists()
    assert command("tiny.py", "epochs=1", f"mirror={server.url}") == 0
    assert lies()[f"{BIG}.bad"] == CONTENT[BIG][:1000]


def test_a_bomb_in_place_of_a_file_unfolds_no_further_than_the_file(server: Server) -> None:
    """D10."""
    write_recipe(DATA)
    assert fetch(server) == 0
    with gzip.open(Path("data", BIG), "wb") as bomb:
        for _ in range(300):
            bomb.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Exception, match="more than") as refusal:
            MNIST.mnist("train", Path("data"))
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert type(refusal.value).__name__ == "DataError"
    assert peak < 20e6
