"""`mpslice-nodeagent mps`: its flags, and what runs in which process.

The process that is started stays small and is the container's first: the supervisor runs in a child
of it, and everything heavy is imported there.
"""

import argparse
import socket
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from mpslice import flags
from mpslice.errors import MpsliceError
from mpslice.logs import set_up_logging
from nodeagent.driver.files import Driver
from nodeagent.mps.children import Children
from nodeagent.mps.launch import daemon_command
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.reaper import REFUSED, Reaper, keep_from_oom
from nodeagent.mps.settings import ComputeMode, MpsSettings, OnFault

PROGRAM = "mpslice-nodeagent mps"


def parser() -> flags.FlagParser:
    """The flags; others may rely on those in docs/design/programs.md."""
    parser = flags.FlagParser(
        PROGRAM,
        "Keeps one MPS control daemon for each GPU that the node agent asks for.\n\n"
        "Examples:\n"
        f"  {PROGRAM} --mps-root=/run/mpslice --mps-user=1000\n"
        f"  {PROGRAM} --host-ipc=false --shm-size=2Gi --on-fault=report",
    )
    parser.add_version()
    parser.flag(
        "--mps-root",
        flags.absolute_path,
        "/run/mpslice",
        "where the daemons' directories are",
        "DIR",
    )
    parser.flag("--mps-user", flags.user_id, "1000", "the uid that the MPS servers serve", "UID")
    parser.flag(
        "--host-ipc",
        flags.boolean,
        "true",
        "slice pods have hostIPC; otherwise a private /dev/shm is made for them",
    )
    parser.flag(
        "--shm-size",
        flags.mebibytes,
        "",
        "the most that the private /dev/shm may hold; half of the memory if not given",
        "QUANTITY",
    )
    parser.flag(
        "--compute-mode",
        flags.choice(*ComputeMode),
        "exclusive",
        "exclusive: EXCLUSIVE_PROCESS while a GPU is held, DEFAULT after; keep: left alone",
    )
    parser.flag(
        "--on-fault",
        flags.choice(*OnFault),
        "recover",
        "recover: end the clients of a server in FAULT after 30 s; report: leave them",
    )
    parser.flag("--driver-root", flags.absolute_path, "/", "the driver's root on the host", "DIR")
    parser.flag(
        "--container-driver-root",
        flags.absolute_path,
        "/driver-root",
        "where --driver-root is mounted, if it is; programs and libraries are found there",
        "DIR",
    )
    parser.flag(
        "--log-level", flags.choice("debug", "info", "warning", "error"), "info", "what is logged"
    )
    return parser


def settings_of(values: argparse.Namespace) -> MpsSettings:
    """The settings that the flags stand for."""
    return MpsSettings(
        root=MpsRoot(values.mps_root),
        user=values.mps_user,
        host_ipc=values.host_ipc,
        compute_mode=ComputeMode(values.compute_mode),
        on_fault=OnFault(values.on_fault),
        shm_size_mib=values.shm_size,
        driver=Driver(values.driver_root, values.container_driver_root),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    values = parser().parse(arguments)
    settings = settings_of(values)
    set_up_logging(values.log_level)

    def supervise(line: socket.socket) -> int:
        from nodeagent.mps.work import supervise

        return _run(supervise(settings, line))

    def finish(line: socket.socket) -> int:
        from nodeagent.mps.work import finish

        return _run(finish(settings, line))

    try:
        settings.check()
    except MpsliceError as error:
        return _refuse(error)
    keep_from_oom()
    children = Children(lambda gpu: daemon_command(settings, gpu))
    return Reaper(supervise, finish, children).run()


def _run(work: Coroutine[Any, Any, None]) -> int:
    from mpslice.processes import run_until_signal

    try:
        run_until_signal(work)
    except MpsliceError as error:
        return _refuse(error)
    return 0


def _refuse(error: MpsliceError) -> int:
    sys.stderr.write(f"{PROGRAM}: {error}\n")
    return REFUSED
