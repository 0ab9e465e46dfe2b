"""The CLI's errors: input that cannot be used ends the command with status 2 and this sentence."""

from mpslice.errors import MpsliceError


class UnusableInput(MpsliceError):
    """A manifest that cannot be read or means nothing; names the file and the line or object."""
