"""Gives a cluster an address that is not loopback, and ports nobody uses.

The API server refuses loopback endpoints and a node needs an address, so each cluster
stands on a bridge of its own. The link's alias names the cluster's folder, so that a
later run can tell whose a left-over bridge is.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import dataclass

from hack.cluster import system
from hack.cluster.errors import ClusterError, Unavailable
from hack.cluster.layout import ClusterDir
from hack.cluster.versions import IPROUTE

_PREFIX = "mpslice"


@dataclass(frozen=True, slots=True)
class Network:
    """A bridge and the addresses around it. Two clusters never share an index.

    198.18.0.0/15 is set aside for tests by RFC 2544, so nothing else is routed there.
    """

    index: int

    @property
    def bridge(self) -> str:
        return f"{_PREFIX}{self.index}"

    @property
    def address(self) -> str:
        """The machine's own address on the bridge; also the pods' gateway."""
        return f"198.18.{self.index}.1"

    @property
    def subnet(self) -> str:
        return f"198.18.{self.index}.0/24"

    @property
    def pods(self) -> tuple[str, str]:
        """First and last address for pods."""
        return f"198.18.{self.index}.10", f"198.18.{self.index}.250"

    @property
    def services(self) -> str:
        return f"198.19.{self.index}.0/24"

    @property
    def kubernetes_service(self) -> str:
        """The first of the services' addresses, which the API server gives itself."""
        return f"198.19.{self.index}.1"


def create(cluster: ClusterDir) -> Network:
    """Make a bridge for the cluster.

    Raises:
        Unavailable: This process may not.
    """
    system.require_root("a bridge for the cluster")
    for index in range(255):
        network = Network(index)
        made = _ip("link", "add", network.bridge, "type", "bridge", check=False)
        if made.returncode == 0:
            _ip("link", "set", network.bridge, "alias", str(cluster.root))
            _ip("address", "add", f"{network.address}/24", "dev", network.bridge)
            _ip("link", "set", network.bridge, "up")
            return network
        if "exists" not in made.stderr:
            raise Unavailable(f"no bridge can be made: {made.stderr.strip()}")
    raise ClusterError(f"255 links {_PREFIX}* exist; remove those left over with `ip link del`")


def links(cluster: ClusterDir) -> list[str]:
    """The bridges of a cluster and what hangs on them, ports first."""
    if os.geteuid() != 0:
        return []
    shown = json.loads(_ip("-json", "link", "show").stdout)
    bridges = [link["ifname"] for link in shown if link.get("ifalias") == str(cluster.root)]
    ports = [link["ifname"] for link in shown if link.get("master") in bridges]
    return ports + bridges


def remove(link: str) -> None:
    """A port may go by itself meanwhile, with its pod's network namespace."""
    _ip("link", "del", link, check=False)


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports of `address` that nobody listened on just now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((address, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(system.find(IPROUTE)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if check and done.returncode != 0:
        raise ClusterError(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done
