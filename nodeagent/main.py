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
from nodeagent.errors import BadSettings
from nodeagent.gpus.health import NVIDIAS_LIST, IgnoredXids, parse_ignored_xids
from nodeagent.kubelet.driver import Driver
from nodeagent.settings import Compute, DeviceListStrategy, Settings

if TYPE_CHECKING:
    from nodeagent.agent import ClosableKube
    from nodeagent.hardware import Gpus, MpsControl

PROGRAM = "mpslice-nodeagent"

NVIDIAS_VARIABLE = "DP_DISABLE_HEALTHCHECKS"


def parser() -> flags.FlagParser:
    """The flags of DESIGN.md, section 10."""
    parser = flags.FlagParser(
        PROGRAM,
        "Makes the GPU slices of this node's NodeLayout exist for its kubelet.",
        epilog=f"`{PROGRAM} mps` keeps the MPS daemons; see {PROGRAM} mps --help.",
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
        device_list_strategy=DeviceListStrategy(values.device_list_strategy),
        pass_device_specs=values.pass_device_specs,
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
        from nodeagent.cluster.failure import agent_error, report_failure

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
    from nodeagent.gpus.real import NvmlGpus
    from nodeagent.mps.client import MpsFiles
    from nodeagent.mps.paths import MpsRoot

    settings.driver.load_nvml()
    gpus = await NvmlGpus.start(settings.ignored_xids)
    mps = MpsFiles(MpsRoot(settings.mps_root), host_ipc=settings.host_ipc)
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
    flag_parser = parser()
    values = flag_parser.parse(words)
    if not values.node_name:
        flag_parser.error("--node-name: is required")
    set_up_logging(values.log_level)
    try:
        run_until_signal(run(settings_of(values)))
    except MpsliceError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
