"""Records the session anew into its page, on a control plane of its own."""

import asyncio
import sys
from random import Random

from hack.cluster import controlplane, lifecycle, parts
from hack.cluster.controlplane import ControlPlane
from tests.cli.session.page import PAGE, Typed, record
from tests.cli.session.world import World

_SETTLED = 3
"""A command that changes nothing has to print the same so often before it is recorded."""


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


async def play(plane: ControlPlane) -> str:
    async with World.of(plane, Random(0)) as world:

        async def settled(typed: Typed) -> str:
            answers = [await world.answer(typed)]
            while typed.looks and (len(answers) < _SETTLED or len({*answers[-_SETTLED:]}) > 1):
                await asyncio.sleep(0.1)
                answers.append(await world.answer(typed))
            return answers[-1]

        return await record(PAGE.read_text(), world.do, settled)


def main() -> None:
    obtained = parts.obtain(say)
    with lifecycle.owned(say) as cluster:
        PAGE.write_text(asyncio.run(play(controlplane.start(cluster, obtained, say))))


main()
