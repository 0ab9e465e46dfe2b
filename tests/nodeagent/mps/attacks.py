"""A hostile program in a slice's container: it has what is mounted there, and no capability."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from nodeagent.mps.paths import PROGRAM
from tests.nodeagent.mps.machine import ONE, MpsMachine
from tests.waiting import DEADLINE

UNSHARE = ("unshare", "--mount", "--propagation", "private")
SEALED = 'mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && shift 2 && exec "$@"'


class Container:
    """Runs programs as a container with the pipe directory would; `sealed` as Helm `mps.pipe`."""

    def __init__(self, machine: MpsMachine, *, sealed: bool, uid: int) -> None:
        self._machine = machine
        self._sealed = sealed
        self._uid = uid
        self.mounted = machine.folder / "mounted" if sealed else machine.root.pipe(ONE)
        if sealed:
            self.mounted.mkdir(exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        return {**self._machine.environment, "CUDA_MPS_PIPE_DIRECTORY": str(self.mounted)}

    def words(self, *words: str) -> Sequence[str]:
        """The command that runs these words in the container."""
        user = ("--reuid", str(self._uid), "--regid", str(self._uid), "--clear-groups")
        become = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", *user)
        if not self._sealed:
            return (*become, *words)
        sealed = str(self._machine.root.sealed(ONE))
        return (*UNSHARE, "sh", "-c", SEALED, "sh", sealed, str(self.mounted), *become, *words)

    def run(self, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.words(*words),
            input=stdin,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.words(*words),
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def sh(self, script: str) -> "subprocess.CompletedProcess[str]":
        return self.run("sh", "-c", f"cd {self.mounted} && {script}")

    def ask(self, command: str) -> str:
        """What the control program answers; "" also where it cannot connect."""
        program = str(self._machine.bin / PROGRAM)
        return self.run(program, stdin=f"{command}\n").stdout.strip()


def is_mounted(directory: Path) -> bool:
    """Whether a file system is mounted there, in this test's own view."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return str(directory) in [line.split()[1] for line in mounts]
