"""Six clients send what is dearest to read: others are answered, and memory stays bounded.

The bounds are those that `python -m benchmarks.admission hostile` prints, for a shorter time.
"""

import asyncio

from benchmarks.admission_hostile import Outcome, containers, post, under_attack
from benchmarks.admission_servers import ours

# The machine may be busy with other tests, so that a bound in seconds is met at the second or
# third try; a webhook that lets the large bodies go first meets it never.
_TRIES = 3


def is_bounded(outcome: Outcome) -> bool:
    return outcome.p99 < 1 and outcome.slowest_probe < 1


async def test_ordinary_reviews_and_probes_are_answered_within_a_second_below_256_mib() -> None:
    async with ours() as server:
        for _ in range(_TRIES):
            outcome = await under_attack(server, 4)
            assert outcome.probes_well, outcome.probes
            assert len(outcome.ordinary.latencies) == 4 * 50
            assert outcome.senders.keys() <= {"200", "413", "429"}, outcome.senders
            assert outcome.senders.total() >= 6
            assert outcome.peak_mib < 256
            if is_bounded(outcome):
                return
        assert is_bounded(outcome), (outcome.p99, outcome.slowest_probe)


async def test_a_pod_of_110000_containers_is_refused_with_200_ms_of_work() -> None:
    """On an idle machine, that is as long as it takes."""
    body = containers(110_000)
    async with ours() as server:
        work = []
        for _ in range(_TRIES):
            before = server.cpu_seconds()
            port, context = server.target.port, server.target.context
            assert await asyncio.to_thread(post, port, context, body) == "413"
            work.append(server.cpu_seconds() - before)
        assert min(work) < 0.2
