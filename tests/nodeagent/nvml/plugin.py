"""Fixtures: the C library, compiled once, and a driver of its own for each test."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pynvml  # type: ignore[import-untyped]  # it has no types
import pytest

from tests.nodeagent.nvml.driver import FakeDriver, build


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the compiled library."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(
    nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeDriver]:
    """A driver without GPUs, which pynvml in this process talks to."""
    driver = FakeDriver(tmp_path / "driver", nvml_library)
    monkeypatch.setenv("FAKE_NVML", str(driver.file))
    load(nvml_library, monkeypatch)
    yield driver
    driver.recover()  # lets go of the threads that hang


def load(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has pynvml in this process use that library."""
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
