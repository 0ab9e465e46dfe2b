"""What the operating system must provide: Debian packages and privileges.

Apart from `parts` because it is installed for the machine, not into our cache.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from hack.cluster.errors import Unavailable
from hack.cluster.progress import Say, step
from hack.cluster.versions import SystemPackage

_APT_DEADLINE = 600.0
_APT_LOCK = Path("/run/mpslice-apt.lock")


def find(package: SystemPackage) -> Path:
    """Where the package's file lies.

    Raises:
        Unavailable: It is not installed.
    """
    for path in map(Path, package.paths):
        if path.exists():
            return path
    raise Unavailable(f"{package.paths[0]} is missing; install the package {package.package}")


def ensure(packages: Iterable[SystemPackage], say: Say) -> None:
    """Install with apt-get what is missing.

    Raises:
        Unavailable: Something is missing and cannot be installed from here.
    """
    packages = tuple(packages)
    missing = _missing(packages)
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable(f"missing on this machine: {' '.join(missing)}; install them as root")
    # Two test processes may begin at once, and apt-get update does not wait for another one.
    with _APT_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = _missing(packages)
        if missing:
            with step(say, f"apt-get install {' '.join(missing)}"):
                _apt_get("update", "-qq")
                _apt_get("install", "-y", "-qq", "--no-install-recommends", *missing)


def _missing(packages: Iterable[SystemPackage]) -> list[str]:
    return [p.package for p in packages if not any(Path(f).exists() for f in p.paths)]


def require_root(what: str) -> None:
    """Raises Unavailable unless this process may configure the machine's network."""
    if os.geteuid() != 0:
        raise Unavailable(f"{what} needs root; run as root")


def _apt_get(*arguments: str) -> None:
    done = subprocess.run(
        ["apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_APT_DEADLINE,
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Unavailable(f"apt-get {' '.join(arguments)} failed: {last}")
