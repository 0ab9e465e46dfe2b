"""Calls of the C library whose failure is an OSError."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: object) -> int:
    """What the function returns. Raises OSError by errno when that is negative.

    An int is passed as a C long: in a register of 64 bits a function finds its C int, too.
    """
    wide = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    result: int = getattr(_libc, function)(*wide)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
