"""Names the mistake in a text that is not a manifest, and says what to do. Pure.

A parser's own words ("found character that cannot start any token") help nobody; the kinds of
mistakes here are those that people make with kubectl, Helm and shells.
"""

import re
from collections.abc import Callable
from typing import Any, Final

_TABLE: Final = re.compile(r"(?:NAMESPACE +)?(?:NAME|LAST SEEN|CLASS)(?: {2,}| +[A-Z]|\s*$)")
_DESCRIBED: Final = re.compile(r"Name: {2,}\S")
_NAMES: Final = re.compile(r"[a-z]+(?:\.[a-z0-9.-]+)?/[a-z0-9][a-z0-9.-]*\s*$")
_TEMPLATE: Final = re.compile(r"\{\{-?[^{}\n]*\}\}|\{%")
_VARIABLE: Final = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_ROW: Final = re.compile(r"[a-z0-9]\S*( {2,}\S+){2,}\s*$")
_MESSAGE: Final = re.compile(
    r"(Error from server|error:|Error:|ERROR|Unable to connect|The connection|Usage:|.*not found$)"
)
_JSON: Final = re.compile(r"[\[{]\s*[\"{]")
_CONFLICT: Final = re.compile(r"^(<{7}|={7}|>{7})( |$)", re.MULTILINE)
_SMART_QUOTES: Final = re.compile("[\u201c\u201d\u2018\u2019]")
_NO_BREAK: Final = "\u00a0"
_CHART_VALUES: Final = frozenset(
    {"admission", "image", "mps", "nodeAgent", "nodeLabel", "planner", "webhook"}
)
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"PK\x03": "zip", b"BZh": "bzip2", b"(\xb5/": "zstd"}
_START: Final = 1000  # bytes that are looked at

BYTE_ORDER_MARKS: Final = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""How UTF-16 begins, as PowerShell's `>` writes it, and Python's name for it."""


def path_mistake(name: str) -> str:
    """Says what to do about a FILE that cannot be read; "" where the system's error says enough."""
    if re.match(r"https?://", name):
        return f"only files are read: curl -sSL {name} | kubectl mpslice plan -f -"
    if any(mark in name for mark in "*?["):
        return "write the pattern without quotes, so that the shell expands it"
    return ""


def bytes_mistake(content: bytes) -> str:
    """Says what kind of file the bytes are; "" where they may be text."""
    for magic, name in _COMPRESSED.items():
        if content.startswith(magic):
            return f"is compressed ({name}); unpack it first"
    start = content[:_START]
    if b"\0" not in start or start[:2] in BYTE_ORDER_MARKS:
        return ""
    if start.count(b"\0") * 3 > len(start):
        return "is UTF-16 without a byte order mark; save it as UTF-8"
    return "is a binary file; give YAML or JSON"


def text_mistake(text: str, line: int, document: Any = None) -> str:
    """The mistake in a text that cannot be parsed, or whose `document` is no object.

    "" for a mistake that is not known here.

    `line` is where the parser stopped, from 1.
    """
    lines = text.splitlines()
    here = lines[line - 1] if 0 < line <= len(lines) else ""
    for recognise in (_foreign_text, _unrendered):
        if said := recognise(text):
            return said
    if document is not None:
        return _no_object(document)
    for about_line in _LINE_MISTAKES:
        if said := about_line(here):
            return said
    if line > 1 and (said := _tab(lines[line - 2])):
        return said
    return _cut_off(text)


def _foreign_text(text: str) -> str:
    first = text.lstrip()[:400]
    if _MESSAGE.match(first):
        said = first.splitlines()[0][:120]
        return f"is an error message, not a manifest ({said}); repeat the command that wrote it"
    if first.startswith("No resources found"):
        return "says that there are no resources; nothing was written to it"
    if first[:15].lower().startswith(("<!doctype", "<html")):
        return "is an HTML page, perhaps of a login; download the file itself"
    if _TABLE.match(first) or _ROW.match(first.partition("\n")[0]):
        return "is the table that kubectl get prints for people; add -o json to that command"
    if _DESCRIBED.match(first):
        return "is what kubectl describe prints for people; use kubectl get with -o json"
    if _NAMES.match(first.partition("\n")[0]):
        return "is a list of names; write -o json instead of -o name"
    if _CONFLICT.search(text):
        return "holds the marks of a merge conflict (<<<<<<<); resolve it first"
    return ""


def _unrendered(text: str) -> str:
    found = _TEMPLATE.search(text)
    if found is None:
        return ""
    shown = found[0][:60]
    return (
        f"is a template that is not rendered ({shown}); render it first: "
        "helm template CHART | kubectl mpslice plan -f -"
    )


def parser_mistake(problem: str) -> str:
    """Translates a YAML parser's message into plain words; unknown messages are kept."""
    for words, plain in _PARSERS_WORDS:
        if words in problem:
            return plain
    return f"is not YAML: {' '.join(problem.split())}"


_PARSERS_WORDS: Final = (
    ("expected '-' indicator", "is indented unlike the lines above it; make them line up"),
    ("expected key", "is indented unlike the lines above it; make them line up"),
    ("block end", "is indented unlike the lines above it; make them line up"),
    ("mapping values are not allowed", "has a colon too many, or the line above lacks one"),
    ("expected ':'", "lacks a colon after a key"),
    ("expected ',' or", "has a bracket that is not closed, or lacks a comma"),
    ("unexpected end of stream", "has a quote or a bracket that is not closed"),
    ("unknown escape", "has a backslash in double quotes; write single ones"),
    ("undefined alias", "has a word that begins with *; write it in quotes"),
    ("cannot start any token", "has a word that begins with @, ` or %; write it in quotes"),
    ("document start", "has text behind the end of an object; put --- between objects"),
    ("unhashable key", "has braces where a key belongs; write the value in quotes"),
    ("control characters", "has control characters; save it as plain text"),
)
"""Messages of libyaml, and what each means for the author of a manifest."""


def _no_object(document: Any) -> str:
    if isinstance(document, dict) and document.keys() & _CHART_VALUES:
        return (
            "is not a Kubernetes object: it has no kind; a chart's values are given with --values"
        )
    return ""


def _tab(line: str) -> str:
    if re.match(r" *\t", line):
        return "is indented with a tab; YAML is indented with spaces"
    return "has a tab where YAML wants spaces" if "\t" in line else ""


def _quotes(line: str) -> str:
    if _SMART_QUOTES.search(line):
        return "has typographic quotes; write \" or '"
    if _NO_BREAK in line:
        return "has a no-break space; write a plain one"
    return ""


def _variable(line: str) -> str:
    found = _VARIABLE.search(line)
    return f"has a variable that is not replaced ({found[0]}); run envsubst first" if found else ""


def _colon(line: str) -> str:
    if re.match(r"\s*(- )?[\w.-]+:[^\s/:].*$", line) and ": " not in line:
        return "has no space after the colon of a key"
    if re.search(r"[\w.-]:[}\],]", line):
        return "has no value after the colon of a key"
    if line.count(": ") > 1 and "{" not in line:
        return "has two colons; write the value in quotes"
    return ""


def _cut_off(text: str) -> str:
    stripped = text.strip()
    if _JSON.match(stripped) and stripped[-1] not in "}]":
        return "ends in the middle of a JSON object; the output was cut off"
    return ""


_LINE_MISTAKES: Final[tuple[Callable[[str], str], ...]] = (_tab, _quotes, _variable, _colon)
