"""Which network gloo is told to take; tests/test_machines.py has two machines."""

import sys

import pytest

from launcher.interface import choose_for_gloo, interface_towards


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "nowhere.invalid", "x" * 300, "é" * 70])
def test_the_loopback_and_what_is_no_host_lead_nowhere(host: str) -> None:
    assert interface_towards(host) is None


def test_what_the_user_has_set_stays() -> None:
    environ = {"GLOO_SOCKET_IFNAME": "ib0", "MASTER_ADDR": "127.0.0.1"}
    choose_for_gloo(environ)
    assert environ["GLOO_SOCKET_IFNAME"] == "ib0"


def test_one_machine_needs_no_choice() -> None:
    for environ in ({}, {"MASTER_ADDR": "127.0.0.1"}):
        choose_for_gloo(environ)
        assert "GLOO_SOCKET_IFNAME" not in environ


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_the_interface_of_the_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.interface._address", lambda probe, name: f"own of {name}")

    class Probe:
        def __init__(self, *kind: object) -> None:
            pass

        def __enter__(self) -> "Probe":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def connect(self, address: object) -> None:
            pass

        def getsockname(self) -> tuple[str, int]:
            return "own of eth7", 1

    monkeypatch.setattr("socket.socket", Probe)
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "eth7"), (3, "eth8")])
    environ = {"MASTER_ADDR": "10.0.0.1"}
    choose_for_gloo(environ)
    assert environ["GLOO_SOCKET_IFNAME"] == "eth7"
