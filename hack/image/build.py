"""Builds the image's three layers and the OCI archive, cached by what each is made of.

The layers are Debian with its Python, the dependencies, and the project: after a change of the
project alone only the last is made anew.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import images, system
from hack.cluster.errors import ClusterError, Unavailable
from hack.cluster.images import Image, Layer
from hack.cluster.layout import Cache
from hack.cluster.progress import Say, step
from hack.cluster.versions import MMDEBSTRAP
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
_KEPT = 3
_DEBOOTSTRAP_SECONDS = 600.0
_HOOK = "/usr/share/mmdebstrap/hooks/merged-usr"


@dataclass(frozen=True, slots=True)
class Built:
    """An OCI archive with one image in it, and the layers' size in bytes as they are stored."""

    archive: Path
    reference: str
    compressed: int


def build(reference: str, say: Say, *, fresh: bool = False) -> Built:
    """The archive of an image of that name, out of the cache if nothing has changed.

    `fresh` takes Debian's packages as they are now, for those that were mended since.

    Raises:
        Unavailable: This machine has not got what is needed.
        ClusterError: A step failed.
    """
    folder = Cache.default().images
    folder.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder):
        base_path = folder / f"base-{_key(word.encode() for word in _debian_command(''))}.tar.gz"
        if fresh:
            base_path.unlink(missing_ok=True)
        base = _cached(base_path, lambda: _base(say))
        base_key = _key([base])
        key = _key([base_key.encode(), *_sources(install.LOCK, Path(install.__file__))])
        dependencies_path = folder / f"dependencies-{key}.tar.gz"
        key = _key([key.encode(), *_sources(*install.project_files()), reference.encode()])
        archive = folder / f"{key}.tar"
        if not archive.exists():
            dependencies = _cached(
                dependencies_path, lambda: _part(base, install.DEPENDENCIES, say)
            )
            project = _part(base, install.PROJECT, say)
            layers = [Layer.gzipped(part) for part in (base, dependencies, project)]
            image = Image(reference, layers, COMMAND, ENVIRONMENT, USER, _labels())
            temporary = archive.with_suffix(".tmp")
            images.write_archive([image], temporary)
            temporary.rename(archive)
            _forget_old(folder, {base_path, dependencies_path, archive})
    return Built(archive, reference, archive.stat().st_size)


def _labels() -> dict[str, str]:
    return {
        "org.opencontainers.image.title": "mpslice",
        "org.opencontainers.image.description": "GPU memory slices for Kubernetes pods",
        "org.opencontainers.image.licenses": "Apache-2.0",
    }


def _base(say: Say) -> bytes:
    """Debian as small as apt allows, without manuals and translations, and its Python."""
    system.require_root("building the image")
    system.ensure([MMDEBSTRAP], say)
    with step(say, f"Debian {SUITE} with Python"), tempfile.TemporaryDirectory() as temporary:
        tar = Path(temporary) / "base.tar"
        _run(_debian_command(str(tar)), _DEBOOTSTRAP_SECONDS)
        return gzip.compress(tar.read_bytes(), 6, mtime=0)


def _debian_command(output: str) -> list[str]:
    included = ",".join(["usr-is-merged", *PACKAGES.read_text().split()])
    paths = ("exclude=/usr/share/man/*", "exclude=/usr/share/locale/*", "exclude=/usr/share/doc/*")
    return [
        "mmdebstrap",
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


def _part(base: bytes, part: Path, say: Say) -> bytes:
    """The layer of one part: installed from outside, compiled by the image's own Python."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise Unavailable("uv is missing; `make test` or `make image` installs it")
    made = [part] if part == install.DEPENDENCIES else [part, install.LAUNCHERS]
    what = "dependencies" if part == install.DEPENDENCIES else "project"
    with step(say, f"layer of the {what}"), tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        unpack(base, root)
        try:
            if part == install.DEPENDENCIES:
                install.install_dependencies(root, uv)
            else:
                install.install_project(root, uv)
        except install.NotInstalled as error:
            raise ClusterError(f"the {what} could not be installed: {error}") from error
        _run(["chroot", str(root), *install.compile_command(part)], 300)
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


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
