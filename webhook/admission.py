"""What the two paths answer over HTTP: `/mutate` and `/validate`, never a 500.

Apart from the listener, because here is decided what a client gets, there who is a client.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mpslice.errors import MpsliceError
from webhook.errors import BadReview, BodyTooLarge, BodyTooSlow
from webhook.metrics import Metrics
from webhook.review import Review, answer, judge_mutation, judge_validation, read_review
from webhook.settings import Settings
from webhook.verdicts import Verdict

LONGEST_BODY: Final = 8 * 1024 * 1024  # bytes; an object in etcd has at most 1.5 MiB, sent twice

_TOO_LARGE: Final = f"the body is larger than {LONGEST_BODY >> 20} MiB; send less"

Judge = Callable[[Review], Verdict]

log = logging.getLogger(__name__)


class Admission:
    """The request handler. `largest` gives the capacity of the largest GPU known, in gb."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        largest: Callable[[], int | None] = lambda: None,
        *,
        body_seconds: float = 10.0,
    ) -> None:
        self.draining = False
        self._metrics = metrics
        self._body_seconds = body_seconds
        self._judges: dict[str, Judge] = {
            "/mutate": partial(judge_mutation, settings=settings),
            "/validate": lambda review: judge_validation(review, settings, largest()),
        }

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answers one request; 404, 405, 408, 400 and 413 say why in a JSON `message`."""
        judge = self._judges.get(request.path)
        if judge is None:
            return _error(404, "there is nothing here; post reviews to /mutate or /validate")
        if request.method != "POST":
            return _error(405, f"{request.path} takes POST only", {"Allow": "POST"})
        started = time.perf_counter()
        content = request.content
        try:
            # It nearly always comes at once, and waiting for it costs more than judging it.
            body = content.read_nowait() if content.is_eof() else await self._body(request)
            response = self._answer(judge, body, started)
        except BodyTooLarge as error:
            response = self._rejected(413, "too_large", error, started)
        except BodyTooSlow as error:
            response = self._rejected(408, "too_slow", error, started)
        except BadReview as error:
            response = self._rejected(400, "malformed", error, started)
        if response.status in (408, 413) or not content.is_eof():
            response.force_close()  # the rest of the body is of no interest
        if self.draining:
            # The API server then opens its next connection to a replica that stays.
            response.force_close()
        return response

    def _answer(self, judge: Judge, body: bytes, started: float) -> web.Response:
        review = read_review(body)
        verdict = judge(review)
        response = web.Response(body=answer(review, verdict), content_type="application/json")
        reason = verdict.reason or ""
        self._metrics.answered(_word(verdict), reason, time.perf_counter() - started)
        if reason:
            log.info(
                "warned" if verdict.allowed else "refused",
                extra={"pod": review.name, "reason": reason, "detail": verdict.message},
            )
        return response

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The whole body, in time; what is announced as too long is not read at all."""
        if (request.content_length or 0) > LONGEST_BODY:
            raise BodyTooLarge(_TOO_LARGE)
        try:
            async with asyncio.timeout(self._body_seconds):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise BodyTooLarge(_TOO_LARGE) from None
        except TimeoutError:
            raise BodyTooSlow(
                f"the body did not arrive within {self._body_seconds:g} s; send it faster"
            ) from None
        except (web.RequestPayloadError, HttpProcessingError) as error:
            raise BadReview(
                "the body ends in what is no HTTP; send whole chunks, or announce its length"
            ) from error
        except ConnectionError as error:  # nobody reads the answer
            raise BadReview("the client went away while it sent the body") from error

    def _rejected(
        self, status: int, verdict: str, error: MpsliceError, started: float
    ) -> web.Response:
        self._metrics.answered(verdict, "", time.perf_counter() - started)
        return _error(status, str(error))


def _word(verdict: Verdict) -> str:
    if not verdict.allowed:
        return "refused"
    if verdict.warnings:
        return "warned"
    return "patched" if verdict.patch else "allowed"


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=json.dumps({"message": message}).encode(),
        status=status,
        headers=headers,
        content_type="application/json",
    )
