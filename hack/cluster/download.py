"""Obtains a component as its project released it, checked by SHA-256.

Apart from `golang` because this way needs the internet but neither Go nor minutes. The
checksums are those published beside each file.
"""

from __future__ import annotations

import hashlib
import io
import platform
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.errors import Unavailable
from hack.cluster.versions import Component

_TIMEOUT = 5.0
"""Seconds to connect, and between two pieces of an answer."""


@dataclass(frozen=True, slots=True)
class _Artefact:
    url: str
    checksums: str
    """Where the checksum is published: alone, or in a list beside file names."""


def download(component: Component, into: Path) -> None:
    """Put the programs of `component` into the folder `into`.

    Raises:
        Unavailable: The release cannot be reached, or a checksum differs.
    """
    into.mkdir(parents=True, exist_ok=True)
    for artefact in _artefacts(component):
        content = _get(artefact.url)
        _verify(artefact, content)
        name = artefact.url.rsplit("/", 1)[1]
        if name in component.programs:
            (into / name).write_bytes(content)
        else:
            _extract(component, content, into)
    for program in component.programs:
        if not (into / program).exists():
            raise Unavailable(f"the release of {component.key} lacks {program}")
        (into / program).chmod(0o755)


def _artefacts(component: Component) -> list[_Artefact]:
    version = component.version
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    if component.name == "kubernetes":
        base = f"https://dl.k8s.io/v{version}/bin/linux/{arch}"
        return [_Artefact(f"{base}/{p}", f"{base}/{p}.sha256") for p in component.programs]
    if component.name == "etcd":
        base = f"https://github.com/etcd-io/etcd/releases/download/v{version}"
        return [_Artefact(f"{base}/etcd-v{version}-linux-{arch}.tar.gz", f"{base}/SHA256SUMS")]
    if component.name == "containerd":
        base = f"https://github.com/containerd/containerd/releases/download/v{version}"
        name = f"containerd-{version}-linux-{arch}.tar.gz"
        return [_Artefact(f"{base}/{name}", f"{base}/{name}.sha256sum")]
    if component.name == "helm":
        name = f"helm-v{version}-linux-{arch}.tar.gz"
        return [_Artefact(f"https://get.helm.sh/{name}", f"https://get.helm.sh/{name}.sha256sum")]
    raise Unavailable(f"no release of {component.key} is known; set MPSLICE_KUBE_FROM=build")


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            content: bytes = answer.read()
            return content
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(f"{url} cannot be downloaded: {reason}") from error


def _verify(artefact: _Artefact, content: bytes) -> None:
    published = _get(artefact.checksums).decode()
    name = artefact.url.rsplit("/", 1)[1]
    for line in published.splitlines():
        digest, *names = line.split()
        if not names or names[0].lstrip("*") == name:
            if digest == hashlib.sha256(content).hexdigest():
                return
            raise Unavailable(f"{artefact.url} does not match its published SHA-256; try again")
    raise Unavailable(f"{artefact.checksums} has no checksum of {name}")


def _extract(component: Component, content: bytes, into: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            stream = archive.extractfile(member) if name in component.programs else None
            if stream is not None:
                (into / name).write_bytes(stream.read())
