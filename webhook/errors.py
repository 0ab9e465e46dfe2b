"""What can be wrong with a review or with the start; each message says what to do."""

from mpslice.errors import MpsliceError


class BadReview(MpsliceError):
    """A body that is no AdmissionReview; answered with 400."""


class BodyTooLarge(MpsliceError):
    """A body above the limit; answered with 413."""


class BodyTooSlow(MpsliceError):
    """A body that does not arrive; answered with 408."""


class BadStart(MpsliceError):
    """The program cannot start as it was told to; ends it with one line."""
