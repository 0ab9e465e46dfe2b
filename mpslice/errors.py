"""The kernel's errors. Each message is one sentence that names the bad thing and the remedy."""


class MpsliceError(Exception):
    """Base of every error that mpslice raises on purpose; its text is fit for a person."""


class InvalidQuantity(MpsliceError):
    """A string that is no Kubernetes quantity."""


class InvalidDeviceId(MpsliceError):
    """A device id that is not `<GPU UUID>::<N>::<k>`."""


class InvalidNodeLayout(MpsliceError):
    """A NodeLayout object whose spec or status is not as docs/design/nodelayout.md says."""
