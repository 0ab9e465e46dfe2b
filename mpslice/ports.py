"""Opens the port that a flag names; a taken one is told in a sentence."""

import errno
import socket
from typing import Final

from mpslice.errors import MpsliceError
from mpslice.flags import Address

_BACKLOG: Final = 1024


class CannotListen(MpsliceError):
    """The address is taken or not ours, or the socket listens no more."""


def open_port(flag: str, listen: Address) -> socket.socket:
    """A listening socket; `[::]` takes IPv4 too, and is 0.0.0.0 on a machine without IPv6.

    So one setting serves pods of either family. Raises CannotListen, naming the flag.
    """
    try:
        if listen.host == "::":
            return _every_address(listen.port)
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        return socket.create_server((listen.host, listen.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        # socket.create_server says the address once more in brackets.
        why = str(error.strerror).partition(" (")[0]
        raise CannotListen(
            f"{flag}: cannot listen on {listen} ({why}); choose another port"
        ) from error


def _every_address(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
            )
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # IPv6 is known, and off by a sysctl
                raise
    return socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)
