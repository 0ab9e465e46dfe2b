"""Lines for people: aligned, inert, never wrapped in a pipe, drawn without flicker on a screen."""

import io

import pytest

from cli.terminal import (
    ASCII,
    Glyphs,
    Line,
    Screen,
    Span,
    Terminal,
    inert,
    line,
    natural,
    table,
    text_of,
)


class Tty(io.StringIO):
    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # what a terminal says of itself
        return self._encoding

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb", "a b"),
        ("a\rb\tc", "a\\rb\\tc"),
        ("\u202eevil", "\\u202eevil"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\x9b31m", "\\x9b31m"),
        ("größe", "größe"),
        (12, "12"),
    ],
)
def test_what_others_wrote_moves_no_cursor_and_hides_nothing(text: object, shown: str) -> None:
    assert inert(text) == shown


def test_columns_are_aligned_and_the_last_ends_where_its_text_does() -> None:
    lines = table(
        [("NAME", "GB", "WHERE"), ("a", "100gb", "n1"), ("long-name", "7gb", "")], right=[1]
    )
    assert text_of(lines).splitlines() == [
        "NAME          GB  WHERE",
        "a          100gb  n1",
        "long-name    7gb",
    ]


def test_names_sort_as_people_count() -> None:
    names = ["n10", "n2", "n1", "a", "n2-b10", "n2-b9", "n٣"]
    assert sorted(names, key=natural) == ["a", "n1", "n2", "n2-b9", "n2-b10", "n10", "n٣"]


def test_pipe_gets_no_colour_no_padding_and_no_wrapping() -> None:
    stream = io.StringIO()
    long = "x" * 600
    Terminal.of(stream, {"TERM": "xterm"}).print([line(Span(long, "bad"), "  ")])
    assert stream.getvalue() == f"{long}\n"


def test_terminal_gets_colours_unless_it_asks_for_none() -> None:
    for environment, wanted in (
        ({"TERM": "xterm"}, "\x1b[31mbad\x1b[0m\n"),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "bad\n"),
        ({"TERM": "dumb"}, "bad\n"),
    ):
        stream = Tty()
        Terminal.of(stream, environment).print([line(Span("bad", "bad"))])
        assert stream.getvalue() == wanted


@pytest.mark.parametrize(
    ("encoding", "environment", "glyphs"),
    [
        ("utf-8", {}, Glyphs()),
        ("utf-8", {"LANG": "C.UTF-8"}, Glyphs()),
        ("utf-8", {"LC_ALL": "C"}, ASCII),
        ("utf-8", {"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, ASCII),
        ("utf-8", {"TERM": "dumb"}, ASCII),
        ("ascii", {}, ASCII),
        ("latin-1", {}, ASCII),
    ],
)
def test_bars_are_ascii_where_blocks_cannot_be_drawn(
    encoding: str, environment: dict[str, str], glyphs: Glyphs
) -> None:
    assert Terminal.of(Tty(encoding), environment).glyphs == glyphs


def test_letters_that_the_encoding_lacks_are_written_as_codes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    Terminal.of(stream, {}).print([line("größe")])
    assert raw.getvalue() == b"gr\\xf6\\xdfe\n"


def drawn(lines: list[Line], monkeypatch: pytest.MonkeyPatch, columns: int, rows: int) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(rows))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Tty()
    with Screen(Terminal.of(stream)) as screen:
        screen.show(lines)
    return stream.getvalue()


def test_screen_draws_over_what_was_there_in_one_write_and_gives_the_terminal_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = drawn([line("one"), line(Span("two", "bad"))], monkeypatch, 80, 24)
    assert shown == (
        "\x1b[?1049h\x1b[?25l"
        "\x1b[?2026h\x1b[Hone\x1b[K\r\n\x1b[31mtwo\x1b[0m\x1b[K\r\n\x1b[J\x1b[?2026l"
        "\x1b[?25h\x1b[?1049l"
    )
    assert "\x1b[2J" not in shown  # which is what flickers


def test_screen_cuts_what_it_has_no_room_for_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line(Span("0123456789", "bad"), "abc") for _ in range(10)]
    shown = drawn(lines, monkeypatch, 12, 5)
    assert shown.count("\x1b[31m0123456789\x1b[0mab\x1b[K") == 3
    assert "\x1b[2m7 more lines" in shown
    assert "0123456789\x1b[0mabc" not in shown
