"""How fast `/mutate` answers, beside a bare aiohttp handler that parses and answers the same bytes.

Both are processes of their own on loopback TLS; rounds alternate, so that both see the same
neighbours. `python -m benchmarks.admission --help` lists the parts.
"""

import argparse
import asyncio
import statistics

from benchmarks.admission_client import Sample, closed_loop, for_seconds, steady, times
from benchmarks.admission_reviews import generated
from benchmarks.admission_servers import both, ours, review

PARTS = ("compare", "steady", "memory", "reviews")


async def compare(rounds: int, seconds: float) -> None:
    """Ours against bare: requests a second and p99, at 16 connections and at 1."""
    async with both() as servers:
        print(f"a review of {len(review())} bytes; {rounds} rounds of {seconds:g} s each")
        for connections in (16, 1):
            taken: dict[str, list[Sample]] = {server.name: [] for server in servers}
            spent = {server.name: -server.cpu_seconds() for server in servers}
            for _ in range(rounds):
                for server in servers:
                    sample = await closed_loop(server.target, connections, for_seconds(seconds))
                    taken[server.name].append(sample)
            for server in servers:
                spent[server.name] += server.cpu_seconds()
                _tell(server.name, connections, taken[server.name], spent[server.name])
            pairs = list(zip(taken["ours"], taken["bare"], strict=True))
            rate = statistics.median(a.rate / b.rate for a, b in pairs)
            tail = statistics.median(a.quantile(0.99) / b.quantile(0.99) for a, b in pairs)
            print(f"     rate {rate:.2f} of bare's (at least 0.75), p99 {tail:.2f} (at most 1.5)")


def _tell(name: str, connections: int, samples: list[Sample], cpu_seconds: float) -> None:
    rate = statistics.median(sample.rate for sample in samples)
    tail = statistics.median(sample.quantile(0.99) for sample in samples)
    each = cpu_seconds / sum(len(sample.latencies) for sample in samples) * 1e6
    print(
        f"  {connections:>2} connections, {name}: {rate:7.0f}/s, p99 {tail:6.2f} ms, "
        f"{each:4.0f} µs of CPU each"
    )


async def at_500(seconds: float) -> None:
    """Steady 500 reviews a second: p99 and the share of a core, again beside the bare handler."""
    async with both() as servers:
        for server in servers:
            await closed_loop(server.target, 4, times(2000))
            before = server.cpu_seconds()
            sample = await steady(server.target, 500, seconds)
            share = (server.cpu_seconds() - before) / sample.seconds
            print(
                f"  steady {sample.rate:.0f}/s for {sample.seconds:.0f} s, {server.name}: "
                f"p50 {sample.quantile(0.5):.2f} ms, p99 {sample.quantile(0.99):.2f} ms (aim 5), "
                f"{share:.3f} of a core (aim 0.1)"
            )


async def memory(requests: int) -> None:
    """Resident memory over many requests."""
    steps = 10
    async with ours() as server:
        for step in range(steps + 1):
            print(f"  {step * requests // steps:>9,} requests: {server.resident_mib():6.1f} MiB")
            if step < steps:
                await closed_loop(server.target, 16, times(requests // steps))


def main() -> None:
    """Runs the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.admission", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="of compare (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a round (default 4)")
    parser.add_argument("--requests", type=int, default=500_000, help="of memory (default 500000)")
    parser.add_argument("--reviews", type=int, default=200_000, help="generated (default 200000)")
    options = parser.parse_args()
    unknown = set(options.part) - set(PARTS)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    chosen = options.part or PARTS
    if "compare" in chosen:
        asyncio.run(compare(options.rounds, options.seconds))
    if "steady" in chosen:
        asyncio.run(at_500(options.seconds * 5))
    if "memory" in chosen:
        asyncio.run(memory(options.requests))
    if "reviews" in chosen:
        generated(options.reviews)


if __name__ == "__main__":
    main()
