"""What admission can answer: reason codes, violations, patches and the verdict that holds them.

Apart from the rules, because the server, the offline plan and the tests speak in these words.
A Verdict is a NamedTuple, for a frozen dataclass takes four times as long to make.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple, NotRequired, TypedDict

EMPTY: Final[Mapping[str, Any]] = {}
"""What an object that is absent is taken for; nobody writes into it, as its type says."""

LONGEST_WARNING: Final = 256
"""Characters that the API server passes on (apiserver/pkg/endpoints/filters/warning.go)."""

_LONGEST_NAME: Final = 64
_SHORTENED_NAME: Final = 24


class Reason(StrEnum):
    """The closed list of reason codes, in the order in which the rules are tried."""

    MULTIPLE_SLICES = "MultipleSlices"
    INVALID_SLICE = "InvalidSlice"
    SIZE_NOT_ALLOWED = "SizeNotAllowed"
    QUOTA_MISMATCH = "QuotaMismatch"
    USER_NAMESPACE_CONFLICT = "UserNamespaceConflict"
    HOST_IPC_REQUIRED = "HostIPCRequired"
    RUN_AS_USER_MISMATCH = "RunAsUserMismatch"
    RUN_AS_NON_ROOT_CONFLICT = "RunAsNonRootConflict"
    PRIVILEGE_ESCALATION = "PrivilegeEscalation"
    UNSUPPORTED_POD = "UnsupportedPod"
    INVALID_SPREAD = "InvalidSpread"
    SLICE_WITH_WHOLE_GPU = "SliceWithWholeGPU"
    RESERVED_ENVIRONMENT = "ReservedEnvironment"
    RESERVED_MOUNT = "ReservedMount"
    SLICE_TOO_LARGE = "SliceTooLarge"


@dataclass(frozen=True, slots=True)
class Place:
    """A container as a message names it."""

    container: str
    path: str

    def __str__(self) -> str:
        return f'container "{shorten(self.container)}" ({self.path})'


@dataclass(frozen=True, slots=True)
class Remark:
    """One sentence about one container; `detail` names the field, its value and the remedy."""

    topic: str
    place: Place
    detail: str

    @property
    def message(self) -> str:
        return f"{self.topic}: {self.place}: {self.detail}"

    @property
    def warning(self) -> str:
        """The message within what the API server passes on; long names are shortened first."""
        if len(self.message) <= LONGEST_WARNING:
            return self.message
        name = shorten(self.place.container, _SHORTENED_NAME)
        text = replace(self, place=replace(self.place, container=name)).message
        return text if len(text) <= LONGEST_WARNING else f"{text[: LONGEST_WARNING - 3]}..."


@dataclass(frozen=True, slots=True)
class Violation(Remark):
    """Why a pod is refused; `topic` is the reason code.

    Two violations are the same when they say the same: that is how an UPDATE is told apart from
    what it leaves as it was.
    """

    reason: Reason


def violation(reason: Reason, place: Place, detail: str) -> Violation:
    """A violation whose sentence starts with the reason code."""
    return Violation(topic=str(reason), place=place, detail=detail, reason=reason)


class Operation(TypedDict):
    """One operation of a JSON patch (RFC 6902); a removal has no value."""

    op: str
    path: str
    value: NotRequired[Any]


class Verdict(NamedTuple):
    """The answer to one review: `message` is "" unless it is refused, `patch` empty unless mutated.

    The message has a line for each violation, and `reason` is the first one's; it is set too when
    the refusal became a warning (enforcement `warn`).
    """

    allowed: bool = True
    reason: Reason | None = None
    message: str = ""
    warnings: tuple[str, ...] = ()
    audit: Mapping[str, str] = EMPTY
    patch: tuple[Operation, ...] = ()


ALLOWED: Final = Verdict()


def shorten(name: str, longest: int = _LONGEST_NAME) -> str:
    """A name as it is, or its two ends when it is longer than anybody reads."""
    if len(name) <= longest:
        return name
    tail = (longest - 3) // 2
    return f"{name[: longest - 3 - tail]}...{name[-tail:]}"
