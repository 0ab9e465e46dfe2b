"""The command: runs the whole on so many nodes, prints tables, keeps the figures if asked to."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.cluster.crowd import crowd
from benchmarks.cluster.figures import Figures, figures
from benchmarks.cluster.phases import everything
from benchmarks.cluster.run import PHASES, Options, Run
from benchmarks.cluster.samples import flow_of
from benchmarks.cluster.stand import stand
from benchmarks.cluster.surroundings import surroundings
from benchmarks.cluster.table import lines
from benchmarks.cluster.usage import Watch
from hack.cluster import parts as cluster_parts
from hack.cluster.parts import Parts
from hack.cluster.progress import Say, to_stderr


async def measure(options: Options, parts: Parts, say: Say) -> Figures:
    """One run on a cluster of its own."""
    async with stand(parts, options.nodes, say) as (standing, kube):
        pids = {name: program.pid for name, program in standing.components.items()}
        watch = Watch(pids, standing.plane.url.removeprefix("https://"))
        looking = asyncio.create_task(watch.run())
        try:
            async with crowd(kube) as people:
                run = Run(standing, options, people, watch)
                await everything(run)
        finally:
            looking.cancel()
            await asyncio.wait({looking})
        flow = flow_of(str(await asyncio.to_thread(standing.plane.api.get, "/metrics")))
        await asyncio.to_thread(standing.agents.stop)
        refused = json.loads(standing.refusals.read_text())["refused"]
        return await asyncio.to_thread(figures, run, refused, flow)


def command(options: Options) -> str:
    """What makes the same run: every option that has another value than it would have."""
    given = parser().parse_args([])
    words = [
        f"--{name.replace('_', '-')} {' '.join(value) if name == 'phases' else f'{value:g}'}"
        for name, value in asdict(options).items()
        if value != getattr(given, name, value)
    ]
    return " ".join(("python -m benchmarks.cluster", *words))


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    default = Options(0)
    made.add_argument("--nodes", type=int, default=10, help="of 8 GPUs of 80 gb each (default 10)")
    made.add_argument(
        "--lone", type=int, default=default.lone, help="pods of each kind, one by one"
    )
    made.add_argument("--burst", type=int, default=default.burst, help="pods made at once")
    made.add_argument("--rate", type=float, default=default.rate, help="pods a second after that")
    made.add_argument("--seconds", type=float, default=default.seconds, help="for so long")
    made.add_argument("--load", type=float, default=default.load, help="of the GPUs' memory")
    made.add_argument("--waiting", type=int, default=default.waiting, help="pods without room")
    made.add_argument("--waiting-gb", type=int, default=default.waiting_gb, help="of that size")
    made.add_argument("--seed", type=int, default=default.seed)
    made.add_argument("--patience", type=float, default=default.patience, metavar="SECONDS",
                      help="a phase is left after so long, whatever is unbound")  # fmt: skip
    made.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    made.add_argument("--limit", type=float, default=3600, metavar="SECONDS",
                      help="the whole ends, without figures, after so long")  # fmt: skip
    made.add_argument("--save", type=Path, metavar="FILE", help="keep the figures as JSON")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 when it did not end in time."""
    given = vars(parser().parse_args(arguments))
    limit, save = given.pop("limit"), given.pop("save")
    options = Options(**{**given, "phases": tuple(given["phases"])})
    around = surroundings(command(options))

    async def within() -> Figures:
        async with asyncio.timeout(limit):
            return await measure(options, cluster_parts.obtain(to_stderr), to_stderr)

    try:
        found = {**around, **asyncio.run(within())}
    except TimeoutError:
        print(f"not done within {limit:.0f} s; give --limit more", file=sys.stderr)
        return 1
    print("\n".join(lines(found)))
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
