"""One word for one thing: the glossary's words are used, and those it has given up are not."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.chart import CHART
from tests.docs.blocks import PAGES
from tests.docs.test_pages import CHECKOUT, page, rows

PACKAGES = ("mpslice", "certs", "webhook", "planner", "nodeagent", "cli")
GLOSSARY = page("glossary.md")
DEFINED, _, GIVEN_UP = GLOSSARY.partition("## Words that are not used")


def terms() -> list[str]:
    """The words that the glossary defines: the line before each definition."""
    lines = re.findall(r"^(.+)\n:   ", DEFINED, re.MULTILINE)
    return [term for line in lines for term in line.split(", ")]


def given_up() -> list[str]:
    """The words of the first column of the last table."""
    return [word for row in rows(GIVEN_UP, 2)[1:] for word in row[0].split(", ")]


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (CHECKOUT / package).rglob("*.py")


def written() -> Iterator[Path]:
    """What people read: pages, and the chart's notes, values and dashboards, and the page."""
    yield from (CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md"))
    yield from (CHECKOUT / "docs").rglob("*.md")
    yield from (CHART / "values.yaml", CHART / "templates" / "NOTES.txt")
    yield from (CHART / "files").rglob("*.*")
    yield CHECKOUT / "planner" / "ui" / "page.html"


def printed(source: str) -> Iterator[str]:
    """The strings of a module that a person may see: all but docstrings and identifiers."""
    tree = ast.parse(source)
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if id(node) not in statements and not node.value.isidentifier():
            yield node.value


def found(word: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(word)}", text, re.IGNORECASE) is not None


@cache
def texts() -> dict[str, str]:
    """All that people read, by file: of a module what it prints."""
    read = {path: path.read_text() for path in written()}
    read[PAGES / "glossary.md"] = DEFINED
    read |= {path: "\n".join(printed(path.read_text())) for path in modules()}
    return {str(path.relative_to(CHECKOUT)): text for path, text in read.items()}


@pytest.mark.parametrize("term", terms())
def test_word_of_the_glossary_is_used_elsewhere(term: str) -> None:
    elsewhere = [text for name, text in texts().items() if name != "docs/glossary.md"]
    forms = re.escape(term).replace(r"hand\ ", r"hand(s|ed|ing)?\b.{0,30}?\b")
    assert any(re.search(rf"\b{forms}", text, re.IGNORECASE) for text in elsewhere)


@pytest.mark.parametrize("word", given_up())
def test_word_that_was_given_up_is_nowhere(word: str) -> None:
    """KAI schedules gangs by its own word, so the comparison may name it."""
    allowed = {("docs/comparison.md", "gang")}
    there = [name for name, text in texts().items() if found(word, text)]
    assert [name for name in there if (name, word) not in allowed] == []


def test_a_word_that_was_given_up_would_be_found_in_a_message_but_not_in_a_docstring() -> None:
    source = (
        '"""A vacant docstring."""\nvacant = "vacant"\n' + 'raise ValueError(f"GPU {0} is vacant")'
    )
    assert [text for text in printed(source) if found("vacant", text)] == [" is vacant"]
