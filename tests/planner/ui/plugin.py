"""Gives tests a browser, and axe-core, which judges what a page is to people who cannot see it.

Chromium is the system's own; axe-core comes from npm, pinned by the lock file beside this one. A
machine without them skips these tests, unless MPSLICE_REQUIRE names `browser`.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.plugin import do_without
from tests.planner.ui.chromium import find, running
from tests.waiting import DEADLINE

_LOCK: Final = Path(__file__).parent / "axe"
_CACHE: Final = "MPSLICE_CACHE"


@pytest.fixture(scope="session")
def chromium() -> Iterator[int]:
    """A browser for all tests of the session; the port of its protocol."""
    program = find()
    if program is None:
        do_without("browser", "there is no chromium; Debian's package `chromium` has it")
    with running(program) as port:
        yield port


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, installed once into the cache."""
    lock = (_LOCK / "package-lock.json").read_bytes()
    default = Path.home() / ".cache" / "mpslice"
    cache = Path(os.environ.get(_CACHE) or default)
    folder = cache / f"axe-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not folder.exists():
        _install(folder)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def _install(folder: Path) -> None:
    """Into a folder beside it first, so that two sessions may do it at once."""
    npm = shutil.which("npm")
    if npm is None:
        do_without("browser", "there is no npm, which axe-core is installed by")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_LOCK / name, made)
        command = (npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=DEADLINE)
        if done.returncode != 0:
            do_without("browser", f"npm ci: {done.stderr.strip()[-300:]}")
        if not folder.exists():
            shutil.copytree(made, folder, dirs_exist_ok=True)
