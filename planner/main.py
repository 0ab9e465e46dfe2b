"""`mpslice-planner`: flags, and the tasks that make up the process."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from mpslice.errors import MpsliceError
from mpslice.flags import (
    FlagParser,
    address,
    boolean,
    choice,
    duration,
    label,
    loopback,
    positive,
    slice_limit,
)

if TYPE_CHECKING:
    from planner.service import ServiceSettings


_DESCRIPTION: Final = """\
Decides which GPU slices exist on which node, and lets slice pods go.

Examples:
  mpslice-planner --namespace=mpslice-system --batch-idle=500ms --batch-max=5s
  mpslice-planner --leader-elect=false --kubeconfig=planner.conf --log-level=debug"""


def flags() -> FlagParser:
    """The flags; others may rely on those in docs/design/programs.md."""
    parser = FlagParser("mpslice-planner", _DESCRIPTION)
    parser.add_version()
    parser.flag(
        "--node-label",
        label,
        "nos.nebuly.com/gpu-partitioning=mps",
        "the label that hands a node's GPUs to mpslice",
        "KEY=VALUE",
    )
    parser.flag("--batch-idle", duration, "200ms", "a burst is planned once it was idle so long")
    parser.flag("--batch-max", duration, "2s", "a burst is planned after so long at the latest")
    parser.flag("--gate", boolean, "true", "take the scheduling gates of slice pods away")
    parser.flag("--max-slices-per-gpu", slice_limit, "48", "at most so many slices on one GPU")
    parser.flag("--memory-unit", choice("GB", "GiB"), "GB", "the gb of metrics: 10^9 bytes or 2^30")
    parser.flag(
        "--solver",
        choice("auto", "on", "off"),
        "auto",
        "let HiGHS guide a plan in which not everything fits; auto: where highspy is installed",
    )
    parser.flag(
        "--preemption",
        boolean,
        "false",
        "evict pods of lower priority, whatever their size, for a pod that fits nowhere else",
    )
    parser.flag("--ops-listen", address, "0.0.0.0:8080", "health, readiness and metrics")
    parser.flag(
        "--ui-listen",
        loopback,
        "",
        "the web page, for kubectl port-forward; a loopback address, such as 127.0.0.1:8082",
    )
    parser.flag("--leader-elect", boolean, "true", "plan only while holding the Lease")
    parser.flag("--namespace", str, "mpslice-system", "where the Lease lives")
    parser.flag("--kube-api-qps", positive, "400", "at most so many writes a second, after a burst")
    parser.flag("--kube-api-burst", positive, "1000", "so many writes at once, when it was quiet")
    parser.flag("--kubeconfig", str, "", "in-cluster credentials are used without it", "FILE")
    levels = choice("debug", "info", "warning", "error")
    parser.flag("--log-level", levels, "info", "the least severe lines to log")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; ends with 0 after SIGTERM, with 1 and one line when it cannot go on."""
    options = flags().parse(arguments)
    # Imported late, so that --help and a bad flag answer at once.
    from mpslice.logs import set_up_logging
    from mpslice.processes import run_until_signal
    from planner.packing import solver_is_installed
    from planner.service import serve

    if options.solver == "on" and not solver_is_installed():
        sys.exit("mpslice-planner: --solver: highspy is not installed; pip install mpslice[solver]")
    set_up_logging(options.log_level)
    try:
        run_until_signal(serve(_settings(options)))
    except MpsliceError as error:
        sys.exit(f"mpslice-planner: {error}")


def _settings(options: Namespace) -> ServiceSettings:
    from mpslice.gpus import MemoryUnit
    from planner.controller import Settings
    from planner.packing import solver_is_installed
    from planner.service import ServiceSettings

    return ServiceSettings(
        planning=Settings(
            label=options.node_label,
            batch_idle=options.batch_idle,
            batch_max=options.batch_max,
            gate=options.gate,
            max_slices_per_gpu=options.max_slices_per_gpu,
            qps=options.kube_api_qps,
            burst=options.kube_api_burst,
            solver=options.solver != "off" and solver_is_installed(),
            preemption=options.preemption,
        ),
        ops_listen=options.ops_listen,
        ui_listen=options.ui_listen,
        leader_elect=options.leader_elect,
        namespace=options.namespace,
        memory_unit=MemoryUnit[options.memory_unit],
        kubeconfig=options.kubeconfig,
    )


if __name__ == "__main__":
    main()
