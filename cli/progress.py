"""Tells on standard error what a slow command is doing."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO

PATIENCE: Final = 2.0
"""Seconds until something is said."""

_STEP: Final = 0.5  # seconds between two drawings on a terminal
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """Tells the current step: repeatedly on one line of a terminal, once per step elsewhere.

    Nothing is said before `patience` seconds, PATIENCE if None. Use it as a context manager.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        patience: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._patience = PATIENCE if patience is None else patience
        self._clock = clock
        self._started = clock()
        self._step = ""
        self._drawn = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._drawn and self._is_terminal:
            self._write(_CLEAR)

    def begin(self, step: str) -> None:
        """Begins a step; `step` follows "is", as in "planning 12 pods"."""
        self._step = step

    @property
    def _is_terminal(self) -> bool:
        return self._stream.isatty()

    def _run(self) -> None:
        self._ended.wait(self._patience)
        while not self._ended.is_set():
            self.draw()
            self._ended.wait(_STEP)

    def draw(self) -> None:
        """Tells the current step, unless it has been told."""
        seconds = int(self._clock() - self._started)
        if self._is_terminal:
            self._drawn = self._step
            self._write(f"{_CLEAR}{self._step} … {seconds} s")
        elif self._step != self._drawn:
            self._drawn = self._step
            self._write(f"{self._step} …\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the reader is gone, or cannot take the text
            self._ended.set()
