"""What the two paths answer over HTTP: `/mutate` and `/validate`, never a 500.

Apart from the server, because here is decided what a client gets, there how long it may take.
"""

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from aiohttp import web

from webhook.bodies import Bodies
from webhook.errors import StrangeClient, Unanswerable
from webhook.metrics import Metrics
from webhook.review import Review, answer, judge_mutation, judge_validation, read_review
from webhook.settings import Settings
from webhook.verdicts import Verdict

_RETRY_AFTER: Final = {"Retry-After": "1"}
"""Seconds; client-go, and so the API server, sends the request again after them."""

Judge = Callable[[Review], Verdict]

log = logging.getLogger(__name__)


class Admission:
    """The request handler. `largest` gives the capacity of the largest GPU known, in gb.

    `client_names` are the common names that a client's certificate may have, () for any.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        largest: Callable[[], int | None] = lambda: None,
        *,
        bodies: Bodies | None = None,
        client_names: tuple[str, ...] = (),
    ) -> None:
        self.draining = False
        self._metrics = metrics
        self._bodies = bodies or Bodies()
        self._client_names = client_names
        judges: dict[str, Judge] = {
            "/mutate": partial(judge_mutation, settings=settings),
            "/validate": lambda review: judge_validation(review, settings, largest()),
        }
        self._judged = {path: partial(_judged, judge) for path, judge in judges.items()}

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answers one request; whatever is not a review is told so in a JSON `message`."""
        path = request.path
        judged = self._judged.get(path)
        if judged is None:
            return _error(404, "there is nothing here; post reviews to /mutate or /validate")
        if request.method != "POST":
            return _error(405, f"{path} takes POST only", {"Allow": "POST"})
        started = time.perf_counter()
        endpoint = path[1:]
        try:
            if self._client_names:
                self._check_client(request)
            verdict, body = await self._bodies.judged(request, judged)
        except Unanswerable as error:
            self._metrics.answered(endpoint, error.verdict, "", time.perf_counter() - started)
            headers = _RETRY_AFTER if error.status == 429 else None
            response = _error(error.status, str(error), headers)
            # The rest of a body is of no interest.
            if error.status in (408, 413) or not request.content.is_eof():
                response.force_close()
        else:
            seconds = time.perf_counter() - started
            self._metrics.answered(endpoint, _word(verdict), verdict.reason or "", seconds)
            response = web.Response(body=body, content_type="application/json")
        if self.draining:  # the API server opens its next connection to a replica that stays
            response.force_close()
        return response

    def _check_client(self, request: web.BaseRequest) -> None:
        transport = request.transport
        certificate = (transport.get_extra_info("peercert") if transport else None) or {}
        subject = [pair for part in certificate.get("subject", ()) for pair in part]
        names = [value for key, value in subject if key == "commonName"]
        if not set(names) & set(self._client_names):
            raise StrangeClient(
                f"a client named {', '.join(names) or 'nothing'} is not served; present a "
                f"certificate for {' or '.join(self._client_names)}"
            )


def _judged(judge: Judge, body: bytes) -> tuple[Verdict, bytes]:
    review = read_review(body)
    verdict = judge(review)
    if verdict.reason:
        log.info(
            "warned" if verdict.allowed else "refused",
            extra={"pod": review.name, "reason": verdict.reason, "detail": verdict.message},
        )
    return verdict, answer(review, verdict)


def _word(verdict: Verdict) -> str:
    if not verdict.allowed:
        return "refused"
    if verdict.warnings:
        return "warned"
    return "patched" if verdict.patch else "allowed"


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """A Status of Kubernetes: of it alone the API server tells its user the message."""
    kind = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
    return web.Response(
        body=json.dumps({**kind, "code": status, "message": message}).encode(),
        status=status,
        headers=headers,
        content_type="application/json",
    )
