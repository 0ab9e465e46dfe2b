"""What a case of the table is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.webhook.cases.manifests import Manifest
from webhook.verdicts import Reason


@dataclass(frozen=True)
class Case:
    """A manifest and what becomes of it: refused for `reason`, and `also`, or let through.

    `warns` are the topics of the warnings. `api` is part of the API server's own answer, for what
    it refuses by itself and we say nothing of.
    """

    name: str
    manifest: Manifest
    reason: Reason | None = None
    also: tuple[Reason, ...] = ()
    warns: tuple[str, ...] = ()
    api: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Of each line of the refusal."""
        return () if self.reason is None else (self.reason, *self.also)
