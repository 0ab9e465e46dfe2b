"""How the MPS partitioner nos shows on a node, and when its last trace is gone.

Its MPS daemon lives in its device plugin's pod and serves every GPU of the node, so as long as that
pod is there, or a pod that got a slice from it, nothing is carved.
"""

import os
import re
import socket
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent.slices.evidence import Pods

_SOCKET = re.compile(r"nvidia-gpu-[0-9]+gb\.sock", re.ASCII)  # one a slice size
_ANSWER: Final = 0.1  # seconds


def serves(device_plugin_dir: Path) -> bool:
    """Whether nos's plugin serves slices to this machine's kubelet now. Blocks for moments."""
    return any(
        _listens(path) for path in device_plugin_dir.iterdir() if _SOCKET.fullmatch(path.name)
    )


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_ANSWER)
        try:
            client.connect(os.fspath(path))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Traces:
    """What is left of nos: its plugin's pods, and the uids of live pods with slices from it."""

    plugins: tuple[str, ...] = ()
    holders: frozenset[str] = frozenset()

    @property
    def message(self) -> str:
        """Why nothing is carved; "" when nothing is left."""
        count = len(self.holders)
        pods = f"{count} slice pod{'' if count == 1 else 's'} of nos"
        if self.plugins:
            plugin = ", ".join(self.plugins)
            return (
                f"nos's device plugin runs on this node ({plugin}) with {pods}; nothing is carved "
                "until it is taken off the node and the last of them has ended"
            )
        return f"{pods} left on this node; nothing is carved until they have ended" if count else ""


def find_traces(pods: Pods, ours: Set[str], known: Iterable[str]) -> Traces:
    """What is left of nos on this node.

    `ours` are the uids of pods with slices of this agent, `known` those with slices of nos, by an
    earlier answer or the kubelet's checkpoint. While the plugin runs, whoever the kubelet has
    admitted with a slice that is not ours has it from nos.
    """
    plugins = sorted(pod.key for pod in pods.by_key.values() if pod.nos_plugin and not pod.ended)
    admitted = {
        pod.uid for pod in pods.by_uid.values() if plugins and pod.needs and pod.admitted
    } - ours
    holders = {uid for uid in admitted.union(known) if pods.live(uid) is not None}
    return Traces(tuple(plugins), frozenset(holders))
