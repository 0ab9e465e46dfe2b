"""The optima of the small instances, kept in packing_optima.json and proved anew by this main.

HiGHS proves each; CP-SAT, with a model of its own, has to agree wherever it is done in time.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.packing_optimum import proved
from benchmarks.packing_small import SmallInstance, fingerprint, small_instances

_FILE: Final = Path(__file__).with_suffix(".json")
SEEDS: Final = (42, 43, 44, 45, 46)


@dataclass(frozen=True, slots=True)
class Optimum:
    """gb by priority class from the highest; whether CP-SAT proved the same."""

    fingerprint: str
    gb: tuple[int, ...]
    cp_sat: bool


def kept() -> dict[str, Optimum]:
    """What was proved before, by the instance's name."""
    if not _FILE.exists():
        return {}
    return {
        name: Optimum(each["fingerprint"], tuple(each["gb"]), each["cp_sat"])
        for name, each in json.loads(_FILE.read_text()).items()
    }


def optimum_of(instance: SmallInstance, known: dict[str, Optimum]) -> Optimum:
    """The kept optimum, or a new proof where the instance is another than it was."""
    found = known.get(instance.name)
    if found is not None and found.fingerprint == fingerprint(instance):
        return found
    return Optimum(fingerprint(instance), proved(instance, seconds=600), cp_sat=False)


def prove(seeds: Sequence[int], cp_sat_seconds: float) -> dict[str, Optimum]:
    """All optima anew; SystemExit when the two solvers contradict one another."""
    from benchmarks.packing_cpsat import proved_by_cp_sat  # ortools is of the extra `bench`

    optima: dict[str, Optimum] = {}
    for instance in small_instances(seeds):
        gb = proved(instance, seconds=600)
        second = proved_by_cp_sat(instance, cp_sat_seconds)
        if second is not None and second != gb:
            raise SystemExit(f"{instance.name}: HiGHS proves {gb}, CP-SAT {second}")
        optima[instance.name] = Optimum(fingerprint(instance), gb, second is not None)
        print(f"{instance.name}: {gb}{'' if second else ', CP-SAT not done'}", file=sys.stderr)
    return optima


def main() -> None:
    """Writes packing_optima.json; needs the extra `bench`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing_optima")
    parser.add_argument(
        "--cp-sat-seconds", type=float, default=20.0, help="for a class (default 20)"
    )
    options = parser.parse_args()
    optima = prove(SEEDS, options.cp_sat_seconds)
    lines = (f"{json.dumps(name)}: {json.dumps(asdict(each))}" for name, each in optima.items())
    _FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    agreed = sum(each.cp_sat for each in optima.values())
    print(f"{len(optima)} optima proved by HiGHS, {agreed} of them by CP-SAT too")


if __name__ == "__main__":
    main()
