"""`python -m hack.plugin [--url URL]`: packs `kubectl mpslice` alone, for krew and for a download.

`kubectl-mpslice.tar.gz` runs where there is Python 3.11 or later and nothing else: the locked
dependencies and the project are in it, without their compiled parts, so one archive serves every
processor, Linux and macOS. With the URL that it is to be had from, a krew manifest with its SHA-256
stands beside it. The manual pages are in the archive and beside it.
"""

from __future__ import annotations

import argparse
import configparser
import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml

from hack.image import install

CHECKOUT = install.CHECKOUT
LOCK = CHECKOUT / "requirements.lock"
NAME = "kubectl-mpslice"
ARCHIVE = f"{NAME}.tar.gz"
MANIFEST = "mpslice.yaml"

_LAUNCHER = """\
#!/usr/bin/env python3
import os
import sys

if sys.version_info < (3, 11):
    sys.exit("kubectl mpslice needs Python 3.11 or later; python3 is " + sys.version.split()[0])
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))
from cli.main import main

main()
"""
_COMPILED = (".so", ".pyd", ".pyx", ".pxd", ".c", ".h")
_DESCRIPTION = """\
Shows a cluster's GPUs with their slices, says why a pod waits for one, and
plans offline or on a live cluster what mpslice would do with your pods,
before it is installed there.
"""
_CAVEATS = f"""\
It needs python3 3.11 or later on the PATH.
For completion of its words by kubectl:
  kubectl mpslice completion > ~/.krew/bin/kubectl_complete-mpslice
  chmod +x ~/.krew/bin/kubectl_complete-mpslice
The manual page: man ~/.krew/store/mpslice/v*/man/man1/{NAME}.1
"""


def build(folder: Path, uv: str) -> Path:
    """Makes the archive and the folder `man` there; returns the archive.

    Raises:
        NotInstalled: uv could not install the dependencies.
        CalledProcessError: the manual pages cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages = folder / "man"
    command = [sys.executable, "-m", "cli.manual", str(pages)]
    subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL, timeout=120)
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary)
        locked = ("--only-binary=:all:", "--require-hashes", f"--requirements={LOCK}")
        install.uv_install(uv, tree / "lib", *locked)
        install.install_packages(tree / "lib", uv)
        _without_compiled_parts(tree / "lib")
        shutil.copytree(pages / "man1", tree / "man" / "man1")
        shutil.copy(CHECKOUT / "LICENSE", tree)
        (tree / NAME).write_text(_LAUNCHER)
        (tree / NAME).chmod(0o755)
        archive = folder / ARCHIVE
        archive.write_bytes(_pack(tree))
    return archive


def _without_compiled_parts(library: Path) -> None:
    """Each of these packages goes on in Python where its compiled part is missing."""
    for file in library.rglob("*"):
        if file.suffix in _COMPILED:
            file.unlink()
    shutil.rmtree(library / "bin", ignore_errors=True)


def _pack(tree: Path) -> bytes:
    """The tree as .tar.gz; the same files make the same bytes."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for file in sorted(path for path in tree.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(file.relative_to(tree)))
            entry.size = file.stat().st_size
            entry.mode = 0o755 if file.name == NAME else 0o644
            with file.open("rb") as content:
                archive.addfile(entry, content)
    return packed.getvalue()


def manifest(archive: Path, url: str) -> dict[str, Any]:
    """krew's manifest of an archive that is to be had from a URL."""
    settings = configparser.ConfigParser()
    settings.read(CHECKOUT / "setup.cfg")
    metadata = settings["metadata"]
    return {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "mpslice"},
        "spec": {
            "version": f"v{metadata['version']}",
            "shortDescription": "Plan and explain GPU memory slices",
            "description": _DESCRIPTION,
            "caveats": _CAVEATS,
            "platforms": [
                {
                    "selector": {
                        "matchExpressions": [
                            {"key": "os", "operator": "In", "values": ["linux", "darwin"]}
                        ]
                    },
                    "uri": url,
                    "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
                    "bin": NAME,
                }
            ],
        },
    }


def main() -> None:
    """Build all into a folder and name what was made."""
    parser = argparse.ArgumentParser(prog="python -m hack.plugin", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("dist"), help="default: dist")
    parser.add_argument("--url", default="", help="where the archive is going to be published")
    parser.add_argument("--uv", default=str(Path(sys.executable).parent / "uv"))
    options = parser.parse_args()
    try:
        archive = build(options.output, options.uv)
    except install.NotInstalled as error:
        sys.exit(f"the dependencies cannot be installed: {error}")
    print(archive)
    if options.url:
        file = options.output / MANIFEST
        file.write_text(yaml.safe_dump(manifest(archive, options.url), sort_keys=False))
        print(file)


if __name__ == "__main__":
    main()
