"""Mounts that would hide a slice's MPS server from it, or show all MPS servers of the node."""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from webhook.pods import Container, Pod, show
from webhook.rules.facts import Facts
from webhook.settings import DevShm, Settings
from webhook.verdicts import Reason, Violation, violation

RUN_DIRECTORY: Final = "/run/mpslice"
DEV_SHM: Final = "/dev/shm"  # noqa: S108 -- a path in the container, compared and never opened

_STEP_BACK: Final = re.compile(r"(?:\A|(?<=/))\.\.(?=/|\Z)")
_MOST_STEPS_BACK: Final = 8
"""More of them in one mountPath are not followed: a ValidatingAdmissionPolicy has no loop."""

_LONGEST_PATH: Final = 4096  # bytes; Linux opens no longer one (PATH_MAX)
_ANYWHERE: Final = re.compile(r"/proc/[^/]+/(root|cwd|fd|task)(/|\Z)")
"""Links of a process, which the container runtime follows: `/proc/1/root` is the host's `/`."""


class Cover(NamedTuple):
    """A volume mount over a directory of the MPS server: its position, its path, the directory."""

    position: int
    path: str
    directory: str


def mounts_untouched(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """A mount there would cut the client off from its MPS server."""
    for container in pod.slice_containers:
        for cover in covering(container):
            if facts.completing and cover in stripped(container, facts.settings):
                continue
            remedy = "mount it elsewhere"
            if cover.directory == DEV_SHM:
                has = "the host's" if facts.settings.host_ipc else "its MPS server's"
                remedy = (
                    "remove it, or set admission.devShm=strip where an operator adds it; "
                    f"{has} /dev/shm is there already"
                )
            yield violation(
                Reason.RESERVED_MOUNT,
                container.place,
                f"volumeMounts[{cover.position}].mountPath is {show(cover.path)}, which cuts it "
                f"off from its MPS server; {remedy}",
            )


def host_sockets_unreachable(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """No container of a slice pod sees the sockets by which every MPS daemon of the node obeys."""
    volumes = [volume for volume in pod.spec.get("volumes", ()) if "hostPath" in volume]
    if not volumes or not pod.slice_containers:
        return
    root = normal(facts.settings.mps_root)
    paths = _host_paths(volumes, root)
    for container in pod.containers if paths else ():
        covers = stripped(container, facts.settings) if facts.completing else ()
        gone = {cover.position for cover in covers}
        for position, path in _mounted(container, paths):
            if position not in gone and _leads_to(root, path):
                yield violation(
                    Reason.RESERVED_MOUNT,
                    container.place,
                    f"volumeMounts[{position}] shows the host's {show(path)}, and so the "
                    f"sockets of every MPS daemon in {root}; mount another path",
                )


def _host_paths(volumes: Iterable[Mapping[str, Any]], root: str) -> dict[str, str]:
    """The path of each hostPath volume of which a part leads to `root`, by the volume's name.

    Each path is read once, and those that no system opens are left out: a client may send one of
    megabytes, with thousands of mounts of it.
    """
    found: dict[str, str] = {}
    for volume in volumes:
        path = normal(volume["hostPath"].get("path", ""))
        if len(path) <= _LONGEST_PATH and (path.startswith("/proc") or _leads_to(root, path)):
            found[volume.get("name", "")] = path
    return found


def _mounted(container: Container, paths: dict[str, str]) -> Iterator[tuple[int, str]]:
    """The position of each mount of a host's path, with the part of it that is shown.

    What `subPathExpr` comes to is not known, so it counts as the whole.
    """
    for position, mount in enumerate(container.volume_mounts):
        path = paths.get(mount.get("name", ""))
        if path is not None and "mountPath" in mount:
            yield position, normal(f"{path}/{mount.get('subPath', '')}")


def _leads_to(root: str, path: str) -> bool:
    """Whether a normal path on the host is at, below or above `root`, or may be by a link."""
    return is_below(path, root) or is_below(root, path) or _ANYWHERE.match(path) is not None


def covering(container: Container) -> list[Cover]:
    """The mounts that cover a directory of the MPS server, or a part of one."""
    return [
        Cover(position, path, directory)
        for position, mount in enumerate(container.volume_mounts)
        # Making a path normal drops parts of it and makes none, so these tell nearly all apart.
        if "shm" in (path := mount.get("mountPath", "")) or "mpslice" in path
        if (directory := _covered_by(path))
    ]


def _covered_by(path: str) -> str:
    if len(_STEP_BACK.split(path, _MOST_STEPS_BACK + 1)) > _MOST_STEPS_BACK + 1:
        return RUN_DIRECTORY
    path = normal(path)
    return next((place for place in (DEV_SHM, RUN_DIRECTORY) if is_below(path, place)), "")


def stripped(container: Container, settings: Settings) -> list[Cover]:
    """The mounts that /mutate takes away (`devShm: strip`)."""
    if settings.dev_shm is not DevShm.STRIP or not container.slices:
        return []
    return [cover for cover in covering(container) if cover.directory == DEV_SHM]


def is_below(path: str, directory: str) -> bool:
    """Whether a path is `directory` or lies in it; both are `normal`."""
    return f"{path}/".startswith(f"{directory.rstrip('/')}/")


def normal(path: str) -> str:
    """The path without `//`, `.` and `..`, and without a /var before /run.

    On most hosts and in most images /var/run is a link to /run, which the runtime follows before it
    steps back: `/var/run/../dev` is /dev.
    """
    found = ""
    for steps_back, part in enumerate(_STEP_BACK.split(path, _MOST_STEPS_BACK)):
        above = posixpath.dirname(found) if steps_back else found
        whole = f"{above}/{part}".lstrip("/")  # POSIX lets // at the beginning be
        found = posixpath.normpath(f"/{whole}")
        if f"{found}/".startswith("/var/run/"):
            found = found.removeprefix("/var")
    return found
