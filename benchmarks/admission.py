"""How fast `/mutate` answers, beside a bare aiohttp handler that parses and answers the same bytes.

Both are processes of their own on loopback TLS. They are asked in turns, for a moment each and
either of them first as often, so that a busy machine hurts both alike; ratios are medians over the
turns. `python -m benchmarks.admission --help` lists the parts.
"""

import argparse
import asyncio
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.admission_client import Connection, Sample, closed_loop, connected, steady
from benchmarks.admission_hostile import hostile
from benchmarks.admission_reviews import generated
from benchmarks.admission_servers import Server, both, ours, review
from webhook.settings import Settings

PARTS = ("compare", "steady", "memory", "hostile", "reviews")

Load = Callable[[list[Connection], bytes], Awaitable[Sample]]


@dataclass(slots=True)
class Turns:
    """What one server did under a load, turn by turn; `cpu` in seconds."""

    server: Server
    connections: list[Connection]
    samples: list[Sample] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    async def take(self, load: Load) -> None:
        before = self.server.cpu_seconds()
        self.samples.append(await load(self.connections, self.server.target.request))
        self.cpu.append(self.server.cpu_seconds() - before)

    def quantile(self, share: float) -> float:
        """In milliseconds, of all requests."""
        return Sample([one for sample in self.samples for one in sample.latencies]).quantile(share)

    @property
    def rate(self) -> float:
        return statistics.median(sample.rate for sample in self.samples)

    @property
    def cpu_share(self) -> float:
        """Of one core."""
        return sum(self.cpu) / sum(sample.seconds for sample in self.samples)

    @property
    def cpu_each(self) -> float:
        """Microseconds a request."""
        return sum(self.cpu) / sum(len(sample.latencies) for sample in self.samples) * 1e6


@asynccontextmanager
async def opened(servers: tuple[Server, Server], connections: int) -> AsyncIterator[list[Turns]]:
    """Connections to both, which have been used."""
    async with AsyncExitStack() as stack:
        turns = []
        for server in servers:
            pool = await stack.enter_async_context(connected(server.target, connections))
            await closed_loop(pool, server.target.request, requests=500)
            turns.append(Turns(server, pool))
        yield turns


async def in_turns(turns: list[Turns], rounds: int, load: Load) -> None:
    """Each of the two as often first."""
    for index in range(rounds):
        for one in turns if index % 2 else reversed(turns):
            await one.take(load)


async def compare(rounds: int, seconds: float, *flags: str) -> None:
    """Ours against bare: requests a second and p99, at 16 connections and at 1."""

    def load(connections: list[Connection], request: bytes) -> Awaitable[Sample]:
        return closed_loop(connections, request, seconds=seconds)

    print(f"a review of {len(review())} bytes; {rounds} turns of {seconds:g} s each")
    async with both(*flags) as servers:
        for connections in (16, 1):
            async with opened(servers, connections) as turns:
                await in_turns(turns, rounds, load)
                for one in turns:
                    print(
                        f"  {connections:>2} connections, {one.server.name}: {one.rate:7.0f}/s, "
                        f"p99 {one.quantile(0.99):6.2f} ms, {one.cpu_each:4.0f} µs of CPU each"
                    )
                _tell_ratios(*turns)


def _tell_ratios(mine: Turns, bare: Turns) -> None:
    pairs = list(zip(mine.samples, bare.samples, strict=True))
    rates = sorted(a.rate / b.rate for a, b in pairs)
    tail = statistics.median(a.quantile(0.99) / b.quantile(0.99) for a, b in pairs)
    low, high = rates[len(rates) // 4], rates[len(rates) * 3 // 4]
    print(
        f"     rate {statistics.median(rates):.2f} of bare's (at least 0.7; half of the turns "
        f"{low:.2f} to {high:.2f}), p99 {tail:.2f} (at most 1.5), "
        f"CPU {mine.cpu_each / bare.cpu_each:.2f}"
    )


async def at_500(rounds: int, seconds: float, *flags: str) -> None:
    """Steady 500 reviews a second: p99 and the share of a core, again beside the bare handler."""

    def load(connections: list[Connection], request: bytes) -> Awaitable[Sample]:
        return steady(connections, request, rate=500, seconds=seconds)

    async with both(*flags) as servers, opened(servers, 16) as turns:
        await in_turns(turns, rounds, load)
        for one in turns:
            print(
                f"  steady {one.rate:.0f}/s, {rounds} turns of {seconds:g} s, {one.server.name}: "
                f"p50 {one.quantile(0.5):.2f} ms, p99 {one.quantile(0.99):.2f} ms (aim 5), "
                f"{one.cpu_share:.3f} of a core (aim 0.1)"
            )
        mine, bare = turns
        print(
            f"     p99 {mine.quantile(0.99) / bare.quantile(0.99):.2f} of bare's, "
            f"CPU {mine.cpu_share / bare.cpu_share:.2f}"
        )


async def memory(requests: int) -> None:
    """Resident memory over many requests."""
    steps, seen = 10, []
    async with ours() as server, connected(server.target, 16) as pool:
        for step in range(steps + 1):
            seen.append(server.resident_mib())
            print(f"  {step * requests // steps:>9,} requests: {seen[-1]:6.1f} MiB")
            if step < steps:
                await closed_loop(pool, server.target.request, requests=requests // steps)
    # What the first requests touch for good is no growth.
    grown = seen[-1] - seen[1]
    print(f"     {max(seen):.1f} MiB at most (aim 120), {grown:+.1f} MiB since the first tenth")


def main() -> None:
    """Runs the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.admission", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each (default 40)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn (default 0.5)")
    parser.add_argument("--requests", type=int, default=500_000, help="of memory (default 500000)")
    parser.add_argument("--attack", type=float, default=20, help="seconds of it (default 20)")
    parser.add_argument("--reviews", type=int, default=200_000, help="generated (default 200000)")
    text = "as with quota.enabled (compare, steady and reviews)"
    parser.add_argument("--quota", action="store_true", help=text)
    options = parser.parse_args()
    unknown = set(options.part) - set(PARTS)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    chosen = options.part or PARTS
    flags = ("--quota=true",) if options.quota else ()
    if "compare" in chosen:
        asyncio.run(compare(options.rounds, options.seconds, *flags))
    if "steady" in chosen:
        asyncio.run(at_500(options.rounds, options.seconds, *flags))
    if "memory" in chosen:
        asyncio.run(memory(options.requests))
    if "hostile" in chosen:
        asyncio.run(hostile(options.attack))
    if "reviews" in chosen:
        generated(options.reviews, Settings(quota=options.quota))


if __name__ == "__main__":
    main()
