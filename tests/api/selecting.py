"""Label and field selectors as the API server reads them. Pure."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from mpslice.kube.api import Json, Query, Resource
from mpslice.kube.errors import ApiError

Predicate = Callable[[Json], bool]

_EVERYWHERE: Final = frozenset({"metadata.name", "metadata.namespace"})
_FIELDS: Final = {
    "pods": _EVERYWHERE
    | {"spec.nodeName", "spec.schedulerName", "status.phase", "status.nominatedNodeName"},
    "nodes": _EVERYWHERE | {"spec.unschedulable"},
    "events": _EVERYWHERE
    | {f"involvedObject.{name}" for name in ("kind", "namespace", "name", "uid")}
    | {"reason", "type"},
    "secrets": _EVERYWHERE | {"type"},
    "namespaces": _EVERYWHERE | {"status.phase"},
}
"""What a field selector may name; elsewhere an object's name alone."""

_EQUALITY: Final = re.compile(r"([^!=]+)(==|!=|=)(.*)")
_SET: Final = re.compile(r"(\S+)\s+(in|notin)\s+\((.*)\)")
_BETWEEN: Final = re.compile(r",(?![^(]*\))")  # commas outside brackets


def selector(resource: Resource, query: Query) -> Predicate:
    """Whether an object is selected by the query; raises ApiError 400 for what no server takes."""
    terms = [
        *_field_terms(resource, query.get("fieldSelector", "")),
        *_label_terms(query.get("labelSelector", "")),
    ]
    return lambda obj: all(term(obj) for term in terms)


def _field_terms(resource: Resource, text: str) -> Iterator[Predicate]:
    for part in filter(None, text.split(",")):
        match = _EQUALITY.fullmatch(part)
        if match is None or match[1] not in _FIELDS.get(resource.plural, _EVERYWHERE):
            raise ApiError(f"field label not supported: {part}", status=400, reason="BadRequest")
        path, wanted, equal = match[1].split("."), match[3], match[2] != "!="
        yield lambda obj, path=path, wanted=wanted, equal=equal: (  # type: ignore[misc]
            (_field(obj, path) == wanted) is equal
        )


def _field(obj: Json, path: list[str]) -> str:
    value: Any = obj
    for name in path:
        value = (value or {}).get(name)
    return str(value).lower() if isinstance(value, bool) else str(value or "")


def _label_terms(text: str) -> Iterator[Predicate]:
    for part in filter(None, map(str.strip, _BETWEEN.split(text))):
        if match := _SET.fullmatch(part):
            values = frozenset(value.strip() for value in match[3].split(","))
            yield _one_of(match[1], values, inside=match[2] == "in")
        elif match := _EQUALITY.fullmatch(part):
            yield _one_of(match[1], frozenset({match[3]}), inside=match[2] != "!=")
        else:
            name, wanted = part.removeprefix("!"), not part.startswith("!")
            yield lambda obj, name=name, wanted=wanted: (  # type: ignore[misc]
                (name in _labels(obj)) is wanted
            )


def _one_of(name: str, values: frozenset[str], *, inside: bool) -> Predicate:
    """A label that is missing is none of any values, as in labels.Requirement.Matches."""
    return lambda obj: (_labels(obj).get(name) in values) is inside


def _labels(obj: Json) -> Json:
    return obj["metadata"].get("labels") or {}
