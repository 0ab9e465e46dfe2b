"""Obtains NVIDIA's MPS control program, out of Debian's package nvidia-cuda-mps.

Apart from `parts` because it is of no use to a cluster, and because apt brings it: with folders and
sources of its own, so that nothing of the machine's is changed. It needs neither GPU nor driver.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from hack.cluster.errors import Unavailable
from hack.cluster.layout import Cache

SUITES = ("bookworm", "trixie")
"""Debian releases, for drivers 535 and 550: the second is the first whose control program tells the
status of a server and keeps its settings from other users."""

PROGRAM = Path("usr/bin/nvidia-cuda-mps-control")

_PACKAGE = "nvidia-cuda-mps"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEADLINE = 120.0


def control_program(suite: str) -> Path:
    """Where the control program of a Debian release lies; obtained if it is not yet in the cache.

    Raises:
        Unavailable: This machine has no apt that reaches Debian's archive.
    """
    final = Cache.default().root / "parts" / f"{_PACKAGE}-{suite}"
    if not (final / PROGRAM).exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        with final.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (final / PROGRAM).exists():
                _obtain(suite, final)
    return final / PROGRAM


def _obtain(suite: str, final: Path) -> None:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Unavailable(f"{_PACKAGE} comes from Debian and {program} is missing here")
    folder = final.with_name(f"{final.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        apt = _Apt(folder, suite)
        apt.run("update")
        apt.run("download", _PACKAGE)
        packages = list(folder.glob("*.deb"))
        if len(packages) != 1:
            raise Unavailable(f"apt-get download {_PACKAGE} left {len(packages)} packages")
        _run(["dpkg-deb", "--extract", str(packages[0]), str(folder / "files")], folder)
        (folder / "files").rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def root_file_system(suite: str) -> Path:
    """The files of a Debian release that its C library consists of; obtained as the program is.

    Raises:
        Unavailable: This machine has no mmdebstrap that reaches Debian's archive.
    """
    final = Cache.default().root / "parts" / f"debian-{suite}"
    if not final.exists():
        if shutil.which("mmdebstrap") is None:
            raise Unavailable("root file systems come from Debian and mmdebstrap is missing here")
        final.parent.mkdir(parents=True, exist_ok=True)
        with final.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not final.exists():
                folder = final.with_name(f"{final.name}.tmp")
                shutil.rmtree(folder, ignore_errors=True)
                options = ["--variant=extract", "--include=libc6", "--format=directory"]
                _run(["mmdebstrap", *options, suite, str(folder), _archive()], Path("/"))
                shutil.rmtree(folder / "dev")  # device nodes, of which one does not read to an end
                folder.rename(final)
    return final


class _Apt:
    """apt-get with everything that it reads and writes below one folder."""

    def __init__(self, folder: Path, suite: str) -> None:
        self._folder = folder
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        sources = folder / "sources.list"
        sources.write_text(f"deb [signed-by={_KEYRING}] {_archive()} {suite} non-free\n")
        options = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "-",
            "Dir::State": folder / "state",
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": folder / "cache",
            "APT::Sandbox::User": "root",
        }
        self._options = [
            word for name, value in options.items() for word in ("-o", f"{name}={value}")
        ]

    def run(self, *arguments: str) -> None:
        _run(["apt-get", "-qq", *self._options, *arguments], self._folder)


def _archive() -> str:
    """The mirror that this machine takes Debian itself from."""
    targets = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], Path("/"))
    for address in targets.split():
        if address.rstrip("/").endswith("/debian"):
            return address
    raise Unavailable(f"{_PACKAGE} comes from Debian, whose archive is no source of apt here")


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Unavailable(f"{command[0]} {command[-1]} failed: {last}")
    return done.stdout
