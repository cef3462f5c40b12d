"""What processes tell each other: who lives, who is late, and who was the first to fail."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta

import pytest
from conftest import HANGS, eventually
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from launcher import peers as peers_module
from launcher.errors import DistributedError, NonFiniteError, RecipeError
from launcher.peers import Failure, Peers, Sign

HERE = socket.gethostname()


_tests = itertools.count(1000)


@pytest.fixture(scope="module")
def server() -> TCPStore:
    """The store through which all meet; torch takes a free port."""
    return TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10)
    )


@pytest.fixture
def store(server: TCPStore, monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The same, with entries of this test alone."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(next(_tests)))
    return server


@pytest.fixture
def three(store: TCPStore) -> list[Peers]:
    return [Peers(number, 3) for number in range(3)]


@pytest.fixture
def child() -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """A process that does nothing until it is killed."""
    made: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        made.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]))
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.wait()


Start = Callable[[], "subprocess.Popen[bytes]"]


def put(peers: Peers, key: str, value: str | bytes) -> None:
    """Write an entry as anybody could who reaches the store."""
    peers._store.set(key, value)  # type: ignore[arg-type]


def sign(peers: Peers, process: int, **values: object) -> None:
    about = {"pid": os.getpid(), "host": HERE, "beats": 0, "step": 0, "number": 1}
    put(peers, f"sign/{process}", json.dumps(about | values))


# ── notes ───────────────────────────────────────────────────────────────────────────────────────


def test_nobody_has_failed_at_first(three: list[Peers]) -> None:
    assert [peers.failure() for peers in three] == [None] * 3


def test_the_note_of_a_process_that_failed_is_read_by_all(three: list[Peers]) -> None:
    three[1].fail(RecipeError("first", "second"), 3, "  File x\n")
    expected = Failure(1, 3, "recipe", ["first", "second"], "  File x\n")
    assert [peers.failure() for peers in three] == [expected] * 3
    error = expected.error()
    assert (error.code, error.title, error.process) == (3, "recipe", 1)
    assert (error.problems, error.frames) == (("first", "second"), "  File x\n")


def test_the_first_note_stays(three: list[Peers]) -> None:
    three[2].fail(NonFiniteError("the cause"), 6, "")
    three[0].fail(DistributedError("what followed"), 9, "")
    three[2].fail(NonFiniteError("again"), 6, "")
    found = three[1].failure()
    assert found is not None
    assert (found.process, found.code, found.problems) == (2, 6, ["the cause"])


def test_of_many_at_once_one_is_the_first(three: list[Peers]) -> None:
    begin = threading.Barrier(3)

    def fail(peers: Peers) -> None:
        begin.wait()
        peers.fail(RecipeError(f"of {peers.process}"), 3, "")

    threads = [threading.Thread(target=fail, args=(peers,)) for peers in three]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = three[0].failure()
    assert first is not None
    assert first.problems == [f"of {first.process}"]
    assert [peers.failure() for peers in three] == [first] * 3


def test_a_bug_is_noted_by_its_kind_and_long_texts_are_cut(three: list[Peers]) -> None:
    three[0].fail(ZeroDivisionError("x" * 100_000), 70, "begin" + "y" * 100_000 + "end")
    found = three[1].failure()
    assert found is not None
    assert found.title == "bug"
    assert found.problems[0].startswith("ZeroDivisionError('xxx")
    assert len(found.problems[0]) == 20_000
    assert found.frames.endswith("yend"), "the end of a traceback says most"
    assert len(found.frames) == 20_000


def test_texts_in_any_script_come_through(three: list[Peers]) -> None:
    text = 'größer \ud800 重み \x00 "'
    three[0].fail(RecipeError(text), 3, text)
    found = three[1].failure()
    assert found is not None
    assert (found.problems, found.frames) == ([text], text)


def test_another_attempt_of_the_launcher_begins_without_notes(
    three: list[Peers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun keeps its store when it starts the processes again."""
    three[0].fail(RecipeError("before"), 3, "")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert three[1].failure() is not None
    assert Peers(0, 3).failure() is None


def test_a_store_that_cannot_be_reached_is_an_error_of_torch(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("timed out")

    monkeypatch.setattr(peers_module, "TCPStore", refused)
    with pytest.raises(RuntimeError, match="timed out"):
        Peers(0, 2)


def test_a_note_is_waited_for(three: list[Peers]) -> None:
    for peers in three:
        peers.show(1, 0)
    later = threading.Timer(0.2, three[1].fail, (RecipeError("late"), 3, ""))
    later.start()
    found = three[0].wait_for_failure(HANGS)
    assert found is not None
    assert found.problems == ["late"]
    later.join()


def test_no_note_is_waited_for_as_long_as_was_asked(three: list[Peers]) -> None:
    began = time.monotonic()
    assert three[0].wait_for_failure(0.2) is None
    assert time.monotonic() - began >= 0.2


def test_the_note_of_a_process_that_is_gone_is_not_waited_for(
    three: list[Peers], child: Start
) -> None:
    process = child()
    sign(three[0], 1, pid=process.pid)
    process.kill()
    process.wait()
    assert three[0].wait_for_failure(10 * HANGS) is None


# ── signs ───────────────────────────────────────────────────────────────────────────────────────


def test_a_sign_says_who_it_is_of_and_how_far_that_is(three: list[Peers]) -> None:
    assert three[0].signs() == {}
    three[1].show(7, 3)
    assert three[0].signs() == {1: Sign(os.getpid(), HERE, 7, 3, 1)}
    three[1].show(8, 3)
    three[2].show(9, 4)
    found = three[1].signs()
    assert found[1] == Sign(os.getpid(), HERE, 8, 3, 2), "a later one is another one"
    assert found[2] == Sign(os.getpid(), HERE, 9, 4, 1)
    assert set(asdict(found[1])) == {"pid", "host", "beats", "step", "number"}


def test_those_with_fewer_beats_are_behind(three: list[Peers]) -> None:
    three[0].show(5, 0)
    three[1].show(4, 2)
    three[2].show(5, 3)
    where = f"pid {os.getpid()} on {HERE}, last seen in step 3"
    assert three[0].behind(5) == {1: where}
    assert three[1].behind(4) == {}
    assert set(three[2].behind(6)) == {0, 1}, "not oneself"


def test_a_process_that_was_killed_is_gone(three: list[Peers], child: Start) -> None:
    process = child()
    three[0].show(1, 0)
    sign(three[0], 1, pid=process.pid, step=6)
    assert three[0].gone() == {}
    process.send_signal(signal.SIGKILL)
    eventually(three[0].gone)  # a zombie: nobody has asked for its exit code
    expected = {1: f"pid {process.pid} on {HERE}, last seen in step 7"}
    assert process.returncode is None
    assert three[0].gone() == expected
    process.wait()
    assert three[0].gone() == expected


def test_a_process_whose_name_looks_like_a_state_lives(
    three: list[Peers],
) -> None:
    """`/proc/PID/stat` has the name in brackets before the state."""
    code = "import time\nopen('/proc/self/comm', 'w').write(') Z 1 (')\nprint('x', flush=True)\n" \
           "time.sleep(1000)"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        sign(three[0], 1, pid=process.pid)
        assert three[0].gone() == {}
        process.kill()


def test_of_another_machine_those_are_gone_that_give_no_sign(
    three: list[Peers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their numbers say nothing here."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        sign(three[0], 1, pid=4_000_000, host="elsewhere", number=2)  # the other one stays silent

    three[0].show(1, 0)
    sign(three[0], 1, pid=4_000_000, host="elsewhere")
    sign(three[0], 2, pid=1, host="elsewhere")
    monkeypatch.setattr(time, "sleep", sleep)
    assert three[0].gone() == {2: "pid 1 on elsewhere, last seen in step 1"}
    assert slept == [peers_module.GONE_AFTER]


# ── what none of us wrote ───────────────────────────────────────────────────────────────────────

GOOD = {"process": 1, "code": 3, "title": "t", "problems": ["p"], "frames": ""}
HOSTILE: list[str | bytes] = [
    "", "{", "null", "[]", "7", '"text"', "NaN", "[" * 100_000, b"\xff\xfe", "9" * 5000,
    "{}", '{"__class__": "os.system"}', json.dumps(GOOD | {"more": 1}),
    *(json.dumps({k: v for k, v in GOOD.items() if k != missing}) for missing in GOOD),
    json.dumps(GOOD | {"code": "3"}), json.dumps(GOOD | {"code": 0}),
    json.dumps(GOOD | {"code": 256}), json.dumps(GOOD | {"code": -9}),
    json.dumps(GOOD | {"code": True}), json.dumps(GOOD | {"code": 3.0}),
    json.dumps(GOOD | {"process": None}), json.dumps(GOOD | {"title": ["x"]}),
    json.dumps(GOOD | {"problems": []}), json.dumps(GOOD | {"problems": "text"}),
    json.dumps(GOOD | {"problems": ["x", 1]}), json.dumps(GOOD | {"frames": {}}),
]  # fmt: skip


def test_a_note_that_none_of_us_wrote_counts_as_none(three: list[Peers]) -> None:
    for value in HOSTILE:
        put(three[0], "failure", value)
        assert three[1].failure() is None, value
    assert three[1].wait_for_failure(0.01) is None


def test_a_note_as_ours_is_read() -> None:
    """The negative control for the list above."""
    assert peers_module._checked(Failure(**GOOD)) == Failure(1, 3, "t", ["p"], "")  # type: ignore[arg-type]


def test_a_sign_that_none_of_us_wrote_counts_as_none(three: list[Peers]) -> None:
    three[0].show(2, 0)
    three[2].show(1, 0)
    good: dict[str, object] = {"pid": 1, "host": HERE, "beats": 0, "step": 0, "number": 1}
    bad: list[dict[str, object]] = [
        {"pid": "../../etc"}, {"beats": "0"}, {"beats": None}, {"step": "x"}, {"host": 5},
        {"host": HERE, "more": 1},
    ]  # fmt: skip
    for value in ["", "{", "null", "[]", "[" * 100_000, "{}"] + [json.dumps(good | b) for b in bad]:
        put(three[0], "sign/1", value)
        assert set(three[0].signs()) == {0, 2}, value
        assert set(three[0].behind(2)) == {2}
        assert three[0].gone() == {}
    put(three[0], "sign/1", json.dumps(good))
    assert set(three[0].signs()) == {0, 1, 2}, "the negative control"


def test_a_number_that_no_process_has_is_a_process_that_is_gone(three: list[Peers]) -> None:
    for pid in (-1, 10**30):
        sign(three[0], 1, pid=pid)
        assert set(three[0].gone()) == {1}
