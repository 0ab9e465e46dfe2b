"""The image for arm64, made and started under qemu where the kernel is set up for that."""

import configparser
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.progress import Say
from hack.image import build, install
from hack.image.build import Built
from tests.cluster.plugin import do_without
from tests.waiting import DEADLINE

# Emulated, Debian alone takes minutes, once.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine of the ELF specification
_NAME = "localhost/mpslice:test"


def blob(archive: tarfile.TarFile, digest: str) -> bytes:
    stream = archive.extractfile("blobs/" + digest.replace(":", "/"))
    assert stream is not None
    return stream.read()


@pytest.fixture(scope="module")
def both(cluster_say: Say) -> Built:
    """One image for both architectures."""
    if not build.is_emulated("aarch64"):
        do_without("arm64", "qemu-aarch64 is not registered with the kernel (binfmt_misc)")
    return build.build(_NAME, cluster_say, machines=("x86_64", "aarch64"))


@pytest.fixture(scope="module")
def index(both: Built) -> dict[str, Any]:
    with tarfile.open(both.archive) as archive:
        outer = json.loads(archive.extractfile("index.json").read())  # type: ignore[union-attr]  # a file
        (listed,) = outer["manifests"]
        assert listed["annotations"]["io.containerd.image.name"] == _NAME
        assert listed["mediaType"] == "application/vnd.oci.image.index.v1+json"
        found: dict[str, Any] = json.loads(blob(archive, listed["digest"]))
    return found


@pytest.fixture(scope="module")
def root(both: Built, index: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file system of the arm64 image."""
    folder = tmp_path_factory.mktemp("arm64")
    (digest,) = [
        each["digest"]
        for each in index["manifests"]
        if each["platform"] == {"architecture": "arm64", "os": "linux"}
    ]
    with tarfile.open(both.archive) as archive:
        for layer in json.loads(blob(archive, digest))["layers"]:
            build.unpack(blob(archive, layer["digest"]), folder)
    return folder


def machine_of(path: Path) -> int | None:
    """e_machine of an ELF file; None of any other."""
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(20)
    return int.from_bytes(head[18:20], "little") if head[:4] == b"\x7fELF" else None


def test_a_node_finds_the_image_of_its_own_architecture(both: Built, index: dict[str, Any]) -> None:
    platforms = [each["platform"]["architecture"] for each in index["manifests"]]
    assert platforms == ["amd64", "arm64"]
    with tarfile.open(both.archive) as archive:
        for each in index["manifests"]:
            manifest = json.loads(blob(archive, each["digest"]))
            config = json.loads(blob(archive, manifest["config"]["digest"]))
            assert config["architecture"] == each["platform"]["architecture"]


def test_every_program_and_library_is_for_arm64(root: Path) -> None:
    found = {path: machine for path in root.rglob("*") if (machine := machine_of(path))}
    assert set(found.values()) == {_ELF_MACHINES["aarch64"]}
    assert root / "usr/bin/python3.11" in found
    wheels = [path for path in found if path.is_relative_to(root / install.DEPENDENCIES)]
    packages = {path.relative_to(root / install.DEPENDENCIES).parts[0] for path in wheels}
    assert {"grpc", "aiohttp", "cryptography"} <= packages


def test_each_program_of_the_project_starts_on_arm64(root: Path) -> None:
    settings = configparser.ConfigParser()
    settings.read(install.CHECKOUT / "setup.cfg")
    scripts = settings["options.entry_points"]["console_scripts"].split("\n")
    for name in (line.partition("=")[0].strip() for line in scripts if line):
        command = ["chroot", str(root), f"/{install.LAUNCHERS}/{name}", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stderr
