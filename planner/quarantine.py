"""Sets a pod aside that no decision can be made with, so that it does not stop those on all others.

Anybody may write what the API server lets through into a pod, and an error of ours that it meets
would end every decision. Which pod it is, is found by leaving pods out.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from planner.model.pods import Pod
from planner.state.known import KnownNodes
from planner.view import Decision, View

ASIDE: Final = 300.0
"""Seconds after which a pod that has not changed is tried again: the others may have."""

_MOST: Final = 8  # pods that are looked for at a time
_WORDS: Final = 200  # characters of an error's own words

Decide = Callable[[View], Decision]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Aside:
    """A pod in the version that met an error, the error's words, and until when (monotonic)."""

    pod: Pod
    words: str
    until: float


class Quarantine:
    """`news` are the pods that the last decision set aside."""

    def __init__(self) -> None:
        self.news: tuple[Aside, ...] = ()
        self._aside: dict[str, Aside] = {}  # by uid

    def decide(self, view: View, now: float, decide: Decide) -> Decision:
        """The decision about all pods but those that are set aside; `now` is monotonic.

        Raises what `decide` raises where no pod is to blame, or too many are.
        """
        self.news = ()
        self._let_in(view.pods, now)
        for left in range(_MOST, -1, -1):
            trusted = without(view, self._aside)
            try:
                return decide(trusted)
            except Exception as error:
                culprit = find_culprit(trusted, decide) if left else None
                if culprit is None:
                    raise
                words = f"{type(error).__name__}: {error}"[:_WORDS]
                log.exception("a pod is set aside", extra={"pod": culprit.key})
                aside = self._aside[culprit.uid] = Aside(culprit, words, now + ASIDE)
                self.news += (aside,)
        raise AssertionError("the last turn returns or raises")

    def _let_in(self, pods: Sequence[Pod], now: float) -> None:
        """Pods that have changed or gone, or whose time is over, are set aside no more."""
        if not self._aside:
            return
        versions = {pod.uid: pod.resource_version for pod in pods}
        self._aside = {
            uid: aside
            for uid, aside in self._aside.items()
            if versions.get(uid) == aside.pod.resource_version and now < aside.until
        }


def without(view: View, aside: dict[str, Aside]) -> View:
    """The view without those pods. One that has a node counts as its node's problem: what it takes
    there is not known, and nothing is planned there."""
    if not aside:
        return view
    kept = [
        _unknown(pod, aside[pod.uid]) if pod.uid in aside and pod.node else pod
        for pod in view.pods
        if pod.uid not in aside or (pod.node and not pod.finished)
    ]
    return replace(view, pods=tuple(kept))


def _unknown(pod: Pod, aside: Aside) -> Pod:
    problem = f"pod {pod.key} on it cannot be planned with ({aside.words})"
    return Pod(pod.namespace, pod.name, pod.uid, node=pod.node, problem=problem)


def find_culprit(view: View, decide: Decide) -> Pod | None:
    """The last pod of the shortest beginning of all pods with which `decide` raises; None where it
    raises without any pod, or does not with all of them."""

    def fails(count: int) -> bool:
        try:
            decide(replace(view, pods=view.pods[:count], known=KnownNodes()))
        except Exception:  # noqa: BLE001  # it is told of once it is known whose it is
            return True
        return False

    low, high = 0, len(view.pods)
    if fails(low) or not fails(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle, high)
    return view.pods[high - 1]
