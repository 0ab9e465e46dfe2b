"""An image with NVIDIA's control program and a setuid-root helper, for a pod that means harm."""

import re
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from hack.cluster import images, system
from hack.cluster.images import Image, Layer
from hack.cluster.versions import BUSYBOX
from tests.compiling import compile_c
from tests.waiting import DEADLINE

NAME = "localhost/hostile:1"
AS_ROOT = "/as-root"
CONTROL = "/nvidia-cuda-mps-control"

_SETUID = 0o4755


def build(folder: Path, control: Path) -> Path:
    """An OCI archive of the image `NAME`; the test is skipped where there is no compiler."""
    helper = folder / "as-root"
    compile_c(Path(__file__).with_name("as_root.c"), helper, ["-static"])
    layer = BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        _add(tar, AS_ROOT, helper, _SETUID)
        _add(tar, CONTROL, control, 0o755)
        for library in _libraries(control):
            _add(tar, str(library), library, 0o755)
    (busybox, _) = images.busybox_images(system.find(BUSYBOX))
    layers = [*busybox.layers, Layer.plain(layer.getvalue())]
    archive = folder / "hostile.tar"
    images.write_archive([Image(NAME, layers, ["/bin/sh"])], archive)
    return archive


def _libraries(program: Path) -> list[Path]:
    """The shared libraries and the loader that a program of this machine needs."""
    done = subprocess.run(
        ["ldd", program], capture_output=True, text=True, check=True, timeout=DEADLINE
    )
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", done.stdout)]


def _add(tar: tarfile.TarFile, name: str, source: Path, mode: int) -> None:
    entry = tarfile.TarInfo(name.lstrip("/"))
    content = source.read_bytes()
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, BytesIO(content))
