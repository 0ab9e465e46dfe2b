"""What a rule may know besides the pod, and what a rule is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from webhook.pods import Pod
from webhook.settings import Settings
from webhook.verdicts import Remark, Violation


@dataclass(slots=True)
class Facts:
    """`largest` in gb, None while no GPU is known; `creating` unless an existing pod is changed.

    With `completing`, a pod is judged as /mutate will leave it (`webhook.mutation`): what that adds
    counts as there, and what that strips as gone.
    """

    settings: Settings
    largest: int | None = None
    creating: bool = True
    completing: bool = False


Rule = Callable[[Pod, Facts], Iterator[Violation]]
"""Yields a violation for each container that breaks the rule, init containers first."""

Advice = Callable[[Pod, Facts], Iterator[Remark]]
"""Yields a remark for what is allowed and yet worth a warning."""
