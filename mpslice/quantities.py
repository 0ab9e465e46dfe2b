"""Kubernetes quantities: exact numbers from `1`, `"1000m"`, `1e0`, `4Gi`.

Grammar: k8s.io/apimachinery/pkg/api/resource/quantity.go. Extended resources reach a mutating
webhook before the API server has made them canonical, so every notation has to be understood.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Final

from mpslice.errors import InvalidQuantity

_QUANTITY = re.compile(
    r"([+-]?)([0-9]+\.?[0-9]*|\.[0-9]+)(?:([eE][+-]?[0-9]{1,3})|([numkMGTPE]|[KMGTPE]i))?", re.ASCII
)
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_MOST: Final = (1 << 63) - 1  # more is taken for this (quantity.go, maxAllowed)
_LONGEST: Final = 64  # longer ones are no honest quantity, and int() of them would cost time


def parse_quantity(value: object) -> Fraction:
    """The exact value of a quantity given as JSON string or number.

    Raises InvalidQuantity for everything else (booleans and null included).
    """
    if isinstance(value, str):
        return _parse(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _parse(repr(value))
    raise InvalidQuantity(f"{value!r:.80} is not a quantity; write a number such as 1, 500m or 4Gi")


@lru_cache(maxsize=8192)
def _parse(text: str) -> Fraction:
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise InvalidQuantity(
            f"{text!r:.80} is not a quantity; write a number such as 1, 500m or 4Gi"
        )
    sign, digits, exponent, suffix = match.groups()
    number = Fraction(digits if digits[-1] != "." else digits[:-1])
    if exponent:
        number *= Fraction(10) ** int(exponent[1:])
    elif suffix in _BINARY:
        number *= 1 << _BINARY[suffix]
    elif suffix:
        number *= Fraction(10) ** _DECIMAL[suffix]
    number = min(number, Fraction(_MOST))
    return -number if sign == "-" else number


@lru_cache(maxsize=8192)
def _ceil(text: str, scale: int) -> int:
    return -(-(_parse(text) * scale) // 1)


def whole(value: object) -> int:
    """The quantity in units, rounded up as `Quantity.Value()` does."""
    return _scaled(value, 1)


def milli(value: object) -> int:
    """The quantity in thousandths, rounded up as `Quantity.MilliValue()` does."""
    return _scaled(value, 1000)


def _scaled(value: object, scale: int) -> int:
    if isinstance(value, str):
        return _ceil(value, scale)
    return -(-(parse_quantity(value) * scale) // 1)
