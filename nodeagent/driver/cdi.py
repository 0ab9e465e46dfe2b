"""Which GPUs the container runtime can give by CDI, from the specifications on the host.

With --device-list-strategy=cdi-cri a container asks for `nvidia.com/gpu=<UUID>`. Not every set-up
has that kind: the GPU operator's toolkit may write `management.nvidia.com/gpu` alone, which is for
programs that manage GPUs, and whose one device is `all`.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from mpslice.gpus import GpuUuid
from nodeagent.errors import AgentError

KIND: Final = "nvidia.com/gpu"
_MANAGEMENT: Final = "management.nvidia.com/gpu"
_LARGEST: Final = 4 << 20  # bytes of one specification


class CdiUnresolvable(AgentError):
    """The container runtime knows no CDI device for a GPU."""

    condition = "CdiUnresolvable"


def check_devices(folders: Collection[Path], gpus: Collection[GpuUuid]) -> None:
    """Raises CdiUnresolvable where no specification names a GPU. Blocks.

    Where none of the folders can be seen nothing is known, and nothing is said.
    """
    if not any(folder.is_dir() for folder in folders):
        return
    devices = dict(_devices(folders))
    missing = sorted(set(gpus) - devices.get(KIND, frozenset()))
    if not missing:
        return
    others = sorted(devices.keys() - {KIND})
    has = f"; there is only {', '.join(others)}" if others and KIND not in devices else ""
    why = ", which is for programs that manage GPUs" if _MANAGEMENT in others and has else ""
    raise CdiUnresolvable(
        f"no CDI specification names {KIND}={missing[0]}{has}{why}; run nvidia-ctk cdi generate "
        "with --device-name-strategy=uuid on the node, or set the chart's "
        "nodeAgent.deviceListStrategy to envvar"
    )


def _devices(folders: Collection[Path]) -> Iterator[tuple[str, frozenset[str]]]:
    """The kinds and their devices; a kind may have several files, which are taken together."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in sorted((*folder.glob("*.json"), *folder.glob("*.yaml"))):
            kind, names = _read(path)
            found.setdefault(kind, set()).update(names)
    yield from ((kind, frozenset(names)) for kind, names in found.items())


def _read(path: Path) -> tuple[str, set[str]]:
    """A file that is no specification has no devices: the runtime passes it over too."""
    try:
        with path.open() as file:
            text = file.read(_LARGEST)
        spec: Any = json.loads(text) if path.suffix == ".json" else _simple_yaml(text)
        return str(spec["kind"]), {str(device["name"]) for device in spec["devices"]}
    except (OSError, ValueError, KeyError, TypeError):
        return "", set()


def _simple_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  is safe
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
