"""What can be wrong with a review or with the start; each message says what to do."""

from typing import ClassVar

from mpslice.errors import MpsliceError


class Unanswerable(MpsliceError):
    """A request that gets no review as its answer, but a status of HTTP and a message.

    `verdict` is what the metric counts it as.
    """

    status: ClassVar[int]
    verdict: ClassVar[str]


class BadReview(Unanswerable):
    """A body that is no AdmissionReview."""

    status, verdict = 400, "malformed"


class StrangeClient(Unanswerable):
    """A client with a certificate for another name than those that are served."""

    status, verdict = 403, "strange_client"


class BodyTooSlow(Unanswerable):
    """A body that does not arrive."""

    status, verdict = 408, "too_slow"


class BodyTooLarge(Unanswerable):
    """A body with more bytes or values than are read."""

    status, verdict = 413, "too_large"


class TooBusy(Unanswerable):
    """More large bodies at a time than there is memory for; the API server tries again."""

    status, verdict = 429, "too_busy"


class BadStart(MpsliceError):
    """The program cannot start as it was told to; ends it with one line."""
