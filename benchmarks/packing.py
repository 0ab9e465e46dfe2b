"""The packer beside four others on the same instances, and beside what could be reached at most.

Every figure stands beside what is demanded of it; a figure that falls short is told, and does not
fail the run. `python -m benchmarks.packing --help` lists the instances.
"""

import argparse
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.packing_gaps import gap_rows
from benchmarks.packing_hostile import hostile_rows
from benchmarks.packing_instances import FLEETS, data_folder
from benchmarks.packing_loads import batch_rows, load_rows, nos_rows
from benchmarks.packing_report import Row, show, write_json
from benchmarks.packing_rules import rule_rows
from benchmarks.packing_times import memory_rows, time_rows

Source = Callable[[Sequence[int], Sequence[bool]], Iterator[Row]]


def _fleet(name: str) -> Source:
    return lambda seeds, solvers: load_rows(name, seeds, solvers)


INSTANCES: Final[dict[str, Source]] = {
    **{name: _fleet(name) for name in FLEETS},
    "batches": batch_rows,
    "nos": lambda _, solvers: nos_rows(solvers),
    "small": gap_rows,
    "rules": rule_rows,
    "times": time_rows,
    "memory": memory_rows,
    "hostile": lambda _, solvers: hostile_rows(solvers),
}


def _seeds(text: str) -> list[int]:
    """`42-46` or `42,44`; argparse turns the ValueError of anything else into its own message."""
    first, dash, last = text.partition("-")
    if dash:
        return list(range(int(first), int(last) + 1))
    return [int(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables as they come; writes the JSON at the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing", description=__doc__)
    names = ", ".join(INSTANCES)
    parser.add_argument("--instances", default=names, help=f"of {names}; all by default")
    parser.add_argument("--seeds", type=_seeds, default="42-46", help="default 42-46")
    parser.add_argument(
        "--solver",
        action=argparse.BooleanOptionalAction,
        help="only with, or only without the solver; both by default",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    options = parser.parse_args(arguments)
    chosen = [name.strip() for name in options.instances.split(",")]
    unknown = [name for name in chosen if name not in INSTANCES]
    if unknown:
        parser.error(f"no instance is called {unknown[0]!r}; choose of {names}")
    solvers = (False, True) if options.solver is None else (options.solver,)
    data = "the openb trace's tables" if data_folder() else "generated, distributed as openb is"
    print(f"pods and fleets: {data}; seeds {', '.join(map(str, options.seeds))}", flush=True)
    console = Console(width=None if "COLUMNS" in os.environ else 160)
    rows: list[Row] = []
    for name in chosen:
        found = list(INSTANCES[name](options.seeds, solvers))
        rows += found
        if found:
            show(found, console)
    missed = [row for row in rows if row.met is False]
    print(f"{sum(row.met is True for row in rows)} demands are met, {len(missed)} are not")
    if options.json is not None:
        about = {"data": data, "seeds": options.seeds, "python": platform.python_version()}
        write_json(rows, about, options.json)


if __name__ == "__main__":
    main()
