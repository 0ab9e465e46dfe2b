"""The container image: small, without a compiler, not root's, and the same by both ways."""

import configparser
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hack.image import build, install
from hack.image.build import Built
from tests.waiting import DEADLINE

DOCKERFILE = install.CHECKOUT / "Dockerfile"
MOST_MEGABYTES = 150


def _blob(archive: tarfile.TarFile, digest: str) -> bytes:
    stream = archive.extractfile("blobs/" + digest.replace(":", "/"))
    assert stream is not None
    return stream.read()


@pytest.fixture(scope="module")
def manifest(mpslice_image: Built) -> dict[str, Any]:
    with tarfile.open(mpslice_image.archive) as archive:
        index = json.loads(archive.extractfile("index.json").read())  # type: ignore[union-attr]  # a file
        found: dict[str, Any] = json.loads(_blob(archive, index["manifests"][0]["digest"]))
    return found


@pytest.fixture(scope="module")
def config(mpslice_image: Built, manifest: dict[str, Any]) -> dict[str, Any]:
    with tarfile.open(mpslice_image.archive) as archive:
        found: dict[str, Any] = json.loads(_blob(archive, manifest["config"]["digest"]))
    return found


@pytest.fixture(scope="module")
def root(
    mpslice_image: Built, manifest: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The image's file system."""
    folder = tmp_path_factory.mktemp("image")
    with tarfile.open(mpslice_image.archive) as archive:
        for layer in manifest["layers"]:
            build.unpack(_blob(archive, layer["digest"]), folder)
    return folder


def test_image_is_small(manifest: dict[str, Any]) -> None:
    assert sum(layer["size"] for layer in manifest["layers"]) < MOST_MEGABYTES * 1e6


def test_image_is_not_roots(config: dict[str, Any]) -> None:
    user, _, group = config["config"]["User"].partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_no_compiler_is_in_the_image(root: Path) -> None:
    programs = {path.name for path in (root / "usr/bin").iterdir()}
    compilers = {"cc", "gcc", "c++", "g++", "clang", "ld", "as", "make", "tcc"}
    assert not compilers & programs
    assert not [name for name in programs if re.search(r"gcc|g\+\+|-ld$", name)]


def test_each_program_of_the_project_starts_in_the_image(root: Path) -> None:
    settings = configparser.ConfigParser()
    settings.read(install.CHECKOUT / "setup.cfg")
    scripts = settings["options.entry_points"]["console_scripts"].split("\n")
    names = {line.partition("=")[0].strip() for line in scripts if line}
    assert {path.name for path in (root / install.LAUNCHERS).iterdir()} == names
    for name in names:
        word = "version" if name == "kubectl-mpslice" else "--version"
        command = ["chroot", str(root), f"/{install.LAUNCHERS}/{name}", word]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stderr
        assert "unknown" not in done.stdout


def test_every_module_is_compiled(root: Path) -> None:
    for part in (install.DEPENDENCIES, install.PROJECT):
        for source in (root / part).rglob("*.py"):
            compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
            assert compiled.exists(), source


def test_no_path_of_the_building_machine_is_in_the_project(root: Path) -> None:
    for path in (root / install.PROJECT).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(install.CHECKOUT).encode() not in content, path
            assert b"/tmp/" not in content or path.suffix in (".py", ".pyc"), path


def test_every_module_of_the_programs_is_in_the_image(root: Path) -> None:
    """One that is in the checkout alone would be missed only when a program needs it."""
    installed = root / install.PROJECT
    missing = [
        str(path.relative_to(install.CHECKOUT))
        for path in install.project_files()
        if path.suffix == ".py" and not (installed / path.relative_to(install.CHECKOUT)).exists()
    ]
    assert missing == []
    assert (installed / "webhook" / "main.py").exists()


def test_an_unchanged_checkout_is_not_built_twice(mpslice_image: Built) -> None:
    def must_be_silent(line: str) -> None:
        raise AssertionError(line)

    assert build.build(mpslice_image.reference, must_be_silent) == mpslice_image


def test_dockerfile_sets_what_the_archive_sets(config: dict[str, Any]) -> None:
    text = DOCKERFILE.read_text()
    assert f"USER {config['config']['User']}" in text
    for variable in config["config"]["Env"]:
        assert variable in text
    for name, value in config["config"]["Labels"].items():
        assert re.search(rf'{re.escape(name)}="?{re.escape(value)}"?', text), name
    for part in (install.DEPENDENCIES, install.PROJECT, install.LAUNCHERS):
        assert f"COPY --from=build /{part} /{part}" in text


def test_dockerfile_pins_its_base_by_digest() -> None:
    text = DOCKERFILE.read_text()
    assert re.search(r"^ARG BASE_DIGEST=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert f"ARG BASE=debian:{build.SUITE}-slim" in text
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert sorted(set(bases)) == ["${BASE}@${BASE_DIGEST}"]


def test_dockerignore_lets_through_what_the_project_is_built_from() -> None:
    lines = (install.CHECKOUT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    for path in install.project_files():
        relative = path.relative_to(install.CHECKOUT)
        assert {str(relative), relative.parts[0]} & allowed, relative


def test_sbom_lists_every_pin_of_the_lock_file(tmp_path: Path) -> None:
    sbom = tmp_path / "sbom.json"
    program = Path(sys.executable).parent / "cyclonedx-py"
    command = [str(program), "requirements", "--output-reproducible", "-o", str(sbom)]
    subprocess.run([*command, str(install.LOCK)], check=True, timeout=DEADLINE)
    document = json.loads(sbom.read_text())
    assert document["bomFormat"] == "CycloneDX"
    listed = {(part["name"], part["version"]) for part in document["components"]}
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", install.LOCK.read_text(), re.MULTILINE)
    assert listed == set(pins)
    for part in document["components"]:
        assert any(reference.get("hashes") for reference in part["externalReferences"])
