"""Sets pods aside that no decision can be made with, so that they do not stop those on all others.

Anybody may write what the API server lets through into a pod, and an error of ours that it meets
would end every decision. Which pod it is, is found by leaving pods out; those that are like it are
set aside with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from planner.model.pods import Pod
from planner.state.known import KnownNodes
from planner.view import Decision, View

ASIDE: Final = 300.0
"""Seconds after which such pods are tried again: what they met may have changed."""

_WORDS: Final = 200  # characters of an error's own words

Decide = Callable[[View], Decision]


@dataclass(frozen=True, slots=True)
class Aside:
    """The pod that met an error, the error's words, and until when (monotonic seconds)."""

    pod: Pod
    words: str
    until: float


class Quarantine:
    """What is set aside; `trusted` is what a decision can be made on."""

    def __init__(self) -> None:
        self._aside: dict[Pod, Aside] = {}  # by what is alike

    def trusted(self, view: View, now: float) -> View:
        """The view without those pods, while their time is not over (monotonic seconds).

        One that has a node counts as its node's problem: what it takes there is not known, and
        nothing is planned there.
        """
        self._aside = {kind: aside for kind, aside in self._aside.items() if now < aside.until}
        if not self._aside:
            return view
        kept = []
        for pod in view.pods:
            aside = self._aside.get(_kind(pod))
            if aside is None or pod.problem:
                kept.append(pod)
            elif pod.node and not pod.finished:
                kept.append(_unknown(pod, aside))
        return replace(view, pods=tuple(kept))

    def set_aside(self, culprit: Pod, error: Exception, now: float) -> Aside:
        """Has the pod and those like it left out from now on."""
        words = f"{type(error).__name__}: {error}"[:_WORDS]
        aside = self._aside[_kind(culprit)] = Aside(culprit, words, now + ASIDE)
        return aside


def _kind(pod: Pod) -> Pod:
    """The pod as all replicas of a workload have it: without its name, its age and its status."""
    return replace(
        pod,
        name="",
        uid="",
        resource_version="",
        created="",
        node="",
        nominated="",
        unschedulable="",
        available=None,
        finished=False,
        succeeded=False,
        terminating=False,
        gates=(),
    )


def _unknown(pod: Pod, aside: Aside) -> Pod:
    problem = f"pod {pod.key} on it cannot be planned with ({aside.words})"
    return Pod(pod.namespace, pod.name, pod.uid, node=pod.node, problem=problem)


def find_culprit(view: View, decide: Decide) -> Pod | None:
    """The last pod of the shortest beginning of all pods with which `decide` raises; None where it
    raises without any pod, or does not with all of them, or where that pod is set aside already.

    It makes some fourteen decisions for ten thousand pods.
    """

    def fails(count: int) -> bool:
        try:
            decide(replace(view, pods=view.pods[:count], known=KnownNodes()))
        except Exception:  # noqa: BLE001  # the caller has caught and tells the same error
            return True
        return False

    low, high = 0, len(view.pods)
    if fails(low) or not fails(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle, high)
    culprit = view.pods[high - 1]
    return None if culprit.problem else culprit
