"""Reading what `-f` names: YAML or JSON, one or many documents, List objects, folders, stdin.

Every object keeps where it stood, so that a complaint about it can name file and line.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from cli.errors import UnusableInput
from cli.reading.mistakes import (
    BYTE_ORDER_MARKS,
    bytes_mistake,
    parser_mistake,
    path_mistake,
    text_mistake,
)

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C is ten times as fast, if built
_ENDINGS: Final = frozenset({".yaml", ".yml", ".json"})
_MOST_VALUES: Final = 50_000_000  # in one file; aliases of YAML can stand for any number
_LARGE: Final = 4_000_000  # characters; finding a line in more takes longer than it helps

FieldPath = Sequence[str | int]


class _Loader(_Base):  # type: ignore[misc]  # the C loader has no types
    """YAML as Kubernetes reads it (sigs.k8s.io/yaml): dates and `12:30` are texts."""


_TAG: Final = "tag:yaml.org,2002:"
_OURS: Final = {f"{_TAG}{name}" for name in ("timestamp", "value", "int", "float")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OURS]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}int",
    re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0o?[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)$", re.ASCII),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        re.ASCII,
    ),
    list("-+0123456789."),
)


@dataclass(frozen=True, slots=True)
class Source:
    """One file's name as given, and its text; `in_folder` for one that was not named itself."""

    name: str
    text: str
    in_folder: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object; `at` is where in the source: the document's number, then keys and indexes."""

    obj: dict[str, Any]
    source: Source
    at: tuple[str | int, ...] = ()

    @property
    def kind(self) -> str:
        return str(self.obj.get("kind"))

    @property
    def group(self) -> str | None:
        """`apps` of `apps/v1`, "" for the core group; None where apiVersion is left out."""
        version = self.obj.get("apiVersion")
        if not isinstance(version, str):
            return None
        return version.rpartition("/")[0]

    @property
    def metadata(self) -> dict[str, Any]:
        """The object's metadata; empty where it is no map."""
        metadata = self.obj.get("metadata")
        return metadata if isinstance(metadata, dict) else {}

    @property
    def name(self) -> str:
        """`Pod team-a/train-0`, for messages."""
        namespace = self.metadata.get("namespace")
        prefix = f"{namespace}/" if namespace else ""
        own = self.metadata.get("name") or self.metadata.get("generateName") or "?"
        return f"{self.kind} {prefix}{own}"

    @property
    def key(self) -> str:
        """`team-a/train-0`, with the namespace that Kubernetes would use."""
        return f"{self.metadata.get('namespace') or 'default'}/{self.metadata['name']}"

    @property
    def is_stored(self) -> bool:
        """Whether the object comes from a cluster, where admission is over; a nodeName does not
        show that."""
        status = self.obj.get("status")
        phase = isinstance(status, dict) and status.get("phase")
        return bool(self.metadata.get("uid") or phase)

    def complaint(self, message: str, field: FieldPath = ()) -> UnusableInput:
        """An error that names file, line and object; the line of `field` where it can be found."""
        return UnusableInput(f"{self.where(field)}: {self.name}: {message}")

    def where(self, field: FieldPath = ()) -> str:
        """`pods.yaml:12`."""
        return _where(self.source, (*self.at, *field))


@dataclass(frozen=True, slots=True)
class Read:
    """All objects in their order, and where folders have documents that are no Kubernetes objects.

    `warnings` say what of a cluster could not be read.
    """

    manifests: tuple[Manifest, ...]
    others: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_manifests(files: Iterable[str]) -> Read:
    """Every object in the files and folders named, in their order; raises UnusableInput."""
    manifests: list[Manifest] = []
    others: list[str] = []
    for source in (source for file in files for source in _sources(file)):
        for number, document in enumerate(_documents(source)):
            if document is None:
                continue
            if source.in_folder and not _has_kind(document):
                # A folder may also hold values of a chart, or patches of a kustomization.
                others.append(_where(source, (number,)))
            else:
                manifests += _objects(document, source, (number,))
    return Read(tuple(manifests), tuple(others))


def read_document(file: str) -> dict[str, Any]:
    """The one map that a YAML or JSON file holds, such as a chart's values; {} for an empty file.

    Raises UnusableInput.
    """
    source = _read(Path(file))
    documents = [document for document in _documents(source) if document is not None]
    if len(documents) > 1 or not all(isinstance(document, dict) for document in documents):
        raise UnusableInput(f"{file}: does not hold one map; name a file such as values.yaml")
    return documents[0] if documents else {}


def _sources(file: str) -> Iterator[Source]:
    if file == "-":
        stdin = getattr(sys.stdin, "buffer", None)
        text = sys.stdin.read() if stdin is None else _decode("<stdin>", stdin.read())
        yield Source("<stdin>", text)
        return
    path = Path(file)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in _ENDINGS and p.is_file())
        if not found:
            raise UnusableInput(f"{file}: no .yaml, .yml or .json file in this folder")
        for each in found:
            yield _read(each, in_folder=True)
    else:
        yield _read(path, name=file)


def _read(path: Path, *, name: str = "", in_folder: bool = False) -> Source:
    try:
        content = path.read_bytes()
    except OSError as error:
        advice = path_mistake(name)
        said = f"{name or path}: cannot be read: {error.strerror}"
        raise UnusableInput(f"{said}; {advice}" if advice else said) from error
    return Source(str(path), _decode(str(path), content), in_folder)


def _decode(name: str, content: bytes) -> str:
    if said := bytes_mistake(content):
        raise UnusableInput(f"{name}: {said}")
    encoding = BYTE_ORDER_MARKS.get(content[:2], "utf-8-sig")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        said = f"is not UTF-8 text (byte {error.start}); save it as UTF-8"
        raise UnusableInput(f"{name}: {said}") from error


def _documents(source: Source) -> Iterable[Any]:
    if source.text.lstrip()[:1] in ("{", "["):
        try:
            return list(_json_documents(source.text))
        except json.JSONDecodeError as error:
            # A YAML document may begin like that too, but not in a file that is called JSON.
            if source.name.endswith(".json"):
                said = text_mistake(source.text, error.lineno) or f"is not JSON: {error.msg}"
                raise UnusableInput(f"{source.name}:{error.lineno}: {said}") from error
        except RecursionError as error:
            raise UnusableInput(f"{source.name}:1: is nested too deeply") from error
    try:
        documents = list(yaml.load_all(source.text, _Loader))
        if "*" in source.text and _expanded(documents, {}) > _MOST_VALUES:
            raise UnusableInput(f"{source.name}:1: has aliases that stand for too much")
        return documents
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = str(error.problem or error.context)
        said = text_mistake(source.text, line) or parser_mistake(problem)
        raise UnusableInput(f"{source.name}:{line}: {said}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = text_mistake(source.text, 1) or parser_mistake(str(error))
        raise UnusableInput(f"{source.name}:1: {said}") from error


def _expanded(value: Any, known: dict[int, int]) -> int:
    """Counts the values once aliases are expanded; a circle counts as more than allowed."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST_VALUES + 1  # what stands in itself is without end
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum([_expanded(each, known) for each in inner])
    return known[id(value)]


def _json_documents(text: str) -> Iterator[Any]:
    """Yields the JSON values of a text that follow each other; the standard decoder reads one."""
    decoder = json.JSONDecoder()
    position = len(text) - len(text.lstrip())
    while position < len(text):
        value, end = decoder.raw_decode(text, position)
        yield value
        position = end + len(text[end:]) - len(text[end:].lstrip())


def _has_kind(document: Any) -> bool:
    return isinstance(document, dict) and isinstance(document.get("kind"), str)


def _objects(document: Any, source: Source, at: tuple[str | int, ...]) -> Iterator[Manifest]:
    if isinstance(document, list):  # as `jq .items` prints it
        for index, item in enumerate(document):
            yield from _objects(item, source, (*at, index))
        return
    if not _has_kind(document):
        why = text_mistake(source.text, 1, document) or "is not a Kubernetes object: it has no kind"
        raise UnusableInput(f"{_where(source, at)}: {why}")
    items = document.get("items")
    if document["kind"].endswith("List") and isinstance(items, list):
        # Items of a typed list such as PodList need not repeat their kind.
        kind = document["kind"].removesuffix("List")
        for index, item in enumerate(items):
            known = item if not isinstance(item, dict) or not kind else {"kind": kind, **item}
            yield from _objects(known, source, (*at, "items", index))
        return
    yield Manifest(document, source, at)


def _where(source: Source, at: FieldPath) -> str:
    if not source.text or len(source.text) > _LARGE:
        return source.name
    return f"{source.name}:{_line_of(source.text, at)}"


def _line_of(text: str, at: FieldPath) -> int:
    """Returns the line of a field, or of the closest enclosing one; reads the text again."""
    try:
        nodes = list(yaml.compose_all(text, _Loader))
        document, *steps = at
        node = nodes[int(document)]
        line: int = node.start_mark.line + 1
        for step in steps:
            key, node = _child(node, step)
            line = key.start_mark.line + 1
    except (yaml.YAMLError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return 1 if not at[1:] else _line_of(text, at[:-1])
    return line


def _child(node: Any, step: str | int) -> tuple[Any, Any]:
    if isinstance(step, int):
        return node.value[step], node.value[step]
    for key, value in node.value:
        if key.value == step:
            return key, value
    raise KeyError(step)
