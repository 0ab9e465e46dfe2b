"""`python -m hack.image`: builds the image and says where its archive lies."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import mpslice
from hack.cluster.errors import ClusterError
from hack.cluster.images import architecture
from hack.cluster.progress import to_stderr
from hack.image.build import NAME, build


def main() -> int:
    """Build; 1 and one line on stderr when it cannot be done."""
    arguments = _parser().parse_args()
    try:
        built = build(arguments.name, to_stderr, fresh=arguments.fresh, machines=arguments.platform)
    except ClusterError as error:
        to_stderr(f"error: {error}")
        return 1
    megabytes = built.compressed / 1e6
    to_stderr(f"{built.reference}: {megabytes:.0f} MB compressed")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(built.archive, arguments.output)
    print(arguments.output or built.archive)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hack.image",
        description="mpslice's container image as an OCI archive, from Debian packages and wheels.",
    )
    name = f"{NAME}:{mpslice.__version__}"
    parser.add_argument("--name", default=name, help=f"the image's name and tag ({name})")
    parser.add_argument("--output", type=Path, help="where to copy the archive; else in the cache")
    text = "take Debian's packages as they are now, not as they were when the cache was filled"
    parser.add_argument("--fresh", action="store_true", help=text)
    text = "what it is for, by commas: linux/amd64, linux/arm64; this machine's own when not given"
    parser.add_argument("--platform", type=_machines, default=(), metavar="LIST", help=text)
    return parser


def _machines(text: str) -> tuple[str, ...]:
    known = {f"linux/{architecture(machine)}": machine for machine in ("x86_64", "aarch64")}
    unknown = [word for word in text.split(",") if word not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return tuple(dict.fromkeys(known[word] for word in text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
