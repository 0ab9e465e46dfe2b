"""Builds the image's three layers and the OCI archive, cached by what each is made of.

The layers are Debian with its Python, the dependencies, and the project: after a change of the
project alone only the last is made again. Those for another architecture are made in the same way,
by that architecture's own programs, which qemu emulates.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import images, system
from hack.cluster.errors import ClusterError, Unavailable
from hack.cluster.images import Image, Layer
from hack.cluster.layout import Cache
from hack.cluster.progress import Say, step
from hack.cluster.versions import MMDEBSTRAP, QEMU_USER
from hack.image import install

NAME = "localhost/mpslice"
USER = "65532:65532"
SUITE = "bookworm"
PACKAGES = Path(__file__).with_name("packages.txt")
ENVIRONMENT = {
    "PATH": f"/{install.LAUNCHERS}:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
}
COMMAND = ("kubectl-mpslice", "--help")
_KEPT = 4
_OWN_MACHINE = platform.machine()
# Emulated, both take minutes.
_DEBOOTSTRAP_SECONDS = 1800.0
_COMPILE_SECONDS = 900.0
_HOOK = "/usr/share/mmdebstrap/hooks/merged-usr"


@dataclass(frozen=True, slots=True)
class Built:
    """An OCI archive with one image in it, and the layers' size in bytes as they are stored."""

    archive: Path
    reference: str
    compressed: int


def build(reference: str, say: Say, *, fresh: bool = False, machines: Sequence[str] = ()) -> Built:
    """The archive of an image of that name, out of the cache if nothing has changed.

    `fresh` takes Debian's packages as they are now, for those that were mended since; `machines`
    are those that it is for, as `uname --machine` has them, and this one when there are none.

    Raises:
        Unavailable: This machine has not got what is needed.
        ClusterError: A step failed.
    """
    folder = Cache.default().images
    folder.mkdir(parents=True, exist_ok=True)
    made = [_Maker(folder, machine, say, fresh=fresh) for machine in machines or (_OWN_MACHINE,)]
    archive = folder / f"{_key([reference.encode(), *(m.key.encode() for m in made)])}.tar"
    if not archive.exists():
        temporary = archive.with_suffix(f".{os.getpid()}.tmp")
        images.write_archive([maker.image(reference) for maker in made], temporary)
        temporary.rename(archive)
        _forget_old(folder, {archive, *(path for maker in made for path in maker.kept)})
    return Built(archive, reference, archive.stat().st_size)


class _Maker:
    """Makes the layers for one machine; `key` names all that they are made of.

    Two builds for one machine wait for each other, but not for a build for another machine, which
    takes minutes.
    """

    def __init__(self, folder: Path, machine: str, say: Say, *, fresh: bool) -> None:
        self._machine, self._say = machine, say
        words = (word.encode() for word in _debian_command("", machine))
        base_path = folder / f"base-{_key(words)}.tar.gz"
        if fresh:
            base_path.unlink(missing_ok=True)
        self._folder = folder
        with self._exclusive():
            self._base = _cached(base_path, lambda: _base(machine, say))
        key = _key([_key([self._base]).encode(), *_sources(install.LOCK, Path(install.__file__))])
        self._dependencies_path = folder / f"dependencies-{key}.tar.gz"
        self.kept = (base_path, self._dependencies_path)
        self.key = _key([key.encode(), *_sources(*install.project_files())])

    def image(self, reference: str) -> Image:
        _require_emulation(self._machine, self._say)
        with self._exclusive():
            dependencies = _cached(
                self._dependencies_path, lambda: self._part(install.DEPENDENCIES)
            )
        parts = (self._base, dependencies, self._part(install.PROJECT))
        layers = [Layer.gzipped(part) for part in parts]
        architecture = images.architecture(self._machine)
        return Image(
            reference, layers, COMMAND, ENVIRONMENT, USER, _labels(), architecture=architecture
        )

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with (self._folder / f"lock-{self._machine}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _part(self, part: Path) -> bytes:
        return _part(self._base, part, self._machine, self._say)


def _labels() -> dict[str, str]:
    return {
        "org.opencontainers.image.title": "mpslice",
        "org.opencontainers.image.description": "GPU memory slices for Kubernetes pods",
        "org.opencontainers.image.licenses": "Apache-2.0",
    }


def _base(machine: str, say: Say) -> bytes:
    """Debian as small as apt allows, without manuals and translations, and its Python."""
    system.require_root("building the image")
    system.ensure([MMDEBSTRAP], say)
    _require_emulation(machine, say)
    what = f"Debian {SUITE} with Python, {images.architecture(machine)}"
    with step(say, what), tempfile.TemporaryDirectory() as temporary:
        tar = Path(temporary) / "base.tar"
        _run(_debian_command(str(tar), machine), _DEBOOTSTRAP_SECONDS)
        return gzip.compress(tar.read_bytes(), 6, mtime=0)


def is_emulated(machine: str) -> bool:
    """Whether the kernel hands programs of that machine to qemu, in a changed root as well."""
    handler = Path(f"/proc/sys/fs/binfmt_misc/qemu-{machine}")
    try:
        lines = handler.read_text().splitlines()
    except OSError:
        return False
    # F: the interpreter was opened when it was registered, so a changed root need not have it.
    return "enabled" in lines and any(re.match(r"flags: .*F", line) for line in lines)


def _require_emulation(machine: str, say: Say) -> None:
    if machine == _OWN_MACHINE:
        return
    system.ensure([QEMU_USER], say)
    if not is_emulated(machine):
        architecture = images.architecture(machine)
        raise Unavailable(
            f"this machine does not run programs of {architecture}: register qemu with the kernel "
            "(`systemctl restart systemd-binfmt`, with the package qemu-user-static), or build on "
            f"a machine of {architecture}"
        )


def _debian_command(output: str, machine: str) -> list[str]:
    included = ",".join(["usr-is-merged", *PACKAGES.read_text().split()])
    paths = ("exclude=/usr/share/man/*", "exclude=/usr/share/locale/*", "exclude=/usr/share/doc/*")
    return [
        "mmdebstrap",
        f"--architectures={images.architecture(machine)}",
        "--variant=apt",
        f"--hook-dir={_HOOK}",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-{path}" for path in (*paths, "include=/usr/share/doc/*/copyright")),
        f"--include={included}",
        # A container's runtime brings its own devices, and may not make others.
        "--skip=output/dev",
        "--quiet",
        SUITE,
        output,
    ]


def _part(base: bytes, part: Path, machine: str, say: Say) -> bytes:
    """The layer of one part: installed from outside, compiled by the image's own Python."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise Unavailable("uv is missing; `make test` or `make image` installs it")
    made = [part] if part == install.DEPENDENCIES else [part, install.LAUNCHERS]
    what = "dependencies" if part == install.DEPENDENCIES else "project"
    title = f"layer of the {what}, {images.architecture(machine)}"
    with step(say, title), tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        unpack(base, root)
        try:
            if part == install.DEPENDENCIES:
                install.install_dependencies(root, uv, machine)
            else:
                install.install_project(root, uv)
        except install.NotInstalled as error:
            raise ClusterError(f"the {what} could not be installed: {error}") from error
        _run(["chroot", str(root), *install.compile_command(part)], _COMPILE_SECONDS)
        return gzip.compress(_tar(root, made), 6, mtime=0)


def unpack(layer: bytes, root: Path) -> None:
    """A gzipped layer of ours into a folder, as it is: with links out of it, and as root."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as archive:
        # Debian 12's Python has no argument for it yet.
        archive.extraction_filter = lambda member, _path: member
        archive.extractall(root)


def _tar(root: Path, folders: Iterable[Path]) -> bytes:
    """The same bytes for the same content: sorted, owned by root, at the epoch."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as layer:
        seen: set[Path] = set()
        for folder in folders:
            for path in [*reversed(folder.parents), folder, *_below(root, folder)]:
                if path not in seen and path != Path():
                    seen.add(path)
                    layer.add(root / path, str(path), recursive=False, filter=_plain)
    return buffer.getvalue()


def _below(root: Path, folder: Path) -> list[Path]:
    return [path.relative_to(root) for path in sorted((root / folder).rglob("*"))]


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = 0
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def _cached(path: Path, make: Callable[[], bytes]) -> bytes:
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(make())
        temporary.rename(path)
    return path.read_bytes()


def _forget_old(folder: Path, used: set[Path]) -> None:
    for pattern in ("*.tar", "base-*.gz", "dependencies-*.gz"):
        found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in found[_KEPT:]:
            if path not in used:
                path.unlink(missing_ok=True)


def _key(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _sources(*paths: Path) -> Iterator[bytes]:
    for path in paths:
        yield path.name.encode()
        yield path.read_bytes()


def _run(command: list[str], seconds: float) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ClusterError(f"`{' '.join(command[:2])} …` failed: {last}")
