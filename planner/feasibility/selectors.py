"""Whether labels satisfy requirements, as apimachinery's `labels.Requirement.Matches` has it.

Apart because node affinity, pod affinity, spreading and namespaces all select by the same rules.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from planner.model.constraints import FEW, Expression, derived

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_INT64: Final = range(-(1 << 63), 1 << 63)
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)


def all_hold(requirements: tuple[Expression, ...], labels: Mapping[str, str]) -> bool:
    """Whether the labels satisfy every requirement (pkg/labels/selector.go)."""
    if len(requirements) > FEW:
        return derived(requirements, _ByKey).hold(labels)
    return all(holds(requirement, labels) for requirement in requirements)


def holds(requirement: Expression, labels: Mapping[str, str]) -> bool:
    """Whether the labels satisfy it; never where the scheduler could not parse it.

    In and NotIn need values, Exists and DoesNotExist have none, Gt and Lt take one integer
    (`NewRequirement`).
    """
    value, values = labels.get(requirement.key), requirement.values
    match requirement.operator:
        case "In":
            return value in (values if len(values) <= FEW else derived(values, frozenset))
        case "NotIn":
            known = values if len(values) <= FEW else derived(values, frozenset)
            return bool(values) and value not in known
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


@dataclass(slots=True)
class _Rule:
    """All that is required of one label.

    `may_lack`: it need not be there; `may_have`: there are values that it may have.
    """

    may_lack: bool = True
    may_have: bool = True
    among: frozenset[str] | None = None
    barred: frozenset[str] = frozenset()
    above: int | None = None
    below: int | None = None

    def admits(self, value: str | None) -> bool:
        if value is None:
            return self.may_lack
        if not self.may_have or value in self.barred:
            return False
        if self.among is not None and value not in self.among:
            return False
        if self.above is None and self.below is None:
            return True
        number = as_int64(value)
        return (
            number is not None
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


_ABSENT: Final = _Rule(may_have=False)


class _ByKey:
    """Many requirements, put together by key: only those are looked at that a label is there for.

    Says what `holds` says of each.
    """

    __slots__ = ("_needed", "_rules")

    def __init__(self, requirements: tuple[Expression, ...]) -> None:
        alike: dict[str, list[Expression]] = {}
        for requirement in requirements:
            alike.setdefault(requirement.key, []).append(requirement)
        self._rules = {key: _rule(each) for key, each in alike.items()}
        self._needed = sum(not rule.may_lack for rule in self._rules.values())

    def hold(self, labels: Mapping[str, str]) -> bool:
        if len(self._rules) <= len(labels):
            return all(rule.admits(labels.get(key)) for key, rule in self._rules.items())
        found = 0
        for key, value in labels.items():
            rule = self._rules.get(key)
            if rule is not None:
                if not rule.admits(value):
                    return False
                found += not rule.may_lack
        return found == self._needed


def _rule(requirements: list[Expression]) -> _Rule:
    """Of requirements with the same key."""
    first = requirements[0]
    if len(requirements) == 1 and first.operator == "DoesNotExist" and not first.values:
        return _ABSENT
    rule = _Rule()
    barred: set[str] = set()
    for each in requirements:
        rule.may_lack = rule.may_lack and holds(each, {})
        match each.operator:
            case "In":
                among = derived(each.values, frozenset)
                rule.among = among if rule.among is None else rule.among & among
            case "NotIn":
                barred.update(derived(each.values, frozenset))
                rule.may_have = rule.may_have and bool(each.values)
            case "Exists":
                rule.may_have = rule.may_have and not each.values
            case "Gt" | "Lt":
                bound = as_int64(each.values[0]) if len(each.values) == 1 else None
                if bound is None:
                    rule.may_have = False
                elif each.operator == "Gt":
                    rule.above = bound if rule.above is None else max(rule.above, bound)
                else:
                    rule.below = bound if rule.below is None else min(rule.below, bound)
            case _:  # DoesNotExist, and what the scheduler could not parse
                rule.may_have = False
    rule.barred = frozenset(barred)
    return rule


def keys_of(requirements: tuple[Expression, ...]) -> frozenset[str]:
    """The labels that the requirements look at."""
    return frozenset([requirement.key for requirement in requirements])


def are_label_values(values: tuple[str, ...]) -> bool:
    """Whether a label can have each of these values (apimachinery's IsValidLabelValue)."""
    return all(_LABEL_VALUE.fullmatch(value) for value in values)


def as_int64(text: str | None) -> int | None:
    """What Go's `ParseInt(text, 10, 64)` makes of it; None for an error."""
    if text is None or not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if number in _INT64 else None
