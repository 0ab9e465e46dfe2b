"""Opening a port: `[::]` serves both IP families, and a taken port is told in a sentence."""

import errno
import socket
from typing import Any

import pytest

from mpslice.flags import Address
from mpslice.ports import CannotListen, open_port

EVERY = Address("::", 0)


def reachable(port: int, host: str) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="a machine without IPv6")
def test_every_address_is_of_both_families() -> None:
    with open_port("--listen", EVERY) as opened:
        port = opened.getsockname()[1]
        assert reachable(port, "127.0.0.1")
        assert reachable(port, "::1")


@pytest.mark.parametrize("known", [True, False], ids=["off by a sysctl", "not in the kernel"])
def test_without_ipv6_every_address_is_of_ipv4(
    monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    create = socket.create_server

    def without_ipv6(
        address: Any, *, family: socket.AddressFamily = socket.AF_INET, **_options: Any
    ) -> socket.socket:
        if family is socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL if known else errno.EAFNOSUPPORT, "no IPv6")
        return create(address)

    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: known)
    monkeypatch.setattr(socket, "create_server", without_ipv6)
    with open_port("--listen", EVERY) as opened:
        assert reachable(opened.getsockname()[1], "127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_taken_port_is_named_with_its_flag(host: str) -> None:
    with open_port("--listen", Address(host, 0)) as taken:
        again = Address(host, taken.getsockname()[1])
        with pytest.raises(CannotListen, match=r"--ops-listen: cannot listen on .* another port"):
            open_port("--ops-listen", again)
