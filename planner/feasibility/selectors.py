"""Whether labels satisfy requirements, as apimachinery's `labels.Requirement.Matches` has it.

Apart because node affinity, pod affinity, spreading and namespaces all select by the same rules.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from planner.model.constraints import Expression

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_INT64: Final = range(-(1 << 63), 1 << 63)
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)


def all_hold(requirements: Iterable[Expression], labels: Mapping[str, str]) -> bool:
    """Whether the labels satisfy every requirement (pkg/labels/selector.go)."""
    return all(holds(requirement, labels) for requirement in requirements)


def holds(requirement: Expression, labels: Mapping[str, str]) -> bool:
    """Whether the labels satisfy it; never where the scheduler could not parse it.

    In and NotIn need values, Exists and DoesNotExist have none, Gt and Lt take one integer
    (`NewRequirement`).
    """
    value, values = labels.get(requirement.key), requirement.values
    match requirement.operator:
        case "In":
            return value in values
        case "NotIn":
            return bool(values) and value not in values
        case "Exists":
            return value is not None and not values
        case "DoesNotExist":
            return value is None and not values
        case "Gt" | "Lt":
            bound = as_int64(values[0]) if len(values) == 1 else None
            number = as_int64(value)
            if bound is None or number is None:
                return False
            return number > bound if requirement.operator == "Gt" else number < bound
    return False


def is_label_value(text: str) -> bool:
    """Whether a label can have this value (apimachinery's IsValidLabelValue)."""
    return _LABEL_VALUE.fullmatch(text) is not None


def as_int64(text: str | None) -> int | None:
    """What Go's `ParseInt(text, 10, 64)` makes of it; None for an error."""
    if text is None or not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if number in _INT64 else None
