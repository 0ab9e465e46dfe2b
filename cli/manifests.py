"""Reading what `-f` names: YAML or JSON, one or many documents, List objects, folders, stdin.

Every object keeps where it stood, so that a complaint about it can name file and line.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from cli.errors import UnusableInput

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C is ten times as fast, if built
_ENDINGS: Final = frozenset({".yaml", ".yml", ".json"})
_LARGE: Final = 4_000_000  # characters; finding a line in more takes longer than it helps

FieldPath = Sequence[str | int]


@dataclass(frozen=True, slots=True)
class Source:
    """One file's name as given, and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object; `at` is where in the source: the document's number, then keys and indexes."""

    obj: dict[str, Any]
    source: Source
    at: tuple[str | int, ...]

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
    def name(self) -> str:
        """`Pod team-a/train-0`, for messages."""
        metadata = self.obj.get("metadata") or {}
        namespace = metadata.get("namespace")
        prefix = f"{namespace}/" if namespace else ""
        return f"{self.kind} {prefix}{metadata.get('name', '?')}"

    @property
    def key(self) -> str:
        """`team-a/train-0`, with the namespace that Kubernetes would use."""
        metadata = self.obj["metadata"]
        return f"{metadata.get('namespace') or 'default'}/{metadata['name']}"

    def complaint(self, message: str, field: FieldPath = ()) -> UnusableInput:
        """An error that names file, line and object; the line of `field` where it can be found."""
        where = _where(self.source, (*self.at, *field))
        return UnusableInput(f"{where}: {self.name}: {message}")


def read_manifests(files: Iterable[str]) -> list[Manifest]:
    """Every object in the files and folders named, in their order; raises UnusableInput."""
    return [
        manifest for file in files for source in _sources(file) for manifest in _manifests(source)
    ]


def _sources(file: str) -> Iterator[Source]:
    if file == "-":
        yield Source("<stdin>", sys.stdin.read())
        return
    path = Path(file)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in _ENDINGS and p.is_file())
        if not found:
            raise UnusableInput(f"{file}: no .yaml, .yml or .json file in this folder")
        for each in found:
            yield _read(each)
    else:
        yield _read(path)


def _read(path: Path) -> Source:
    try:
        return Source(str(path), path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnusableInput(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnusableInput(f"{path}: is no UTF-8 text (byte {error.start})") from error


def _manifests(source: Source) -> Iterator[Manifest]:
    for number, document in enumerate(_documents(source)):
        if document is not None:
            yield from _objects(document, source, (number,))


def _documents(source: Source) -> Iterable[Any]:
    if source.text.lstrip()[:1] == "{":
        try:
            return list(_json_documents(source.text))
        except json.JSONDecodeError as error:
            # A YAML document may begin like that too, but not in a file that is called JSON.
            if source.name.endswith(".json"):
                message = f"{source.name}:{error.lineno}: is no JSON: {error.msg}"
                raise UnusableInput(message) from error
        except RecursionError as error:
            raise UnusableInput(f"{source.name}:1: is nested too deeply") from error
    try:
        return list(yaml.load_all(source.text, _Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or error.context
        raise UnusableInput(f"{source.name}:{line}: is no YAML: {problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UnusableInput(f"{source.name}:1: is no YAML: {error}") from error


def _json_documents(text: str) -> Iterator[Any]:
    """The JSON values of a text, one behind the other; the standard decoder reads one."""
    decoder = json.JSONDecoder()
    position = len(text) - len(text.lstrip())
    while position < len(text):
        value, end = decoder.raw_decode(text, position)
        yield value
        position = end + len(text[end:]) - len(text[end:].lstrip())


def _objects(document: Any, source: Source, at: tuple[str | int, ...]) -> Iterator[Manifest]:
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise UnusableInput(f"{_where(source, at)}: is no Kubernetes object: it has no kind")
    items = document.get("items")
    if document["kind"].endswith("List") and isinstance(items, list):
        # Items of a typed list such as PodList need not repeat their kind.
        kind = document["kind"].removesuffix("List")
        for index, item in enumerate(items):
            known = item if not isinstance(item, dict) or not kind else {"kind": kind, **item}
            yield from _objects(known, source, (*at, "items", index))
        return
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        raise UnusableInput(f"{_where(source, at)}: this {document['kind']} has no metadata.name")
    yield Manifest(document, source, at)


def _where(source: Source, at: FieldPath) -> str:
    if len(source.text) > _LARGE:
        return source.name
    return f"{source.name}:{_line_of(source.text, at)}"


def _line_of(text: str, at: FieldPath) -> int:
    """The line where a field stands, or the closest enclosing one; reads the text once more."""
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
