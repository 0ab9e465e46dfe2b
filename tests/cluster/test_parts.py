"""Obtaining: checksums are held to, a failed download leads to a build, twice is once."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from hack.cluster import download, parts
from hack.cluster.errors import ClusterError, Unavailable
from hack.cluster.golang import Go
from hack.cluster.layout import Cache
from hack.cluster.progress import Say, silent
from hack.cluster.versions import COMPONENTS, Component

_TOOL = Component("tool", "1.0.0", ("example.org/tool",), ("tool",))


class _Release:
    """A released archive in a folder, with its list of checksums beside it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            entry = tarfile.TarInfo("tool-1.0.0/bin/tool")
            entry.size = len(b"program")
            archive.addfile(entry, io.BytesIO(b"program"))
        self.archive, self.sums = folder / "tool.tar.gz", folder / "SHA256SUMS"
        self.archive.write_bytes(buffer.getvalue())
        self.publish(hashlib.sha256(buffer.getvalue()).hexdigest())
        artefact = download._Artefact(self.archive.as_uri(), self.sums.as_uri())
        monkeypatch.setattr(download, "_artefacts", lambda _component: [artefact])

    def publish(self, digest: str) -> None:
        self.sums.write_text(f"{'0' * 64}  other.tar.gz\n{digest}  tool.tar.gz\n")


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Release:
    return _Release(tmp_path, monkeypatch)


def test_program_is_taken_out_of_a_release_whose_checksum_fits(
    release: _Release, tmp_path: Path
) -> None:
    download.download(_TOOL, tmp_path / "into")
    program = tmp_path / "into" / "tool"
    assert program.read_bytes() == b"program"
    assert program.stat().st_mode & 0o111


def test_release_with_another_checksum_is_refused(release: _Release, tmp_path: Path) -> None:
    release.publish("f" * 64)
    with pytest.raises(Unavailable, match="does not match its published SHA-256"):
        download.download(_TOOL, tmp_path / "into")
    assert not (tmp_path / "into" / "tool").exists()


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_every_component_has_a_release_and_a_checksum(component: Component) -> None:
    artefacts = download._artefacts(component)
    assert artefacts
    for artefact in artefacts:
        assert component.version in artefact.url
        assert artefact.url.startswith("https://")
        assert "sha256" in artefact.checksums.lower()


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Downloads fail, builds succeed at once; the list says what was built."""
    built: list[str] = []

    def fail(component: Component, into: Path) -> None:
        raise Unavailable(f"{component.name} cannot be downloaded")

    def build(self: Go, component: Component, into: Path, log: Path, say: Say) -> None:
        into.mkdir(parents=True)
        built.append(component.name)

    monkeypatch.setenv("MPSLICE_CACHE", str(tmp_path))
    monkeypatch.delenv("MPSLICE_KUBE_FROM", raising=False)
    monkeypatch.setattr(parts, "download", fail)
    monkeypatch.setattr(parts, "find_go", lambda _cache, _say: Go(Path("go"), {}))
    monkeypatch.setattr(Go, "build", build)
    return built


def test_failed_download_is_said_once_and_leads_to_a_build(builds: list[str]) -> None:
    said: list[str] = []
    parts.obtain(said.append)
    assert builds == [component.name for component in COMPONENTS]
    assert sum("building from source instead" in line for line in said) == 1
    assert all(any(f"{c.key} built" in line for line in said) for c in COMPONENTS)


def test_what_is_in_the_cache_is_not_obtained_again(builds: list[str]) -> None:
    parts.obtain(silent)
    builds.clear()
    parts.obtain(silent)
    assert builds == []


def test_interrupted_build_leaves_no_component_behind(
    builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Go, component: Component, into: Path, log: Path, say: Say) -> None:
        into.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(Go, "build", interrupt)
    with pytest.raises(KeyboardInterrupt):
        parts.obtain(silent)
    assert list((Cache.default().root / "parts").iterdir()) == []


def test_download_alone_is_an_error_that_says_so(
    builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPSLICE_KUBE_FROM", "download")
    with pytest.raises(Unavailable, match="cannot be downloaded"):
        parts.obtain(silent)


_IMAGE_ALONE = Component("image-alone", "1.0.0", (".",), ("image-alone",), released=False)


def test_component_that_is_not_released_is_built_and_others_are_still_downloaded(
    builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "download", lambda _component, into: into.mkdir(parents=True))
    said: list[str] = []
    parts.obtain(said.append, (_IMAGE_ALONE, _TOOL))
    assert builds == ["image-alone"]
    assert any("tool-1.0.0 downloaded" in line for line in said)


def test_component_that_is_not_released_cannot_be_downloaded(
    builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPSLICE_KUBE_FROM", "download")
    with pytest.raises(Unavailable, match=r"image-alone-1\.0\.0 is released as an image alone"):
        parts.obtain(silent, (_IMAGE_ALONE,))


def test_folder_of_the_module_is_kept_beside_the_program(tmp_path: Path) -> None:
    templates = tmp_path / "module" / "charts" / "one" / "templates"
    templates.mkdir(parents=True)
    (templates / "kind.yaml").write_text("kind: CustomResourceDefinition")
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\necho {tmp_path / 'module'}\n")
    go.chmod(0o755)
    component = replace(_IMAGE_ALONE, kept=("example.org/module", "charts/one", "chart"))
    into = tmp_path / "into"
    into.mkdir()
    Go(go, {})._keep_folder(component, tmp_path, into)
    kept = into / "chart" / "templates" / "kind.yaml"
    assert kept.read_text() == "kind: CustomResourceDefinition"


def test_unknown_way_of_obtaining_names_the_variable(
    builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPSLICE_KUBE_FROM", "magic")
    with pytest.raises(ClusterError, match="MPSLICE_KUBE_FROM=magic"):
        parts.obtain(silent)
