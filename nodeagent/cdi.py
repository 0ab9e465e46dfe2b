"""A slice as a CDI device: what a container in it finds, as the container runtime itself reads it.

The runtime applies it after the pod's own environment and replaces what stands there, which the
answer of a device plugin does not (cncf.io/container-device-interface, Spec 0.5.0).
"""

import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from glob import escape
from pathlib import Path
from threading import Lock
from typing import Any, Final

from mpslice.gpus import DeviceId, GpuUuid
from nodeagent.edits import ContainerEdits
from nodeagent.errors import CdiUnwritable

KIND: Final = "mpslice.io/slice"
_VERSION: Final = "0.5.0"  # the first in which a device node has a path on the host
_PREFIX: Final = "mpslice.io-slice_"
_SUFFIX: Final = ".json"
_DRAFT: Final = ".draft"  # runtimes read no such files
_MOUNT: Final = ("rbind", "rprivate")

log = logging.getLogger(__name__)


def device_name(slice_: DeviceId) -> str:
    """The fully qualified name, such as `mpslice.io/slice=GPU-5f2c::10::0`."""
    return f"{KIND}={slice_}"


def specification(edits: Mapping[DeviceId, ContainerEdits]) -> dict[str, Any]:
    """The document that a runtime reads. Devices that the edits name themselves stay apart."""
    devices = [
        {"name": str(slice_), "containerEdits": _container_edits(edits[slice_])}
        for slice_ in sorted(edits, key=str)
    ]
    return {"cdiVersion": _VERSION, "kind": KIND, "devices": devices}


def _container_edits(edits: ContainerEdits) -> dict[str, Any]:
    found = {
        "env": [f"{name}={value}" for name, value in sorted(edits.environment.items())],
        "mounts": [
            {
                "hostPath": str(m.host),
                "containerPath": m.container,
                "options": [*_MOUNT, "ro" if m.read_only else "rw"],
            }
            for m in edits.mounts
        ],
        "deviceNodes": [
            {"path": node.container, "hostPath": str(node.host), "permissions": "rw"}
            for node in edits.devices
        ],
    }
    return {part: entries for part, entries in found.items() if entries}


class CdiSpecs:
    """A file for each GPU with the slices there; calls block for moments, in any thread.

    One for each slice would be hundreds, written one by one, and all read again by the container
    runtime whenever one of them changes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._edits: dict[GpuUuid, dict[DeviceId, ContainerEdits]] = {}  # as the files have them
        self._writing = Lock()

    def names(self, slice_: DeviceId) -> bool:
        """Whether a container can be given the slice by its CDI name. Does not block."""
        return slice_ in self._edits.get(slice_.gpu, ())

    def put(
        self, specs: Mapping[DeviceId, ContainerEdits], gone: Collection[DeviceId] = ()
    ) -> None:
        """Lets the runtime know some slices, and others no more.

        Each file is put in its place whole, and not written again where it says so already. What
        cannot be taken away harms nobody. Raises CdiUnwritable.
        """
        with self._writing:
            for gpu in dict.fromkeys(id_.gpu for id_ in (*specs, *gone)):
                before = self._edits.get(gpu, {})
                after = {id_: edits for id_, edits in before.items() if id_ not in gone}
                new = {id_: edits for id_, edits in specs.items() if id_.gpu == gpu}
                try:
                    self._write(gpu, after | new)
                except CdiUnwritable as error:
                    if new:
                        self._edits[gpu] = {id_: e for id_, e in after.items() if id_ not in new}
                        raise
                    log.warning("withdrawn slices stay specified", extra={"error": str(error)})
                self._edits[gpu] = after | new

    def _write(self, gpu: GpuUuid, edits: Mapping[DeviceId, ContainerEdits]) -> None:
        path = self._directory / _name(gpu)
        if not edits:
            _unlink(path)
            return
        text = json.dumps(specification(edits))
        try:
            if not _has(path, text):
                self._directory.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f"{path.name}{_DRAFT}")
                draft.write_text(text)
                # Earlier versions had a file for each slice: a device that two files name is none.
                for old in self._directory.glob(f"{_PREFIX}{escape(gpu)}::*"):
                    _unlink(old)
                os.replace(draft, path)
        except OSError as error:
            raise CdiUnwritable(
                f"{path} cannot be written ({error.strerror}); mount the host's directory of "
                "CDI specifications there, or start with --cdi=false"
            ) from error

    def clean(self, standing: Iterable[DeviceId]) -> None:
        """Takes away what earlier agents left, but for the files of these slices' GPUs."""
        kept = {_name(id_.gpu) for id_ in standing}
        for path in self._directory.glob(f"{_PREFIX}*"):
            if path.name not in kept:
                _unlink(path)


def _name(gpu: GpuUuid) -> str:
    return f"{_PREFIX}{gpu}{_SUFFIX}"


def _has(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except FileNotFoundError:
        return False


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("a CDI specification stays", extra={"path": str(path), "error": str(error)})
