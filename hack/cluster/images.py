"""Makes container images as OCI archives, without a registry or a builder.

An OCI archive is a tar of blobs named by their digest and an index. The node's own two images
hold Debian's static busybox: as `localhost/busybox:1` for pods, and as the pod sandbox,
where its shell waits and reaps as pid 1, so that no compiler is needed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BUSYBOX_IMAGE = "localhost/busybox:1"
SANDBOX_IMAGE = "localhost/pause:1"

# `wait` also collects processes it never started: those whose parent ended first.
_PAUSE = "trap 'exit 0' TERM INT; sleep 2147483647 & while :; do wait; done"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KIND = "application/vnd.oci.image"
_ETC = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n",
    "etc/group": b"root:x:0:\nuser:x:1000:\n",
    "etc/nsswitch.conf": b"hosts: files dns\n",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A tar as the archive stores it, plain or gzipped; `diff_id` is the plain one's SHA-256."""

    content: bytes
    diff_id: str
    media_type: str

    @classmethod
    def plain(cls, tar: bytes) -> Layer:
        return cls(tar, hashlib.sha256(tar).hexdigest(), f"{_KIND}.layer.v1.tar")

    @classmethod
    def gzipped(cls, content: bytes) -> Layer:
        """Of a tar that is gzipped already."""
        digest = hashlib.sha256(gzip.decompress(content)).hexdigest()
        return cls(content, digest, f"{_KIND}.layer.v1.tar+gzip")


@dataclass(frozen=True, slots=True)
class Image:
    """A name, layers from the lowest up, and how a container of it starts."""

    name: str
    layers: Sequence[Layer]
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = field(default_factory=lambda: architecture(platform.machine()))
    """As the image's programs need it, in Go's words: amd64, arm64."""


def busybox_images(busybox: Path) -> list[Image]:
    """The image for pods and the sandbox's."""
    layers = [Layer.plain(_busybox_layer(busybox))]
    return [
        Image(BUSYBOX_IMAGE, layers, ["/bin/sh"]),
        Image(SANDBOX_IMAGE, layers, ["/bin/sh", "-c", _PAUSE]),
    ]


def architecture(machine: str) -> str:
    """What Go, and so the OCI, calls a machine of `uname --machine`."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def write_archive(images: Sequence[Image], path: Path) -> None:
    """Write one OCI archive of several images; they share equal layers.

    Images of one name are one image for several architectures, of which a node takes its own.
    """
    blobs: dict[str, bytes] = {}
    manifests = []
    for name in dict.fromkeys(image.name for image in images):
        annotations = {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        }
        parts = [_manifest(image, blobs) for image in images if image.name == name]
        manifests.append(
            {**(parts[0] if len(parts) == 1 else _index(parts, blobs)), "annotations": annotations}
        )
    index = {"schemaVersion": 2, "manifests": manifests}
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(archive, "index.json", json.dumps(index).encode())
        for digest, content in blobs.items():
            _add(archive, f"blobs/sha256/{digest}", content)


def _manifest(image: Image, blobs: dict[str, bytes]) -> dict[str, object]:
    """Put the image's blobs among `blobs`; returns the descriptor of its manifest."""
    environment = {"PATH": _PATH, **image.environment}
    config = {
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "Cmd": list(image.command),
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "Labels": dict(image.labels),
            "User": image.user,
            "WorkingDir": "/",
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{layer.diff_id}" for layer in image.layers],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_KIND}.manifest.v1+json",
        "config": _blob(f"{_KIND}.config.v1+json", json.dumps(config).encode(), blobs),
        "layers": [_blob(layer.media_type, layer.content, blobs) for layer in image.layers],
    }
    described = _blob(f"{_KIND}.manifest.v1+json", json.dumps(manifest).encode(), blobs)
    return {**described, "platform": {"architecture": image.architecture, "os": "linux"}}


def _index(manifests: Sequence[dict[str, object]], blobs: dict[str, bytes]) -> dict[str, object]:
    """Put the index of an image of several architectures among `blobs`; returns its descriptor."""
    kind = f"{_KIND}.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": kind, "manifests": manifests}
    return _blob(kind, json.dumps(index).encode(), blobs)


def _blob(media_type: str, content: bytes, blobs: dict[str, bytes]) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    blobs[digest] = content
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _busybox_layer(busybox: Path) -> bytes:
    listed = subprocess.run(
        [str(busybox), "--list"], capture_output=True, text=True, check=True, timeout=20
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            layer.addfile(entry)
        _add(layer, "bin/busybox", busybox.read_bytes(), 0o755)
        for applet in listed.stdout.split():
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                layer.addfile(link)
        for name, content in _ETC.items():
            _add(layer, name, content)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
