"""What a review's body may cost the others: bytes, values, and time on the one loop.

A small body, as every usual pod has, is judged at once. Larger ones are bounded in number and in
bytes together, and are judged one at a time with a pause after each, so that reviews with small
bodies are answered between them.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from webhook.errors import BadReview, BodyTooLarge, BodyTooSlow, TooBusy

LONGEST_BODY: Final = 8 * 2**20  # bytes; an object in etcd has at most 1.5 MiB, sent twice
MOST_VALUES: Final = 250_000
"""JSON values in one body, by the commas and brackets in it.

A decoded value takes up to 144 bytes, so a body of 8 MiB could take 300 MiB; with this bound it
takes 36 MiB. A pod of 1.5 MiB has some 150,000 values.
"""

_SMALL: Final = 64 * 2**10  # bytes; decoding them takes 1 to 3 ms
_MOST_BYTES: Final = 4 * LONGEST_BODY
_MOST_LARGE: Final = 32
"""Large bodies at a time. Each keeps a connection that makes no room for another one; if all of
them did (`mpslice.server.Limits`), the API server could not connect."""

_SECONDS: Final = 10.0

T = TypeVar("T")


class Bodies:
    """Reads bodies and has them judged within bounds.

    `seconds` is how long a body may take to arrive, and how long a large one may wait for its turn;
    `most_bytes` is what all large bodies may hold together, `most_large` how many there may be.
    """

    def __init__(
        self,
        seconds: float = _SECONDS,
        most_bytes: int = _MOST_BYTES,
        most_large: int = _MOST_LARGE,
    ) -> None:
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._most_large = most_large
        self._held: dict[object, int] = {}
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    async def judged(self, request: web.BaseRequest, judge: Callable[[bytes], T]) -> T:
        """What `judge` makes of the request's body.

        Raises BodyTooLarge, BodyTooSlow, TooBusy, and BadReview for what is not HTTP.
        """
        content = request.content
        # It nearly always comes at once, and waiting for it costs more than judging it.
        if content.is_eof() and content.total_bytes <= _SMALL:
            return judge(content.read_nowait())
        with self._holding() as hold:
            body = await self._read(request, hold)
            if len(body) <= _SMALL:
                return judge(body)
            return await self._in_turn(body, judge)

    @contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """A function that says how many bytes a body has by now; given back at the end."""
        this = object()

        def hold(size: int) -> None:
            if size <= _SMALL:
                return
            others = [held for body, held in self._held.items() if body is not this]
            if len(others) >= self._most_large or sum(others) + size > self._most_bytes:
                raise TooBusy("too many large bodies are being judged; send it again in a second")
            self._held[this] = size

        try:
            yield hold
        finally:
            self._held.pop(this, None)

    async def _read(self, request: web.BaseRequest, hold: Callable[[int], None]) -> bytes:
        """The whole body, in time; what is announced as too long is not read at all."""
        _check_size(request.content_length or 0)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._seconds):
                while chunk := await request.content.readany():
                    chunks.append(chunk)
                    size += len(chunk)
                    _check_size(size)
                    hold(size)
        except TimeoutError:
            raise BodyTooSlow(
                f"the body did not arrive within {self._seconds:g} s; send it faster"
            ) from None
        except (web.RequestPayloadError, HttpProcessingError) as error:
            raise BadReview(
                "the body ends in what is not HTTP; send whole chunks, or announce its length"
            ) from error
        except ConnectionError as error:  # nobody reads the answer
            raise BadReview("the client went away while it sent the body") from error
        return b"".join(chunks)

    async def _in_turn(self, body: bytes, judge: Callable[[bytes], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise TooBusy(
                f"the body waited {self._seconds:g} s behind other large ones; send it again"
            ) from None
        try:
            await asyncio.sleep(self._free_at - loop.time())
            started = loop.time()
            try:
                _check_values(body)
                return judge(body)
            finally:
                # The others get at least as much of the loop as large bodies do.
                ended = loop.time()
                self._free_at = ended + (ended - started)
        finally:
            self._turn.release()


def _check_size(size: int) -> None:
    if size > LONGEST_BODY:
        raise BodyTooLarge(f"the body is larger than {LONGEST_BODY >> 20} MiB; send less")


def _check_values(body: bytes) -> None:
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > MOST_VALUES:
        raise BodyTooLarge(
            f"the body has some {values:,} JSON values, and {MOST_VALUES:,} at most are read, "
            "more than any pod has; send less"
        )
