"""Which of this machine's networks leads to the other machines.

Gloo asks the system for the address of the machine's own name, which is often the loopback's: then
two machines wait for each other on addresses that only they themselves have.
"""

import array
import fcntl
import os
import socket
import struct
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

_SIOCGIFADDR: Final = 0x8915
_NAME_BYTES: Final = 16


def choose_for_gloo(environ: MutableMapping[str, str] = os.environ) -> None:
    """Name the interface that leads to MASTER_ADDR in GLOO_SOCKET_IFNAME, unless it is set, nothing
    is found, or the other processes are on this machine."""
    if "GLOO_SOCKET_IFNAME" in environ or "MASTER_ADDR" not in environ:
        return
    name = interface_towards(environ["MASTER_ADDR"])
    if name is not None:
        environ["GLOO_SOCKET_IFNAME"] = name


def interface_towards(host: str) -> str | None:
    """The name of the interface with the address that this machine takes to reach a host; None for
    the loopback, for IPv6, and where nobody can tell. Nothing is sent."""
    # A TypeError is said of a name that no encoding fits.
    with (
        suppress(OSError, UnicodeError, TypeError),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
    ):
        probe.connect((host, 9))
        own = probe.getsockname()[0]
        if own.startswith("127.") or not sys.platform.startswith("linux"):
            return None
        for _, name in socket.if_nameindex():
            if _address(probe, name) == own:
                return name
    return None


def _address(any_socket: socket.socket, interface: str) -> str | None:
    request = array.array("B", struct.pack("256s", interface.encode()[: _NAME_BYTES - 1]))
    try:
        fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)
    except OSError:  # it has none
        return None
    return socket.inet_ntoa(request[20:24].tobytes())
