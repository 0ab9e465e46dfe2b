"""`mpslice-nodeagent verify`: its flags, the order of the trials, and what it prints."""

import json
import os
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

from mpslice import flags
from mpslice.processes import run_until_signal
from nodeagent.driver.files import Driver
from nodeagent.errors import AgentError
from nodeagent.gpus.nvml import Nvml
from nodeagent.hardware import Gpu
from nodeagent.verdicts import leave
from nodeagent.verify.bench import Unfit, bench, fit_gpu
from nodeagent.verify.checks import CHECKS, Finding, private_shm

PROGRAM: Final = "mpslice-nodeagent verify"
REFUTED, UNFIT = 1, 2

_CLAIM, _RESULT, _WIDTH = 42, 5, 80
_WORDS: Final = {True: "ok", False: "FAIL", None: "-"}


def parser() -> flags.FlagParser:
    """Its flags."""
    parser = flags.FlagParser(
        PROGRAM,
        "Proves on a GPU that nobody uses what mpslice says of MPS, in some minutes, and leaves\n"
        "the GPU as it was. It needs root, the driver's programs and libraries, and no more.\n\n"
        "Examples:\n"
        f"  {PROGRAM} --gpu=0\n"
        f"  {PROGRAM} --gpu=1 --output=json\n\n"
        "Exit status: 0 every claim holds; 1 one is refuted; 2 none can be tried.",
    )
    parser.add_version()
    parser.flag("--gpu", str, "0", "the GPU, by index or UUID", "GPU")
    parser.flag("--mps-user", flags.user_id, "1000", "the uid that the MPS server serves", "UID")
    parser.flag(
        "--result-in",
        Path,
        "",
        "the node agent's --mps-root, in which it finds the result and reports it",
        "DIR",
    )
    parser.flag("--output", flags.choice("table", "json"), "table", "what is printed", short="-o")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when every claim holds, 1 when one is refuted, 2 when none can be tried."""
    values = parser().parse(arguments)
    report: dict[str, Any] = {}

    async def work() -> None:
        report.update(await prove(values.gpu, values.mps_user))

    try:
        with surroundings(Driver()):
            run_until_signal(work())
    except (Unfit, AgentError) as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return UNFIT
    if not report:
        sys.stderr.write(f"{PROGRAM}: ended by a signal; the GPU is as it was\n")
        return UNFIT
    if values.result_in is not None:
        try:
            leave(values.result_in, report)
        except OSError as error:
            sys.stderr.write(f"{PROGRAM}: --result-in: {error}\n")
            return UNFIT
    text = json.dumps(report, indent=2) if values.output == "json" else table(report)
    sys.stdout.write(text + "\n")
    return 0 if report["verified"] else REFUTED


@contextmanager
def surroundings(driver: Driver) -> Iterator[None]:
    """Lets this program find the driver where the host's is mounted, and the programs that it
    starts both the driver and the Python packages that this one has."""
    driver.load_nvml()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with tempfile.TemporaryDirectory(prefix="driver-") as links:
        folder = Path(links)
        folder.chmod(0o755)  # clients and servers are other users' processes
        os.environ.update(driver.environment(os.environ, folder))
        yield


async def prove(wanted: str, user: int) -> dict[str, Any]:
    """What was found; raises Unfit or AgentError."""
    began, findings = monotonic(), []
    with Nvml() as nvml:
        gpu = fit_gpu(nvml, wanted)
        about = _about(nvml, gpu)
        async with bench(gpu, nvml, user, host_ipc=True) as made:
            for check in CHECKS:
                findings += await check(made)
                await made.clear()
        async with bench(gpu, nvml, user, host_ipc=False) as made:
            findings += await private_shm(made)
        mode = nvml.compute_mode(gpu.uuid).name
    left = mode == about["mode"]
    findings.append(Finding("the compute mode is as it was", left, mode))
    return {
        **about,
        "seconds": round(monotonic() - began, 1),
        "verified": all(finding.holds is not False for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def _about(nvml: Nvml, gpu: Gpu) -> dict[str, Any]:
    return {
        "uuid": gpu.uuid,
        "index": gpu.index,
        "gpu": gpu.product,
        "memory_mib": gpu.memory_mib,
        "driver": nvml.driver_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "mode": nvml.compute_mode(gpu.uuid).name,
    }


def table(report: dict[str, Any]) -> str:
    """For people, at 80 columns."""
    head = f"{report['gpu']}, driver {report['driver']}, {report['date']}"
    lines = [head, "", f"{'claim':{_CLAIM}} {'':{_RESULT}}figure"]
    indent = " " * (_CLAIM + 1 + _RESULT)
    for finding in report["findings"]:
        start = f"{finding['claim']:{_CLAIM}} {_WORDS[finding['holds']]:{_RESULT}}"
        lines += textwrap.wrap(start + finding["figure"], _WIDTH, subsequent_indent=indent)
    refuted = sum(finding["holds"] is False for finding in report["findings"])
    end = f"{refuted} claims are refuted" if refuted else "every claim holds"
    return "\n".join([*lines, "", f"{end}; {report['seconds']:.0f} s"])


if __name__ == "__main__":
    sys.exit(main())
