"""What can be wrong with a certificate; each message says what to do."""

from mpslice.errors import MpsliceError


class UnusableCertificate(MpsliceError):
    """A certificate or key that cannot be read, or that do not belong together."""


class BrokenSecret(MpsliceError):
    """The Secret holds something that is no state of ours."""


class ForeignSecret(MpsliceError):
    """The Secret holds what somebody else keeps there; it is never overwritten."""


class NotTrusted(MpsliceError):
    """A handshake with ourselves does not verify against a caBundle."""


class CannotManage(MpsliceError):
    """The cluster does not let us keep the Secret or the configurations."""
