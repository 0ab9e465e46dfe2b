"""promtool as tests ask it."""

import subprocess
from pathlib import Path

from tests.waiting import DEADLINE


def told(promtool: Path, *words: str, input: bytes = b"", folder: Path | None = None) -> str:
    """What promtool has against it; "" if nothing."""
    done = subprocess.run(
        [promtool, *words], input=input, cwd=folder, capture_output=True, timeout=DEADLINE
    )
    said = (done.stdout + done.stderr).decode()
    return said or f"status {done.returncode}" if done.returncode else ""
