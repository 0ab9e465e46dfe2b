"""Puts the dependencies and the project below /opt/mpslice: what both ways to the image share.

Only the standard library is used: the Dockerfile runs it before anything is installed. The two
parts are apart so that a change of the project leaves the layer of the dependencies as it is.
"""

from __future__ import annotations

import argparse
import configparser
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
LOCK = CHECKOUT / "requirements-image.lock"
PREFIX = Path("opt/mpslice")
DEPENDENCIES = PREFIX / "dependencies"
PROJECT = PREFIX / "project"
LAUNCHERS = PREFIX / "bin"

# Those of Debian 12, whatever installs.
_PYTHON = "3.11"
_GLIBC = "manylinux_2_36"

_UV_SECONDS = 600.0

# Not isolated (-I) as a whole: the environment carries the flags.
_LAUNCHER = """\
#!/usr/bin/python3 -sP
import sys

sys.path[:0] = ["/{project}", "/{dependencies}"]
from {module} import {function}

sys.exit({function}())
"""


class NotInstalled(Exception):
    """What uv said."""


def install_dependencies(root: Path, uv: str, machine: str = "") -> None:
    """What the lock file pins, as wheels and nothing else: there is no compiler.

    `machine` is that of the image, as `uname --machine` has it; this one's when empty.

    Raises:
        NotInstalled: uv could not.
    """
    target = root / DEPENDENCIES
    locked = ("--only-binary=:all:", "--require-hashes", f"--requirements={LOCK}")
    platform_ = f"--python-platform={machine or platform.machine()}-{_GLIBC}"
    uv_install(uv, target, platform_, *locked)
    shutil.rmtree(target / "bin", ignore_errors=True)  # programs of theirs that nobody runs


def install_project(root: Path, uv: str) -> None:
    """The project's packages and a launcher for each of its programs. Raises NotInstalled."""
    install_packages(root / PROJECT, uv)
    _write_launchers(root)


def install_packages(target: Path, uv: str) -> None:
    """The project's packages below a folder, without their dependencies. Raises NotInstalled."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        copy_project(source)
        uv_install(uv, target, "--no-deps", str(source))
    shutil.rmtree(target / "bin", ignore_errors=True)
    # It names the folder that the project was built in.
    for record in target.glob("*.dist-info/direct_url.json"):
        record.unlink()


def copy_project(folder: Path) -> None:
    """Copies what the project is built from, so that building leaves nothing in the checkout."""
    for path in project_files():
        copied = folder / path.relative_to(CHECKOUT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied)


def project_files() -> Iterator[Path]:
    """What the project is built from; a stale build folder is not among it."""
    yield from (CHECKOUT / name for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"))
    for folder in _packages():
        yield from (path for path in sorted(folder.iterdir()) if path.is_file())


def _packages() -> Iterator[Path]:
    """The folders of the project's packages: setup.cfg names the outermost ones."""
    settings = configparser.ConfigParser()
    settings.read(CHECKOUT / "setup.cfg")
    for top in settings["options.packages.find"]["include"].split():
        folders = (CHECKOUT / top.removesuffix("*")).rglob("__init__.py")
        yield from sorted(path.parent for path in folders)


def uv_install(uv: str, target: Path, *arguments: str) -> None:
    """Installs into a folder, for the image's Python. Raises NotInstalled, with what uv said."""
    command = [
        uv,
        "pip",
        "install",
        "--quiet",
        f"--target={target}",
        f"--python={sys.executable}",
        f"--python-version={_PYTHON}",
        "--link-mode=copy",
        *arguments,
    ]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=_UV_SECONDS)
    if done.returncode != 0:
        raise NotInstalled(done.stderr.strip())
    (target / ".lock").unlink(missing_ok=True)


def _write_launchers(root: Path) -> None:
    folder = root / LAUNCHERS
    folder.mkdir(parents=True, exist_ok=True)
    for distribution in distributions(path=[str(root / PROJECT)]):
        for entry in distribution.entry_points.select(group="console_scripts"):
            text = _LAUNCHER.format(
                project=PROJECT,
                dependencies=DEPENDENCIES,
                module=entry.module,
                function=entry.attr,
            )
            launcher = folder / entry.name
            launcher.write_text(text)
            launcher.chmod(0o755)


def compile_command(part: Path) -> list[str]:
    """Compiles a part where it lies; the root file system is read-only later.

    By unchecked hashes, so that the same source gives the same layer.
    """
    invalidation = "--invalidation-mode=unchecked-hash"
    return ["python3", "-m", "compileall", "-q", "-q", invalidation, f"/{part}"]


def main() -> None:
    """For the Dockerfile: one part, into this very system."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["dependencies", "project"])
    parser.add_argument("--uv", default="uv")
    arguments = parser.parse_args()
    root = Path("/")
    if arguments.part == "dependencies":
        install_dependencies(root, arguments.uv)
        subprocess.run(compile_command(DEPENDENCIES), check=True)
    else:
        install_project(root, arguments.uv)
        subprocess.run(compile_command(PROJECT), check=True)


if __name__ == "__main__":
    main()
