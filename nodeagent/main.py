"""The executable `mpslice-nodeagent`: flags, one line for what cannot work, and the signals.

Everything heavy is imported after the flags are parsed, so that `--help` answers at once.
"""

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mpslice import flags
from mpslice.errors import MpsliceError
from mpslice.gpus import MemoryUnit
from mpslice.logs import set_up_logging
from mpslice.processes import run_until_signal
from nodeagent.driver.files import Driver
from nodeagent.errors import BadSettings
from nodeagent.gpus.health import NVIDIAS_LIST, IgnoredXids, parse_ignored_xids
from nodeagent.settings import Compute, DeviceListStrategy, Pipe, Settings

if TYPE_CHECKING:
    from nodeagent.agent import ClosableKube
    from nodeagent.hardware import Gpus, MpsControl

PROGRAM = "mpslice-nodeagent"

NVIDIAS_VARIABLE = "DP_DISABLE_HEALTHCHECKS"


def parser() -> flags.FlagParser:
    """The flags; others may rely on those in docs/design/programs.md."""
    parser = flags.FlagParser(
        PROGRAM,
        "Makes the GPU slices of this node's NodeLayout exist for its kubelet.\n\n"
        "Examples:\n"
        f"  {PROGRAM} --node-name=gpu-1 --mps-user=1000 --reserved-memory=256Mi\n"
        f"  {PROGRAM} --node-name=gpu-1 --simulated-gpus=gpus.yaml --kubeconfig=agent.conf",
        epilog=f"`{PROGRAM} mps` keeps the MPS daemons; `{PROGRAM} close-driver` has both let go "
        f"of the GPUs for a reset; `{PROGRAM} verify` proves on a GPU what is said of MPS. Each "
        "has a --help.",
    )
    parser.add_version()
    parser.flag("--node-name", str, "", "this node's name in the cluster; required")
    parser.flag("--kubeconfig", str, "", "credentials outside a cluster", "FILE")
    parser.flag(
        "--device-plugin-dir",
        flags.absolute_path,
        "/var/lib/kubelet/device-plugins",
        "the kubelet's device plugin directory",
    )
    parser.flag(
        "--pod-resources-socket",
        flags.absolute_path,
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        "the kubelet's PodResources socket",
    )
    parser.flag(
        "--simulated-gpus", Path, "", "GPUs out of this YAML file instead of the driver's", "FILE"
    )
    parser.flag(
        "--mps-root",
        flags.absolute_path,
        "/run/mpslice",
        "where the MPS daemons' directories are",
        "DIR",
    )
    parser.flag("--mps-user", flags.user_id, "1000", "the uid that the MPS servers serve", "UID")
    parser.flag(
        "--host-ipc",
        flags.boolean,
        "true",
        "slice pods have hostIPC; otherwise a private /dev/shm is mounted",
    )
    units = [unit.name for unit in MemoryUnit]
    parser.flag("--memory-unit", flags.choice(*units), "GB", "what a gb is: GB or GiB")
    parser.flag(
        "--reserved-memory", flags.mebibytes, "256Mi", "kept back for MPS on each GPU", "QUANTITY"
    )
    parser.flag(
        "--compute",
        flags.choice(*Compute),
        "shared",
        "shared: slices share compute equally; proportional: capped at their share of memory",
    )
    parser.flag(
        "--pipe",
        flags.choice(*Pipe),
        "open",
        "open: a container gets all of its daemon's pipe directory; sealed: its socket alone, "
        "read-only",
    )
    parser.flag(
        "--quota",
        flags.boolean,
        "false",
        "the node offers the gb of its GPUs as the resource mpslice.io/gb, which quotas count",
    )
    parser.flag(
        "--device-list-strategy",
        flags.choice(*DeviceListStrategy),
        "envvar",
        "envvar: NVIDIA's container runtime gives containers their GPU; cdi-cri: the container "
        "runtime itself does, by the CDI specification of NVIDIA's toolkit",
    )
    parser.flag(
        "--pass-device-specs",
        flags.boolean,
        "true",
        "with envvar, name the device nodes to the kubelet too, which a reload of systemd needs",
    )
    parser.flag(
        "--cdi",
        flags.boolean,
        "true",
        "give slices as CDI devices too, whose environment no pod can replace",
    )
    parser.flag(
        "--cdi-dir",
        flags.absolute_path,
        "/var/run/cdi",
        "where the container runtime reads CDI specifications",
        "DIR",
    )
    parser.flag("--driver-root", flags.absolute_path, "/", "the driver's root on the host", "DIR")
    parser.flag(
        "--container-driver-root",
        flags.absolute_path,
        "/driver-root",
        "where --driver-root is mounted, if it is",
        "DIR",
    )
    parser.flag(
        "--ignored-xids",
        parse_ignored_xids,
        "",
        "critical errors after which a GPU stays healthy, beside those that are an application's "
        "own fault: numbers with commas between them, or all; $DP_DISABLE_HEALTHCHECKS adds to it",
        "LIST",
    )
    parser.flag(
        "--ops-listen",
        flags.address,
        "0.0.0.0:8081",
        "serves /healthz, /readyz and /metrics",
        "HOST:PORT",
    )
    parser.flag(
        "--log-level", flags.choice("debug", "info", "warning", "error"), "info", "what is logged"
    )
    return parser


def settings_of(
    values: argparse.Namespace, environment: Mapping[str, str] = os.environ
) -> Settings:
    """The settings that the flags stand for; raises BadSettings for an unusable variable."""
    return Settings(
        node_name=values.node_name,
        device_plugin_dir=values.device_plugin_dir,
        pod_resources_socket=values.pod_resources_socket,
        mps_root=values.mps_root,
        ops_listen=values.ops_listen,
        kubeconfig=values.kubeconfig,
        simulated_gpus=values.simulated_gpus,
        mps_user=values.mps_user,
        host_ipc=values.host_ipc,
        memory_unit=MemoryUnit[values.memory_unit],
        reserved_memory_mib=values.reserved_memory,
        compute=Compute(values.compute),
        pipe=Pipe(values.pipe),
        quota=values.quota,
        device_list_strategy=DeviceListStrategy(values.device_list_strategy),
        pass_device_specs=values.pass_device_specs,
        cdi=values.cdi,
        cdi_dir=values.cdi_dir,
        driver=Driver(values.driver_root, values.container_driver_root),
        ignored_xids=(values.ignored_xids or NVIDIAS_LIST) | _nvidias(environment),
    )


def _nvidias(environment: Mapping[str, str]) -> IgnoredXids:
    """What charts for NVIDIA's device plugin, and for nos, have to say about Xids."""
    text = environment.get(NVIDIAS_VARIABLE, "")
    try:
        return parse_ignored_xids(text)
    except ValueError as error:
        raise BadSettings(f"${NVIDIAS_VARIABLE}: {text!r} {error}") from error


async def run(settings: Settings) -> None:
    """Runs the agent until it is cancelled; raises MpsliceErrors, alone or in groups."""
    try:
        await _serve(settings)
    except Exception as error:
        from nodeagent.failure import agent_error, report_failure

        failure = agent_error(error)
        if failure is not None:
            await report_failure(partial(_connect, settings), settings.node_name, failure)
        raise


async def _serve(settings: Settings) -> None:
    settings.check()
    from nodeagent.agent import run_agent

    gpus, mps = await _hardware(settings)
    await run_agent(settings, gpus, mps, partial(_connect, settings))


async def _hardware(settings: Settings) -> "tuple[Gpus, MpsControl]":
    if settings.simulated_gpus is not None:
        from nodeagent.simulation import SimulatedGpus, SimulatedMps

        simulated = SimulatedGpus(settings.simulated_gpus)
        return simulated, SimulatedMps(simulated)
    from nodeagent.driver.closing import Closing
    from nodeagent.gpus.real import NvmlGpus
    from nodeagent.mps.client import MpsFiles
    from nodeagent.mps.paths import MpsRoot
    from nodeagent.waiting import gpus_in_time

    root = MpsRoot(settings.mps_root)
    gpus = await gpus_in_time(
        settings,
        partial(_connect, settings),
        partial(NvmlGpus.start, settings.ignored_xids, Closing(root.closed).check),
    )
    mps = MpsFiles(root, host_ipc=settings.host_ipc)
    await mps.load()
    return gpus, mps


async def _connect(settings: Settings) -> "ClosableKube":
    # In a thread, so that the kubelet stays served: these take half a second.
    for module in ("mpslice.kube.session", "nodeagent.controller", "mpslice.ops"):
        await asyncio.to_thread(importlib.import_module, module)
    from mpslice.kube.session import Session

    return await Session.connect("nodeagent", settings.kubeconfig)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["mps"]:
        from nodeagent.mps.main import main as mps

        return mps(words[1:])
    if words[:1] == ["verify"]:
        flags.need_programs_extra(PROGRAM, "pynvml")
        from nodeagent.verify.__main__ import main as verify

        return verify(words[1:])
    if words[:1] == ["close-driver"]:
        from nodeagent.driver.main import main as close_driver

        return close_driver(words[1:])
    flag_parser = parser()
    values = flag_parser.parse(words)
    if not values.node_name:
        flag_parser.error("--node-name: is required")
    flags.need_programs_extra(PROGRAM, "grpc", "pynvml")
    set_up_logging(values.log_level)
    try:
        run_until_signal(run(settings_of(values)))
    except MpsliceError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
