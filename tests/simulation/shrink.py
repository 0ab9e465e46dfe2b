"""A smaller script that breaks an invariant still: what is not needed for it is left out."""

from collections.abc import Iterator
from dataclasses import replace

from tests.simulation.run import Outcome, play
from tests.simulation.script import Script


def shrunk(script: Script) -> tuple[Script, Outcome]:
    """The script and its outcome, from which nothing more can be left out alone."""
    outcome = play(script)
    while True:
        for smaller in _smaller(script):
            tried = play(smaller)
            if tried.problems:
                script, outcome = smaller, tried
                break
        else:
            return script, outcome


def _smaller(script: Script) -> Iterator[Script]:
    for number in range(len(script.troubles)):
        left = script.troubles[:number] + script.troubles[number + 1 :]
        yield replace(script, troubles=left)
    for number in range(len(script.arrivals)):
        rest = script.arrivals[:number] + script.arrivals[number + 1 :]
        yield replace(script, arrivals=rest)
    if script.planners > 1:
        yield replace(script, planners=1)
