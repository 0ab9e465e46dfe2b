"""What a command is doing is told once it takes longer than a person waits gladly."""

import io
import threading

from cli.progress import Progress
from tests.waiting import DEADLINE


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Watched(io.StringIO):
    """Tells when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def test_nothing_is_said_of_what_is_quick() -> None:
    stream = Terminal()
    with Progress(stream, patience=3600.0) as progress:
        progress.begin("reading files")
    assert stream.getvalue() == ""


def test_long_step_is_told_while_it_lasts() -> None:
    stream = Watched()
    with Progress(stream, patience=0.0) as progress:
        progress.begin("planning 5 pods")
        assert stream.written.wait(DEADLINE)
    assert "planning 5 pods …\n" in stream.getvalue()


def test_terminal_shows_seconds_on_one_line_that_is_taken_away() -> None:
    now = [100.0]
    stream = Terminal()
    with Progress(stream, patience=3600.0, clock=lambda: now[0]) as progress:
        progress.begin("planning")
        now[0] = 103.5
        progress.draw()
        progress.draw()
    assert stream.getvalue() == "\r\x1b[Kplanning … 3 s" * 2 + "\r\x1b[K"


def test_log_has_each_step_once() -> None:
    stream = io.StringIO()
    with Progress(stream, patience=3600.0) as progress:
        for step in ("reading", "reading", "planning"):
            progress.begin(step)
            progress.draw()
    assert stream.getvalue() == "reading …\nplanning …\n"


def test_letters_that_cannot_be_written_end_nothing() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Progress(stream, patience=3600.0) as progress:
        progress.begin("reading")
        progress.draw()
