"""Files from the network: checked, once, and a refusal that says what to do without one."""

import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import HANGS

from launcher import download
from launcher.catalog import Remote
from launcher.download import fetch
from launcher.errors import DataError
from launcher.sources.cifar10 import cifar10

ROOT = Path(__file__).resolve().parent.parent
CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files` by path, cut to half under /short, slowly under /slow; counts requests."""

    daemon_threads = True
    # A worker blocked in a handler must not keep the test waiting.
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/file": CONTENT, "/short": CONTENT, "/slow": CONTENT}
        self.requests: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.requests.append(self.path)
        if self.path not in server.files:
            self.send_error(404)
            return
        content = server.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path == "/slow":
            time.sleep(1)
        self.wfile.write(content[: len(content) // 2] if self.path == "/short" else content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def own_locks(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks lie in the folder for temporary files, of which each test gets one."""
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("locks")))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.02,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address where no one listens, and where no one else can while the test runs."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/file.gz"


def left_in(folder: Path) -> set[str]:
    """Names of all files in a folder; none where there is no folder."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_file_is_downloaded_into_a_new_folder(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data" / "MNIST" / "file.gz"
    assert fetch(Remote("mnist", (server.url("/file"),), MD5), target) == target
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == {"file.gz"}
    assert server.requests == ["/file"]


def test_a_file_that_is_there_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.gz"
    target.write_bytes(b"mine")
    assert fetch(Remote("mnist", (server.url("/file"),), MD5), target).read_bytes() == b"mine"
    assert server.requests == []


def test_a_file_with_another_checksum_is_refused_and_kept_as_bad(
    server: Server, tmp_path: Path
) -> None:
    """D2."""
    wanted = hashlib.md5(b"something else").hexdigest()
    with pytest.raises(DataError) as refusal:
        fetch(Remote("mnist", (server.url("/file"),), wanted), tmp_path / "file.gz")
    assert MD5 in str(refusal.value)
    assert wanted in str(refusal.value)
    assert f"kept as {tmp_path / 'file.gz.bad'}" in str(refusal.value)
    assert server.requests == ["/file"] * 3
    assert left_in(tmp_path) == {"file.gz.bad"}


def test_a_file_that_ends_in_the_middle_is_refused_and_kept_for_the_next_try(
    server: Server, tmp_path: Path
) -> None:
    """D2. `/short` ends as a broken connection does."""
    with pytest.raises(DataError, match="cut after 640000 of 1280000 bytes"):
        fetch(Remote("mnist", (server.url("/short"),), MD5), tmp_path / "file.gz")
    assert server.requests == ["/short"] * 3
    assert left_in(tmp_path) == {".file.gz.part", ".file.gz.part.json"}


def test_without_a_network_the_refusal_says_what_is_missing_where_and_what_to_do(
    nobody: str, tmp_path: Path
) -> None:
    """D1."""
    folder = tmp_path / "data" / "MNIST" / "raw"
    with pytest.raises(DataError) as refusal:
        fetch(Remote("mnist", (nobody,), MD5), folder / "file.gz")
    message = str(refusal.value)
    for part in ("dataset=mnist", "no file.gz", str(folder), nobody, "dataset=digits", "3 tries"):
        assert part in message
    assert "refused" in message
    assert message.count(nobody) == 1, "the same failure three times is one thing to read"
    assert not (tmp_path / "data").exists()


def test_a_missing_file_is_refused_with_the_answer_of_the_server(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="Not Found"):
        fetch(Remote("mnist", (server.url("/gone"),), MD5), tmp_path / "file.gz")
    assert server.requests == ["/gone"] * 3


def test_the_second_mirror_is_used_when_the_first_fails(
    server: Server, nobody: str, tmp_path: Path
) -> None:
    for number, first in enumerate((nobody, server.url("/gone"), server.url("/short"))):
        target = tmp_path / str(number) / "file.gz"
        fetch(Remote("mnist", (first, server.url("/file")), MD5), target)
        assert target.read_bytes() == CONTENT
        assert left_in(target.parent) == {"file.gz"}
    assert server.requests.count("/file") == 3


def test_after_a_failure_the_next_run_can_download(server: Server, tmp_path: Path) -> None:
    """The lock is given back."""
    target = tmp_path / "file.gz"
    with pytest.raises(DataError):
        fetch(Remote("mnist", (server.url("/gone"),), MD5), target)
    assert fetch(Remote("mnist", (server.url("/file"),), MD5), target).read_bytes() == CONTENT


READY_GO = """
import sys
from importlib import import_module
from pathlib import Path
from launcher.catalog import Remote
from launcher.download import fetch
{preparation}
print("ready", flush=True)
sys.stdin.readline()
{action}
"""


def at_once(preparation: str, action: str, *arguments: object) -> list[tuple[int, str]]:
    """Run a script in two processes that start together; their exit codes and errors."""
    script = READY_GO.format(preparation=preparation, action=action)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments), str(number)],
            env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        ends = [process.communicate(timeout=HANGS) for process in processes]
        return [(p.returncode, errors) for p, (_, errors) in zip(processes, ends, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


KILLED = """
import os, signal
write = p.Partial.write
def once(self, file, chunk):
    write(self, file, chunk)
    os.kill(os.getpid(), signal.SIGKILL)
p.Partial.write = once
"""
FETCH = 'fetch(Remote("mnist", (sys.argv[1],), sys.argv[2]), Path(sys.argv[3]))'
NO_LOCK = "from launcher import held; held.Lock.acquire = lambda self, wait: True"


@pytest.mark.parametrize(
    ("preparation", "downloads"), [("", 1), (NO_LOCK, 2)], ids=["lock", "no lock"]
)
def test_two_processes_at_once_download_once(
    server: Server, tmp_path: Path, preparation: str, downloads: int
) -> None:
    """D3. Without the lock, as a negative control, both ask for it."""
    target = tmp_path / "data" / "file.gz"
    ends = at_once(preparation, FETCH, server.url("/slow"), MD5, target)
    assert ends == [(0, "")] * 2
    assert server.requests == ["/slow"] * downloads
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == {"file.gz"}


# As on two machines that share a folder: neither sees the other's lock for its own processes.
APART = """
import tempfile
tempfile.tempdir = str(Path(sys.argv[3]).parent.parent / sys.argv[4])
Path(tempfile.tempdir).mkdir()
"""


def test_two_machines_that_share_a_folder_write_one_file(server: Server, tmp_path: Path) -> None:
    """D3. Both ask for it; the second waits for the first one's part and finds the whole."""
    target = tmp_path / "data" / "file.gz"
    ends = at_once(APART, FETCH, server.url("/slow"), MD5, target)
    assert ends == [(0, "")] * 2
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == {"file.gz"}


def test_a_download_that_was_killed_is_no_file_and_gives_back_its_lock(
    server: Server, tmp_path: Path
) -> None:
    """D3. The next one finds a part, and no whole file."""
    server.files["/slow"] = CONTENT * 40
    wanted = hashlib.md5(CONTENT * 40).hexdigest()
    target = tmp_path / "data" / "file.gz"
    script = READY_GO.format(
        preparation="", action=f"import launcher.partial as p\n{KILLED}\n{FETCH}"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run(
        [sys.executable, "-c", script, server.url("/slow"), wanted, str(target)],
        env=environment, input="go\n", text=True, check=False, timeout=HANGS, capture_output=True,
    )  # fmt: skip
    assert killed.returncode == -9
    assert left_in(target.parent) == {".file.gz.part", ".file.gz.part.json"}
    fetch(Remote("mnist", (server.url("/slow"),), wanted), target)
    assert target.read_bytes() == CONTENT * 40
    assert left_in(target.parent) == {"file.gz"}


# ── the archive of CIFAR-10 ───────────────────────────────────────────────────────────────────

NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def archive() -> bytes:
    """The six files, with a few bytes in each."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in NAMES:
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(name)
            tar.addfile(entry, io.BytesIO(name.encode()))
    return packed.getvalue()


# Unpacking takes a while, as 160 MB do, and the second process comes in the middle of it.
SLOWLY = """
import time
from dataclasses import replace
from launcher import catalog, provide, unpack
write = unpack._write
def slowly(path, stream):
    write(path, stream)
    time.sleep(0.1)
unpack._write = slowly
dataset = replace(
    catalog.CIFAR10, mirrors=(sys.argv[1],),
    archive=replace(catalog.CIFAR10.archive, md5=sys.argv[2], size=int(sys.argv[3])),
)
"""
INSTALL = """
time.sleep(0.25 * int(sys.argv[5]))
provide.install(dataset, Path(sys.argv[4]))
names = {path.name for path in (Path(sys.argv[4]) / dataset.folder).iterdir()}
assert names == {piece.name for piece in dataset.pieces}, names
"""


def test_two_processes_at_once_unpack_one_archive(server: Server, tmp_path: Path) -> None:
    """As `torchrun --nproc_per_node 2` does on its first run."""
    server.files["/cifar-10-python.tar.gz"] = packed = archive()
    md5 = hashlib.md5(packed).hexdigest()
    ends = at_once(SLOWLY, INSTALL, server.url("/"), md5, len(packed), tmp_path / "data")
    assert ends == [(0, "")] * 2
    assert server.requests == ["/cifar-10-python.tar.gz"]
    assert {"cifar-10-batches-py", "cifar-10-python.tar.gz"} == left_in(tmp_path / "data")


@pytest.mark.parametrize(
    "content",
    [b"<html>not found</html>", archive()[:100], b""],
    ids=["a web page", "truncated", "empty"],
)
def test_a_damaged_archive_that_lies_there_is_refused_with_its_path(
    content: bytes, tmp_path: Path
) -> None:
    """D2. Nothing was downloaded, so nothing was checked: someone put it there."""
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        cifar10("test", tmp_path)
    assert f"{path} is damaged" in str(refusal.value)
    assert f"kept as {path}.bad" in str(refusal.value)
    assert left_in(tmp_path) == {f"{path.name}.bad"}


def test_an_archive_of_something_else_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("readme"))
    with pytest.raises(DataError) as refusal:
        cifar10("test", tmp_path)
    assert str(path) in str(refusal.value)


def test_an_archive_with_other_content_is_refused_before_it_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive())
    with pytest.raises(DataError, match="bytes instead of 170,498,071"):
        cifar10("test", tmp_path)
